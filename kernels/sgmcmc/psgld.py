"""Preconditioned SGLD.

    q' = q - h G g + sqrt(2 h T G) xi                                                             (1)

Li and others (2016), with a G that is frozen after warm-up (`precondition.py`), so that their correction
term is exactly zero.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .base import Schedule, SGAlgorithm, SGInfo, SGState, normal_like
from .precondition import Kind, check_kind, ones, preconditioner


@dataclass(frozen=True)
class Psgld(SGAlgorithm):
    """Equation (1)."""

    precond: Kind = "diagonal"
    eps: float = 1e-7
    power: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_kind("precond", self.precond)
        if not (self.eps >= 0 and 0 < self.power <= 1):
            raise ValueError(
                f"eps must be at least 0 and power above 0 and at most 1, got {self.eps!r} and {self.power!r}."
            )

    @property
    def preconditioned(self):
        """See `SGAlgorithm`."""
        return self.precond != "identity"

    def init(self, rng_key, position, temperature):
        """See `SGAlgorithm`."""
        return SGState(position, None, None, ones(self.precond, position), jnp.zeros((), jnp.int32))

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        h = self.h(state.step)

        def descend(q, g, gain, xi):
            return (q - h * gain * g + jnp.sqrt(2 * h * temperature * gain) * xi).astype(q.dtype)

        noise = normal_like(rng_key, state.position)
        position = jax.tree.map(descend, state.position, gradient, state.precond, noise)
        return state._replace(position=position, step=state.step + 1), SGInfo(h, None, jnp.array(True))

    def noise_factor(self, state):
        """See `SGAlgorithm`: h G / 2."""
        half = self.h(state.step) / 2
        return jax.tree.map(lambda gain: half * gain, state.precond)

    def adapt(self, state, second_moment):
        """See `SGAlgorithm`."""
        gain = preconditioner(self.precond, second_moment, eps=self.eps, power=self.power)
        return state._replace(precond=gain)


def psgld(
    step_size: float | Schedule, precond: Kind = "diagonal", eps: float = 1e-7, power: float = 0.5
) -> Psgld:
    """Preconditioned SGLD, equation (1).

    Args:
        step_size: h of the stiffest coordinate; the others go up to 1000 times as far.
        precond: "diagonal", "layerwise" or "identity".
        eps: added to the second moment of the gradient, in its units.
        power: 0.5 divides by the size of the gradient; 1.0 equalises all curvatures where the noise of the
            gradient is proportional to the Hessian.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, psgld
        >>> kernel = build(psgld(0.1), lambda key, z: z)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return Psgld(step_size, precond, eps, power)
