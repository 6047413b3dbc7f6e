"""Overdamped Langevin: SGLD, and the scheme of Leimkuhler and Matthews at the same cost.

    SGLD   q' = q - h g + sqrt(2 h T) xi_n                                                        (1)
    LM     q' = q - h g + sqrt(h T / 2) (xi_n + xi_{n+1})                                         (2)

Welling and Teh (2011); Leimkuhler and Matthews (2013). On a Gaussian target (1) is too wide by
1 / (1 - h lam / 2), and (2) has no error of the step at all: its noise is shared by two steps.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .base import Schedule, SGAlgorithm, SGInfo, SGState, normal_like


@dataclass(frozen=True)
class Overdamped(SGAlgorithm):
    """What both have in common: no momentum, and noise_ratio = h V / (2 T)."""

    def noise_factor(self, state: SGState):
        """See `SGAlgorithm`."""
        half = self.h(state.step) / 2
        return jax.tree.map(lambda _: half, state.position)


@dataclass(frozen=True)
class Sgld(Overdamped):
    """Equation (1)."""

    def init(self, rng_key, position, temperature):
        """See `SGAlgorithm`."""
        return SGState(position, None, None, None, jnp.zeros((), jnp.int32))

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        from blackjax.sgmcmc.diffusions import overdamped_langevin

        h = self.h(state.step)
        uphill = jax.tree.map(jnp.negative, gradient)
        position = overdamped_langevin()(rng_key, state.position, uphill, h, temperature)
        return state._replace(position=position, step=state.step + 1), SGInfo(h, None, jnp.array(True))


@dataclass(frozen=True)
class LeimkuhlerMatthews(Overdamped):
    """Equation (2); `extra` holds xi_n."""

    def init(self, rng_key, position, temperature):
        """See `SGAlgorithm`."""
        return SGState(position, None, normal_like(rng_key, position), None, jnp.zeros((), jnp.int32))

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        h, noise = self.h(state.step), normal_like(rng_key, state.position)
        scale = jnp.sqrt(h * temperature / 2)
        position = jax.tree.map(
            lambda q, g, old, new: (q - h * g + scale * (old + new)).astype(q.dtype),
            state.position, gradient, state.extra, noise,
        )  # fmt: skip
        moved = state._replace(position=position, extra=noise, step=state.step + 1)
        return moved, SGInfo(h, None, jnp.array(True))


def sgld(step_size: float | Schedule) -> Sgld:
    """Stochastic gradient Langevin dynamics, equation (1).

    Args:
        step_size: h, in units of 1 / (curvature of U): stable below 2 / lam_max; 1 % too wide at
            .02 / lam_max. `leimkuhler_matthews` costs the same and is nearer.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, sgld
        >>> kernel = build(sgld(0.1), lambda key, z: z)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return Sgld(step_size)


def leimkuhler_matthews(step_size: float | Schedule) -> LeimkuhlerMatthews:
    """The scheme of Leimkuhler and Matthews, equation (2).

    Args:
        step_size: h, in units of 1 / (curvature of U): stable below 2 / lam_max. On a Gaussian any stable
            step has the right variance; elsewhere the error is of second order in h.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, leimkuhler_matthews
        >>> kernel = build(leimkuhler_matthews(0.1), lambda key, z: z)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return LeimkuhlerMatthews(step_size)
