"""What a jump process in a model is given: shapes, laws and grids, checked before anything is computed.

A function refuses one thing, and says the argument, the value seen and the way out. What is traced passes: its values
are looked at when they are known, or make the density NaN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from ..kernels.jump import LagGrid, PathStatistics, check_label_noise, lag_grid
from ..kernels.jump.paths import at_position, check_states, effective_times, is_traced, with_mask

type Shape = tuple[int, ...]
type Mask = Bool[ArrayLike, "*paths L"] | None
# Probabilities, a name, or None for the uniform law.
type Initial = ArrayLike | Array | str | None

# A sum of so many logarithms is known to .04 in float32, and Metropolis is wrong with it.
MOST_PAIRS = 10**6


def grid_for(times: ArrayLike | Array, mask: Mask, grid: LagGrid | None) -> LagGrid:
    """The grid given, or that of the times.

    Raises:
        ValueError: times that fall or are NaN; a grid of other times; traced times without a grid; no path with two
            points.
    """
    shapes = {"times": np.shape(times), "mask": () if mask is None else np.shape(mask)}
    try:
        shape = lax.broadcast_shapes(*shapes.values())
    except ValueError:
        shape = ()
    if not shape or not shapes["times"]:
        raise ValueError(f"times {shapes['times']} and mask {shapes['mask']} do not fit: [..., L] is needed.")
    if mask is not None and not is_traced(mask):
        seen = np.broadcast_to(np.asarray(mask, bool), shape)
        if seen.sum(-1).max(initial=0) < 2:
            raise ValueError(
                f"mask: no path has two points that were seen, of {seen.size // shape[-1]} paths with "
                f"{int(seen.sum())} points in all. Rates need at least one pair."
            )
    if grid is None:
        return lag_grid(times, mask)
    if np.ndim(grid.lags) != 1 or not np.ndim(grid.index) or np.shape(grid.index)[-1] != shape[-1] - 1:
        raise ValueError(
            f"grid: lags {np.shape(grid.lags)} and index {np.shape(grid.index)} do not fit times {shapes['times']}: "
            f"[U] and [..., {shape[-1] - 1}] are needed. Build it by lag_grid(times, mask)."
        )
    if not is_traced(times, mask, grid):
        _check_grid(np.asarray(times), mask, grid)
    return grid


def _check_grid(times: np.ndarray, mask: Mask, grid: LagGrid) -> None:
    """Lags merged on purpose may differ by a factor; those of other times, units or masks differ by more."""
    at, seen = with_mask(times, mask)
    exact = np.diff(effective_times(at, seen), axis=-1)
    index = np.asarray(grid.index)
    if index.min(initial=0) < 0 or index.max(initial=0) >= len(grid.lags):
        raise ValueError(
            f"grid: the index reaches from {index.min()} to {index.max()}, and there are {len(grid.lags)} lags."
        )
    given = np.asarray(grid.lags, np.float64)[index]
    exact, given = np.broadcast_arrays(exact, given)
    bad = (given > 2 * exact) | (exact > 2 * given)
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        raise ValueError(
            f"grid is of other times or another mask: it has a lag of {at_position(given, bad)}, where times and mask "
            f"have {exact[where]:.6g}. Build it by lag_grid(times, mask)."
        )


def check_initial(initial: Initial, num_states: int) -> None:
    """Refuse what is no law of the first state.

    Raises:
        ValueError: another word than "stationary", another number of states, or numbers that are no probabilities.
    """
    if initial is None:
        return
    if isinstance(initial, str):
        if initial != "stationary":
            raise ValueError(f'initial must be None, "stationary" or probabilities, got {initial!r}.')
        return
    if np.shape(initial)[-1:] != (num_states,):
        raise ValueError(
            f"initial must hold {num_states} probabilities, one for each state, got the shape {np.shape(initial)}."
        )
    if is_traced(initial):
        return
    law = np.asarray(initial, np.float64)
    if not (np.all(law >= 0) and np.allclose(law.sum(-1), 1, atol=1e-5)):
        raise ValueError(f"initial must hold probabilities that sum to 1, got {law.tolist()}.")


def is_matrix(label_noise: ArrayLike | Array, num_states: int) -> bool:
    """Whether label noise is the law of labels for each state, or a number for each path."""
    return np.shape(label_noise)[-2:] == (num_states, num_states)


def noise_batch(label_noise: ArrayLike | Array | None, num_states: int) -> Shape:
    """Batch shape of label noise, whose values are then probabilities.

    A number that is a JAX array may be a draw, which a prior on (0, 1) can put above (n - 1) / n for a moment, and
    which has a density there.

    Raises:
        ValueError: a probability of a wrong label outside [0, (n - 1) / n), of a draw outside [0, 1]; a row that is
            no law.
    """
    if label_noise is None:
        return ()
    event = 2 if is_matrix(label_noise, num_states) else 0
    shape = np.shape(label_noise)
    if not is_traced(label_noise):
        each = np.asarray(label_noise).reshape(-1, *shape[len(shape) - event :])
        sampled = isinstance(label_noise, jax.Array) and not event and bool(np.all((each >= 0) & (each <= 1)))
        for noise in () if sampled else np.unique(each, axis=0):
            check_label_noise(noise, num_states)
    return shape[: len(shape) - event]


def emission_batch(emission: dist.Distribution | None, label_noise: object, num_states: int) -> Shape:
    """Batch shape of the emissions, without the axis of the states.

    Raises:
        TypeError: what is no distribution.
        ValueError: another number of states, or label noise beside it.
    """
    if emission is None:
        return ()
    if label_noise is not None:
        raise ValueError(
            "emission and label_noise both say how a state is seen: give one. Labels have noise, measurements an "
            "emission."
        )
    if not isinstance(emission, dist.Distribution):
        raise TypeError(f"emission must be a NumPyro distribution, got {type(emission).__name__}.")
    if emission.batch_shape[-1:] != (num_states,):
        raise ValueError(
            f"emission must have a law for each of the {num_states} states on the last axis of its batch shape, got "
            f"{emission.batch_shape}."
        )
    return emission.batch_shape[:-1]


def broadcast_batch(**shapes: Shape) -> Shape:
    """The batch shape that all arguments have together.

    Raises:
        ValueError: with all shapes, where they do not broadcast.
    """
    try:
        return lax.broadcast_shapes(*shapes.values())
    except ValueError:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(f"The leading axes do not broadcast: {said}.") from None


def check_value(value: ArrayLike | Array, batch: Shape, event: Shape, name: str) -> Shape:
    """Shape of the batch of a value and the batch of its law together.

    Raises:
        ValueError: another event shape, or leading axes that do not fit.
    """
    shape = np.shape(value)
    lead, tail = shape[: len(shape) - len(event)], shape[len(shape) - len(event) :]
    try:
        if tail == event:
            return lax.broadcast_shapes(batch, lead)
    except ValueError:
        pass
    raise ValueError(
        f"{name}: a value has the shape {shape}, and the batch shape is {batch} and the event shape {event}."
    )


def check_labels(states: ArrayLike | Array, seen: Mask, num_states: int, grid: LagGrid, exact: bool) -> None:
    """Refuse values that are no labels, and right labels that change in no time.

    Raises:
        ValueError: with the value, the path and the position.
    """
    dtype = getattr(states, "dtype", None) or np.asarray(states).dtype
    if is_traced(states, seen):
        check_states(np.zeros(2, dtype), np.zeros(2, bool), num_states)  # the kind of numbers is known
        return
    labels = np.asarray(states)
    at_all = np.ones(labels.shape, bool) if seen is None else np.asarray(seen, bool)
    labels, at_all = np.broadcast_arrays(labels, at_all)
    labels, _ = check_states(labels, at_all, num_states)
    if not exact or is_traced(grid):
        return
    pairs = seen_pairs(labels, at_all)
    bad = pairs.pair & (np.asarray(grid.lags)[np.asarray(grid.index)] == 0) & (pairs.before != pairs.after)
    if bad.any():
        at = np.concatenate([np.zeros_like(bad[..., :1]), bad], -1)
        raise ValueError(
            f"states: {at_position(labels, at)} at the time of another label before it. If labels may be wrong, set "
            "label_noise."
        )


class SeenPairs(NamedTuple):
    """Labels of points that were seen one after the other; see `seen_pairs`.

    Attributes:
        first: the first label that was seen, 0 where there is none.
        begun: whether there is one.
        before: the last label seen before each point but the first; 0 where there is none.
        after: the label at the point; 0 where it is of no pair.
        pair: whether both were seen.
    """

    first: Int[ArrayLike, "*paths"]
    begun: Bool[ArrayLike, "*paths"]
    before: Int[ArrayLike, "*paths L-1"]
    after: Int[ArrayLike, "*paths L-1"]
    pair: Bool[ArrayLike, "*paths L-1"]


def seen_pairs(labels: Any, seen: Any) -> SeenPairs:
    """Labels one after the other; on the host where the values are known: they are then constants of the program."""
    traced = is_traced(labels, seen)
    xp: Any = jnp if traced else np
    labels, seen = xp.broadcast_arrays(xp.asarray(labels), xp.asarray(seen))
    labels = xp.where(seen, labels, 0)
    own = xp.where(seen, xp.arange(labels.shape[-1]), -1)
    position = (lax.cummax(own, own.ndim - 1) if traced else np.maximum.accumulate(own, -1))[..., :-1]
    before = xp.take_along_axis(labels, xp.maximum(position, 0), -1)
    first = xp.take_along_axis(labels, xp.argmax(seen, -1)[..., None], -1)[..., 0]
    pair = seen[..., 1:] & (position >= 0)
    return SeenPairs(first, seen.any(-1), before, xp.where(pair, labels[..., 1:], 0), pair)


def statistics_batch(statistics: PathStatistics, num_states: int) -> Shape:
    """Batch shape of counts, one for each set of paths.

    Raises:
        TypeError: what are no statistics.
        ValueError: of another number of states, or shapes that are none of `path_statistics`.
    """
    if not isinstance(statistics, PathStatistics):
        raise TypeError(
            f"statistics must be what path_statistics returns, got {type(statistics).__name__}. Labels themselves go "
            "to MarkovJumpProcess."
        )
    shape, lags = np.shape(statistics.counts), np.shape(statistics.lags)
    if shape[-2:] != (num_states, num_states) or len(shape) < 3:
        raise ValueError(
            f"statistics.counts must be [..., U, n, n] with the n = {num_states} of rates, got the shape {shape}. "
            "Give num_states= to path_statistics."
        )
    if lags[-1:] != shape[-3:-2]:
        raise ValueError(f"statistics: lags {lags} and counts {shape} do not fit: [U] and [U, n, n] are needed.")
    return broadcast_batch(counts=shape[:-3], lags=lags[:-1], first=np.shape(statistics.first)[:-1])
