"""Cyclical SG-MCMC: large steps without noise to find a mode, small ones with noise to sample it.

    h_k = (h_0 / 2) (1 + cos(pi k / L)),       k the step within a cycle of L                     (1)
    T_k = 0 for k < exploration L, else T      ("step")                                           (2)
    T_k = T k / (L - 1)                        ("linear")                                         (3)

Zhang and others (2020) for (1) and (2); Wenzel and others (2020) ramp the temperature as in (3) and keep
one draw, the last of the cycle.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .base import SGAlgorithm

COURSES = ("step", "linear")


@dataclass(frozen=True)
class CosineCycle:
    """Equation (1) as a schedule."""

    largest: float
    length: int

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        """h at a count."""
        return self.largest / 2 * (1 + jnp.cos(jnp.pi * (count % self.length) / self.length))


@dataclass(frozen=True)
class Cyclical(SGAlgorithm):
    """An algorithm whose step follows equation (1), and what its cycles are.

    Attributes:
        algorithm: with (1) as its step size.
        cycle_length: L.
        exploration: share of a cycle without noise.
        draws_per_cycle: draws from the rest of it.
        temperature: "step" or "linear".
    """

    algorithm: SGAlgorithm
    cycle_length: int
    exploration: float
    draws_per_cycle: int
    temperature: str

    @property
    def underdamped(self) -> bool:  # type: ignore[override]
        """Whether the algorithm has a momentum."""
        return self.algorithm.underdamped

    @property
    def preconditioned(self) -> bool:
        """See `SGAlgorithm`."""
        return self.algorithm.preconditioned

    def init(self, rng_key, position, temperature):
        """See `SGAlgorithm`."""
        return self.algorithm.init(rng_key, position, temperature)

    def move(self, rng_key, state, gradient, temperature):
        """See `SGAlgorithm`; `temperature` is T, the level."""
        return self.algorithm.move(rng_key, state, gradient, temperature * self.course(state.step))

    def noise_factor(self, state):
        """See `SGAlgorithm`; at the step the sampling part begins with, its largest: the others have less noise."""
        return self.algorithm.noise_factor(state._replace(step=jnp.int32(self.steps_of_exploration)))

    @property
    def sampling_step_size(self) -> Float[Array, ""]:
        """h at the begin of the sampling part; at the end of a cycle h is next to nothing."""
        return self.h(jnp.int32(self.steps_of_exploration))

    def adapt(self, state, second_moment):
        """See `SGAlgorithm`."""
        return self.algorithm.adapt(state, second_moment)

    @property
    def steps_of_exploration(self) -> int:
        """Steps at the beginning of a cycle of which no draw is kept."""
        return round(self.exploration * self.cycle_length)

    def course(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """T_k / T of equations (2) and (3)."""
        k = step % self.cycle_length
        if self.temperature == "step":
            return jnp.where(k < self.steps_of_exploration, 0.0, 1.0)
        return k / max(1, self.cycle_length - 1)

    def draw_ends(self) -> Int[Array, " draws"]:
        """Steps of a cycle done at each of its draws: evenly in its sampling part, the last at its end."""
        sampling = self.cycle_length - self.steps_of_exploration
        parts = jnp.arange(1, self.draws_per_cycle + 1) * sampling // self.draws_per_cycle
        return self.steps_of_exploration + parts

    def steps_to_draw(self, draw: Int[Array, ""]) -> Int[Array, ""]:
        """Steps from the draw before."""
        place, ends = draw % self.draws_per_cycle, self.draw_ends()
        return ends[place] - jnp.where(place == 0, 0, ends[place - 1])


def cyclical(
    algorithm: SGAlgorithm,
    cycle_length: int,
    *,
    exploration: float = 0.8,
    draws_per_cycle: int = 1,
    temperature: Literal["step", "linear"] = "step",
) -> Cyclical:
    """Cycles of exploration and sampling over an algorithm, equations (1) to (3).

    Args:
        algorithm: with a constant step size, the largest of a cycle.
        cycle_length: L, in steps; long enough to find a mode anew.
        exploration: share of a cycle at T = 0, in [0, 1); no draw comes from it.
        draws_per_cycle: kept from the rest; with "linear" 1, the end of the cycle.
        temperature: its course within a cycle, "step" or "linear"; its level is the sampler's.

    Raises:
        ValueError: for arguments out of their range, more draws than there are sampling steps, a schedule
            as the step size, or a cycle of cycles.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import baoab, cyclical
        >>> algorithm = cyclical(baoab(0.1, friction=1.0), cycle_length=50, draws_per_cycle=5)
        >>> [int(algorithm.steps_to_draw(draw)) for draw in range(6)]
        [42, 2, 2, 2, 2, 42]
    """
    if not isinstance(algorithm, SGAlgorithm):
        raise TypeError(f"algorithm must be one of emberwalk.kernels.sgmcmc, got {type(algorithm).__name__}.")
    if not isinstance(cycle_length, int) or cycle_length < 1:
        raise ValueError(f"cycle_length must be a whole number of steps from 1 on, got {cycle_length!r}.")
    if temperature not in COURSES:
        raise ValueError(f"temperature of a cycle must be one of {COURSES}, got {temperature!r}.")
    if isinstance(algorithm, Cyclical) or callable(algorithm.step_size):
        raise ValueError(
            "cyclical needs an algorithm with a constant step_size: it makes the schedule itself."
        )
    if not 0 <= exploration < 1:
        raise ValueError(f"exploration must lie in [0, 1), got {exploration!r}.")
    if temperature == "linear" and draws_per_cycle != 1:
        raise ValueError(
            f'temperature="linear" keeps one draw a cycle, got draws_per_cycle={draws_per_cycle!r}.'
        )
    cycle = CosineCycle(algorithm.step_size, cycle_length)
    made = Cyclical(
        cycle, replace(algorithm, step_size=cycle), cycle_length, exploration, draws_per_cycle, temperature
    )
    sampling = cycle_length - made.steps_of_exploration
    if not 1 <= draws_per_cycle <= sampling:
        raise ValueError(
            f"draws_per_cycle must be from 1 to {sampling}, the sampling steps of a cycle, got {draws_per_cycle!r}."
        )
    return made
