"""How strong the repellence is at each step: a number, a ramp to it, or one that grows with the run.

    Ramp     alpha_n = alpha min(1, n / steps)                                                           (1)
    Growth   alpha_n = max(floor, rate n min_i mu_i)                                                     (2)

(2) makes the tilt exp(-rate (difference of counts)) for a uniform target, and the error of an average fall about as
1/n instead of 1/sqrt(n). That is seen, not proved: the closed forms of `theory` hold for a constant alpha alone.
Frozen dataclasses, because a closure does not pickle.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ramp:
    """Equation (1): from the base chain to full repellence.

    Args:
        alpha: at the end.
        steps: until then.

    Examples:
        >>> from emberwalk.kernels.walk import Ramp
        >>> float(Ramp(10.0, steps=100)(50))
        5.0
    """

    alpha: float
    steps: float

    def __post_init__(self):
        if _is_number(self.alpha) and _is_number(self.steps):  # else JAX takes it apart
            check_alpha(self.alpha)
            check_positive("steps", self.steps)

    def __call__(self, step):
        """alpha at a step."""
        xp = jnp if isinstance(step, jax.Array) else np
        return self.alpha * xp.minimum(1.0, step / self.steps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Growth:
    """Equation (2), for `srrw` on a graph that is walked often over.

    Args:
        rate: 1 is the best seen on graphs of 34 to 4000 nodes.
        floor: alpha before the growth takes over.

    Examples:
        >>> from emberwalk.kernels.walk import Growth
        >>> float(Growth(rate=1.0, floor=5.0)(2000, min_mu=0.01))
        20.0
    """

    rate: float = 1.0
    floor: float = 5.0

    def __post_init__(self):
        if _is_number(self.rate) and _is_number(self.floor):  # else JAX takes it apart
            check_positive("rate", self.rate)
            check_alpha(self.floor, "floor")

    def __call__(self, step, min_mu):
        """alpha at a step; `min_mu` is the least share that the target gives a node."""
        xp = jnp if isinstance(step, jax.Array) else np
        return xp.maximum(self.floor, self.rate * step * min_mu)


type Repellence = float | Ramp | Growth | Callable


def alpha_at(alpha: Repellence, step: Float[Array, ""], min_mu: Float[Array, ""]) -> Float[Array, ""]:
    """The value in force after `step` recorded visits."""
    if isinstance(alpha, Growth):
        return jnp.asarray(alpha(step, min_mu), float)
    return jnp.asarray(alpha(step) if callable(alpha) else alpha, float)


def check_alpha(alpha: Repellence, name: str = "alpha") -> None:
    """Refuses what is no strength."""
    if callable(alpha) or isinstance(alpha, jax.core.Tracer):
        return
    if not _is_number(alpha):
        raise ValueError(
            f"{name} must be a number, a Ramp, a Growth or a function of the step, got {alpha!r}."
        )
    if not 0 <= float(alpha) < np.inf:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be 0 (the base chain) or more, got {alpha}.")


def check_positive(name: str, value: float) -> None:
    """Refuses what is no number above 0."""
    if not (isinstance(value, jax.core.Tracer) or (_is_number(value) and 0 < value < np.inf)):
        raise ValueError(f"{name} must be above 0, got {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) and np.ndim(value) == 0
