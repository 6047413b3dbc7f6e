"""Chains and exact laws on which the walks are tested."""

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from emberwalk.kernels.walk import Graph, RowTable, dense_transition, from_edges
from emberwalk.kernels.walk.row_table import rows_of

type Weights = NDArray[np.float64]

P5_WEIGHTS = np.zeros((5, 5))
for i, j, w in ((0, 1, 1), (1, 2, 2), (2, 3, 1), (3, 4, 3), (4, 0, 1), (1, 3, 1), (0, 0, 1)):
    P5_WEIGHTS[i, j] = P5_WEIGHTS[j, i] = w
P5 = P5_WEIGHTS / P5_WEIGHTS.sum(1, keepdims=True)
P5_MU = np.array([3, 4, 3, 5, 4]) / 19
P5_F = np.arange(5.0)
P5_GRAPH = from_edges(np.argwhere(np.triu(P5_WEIGHTS, 1)))
STAR = from_edges([(0, 1), (0, 2), (0, 3), (1, 2)])  # rows of 2, 3, 3 and 4 entries, the node itself counted
STAR_MU = np.array([1.0, 3.0, 2.0, 0.5])


def table_of(graph: Graph, P: Weights) -> RowTable:
    """The chain P as a `RowTable`."""
    with np.errstate(divide="ignore"):
        return RowTable(np.log(P[rows_of(graph), graph.indices]), np.log(np.diag(P)))


P5_TABLE = table_of(P5_GRAPH, P5)


def random_chain(seed: int) -> tuple[Graph, Weights, Weights]:
    """A graph of 4 to 8 nodes, its Metropolis chain for a random target, and that target."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(4, 9))
    ring = [(i, (i + 1) % num) for i in range(num)]
    chords = [
        (i, j) for i in range(num) for j in range(i + 2, num) if rng.random() < 0.3 and (i, j) != (0, num - 1)
    ]
    graph, mu = from_edges(ring + chords), rng.random(num) + 0.1
    return graph, dense_transition(graph, np.log(mu)), mu / mu.sum()


def counted(counts: Weights, mu: Weights, prior: float) -> Weights:
    """z of counts: equation (1) of `history.py`, as the specification writes it."""
    return (counts + prior * len(mu) * mu / mu.sum()) / mu


def weighted(x: Weights, j: int, step: int, exponent: float) -> Weights:
    """A histogram that forgets, after its visit number `step`: equation (3) of `history.py`."""
    gamma = (step + 1.0) ** -exponent
    return (1 - gamma) * x + gamma * (np.arange(len(x)) == j)


def lazily(P: Weights, lazy: float) -> Weights:
    """Equation (3) of `row_table.py`."""
    return (1 - lazy) * P + lazy * np.eye(len(P))


def row_of_srrw(P: Weights, z: Weights, alpha: float, i: int) -> Weights:
    """Equation (1) of `srrw.py`."""
    weights = P[i] * z**-alpha
    return weights / weights.sum()


def row_of_hdt_moves(P: Weights, z: Weights, alpha: float, i: int) -> Weights:
    """Equation (3) of `hdt.py`."""
    row = P[i] * np.minimum(1, (z / z[i]) ** -alpha)
    row[i] += 1 - row.sum()
    return row


def row_of_hdt(graph: Graph, mu: Weights, lazy: float = 0.0) -> Callable:
    """Equation (2) of `hdt.py`, for uniform proposals; lazy beside that."""
    adjacency, degree = graph.adjacency().toarray(), graph.degree.astype(float)

    def row(z, alpha, i):
        r = mu * z**-alpha
        moves = (1 - lazy) * adjacency[i] / degree[i] * np.minimum(1, r * degree[i] / (r[i] * degree))
        moves[i] = 1 - moves.sum()
        return moves

    return row


def path_law(row: Callable[[Weights, int], Weights], history: Weights, record: Callable, start: int, n: int):
    """Probability of every path of n steps from `start`; paths in the order of `itertools.product`.

    Args:
        row: (history, i) -> law of the next node.
        history: before the first step.
        record: (history, j, step) -> history with the visit.
        start: the node that is not counted.
        n: steps.
    """
    num = len(history)

    def grow(i, history, step):
        law = row(history, i)
        if step == n:
            return law
        return np.concatenate(
            [
                law[j] * grow(j, record(history, j, step), step + 1)
                if law[j] > 0
                else np.zeros(num ** (n - step))
                for j in range(num)
            ]
        )

    return grow(start, history, 1)


def path_codes(paths: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Where each path stands in `path_law`."""
    return paths @ num ** np.arange(paths.shape[1])[::-1]


def count_z(codes: NDArray[np.int64], law: Weights, least: float = 25.0) -> Weights:
    """z-scores of the counts of every cell expected `least` times or more, and of all others in one."""
    total = len(codes)
    counts = np.bincount(codes, minlength=len(law))
    often = law * total >= least
    p = np.append(law[often], law[~often].sum())
    seen = np.append(counts[often], counts[~often].sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (seen - total * p) / np.sqrt(total * p * (1 - p))
    return np.where((seen == 0) & (p == 0), 0.0, z)


def all_paths(num: int, n: int) -> NDArray[np.int64]:
    """Every path, in the order of `path_law`."""
    return np.array(list(product(range(num), repeat=n)))
