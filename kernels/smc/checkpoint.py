"""A sweep in O(N sqrt(T)) memory: every S-th cloud is kept, the stages between are made again.

    forwards:   clouds of stages 0, S, 2S, ... are kept, and the last R stages whole
    backwards:  the last R stages; then for k = K, ..., 1 the stages after cloud (k - 1) S are made again
                and used                                                                          (1)

S = ceil(sqrt(T)), R = T - K S in 2, ..., S + 1. The stages made again have the same keys,
`fold_in(key, t)`, so that clouds and draws are those of a sweep stored whole, bit for bit (R = 1 would
not do: XLA unrolls a loop over one stage, and rounds it its own way). Statistics of the weights are
made for a segment at once and not for all T: the last digit of their sums may be another. This is the
checkpointing of reverse-mode differentiation (Griewank 1992) with one level: at most twice the work
forwards, the same work backwards.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key, PyTree

from .forward import Stages, StageStats, Start, StepBack, run_stages, with_first
from .paris import Smoother, estimate, smooth_stages
from .types import SSM, Cloud, Latents, Path

type Checkpoint = Literal["auto"] | bool
CHECKPOINT = ("auto", True, False)

# What a sweep may store before "auto" keeps every S-th cloud only.
_MAX_STORED_BYTES = 256 * 2**20


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Refuse what is not in `CHECKPOINT`."""
    if checkpoint != "auto" and not isinstance(checkpoint, bool):
        raise ValueError(f"checkpoint must be one of {CHECKPOINT}, got {checkpoint!r}.")


def is_checkpointed(checkpoint: Checkpoint, length: int, cloud: Cloud, num_chains: int = 1) -> bool:
    """Whether `num_chains` sweeps together, of `length` such clouds each, keep every S-th of them only."""
    if checkpoint != "auto":
        return checkpoint
    ancestors = jax.ShapeDtypeStruct(cloud.log_weights.shape, jnp.int32)
    of_one_stage = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((cloud, ancestors)))
    return num_chains * length * of_one_stage > _MAX_STORED_BYTES


class Segments(NamedTuple):
    """What the stages of several segments start from; a leading axis K on every leaf.

    Attributes:
        cloud: before the first stage.
        times: of the stages, (K, S).
        references: x*_t of the stages, (K, S); None without a reference.
    """

    cloud: Cloud
    times: Int[Array, "K S"]
    references: Latents | None


class Checkpoints(NamedTuple):
    """The clouds of a sweep, of which few are stored, equation (1).

    Attributes:
        initial: x_0^i, leading axis N.
        segments: 1, ..., K.
        stages: the last R.
        last: the cloud of stage T.
        remake: `run_stages` of a segment.
    """

    initial: Latents
    segments: Segments
    stages: Stages
    last: Cloud
    remake: Callable[..., tuple[Cloud, Stages, StageStats]]

    def scan_back(self, step: StepBack, state: Any, inputs: PyTree[Array]) -> tuple[Any, PyTree[Array]]:
        """See `History`."""
        early, late = _split(inputs, *self.segments.times.shape)

        def through_segment(state: Any, segment: tuple[Segments, PyTree[Array]]):
            made_of, inputs = segment
            _, stages, _ = self.remake(*made_of)
            return lax.scan(step, state, (inputs, stages), reverse=True)

        state, late_outputs = lax.scan(step, state, (late, self.stages), reverse=True)
        state, early_outputs = lax.scan(through_segment, state, (self.segments, early), reverse=True)
        return state, _join(early_outputs, late_outputs)


def checkpointed_sweep(
    key: Key[Array, ""],
    key_smooth: Key[Array, ""],
    ssm: SSM,
    first: Start,
    path: Path | None,
    smooth: Smoother | None,
) -> tuple[Checkpoints, StageStats, PyTree[Array]]:
    """`forward_sweep` and, with `smooth`, `paris.smoothed` on its way: no stage is there afterwards."""
    size = math.isqrt(ssm.length - 1) + 1
    num = max(ssm.length - 2, 0) // size
    stages_of = (jnp.arange(1, ssm.length + 1), None if path is None else path.latents)
    early, late = _split(stages_of, num, size)
    remake = partial(run_stages, key, ssm)

    def through(state: tuple[Cloud, Any], segment: tuple[Int[Array, "S"], Latents | None]):
        cloud, beta = state
        after, stages, stats = remake(cloud, *segment)
        if smooth is not None:
            beta = smooth_stages(key_smooth, smooth, beta, first.initial, cloud, segment[0], stages)
        return (after, beta), stages, (cloud, stats)

    def keep_cloud(state, segment):
        state, _, kept = through(state, segment)
        return state, kept

    beta = None if smooth is None else smooth.first(first.initial)
    state, (clouds, early_stats) = lax.scan(keep_cloud, (first.cloud, beta), early)
    (last, beta), stages, (_, late_stats) = through(state, late)
    stats = with_first(first.stats, _join(early_stats, late_stats))
    checkpoints = Checkpoints(first.initial, Segments(clouds, *early), stages, last, remake)
    return checkpoints, stats, None if beta is None else estimate(beta, last.log_weights)


def _split(tree: PyTree[Array], num: int, size: int) -> tuple[PyTree[Array], PyTree[Array]]:
    """The first `num` times `size` rows as (num, size), and the rows after them."""
    early = jax.tree.map(lambda leaf: leaf[: num * size].reshape(num, size, *leaf.shape[1:]), tree)
    return early, jax.tree.map(lambda leaf: leaf[num * size :], tree)


def _join(early: PyTree[Array], late: PyTree[Array]) -> PyTree[Array]:
    """The rows that `_split` has parted."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(-1, *b.shape[1:]), b]), early, late)
