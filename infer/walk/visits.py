"""How a walk went: how far it got, how often it came back, how near its visits are to the target."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from .estimators import counted, target_of, visits_of
from .srrw import SRRW
from .support import visited_states


class VisitStatistics(NamedTuple):
    """How a walk went, one value a chain.

    Attributes:
        num_steps: counted, after warm-up.
        coverage: share of the states visited.
        revisit_rate: share of the steps that hit a state visited before.
        num_untracked: steps whose state found no place in the table.
        tvd: total variation distance of the visits to the target; NaN where it is not known.
    """

    num_steps: Int[np.ndarray, " C"]
    coverage: Float[np.ndarray, " C"]
    revisit_rate: Float[np.ndarray, " C"]
    num_untracked: Int[np.ndarray, " C"]
    tvd: Float[np.ndarray, " C"]


def visit_statistics(mcmc: Any) -> VisitStatistics:
    """Coverage, revisits and distance to the target of a run of `GraphWalk` or `SRRW`.

    Args:
        mcmc: an `MCMC` or `ResumableRun` after its run.

    Raises:
        TypeError: for a run of another kernel.

    Examples:
        >>> from emberwalk.infer import GraphWalk, visit_statistics
        >>> mcmc = MCMC(GraphWalk([(0, 1), (1, 2), (2, 0)]), num_warmup=1, num_samples=300, progress_bar=False)
        >>> mcmc.run(random.key(0))
        >>> visit_statistics(mcmc).num_steps.tolist()
        [300]
    """
    return _of_sites(mcmc) if isinstance(getattr(mcmc, "sampler", None), SRRW) else _of_nodes(mcmc)


def _of_nodes(mcmc: Any) -> VisitStatistics:
    kernel, counts = visits_of(mcmc)
    steps, mu = counts.sum(1), target_of(kernel)
    distance = np.abs(counts / steps[:, None] - mu / mu.sum()).sum(1) / 2
    return VisitStatistics(steps, (counts > 0).mean(1), _revisits(mcmc), np.zeros_like(steps), distance)


def _of_sites(mcmc: Any) -> VisitStatistics:
    """The probability of a state is not known, and so no distance."""
    visited = visited_states(mcmc, densities=False)
    coverage = np.array([len(chain.counts) for chain in visited]) / float(mcmc.sampler.sites.space.num_states)
    untracked = np.atleast_1d(jax.device_get(mcmc.last_state.num_untracked)).astype(np.int64)
    unknown = np.full(len(visited), np.nan)
    return VisitStatistics(counted(mcmc).steps, coverage, _revisits(mcmc), untracked, unknown)


def _revisits(mcmc: Any) -> np.ndarray:
    _, steps, revisits = counted(mcmc)
    return revisits / steps
