"""One draw from a tilted row of a transition matrix, at the cost of the node's degree.

    P(j) = P_ij e^{t_j} / sum_k P_ik e^{t_k},   k over the neighbours of i and i itself                   (1)

A row is read in chunks of W entries, so that a step costs the mean degree and not the greatest. Sums of the chunks
are kept; one uniform number finds the chunk, and what is left of it the entry. The tilts are those relative to i,
which a float32 nearly always holds; a row whose sum it does not hold is read once more with its maximum taken off.
Without that the last entry would be drawn, in silence. The uniform has 24 bits: entries are drawn to 2^-24 of the row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from .graph import Graph
from .row_table import RowTable

LEAST, MOST = 1e-20, 1e30  # of a row's sum: within, what counts for it is no denormal and nothing is infinite

type Tilt = Callable[[Int[Array, " W"]], Float[Array, " W"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """A `RowTable` as it is read: row i is its neighbours, then i.

    Attributes:
        columns: j of each entry.
        log_p: log P_ij.
        indptr: where each row starts, and their end.
        chunk: W.
        max_chunks: of the longest row.
    """

    columns: Int[Array, " 2E+N+W"]
    log_p: Float[Array, " 2E+N+W"]
    indptr: Int[Array, "N+1"]
    chunk: int = field(metadata={"static": True})
    max_chunks: int = field(metadata={"static": True})

    def draw(self, i: Int[Array, ""], tilt: Tilt, uniform: Float[Array, ""]) -> Int[Array, ""]:
        """Equation (1).

        Args:
            i: the node.
            tilt: t of some nodes; finite, 0 at i.
            uniform: in [0, 1).

        Returns:
            j; -1 where no tilt made the row a law, which a NaN does.
        """
        row = _Row(self, self.indptr[i], self.indptr[i + 1], tilt)
        if self.max_chunks == 1:
            return row.draw_short(uniform)
        return lax.cond(row.length <= self.chunk, row.draw_short, row.draw_long, uniform)


@dataclass(frozen=True)
class _Row:
    """One row while it is drawn from."""

    rows: Rows
    begin: Int[Array, ""]
    end: Int[Array, ""]
    tilt: Tilt

    @property
    def length(self) -> Int[Array, ""]:
        return self.end - self.begin

    @property
    def nothing(self) -> Float[Array, ""]:
        return jnp.zeros((), self.rows.log_p.dtype)

    def log_weights(self, c: int | Int[Array, ""]) -> tuple[Int[Array, " W"], Float[Array, " W"]]:
        """Nodes of a chunk, and log P_ij + t_j; -inf behind the end of the row."""
        rows, at = self.rows, self.begin + c * self.rows.chunk
        ids = lax.dynamic_slice(rows.columns, (at,), (rows.chunk,))
        log_p = lax.dynamic_slice(rows.log_p, (at,), (rows.chunk,))
        inside = at + jnp.arange(rows.chunk) < self.end
        return ids, jnp.where(inside, log_p + self.tilt(ids), -jnp.inf)  # the mask last: -inf + inf is a NaN

    def draw_short(self, uniform: Float[Array, ""]) -> Int[Array, ""]:
        """From a row of one chunk."""
        ids, log_w = self.log_weights(0)
        return drawn(ids, jnp.exp(log_w - log_w.max()), uniform)

    def draw_long(self, uniform: Float[Array, ""]) -> Int[Array, ""]:
        """From a row of several."""
        num = -(-self.length // self.rows.chunk)
        sums = self.sums(self.nothing, num)
        total = sums.sum()
        again = jnp.where((total > LEAST) & (total < MOST), 0, num)  # loops of no turn where all is well
        shift = self.maximum(again)
        sums = jnp.where(again > 0, self.sums(shift, again), sums)
        c, left = pick(sums, uniform * sums.sum())
        ids, log_w = self.log_weights(c)
        entry, _ = pick(jnp.exp(log_w - shift), left)
        return jnp.where(jnp.isfinite(sums.sum()), ids[entry], -1)

    def sums(self, shift: Float[Array, ""], num: Int[Array, ""]) -> Float[Array, " C"]:
        """Sum of e^(log weight - shift) of each of the first `num` chunks; 0 behind them."""

        def one_chunk(c, sums):
            return sums.at[c].set(jnp.exp(self.log_weights(c)[1] - shift).sum())

        return lax.fori_loop(0, num, one_chunk, jnp.zeros(self.rows.max_chunks, self.nothing.dtype))

    def maximum(self, num: Int[Array, ""]) -> Float[Array, ""]:
        """Greatest log weight of the first `num` chunks; 0 of none."""

        def one_chunk(c, largest):
            return jnp.maximum(largest, self.log_weights(c)[1].max())

        return jnp.where(num > 0, lax.fori_loop(0, num, one_chunk, self.nothing - jnp.inf), 0)


def rows_from(graph: Graph, table: RowTable, chunk: int = 32) -> Rows:
    """The layout of `Rows`; 8 bytes an entry and node, made on the host; a chunk no longer than the longest row."""
    n, degree = graph.num_nodes, graph.degree
    chunk = min(chunk, int(degree.max()) + 1)
    nodes = np.arange(n, dtype=np.int32)
    indptr = np.concatenate([graph.indptr[:-1] + nodes, [len(graph.indices) + n]]).astype(np.int32)
    size = len(graph.indices) + n + chunk
    columns, log_p = np.zeros(size, np.int32), np.full(size, -np.inf)
    last = indptr[1:] - 1
    neighbours = np.ones(size, bool)
    neighbours[last], neighbours[indptr[-1] :] = False, False
    columns[neighbours], columns[last] = graph.indices, nodes
    log_p[neighbours], log_p[last] = table.log_p, table.log_p_self
    return Rows(
        jnp.asarray(columns),
        jnp.asarray(log_p, float),
        jnp.asarray(indptr),
        chunk,
        -(-(int(degree.max()) + 1) // chunk),
    )


def srrw_row(
    log_p: Float[Array, " n"],
    log_z: Float[Array, " n"],
    alpha: Float[Array, ""] | float,
    uniform: Float[Array, ""],
) -> Int[Array, ""]:
    """An index drawn from p_k z_k^-alpha / sum, of any row that stands as an array.

    Args:
        log_p: log-probabilities, -inf where none.
        log_z: of the same states.
        alpha: repellence.
        uniform: in [0, 1).

    Returns:
        The index; -1 where a NaN leaves no law.

    Examples:
        >>> from emberwalk.kernels.walk import srrw_row
        >>> int(srrw_row(jnp.log(jnp.array([0.5, 0.5])), jnp.array([9.0, 0.0]), 5.0, 0.3))
        1
    """
    log_w = log_p - alpha * log_z
    return drawn(jnp.arange(log_w.shape[0]), jnp.exp(log_w - log_w.max()), uniform)


def drawn(ids: Int[Array, " n"], weights: Float[Array, " n"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """An id with probability weight / sum; -1 where the sum is not finite."""
    total = weights.sum()
    entry, _ = pick(weights, uniform * total)
    return jnp.where(jnp.isfinite(total), ids[entry], -1)


def pick(weights: Float[Array, " n"], mass: Float[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The first entry at which the running sum exceeds `mass`, and what of `mass` is left for it.

    Never an entry without weight, whatever rounding has done to `mass`.
    """
    running = jnp.cumsum(weights)
    has = weights > 0
    over = has & (running > mass)
    last = weights.shape[0] - 1 - jnp.argmax(has[::-1])
    entry = jnp.where(over.any(), jnp.argmax(over), last)
    return entry, mass - (running[entry] - weights[entry])


def uniform_of(bits: UInt[Array, ""]) -> Float[Array, ""]:
    """[0, 1) from 32 random bits, of which a float32 holds 24."""
    return (bits >> 8).astype(float) * 2.0**-24
