"""All that paths with right labels say about rates: how often j followed i at each lag.

    log p(labels) = sum_k log pi_0(y_k1) + sum_u sum_ij C^u_ij log P(t_u)_ij                                (1)

The cost of (1) does not depend on the number of paths, and counts add: a stream of paths needs constant memory when
the lags are binned by fixed edges. Counts are integers until the last sum, since float32 cannot count beyond 2^24.

Two pairs of functions do the same: with numpy on the host, and on a `LagGrid` while tracing. What a reader would
get wrong: points that were not seen are left out, so that a pair is two points *seen* in a row; and a repeated time
with the same label is no pair.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .paths import check_states, check_times, is_traced, with_mask
from .transition import LagGrid, distinct_lags, log_transitions, padded_lags, resolution

# A pair of points, and at most so many bins for what is evaluated hundreds of times.
_FEW_BINS = 16


class PathStatistics(NamedTuple):
    """Counts of paths; see `path_statistics`.

    Attributes:
        lags: `[U]`, rising; of a bin the mean lag, 0 for one that is empty.
        counts: `[U, n, n]`, integers: pairs of points seen in a row, by lag, state before and state after.
        lag_bins: edges `[U + 1]`, or None for the distinct lags.
        first: `[n]`, integers: labels that paths begin with.
        visits: `[n]`, integers: all labels.
        num_paths: paths in which something was seen.
        num_labels: labels seen.
        total_time: from the first to the last point seen, over all paths.
    """

    lags: Float[Array | np.ndarray, " U"]
    counts: Int[Array | np.ndarray, "U n n"]
    lag_bins: Float[Array | np.ndarray, " U+1"] | None
    first: Int[Array | np.ndarray, " n"]
    visits: Int[Array | np.ndarray, " n"]
    num_paths: Int[Array | np.ndarray, ""]
    num_labels: Int[Array | np.ndarray, ""]
    total_time: Float[Array | np.ndarray, ""]

    @property
    def num_states(self) -> int:
        """n."""
        return self.counts.shape[-1]


def path_statistics(
    times: Float[ArrayLike, "*paths L"],
    states: Int[ArrayLike, "*paths L"],
    mask: Bool[ArrayLike, "*paths L"] | None = None,
    num_states: int | None = None,
    *,
    lag_bins: ArrayLike | None = None,
    grid: LagGrid | None = None,
    exact: bool = True,
) -> PathStatistics:
    """Counts of paths.

    Args:
        times: `[L]` for all paths, or `[K, L]`, not falling within a path.
        states: labels from 0 on, `[L]` or `[K, L]`.
        mask: True where a point was seen.
        num_states: n; the largest label + 1 without it.
        lag_bins: edges `[B + 1]`, rising, that hold all lags: counts of many parts can then be added (`merge`). Choose
            bins so narrow that rates change little in law within one: a fifth of a decade, or less.
        grid: `lag_grid(times, mask)`, needed where something is traced; num_states is then needed too.
        exact: False where labels may be wrong: two labels at one time are then no contradiction.

    Raises:
        ValueError: labels that are no states, times that fall or are NaN, shapes that do not fit, fewer than two
            points in every path, two labels at one time, lags outside the bins; traced arrays without a grid.

    Examples:
        >>> from emberwalk.kernels.jump import path_statistics
        >>> stats = path_statistics(np.array([0.0, 1.0, 2.0, 4.0]), np.array([[0, 0, 1, 1], [1, 1, 0, 0]]))
        >>> stats.lags.tolist(), stats.counts[0].tolist(), stats.counts[1].tolist()
        ([1.0, 2.0], [[1, 1], [1, 1]], [[1, 0], [0, 1]])
    """
    if is_traced(times, states, mask, grid):
        if grid is None or num_states is None:
            raise ValueError("times are traced: pass grid=lag_grid(times) and num_states=.")
        if lag_bins is not None:
            raise ValueError("lag_bins and grid both say what the lags are: give one.")
        return _traced_statistics(times, states, mask, num_states, grid)
    at, labels, seen = together(times, states, mask)
    check_times(at, seen)
    if seen.sum(-1).max(initial=0) < 2:
        raise ValueError(
            f"times and mask: no path has two points that were seen, of {len(seen)} paths with {int(seen.sum())} "
            "points in all. Rates need at least one pair."
        )
    labels, num_states = check_states(labels, seen, num_states)
    pairs = _pairs(at, labels, seen, exact)
    if not pairs.lag.size:
        raise ValueError("times: no path has two points at different times. Rates need at least one such pair.")
    if grid is not None:
        if lag_bins is not None:
            raise ValueError("lag_bins and grid both say what the lags are: give one.")
        index = np.broadcast_to(np.asarray(grid.index), (*seen.shape[:-1], seen.shape[-1] - 1))
        lags, group = (
            np.asarray(grid.lags),
            index.reshape(-1, seen.shape[-1] - 1)[pairs.path, pairs.position - 1],
        )
    elif lag_bins is not None:
        lags, group, lag_bins = _binned(pairs.lag, lag_bins)
    else:
        lags, group = distinct_lags(pairs.lag, atol=resolution(np.asarray(times), seen))
    n = num_states
    cells = (group * n + pairs.before) * n + pairs.after
    counts = np.bincount(cells, minlength=len(lags) * n * n).reshape(len(lags), n, n)
    first = labels[seen.any(-1), np.argmax(seen, -1)[seen.any(-1)]]
    return PathStatistics(
        lags=lags,
        counts=counts,
        lag_bins=None if lag_bins is None else np.asarray(lag_bins),
        first=np.bincount(first, minlength=n),
        visits=np.bincount(labels[seen], minlength=n),
        num_paths=np.asarray(len(first)),
        num_labels=np.asarray(seen.sum()),
        total_time=np.asarray(pairs.lag.sum()),
    )


class _Pairs(NamedTuple):
    """Points seen in a row: of which path, the later one's position, the lag and both labels."""

    path: Int[np.ndarray, " P"]
    position: Int[np.ndarray, " P"]
    lag: Float[np.ndarray, " P"]
    before: Int[np.ndarray, " P"]
    after: Int[np.ndarray, " P"]


def together(times: Any, states: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, labels and mask as `[K, L]`."""
    times, states = np.asarray(times), np.asarray(states)
    seen = np.ones((), bool) if mask is None else np.asarray(mask, bool)
    try:
        shape = np.broadcast_shapes(times.shape, states.shape, seen.shape)
    except ValueError:
        shape = ()
    if not 1 <= len(shape) <= 2 or min(times.ndim, states.ndim) < 1:
        raise ValueError(
            f"times {times.shape}, states {states.shape} and mask {seen.shape} do not fit: "
            "each must be [L] or [K, L]."
        )
    times, seen = with_mask(np.broadcast_to(times, shape), np.broadcast_to(seen, shape))
    return np.atleast_2d(times), np.atleast_2d(np.broadcast_to(states, shape)), np.atleast_2d(seen)


def _pairs(times: np.ndarray, labels: np.ndarray, seen: np.ndarray, exact: bool) -> _Pairs:
    path, position = np.nonzero(seen)
    later = np.flatnonzero(path[1:] == path[:-1]) + 1
    t, y = times[path, position], labels[path, position]
    pairs = _Pairs(path[later], position[later], t[later] - t[later - 1], y[later - 1], y[later])
    together = pairs.lag == 0
    clash = together & (pairs.before != pairs.after)
    if exact and clash.any():
        p = int(np.argmax(clash))
        raise ValueError(
            f"states: {pairs.before[p]} and {pairs.after[p]} at one time in path {pairs.path[p]} at position "
            f"{pairs.position[p]}. If labels may be wrong, set label_noise."
        )
    return _Pairs(*(field[~together] for field in pairs))


def _binned(lags: np.ndarray, lag_bins: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean lag of each bin, the bin of each lag, the edges."""
    edges = np.asarray(lag_bins, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"lag_bins must be rising edges [B + 1], at least two, got {lag_bins!r}.")
    outside = (lags < edges[0]) | (lags > edges[-1])
    if outside.any():
        raise ValueError(
            f"lag_bins must hold all lags: they reach from {edges[0]:g} to {edges[-1]:g}, and {int(outside.sum())} "
            f"lags are outside, such as {lags[outside][0]:g}."
        )
    group = np.minimum(np.searchsorted(edges, lags, side="right") - 1, len(edges) - 2)
    number = np.bincount(group, minlength=len(edges) - 1)
    return np.bincount(group, lags, len(edges) - 1) / np.maximum(number, 1), group, edges


def _traced_statistics(times: Any, states: Any, mask: Any, n: int, grid: LagGrid) -> PathStatistics:
    """The same on a grid, in shapes that do not depend on the values. Nothing is checked."""
    states = jnp.asarray(states)
    shape = jnp.broadcast_shapes(jnp.shape(times), states.shape, () if mask is None else jnp.shape(mask))
    times, states = jnp.broadcast_to(times, shape), jnp.broadcast_to(states, shape)
    seen = jnp.broadcast_to(jnp.ones((), bool) if mask is None else jnp.asarray(mask), shape)
    length = shape[-1]
    times, states, seen = (x.reshape(-1, length) for x in (times, states, seen))
    index = jnp.broadcast_to(jnp.asarray(grid.index), (*shape[:-1], length - 1)).reshape(-1, length - 1)

    position = jnp.where(seen, jnp.arange(length), -1)
    last = jax.lax.cummax(position, axis=1)
    before = jnp.take_along_axis(states, jnp.maximum(last[:, :-1], 0), 1)
    pair = seen[:, 1:] & (last[:, :-1] >= 0) & (jnp.asarray(grid.lags)[index] > 0)
    cells = (index * n + before) * n + states[:, 1:]
    num_lags = jnp.shape(grid.lags)[0]
    counts = jax.ops.segment_sum(pair.ravel().astype(int), cells.ravel(), num_lags * n * n)
    counts = counts.reshape(num_lags, n, n)
    first = jnp.argmax(seen, 1)[:, None]
    begun = seen.any(1)
    first_label = jnp.take_along_axis(states, first, 1)[:, 0]
    end = jnp.maximum(last[:, -1:], 0)
    spans = (jnp.take_along_axis(times, end, 1) - jnp.take_along_axis(times, first, 1))[:, 0]
    return PathStatistics(
        lags=jnp.asarray(grid.lags),
        counts=counts,
        lag_bins=None,
        first=jax.ops.segment_sum(begun.astype(int), jnp.clip(first_label, 0, n - 1), n),
        visits=jax.ops.segment_sum(seen.ravel().astype(int), jnp.clip(states, 0, n - 1).ravel(), n),
        num_paths=begun.sum(),
        num_labels=seen.sum(),
        total_time=jnp.where(begun, spans, 0).sum(),
    )


def merge(a: PathStatistics, b: PathStatistics) -> PathStatistics:
    """The counts of both sets of paths, on the host.

    Args:
        a: of some paths.
        b: of others, with the same `lag_bins`; where neither has bins, distinct lags are united and their number
            grows.

    Raises:
        ValueError: other bins, or another number of states.

    Examples:
        >>> from emberwalk.kernels.jump import merge, path_statistics
        >>> a = path_statistics(np.array([0.0, 1.0]), np.array([[0, 1]]))
        >>> b = path_statistics(np.array([0.0, 2.0]), np.array([[0, 1], [1, 1]]))
        >>> merge(a, b).lags.tolist(), int(merge(a, b).counts.sum())
        ([1.0, 2.0], 3)
    """
    if a.num_states != b.num_states:
        raise ValueError(f"num_states differ: {a.num_states} and {b.num_states}. Give num_states= to both.")
    edges = a.lag_bins
    alike = edges is None if b.lag_bins is None else edges is not None and np.array_equal(edges, b.lag_bins)
    if not alike:
        raise ValueError(f"lag_bins differ: {a.lag_bins} and {b.lag_bins}. Give the same lag_bins= to both.")
    if edges is not None:
        counts = np.asarray(a.counts) + np.asarray(b.counts)
        lags = _pooled_lags(np.stack([a.lags, b.lags], 1), np.stack([_numbers(a), _numbers(b)], 1))
    else:
        counts, lags = _united(np.concatenate([a.lags, b.lags]), np.concatenate([a.counts, b.counts]))
    return PathStatistics(
        lags,
        counts,
        edges,
        *(np.asarray(x) + np.asarray(y) for x, y in zip(a[3:], b[3:], strict=True)),
    )


def _numbers(stats: PathStatistics) -> Int[np.ndarray, " U"]:
    return np.asarray(stats.counts).sum((1, 2))


def _pooled_lags(lags: np.ndarray, numbers: np.ndarray) -> Float[np.ndarray, " U"]:
    """Mean lag over the last axis; 0 where nothing was seen."""
    return (lags * numbers).sum(1) / np.maximum(numbers.sum(1), 1)


def _united(lags: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of equal lags added."""
    groups, group = distinct_lags(np.asarray(lags))
    added = np.zeros((len(groups), *counts.shape[1:]), counts.dtype)
    np.add.at(added, group, counts)
    return added, groups


def coarsen(stats: PathStatistics, num_bins: int = _FEW_BINS) -> PathStatistics:
    """At most so many lags, on the host: the same counts by bins of equal ratio.

    For what is evaluated hundreds of times (`presence`), where a lag need not be told from one 20 % longer.

    Args:
        stats: as many lags as there are.
        num_bins: at most so many are left; bins lie between the 1 % and 99 % quantiles of the lags.

    Raises:
        ValueError: fewer than one bin.

    Examples:
        >>> from emberwalk.kernels.jump import coarsen, path_statistics
        >>> times = np.cumsum(np.random.default_rng(0).exponential(size=100))
        >>> stats = path_statistics(times, np.arange(100) % 3)
        >>> stats.lags.shape, coarsen(stats).lags.shape, int(coarsen(stats).counts.sum())
        ((99,), (16,), 99)
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    if stats.lags.shape[0] <= num_bins:
        return stats
    lags, numbers = np.asarray(stats.lags, np.float64), _numbers(stats)
    # of all pairs: bins of a stream may be empty, and then have no lag
    order, pairs = np.argsort(lags), int(numbers.sum())
    ends = lags[order][np.searchsorted(np.cumsum(numbers[order]), [-(-pairs // 100), pairs - pairs // 100])]
    shortest, longest = (max(float(end), 1e-300) for end in ends)
    inner = np.geomspace(shortest, longest, num_bins + 1)[1:-1]
    group = np.searchsorted(inner, lags, side="right")
    counts = np.zeros((num_bins, *np.shape(stats.counts)[1:]), np.asarray(stats.counts).dtype)
    np.add.at(counts, group, np.asarray(stats.counts))
    total = np.bincount(group, lags * numbers, num_bins)
    edges = np.concatenate([[0.0], inner, [np.inf]])
    return stats._replace(lags=total / np.maximum(counts.sum((1, 2)), 1), counts=counts, lag_bins=edges)


def padded(stats: PathStatistics) -> PathStatistics:
    """The same counts, and some lags of 0 without any; see `padded_lags`."""
    lags = padded_lags(stats.lags)
    more = ((0, len(lags) - len(stats.lags)), (0, 0), (0, 0))
    return stats._replace(lags=lags, counts=np.pad(np.asarray(stats.counts), more), lag_bins=None)


def change_rate(stats: PathStatistics) -> Float[Array, ""]:
    """lam = (J + 1/2) / total time, J the number of pairs with different labels: the unit of time of the data.

    Args:
        stats: of `path_statistics`; may be traced.

    Returns:
        A rate, per unit of time; the half keeps it above 0 where nothing changed.

    Examples:
        >>> from emberwalk.kernels.jump import change_rate, path_statistics
        >>> stats = path_statistics(np.array([0.0, 1.0, 2.0, 6.0]), np.array([[0, 1, 1, 0]]))
        >>> round(float(change_rate(stats)), 4)
        0.4167
    """
    # integers of 32 bits would wrap beyond two thousand million pairs
    counts = jnp.asarray(stats.counts, float)
    changes = counts.sum() - jnp.trace(counts, axis1=1, axis2=2).sum()
    return (changes + 0.5) / jnp.asarray(stats.total_time, float)


def with_float_counts[Counts](stats: Counts) -> Counts:
    """Counts of 64 bits on the host as floats: a program would make integers of 32 bits of them, which may wrap.

    Args:
        stats: `PathStatistics` or `NetworkStatistics`.
    """

    def floating(x: Any) -> Any:
        is_wide = isinstance(x, np.ndarray) and x.dtype == np.int64
        return x.astype(jnp.result_type(float)) if is_wide else x

    return jax.tree.map(floating, stats)


def dwell_times(stats: PathStatistics) -> Float[Array, " n"]:
    """Time in each state, were each jump in the middle of its lag: `[n]`, in units of time.

    Args:
        stats: of `path_statistics`; may be traced.

    Examples:
        >>> from emberwalk.kernels.jump import dwell_times, path_statistics
        >>> dwell_times(path_statistics(np.array([0.0, 1.0, 2.0, 6.0]), np.array([[0, 1, 1, 0]]))).tolist()
        [2.5, 3.5]
    """
    time = jnp.asarray(stats.counts, float) * jnp.asarray(stats.lags, float)[:, None, None]
    time = time.sum(0)
    return (time.sum(0) + time.sum(1)) / 2


def count_log_likelihood(transitions: Float[Array, "U n n"], stats: PathStatistics) -> Float[Array, ""]:
    """Equation (1), without the first labels.

    Args:
        transitions: P of each of `stats.lags`, `[U, n, n]`.
        stats: the counts.

    Examples:
        >>> from emberwalk.kernels.jump import count_log_likelihood, path_statistics, transition_matrices
        >>> stats = path_statistics(np.array([0.0, 0.5]), np.array([[0, 1]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), stats.lags)
        >>> round(float(count_log_likelihood(P, stats)), 4)  # log .3161
        -1.1518
    """
    return jnp.sum(jnp.asarray(stats.counts, transitions.dtype) * log_transitions(transitions))
