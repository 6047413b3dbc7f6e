"""What each algorithm samples at a finite step: its stationary variance on U = lam q^2 / 2.

With noise of variance V in the gradient, M or G frozen and b = 1 - friction h, c = exp(-friction h):

    sgld    (T + h V / 2) / (lam (1 - h lam / 2))                                                 (1)
    psgld   the same with h G for h                                                               (2)
    LM      (T + h V / (2 - h lam)) / lam                                                         (3)
    sghmc   (T + h^2 V / (2 (1 - b) M)) / (lam D),    D = 1 - h^2 lam / (2 (1 + b) M)             (4)
    baoab   (T + h^2 V (1 + c) / ((1 - c) (4 M - h^2 lam))) / lam                                 (5)
    sgnht   T / lam at V = 0 (checked by simulation, not proved)                                  (6)

Each is the solution of a discrete Lyapunov equation, which the tests solve on their own.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from .baoab import Baoab
from .base import SGAlgorithm
from .psgld import Psgld
from .sghmc import Sghmc
from .sgld import LeimkuhlerMatthews, Sgld
from .sgnht import Sgnht


def stationary_variance(
    algorithm: SGAlgorithm,
    curvature: ArrayLike,
    temperature: float,
    noise: ArrayLike = 0.0,
    precond: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """Variance of q under equations (1) to (6).

    Args:
        algorithm: with a constant step size.
        curvature: lam > 0, the second derivative of U.
        temperature: T.
        noise: V, the variance of the gradient of U.
        precond: M or G of the coordinate.

    Raises:
        ValueError: for a step that is not stable, an algorithm without a formula, a schedule in place of
            a step size, and for SGNHT where V is not 0 (what its thermostat settles at depends on all sites).

    Examples:
        >>> from emberwalk.kernels.sgmcmc import sgld, stationary_variance
        >>> round(float(stationary_variance(sgld(0.1), curvature=4.0, temperature=1.0)), 4)
        0.3125
    """
    if callable(algorithm.step_size):
        raise ValueError("stationary_variance needs a constant step_size, got a schedule.")
    h = jnp.asarray(algorithm.step_size)
    lam, V, m = jnp.asarray(curvature), jnp.asarray(noise), jnp.asarray(precond)
    T = temperature
    match algorithm:
        case Sgld() | Psgld() | LeimkuhlerMatthews():
            h = h * m if isinstance(algorithm, Psgld) else h
            _check_stable(jnp.max(h * lam), 2, "h lam")
            if isinstance(algorithm, LeimkuhlerMatthews):
                return (T + h * V / (2 - h * lam)) / lam
            return (T + h * V / 2) / (lam * (1 - h * lam / 2))
        case Sghmc():
            _check_stable(jnp.max(h**2 * lam / m), 4, "h^2 lam / M")
            lost = algorithm.friction * h
            shrink = 1 - h**2 * lam / (2 * (2 - lost) * m)
            return (T + h**2 * V / (2 * lost * m)) / (lam * shrink)
        case Sgnht() if jnp.any(V != 0):
            raise ValueError("The variance of sgnht has no formula where the gradient is noisy (noise > 0).")
        case Sgnht():
            _check_stable(jnp.max(h**2 * lam / m), 4, "h^2 lam / M")
            return T / lam
        case Baoab():
            _check_stable(jnp.max(h**2 * lam / m), 4, "h^2 lam / M")
            coth = 1 / jnp.tanh(algorithm.friction * h / 2)
            return (T + h**2 * V * coth / (4 * m - h**2 * lam)) / lam
    raise ValueError(f"No formula for {type(algorithm).__name__}.")


def _check_stable(value: Array, bound: float, name: str) -> None:
    if value >= bound:
        raise ValueError(f"The step is not stable: {name} must be below {bound}, got {float(value):.3g}.")
