"""Accuracy: what an average is off by, and where something simpler is better

ego-Facebook, uniform target: total variation distance and rms error of the mean degree after 200,000 and 1,000,000
steps of each of 32 chains; n times the bias of the mean degree. `distinct` averages over the nodes visited. The rotor
walk has no chance in it: one run. And after half a CPU second of each walk, 16 chains: the rms error of the share of
an attribute that spreads from friend to friend.
"""

import numpy as np
from jax import random
from measure import TRIAL, Row, alternate
from numpyro.infer import MCMC
from peers.graph_walks import rotor

from emberwalk.infer import GraphWalk, node_average, visit_statistics
from emberwalk.kernels.walk import Growth, hdt_graph, srrw

from .setting import REPEATS, STEPS, facebook, per_second
from .steps import walker

_NUM_CHAINS = 4 if TRIAL else 32
_LENGTHS = (STEPS,) if TRIAL else (200_000, 1_000_000)
_SECONDS = 0.002 if TRIAL else 0.5
_WALKS = {
    "Metropolis": {"alpha": 0.0, "method": "hdt"},
    "HDT, alpha 5": {"alpha": 5.0, "method": "hdt"},
    "SRRW, alpha 5": {"alpha": 5.0},
    "SRRW, Growth(1)": {"alpha": Growth(1.0)},
}


def rows() -> list[Row]:
    """Walk by walk: both lengths, then the same time."""
    return [
        *(_row_of(name, length) for length in _LENGTHS for name in _WALKS),
        *(_rotor(length) for length in _LENGTHS),
        *_at_equal_time(),
    ]


def _run(name: str, length: int, num_chains: int) -> MCMC:
    kernel = GraphWalk(facebook(), **_WALKS[name], steps_per_draw=length // 20)
    options = {"chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=0, num_samples=20, num_chains=num_chains, **options)
    mcmc.run(random.key(0))
    return mcmc


def _row_of(name: str, length: int) -> Row:
    graph, mcmc = facebook(), _run(name, length, _NUM_CHAINS)
    visits, distinct = (node_average(mcmc, graph.degree, method=method) for method in ("visits", "distinct"))
    mean = graph.degree.mean()
    off = (visits.per_chain / mean - 1, distinct.per_chain / mean - 1)
    rms = [float(np.sqrt(np.mean(one**2))) for one in off]
    bias = length * float(np.mean(off[0])) * mean
    error = length * float(np.std(off[0], ddof=1)) * mean / np.sqrt(_NUM_CHAINS)
    statistics = visit_statistics(mcmc)
    note = (
        f"mean degree off by {rms[0]:.3g} (rms, relative), over distinct nodes {rms[1]:.3g}; n bias {bias:.3g} +- "
        f"{error:.2g}; {1 - statistics.coverage.mean():.2%} of the nodes not visited"
    )
    return Row(f"n = {length}, {name}: distance of the visits", float(statistics.tvd.mean()), "", note=note)


def _rotor(length: int) -> Row:
    graph = facebook()
    visits = rotor(graph, length)
    distance = np.abs(visits / length - 1 / graph.num_nodes).sum() / 2
    off = visits @ graph.degree / length / graph.degree.mean() - 1
    name = f"n = {length}, rotor walk: distance of the visits"
    return Row(name, float(distance), "", note=f"mean degree off by {off:.3g}")


def _at_equal_time() -> list[Row]:
    """Half a CPU second a chain, by the rate of one chain of the bare kernel."""
    graph, hidden = facebook(), attribute()
    found = []
    for name, options in _WALKS.items():
        build = hdt_graph if options.get("method") == "hdt" else srrw
        timing = alternate({name: walker(build(graph, alpha=options["alpha"]))}, REPEATS)[name]
        length = int(_SECONDS * per_second(timing, STEPS)) // 20 * 20
        mcmc = _run(name, length, _NUM_CHAINS // 2)
        averages = {method: node_average(mcmc, hidden, method=method) for method in ("visits", "distinct")}
        rms = {
            method: float(np.sqrt(np.mean((a.per_chain - hidden.mean()) ** 2)))
            for method, a in averages.items()
        }
        distance = float(visit_statistics(mcmc).tvd.mean())
        note = f"{length:.3g} steps; distance of the visits {distance:.3g}; over distinct nodes {rms['distinct']:.2g}"
        found.append(Row(f"half a CPU second, {name}: error of a hidden share", rms["visits"], "", note=note))
    return found


def attribute() -> np.ndarray:
    """0 or 1 at each node, alike among friends."""
    graph, rng = facebook(), np.random.default_rng(0)
    hidden, adjacency = rng.random(graph.num_nodes) < 0.1, graph.adjacency().astype(float)
    for _ in range(3):
        hidden = (adjacency @ hidden / graph.degree + 0.3 * rng.normal(size=graph.num_nodes)) > 0.45
    return hidden.astype(float)
