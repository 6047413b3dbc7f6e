"""The same walks without emberwalk: loops in Python, numpy and networkx, a scan padded to the largest degree.

Each makes `num` steps from node 0 with a uniform target and returns the visits.
"""

import random
from functools import partial

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jax import lax


def lists_of(graph) -> list[list[int]]:
    """Neighbours of every node as Python lists."""
    return [graph.indices[a:b].tolist() for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]


def networkx_of(graph) -> nx.Graph:
    """The graph of networkx."""
    return nx.from_scipy_sparse_array(graph.adjacency())


def metropolis_in_python(neighbours: list[list[int]], num: int, seed: int = 0) -> list[int]:
    """Metropolis, one proposal a step."""
    rng, node, visits = random.Random(seed), 0, [0] * len(neighbours)
    for _ in range(num):
        here = neighbours[node]
        other = here[int(rng.random() * len(here))]
        if rng.random() * len(neighbours[other]) < len(here):
            node = other
        visits[node] += 1
    return visits


def metropolis_in_networkx(graph: nx.Graph, num: int, seed: int = 0) -> dict[int, int]:
    """The same by networkx's own calls, as it is commonly written."""
    rng, node, visits = random.Random(seed), 0, dict.fromkeys(graph, 0)
    for _ in range(num):
        other = rng.choice(list(graph.neighbors(node)))
        if rng.random() < graph.degree(node) / graph.degree(other):
            node = other
        visits[node] += 1
    return visits


def srrw_in_networkx(graph: nx.Graph, num: int, alpha: float, seed: int = 0) -> dict[int, int]:
    """The self-repellent walk over networkx's neighbours."""
    rng, node, visits = random.Random(seed), 0, dict.fromkeys(graph, 0)
    for _ in range(num):
        here, degree = list(graph.neighbors(node)), graph.degree(node)
        p = [min(1 / degree, 1 / graph.degree(j)) for j in here]
        nodes, p = [*here, node], [*p, 1 - sum(p)]
        weights = [
            q * ((visits[j] + 1) / (visits[node] + 1)) ** -alpha for j, q in zip(nodes, p, strict=True)
        ]
        (node,) = rng.choices(nodes, weights)
        visits[node] += 1
    return visits


def srrw_in_numpy(graph, num: int, alpha: float, seed: int = 0) -> np.ndarray:
    """The self-repellent walk, a row at a time."""
    rng, node, visits, degree = np.random.default_rng(seed), 0, np.zeros(len(graph.degree)), graph.degree
    for _ in range(num):
        here = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
        p = np.minimum(1 / degree[node], 1 / degree[here])
        nodes, p = np.append(here, node), np.append(p, 1 - p.sum())
        running = np.cumsum(p * ((visits[nodes] + 1) / (visits[node] + 1)) ** -alpha)
        node = nodes[np.searchsorted(running, rng.random() * running[-1], side="right")]
        visits[node] += 1
    return visits


def padded_rows(graph) -> tuple[jax.Array, jax.Array]:
    """Columns and log-probabilities of every row, padded to the largest degree."""
    width = int(graph.degree.max()) + 1
    columns, log_p = (
        np.zeros((len(graph.degree), width), np.int32),
        np.full((len(graph.degree), width), -np.inf),
    )
    for i, here in enumerate(lists_of(graph)):
        p = np.minimum(1 / graph.degree[i], 1 / graph.degree[here])
        columns[i, : len(here)], columns[i, len(here)] = here, i
        with np.errstate(divide="ignore"):
            log_p[i, : len(here)], log_p[i, len(here)] = np.log(p), np.log(max(1 - p.sum(), 0))
    return jnp.asarray(columns), jnp.asarray(log_p, jnp.float32)


@partial(jax.jit, static_argnums=2)
def srrw_padded(columns: jax.Array, log_p: jax.Array, num: int, alpha: float, key: jax.Array) -> jax.Array:
    """The self-repellent walk in JAX as one writes it first: a categorical draw over a padded row."""

    def step(carry, key):
        node, counts = carry
        log_w = log_p[node] - alpha * jnp.log(counts[columns[node]] + 1.0)
        node = columns[node, jax.random.categorical(key, log_w)]
        return (node, counts.at[node].add(1)), None

    counts = jnp.zeros(log_p.shape[0], jnp.int32)
    return lax.scan(step, (jnp.int32(0), counts), jax.random.split(key, num))[0][1]


def rotor(graph, num: int) -> np.ndarray:
    """The rotor walk (Holroyd and Propp 2010) of Metropolis: each node proposes its neighbours in turn.

    What chance decides in Metropolis, each edge adds up: it is taken when its acceptances reach one more. Sums begin at
    random and neighbours stand in a random order, or a run shorter than many turns of a hub is far off.
    """
    rng, neighbours, degree = random.Random(0), lists_of(graph), graph.degree.tolist()
    for here in neighbours:
        rng.shuffle(here)
    accept = [[min(1.0, degree[i] / degree[j]) for j in here] for i, here in enumerate(neighbours)]
    added = [[rng.random() for _ in here] for here in neighbours]
    turn, visits, node = [0] * len(neighbours), [0] * len(neighbours), 0
    for _ in range(num):
        at, here = turn[node], added[node]
        turn[node] = (at + 1) % len(here)
        here[at] += accept[node][at]
        if here[at] >= 1:
            here[at] -= 1
            node = neighbours[node][at]
        visits[node] += 1
    return np.array(visits)
