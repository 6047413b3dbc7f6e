"""The graphs, how far is walked, and how steps a second become a row."""

import os
from functools import cache
from pathlib import Path

from measure import TRIAL, Row, Timing, ratio

from emberwalk.kernels.walk import Graph
from emberwalk.models import barabasi_albert, read_edge_list

PEERS = Path(__file__).parents[1] / "peers"
REPEATS = 1 if TRIAL else 5
STEPS = 2000 if TRIAL else 200_000
PYTHON_STEPS = 200 if TRIAL else 20_000


@cache
def facebook() -> Graph:
    """ego-Facebook (SNAP): 4039 nodes, 88,234 edges, mean degree 44; a random graph of 900 nodes in a trial."""
    return barabasi_albert(900, 5, seed=0) if TRIAL else file_of("facebook_combined")


@cache
def wiki() -> Graph:
    """soc-wiki-Vote (Network Repository): 889 nodes, 2914 edges; a random graph of 90 nodes in a trial."""
    return barabasi_albert(90, 3, seed=0) if TRIAL else file_of("soc-wiki-Vote")


def file_of(name: str) -> Graph:
    """A graph of the folder that EMBERWALK_DATA names."""
    folder = os.environ.get("EMBERWALK_DATA")
    if not folder:
        raise RuntimeError(f"EMBERWALK_DATA is not set: it names the folder with graphs/{name}.txt.gz.")
    return read_edge_list(Path(folder) / "graphs" / f"{name}.txt.gz")


def per_second(timing: Timing, steps: int) -> float:
    """Steps a CPU second, the median of the repeats."""
    return steps / sorted(timing.cpu)[len(timing.cpu) // 2]


def times_as_fast(
    name: str, ours: Timing, theirs: Timing, steps: tuple[int, int], bar: float | None = None
) -> Row:
    """How many of our steps one of theirs takes, by CPU time; both rates in the note."""
    share = steps[0] / steps[1]
    cost, wall = ratio(theirs, ours), ratio(theirs, ours, "wall")
    rates = f"{per_second(ours, steps[0]):.3g} against {per_second(theirs, steps[1]):.3g} steps a CPU second"
    spread = type(cost)(*(value * share for value in cost))
    return Row(
        name,
        cost.median * share,
        "x",
        at_least=bar,
        spread=spread,
        note=f"{rates}; wall {wall.median * share:.3g}x",
    )
