"""One draw of `SGMCMC`: its steps, and what is renewed before them.

    z' = update(xi, z, g, T)                one of `kernels/sgmcmc`
    g' = estimate of grad U_T(z')           on a fresh batch; it moves the next step               (1)

The gradient is taken *after* the move and carried to the next: a position whose gradient is not finite is
refused before it can become a draw. Before its steps a draw may renew the centre of the control variates, and
probe the noise of the gradients; both under a `lax.cond` on the number of the draw, see `progress.py`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, Key

from ...kernels.sgmcmc import configurational_temperature, noise_ratio
from ...kernels.sgmcmc.base import Schedule, SGAlgorithm, SGInfo, SGState, at_count, is_finite, moved_or_kept
from ...kernels.sgmcmc.cyclical import Cyclical
from .control_variates import renewed
from .noise import add_probe, no_noise, probe
from .progress import (
    Warmup,
    count_of,
    forgets,
    is_probed,
    noise_course,
    probe_interval,
    steps_before,
    steps_of,
)
from .rows import batches_of, even_reads, over_batches
from .state import SGMCMCState, by_site
from .target import Anchor, Target, Values

# Minibatches from which a mass is estimated where there is no warm-up to do it in.
_BATCHES_WITHOUT_WARMUP = 32


class _Steps(NamedTuple):
    """What goes from step to step within a draw."""

    inner: SGState
    gradient: Values
    potential: Array
    step_size: Array
    kinetic: Values | None
    configurational: Values
    num_refused: Array


class _Counts(NamedTuple):
    """Where a draw stands: its number, the steps before it, and what schedules count."""

    i: Int[Array, ""]
    before: Int[Array, ""]
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Sampling:
    """The options of an `SGMCMC` that decide how a draw is made; see there."""

    algorithm: SGAlgorithm
    temperature: float | Schedule
    steps_per_sample: int
    warmup: Warmup
    noise_every: int
    noise_batches: int
    finds_center: bool
    num_warmup: int

    def start(self, rng_key: Key[Array, ""], z: Values, target: Target, anchor: Anchor | None) -> SGMCMCState:
        """First state of one chain at z."""
        key_algorithm, key_batch, key_adapt, order_key, rng_key = random.split(rng_key, 5)
        zero = jnp.zeros((), jnp.int32)
        temperature = at_count(self.temperature, zero)
        inner = self.algorithm.init(key_algorithm, z, temperature)
        batch = target.rows.fetch(target.rows.indices(key_batch, order_key, zero))
        estimate = target.estimate(z, batch, temperature, anchor)
        noise = no_noise(z, with_moment=self.algorithm.preconditioned)
        if self.algorithm.preconditioned and self.num_warmup == 0:
            batches = batches_of(target.rows, key_adapt, order_key, zero, _BATCHES_WITHOUT_WARMUP)
            gradients = probe(lambda one: target.estimate(z, one, temperature, anchor).gradient, batches)
            seen = add_probe(noise, gradients, jnp.array(True))
            inner = self.algorithm.adapt(inner, seen.second_moment)
        nothing = jnp.zeros(len(z))
        return SGMCMCState(
            i=zero,
            inner=inner,
            gradient=estimate.gradient,
            potential_energy=estimate.potential,
            step_size=self.algorithm.h(zero),
            temperature=temperature,
            kinetic_temperature=nothing if self.algorithm.underdamped else None,
            configurational_temperature=nothing,
            noise_ratio=nothing,
            num_nonfinite=zero,
            diverging=jnp.array(False),
            cycle=zero if isinstance(self.algorithm, Cyclical) else None,
            anchor=anchor,
            centre=z if anchor is None else None,
            noise=noise,
            order_key=order_key,
            rng_key=rng_key,
        )

    def draw(self, state: SGMCMCState, target: Target) -> SGMCMCState:
        """Next draw of one chain."""
        # one after the other, which compiles to one kernel where `split` is nine, about 0.7 MB of the compiler each
        rng_key, key_steps, key_probe = lax.map(partial(random.fold_in, state.rng_key), jnp.arange(3))
        at = self._counts(state.i)
        if self.finds_center:
            assert state.anchor is not None
            anchor = renewed(state.anchor, target, state.z, at.i, self.num_warmup)
            state = state._replace(anchor=anchor)
        state = self._probed(state, target, key_probe, at)
        steps = self._run_steps(state, target, key_steps, at)
        last = steps.inner._replace(step=steps.inner.step - 1)
        temperature, factor = at_count(self.temperature, last.step), self.algorithm.noise_factor(last)
        return state._replace(
            i=at.i + 1,
            inner=steps.inner,
            gradient=steps.gradient,
            potential_energy=steps.potential,
            step_size=steps.step_size,
            temperature=temperature,
            kinetic_temperature=None if steps.kinetic is None else by_site(steps.kinetic),
            configurational_temperature=by_site(steps.configurational),
            noise_ratio=by_site(noise_ratio(factor, state.noise.variance, temperature)),
            num_nonfinite=state.num_nonfinite + steps.num_refused,
            diverging=steps.num_refused > 0,
            cycle=self._cycle(at.i),
            centre=self._next_centre(state, steps.inner.position),
            rng_key=rng_key,
        )

    def _counts(self, i: Int[Array, ""]) -> _Counts:
        before = steps_before(self.algorithm, self.steps_per_sample, i, self.num_warmup)
        return _Counts(i, before, count_of(self.algorithm, before, i, self.num_warmup, self.steps_per_sample))

    def _cycle(self, i: Int[Array, ""]) -> Int[Array, ""] | None:
        if not isinstance(self.algorithm, Cyclical):
            return None
        return jnp.maximum(i - self.num_warmup, 0) // self.algorithm.draws_per_cycle

    def _next_centre(self, state: SGMCMCState, z: Values) -> Values | None:
        """Mean of the second half of warm-up; before it the draw itself, after it as it is."""
        if state.centre is None:
            return None
        number = jnp.maximum(state.i - self.num_warmup // 2 + 1, 1)
        gain = jnp.where(state.i < self.num_warmup, 1 / number, 0.0)
        return jax.tree.map(lambda c, q: (c + gain * (q - c)).astype(c.dtype), state.centre, z)

    def _probed(self, state: SGMCMCState, target: Target, key: Array, at: _Counts) -> SGMCMCState:
        """The state with a probe of the noise where one is due, and in warm-up with the mass that follows."""
        if not (target.rows.sizes or self.algorithm.preconditioned):
            return state
        temperature = at_count(self.temperature, at.clock)
        intervals = probe_interval(self.noise_every, self._steps_of_a_draw(), self.num_warmup)

        def gradient(batch: Any) -> Values:
            return target.estimate(state.z, batch, temperature, state.anchor).gradient

        def add(noise, inner):
            batches = batches_of(target.rows, key, state.order_key, at.before, self.noise_batches)
            forget = forgets(at.i, intervals, self.num_warmup)
            noise = add_probe(noise, probe(gradient, batches), forget)
            if self.algorithm.preconditioned and self.num_warmup > 0:
                adapted = self.algorithm.adapt(inner, noise.second_moment)
                inner = jax.tree.map(
                    lambda new, old: jnp.where(at.i < self.num_warmup, new, old), adapted, inner
                )
            return noise, inner

        due = is_probed(at.i, intervals, self.num_warmup)
        noise, inner = lax.cond(due, add, lambda *as_they_are: as_they_are, state.noise, state.inner)
        return state._replace(noise=noise, inner=inner)

    def _steps_of_a_draw(self) -> int:
        if isinstance(self.algorithm, Cyclical):
            return max(1, self.algorithm.cycle_length // self.algorithm.draws_per_cycle)
        return self.steps_per_sample

    def _run_steps(self, state: SGMCMCState, target: Target, key: Array, at: _Counts) -> _Steps:
        """The steps of a draw, equation (1)."""
        num_steps = steps_of(self.algorithm, self.steps_per_sample, at.i, self.num_warmup)
        course = noise_course(self.warmup, at.i, self.num_warmup)
        # in warm-up schedules stand at 0; those of cycles go on
        ticks = (at.i >= self.num_warmup) | isinstance(self.algorithm, Cyclical)

        def drawn(j: Int[Array, ""]) -> tuple[Array, Any]:
            key_noise, key_batch = random.split(random.fold_in(key, j))
            return key_noise, target.rows.indices(key_batch, state.order_key, at.before + j)

        def step(j: Int[Array, ""], key_noise: Array, batch: Any, carry: _Steps) -> _Steps:
            count = at.clock + jnp.where(ticks, j, 0)
            before = carry.inner._replace(step=count)
            level = self._level(course, count)
            moved, info = self.algorithm.update(key_noise, before, carry.gradient, level)
            next_temperature = at_count(self.temperature, jnp.where(ticks, count + 1, count))
            estimate = target.estimate(moved.position, batch, next_temperature, state.anchor)
            good = is_finite(estimate.gradient) & info.finite
            inner = moved_or_kept(good, moved, before)
            # where the gradient itself was not finite, the chain has not moved: another batch may be better
            gradient, potential = _where(
                good | ~info.finite, tuple(estimate), (carry.gradient, carry.potential)
            )
            share = self._share(j, num_steps)
            seen = configurational_temperature(inner.position, state.reference, gradient)
            return _Steps(
                inner,
                gradient,
                potential,
                info.step_size,
                None if carry.kinetic is None else _add(carry.kinetic, _kinetic(info, good), share),
                _add(carry.configurational, seen, share),
                carry.num_refused + ~good,
            )

        none_yet = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), state.z)
        kinetic = none_yet if self.algorithm.underdamped else None
        num_refused = jnp.zeros((), jnp.int32)
        first = _Steps(
            state.inner, state.gradient, state.potential_energy, state.step_size, kinetic, none_yet, num_refused
        )  # fmt: skip
        return over_batches(
            step, first, drawn, target.rows, num_steps, even_reads(num_steps, target.rows.at_once)
        )

    def _level(self, course: Float[Array, ""], count: Int[Array, ""]) -> Float[Array, ""]:
        """T of the noise of a step."""
        return course * at_count(self.temperature, count)

    def _share(self, j: Int[Array, ""], num_steps: Any) -> Float[Array, ""]:
        """Weight of a step in the temperatures of its draw: all alike; of a cycle, whose steps differ, the last."""
        if isinstance(self.algorithm, Cyclical):
            return jnp.where(j == num_steps - 1, 1.0, 0.0)
        return jnp.asarray(1 / num_steps)


def _kinetic(info: SGInfo, good: Bool[Array, ""]) -> Values:
    """T_kin of a step; 0 of one that was refused, whose momentum is."""
    return jax.tree.map(lambda value: jnp.where(good, value, 0), info.kinetic_temperature)


def _where(condition: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def _add(total: Values, value: Values, share: Array) -> Values:
    return jax.tree.map(lambda t, v: t + (share * v).astype(t.dtype), total, value)
