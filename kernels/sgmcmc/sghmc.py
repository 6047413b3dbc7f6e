"""SGHMC: Langevin dynamics by symplectic Euler.

    p' = b p - h g + sqrt(2 (1 - b) T M) xi,   q' = q + h p' / M,   b = 1 - friction h            (1)

Chen, Fox and Guestrin (2014) as Wenzel and others (2020) write it. The position moves by the *new*
momentum: moved by the old one it is unstable unless h < friction / lam. The noise is 2 (1 - b) T, not
(1 - b^2) T, which is too cold by (1 + b) / 2.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .base import COUNTS, Schedule, SGInfo, at_count
from .momentum import Underdamped, drift, kick, ornstein_uhlenbeck
from .precondition import Kind
from .temperatures import kinetic_temperature


@dataclass(frozen=True)
class Sghmc(Underdamped):
    """Equation (1)."""

    mass: Kind = "layerwise"

    def __post_init__(self):
        super().__post_init__()
        for count in COUNTS if callable(self.step_size) else (0,):
            product = self.friction * float(at_count(self.step_size, jnp.asarray(count)))
            if product >= 1:
                raise ValueError(
                    f"friction * step_size must be below 1 for sghmc, got {product:.3g} at count {count}: "
                    "about 0.05 is a good start; baoab takes any friction."
                )

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`."""
        h = self.h(state.step)
        lost = self.friction * h
        kept = ornstein_uhlenbeck(rng_key, state.momentum, state.precond, 1 - lost, 2 * lost * temperature)
        momentum = kick(kept, gradient, h)
        position = drift(state.position, momentum, state.precond, h)
        moved = state._replace(position=position, momentum=momentum, step=state.step + 1)
        return moved, SGInfo(h, kinetic_temperature(momentum, state.precond), jnp.array(True))

    def noise_factor(self, state):
        """See `SGAlgorithm`: h^2 / (2 (1 - b) M)."""
        h = self.h(state.step)
        return jax.tree.map(lambda m: h / (2 * self.friction * m), state.precond)


def sghmc(step_size: float | Schedule, friction: float, mass: Kind = "layerwise") -> Sghmc:
    """Stochastic gradient Hamiltonian Monte Carlo, equation (1).

    Args:
        step_size: h, in units of 1 / sqrt(curvature / M): stable below 2; a quarter of it is a good start.
        friction: per unit of time, `step_size * friction` near .05, and below 1.
        mass: one scalar for each site ("layerwise", as Wenzel and others), "diagonal", or "identity".

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, sghmc
        >>> kernel = build(sghmc(0.1, friction=0.5, mass="identity"), lambda key, z: z)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
    """
    return Sghmc(step_size, friction, mass)


@dataclass(frozen=True)
class _Scaled:
    """h C(t): a schedule that can be pickled where C can."""

    h: float
    factor: Schedule

    def __call__(self, count):
        return self.h * self.factor(count)


def sghmc_from_sgd(
    learning_rate: float,
    momentum: float,
    num_data: int,
    *,
    mass: Kind = "layerwise",
    schedule: Schedule | None = None,
) -> Sghmc:
    """`sghmc` that at T = 0 is SGD with momentum on the mean loss: h = sqrt(lr / n), b = momentum.

    That it is with mass="identity"; another mass preconditions it, as Wenzel and others (2020) do.

    Args:
        learning_rate: of SGD on the loss averaged over the data.
        momentum: decay of its velocity, in [0, 1).
        num_data: n, rows of the data.
        mass: as for `sghmc`.
        schedule: factor C of the *time step*, h <- C h and 1 - b <- C (1 - b) (Wenzel and others 2020).

    Examples:
        >>> from emberwalk.kernels.sgmcmc import sghmc_from_sgd
        >>> algorithm = sghmc_from_sgd(0.1, momentum=0.98, num_data=1000)
        >>> round(algorithm.step_size, 6), round(algorithm.friction * algorithm.step_size, 6)
        (0.01, 0.02)
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}.")
    if not learning_rate > 0 or not num_data >= 1:
        raise ValueError(
            f"learning_rate and num_data must be positive, got {learning_rate!r} and {num_data!r}."
        )
    h = math.sqrt(learning_rate / num_data)
    return Sghmc(h if schedule is None else _Scaled(h, schedule), (1 - momentum) / h, mass)
