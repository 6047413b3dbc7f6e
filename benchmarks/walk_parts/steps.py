"""Steps a second of one chain, beside loops and a padded scan

ego-Facebook, 4039 nodes of mean degree 44, uniform target, alpha 5; soc-wiki-Vote; a Barabasi-Albert graph of a million
nodes. Compiled before the clock runs.
"""

import time
from functools import partial

import jax
import numpy as np
from jax import random
from measure import TRIAL, Row, alternate
from peers import graph_walks as peers

from emberwalk.kernels.walk import hdt_graph, srrw
from emberwalk.models import barabasi_albert

from .setting import PYTHON_STEPS, REPEATS, STEPS, facebook, per_second, times_as_fast, wiki

_ALPHA = 5.0


def rows() -> list[Row]:
    """Facebook against its peers, then the other two graphs alone."""
    return [*_beside_peers(), *_alone("soc-wiki-Vote", wiki()), *_large()]


@jax.jit
def _walked(walk, state, key):
    return walk.run(key, state, STEPS)[0].history.counts


def walker(walk):
    """A function of one run from node 0."""
    return partial(_walked, walk, walk.init(0), random.key(0))


def _beside_peers() -> list[Row]:
    graph = facebook()
    neighbours, nx_graph, padded = peers.lists_of(graph), peers.networkx_of(graph), peers.padded_rows(graph)
    functions = {
        "hdt": walker(hdt_graph(graph, alpha=_ALPHA)),
        "srrw": walker(srrw(graph, alpha=_ALPHA)),
        "python": partial(peers.metropolis_in_python, neighbours, PYTHON_STEPS),
        "networkx": partial(peers.metropolis_in_networkx, nx_graph, PYTHON_STEPS),
        "srrw networkx": partial(peers.srrw_in_networkx, nx_graph, PYTHON_STEPS // 4, _ALPHA),
        "srrw numpy": partial(peers.srrw_in_numpy, graph, PYTHON_STEPS // 4, _ALPHA),
        "srrw padded": partial(peers.srrw_padded, *padded, PYTHON_STEPS, _ALPHA, random.key(0)),
    }
    times = alternate(functions, REPEATS)
    few = PYTHON_STEPS // 4
    found = [
        times_as_fast("HDT / Metropolis in Python", times["hdt"], times["python"], (STEPS, PYTHON_STEPS), 6),
        times_as_fast(
            "HDT / Metropolis in networkx", times["hdt"], times["networkx"], (STEPS, PYTHON_STEPS), 12
        ),
        times_as_fast(
            "SRRW / padded to the largest degree",
            times["srrw"],
            times["srrw padded"],
            (STEPS, PYTHON_STEPS),
            40,
        ),
        times_as_fast("SRRW / the same in numpy", times["srrw"], times["srrw numpy"], (STEPS, few), 8),
        times_as_fast("SRRW / the same in networkx", times["srrw"], times["srrw networkx"], (STEPS, few), 30),
    ]
    rates = [
        Row(
            "HDT, steps a CPU second",
            per_second(times["hdt"], STEPS),
            "1/s",
            at_least=1.5e6,
            note="one chain",
        ),
        Row(
            "SRRW, steps a CPU second",
            per_second(times["srrw"], STEPS),
            "1/s",
            at_least=5e5,
            note="one chain",
        ),
        Row("HDT, compilation and first run", times["hdt"].first_wall, "s", at_most=3, note="wall"),
        Row("SRRW, compilation and first run", times["srrw"].first_wall, "s", at_most=3, note="wall"),
    ]
    return found + rates


def _alone(name: str, graph) -> list[Row]:
    walks = {"HDT": hdt_graph(graph, alpha=_ALPHA), "SRRW": srrw(graph, alpha=_ALPHA)}
    times = alternate({word: walker(walk) for word, walk in walks.items()}, REPEATS)
    note = f"{graph.num_nodes} nodes"
    return [
        Row(f"{name}: {word}, steps a CPU second", per_second(timing, STEPS), "1/s", note=note)
        for word, timing in times.items()
    ]


def _large() -> list[Row]:
    begin = time.perf_counter()
    graph = barabasi_albert(2000 if TRIAL else 1_000_000, 5, seed=0)
    built = time.perf_counter() - begin
    widest = f"2E = {2 * graph.num_edges:.3g}, largest degree {np.max(graph.degree)}"
    return [
        Row("a million nodes: built on the host in", built, "s", at_most=10, note=widest),
        *_alone("a million nodes", graph),
    ]
