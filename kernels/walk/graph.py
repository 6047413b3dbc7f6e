"""Undirected graphs in compressed rows, from edge lists, scipy.sparse and networkx.

Row i of a graph is `indices[indptr[i]:indptr[i + 1]]`, its neighbours in rising order. Everything here runs on the
host, once; the walks take the three integer arrays to the device. A reader would get wrong that a node is its
row number everywhere: what the user calls it stands in `labels` and is used for words and dicts alone.
"""

import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import networkx as nx
    from scipy.sparse import csr_array

type Directed = Literal["error", "symmetrize"]
type SelfLoops = Literal["drop", "error"]
type Duplicates = Literal["merge", "error"]

MAX_SIZE = np.iinfo(np.int32).max
SHOWN = 5  # labels named in an error


class Graph(NamedTuple):
    """An undirected graph without self loops or multiple edges.

    Attributes:
        indptr: where each row starts in `indices`, and their end.
        indices: the neighbours, row by row, in rising order.
        degree: number of neighbours.
        labels: what the user calls each node.
    """

    indptr: Int[np.ndarray, "N+1"]
    indices: Int[np.ndarray, " 2E"]
    degree: Int[np.ndarray, " N"]
    labels: np.ndarray

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.degree)

    @property
    def num_edges(self) -> int:
        """E, each counted once."""
        return len(self.indices) // 2

    def adjacency(self) -> "csr_array":
        """The matrix of ones and zeros, N x N, sparse."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self.indices), np.int8)
        return csr_array((ones, self.indices, self.indptr), shape=(self.num_nodes, self.num_nodes))


def from_edges(
    edges: ArrayLike,
    *,
    directed: Directed = "error",
    self_loops: SelfLoops = "drop",
    duplicates: Duplicates = "merge",
) -> Graph:
    """The graph of a list of edges.

    Args:
        edges: integers `[E, 2]`, not negative; they become the labels, in rising order. An edge stands once, in
            either direction, or all edges stand in both.
        directed: "symmetrize" takes a list in which some edges stand in both directions and some in one, the mark
            of a directed graph; "error" refuses it.
        self_loops: "drop" leaves them out with a warning, "error" refuses them.
        duplicates: "merge" keeps one of equal edges with a warning, "error" refuses them.

    Raises:
        ValueError: entries that are no node numbers, and what the options refuse.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges
        >>> graph = from_edges([(10, 20), (20, 30), (30, 10)])
        >>> graph.labels.tolist(), graph.degree.tolist()
        ([10, 20, 30], [2, 2, 2])
    """
    _check_options(directed, self_loops, duplicates)
    pairs = _checked_ids(edges)
    labels, rows = np.unique(pairs, return_inverse=True)
    tails, heads = rows.reshape(pairs.shape).T
    tails, heads = _without_loops(tails, heads, labels, self_loops)
    both_ways, repeated = _directions(tails, heads, len(labels))
    if repeated:
        _repeated(repeated, duplicates)
    if 0 < both_ways < 1 and directed == "error":
        raise ValueError(
            f"edges: {both_ways:.0%} of the edges stand in both directions and the others in one, as in a directed "
            'graph. Pass directed="symmetrize" to take each as undirected.'
        )
    return symmetric(tails, heads, labels)


def from_scipy(
    matrix: Any,
    *,
    directed: Directed = "error",
    self_loops: SelfLoops = "drop",
    duplicates: Duplicates = "merge",
    labels: ArrayLike | None = None,
) -> Graph:
    """The graph of a square adjacency matrix of scipy.sparse (or dense), of zeros and ones.

    Args:
        matrix: `[N, N]`.
        directed: "symmetrize" adds the missing direction of an edge, "error" refuses it.
        self_loops: "drop" leaves them out with a warning, "error" refuses them.
        duplicates: of a matrix in coordinates: "merge" keeps one of equal entries with a warning, "error" refuses them.
        labels: what to call the nodes; 0 to N - 1 without it.

    Raises:
        ValueError: a matrix that is not square, or whose entries are not 0 or 1: weights have no place here, a
            weighted chain is a `RowTable` on the plain graph.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> from emberwalk.kernels.walk import from_scipy
        >>> from_scipy(csr_array([[0, 1], [1, 0]])).num_edges
        1
    """
    from scipy.sparse import coo_array

    _check_options(directed, self_loops, duplicates)
    entries = coo_array(matrix)
    if entries.shape[0] != entries.shape[1]:
        raise ValueError(f"matrix must be square, got {entries.shape}.")
    names = np.arange(entries.shape[0]) if labels is None else np.asarray(labels)
    odd = np.flatnonzero(~np.isin(entries.data, (0, 1)))
    if odd.size:
        row, column = entries.coords[0][odd[0]], entries.coords[1][odd[0]]
        raise ValueError(
            f"matrix: entry ({row}, {column}) is {entries.data[odd[0]]}, and a graph has 0 and 1 alone. A weighted "
            "chain is a RowTable on the plain graph: pass matrix != 0 here, and the chain as base."
        )
    here = entries.data != 0
    tails, heads = (side[here].astype(np.int64) for side in entries.coords)
    repeated = len(tails) - np.unique(tails * len(names) + heads).size
    if repeated:
        _repeated(repeated, duplicates)
    return _from_arrows(tails, heads, names, directed, self_loops)


def from_networkx(
    graph: "nx.Graph",
    *,
    directed: Directed = "error",
    self_loops: SelfLoops = "drop",
    duplicates: Duplicates = "merge",
) -> Graph:
    """The graph of networkx, its nodes as labels in networkx's order; attributes of edges are ignored.

    Args:
        graph: any graph of networkx; of a `DiGraph` every edge must stand in both directions.
        directed: "symmetrize" adds the missing direction of an edge, "error" refuses it.
        self_loops: "drop" leaves them out with a warning, "error" refuses them.
        duplicates: of a multigraph: "merge" keeps one of equal edges with a warning, "error" refuses them.

    Examples:
        >>> import networkx as nx
        >>> from emberwalk.kernels.walk import from_networkx
        >>> from_networkx(nx.path_graph(["a", "b", "c"])).labels.tolist()
        ['a', 'b', 'c']
    """
    _check_options(directed, self_loops, duplicates)
    index = {node: row for row, node in enumerate(graph)}
    labels = _labels(list(index))
    arrows = np.array([(index[u], index[v]) for u, v in graph.edges()], np.int64).reshape(-1, 2)
    distinct = len(np.unique(arrows if graph.is_directed() else np.sort(arrows, 1), axis=0))
    if distinct < len(arrows):
        _repeated(len(arrows) - distinct, duplicates)
    tails, heads = arrows.T
    if not graph.is_directed():
        tails, heads = np.concatenate([tails, heads]), np.concatenate([heads, tails])
    return _from_arrows(tails, heads, labels, directed, self_loops)


def as_graph(graph: Any) -> Graph:
    """A `Graph` from whatever a user has: a `Graph`, networkx, scipy.sparse, or an `[E, 2]` array of edges.

    Raises:
        TypeError: for anything else.

    Examples:
        >>> from emberwalk.kernels.walk import as_graph
        >>> as_graph([(0, 1), (1, 2)]).degree.tolist()
        [1, 2, 1]
    """
    if isinstance(graph, Graph):
        return graph
    if hasattr(graph, "edges") and hasattr(graph, "is_directed"):
        return from_networkx(graph)
    from scipy.sparse import issparse

    if issparse(graph):
        return from_scipy(graph)
    try:
        return from_edges(graph)
    except TypeError as error:
        raise TypeError(
            f"graph must be a Graph, a graph of networkx, a scipy.sparse matrix or an [E, 2] array of edges, got "
            f"{type(graph).__name__}."
        ) from error


def largest_component(graph: Graph) -> Graph:
    """The largest connected part of a graph, its labels kept.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, largest_component
        >>> largest_component(from_edges([(0, 1), (1, 2), (7, 8)])).labels.tolist()
        [0, 1, 2]
    """
    _, part = _components(graph)
    kept = np.flatnonzero(part == np.bincount(part).argmax())
    return _from_matrix(graph.adjacency()[kept][:, kept], graph.labels[kept])


def is_bipartite(graph: Graph) -> bool:
    """Whether the nodes fall into two sides with edges only between them.

    So it is where two copies of the graph, joined crosswise, have two parts for each of its own.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, is_bipartite
        >>> is_bipartite(from_edges([(0, 1), (1, 2), (2, 3), (3, 0)]))
        True
    """
    from scipy.sparse import block_array

    adjacency = graph.adjacency()
    crossed = block_array([[None, adjacency], [adjacency, None]], format="csr")
    return _num_components(crossed)[0] == 2 * _components(graph)[0]


def validate(graph: Graph) -> None:
    """Refuses a graph on which no walk can reach every node.

    Raises:
        ValueError: fewer than two nodes, a node without neighbours, or more parts than one.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, validate
        >>> validate(from_edges([(0, 1), (1, 2)]))
    """
    if graph.num_nodes < 2:
        raise ValueError(f"graph: a walk needs at least 2 nodes, got {graph.num_nodes}.")
    alone = np.flatnonzero(graph.degree == 0)
    if alone.size:
        raise ValueError(
            f"graph: {alone.size} nodes have no neighbour: {named(graph, alone)}. Use largest_component(graph)."
        )
    num, part = _components(graph)
    if num > 1:
        raise ValueError(
            f"graph has {num} components, the largest of {np.bincount(part).max()} of its {graph.num_nodes} nodes: a "
            "walk stays in one. Use largest_component(graph)."
        )


def named(graph: Graph, nodes: np.ndarray) -> str:
    """The labels of some nodes, for an error."""
    shown = ", ".join(str(label) for label in graph.labels[nodes[:SHOWN]])
    return shown + (", ..." if len(nodes) > SHOWN else "")


def _components(graph: Graph) -> tuple[int, np.ndarray]:
    return _num_components(graph.adjacency())


def _num_components(adjacency: Any) -> tuple[int, np.ndarray]:
    from scipy.sparse.csgraph import connected_components

    num, part = connected_components(adjacency, directed=False)
    return int(num), part


def _checked_ids(edges: ArrayLike) -> np.ndarray:
    pairs = np.asarray(edges)
    if pairs.shape == (0,):
        pairs = np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iuf":
        raise TypeError(f"edges must be numbers of shape [E, 2], got {pairs.dtype} of shape {pairs.shape}.")
    bad = np.argwhere(~((pairs >= 0) & (pairs == np.floor(pairs)) & (pairs < 2**62)))  # a NaN fails them all
    if bad.size:
        row, column = bad[0]
        raise ValueError(f"edges[{row}, {column}] is {pairs[row, column]}: a node is an integer from 0 on.")
    return pairs.astype(np.int64)


def _check_options(directed: str, self_loops: str, duplicates: str) -> None:
    given = {
        "directed": (directed, ("error", "symmetrize")),
        "self_loops": (self_loops, ("drop", "error")),
        "duplicates": (duplicates, ("merge", "error")),
    }
    for name, (value, choices) in given.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


def _without_loops(
    tails: np.ndarray, heads: np.ndarray, labels: np.ndarray, self_loops: SelfLoops
) -> tuple[np.ndarray, np.ndarray]:
    loops = np.flatnonzero(tails == heads)
    if loops.size:
        words = f"graph: {loops.size} self loops, the first at node {labels[tails[loops[0]]]}"
        if self_loops == "error":
            raise ValueError(f'{words}. Pass self_loops="drop" to leave them out.')
        warnings.warn(f"{words}, were left out.", stacklevel=3)
    kept = tails != heads
    return tails[kept], heads[kept]


def _repeated(num: int, duplicates: Duplicates) -> None:
    if duplicates == "error":
        raise ValueError(f'graph: {num} edges are repeated. Pass duplicates="merge" to keep one of each.')
    warnings.warn(f"graph: {num} repeated edges were merged.", stacklevel=3)


def _directions(tails: np.ndarray, heads: np.ndarray, num: int) -> tuple[float, int]:
    """Share of the edges that stand in both directions, and how many stand more than once in one of them."""
    arrows, edges = (
        np.unique(a * num + b).size
        for a, b in ((tails, heads), (np.minimum(tails, heads), np.maximum(tails, heads)))
    )
    return (arrows - edges) / max(edges, 1), len(tails) - arrows


def _from_arrows(
    tails: np.ndarray, heads: np.ndarray, labels: np.ndarray, directed: Directed, self_loops: SelfLoops
) -> Graph:
    """A graph from arrows that should stand in both directions."""
    tails, heads = (a.astype(np.int64) for a in _without_loops(tails, heads, labels, self_loops))
    if directed == "error":
        num = len(labels)
        one_way = np.setdiff1d(tails * num + heads, heads * num + tails)
        if one_way.size:
            u, v = labels[one_way[0] // num], labels[one_way[0] % num]
            raise ValueError(
                f"graph is directed: {one_way.size} edges stand in one direction only, the first from {u} to {v}. Pass "
                'directed="symmetrize" to take each as undirected.'
            )
    return symmetric(tails, heads, labels)


def symmetric(tails: np.ndarray, heads: np.ndarray, labels: np.ndarray) -> Graph:
    """Both directions of every edge, once."""
    from scipy.sparse import coo_array

    num = len(labels)
    if max(num, 2 * len(tails)) > MAX_SIZE:
        raise ValueError(f"graph: {num} nodes and {len(tails)} edges; int32 holds {MAX_SIZE} of each.")
    ones = np.ones(2 * len(tails), bool)  # their sum stays True
    rows, columns = np.concatenate([tails, heads]), np.concatenate([heads, tails])
    return _from_matrix(coo_array((ones, (rows, columns)), shape=(num, num)).tocsr(), labels)


def _from_matrix(matrix: Any, labels: np.ndarray) -> Graph:
    matrix.sum_duplicates()
    matrix.sort_indices()
    indptr = matrix.indptr.astype(np.int32)
    return Graph(indptr, matrix.indices.astype(np.int32), np.diff(indptr), labels)


def _labels(nodes: list) -> np.ndarray:
    """Integers and strings as such; anything else as objects, so that a tuple stays one label."""
    if all(isinstance(node, (int, np.integer)) for node in nodes) or all(
        isinstance(node, str) for node in nodes
    ):
        return np.array(nodes)
    labels = np.empty(len(nodes), object)
    labels[:] = nodes
    return labels
