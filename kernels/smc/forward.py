"""One stage of a particle filter, with or without a reference particle, and the stages in a row.

    A_t^i ~ W_{t-1} iid;   x_t^i ~ m_t(. | c_{t-1}^{A^i});   w_t^i = g_t(c_{t-1}^{A^i}, x_t^i)   (1)

or x_t^i ~ q_t and w_t^i = g_t m_t / q_t where the model has a proposal (`types.with_proposal`).
Gordon, Salmond and Smith (1993). Given a reference path x*, slot 0 is kept for it: A_t^0 = 0 and
x_t^0 = x*_t (Andrieu, Doucet and Holenstein 2010). Resampling happens at every stage: done only
when the effective sample size is low, the conditional filter would be biased. The keys of stage t
are `fold_in(key, t)`, so that a stage can be made again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .resampling import effective_sample_size, inverse_cdf, relative_weights, safe_log_weights
from .types import SSM, Carry, Cloud, Latents, Path, propose, take

type StepBack = Callable[[Any, Any], tuple[Any, Any]]
"""(state, (inputs, Stages of one stage)) -> (state, outputs): a `lax.scan` body over stages."""


class StageStats(NamedTuple):
    """What is kept of the weights of a stage.

    Attributes:
        log_mean_weight: log of the mean weight, -inf if none is positive.
        ess: 1 / sum W^2, between 1 and N; 0 if no weight is positive.
        num_nonfinite: weights that were NaN or +inf, plus 1 if no particle is possible.
        impossible: whether no particle is possible.
    """

    log_mean_weight: Float[Array, ""]
    ess: Float[Array, ""]
    num_nonfinite: Int[Array, ""]
    impossible: Bool[Array, ""]


class Stages(NamedTuple):
    """What the path that is drawn afterwards needs of S stages in a row; leading axes (S, N) on every leaf.

    Attributes:
        carries: c_{t-1}^i.
        log_weights: of the same particles.
        latents: x_t^i.
        ancestors: A_t^i.
    """

    carries: Carry
    log_weights: Float[Array, "S N"]
    latents: Latents
    ancestors: Int[Array, "S N"]


class Start(NamedTuple):
    """Stage 0.

    Attributes:
        initial: x_0^i, leading axis N.
        cloud: the cloud in the shape of a later one (`with_stage_latents`).
        stats: of its weights.
    """

    initial: Latents
    cloud: Cloud
    stats: StageStats


class History(NamedTuple):
    """The clouds of a sweep, stored whole.

    Attributes:
        initial: x_0^i, leading axis N.
        stages: 1, ..., T.
        last: the cloud of stage T.
    """

    initial: Latents
    stages: Stages
    last: Cloud

    def scan_back(self, step: StepBack, state: Any, inputs: PyTree[Array]) -> tuple[Any, PyTree[Array]]:
        """`step` over the stages T, ..., 1, each with its row of `inputs`: the last state, and T outputs."""
        return lax.scan(step, state, (inputs, self.stages), reverse=True)


def first_stage(
    key: Key[Array, ""], ssm: SSM, num: int, reference: Latents | None
) -> tuple[Cloud, StageStats]:
    """Stage 0: x_0^i ~ chi, w_0^i = g_0; slot 0 holds the reference if there is one."""
    latents = jax.vmap(ssm.init)(_slot_keys(key, num))
    if reference is not None:
        latents = jax.tree.map(lambda leaf, value: leaf.at[0].set(value), latents, reference)
    in_slots = None if not jax.tree.leaves(latents) else 0
    carry = jax.vmap(ssm.init_carry, in_axes=(in_slots,), axis_size=num)(latents)
    log_likelihood = jax.vmap(ssm.init_loglik, in_axes=(in_slots,), axis_size=num)(latents)
    log_weights, stats = _weigh(latents, log_likelihood)
    return Cloud(latents, carry, log_weights), stats


def next_stage(
    key: Key[Array, ""], ssm: SSM, cloud: Cloud, t: Int[Array, ""], reference: Latents | None
) -> tuple[Cloud, Int[Array, "N"], StageStats]:
    """Stage t from the cloud of stage t - 1: equation (1). Returns the ancestors too."""
    num = cloud.log_weights.shape[0]
    key_resample, key_propose = random.split(key)
    slots = jnp.arange(num)
    is_reference = (slots == 0) if reference is not None else jnp.zeros(num, bool)
    ancestors = inverse_cdf(key_resample, cloud.log_weights, num)
    ancestors = jnp.where(is_reference, 0, ancestors)
    if reference is None:
        reference = one_latent(ssm)
    proposed = jax.vmap(propose(ssm), in_axes=(0, 0, None, 0, None))(
        _slot_keys(key_propose, num), take(cloud.carry, ancestors), t, is_reference, reference
    )
    log_weights, stats = _weigh(proposed.latents, proposed.log_weight)
    return Cloud(proposed.latents, proposed.carry, log_weights), ancestors, stats


def start_sweep(key: Key[Array, ""], ssm: SSM, num: int, path: Path | None) -> Start:
    """Stage 0 of a sweep; with a `path`, conditional on it."""
    cloud, stats = first_stage(random.fold_in(key, 0), ssm, num, None if path is None else path.initial)
    return Start(cloud.latents, with_stage_latents(ssm, cloud), stats)


def run_stages(
    key: Key[Array, ""], ssm: SSM, cloud: Cloud, times: Int[Array, "S"], references: Latents | None
) -> tuple[Cloud, Stages, StageStats]:
    """The stages `times` in a row from the cloud before them; statistics have the leading axis S."""

    def step(cloud: Cloud, stage: tuple[Int[Array, ""], Key[Array, ""], Latents | None]):
        t, key, reference = stage
        after, ancestors, stats = next_stage(key, ssm, cloud, t, reference)
        return after, (Stages(cloud.carry, cloud.log_weights, after.latents, ancestors), stats.num_nonfinite)

    # what a stage does not need is done for all of them at once: keys before, statistics after the loop
    keys = jax.vmap(random.fold_in, in_axes=(None, 0))(key, times)
    last, (stages, num_nonfinite) = lax.scan(step, cloud, (times, keys, references))
    _, stats = jax.vmap(_stage_stats)(jnp.concatenate([stages.log_weights[1:], last.log_weights[None]]))
    return last, stages, stats._replace(num_nonfinite=num_nonfinite)


def forward_sweep(
    key: Key[Array, ""], ssm: SSM, first: Start, path: Path | None
) -> tuple[History, StageStats]:
    """All stages after the first, stored; statistics of stages 0, ..., T, leading axis T + 1."""
    times = jnp.arange(1, ssm.length + 1)
    last, stages, stats = run_stages(key, ssm, first.cloud, times, None if path is None else path.latents)
    return History(first.initial, stages, last), with_first(first.stats, stats)


def with_first(first: StageStats, rest: StageStats) -> StageStats:
    """Statistics of stage 0 in front of those of the stages after it."""
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)


def _slot_keys(key: Key[Array, ""], num: int) -> Key[Array, "N"]:
    """A key a particle: that of the stage with the slot added to its last word.

    A counter-based generator asks for no more than distinct keys (Salmon and others 2011), and hashing each
    of them, as `random.split` does, is a tenth of a sweep.
    """
    words = random.key_data(key)
    slots = jnp.arange(num, dtype=words.dtype)
    every = jnp.broadcast_to(words, (num, *words.shape)).at[:, -1].add(slots)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return random.wrap_key_data(every, impl=random.key_impl(key)) if typed else every


def _weigh(latents: Latents, log_weights: Float[Array, "N"]) -> tuple[Float[Array, "N"], StageStats]:
    """Log-weights and their statistics; where nothing is observed a state that is no number would weigh 1."""
    return _stage_stats(jnp.where(_has_nan(latents), jnp.nan, log_weights))


def _has_nan(latents: Latents) -> Bool[Array, "N"]:
    def in_leaf(leaf: Array) -> Bool[Array, "N"]:
        return jnp.isnan(leaf).any(tuple(range(1, leaf.ndim)))

    floats = [leaf for leaf in jax.tree.leaves(latents) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(map(in_leaf, floats), start=jnp.zeros((), bool))


def one_latent(ssm: SSM) -> Latents:
    """Zeros of the shape of one x_t."""

    def draw(key):
        return ssm.sample(key, ssm.init_carry(ssm.init(key)), jnp.array(1))

    shapes = jax.eval_shape(draw, random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def with_stage_latents(ssm: SSM, cloud: Cloud) -> Cloud:
    """The cloud of stage 0 in the shape of a later one: x_0 may be another pytree than x_t."""
    num = cloud.log_weights.shape[0]

    def rows(leaf):
        return jnp.broadcast_to(leaf, (num, *leaf.shape))

    return cloud._replace(latents=jax.tree.map(rows, one_latent(ssm)))


def _stage_stats(log_weights: Float[Array, "N"]) -> tuple[Float[Array, "N"], StageStats]:
    """The log-weights made safe, and what is kept of them."""
    log_weights, num_bad = safe_log_weights(log_weights)
    weights, largest = relative_weights(log_weights)
    impossible = ~jnp.any(weights > 0)
    log_mean = jnp.log(jnp.where(impossible, 1.0, weights.mean())) + largest
    stats = StageStats(
        jnp.where(impossible, -jnp.inf, log_mean),
        effective_sample_size(weights),
        num_bad + impossible,
        impossible,
    )
    return log_weights, stats
