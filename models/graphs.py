"""Graphs to walk on: a small real one, a large random one, and those of a file."""

from os import PathLike

import numpy as np

from ..kernels.walk import Graph, from_edges
from ..kernels.walk.graph import Directed, symmetric

# Zachary (1977): each member, and those of a higher number whom he met outside the club.
_KARATE = {
    0: (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    1: (2, 3, 7, 13, 17, 19, 21, 30),
    2: (3, 7, 8, 9, 13, 27, 28, 32),
    3: (7, 12, 13),
    4: (6, 10),
    5: (6, 10, 16),
    6: (16,),
    8: (30, 32, 33),
    9: (33,),
    13: (33,),
    14: (32, 33),
    15: (32, 33),
    18: (32, 33),
    19: (33,),
    20: (32, 33),
    22: (32, 33),
    23: (25, 27, 29, 32, 33),
    24: (25, 27, 31),
    25: (31,),
    26: (29, 33),
    27: (33,),
    28: (31, 33),
    29: (32, 33),
    30: (32, 33),
    31: (32, 33),
    32: (33,),
}


def karate_club() -> Graph:
    """Zachary's karate club: 34 members, 78 friendships, from before it split in two (Zachary 1977).

    Examples:
        >>> from emberwalk.models import karate_club
        >>> karate_club().num_edges
        78
    """
    return from_edges([(i, j) for i, friends in _KARATE.items() for j in friends])


def barabasi_albert(n: int, m: int, seed: int) -> Graph:
    """A random graph with hubs: every new node takes m edges, to old nodes in proportion to their degree.

    The list of all ends of edges is written in order; each new end is that of a place drawn uniformly among those
    before its node (Batagelj and Brandes 2005). The few repeated edges this makes are left out.

    Args:
        n: nodes.
        m: edges of each new node.
        seed: of numpy's generator.

    Returns:
        The graph, connected.

    Raises:
        ValueError: sizes that make no graph.

    Examples:
        >>> from emberwalk.models import barabasi_albert
        >>> barabasi_albert(1000, 5, seed=0).num_nodes
        1000
    """
    if not 1 <= m < n:
        raise ValueError(f"m must be at least 1 and below n, got m={m}, n={n}.")
    edges = np.arange(n * m)
    tails = edges // m
    # place 2k holds the tail of edge k, place 2k + 1 what stands at a place drawn from those of older nodes
    drawn = (np.random.default_rng(seed).random(n * m) * (2 * m * tails)).astype(np.int64)
    while (odd := drawn % 2 == 1).any():
        drawn[odd] = drawn[drawn[odd] // 2]
    heads = tails[drawn // 2]
    return symmetric(tails[m:], heads[m:], np.arange(n))  # the first node meets only itself


def read_edge_list(path: str | PathLike[str], *, directed: Directed = "error") -> Graph:
    """The graph of a text file with an edge a line, "u v", as SNAP and Network Repository have them; .gz too.

    Args:
        path: of the file; lines that begin with # or % are comments, what follows the two numbers is not read.
        directed: see `from_edges`.

    Raises:
        ValueError: a line that is not two numbers.

    Examples:
        >>> import pathlib, tempfile
        >>> from emberwalk.models import read_edge_list
        >>> file = pathlib.Path(tempfile.mkdtemp(), "edges.txt")
        >>> _ = file.write_text("# a path\\n1 2\\n2 3\\n")
        >>> read_edge_list(file).num_edges
        2
    """
    try:
        edges = np.loadtxt(path, np.int64, comments=("#", "%"), usecols=(0, 1), ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is no list of edges: {error}") from error
    return from_edges(edges, directed=directed)
