"""SGNHT: a thermostat that absorbs the noise of the gradient, by the splitting BADODAB.

    B  p <- p - h g
    A  q <- q + (h / 2) p / M
    D  s <- s + (h / (2 mu)) (p . M^-1 p / (d T) - 1)
    O  p <- c p + sqrt(v M) xi,   c = exp(-s h),  v = A T (1 - exp(-2 s h)) / s
    D, A once more                                                                                (1)

Ding and others (2014); Leimkuhler and Shang (2016). The friction s of all sites together starts at A and
settles where the momentum has the temperature T. D divides by T: without it the thermostat of a chain at
T = .01 answers a hundred times slower. It no longer works where s h is large (above .5). And it holds the T it is told:
noise that is raised slowly in a warm-up is a T near 0 for a momentum that has T, and s leaps up.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .base import Schedule, SGInfo
from .momentum import Underdamped, drift, kick, ornstein_uhlenbeck
from .precondition import Kind
from .temperatures import kinetic_temperature


@dataclass(frozen=True)
class Sgnht(Underdamped):
    """Equation (1); `extra` holds the friction s."""

    thermal_mass: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.thermal_mass < float("inf"):
            raise ValueError(f"thermal_mass must be positive and finite, got {self.thermal_mass!r}.")

    def extra(self):
        """See `Underdamped`."""
        return jnp.asarray(self.friction, jnp.result_type(float))

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        h, masses = self.h(state.step), state.precond
        momentum = kick(state.momentum, gradient, h)
        position = drift(state.position, momentum, masses, h / 2)
        kinetic = kinetic_temperature(momentum, masses)
        s = self._thermostat(state.extra, momentum, masses, temperature, h)
        variance = 2 * self.friction * temperature * _integral(s, h)
        momentum = ornstein_uhlenbeck(rng_key, momentum, masses, jnp.exp(-s * h), variance)
        s = self._thermostat(s, momentum, masses, temperature, h)
        position = drift(position, momentum, masses, h / 2)
        moved = state._replace(position=position, momentum=momentum, extra=s, step=state.step + 1)
        return moved, SGInfo(h, kinetic, jnp.array(True))

    def _thermostat(self, s, momentum, masses, temperature, h) -> Array:
        """D of equation (1); at T = 0 there is no temperature to keep."""
        energies = jax.tree.map(lambda p, m: jnp.sum(p**2 / m), momentum, masses)
        size = sum(leaf.size for leaf in jax.tree.leaves(momentum))
        energy = sum(jax.tree.leaves(energies)) / size
        cold = temperature == 0
        excess = jnp.where(cold, 0.0, energy / jnp.where(cold, 1.0, temperature) - 1)
        return s + h / (2 * self.thermal_mass) * excess

    def noise_factor(self, state):
        """See `SGAlgorithm`: that of BAOAB at friction A, the noise that the thermostat has to absorb."""
        h = self.h(state.step)
        factor = h**2 / (4 * jnp.tanh(self.friction * h / 2))
        return jax.tree.map(lambda m: factor / m, state.precond)


def _integral(s: Array, h: Array) -> Array:
    """(1 - exp(-2 s h)) / (2 s), h at s = 0; s may be negative."""
    small = jnp.abs(s) * h < 1e-6
    safe = jnp.where(small, 1.0, s)
    return jnp.where(small, h * (1 - s * h), -jnp.expm1(-2 * safe * h) / (2 * safe))


def sgnht(
    step_size: float | Schedule, friction: float, mass: Kind = "identity", thermal_mass: float = 1.0
) -> Sgnht:
    """Stochastic gradient Nosé-Hoover thermostat, equation (1).

    Args:
        step_size: h, in units of 1 / sqrt(curvature / M), stable below 2; small, so that s h stays below .5.
        friction: A, per unit of time, of the noise that is added; the thermostat adds to it what the noise
            of the gradient needs.
        mass: "identity", "layerwise" or "diagonal".
        thermal_mass: mu; larger answers slower.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, sgnht
        >>> kernel = build(sgnht(0.1, friction=0.5), lambda key, z: z)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return Sgnht(step_size, friction, mass, thermal_mass)
