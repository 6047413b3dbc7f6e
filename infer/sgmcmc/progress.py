"""How draws, steps and warm-up count: everything that follows from the number of the draw alone.

The number of the draw is one for all vectorized chains. What is computed from it stays so, and a `lax.cond`
on it runs one of its branches; on a counter of each chain it would run both.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...kernels.sgmcmc.base import SGAlgorithm
from ...kernels.sgmcmc.cyclical import Cyclical

type Warmup = Literal["ramp", "full", "descent"]

# Probes of the noise in a warm-up, at least.
_WARMUP_PROBES = 8


def steps_of(algorithm: SGAlgorithm, steps_per_sample: int, i: Int[Array, ""], num_warmup: int):
    """Steps of draw i: always as many, or with cycles a whole one in warm-up and then those to the next draw."""
    if not isinstance(algorithm, Cyclical):
        return steps_per_sample
    drawn = jnp.maximum(i - num_warmup, 0)
    return jnp.where(i < num_warmup, algorithm.cycle_length, algorithm.steps_to_draw(drawn))


def steps_before(
    algorithm: SGAlgorithm, steps_per_sample: int, i: Int[Array, ""], num_warmup: int
) -> Int[Array, ""]:
    """Steps done before draw i, those of warm-up included."""
    if not isinstance(algorithm, Cyclical):
        return i * steps_per_sample
    drawn = jnp.maximum(i - num_warmup, 0)
    cycles, place = jnp.divmod(drawn, algorithm.draws_per_cycle)
    within = jnp.where(place == 0, 0, algorithm.draw_ends()[place - 1])
    return (jnp.minimum(i, num_warmup) + cycles) * algorithm.cycle_length + within


def count_of(
    algorithm: SGAlgorithm, before: Int[Array, ""], i: Int[Array, ""], num_warmup: int, steps_per_sample: int
) -> Int[Array, ""]:
    """The count that schedules see: steps since the end of warm-up, 0 in it; with cycles, in its own cycle."""
    if isinstance(algorithm, Cyclical):
        return before - jnp.minimum(i, num_warmup) * algorithm.cycle_length
    return jnp.maximum(before - num_warmup * steps_per_sample, 0)


def noise_course(warmup: Warmup, i: Int[Array, ""], num_warmup: int) -> Float[Array, ""]:
    """Factor of T in the noise of draw i: below 1 in warm-up alone."""
    if num_warmup == 0 or warmup == "full":
        return jnp.ones(())
    if warmup == "ramp":
        return jnp.minimum(1.0, i / (num_warmup / 2))
    return jnp.where(i < 3 * num_warmup // 4, 0.0, 1.0)


def probe_interval(noise_every: int, steps_per_draw: int, num_warmup: int) -> tuple[int, int]:
    """Draws from one probe of the noise to the next, in warm-up and after it."""
    draws = max(1, noise_every // steps_per_draw)
    return min(draws, max(1, num_warmup // _WARMUP_PROBES)), draws


def is_probed(i: Int[Array, ""], intervals: tuple[int, int], num_warmup: int) -> Bool[Array, ""]:
    """Whether draw i begins with a probe; the first one of warm-up and the first one after it do."""
    in_warmup, later = intervals
    return jnp.where(i < num_warmup, i % in_warmup == 0, (i - num_warmup) % later == 0)


def forgets(i: Int[Array, ""], intervals: tuple[int, int], num_warmup: int) -> Bool[Array, ""]:
    """Whether a probe at draw i is to be the first: the first from the half of warm-up on, and the first after it."""
    in_warmup = intervals[0]
    half = -(-(num_warmup // 2) // in_warmup) * in_warmup
    return (i == half) | (i == num_warmup)
