"""`paris_smoother`: smoothed sums of a model with known parameters, for series of any length.

    E[sum_t h(x_{t-1}, x_t, t) | y, theta]    by PaRIS as a stream (`kernels/smc/online.py`)     (1)

One loop over the times in one program: N particles are held, and of the series nothing but the data.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key, PyTree
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from ...kernels.smc import online_paris
from ...kernels.smc.paris import Paris
from ...kernels.smc.types import check_count
from .capture import OuterModel, latent_sites
from .functionals import Term, check_functionals, functional_of
from .observations import check_observed
from .path_model import PathModel, SiteValues
from .structure import find_path_model


class PaRISResult(NamedTuple):
    """What the smoother saw.

    Attributes:
        estimates: E[sum_t h_t | y] of each functional, by its name.
        log_evidence: log Zhat, E[Zhat] = p(y | params); -inf if some time had no possible particle.
        min_ess: smallest 1 / sum W^2 over time, in [1, N].
        num_nonfinite: weights that were NaN or +inf, plus times without a possible particle.
    """

    estimates: dict[str, PyTree[Array]]
    log_evidence: Float[Array, ""]
    min_ess: Float[Array, ""]
    num_nonfinite: Int[Array, ""]


def paris_smoother(
    key: Key[Array, ""],
    model: Callable[..., Any],
    params: Mapping[str, Any],
    functionals: Mapping[str, Term],
    *args: Any,
    num_particles: int = 1000,
    paris: Paris = "imh",
    num_backward: int = 2,
    **kwargs: Any,
) -> PaRISResult:
    """Smoothed sums over the path of a model whose parameters are known, equation (1), in O(N) memory.

    Olsson and Westerborn (2017). A second call with the same model, functionals, N and shapes compiles
    nothing: arrays are arguments of the program, other model arguments are constants of it.

    Args:
        key: of everything drawn here.
        model: a NumPyro model with one `scan` or one `StateSpace` site, of Markov order 1.
        params: one value for each latent site that is no part of the path, and for each
            `numpyro.param` site.
        functionals: name -> `h(previous, current, t) -> array`, dictionaries of path sites at one time
            (`lag_product`, `moment`).
        args: of the model.
        num_particles: N >= 2; bias and variance of the estimates fall as 1 / N. Judge it by a second
            key.
        paris: "imh", O(N M) a time; "dense", the average over all pairs, O(N^2); "auto", the faster.
        num_backward: M, of "imh"; 2 is enough.
        kwargs: of the model.

    Raises:
        ValueError: for no functional, a parameter that is missing, unknown or of another shape, an N
            below 2, a model without a path of Markov order 1, or data that are no numbers.

    Examples:
        >>> from emberwalk.infer import lag_product, paris_smoother
        >>> from emberwalk.models import linear_gaussian
        >>> result = paris_smoother(
        ...     random.key(0), linear_gaussian, {"phi": 0.9, "sx": 1.0}, {"xx": lag_product("x")},
        ...     jnp.array([1.5, -0.5, 2.0]), num_particles=100)
        >>> result.estimates["xx"].shape
        ()
    """
    import equinox as eqx

    check_count("num_particles", num_particles, 2)
    functionals = check_functionals(functionals)
    if not functionals:
        raise ValueError(
            'functionals must name at least one sum to smooth, such as {"xx": lag_product("x")}, got none.'
        )
    if not isinstance(params, Mapping):
        raise ValueError(
            f'params must be a dictionary, such as {{"phi": 0.9}}, got {type(params).__name__}; {{}} for none.'
        )
    outer = OuterModel(model, args, kwargs)
    given = {name: jnp.asarray(value) for name, value in params.items()}
    result = eqx.filter_jit(_smooth)(key, outer, given, functionals, num_particles, paris, num_backward)
    if not isinstance(result.num_nonfinite, jax.core.Tracer) and result.num_nonfinite > 0:
        check_observed(*_at(outer, given))
        warnings.warn(
            f"{int(result.num_nonfinite)} weights were NaN or infinite, or times without a possible particle (a time "
            "counts 1): the estimates mean little, and nothing where log_evidence is -inf. Raise num_particles, or "
            "look for data that params cannot have made.",
            stacklevel=2,
        )
    return result


def _smooth(key, outer, given, functionals, num_particles, paris, num_backward) -> PaRISResult:
    outer, path = _at(outer, given)
    ssm = path.ssm(outer)
    smoother = online_paris(
        ssm, functional_of(functionals, path, ssm), num_particles, paris=paris, num_backward=num_backward
    )

    def step(state, _):
        # no array of times or keys: the loop holds nothing of size T
        return smoother.step(random.fold_in(key, state.t + 1), state)[0], None

    state, _ = lax.scan(step, smoother.init(random.fold_in(key, 0)), None, length=ssm.length)
    return PaRISResult(smoother.estimate(state), state.log_evidence, state.min_ess, state.num_nonfinite)


def _at(outer: OuterModel, given: SiteValues) -> tuple[OuterModel, PathModel]:
    """The model at its parameters, and its path; refuses parameters that are not the model's, or left out."""
    sites = _outer_sites(outer)
    unknown = [name for name in given if name not in sites]
    if unknown:
        raise ValueError(
            f"params={unknown} are no parameters of the model; its latent and param sites are {list(sites)}."
        )
    for name, value in given.items():
        if value.shape != sites[name].shape:
            raise ValueError(
                f"params[{name!r}] has shape {value.shape}, but the site has {sites[name].shape}: give one value, not "
                "several draws."
            )
    learned = {name: value for name, value in given.items() if sites[name].type == "param"}
    drawn = {name: value for name, value in given.items() if name not in learned}
    model = handlers.substitute(handlers.condition(outer.model, data=drawn), data=learned)
    outer = outer._replace(model=model)
    path = find_path_model(outer)
    missing = [name for name in sites if name not in given and name not in path.sites]
    if missing:
        raise ValueError(
            f"params must give every parameter, but {missing} are left out; the path is {list(path.sites)}."
        )
    return outer, path


class _Site(NamedTuple):
    type: str
    shape: tuple[int, ...]


def _outer_sites(outer: OuterModel) -> dict[str, _Site]:
    """Latent and `param` sites outside a scan."""
    found: dict[str, _Site] = {}

    def look():
        sites = outer.run(init_to_sample).sites
        learned = {name: site for name, site in sites.items() if site["type"] == "param"}
        for name, site in {**latent_sites(sites), **learned}.items():
            found[name] = _Site(site["type"], jnp.shape(site["value"]))

    jax.eval_shape(look)
    return found
