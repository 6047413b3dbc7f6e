"""BAOAB: Langevin dynamics whose positions have no error of the step on a Gaussian.

    B  p <- p - h g
    A  q <- q + (h / 2) p / M
    O  p <- c p + sqrt((1 - c^2) T M) xi,    c = exp(-friction h)
    A  q <- q + (h / 2) p / M                                                                     (1)

Leimkuhler and Matthews (2013), the two half kicks between steps made one: the law of q is the same, at
one gradient a step; that of p at the end of a step is c^2 M T_kin + (1 - c^2) M T.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .base import Schedule, SGInfo
from .momentum import Underdamped, drift, kick, ornstein_uhlenbeck
from .precondition import Kind
from .temperatures import kinetic_temperature


@dataclass(frozen=True)
class Baoab(Underdamped):
    """Equation (1)."""

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        h, masses = self.h(state.step), state.precond
        c = jnp.exp(-self.friction * h)
        momentum = kick(state.momentum, gradient, h)
        position = drift(state.position, momentum, masses, h / 2)
        kinetic = kinetic_temperature(momentum, masses)
        # 1 - c^2 without its cancellation where the friction is small
        refreshed = -jnp.expm1(-2 * self.friction * h) * temperature
        momentum = ornstein_uhlenbeck(rng_key, momentum, masses, c, refreshed)
        position = drift(position, momentum, masses, h / 2)
        moved = state._replace(position=position, momentum=momentum, step=state.step + 1)
        return moved, SGInfo(h, kinetic, jnp.array(True))

    def noise_factor(self, state):
        """See `SGAlgorithm`: h^2 (1 + c) / (4 M (1 - c))."""
        h = self.h(state.step)
        # (1 + c) / (1 - c) = coth(friction h / 2)
        factor = h**2 / (4 * jnp.tanh(self.friction * h / 2))
        return jax.tree.map(lambda m: factor / m, state.precond)


def baoab(step_size: float | Schedule, friction: float, mass: Kind = "identity") -> Baoab:
    """Langevin dynamics by the splitting BAOAB, equation (1).

    Args:
        step_size: h, in units of 1 / sqrt(curvature / M): stable below 2; a quarter of it is a good start.
        friction: per unit of time; `step_size * friction` near .05 mixes well, and lets little of the noise
            of the gradient in when it is larger.
        mass: "identity", "layerwise" (one scalar for each site) or "diagonal".

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, baoab
        >>> kernel = build(baoab(0.3, friction=0.5), lambda key, z: z, temperature=0.1)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return Baoab(step_size, friction, mass)
