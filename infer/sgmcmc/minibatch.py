"""Which rows of the data a gradient sees: those of the model's own subsampled plates.

A plate of N rows with `subsample_size=b` scales what is in it by N / b. Its indices are an ordinary site,
which is given here the rows of a batch, or a whole block of them: with L indices NumPyro scales by N / L, so
that

    grad U(z) = sum_B (L_B / N) grad U_B(z)      over blocks B of all rows                          (1)

and prior and Jacobian enter once, because the weights add up to 1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Int, Key

from ...kernels.sgmcmc import epoch_indices, randint_indices

type Batching = Literal["replacement", "epoch"]
type Indices = dict[str, Int[Array, " rows"]]

BATCHINGS = ("replacement", "epoch")
# Rows of a block of the full data: few enough for any memory, enough to keep a processor busy.
_BLOCK_ROWS = 8192


class Rows(Protocol):
    """Where the rows of a batch come from: arrays on the device, or those of the host."""

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(N, b) of each subsampled plate."""
        ...

    @property
    def at_once(self) -> int:
        """Batches that are best fetched together: 1, or more where each fetch is a call of the host."""
        ...

    def indices(self, key: Key[Array, ""], order_key: Key[Array, ""], step: Int[Array, ""]) -> Indices:
        """Rows of the batch of a step.

        Args:
            key: of the step.
            order_key: of the chain, which decides the order within epochs.
            step: gradients taken before it.
        """
        ...

    def fetch(self, indices: Indices) -> Any:
        """The batch, or batches where the indices have a leading axis."""
        ...

    def bind(self, batch: Any, model_kwargs: dict[str, Any]) -> tuple[Indices, dict[str, Any]]:
        """What the plates are told, and the keyword arguments of the model, for one batch."""
        ...


@dataclass(frozen=True)
class DeviceRows:
    """Rows of arrays that the model is given whole and subsamples itself.

    Attributes:
        sizes: (N, b) of each subsampled plate; none for full data.
        batching: "replacement" or "epoch".
    """

    sizes: Mapping[str, tuple[int, int]]
    batching: Batching

    at_once: ClassVar[int] = 1

    def indices(self, key, order_key, step):
        """See `Rows`."""
        return drawn_indices(self.sizes, self.batching, key, order_key, step)

    def fetch(self, indices):
        """See `Rows`: the model indexes its own arrays."""
        return indices

    def bind(self, batch, model_kwargs):
        """See `Rows`."""
        return batch, model_kwargs


def drawn_indices(
    sizes: Mapping[str, tuple[int, int]],
    batching: Batching,
    key: Key[Array, ""],
    order_key: Key[Array, ""],
    step: Int[Array, ""],
) -> Indices:
    """Rows of each plate, each plate with a key of its own."""

    def own(key: Key[Array, ""], number: int) -> Key[Array, ""]:
        return random.fold_in(key, number) if len(sizes) > 1 else key

    drawn = {}
    for number, (name, (num_rows, batch_size)) in enumerate(sizes.items()):
        if batching == "epoch":
            drawn[name] = epoch_indices(own(order_key, number), step, num_rows, batch_size)
        else:
            drawn[name] = randint_indices(own(key, number), num_rows, batch_size)
    return drawn


def over_all_rows(rows: Rows, term: Callable[[Any], Any]) -> Any:
    """Equation (1): the weighted sum of `term(batch)`, a tree of arrays, over blocks of all rows.

    One plate goes by blocks; several together go in one, because their blocks would have to be crossed.
    """
    sizes = rows.sizes
    if len(sizes) != 1:
        return term(rows.fetch({name: jnp.arange(num_rows) for name, (num_rows, _) in sizes.items()}))
    ((name, (num_rows, _)),) = sizes.items()
    total = None
    for start, length, count in blocks(num_rows):

        def weighted(start: Any, length: int = length) -> Any:
            values = term(rows.fetch({name: start + jnp.arange(length)}))
            return jax.tree.map(lambda leaf: leaf * (length / num_rows), values)

        def add(k: Any, so_far: Any, start: int = start, length: int = length) -> Any:
            return jax.tree.map(jnp.add, so_far, weighted(start + k * length))

        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(weighted, start))
        part = lax.fori_loop(0, count, add, zero) if count > 1 else weighted(start)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def blocks(num_rows: int, most: int = _BLOCK_ROWS) -> Iterator[tuple[int, int, int]]:
    """(first row, length, count) of equal blocks, and of a shorter last one where N leaves no choice.

    A divisor of N is looked for, because a block of another length is another program.
    """
    fewest = -(-num_rows // most)
    count = next((k for k in range(fewest, 4 * fewest) if num_rows % k == 0), None)
    if count is not None:
        yield 0, num_rows // count, count
        return
    length = num_rows // fewest
    yield 0, length, fewest
    yield fewest * length, num_rows - fewest * length, 1
