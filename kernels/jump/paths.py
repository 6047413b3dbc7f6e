"""Paths as users bring them: times and labels of K paths, a mask where points are missing, and what is wrong in them.

All on the host, once. A path is a row; points that the mask leaves out may hold anything and are not looked at.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int


def is_traced(*arrays: Any) -> bool:
    """Whether the values of some are not known yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))


def pack_paths(
    times: Sequence[ArrayLike], states: Sequence[ArrayLike]
) -> tuple[Float[np.ndarray, "K L"], Int[np.ndarray, "K L"], Bool[np.ndarray, "K L"]]:
    """Paths of different lengths as rectangular arrays.

    Args:
        times: one array for each path.
        states: likewise, of the same lengths.

    Returns:
        Times, states and mask, `[K, L]` with L the longest path; the rest of a row repeats its last point, with the
        mask False.

    Raises:
        ValueError: another number of times than of states, in all or in a path; a path without points.

    Examples:
        >>> from emberwalk.kernels.jump import pack_paths
        >>> times, states, mask = pack_paths([[0.0, 1.0], [0.0, 2.0, 3.0]], [[0, 1], [1, 1, 0]])
        >>> states.tolist(), mask.sum(1).tolist()
        ([[0, 1, 1], [1, 1, 0]], [2, 3])
    """
    rows = [(np.asarray(t), np.asarray(y)) for t, y in zip(times, states, strict=False)]
    if len(times) != len(states) or not rows:
        raise ValueError(
            f"times and states must be as many and at least one, got {len(times)} and {len(states)}."
        )
    for path, (t, y) in enumerate(rows):
        if t.ndim != 1 or t.shape != y.shape[:1] or not t.size:
            raise ValueError(
                f"path {path} must have as many states as times, at least one, got the shapes {t.shape} and {y.shape}."
            )
    longest = max(len(t) for t, _ in rows)
    mask = np.arange(longest) < np.array([len(t) for t, _ in rows])[:, None]
    return _filled([t for t, _ in rows], longest), _filled([y for _, y in rows], longest), mask


def _filled(rows: list[np.ndarray], longest: int) -> np.ndarray:
    return np.stack([np.concatenate([row, np.repeat(row[-1:], longest - len(row), 0)]) for row in rows])


def with_mask(
    times: np.ndarray, mask: ArrayLike | None
) -> tuple[Float[np.ndarray, "*paths L"], Bool[np.ndarray, "*paths L"]]:
    """Times in float64 and a mask of the same shape.

    Raises:
        ValueError: shapes that do not fit.
    """
    times = np.asarray(times, np.float64)
    if mask is None:
        return times, np.ones(times.shape, bool)
    seen = np.asarray(mask, bool)
    try:
        shape = np.broadcast_shapes(times.shape, seen.shape)
    except ValueError:
        raise ValueError(
            f"times {times.shape} and mask {seen.shape} do not fit: [L] or [K, L] is needed."
        ) from None
    return np.broadcast_to(times, shape), np.broadcast_to(seen, shape)


def effective_times(
    times: Float[np.ndarray, "*paths L"], seen: Bool[np.ndarray, "*paths L"]
) -> Float[np.ndarray, "*paths L"]:
    """A point that was not seen gets the time of the last one that was, or of the first."""
    position = np.where(seen, np.arange(times.shape[-1]), -1)
    last = np.maximum.accumulate(position, -1)
    first = np.argmax(seen, -1)[..., None]
    filled = np.take_along_axis(times, np.where(last >= 0, last, first), -1)
    return np.where(seen.any(-1, keepdims=True), filled, 0.0)


def check_times(times: Float[np.ndarray, "*paths L"], seen: Bool[np.ndarray, "*paths L"]) -> None:
    """Refuse times that are not finite, or fall, where a point was seen."""
    bad = seen & ~np.isfinite(times)
    if bad.any():
        raise ValueError(f"times must be finite: {at_position(times, bad)}.")
    fall = np.diff(effective_times(times, seen), axis=-1) < 0
    bad = np.concatenate([np.zeros_like(seen[..., :1]), fall], -1)
    if bad.any():
        raise ValueError(
            f"times must not fall within a path: {at_position(times, bad)} comes after a later one. "
            "Sort each path, or give points that were not seen in the mask."
        )


def check_states(
    states: np.ndarray, seen: Bool[np.ndarray, "*paths L"], num_states: int | None = None
) -> tuple[Int[np.ndarray, "*paths L"], int]:
    """The states as integers, 0 where none was seen, and their number; it is the largest + 1 unless given."""
    if not np.issubdtype(states.dtype, np.integer):
        raise ValueError(
            f"states must be integers from 0 on, got {states.dtype}. If these are measurements rather than labels, "
            "give emission=."
        )
    if num_states is not None and num_states < 2:
        raise ValueError(f"num_states must be at least 2, got {num_states}: one state has no rates.")
    bad = seen & (states < 0)
    if bad.any():
        raise ValueError(
            f"states must be 0 or more: {at_position(states, bad)}. Give missing points in the mask."
        )
    largest = int(np.where(seen, states, 0).max(initial=0))
    if num_states is None:
        if largest == 0:
            raise ValueError("states: only state 0 was seen, and one state has no rates. Give num_states=.")
        num_states = largest + 1
    bad = seen & (states >= num_states)
    if bad.any():
        raise ValueError(f"states must be below num_states = {num_states}: {at_position(states, bad)}.")
    return np.where(seen, states, 0), num_states


def check_rates(rates: ArrayLike) -> None:
    """Refuse rates that are not square matrices of finite numbers, or negative off the diagonal.

    Raises:
        ValueError: with the value and where it stands. Traced rates pass: they are looked at when they are known.

    Examples:
        >>> from emberwalk.kernels.jump import check_rates
        >>> check_rates(np.array([[0.0, -1.0], [1.0, 0.0]]))
        Traceback (most recent call last):
            ...
        ValueError: rates must be finite and 0 or more off the diagonal: -1.0 from state 0 to state 1.
    """
    shape = np.shape(rates)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        raise ValueError(f"rates must be [..., n, n] with n at least 2, got the shape {shape}.")
    if is_traced(rates):
        return
    q = np.where(np.eye(shape[-1], dtype=bool), 0.0, np.asarray(rates, np.float64))
    bad = ~(np.isfinite(q) & (q >= 0))
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        raise ValueError(
            f"rates must be finite and 0 or more off the diagonal: {q[where]} from state {where[-2]} to state "
            f"{where[-1]}."
        )


def check_label_noise(label_noise: ArrayLike, num_states: int) -> None:
    """Refuse a probability of a wrong label outside [0, (n - 1) / n), or a matrix whose rows are no probabilities.

    Raises:
        ValueError: with the value. What is traced passes.

    Examples:
        >>> from emberwalk.kernels.jump import check_label_noise
        >>> check_label_noise(0.9, num_states=3)
        Traceback (most recent call last):
            ...
        ValueError: label_noise must be at least 0 and below (n - 1) / n = 0.6667, got 0.9: ...
    """
    shape = np.shape(label_noise)
    if shape not in ((), (num_states, num_states)):
        raise ValueError(
            f"label_noise must be a number or a matrix {(num_states, num_states)}, got the shape {shape}."
        )
    if is_traced(label_noise):
        return
    noise, most = np.asarray(label_noise, np.float64), (num_states - 1) / num_states
    if shape == () and not 0 <= noise < most:
        raise ValueError(
            f"label_noise must be at least 0 and below (n - 1) / n = {most:.4g}, got {float(noise)!r}: it is the "
            "probability that a label is wrong, and above that a label would say what the state is not."
        )
    if shape and not (np.all(noise >= 0) and np.allclose(noise.sum(1), 1, atol=1e-5)):
        row = int(np.argmax(np.abs(noise.sum(1) - 1) + (noise < 0).any(1)))
        raise ValueError(
            f"label_noise: row {row}, the law of the labels of state {row}, must hold probabilities that sum to 1, "
            f"got {noise[row].tolist()}."
        )


def at_position(values: np.ndarray, bad: Bool[np.ndarray, "*paths L"]) -> str:
    """ "7 in path 2 at position 5": the first that is bad."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    path = f" in path {where[0]}" if len(where) > 1 else ""
    return f"{np.broadcast_to(values, bad.shape)[where]}{path} at position {where[-1]}"
