"""What the network sees of paths: counts by lag, and counts that tell wrong labels from fast returns.

    pair_k[i, j] = number of points with label i, k places before one with label j,   k = 2, 4              (1)
    blips[i, j]  = number of triples i, j, i of points seen in a row, i != j                                (2)

A wrong label is a visit that ends at the next point, whatever the lag; a return of the process takes its time. So
(1) and (2), beside the counts of `counts.py`, tell the level of noise from the rates. All of them add, and none
grows with the number of paths.

On the host lags are the distinct ones, or 16 bins where there are more; while tracing both are found in the trace,
and shapes do not depend on the data. What a reader would get wrong: k places apart is k points *seen* apart; and
lags without counts, which fill the table up to 16, are 0.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .counts import PathStatistics, coarsen, merge, path_statistics, together
from .paths import is_traced
from .transition import LagGrid

NUM_BINS = 16
# Lags in float32 that differ by less, relatively, were equal before times were rounded.
_ALIKE = 1e-4


class NetworkStatistics(NamedTuple):
    """Counts of paths for the network; see `network_statistics`.

    Attributes:
        paths: by lag, `PathStatistics` of at most 16 lags and as many without counts as fill the 16.
        pair2: `[n, n]`, integers: pairs of points two places apart, by state before and state after.
        time2: `[n, n]`: their lags, summed.
        pair4: `[n, n]`, integers: four places apart.
        time4: `[n, n]`: their lags, summed.
        blips: `[n, n]`, integers: triples i, j, i at [i, j]; 0 on the diagonal.
    """

    paths: PathStatistics
    pair2: Int[Array | np.ndarray, "n n"]
    time2: Float[Array | np.ndarray, "n n"]
    pair4: Int[Array | np.ndarray, "n n"]
    time4: Float[Array | np.ndarray, "n n"]
    blips: Int[Array | np.ndarray, "n n"]

    @property
    def num_states(self) -> int:
        """n."""
        return self.pair2.shape[-1]


def network_statistics(
    times: Float[ArrayLike, "*paths L"],
    states: Int[ArrayLike, "*paths L"],
    mask: Bool[ArrayLike, "*paths L"] | None = None,
    num_states: int | None = None,
    *,
    lag_bins: ArrayLike | None = None,
) -> NetworkStatistics:
    """Counts of paths for the network, equations (1) and (2).

    Args:
        times: `[L]` for all paths, or `[K, L]`, not falling within a path.
        states: labels from 0 on, `[L]` or `[K, L]`; they may be wrong.
        mask: True where a point was seen.
        num_states: n; the largest label + 1 without it. Needed where something is traced.
        lag_bins: edges `[B + 1]`, rising, that hold all lags: counts of many parts can then be added
            (`merge_network_statistics`), whatever their lags. On the host only.

    Raises:
        ValueError: labels that are no states, times that fall or are NaN, shapes that do not fit, fewer than two
            points in every path, lags outside the bins; traced arrays without num_states, or with lag_bins. Where
            values are traced no error can be raised: labels that are no states and times that fall make the time of
            the paths, and with it all answers, NaN. Traced times keep the digits of their dtype: begin paths near 0.

    Examples:
        >>> from emberwalk.kernels.jump.network_statistics import network_statistics
        >>> stats = network_statistics(np.arange(5.0), np.array([[0, 1, 0, 0, 2]]))
        >>> stats.pair2.tolist(), stats.blips.tolist()
        ([[1, 0, 1], [1, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    """
    if is_traced(times, states, mask):
        if num_states is None:
            raise ValueError(
                "times or states are traced, and the number of states needs their values: pass num_states=."
            )
        if lag_bins is not None:
            raise ValueError(
                "times or states are traced, and bins of fixed edges need their values: leave lag_bins out."
            )
        return _traced_statistics(times, states, mask, num_states)
    paths = path_statistics(times, states, mask, num_states, lag_bins=lag_bins, exact=False)
    at, labels, seen = together(times, states, mask)
    if not seen.all():
        at, labels, seen = to_front(at, labels, seen)
    fields = far_pairs(at, np.where(seen, labels, 0), seen, paths.num_states)
    return NetworkStatistics(few_lags(paths) if lag_bins is None else paths, *fields)


def few_lags(stats: PathStatistics) -> PathStatistics:
    """At most 16 lags, and as many without counts as fill the 16."""
    used = np.asarray(stats.counts).sum((1, 2)) > 0
    return filled(coarsen(stats._replace(lags=stats.lags[used], counts=stats.counts[used]), NUM_BINS))


def filled(stats: PathStatistics) -> PathStatistics:
    """With lags of 0 without counts up to 16, on the host: programs then meet one shape."""
    more = NUM_BINS - len(stats.lags)
    lags, counts = np.pad(stats.lags, (0, more)), np.pad(stats.counts, ((0, more), (0, 0), (0, 0)))
    return stats._replace(lags=lags, counts=counts)


def merge_network_statistics(a: NetworkStatistics, b: NetworkStatistics) -> NetworkStatistics:
    """The counts of both sets of paths, on the host.

    Args:
        a: of some paths.
        b: of others, with the same `lag_bins`, or both without.

    Raises:
        ValueError: other bins, or another number of states. More than 16 distinct lags are put into bins of the data's
            own, which two parts do not share: give `lag_bins`.

    Examples:
        >>> from emberwalk.kernels.jump.network_statistics import merge_network_statistics, network_statistics
        >>> a = network_statistics(np.arange(3.0), np.array([[0, 1, 0]]))
        >>> int(merge_network_statistics(a, a).blips[0, 1])
        2
    """
    paths = merge(a.paths, b.paths)
    fields = (np.asarray(x) + np.asarray(y) for x, y in zip(a[1:], b[1:], strict=True))
    return NetworkStatistics(few_lags(paths) if paths.lag_bins is None else paths, *fields)


def to_front(times: Any, labels: Any, seen: Any) -> tuple[Any, Any, Any]:
    """The points of each path that were seen, in their order, before the others; numpy or traced, `[K, L]`."""
    xp = np if isinstance(seen, np.ndarray) else jnp
    order = xp.argsort(~seen, axis=1, stable=True)
    return tuple(xp.take_along_axis(x, order, 1) for x in (times, labels, seen))  # type: ignore[return-value]


class FarPairs(NamedTuple):
    """Equations (1) and (2); the fields of `NetworkStatistics`."""

    pair2: Any
    time2: Any
    pair4: Any
    time4: Any
    blips: Any


def far_pairs(times: Any, labels: Any, weights: Any, num_states: int) -> FarPairs:
    """Equations (1) and (2), in numpy or traced; points that were seen come first (`to_front`).

    Args:
        times: `[K, L]`.
        labels: `[K, L]`, from 0 to n - 1.
        weights: True where a point was seen; or how often it counts, `[K, L]`.
        num_states: n.
    """
    n, xp = num_states, np if isinstance(times, np.ndarray) else jnp
    short = _weights_apart(times, weights, 1)
    found = []
    for places in (2, 4):
        weight = _weights_apart(times, weights, places)
        cells = labels[:, :-places] * n + labels[:, places:]
        lags = times[:, places:] - times[:, :-places]
        # times of points that were not seen may be anything, NaN too
        spent = xp.where(weight != 0, weight * xp.where(weight != 0, lags, 0), 0)
        found += [tally(cells, weight, n * n), tally(cells, spent, n * n)]
    middle = labels[:, 1:-1]
    blip = (labels[:, :-2] == labels[:, 2:]) & (labels[:, :-2] != middle) & (short[:, :-1] != 0)
    found.append(tally(labels[:, :-2] * n + middle, blip * short[:, 1:], n * n))
    return FarPairs(*(x.reshape(n, n) for x in found))


def _weights_apart(times: Any, weights: Any, places: int) -> Any:
    """How often the pairs of points so many places apart count: not at all where both are at one time."""
    return weights[:, places:] * (times[:, places:] > times[:, :-places])


def tally(cells: Any, weights: Any, size: int) -> Any:
    """Sum of the weights in each cell: integers where weights are truths."""
    if isinstance(cells, np.ndarray):
        total = np.bincount(cells.ravel(), weights.ravel(), size)
        return total.astype(np.int64) if weights.dtype == bool else total
    weights = weights.astype(int) if weights.dtype == bool else weights
    return jax.ops.segment_sum(weights.ravel(), cells.ravel(), size)


def _traced_statistics(times: Any, states: Any, mask: Any, n: int) -> NetworkStatistics:
    """In shapes that do not depend on the values; what is not traced is looked at first."""
    if n < 2:
        raise ValueError(f"num_states must be at least 2, got {n}: one state has no rates.")
    if not is_traced(states, mask):
        labels = np.asarray(states)
        bad = (labels < 0) | (labels >= n) if mask is None else ((labels < 0) | (labels >= n)) & np.asarray(mask)
        if bad.any():
            value = np.broadcast_to(labels, bad.shape)[bad][0]
            raise ValueError(f"states must be from 0 on and below num_states = {n}: {value} is not.")
    if not is_traced(times):
        # lags of times far from 0 need digits that single precision has not
        at = np.asarray(times, np.float64)
        first = np.min(at, -1, keepdims=True, initial=np.inf, where=np.isfinite(at))
        times = np.where(np.isfinite(at), at - first, np.nan)
    return _counted(times, states, mask, n)


@partial(jax.jit, static_argnames="n")
def _counted(times: Any, states: Any, mask: Any, n: int) -> NetworkStatistics:
    times, states = jnp.asarray(times, float), jnp.asarray(states)
    shape = jnp.broadcast_shapes(times.shape, states.shape, () if mask is None else jnp.shape(mask))
    seen = jnp.ones((), bool) if mask is None else jnp.asarray(mask, bool)
    times, states, seen = (jnp.broadcast_to(x, shape).reshape(-1, shape[-1]) for x in (times, states, seen))
    if mask is not None:
        times, states, seen = to_front(times, states, seen)
    pair = seen[:, 1:] & seen[:, :-1]
    falls = pair & ~(jnp.diff(times, axis=1) >= 0)
    wrong = (seen & ((states < 0) | (states >= n))).any() | falls.any()
    states = jnp.clip(states, 0, n - 1)
    grid = _traced_grid(times, seen)
    paths = path_statistics(times, states, seen, n, grid=grid)
    # the last lag is that of no pairs; an answer to what cannot be is NaN, since no error can be raised here
    total = jnp.where(wrong, jnp.nan, paths.total_time)
    paths = paths._replace(lags=paths.lags[:NUM_BINS], counts=paths.counts[:NUM_BINS], total_time=total)
    return NetworkStatistics(paths, *far_pairs(times, states, seen, n))


def _traced_grid(times: Float[Array, "K L"], seen: Bool[Array, "K L"]) -> LagGrid:
    """Distinct lags if there are at most 16, else bins as `coarsen` has them; and a last lag of 0, of no pairs."""
    lags = jnp.diff(times, axis=1)
    pair = seen[:, 1:] & (lags > 0)
    ordered = jnp.sort(jnp.where(pair, lags, jnp.inf).ravel())
    rounding = 4 * jnp.finfo(times.dtype).eps * jnp.max(jnp.where(seen, jnp.abs(times), 0))
    new = (ordered[1:] > ordered[:-1] * (1 + _ALIKE) + rounding) & jnp.isfinite(ordered[1:])
    begins = jnp.nonzero(new, size=NUM_BINS - 1, fill_value=-1)[0]
    distinct = jnp.where(begins >= 0, ordered[begins + 1], jnp.inf)
    # many lags may follow each other so closely that none is new, and are not one lag for it
    first = jnp.concatenate([ordered[:1], distinct])
    longest_of_all = ordered[pair.sum() - 1]
    last = jnp.append(jnp.where(begins >= 0, ordered[begins], longest_of_all), longest_of_all)
    alike = (last <= first * (1 + 2 * _ALIKE) + 2 * rounding).all()
    shortest, longest = jnp.log(_quantiles(ordered, pair.sum()))
    bins = jnp.exp(jnp.linspace(shortest, longest, NUM_BINS + 1))[1:-1]
    edges = jnp.where((new.sum() < NUM_BINS) & alike, distinct, bins)
    index = jnp.where(pair, jnp.searchsorted(edges, lags, side="right", method="compare_all"), NUM_BINS)
    number = tally(index, pair, NUM_BINS + 1)
    mean = tally(index, jnp.where(pair, lags, 0), NUM_BINS + 1) / jnp.maximum(number, 1)
    return LagGrid(mean, index)


def _quantiles(ordered: Float[Array, " M"], number: Int[Array, ""]) -> Float[Array, "2"]:
    """Of the first so many of sorted values, 1 % and 99 %: the first that so many reach."""
    return ordered[jnp.maximum(jnp.stack([-(-number // 100), number - number // 100]) - 1, 0)]
