"""Averages of a walk, from its counts, with errors from between the chains.

    visits     sum_i c_i w_i f_i / sum_i c_i w_i              every step counts                          (1)
    distinct   sum_{i visited} m_i f_i / sum_{i visited} m_i  no noise; what is missing is missing       (2)
    MCSE       sd of the chains' means / sqrt(C)                                                         (3)

w is 1, or m / mu for an average under other weights m than the target mu. The draws themselves are not looked at: a
thinned walk has lost what repellence gains. Nor is their autocorrelation: a walk with a memory is no Markov chain.
"""

import warnings
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ...kernels.walk.history import Tally, as_int, tally_of
from ...kernels.walk.targets import node_values
from ..blocks import check_begun
from .graph_walk import GraphWalk

_FEW_CHAINS = 8


class Average(NamedTuple):
    """An average over a walk.

    Attributes:
        mean: over the chains.
        mcse: equation (3); NaN for one chain.
        per_chain: `[C, ...]`.
        coverage: share of the states that each chain has visited, `[C]`; NaN where there are none to count.
        num_steps: behind each chain's average, `[C]`.
    """

    mean: Float[np.ndarray, "*f"]
    mcse: Float[np.ndarray, "*f"]
    per_chain: Float[np.ndarray, "C *f"]
    coverage: Float[np.ndarray, " C"]
    num_steps: Int[np.ndarray, " C"]

    def __str__(self) -> str:
        num = len(self.per_chain)
        words = f"{num} chains, t interval" if num > 1 else "1 chain, no error"
        if 1 < num < _FEW_CHAINS:
            words += (
                f"; of {num} chains the MCSE itself is uncertain (+-{100 / np.sqrt(2 * (num - 1)):.0f} %)"
            )
        mean, mcse = (np.array2string(np.asarray(x), precision=5) for x in (self.mean, self.mcse))
        if not np.isnan(self.coverage).all():
            words += f"; coverage {self.coverage.mean():.4g}"
        return f"{mean} (MCSE {mcse}; {words})"


def node_average(
    mcmc: Any, f: Any, *, method: Literal["visits", "distinct"] = "visits", weights: ArrayLike | None = None
) -> Average:
    """The average of f over the nodes, from a run of `GraphWalk`, equations (1) to (3).

    Args:
        mcmc: an `MCMC` or `ResumableRun` of `GraphWalk` after its run.
        f: values `[N]` or `[N, ...]`, a dict by label, or a function of the node numbers.
        method: "visits", or "distinct", exact once every node was visited and blind to what was not: right for an
            f without noise and a coverage near 1.
        weights: of the average, `[N]` or a dict by label, where they are not the target of the walk; at least 0.

    Raises:
        TypeError: for a run of another kernel.
        ValueError: f or weights of another length, or that miss nodes; a run that has not begun.

    Examples:
        >>> from emberwalk.infer import GraphWalk, node_average
        >>> walk = GraphWalk([(0, 1), (1, 2), (2, 0), (2, 3)], steps_per_draw=100)
        >>> mcmc = MCMC(
        ...     walk, num_warmup=1, num_samples=50, num_chains=2, chain_method="vectorized", progress_bar=False
        ... )
        >>> mcmc.run(random.key(0))
        >>> float(node_average(mcmc, jnp.arange(4), method="distinct").mean)
        1.5
    """
    kernel, counts = visits_of(mcmc)
    values = node_values(kernel.graph, f(np.arange(kernel.graph.num_nodes)) if callable(f) else f, "f")
    mu = target_of(kernel)
    m = mu if weights is None else _checked_weights(kernel, weights)
    if method not in ("visits", "distinct"):
        raise ValueError(f'method must be "visits" or "distinct", got {method!r}.')
    share = counts * (m / mu) if method == "visits" else (counts > 0) * m
    per_chain = np.tensordot(share, values, 1) / share.sum(1).reshape(-1, *[1] * (values.ndim - 1))
    return average_of(per_chain, (counts > 0).mean(1), counts.sum(1))


def _checked_weights(kernel: GraphWalk, weights: Any) -> Float[np.ndarray, " N"]:
    if isinstance(weights, str) or callable(weights):
        raise ValueError(f"weights must be numbers, one a node, or a dict by label, got {weights!r}.")
    m = node_values(kernel.graph, weights, "weights")
    bad = np.flatnonzero(~(np.isfinite(m) & (m >= 0))) if m.ndim == 1 else [0]
    if len(bad):
        raise ValueError(
            f"weights must be finite and at least 0: node {kernel.graph.labels[bad[0]]} has {m[bad[0]]}."
        )
    if not m.any():
        raise ValueError("weights must not all be 0.")
    return m


def visits_of(mcmc: Any) -> tuple[GraphWalk, Int[np.ndarray, "C N"]]:
    """The kernel of a run, and its visits after warm-up, int64."""
    kernel = getattr(mcmc, "sampler", None)
    if not isinstance(kernel, GraphWalk):
        found = type(mcmc if kernel is None else kernel).__name__
        raise TypeError(f"Averages over nodes are those of a run of GraphWalk: give its MCMC, got {found}.")
    check_begun(mcmc)
    return kernel, counted(mcmc).counts


class Counted(NamedTuple):
    """What every chain has counted after warm-up, on the host.

    Attributes:
        counts: visits of all states or slots, int64.
        steps: recorded.
        revisits: those of a state visited before, in warm-up too where its history was kept.
    """

    counts: Int[np.ndarray, "C N"]
    steps: Int[np.ndarray, " C"]
    revisits: Int[np.ndarray, " C"]


def counted(mcmc: Any) -> Counted:
    """Of the last state of a run of `GraphWalk` or `SRRW`."""
    state = mcmc.last_state
    tally = _on_host(tally_of(state.history))
    if state.warmup is None:
        return tally
    return Counted(*(now - before for now, before in zip(tally, _on_host(state.warmup), strict=True)))


def _on_host(tally: Tally) -> Counted:
    counts, steps, revisits = jax.device_get(tally)
    return Counted(
        np.atleast_2d(counts).astype(np.int64),
        np.atleast_1d(as_int(steps)).astype(np.int64),
        np.atleast_1d(as_int(revisits)).astype(np.int64),
    )


def target_of(kernel: GraphWalk) -> Float[np.ndarray, " N"]:
    """mu, up to a factor; the largest is 1."""
    if kernel.log_mu is None:
        return np.ones(kernel.graph.num_nodes)
    return np.exp(kernel.log_mu - kernel.log_mu.max())


def average_of(per_chain: np.ndarray, coverage: np.ndarray, num_steps: np.ndarray) -> Average:
    """Equation (3)."""
    if len(per_chain) > 1:
        mcse = per_chain.std(0, ddof=1) / np.sqrt(len(per_chain))
    else:
        mcse = np.full(per_chain.shape[1:], np.nan)
        warnings.warn(
            "One chain has no error, which is taken from between chains. Run several (num_chains=8, "
            "chain_method='vectorized').",
            UserWarning,
            stacklevel=3,
        )
    return Average(per_chain.mean(0), mcse, per_chain, coverage, num_steps)
