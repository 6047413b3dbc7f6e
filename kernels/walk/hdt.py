"""The history-driven target (Hu, Ma, Eun 2025): any sampler, run on a target that its own visits tilt.

    pi_i[x] prop. to mu_i z_i^-alpha                                                                     (1)
    propose j from Q, accept with min(1, mu_j z_j^-alpha Q_ji / (mu_i z_i^-alpha Q_ij))                   (2)
    or move by a chain reversible for mu, accept with min(1, (z_j / z_i)^-alpha)                          (3)

A step of (2) looks at one neighbour, whatever the degree. Its variance is that of the base chain over 2 alpha + 1;
its bias, of order 1/n, is the price: on badly mixing graphs larger than that of `srrw` (`theory.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from .base import Walk
from .graph import Graph, validate
from .history import Target, target_of
from .repellence import Growth, Repellence, check_alpha, check_positive
from .row_table import Base, RowTable, row_table
from .rows import Rows, rows_from, uniform_of


class _Hdt(Walk):
    """What the three forms share: the test of (2) and (3)."""

    def accept(self, state, alpha, j, log_ratio, uniform, moves=1.0):
        """j with probability `moves` min(1, e^log_ratio (z_j / z_i)^-alpha), else i; -1 on a NaN."""
        log_accept = log_ratio - alpha * state.history.log_ratio(self.target, state.node, j)
        accepted = uniform < moves * jnp.exp(jnp.minimum(log_accept, 0))  # the min counts where moves < 1
        return jnp.where(jnp.isnan(log_accept), -1, jnp.where(accepted, j, state.node))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HdtUniform(_Hdt):
    """Equation (2) with Q uniform over the neighbours; see `hdt_graph`.

    Attributes:
        pull: log mu - log degree; None where it is constant.
        moves: 1 - laziness.
    """

    indices: Int[Array, " 2E"]
    indptr: Int[Array, "N+1"]
    pull: Float[Array, " N"] | None
    moves: float
    target: Target
    alpha: Repellence
    prior: float
    num_words: ClassVar[int] = 2

    @property
    def num_nodes(self):
        """See `Walk`."""
        return self.indptr.shape[0] - 1

    def choose(self, state, alpha, bits):
        """See `Walk`."""
        i = state.node
        first = self.indptr[i]
        degree = (self.indptr[i + 1] - first).astype(jnp.uint32)
        j = self.indices[
            first + (bits[0] % degree).astype(jnp.int32)
        ]  # a float32 favours some of 1e6 by 12 %
        log_ratio = 0.0 if self.pull is None else self.pull[j] - self.pull[i]
        return self.accept(state, alpha, j, log_ratio, uniform_of(bits[1]), self.moves)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HdtTable(_Hdt):
    """Equation (3) with the chain of a `RowTable`; see `hdt_graph`."""

    rows: Rows
    target: Target
    alpha: Repellence
    prior: float
    num_words: ClassVar[int] = 2

    @property
    def num_nodes(self):
        """See `Walk`."""
        return self.rows.indptr.shape[0] - 1

    def choose(self, state, alpha, bits):
        """See `Walk`."""
        j = self.rows.draw(state.node, jnp.zeros_like, uniform_of(bits[0]))
        return self.accept(state, alpha, j, 0.0, uniform_of(bits[1]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hdt(_Hdt):
    """Equation (3) with any sampler; see `hdt`."""

    target: Target
    alpha: Repellence
    prior: float
    base_step: Callable[[Key[Array, ""], Int[Array, ""]], Int[Array, ""]] = field(metadata={"static": True})
    num_states: int = field(metadata={"static": True})
    num_words: ClassVar[int] = 3

    @property
    def num_nodes(self):
        """See `Walk`."""
        return self.num_states

    def choose(self, state, alpha, bits):
        """See `Walk`."""
        j = self.base_step(random.wrap_key_data(bits[:2], impl="threefry2x32"), state.node)
        return self.accept(state, alpha, jnp.asarray(j, jnp.int32), 0.0, uniform_of(bits[2]))


def hdt(base_step: Callable, log_mu: ArrayLike, alpha: Repellence = 5.0, *, prior: float = 1.0) -> Hdt:
    """The history-driven target for any sampler, equation (3).

    Args:
        base_step: (key, i) -> j, a move reversible for mu on the states 0 to N - 1.
        log_mu: log target `[N]`, up to a constant.
        alpha: repellence: a number of at least 0, a `Ramp`, or a function of the step.
        prior: kappa, visits each state is taken to have had.

    Raises:
        ValueError: a strength below 0, or `Growth`, whose bias does not fall here.

    Examples:
        >>> from emberwalk.kernels.walk import hdt
        >>> walk = hdt(lambda key, i: random.randint(key, (), 0, 3), jnp.zeros(3), alpha=5.0)
        >>> state, nodes = walk.run(random.key(0), walk.init(0), 3000)
        >>> bool((abs(state.history.counts - 1000) < 30).all())
        True
    """
    _check(alpha, prior)
    log_mu = np.asarray(log_mu, np.float64)
    return Hdt(target_of(log_mu, len(log_mu)), alpha, prior, base_step, len(log_mu))


def hdt_graph(
    graph: Graph,
    log_mu: ArrayLike | None = None,
    alpha: Repellence = 5.0,
    *,
    base: Base = "mh",
    lazy: float = 0.0,
    prior: float = 1.0,
) -> HdtUniform | HdtTable:
    """The history-driven target on a graph: a step looks at one neighbour.

    Args:
        graph: connected.
        log_mu: log target `[N]`, up to a constant; uniform without it.
        alpha: repellence: a number of at least 0, a `Ramp`, or a function of the step.
        base: "mh" for any target, "simple" for the degree, or a `RowTable` reversible for mu.
        lazy: chance to stay put whatever the base chain would do.
        prior: kappa, visits each node is taken to have had.

    Raises:
        ValueError: as `srrw`, and `Growth`, whose bias does not fall here.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, hdt_graph
        >>> walk = hdt_graph(from_edges([(0, 1), (1, 2), (2, 3)]), alpha=10.0)
        >>> state, nodes = walk.run(random.key(0), walk.init(0), 4000)
        >>> bool((state.history.counts / 4000 - 0.25 < 0.02).all())
        True
    """
    validate(graph)
    _check(alpha, prior)
    table, target = row_table(graph, log_mu, base, lazy), target_of(log_mu, graph.num_nodes)
    if isinstance(base, RowTable):
        return HdtTable(rows_from(graph, table), target, alpha, prior)
    log_d = np.log(graph.degree)
    pull = -log_d if log_mu is None else np.asarray(log_mu, np.float64) - log_d
    return HdtUniform(
        jnp.asarray(graph.indices), jnp.asarray(graph.indptr),
        None if np.ptp(pull) == 0 else jnp.asarray(pull - pull.max(), float),
        1.0 - lazy, target, alpha, prior,
    )  # fmt: skip


def _check(alpha: Repellence, prior: float) -> None:
    check_alpha(alpha)
    check_positive("prior", prior)
    if isinstance(alpha, Growth):
        raise ValueError(
            "alpha: Growth needs the rows of srrw; under the history-driven target its bias stays (2.7 % of the mean "
            "degree of a graph of 4039 nodes after 1e6 steps). Use srrw, or a number."
        )
