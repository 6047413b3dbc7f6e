"""Data larger than memory: the rows of a batch are read on the host, those of some steps at once.

    indices (on the device, from the key)  ->  rows (on the host)  ->  batches (on the device)     (1)

The read is a pure function of the indices, so that a repeated, resumed or vectorized run has the same draws,
and the same as with the arrays in memory.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Int, Key

from .minibatch import Batching, DeviceRows, Indices, Rows, drawn_indices

_ORDERS = ("random", "blocks")
# Of the rows that a chain gets from one call of the host. They are in memory about four times: as they were read, as
# JAX hands them over, and in the program; and large buffers find no place in what the compiler has left free. With
# ten batches the call itself no longer counts.
_READ_BYTES = 2**20
# Rows that are put into their order together, so that what is read is not in memory once more.
_READ_ROWS = 4096


class HostRows:
    """Arrays of N rows each that stay on the host: numpy, a memmap, an HDF5 dataset, anything with shape and dtype
    that is indexed by ascending row numbers.

    The model takes a batch of them as its arguments, and says how many rows there are:
    `plate("rows", n, subsample_size=X.shape[0])`, without `numpyro.subsample`.

    Args:
        arrays: keyword argument of the model -> array, its first axis the rows.
        plate: name of the plate of the rows.
        batch_size: b, rows of a batch.
        order: "random" rows, or "blocks" of rows that lie together, at random places: fewer reads from a disk,
            but noisier where neighbours are alike.
        block_size: rows of a block; divides `batch_size`. None: all of it.

    Raises:
        ValueError: naming the array or argument and the numbers.

    Examples:
        >>> from emberwalk.infer import HostRows
        >>> rows = HostRows({"y": np.arange(1000.0)}, plate="rows", batch_size=50)
        >>> len(rows)
        1000
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        *,
        plate: str,
        batch_size: int,
        order: Literal["random", "blocks"] = "random",
        block_size: int | None = None,
    ):
        if not arrays:
            raise ValueError("HostRows needs at least one array.")
        lengths = {name: int(array.shape[0]) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The arrays of HostRows must have as many rows each, got {lengths}.")
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {_ORDERS}, got {order!r}.")
        self.arrays, self.plate, self.batch_size, self.order = dict(arrays), plate, batch_size, order
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"batch_size must be from 1 to the {len(self)} rows, got {batch_size!r}.")
        self.block_size = batch_size if block_size is None else block_size
        if order == "blocks" and (self.block_size < 1 or batch_size % self.block_size):
            raise ValueError(f"block_size must divide batch_size = {batch_size}, got {self.block_size!r}.")

    def __deepcopy__(self, memo: Any) -> "HostRows":
        """Itself: nothing here changes, and a copy of a memmap is the whole file in memory."""
        return self

    def __len__(self) -> int:
        return int(next(iter(self.arrays.values())).shape[0])

    @property
    def batch_bytes(self) -> int:
        """Size of a batch, as JAX has it."""
        return sum(
            self.batch_size * math.prod(array.shape[1:]) * jax.dtypes.canonicalize_dtype(array.dtype).itemsize
            for array in self.arrays.values()
        )

    def first_rows(self) -> dict[str, np.ndarray]:
        """The first b rows of each array, to which the model is bound for whoever runs it without a batch."""
        return self._read(np.arange(self.batch_size))

    def _read(self, indices: Any) -> dict[str, np.ndarray]:
        """Rows in the order of the indices; read in ascending order, which is a disk's."""
        flat = np.asarray(indices).reshape(-1)
        ascending = np.argsort(flat, kind="stable")
        return {
            name: self._as_given(array, flat[ascending], ascending).reshape(
                np.shape(indices) + array.shape[1:]
            )
            for name, array in self.arrays.items()
        }

    @staticmethod
    def _as_given(array: Any, sorted_indices: np.ndarray, ascending: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ascending), *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype))
        for start in range(0, len(ascending), _READ_ROWS):
            part = slice(start, start + _READ_ROWS)
            wanted = sorted_indices[part]
            if isinstance(array, np.ndarray):
                rows[ascending[part]] = array[wanted]
            else:  # HDF5 refuses a row that is asked for twice
                once, place = np.unique(wanted, return_inverse=True)
                rows[ascending[part]] = np.asarray(array[once])[place]
        return rows


class ReadRows:
    """The `Rows` of a `HostRows` (`minibatch.py`).

    Args:
        data: the arrays.
        batching: "replacement" or "epoch".
    """

    def __init__(self, data: HostRows, batching: Batching):
        if data.order == "blocks" and batching == "epoch":
            raise ValueError('batching="epoch" goes through single rows: it needs HostRows(order="random").')
        self.data, self.batching = data, batching

    @property
    def at_once(self):
        """See `Rows`."""
        return max(1, _READ_BYTES // self.data.batch_bytes)

    @property
    def sizes(self):
        """See `Rows`."""
        return {self.data.plate: (len(self.data), self.data.batch_size)}

    def indices(self, key, order_key, step) -> Indices:
        """See `Rows`."""
        if self.data.order == "random":
            return drawn_indices(self.sizes, self.batching, key, order_key, step)
        length, num_rows = self.data.block_size, len(self.data)
        starts = random.randint(key, (self.data.batch_size // length, 1), 0, num_rows)
        # around the end, so that every row is as probable
        return {self.data.plate: ((starts + jnp.arange(length)) % num_rows).reshape(-1)}

    def fetch(self, indices):
        """See `Rows`: one callback for all batches."""
        rows = indices[self.data.plate]
        shapes = {
            name: jax.ShapeDtypeStruct(
                rows.shape + array.shape[1:], jax.dtypes.canonicalize_dtype(array.dtype)
            )
            for name, array in self.data.arrays.items()
        }
        return jax.pure_callback(self.data._read, shapes, rows, vmap_method="broadcast_all")

    def bind(self, batch, model_kwargs):
        """See `Rows`: the plate counts the rows of the batch."""
        length = next(iter(batch.values())).shape[0]
        return {self.data.plate: jnp.arange(length)}, {**model_kwargs, **batch}


def rows_of(plates: dict[str, tuple[int, int]], batching: Batching, data: HostRows | None) -> Rows:
    """Where the batches of a model come from.

    Args:
        plates: (N, b) of its subsampled plates.
        batching: "replacement" or "epoch".
        data: of the host, or None where the model is given its arrays.

    Raises:
        ValueError: where the plates are not those of `data`.
    """
    if data is None:
        return DeviceRows(plates, batching)
    rows = ReadRows(data, batching)
    if plates != rows.sizes:
        raise ValueError(
            f"HostRows holds the rows of the plates (rows, batch) {rows.sizes}, but the subsampled plates of the "
            f"model are {plates}: write plate({data.plate!r}, {len(data)}, subsample_size=X.shape[0]), "
            "and no other."
        )
    return rows


def check_not_given(data: HostRows | None, model_kwargs: Mapping[str, Any]) -> None:
    """Refuses an array of `data` that the model is given as well."""
    doubled = sorted(set(data.arrays if data is not None else ()) & set(model_kwargs))
    if doubled:
        raise ValueError(f"HostRows passes {doubled} to the model: leave them out of run.")


def batches_of(
    rows: Rows, key: Key[Array, ""], order_key: Key[Array, ""], before: Int[Array, ""], number: int
) -> Any:
    """Batches of as many steps that follow each other; a leading axis over them."""

    def drawn(j: Int[Array, ""]) -> Any:
        return rows.indices(random.fold_in(key, j), order_key, before + j)

    # one after the other, their keys too: what is a loop to the compiler is one kernel, a batch of keys is ten
    return rows.fetch(lax.map(drawn, jnp.arange(number)))


def even_reads(num_steps: Any, at_once: int) -> int:
    """Batches of each read, at most `at_once`, so that the last read is about as full as the others.

    Of a number of steps that is not known beforehand it is 1: no rows are read for nothing.
    """
    return -(-num_steps // -(-num_steps // at_once)) if isinstance(num_steps, int) else 1


def over_batches(
    step: Callable[[Int[Array, ""], Any, Any, Any], Any],
    first: Any,
    drawn: Callable[[Int[Array, ""]], tuple[Any, Any]],
    rows: Rows,
    num_steps: Any,
    at_once: int,
) -> Any:
    """What `num_steps` steps make of `first`, each on the batch that was drawn for it.

    Args:
        step: (j, key, batch of step j, carry) -> carry.
        first: carry before step 0.
        drawn: j -> (key, indices of the batch), of every j: the last read may go beyond the steps.
        rows: where the batches come from.
        num_steps: a number, or an array of the program.
        at_once: batches that are fetched together.
    """

    def alone(j: Int[Array, ""], carry: Any) -> Any:
        key, indices = drawn(j)
        return step(j, key, rows.fetch(indices), carry)

    def together(k: Int[Array, ""], carry: Any) -> Any:
        begin = k * at_once
        keys, indices = lax.map(drawn, begin + jnp.arange(at_once))
        fetched = keys, rows.fetch(indices)

        def one(j: Int[Array, ""], carry: Any) -> Any:
            key, batch = jax.tree.map(lambda leaf: leaf[j], fetched)
            return step(begin + j, key, batch, carry)

        return lax.fori_loop(0, jnp.minimum(at_once, num_steps - begin), one, carry)

    if at_once == 1:
        return lax.fori_loop(0, num_steps, alone, first)
    return lax.fori_loop(0, -(-num_steps // at_once), together, first)
