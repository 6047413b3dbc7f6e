"""Base chains: the transition probabilities of a reversible chain on the edges of a graph.

    mh       P_ij = min(1, mu_j d_i / (mu_i d_j)) / d_i     any target mu; d the degrees                 (1)
    simple   P_ij = 1 / d_i                                 reversible for mu = d alone                  (2)
    lazy     (1 - e) P + e I                                                                             (3)

P_ii is what the row lacks to 1. It is taken in float64 on the host: in float32 1 - sum is noise where it should be
0, and the row scan of a self-repellent walk multiplies it by up to e^30.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from .graph import Graph, is_bipartite

type Base = Literal["mh", "simple"] | RowTable

NO_STAY = 1e-12  # P_ii below it is rounding, and 0
TOLERANCE = 1e-5  # of a table from outside, which may be float32
MAX_DENSE = 5000


class RowTable(NamedTuple):
    """Log-probabilities of any chain that moves along the edges of a graph, reversible with respect to mu.

    Attributes:
        log_p: log P_ij, in the order of `Graph.indices`.
        log_p_self: log P_ii, -inf where the chain never stays.
    """

    log_p: Float[np.ndarray, " 2E"]
    log_p_self: Float[np.ndarray, " N"]


def row_table(
    graph: Graph, log_mu: ArrayLike | None = None, base: Base = "mh", lazy: float = 0.0
) -> RowTable:
    """The table of a base chain, equations (1) to (3), float32.

    Args:
        graph: to walk on.
        log_mu: log target `[N]`, up to a constant; uniform without it.
        base: "mh", "simple", or a table, which is checked.
        lazy: e, the chance to stay put whatever the chain would do.

    Raises:
        ValueError: "simple" with a target other than the degree; a table of other lengths, whose rows do not sum to
            1, or that is not reversible, by the node or the edge.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, row_table
        >>> path = from_edges([(0, 1), (1, 2)])
        >>> np.exp(row_table(path).log_p_self).tolist()
        [0.5, 0.0, 0.5]
    """
    log_p, stay = _probabilities(graph, _target(graph, log_mu), base, lazy)
    with np.errstate(divide="ignore"):
        return RowTable(log_p.astype(np.float32), np.log(stay).astype(np.float32))


def dense_transition(
    graph: Graph, log_mu: ArrayLike | None = None, base: Base = "mh", lazy: float = 0.0
) -> Float[np.ndarray, "N N"]:
    """The matrix P of a base chain in float64, for `theory`; arguments as for `row_table`.

    Raises:
        ValueError: more than 5000 nodes (200 MB), and what `row_table` raises.

    Examples:
        >>> from emberwalk.kernels.walk import dense_transition, from_edges
        >>> dense_transition(from_edges([(0, 1), (1, 2)])).tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    """
    if graph.num_nodes > MAX_DENSE:
        raise ValueError(
            f"graph has {graph.num_nodes} nodes; a dense matrix is made for at most {MAX_DENSE}."
        )
    log_p, stay = _probabilities(graph, _target(graph, log_mu), base, lazy)
    P = np.diag(stay)
    P[rows_of(graph), graph.indices] = np.exp(log_p)
    return P


def is_periodic(graph: Graph, log_mu: ArrayLike | None, base: Base) -> bool:
    """Whether the chain swings between the two sides of the graph, staying put nowhere."""
    return is_bipartite(graph) and not np.isfinite(row_table(graph, log_mu, base).log_p_self).any()


def rows_of(graph: Graph) -> Int[np.ndarray, " 2E"]:
    """The row i of each entry of `graph.indices`."""
    return np.repeat(np.arange(graph.num_nodes, dtype=np.int32), graph.degree)


def _target(graph: Graph, log_mu: ArrayLike | None) -> Float[np.ndarray, " N"]:
    if log_mu is None:
        return np.zeros(graph.num_nodes)
    log_mu = np.asarray(log_mu, np.float64)
    if log_mu.shape != (graph.num_nodes,):
        raise ValueError(f"log_mu must have one value a node, {graph.num_nodes}, got shape {log_mu.shape}.")
    bad = np.flatnonzero(~np.isfinite(log_mu))
    if bad.size:
        raise ValueError(f"log_mu must be finite: node {graph.labels[bad[0]]} has {log_mu[bad[0]]}.")
    return log_mu


def _probabilities(
    graph: Graph, log_mu: Float[np.ndarray, " N"], base: Base, lazy: float
) -> tuple[Float[np.ndarray, " 2E"], Float[np.ndarray, " N"]]:
    """log P_ij and P_ii, float64."""
    if not 0 <= lazy < 1:
        raise ValueError(f"lazy must be at least 0 and below 1, got {lazy}.")
    rows, log_d = rows_of(graph), np.log(graph.degree)
    if isinstance(base, RowTable):
        _check(graph, log_mu, base)
        log_p, stay = np.asarray(base.log_p, np.float64), np.exp(np.asarray(base.log_p_self, np.float64))
    elif base in ("mh", "simple"):
        pull = log_mu - log_d
        accept = np.minimum(0, pull[graph.indices] - pull[rows])
        if base == "simple" and np.ptp(pull) > TOLERANCE:
            raise ValueError(
                'base="simple" has the degree for its target, and log_mu is another. Use base="mh", or target="degree" '
                "and node_average(weights=...)."
            )
        log_p = accept - log_d[rows]
        stay = 1 - np.bincount(rows, np.exp(log_p), graph.num_nodes)
        stay = np.where(stay < NO_STAY, 0, stay)
    else:
        raise ValueError(f'base must be "mh", "simple" or a RowTable, got {base!r}.')
    return log_p + np.log1p(-lazy), (1 - lazy) * stay + lazy


def _check(graph: Graph, log_mu: Float[np.ndarray, " N"], table: RowTable) -> None:
    lengths = np.shape(table.log_p), np.shape(table.log_p_self)
    if lengths != ((len(graph.indices),), (graph.num_nodes,)):
        raise ValueError(
            f"base: log_p and log_p_self have shapes {lengths}; this graph has {len(graph.indices)} entries (two an "
            f"edge) and {graph.num_nodes} nodes."
        )
    rows = rows_of(graph)
    p = np.exp(np.asarray(table.log_p, np.float64))
    total = np.bincount(rows, p, graph.num_nodes) + np.exp(np.asarray(table.log_p_self, np.float64))
    wrong = np.flatnonzero(~(np.abs(total - 1) <= TOLERANCE))
    if wrong.size:
        raise ValueError(
            f"base: the row of node {graph.labels[wrong[0]]} sums to {total[wrong[0]]:.6g}, not 1."
        )
    back = p[reverse_entries(graph)] * np.exp(log_mu[graph.indices] - log_mu[rows])
    wrong = np.flatnonzero(~(np.abs(p - back) <= TOLERANCE * np.maximum(p, back)))
    if wrong.size:
        i, j = rows[wrong[0]], graph.indices[wrong[0]]
        raise ValueError(
            f"base is not reversible: from {graph.labels[i]} to {graph.labels[j]} it flows with {p[wrong[0]]:.6g} mu, "
            f"back with {back[wrong[0]]:.6g} mu. Give the log_mu it is reversible for."
        )


def reverse_entries(graph: Graph) -> Int[np.ndarray, " 2E"]:
    """For the entry (i, j), where (j, i) stands."""
    return np.lexsort((rows_of(graph), graph.indices))
