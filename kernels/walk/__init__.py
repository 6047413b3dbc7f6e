"""Self-repellent walks as pure JAX: a walker on N states that keeps away from where it has been.

Take `hdt` apart. It is a Metropolis walk, and one factor in its test:

    accept with min(1, mu_j Q_ji / (mu_i Q_ij) (z_j / z_i)^-alpha),   z = visits / mu                     (1)

At alpha = 0 it is the base chain. **The row**: `srrw` draws from all neighbours at once, each weighed by
z^-alpha, in place of one proposal; a step costs the degree, and the bias is less. **The memory**: counts
(`DenseHistory`), or for tokens a histogram that forgets (`WeightedHistory`). **The strength**: a number, or
one that grows with the run (`Growth`), which takes the error from 1/sqrt(n) to about 1/n.

Two things a reader would get wrong. The sequence of nodes is no Markov chain, so that an effective sample
size does not see the gain: errors come from between chains. And what is averaged are all visits: a thinned
run has thrown the gain away.

All walks share `base.Walk`; `theory.py` says what their averages vary by, `graph.py` and `row_table.py` what
they walk on.
"""

from .base import WalkInfo, WalkState
from .graph import (
    Graph,
    as_graph,
    from_edges,
    from_networkx,
    from_scipy,
    is_bipartite,
    largest_component,
    validate,
)
from .hdt import hdt, hdt_graph
from .history import DenseHistory, WeightedHistory, dense_history, weighted_history
from .product_space import ProductSpace
from .repellence import Growth, Ramp
from .row_table import RowTable, dense_transition, row_table
from .rows import srrw_row
from .site_walk import SiteInfo, SiteState, SiteWalk
from .srrw import srrw
from .table import HashHistory, hash_history
from .targets import log_target
from .theory import asymptotic_covariance, sa_covariance, variance_ratio
from .token import TokenWalk, power_schedule, regime, token_walk

__all__ = [
    "DenseHistory",
    "Graph",
    "Growth",
    "HashHistory",
    "ProductSpace",
    "Ramp",
    "RowTable",
    "SiteInfo",
    "SiteState",
    "SiteWalk",
    "TokenWalk",
    "WalkInfo",
    "WalkState",
    "WeightedHistory",
    "as_graph",
    "asymptotic_covariance",
    "dense_history",
    "dense_transition",
    "from_edges",
    "from_networkx",
    "from_scipy",
    "hash_history",
    "hdt",
    "hdt_graph",
    "is_bipartite",
    "largest_component",
    "log_target",
    "power_schedule",
    "regime",
    "row_table",
    "sa_covariance",
    "srrw",
    "srrw_row",
    "token_walk",
    "validate",
    "variance_ratio",
    "weighted_history",
]
