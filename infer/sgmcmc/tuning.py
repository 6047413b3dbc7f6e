"""`suggest_step_size`: how far a step may go, by the curvature and the noise at one point.

    lam   = largest |eigenvalue| of A^(1/2) (Hess U_T) A^(1/2),   A = 1 / M, G or 1                  (1)
    h lam = s    (overdamped),     h^2 lam = s    (underdamped)                                      (2)
    r(h)  = mean f(h) V / T  <=  noise_ratio      for each site, f the algorithm's noise factor      (3)

and h is the smaller one of (2) and (3). (1) by power iteration on rows of more than a batch: the norm of H v for a
unit vector v, which is never above lam, and after 20 products 2 to 6 % below it on flat spectra of 50 to 2000 values
(tried: uniform, Marchenko-Pastur). The shares s are those whose exact law (`kernels/sgmcmc/theory.py`) is near
the target in the stiffest direction, where the error of a step is largest:

    sgld, psgld             s = 1/10    variance 1 / (1 - s / 2):  5 % too wide
    leimkuhler_matthews     s = 1/4     exact, an eighth of what is stable
    sghmc                   s = 1/16    variance about 1 / (1 - s / 4):  1.6 % too wide
    baoab, sgnht            s = 1/16    exact, a quarter of the largest stable h

What lies between them and the edge of stability (2 and 4) is for what (1) does not see: a density that is no
Gaussian, other rows, and an iteration that has not converged.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Key
from numpyro.infer import init_to_uniform
from numpyro.infer.gibbs import prototype_trace

from ...kernels.sgmcmc import epoch_indices, gradient_variance
from ...kernels.sgmcmc import noise_ratio as ratio_of_noise
from ...kernels.sgmcmc.base import SGAlgorithm, SGState, normal_like
from ...kernels.sgmcmc.psgld import Psgld
from ...kernels.sgmcmc.sghmc import Sghmc
from ...kernels.sgmcmc.sgld import Sgld
from .bound import BoundModel, bind
from .minibatch import Rows
from .noise import probe
from .read_model import check_center
from .report import plain
from .rows import batches_of
from .target import Values
from .tempering import class_weights

_ITERATIONS, _GRADIENTS, _BATCHES_OF_CURVATURE = 20, 32, 4
# Of symplectic Euler, whose friction takes 1 - b = friction h of the momentum at each step, at most so much.
_LOST = 0.5
# brentq looks for log h from here, below the step of (2).
_LOG_RANGE = 40.0


class StepAdvice(NamedTuple):
    """What `suggest_step_size` found.

    Attributes:
        step_size: h for the algorithm.
        lambda_max: equation (1): of Hess U_T in the metric of the algorithm.
        noise: V, the variance of a gradient, a mean over the elements of the site with the largest ratio (3).
        limit: which of the two rules is the smaller one, "stability" or "noise".
    """

    step_size: float
    lambda_max: float
    noise: float
    limit: Literal["stability", "noise"]


def suggest_step_size(
    model: Callable[..., Any],
    algorithm: SGAlgorithm,
    rng_key: Key[Array, ""],
    *args: Any,
    params: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
    noise_ratio: float = 0.05,
    **kwargs: Any,
) -> StepAdvice:
    """A step size at which the scheme is stable and the noise of minibatches is small, equations (1) to (3).

    It costs 20 Hessian-vector products on 4b rows and 32 gradients of a batch, and sees one point: look at
    `temperature_table` after a run. Plain minibatches are meant; control variates have less noise, and take the step
    of stability (`noise_ratio=numpy.inf`).

    Args:
        model: the NumPyro model, as for `SGMCMC`, with its arrays in memory.
        algorithm: whose step is asked for, such as `baoab(1.0, friction=50.0)`; its own step size counts for
            nothing, its friction and mass do. Of `cyclical` the largest step of a cycle.
        rng_key: of rows, vectors, and the start where there are no `params`.
        args: of the model, as `kwargs` are.
        params: constrained value of every latent site, near where chains will be: a mode, a member of
            `DeepEnsemble`. None: where NumPyro would start, where curvature can be another.
        temperature: T of the run, the lowest of a schedule: the noise ratio grows as 1 / T. What is tempered is the
            "posterior"; below T = 1 the advice is safe for "likelihood" too, whose prior bends less.
        noise_ratio: r that is allowed; its share of the spread is r / (1 + r).
        kwargs: of the model.

    Returns:
        A `StepAdvice`.

    Raises:
        TypeError: if the algorithm is none of ours.
        ValueError: for a temperature or ratio that is not positive, `params` that lack a site or lie outside
            of its support, a model that `SGMCMC` cannot sample, and a curvature that is 0 or not finite.

    Examples:
        >>> from emberwalk.infer import suggest_step_size
        >>> from emberwalk.kernels.sgmcmc import leimkuhler_matthews
        >>> def model(y, b=100):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", len(y), subsample_size=b):
        ...         numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, event_dim=0))
        >>> y, start = random.normal(random.key(0), (999,)), {"m": 0.0}
        >>> advice = suggest_step_size(model, leimkuhler_matthews(1.0), random.key(1), y, params=start)
        >>> round(advice.lambda_max), advice.limit  # 999 + 1
        (1000, 'noise')
        >>> exact = suggest_step_size(model, leimkuhler_matthews(1.0), random.key(1), y, params=start, b=None)
        >>> f"{exact.step_size:.6f}", exact.noise, exact.limit
        ('0.000250', 0.0, 'stability')
    """
    _check_arguments(algorithm, temperature, noise_ratio)
    algorithm = plain(algorithm)
    if params is not None:
        check_center(params, prototype_trace(model, random.key(0), args, kwargs), argument="params")
        params = {name: jnp.asarray(value, jnp.result_type(float)) for name, value in params.items()}
    measure = jax.jit(partial(measured, bind(model, args, kwargs), algorithm))
    seen = measure(rng_key, params, temperature)
    if not 0 < seen.curvature < float("inf"):
        raise ValueError(
            f"The curvature of U is {float(seen.curvature):.3g} at params: without one there is no scale of a step. "
            "Give params where the density is finite and bends."
        )
    stable = stable_step(algorithm, float(seen.curvature))
    worst, ratio = _noisiest(algorithm, seen, temperature, stable)
    limit: Literal["stability", "noise"] = "stability" if ratio <= noise_ratio else "noise"
    h = stable if limit == "stability" else _quiet_step(algorithm, seen, temperature, noise_ratio, stable)
    return StepAdvice(h, float(seen.curvature), float(np.mean(seen.variance[worst])), limit)


class Measured(NamedTuple):
    """What is seen at one point.

    Attributes:
        curvature: lam of equation (1).
        variance: V of each element.
        state: of the algorithm, its mass or preconditioner adapted to the gradients.
    """

    curvature: Float[Array, ""]
    variance: Values
    state: SGState


def measured(
    bound: BoundModel,
    algorithm: SGAlgorithm,
    rng_key: Key[Array, ""],
    params: Values | None,
    temperature: Float[Array, ""],
) -> Measured:
    """Noise first, because the mass that follows from the gradients is the metric of the curvature."""
    key_start, key_batches, key_state, key_rows, key_vector = random.split(rng_key, 5)
    z = bound.first_value(key_start, init_to_uniform) if params is None else bound.unconstrained(params)
    rows, weights = bound.target.rows, class_weights("posterior", temperature)

    def gradient(batch: Any, z: Values = z) -> Values:
        return bound.target.derivatives(z, weights, batch)[0]

    zero = jnp.zeros((), jnp.int32)
    gradients = probe(gradient, batches_of(rows, key_batches, key_batches, zero, _GRADIENTS))
    moment = jax.tree.map(lambda g: jnp.mean(g**2, 0), gradients)
    state = algorithm.init(key_state, z, temperature)
    state = algorithm.adapt(state, moment) if algorithm.preconditioned else state
    more = rows.fetch(_more_rows(rows, key_rows))
    curvature = largest_curvature(partial(gradient, more), z, _root_of_metric(algorithm, state), key_vector)
    return Measured(curvature, gradient_variance(gradients), state)


def _more_rows(rows: Rows, key: Key[Array, ""]) -> dict[str, Array]:
    """Of each plate 4b different rows, or all."""
    return {
        name: epoch_indices(random.fold_in(key, number), jnp.zeros((), jnp.int32), num_rows, size)
        for number, (name, (num_rows, b)) in enumerate(rows.sizes.items())
        for size in [min(_BATCHES_OF_CURVATURE * b, num_rows)]
    }


def _root_of_metric(algorithm: SGAlgorithm, state: SGState) -> Any:
    """A^(1/2) of equation (1), for each leaf of z."""
    if state.precond is None:
        return jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), state.position)
    return jax.tree.map(lambda m: 1 / jnp.sqrt(m) if algorithm.underdamped else jnp.sqrt(m), state.precond)


def largest_curvature(
    gradient: Callable[[Values], Values], z: Values, root: Any, rng_key: Key[Array, ""]
) -> Float[Array, ""]:
    """Equation (1) by power iteration: the norm of H v after 20 products.

    Args:
        gradient: of U at a position, always on the same rows.
        z: where.
        root: A^(1/2) of each leaf.
        rng_key: of the first vector.
    """

    def product(v: Values) -> Values:
        scaled = jax.tree.map(jnp.multiply, root, v)
        return jax.tree.map(jnp.multiply, root, jax.jvp(gradient, (z,), (scaled,))[1])

    def step(_: Any, carry: tuple[Values, Array]) -> tuple[Values, Array]:
        v = product(carry[0])
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(v)))
        return jax.tree.map(lambda leaf: leaf / jnp.where(norm > 0, norm, 1), v), norm

    v = normal_like(rng_key, z)
    # the first product has a vector of any length; 20 more have a unit vector
    v, _ = step(0, (v, jnp.zeros(())))
    return lax.fori_loop(0, _ITERATIONS, step, (v, jnp.zeros((), jnp.result_type(float))))[1]


def stable_step(algorithm: SGAlgorithm, curvature: float) -> float:
    """h of equation (2)."""
    if not algorithm.underdamped:
        share = 1 / 10 if isinstance(algorithm, Sgld | Psgld) else 1 / 4
        return share / curvature
    h = float(np.sqrt(1 / 16 / curvature))
    return min(h, _LOST / algorithm.friction) if isinstance(algorithm, Sghmc) else h


def _noisiest(algorithm: SGAlgorithm, seen: Measured, temperature: float, h: float) -> tuple[str, float]:
    """The site with the largest noise ratio at a step, and that ratio."""
    factor = replace(algorithm, step_size=h).noise_factor(seen.state)
    ratios = ratio_of_noise(factor, seen.variance, jnp.asarray(temperature))
    worst = max(ratios, key=lambda name: float(ratios[name]))
    return worst, float(ratios[worst])


def _quiet_step(
    algorithm: SGAlgorithm, seen: Measured, temperature: float, noise_ratio: float, stable: float
) -> float:
    """h of equation (3); f grows with h for every algorithm."""
    from scipy.optimize import brentq

    def excess(log_h: float) -> float:
        return _noisiest(algorithm, seen, temperature, float(np.exp(log_h)))[1] - noise_ratio

    top = float(np.log(stable))
    return float(np.exp(brentq(excess, top - _LOG_RANGE, top, xtol=1e-6)))


def _check_arguments(algorithm: Any, temperature: Any, noise_ratio: Any) -> None:
    if not isinstance(algorithm, SGAlgorithm):
        raise TypeError(f"algorithm must be one of emberwalk.kernels.sgmcmc, got {type(algorithm).__name__}.")
    if callable(temperature) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature must be one positive and finite number, the lowest of the run, got {temperature!r}."
        )
    if not noise_ratio > 0:
        raise ValueError(
            f"noise_ratio must be positive, got {noise_ratio!r}; numpy.inf leaves the noise out."
        )
