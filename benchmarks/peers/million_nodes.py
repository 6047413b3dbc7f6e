"""Child process: memory of `GraphWalk` inside `MCMC` on a random graph.

    python million_nodes.py METHOD NUM_NODES NUM_CHAINS    srrw or hdt

Builds the graph, walks all chains in one program, and prints the largest resident memory of the process by then,
everything imported included, and the steps walked.
"""

import json
import sys
from pathlib import Path

from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import GraphWalk, visit_statistics
from emberwalk.models import barabasi_albert


def main(method: str, num_nodes: int, num_chains: int) -> None:
    """One run of a thousand draws."""
    walk = GraphWalk(barabasi_albert(num_nodes, 5, seed=0), method=method, steps_per_draw=1000)
    options = {"chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(walk, num_warmup=10, num_samples=1000, num_chains=num_chains, **options)
    mcmc.run(random.key(0))
    steps = visit_statistics(mcmc).num_steps
    print(json.dumps({"peak": peak_bytes(), "steps": int(steps.sum())}))


def peak_bytes() -> int:
    """VmHWM: what `getrusage` calls the same has the parent's memory in it, from before the program was its own."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
