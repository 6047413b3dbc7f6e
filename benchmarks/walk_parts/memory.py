"""Memory of a million nodes

Barabasi-Albert graph, 2E = 1e7, four chains of a million steps in `MCMC`: the largest resident memory of a new process,
with Python, JAX and NumPyro, of which 340 MB is what 1000 nodes take.
"""

import sys

from measure import TRIAL, Row, child

from .setting import PEERS

_NODES = 2000 if TRIAL else 1_000_000


def rows() -> list[Row]:
    """Both methods, and a small graph."""
    sizes = {"srrw": _NODES, "hdt": _NODES, "srrw, 1000 nodes": 1000}
    found = []
    for name, num_nodes in sizes.items():
        seen = child(sys.executable, PEERS / "million_nodes.py", name.partition(",")[0], str(num_nodes), "4")
        bar = 1.0 if num_nodes > 1000 else None
        note = f"{seen['steps']:.3g} steps"
        found.append(
            Row(f"largest resident memory, {name}", seen["peak"] / 1e9, "GB", at_most=bar, note=note)
        )
    return found
