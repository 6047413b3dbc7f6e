"""The self-repellent random walk (Doshi, Hu, Eun 2023).

    K_ij[x] = P_ij z_j^-alpha / sum_k P_ik z_k^-alpha,   k over the neighbours of i and i itself          (1)

P is reversible with respect to mu, and z the visits over mu (`history.py`). A node visited too often repels, and the
histogram of the visits converges to mu with a variance that falls as 1/alpha (`theory.py`). The sum of (1) has i
itself in it: without it the limit is another.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from numpy.typing import ArrayLike

from .base import Walk
from .graph import Graph, validate
from .history import Target, target_of
from .repellence import Repellence, check_alpha, check_positive
from .row_table import Base, row_table
from .rows import Rows, rows_from, uniform_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Srrw(Walk):
    """Equation (1); see `srrw`."""

    rows: Rows
    target: Target
    alpha: Repellence
    prior: float
    num_words: ClassVar[int] = 1

    @property
    def num_nodes(self):
        """See `Walk`."""
        return self.rows.indptr.shape[0] - 1

    def choose(self, state, alpha, bits):
        """See `Walk`."""

        def tilt(ids):
            return -alpha * state.history.log_ratio(self.target, state.node, ids)

        return self.rows.draw(state.node, tilt, uniform_of(bits[0]))


def srrw(
    graph: Graph,
    log_mu: ArrayLike | None = None,
    alpha: Repellence = 5.0,
    *,
    base: Base = "mh",
    chunk: int = 32,
    lazy: float = 0.0,
    prior: float = 1.0,
) -> Srrw:
    """A self-repellent random walk on a graph, equation (1); a step costs the degree of its node.

    Args:
        graph: connected.
        log_mu: log target `[N]`, up to a constant; uniform without it.
        alpha: repellence: 0 is the base chain, 10 takes about 97 % off the variance of a badly mixing one. Or a
            `Ramp`, a `Growth`, or a function of the step.
        base: "mh" for any target, "simple" for the degree, or a `RowTable` reversible for mu.
        chunk: entries of a row read at once; 32 suits CPUs.
        lazy: chance to stay put whatever the base chain would do; above 0 where it swings between two sides.
        prior: kappa, visits each node is taken to have had: large values wake the repellence later.

    Raises:
        ValueError: a graph with isolated nodes or several components; a base that is no chain for mu; a strength
            below 0.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, srrw
        >>> walk = srrw(from_edges([(0, 1), (1, 2), (2, 3)]), alpha=10.0)
        >>> state, nodes = walk.run(random.key(0), walk.init(0), 4000)
        >>> bool((state.history.counts / 4000 - 0.25 < 0.01).all())
        True
    """
    validate(graph)
    check_alpha(alpha)
    check_positive("prior", prior)
    check_positive("chunk", chunk)
    rows = rows_from(graph, row_table(graph, log_mu, base, lazy), chunk)
    return Srrw(rows, target_of(log_mu, graph.num_nodes), alpha, prior)
