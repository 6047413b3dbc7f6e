"""Accuracy: what an average is off by, and where something simpler is better

ego-Facebook, uniform target: total variation distance and rms error of the mean degree after 200,000 and 1,000,000
steps of each of 32 chains; n times the bias of the mean degree. `distinct` averages over the nodes visited. The rotor
walk has no chance in it: one run.
"""

import numpy as np
from jax import random
from measure import TRIAL, Row
from numpyro.infer import MCMC
from peers.graph_walks import rotor

from emberwalk.infer import GraphWalk, node_average, visit_statistics
from emberwalk.kernels.walk import Growth

from .setting import STEPS, facebook

_NUM_CHAINS = 4 if TRIAL else 32
_LENGTHS = (STEPS,) if TRIAL else (200_000, 1_000_000)
_WALKS = {
    "Metropolis": {"alpha": 0.0},
    "HDT, alpha 5": {"alpha": 5.0, "method": "hdt"},
    "SRRW, alpha 5": {"alpha": 5.0},
    "SRRW, Growth(1)": {"alpha": Growth(1.0)},
}


def rows() -> list[Row]:
    """Walk by walk, both lengths."""
    return [row for length in _LENGTHS for name in _WALKS for row in _row_of(name, length)] + [
        row for length in _LENGTHS for row in _rotor(length)
    ]


def _row_of(name: str, length: int) -> list[Row]:
    graph = facebook()
    kernel = GraphWalk(graph, **_WALKS[name], steps_per_draw=length // 20)
    mcmc = MCMC(
        kernel,
        num_warmup=0,
        num_samples=20,
        num_chains=_NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0))
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
    return [Row(f"n = {length}, {name}: distance of the visits", float(statistics.tvd.mean()), "", note=note)]


def _rotor(length: int) -> list[Row]:
    graph = facebook()
    visits = rotor(graph, length)
    distance = np.abs(visits / length - 1 / graph.num_nodes).sum() / 2
    off = visits @ graph.degree / length / graph.degree.mean() - 1
    return [
        Row(
            f"n = {length}, rotor walk: distance of the visits",
            float(distance),
            "",
            note=f"mean degree off by {off:.3g}",
        )
    ]
