"""Zero-mean statistics of a posterior, and averages with their part taken out.

    continuous sites   s = -grad U(z),  E s = 0                                                          (1)
    order 2            z_k s_l + z_l s_k + 2 [k = l]                                                     (2)
    discrete sites     s_iv = 1{x_i = v} - p(x_i = v | rest),  v = 1, ..., K_i - 1                       (3)
    estimate           the intercept of the least-squares fit of f on (1, s), chain by chain             (4)

z are unconstrained values. (1) and (2) are the control variates of Assaraf and Caffarel (1999) and Mira, Solgi and
Imparato (2013); (3) has mean 0 given the rest. They need the draws and the model alone, and so work after NUTS, HMC and
`Gibbs`. A walk repelled by the running mean of the same statistics gains less on every case measured.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float
from numpy.typing import ArrayLike
from numpyro import handlers
from numpyro.infer.util import log_density, unconstrain_fn

from ..blocks import check_begun
from .discrete_sites import read_supports
from .estimators import Average, average_of

_AT_ONCE = 256  # draws whose columns are computed together

type Values = dict[str, Array]


def score_control_variate(mcmc: Any, f: Callable[[Values], Any], *, order: int = 1) -> Average:
    """The posterior mean of f from a run of any NumPyro kernel with a model, equations (1) to (4).

    Take it where the errors of plain averages are too large and the draws are already there: the gain is greatest
    for posteriors near a Gaussian, whose means become exact, and nothing where f has no linear part.

    Args:
        mcmc: an `MCMC` after its run.
        f: samples of all sites, with a leading axis of draws -> array with that axis.
        order: 1, or 2 with (2) for second moments: d (d + 3) / 2 columns for d elements.

    Raises:
        TypeError: for a kernel without a model.
        ValueError: another order; sites that were summed out; columns + 2 above the draws of a chain; f of another
            length.

    Examples:
        >>> from emberwalk.infer import score_control_variate
        >>> def model():
        ...     numpyro.sample("m", dist.Normal(3.0, 2.0))
        >>> options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
        >>> mcmc = MCMC(NUTS(model), num_warmup=50, num_samples=50, **options)
        >>> mcmc.run(random.key(0))
        >>> bool(abs(score_control_variate(mcmc, lambda draws: draws["m"]).mean - 3) < 1e-4)
        True
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}.")
    model = getattr(getattr(mcmc, "sampler", None), "model", None)
    if model is None:
        found = type(getattr(mcmc, "sampler", mcmc)).__name__
        raise TypeError(f"score_control_variate needs the MCMC of a kernel with a model, got {found}.")
    check_begun(mcmc)
    samples = mcmc.get_samples(group_by_chain=True)
    _check_drawn(model, mcmc, samples)
    columns_of = jax.jit(_columns(model, mcmc._args, mcmc._kwargs, order))
    per_chain = []
    for chain in range(len(next(iter(samples.values())))):
        draws = {name: values[chain] for name, values in samples.items()}
        per_chain.append(control_variate(_values(f, draws), columns_of(draws)))
    num = len(next(iter(draws.values())))
    return average_of(np.array(per_chain), np.full(len(per_chain), np.nan), np.full(len(per_chain), num))


def control_variate(values: ArrayLike, columns: ArrayLike) -> Float[np.ndarray, "*f"]:
    """Equation (4) for the draws of one chain.

    Args:
        values: f of the draws, `[n, ...]`.
        columns: zero-mean statistics of the same draws, `[n, k]`.

    Raises:
        ValueError: more columns than n - 2.

    Examples:
        >>> from emberwalk.infer import control_variate
        >>> s = np.array([-1.0, 0.5, 2.0, 0.1])
        >>> round(float(control_variate(3 + 2 * s, s[:, None])), 6)
        3.0
    """
    values, columns = np.asarray(values, np.float64), np.asarray(columns, np.float64)
    num, k = columns.shape
    if k + 2 > num:
        raise ValueError(
            f"{k} control variates need at least {k + 2} draws a chain, got {num}. Draw more, or take fewer of them: "
            "order=1 has one an element."
        )
    design = np.column_stack([np.ones(num), columns])
    fitted = np.linalg.lstsq(design, values.reshape(num, -1), rcond=None)[0]
    return fitted[0].reshape(values.shape[1:])


def discrete_residual(
    log_density: Callable[[Values], Float[Array, ""]], values: Values, supports: Mapping[str, ArrayLike]
) -> Float[Array, " k"]:
    """Equation (3) at one draw.

    Args:
        log_density: values of all sites -> log of their joint density.
        values: of all sites.
        supports: values of each discrete site, in order.

    Examples:
        >>> from emberwalk.infer import discrete_residual
        >>> log_p = jnp.log(jnp.array([0.2, 0.8]))
        >>> residual = discrete_residual(lambda v: log_p[v["k"]], {"k": jnp.array(1)}, {"k": [0, 1]})
        >>> residual.round(3).tolist()
        [0.20000000298023224]
    """
    found = []
    for name, support in supports.items():
        support, site = jnp.asarray(support), values[name]
        flat = jnp.ravel(site)

        def probabilities(element, name=name, support=support, site=site, flat=flat):
            def at(value):
                return log_density({**values, name: flat.at[element].set(value).reshape(site.shape)})

            return jax.nn.softmax(jax.vmap(at)(support.astype(site.dtype)))

        p = jax.vmap(probabilities)(jnp.arange(flat.size))
        is_value = flat[:, None] == support[None, :]
        found.append((is_value - p)[:, 1:].ravel())
    return jnp.concatenate(found)


def _check_drawn(model: Callable, mcmc: Any, samples: Values) -> None:
    supports, continuous = read_supports(model, mcmc._args, mcmc._kwargs)
    missing = [name for name in (*supports, *continuous) if name not in samples]
    if missing:
        raise ValueError(
            f"score_control_variate: there are no draws of {missing}, which were summed out "
            '(infer={"enumerate": "parallel"}). Its columns are those of the joint density: sample these sites, with '
            "a block of Gibbs for instance, or use plain averages."
        )


def _columns(model: Callable, args: tuple, kwargs: dict[str, Any], order: int) -> Callable[[Values], Array]:
    """draws with a leading axis -> their columns."""
    supports, continuous = read_supports(model, args, kwargs)
    seeded = handlers.seed(model, random.key(0))

    def joint(values: Values) -> Float[Array, ""]:
        return log_density(seeded, args, kwargs, values)[0]

    def of_one(draw: Values) -> Array:
        draw = {name: draw[name] for name in (*supports, *continuous)}
        found = [discrete_residual(joint, draw, supports)] if supports else []
        if continuous:
            z, s = _scores(seeded, args, kwargs, draw, continuous)
            found.append(s)
            if order == 2:
                k, j = np.triu_indices(z.shape[0])
                found.append(z[k] * s[j] + z[j] * s[k] + 2.0 * (k == j))
        return jnp.concatenate(found)

    return lambda draws: lax.map(of_one, {n: draws[n] for n in (*supports, *continuous)}, batch_size=_AT_ONCE)


def _scores(model: Callable, args: tuple, kwargs: dict[str, Any], draw: Values, continuous: tuple[str, ...]):
    """Unconstrained values and equation (1), the discrete sites held."""
    from numpyro.infer.util import potential_energy

    held = handlers.condition(model, {name: v for name, v in draw.items() if name not in continuous})
    z = unconstrain_fn(held, args, kwargs, {name: draw[name] for name in continuous})
    flat, back = jax.flatten_util.ravel_pytree(z)
    return flat, -jax.grad(lambda flat: potential_energy(held, args, kwargs, back(flat)))(flat)


def _values(f: Callable[[Values], Any], draws: Values) -> np.ndarray:
    values = np.asarray(f(draws), np.float64)
    num = len(next(iter(draws.values())))
    if values.shape[:1] != (num,):
        raise ValueError(f"f must return an array with one entry a draw, {num}, got shape {values.shape}.")
    return values
