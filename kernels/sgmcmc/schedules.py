"""Schedules that optax does not have.

    h_k = a (b + k)^-gamma,    gamma in (1/2, 1]                                                  (1)

Welling and Teh (2011): the steps sum to infinity, their squares do not. Every optax schedule of a count
serves as well.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class PolynomialDecay:
    """Equation (1); a dataclass, so that a kernel which holds it can be pickled."""

    a: float
    b: float
    gamma: float

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        """h at a count."""
        return self.a * (self.b + jnp.asarray(count, jnp.result_type(float))) ** -self.gamma


def polynomial_decay(a: float, b: float, gamma: float) -> PolynomialDecay:
    """Decreasing steps, equation (1); average the draws with `step_weighted_mean`.

    Args:
        a: scale; the first step is a b^-gamma.
        b: count at which the decay sets in, in steps.
        gamma: in (1/2, 1]; 1/3 would be best for the error after a fixed time (Teh, Thiery and Vollmer
            2016), but then the bias does not vanish.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import polynomial_decay
        >>> float(polynomial_decay(0.1, 1.0, 1.0)(0))
        0.10000000149011612
    """
    if not a > 0 or not b > 0:
        raise ValueError(f"a and b must be positive, got {a!r} and {b!r}.")
    if not 0.5 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0.5, 1], got {gamma!r}.")
    return PolynomialDecay(a, b, gamma)


def temperature_ramp(low: float, high: float, num_steps: int) -> "optax.Schedule":
    """T from `low` to `high` in `num_steps` steps, and `high` after them: optax's `linear_schedule`.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import temperature_ramp
        >>> float(temperature_ramp(0.0, 1.0, 10)(5))
        0.5
    """
    import optax

    return optax.linear_schedule(low, high, num_steps)
