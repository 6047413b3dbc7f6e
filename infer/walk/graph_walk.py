"""`GraphWalk`: a self-repellent walk on a graph, driven by NumPyro's `MCMC`.

A walk has no model: its draws are node numbers, and what is worth having is its history, which counts every step
between two draws too. The estimators read it from the last state (`estimators.py`).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Int, Key, UInt

from ...kernels.walk import DenseHistory, WalkState, as_graph, hdt_graph, log_target, srrw, validate
from ...kernels.walk.base import Walk
from ...kernels.walk.history import Tally, as_float, dense_history, emptied, tally_of
from ...kernels.walk.repellence import Repellence, alpha_at
from ...kernels.walk.row_table import Base
from ...kernels.walk.targets import GraphTarget, laziness
from ..contract import ChainKernel
from .chains import scan_together
from .report import progress_text, say_what_a_bar_costs, walk_warnings

METHODS, HISTORIES = ("srrw", "hdt"), ("reset", "keep")
# Bytes of an array above which it is no constant. Below, a constant spares one compilation: what has met a reference is
# bound to its device, and a run that is continued from it is compiled once more.
_LARGE = 2**22


class GraphWalkState(NamedTuple):
    """State of one chain.

    Attributes:
        z: `{"node": ...}`, the row number of the node.
        history: visits since the end of warm-up; with history="keep" those of warm-up too.
        warmup: with history="keep" what warm-up had counted, which averages leave out; None without.
        i: draws done, warm-up included; one for all vectorized chains.
        alpha: repellence in force at the last step.
        revisit_rate: share of the steps since the last reset that hit a node visited before.
        accept_prob: share of the steps of the draw that left their node.
        num_nonfinite: steps refused so far, because alpha or a weight was negative, infinite or NaN.
        rng_key: key of the next draw.
    """

    z: dict[str, Int[Array, ""]]
    history: DenseHistory
    warmup: Tally | None
    i: Int[Array, ""]
    alpha: Float[Array, ""]
    revisit_rate: Float[Array, ""]
    accept_prob: Float[Array, ""]
    num_nonfinite: UInt[Array, ""]
    rng_key: Key[Array, ""]


class GraphWalk(ChainKernel):
    """A walk on a graph that keeps away from where it has been, and so averages better than a Markov chain.

    Averages are those of all its steps: `node_average(mcmc, f)`, with an error from between the chains. What ArviZ
    says of the draws (effective sample size, R-hat) does not see the gain. Where the whole list of nodes is at hand a
    scan of it is better than any walk, and an average over the distinct nodes visited
    (`method="distinct"`) is exact once all are.

    Args:
        graph: connected: a `Graph`, networkx, scipy.sparse, or edges `[E, 2]`.
        target: share of the steps at each node: "uniform", "degree", positive weights `[N]`, a dict from label to
            weight, or a function of the node numbers that returns log weights.
        alpha: repellence: 0 is the base chain; 5 takes about 95 % off the variance on badly mixing graphs. `Growth()`
            is best where a graph is walked over many times.
        method: "srrw" weighs all neighbours, at the cost of the degree; "hdt" looks at one, nine times the steps a
            second on a graph of mean degree 44, with a bias of order 1/n that is not small there.
        base: "mh" for any target, "simple" for the degree, or a `RowTable`.
        steps_per_draw: steps of a draw, all of them counted. On graphs of more than some hundred nodes take 100
            or more: the loop of `MCMC` costs as much as some steps, and with the progress bar on as much as 100.
        lazy: chance to stay put; "auto" makes a base chain lazy that swings between two sides.
        prior: visits that each node is taken to have had.
        history: "reset" forgets at the end of warm-up. "keep" goes on repelling from what warm-up visited and averages
            what came after: it takes out the bias of "hdt"; warm up for a tenth of the run then.

    Raises:
        ValueError, TypeError: at once, naming the argument, node or edge.

    Examples:
        >>> from emberwalk.infer import GraphWalk, node_average
        >>> from emberwalk.models import karate_club
        >>> walk = GraphWalk(karate_club(), alpha=10.0, steps_per_draw=10)
        >>> mcmc = MCMC(
        ...     walk, num_warmup=10, num_samples=200, num_chains=4, chain_method="vectorized", progress_bar=False
        ... )
        >>> mcmc.run(random.key(0))
        >>> degree = node_average(mcmc, karate_club().degree)
        >>> bool(abs(degree.mean - 156 / 34) < 0.2)
        True
    """

    state_class = GraphWalkState
    model = None
    fresh = {**ChainKernel.fresh, "_held": None}  # noqa: RUF012

    def __init__(
        self,
        graph: Any,
        target: GraphTarget = "uniform",
        alpha: Repellence = 5.0,
        *,
        method: Literal["srrw", "hdt"] = "srrw",
        base: Base = "mh",
        steps_per_draw: int = 1,
        lazy: float | Literal["auto"] = "auto",
        prior: float = 1.0,
        history: Literal["reset", "keep"] = "reset",
    ):
        super().__init__()
        for name, value, choices in (("method", method, METHODS), ("history", history, HISTORIES)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
        if not isinstance(steps_per_draw, int) or steps_per_draw < 1:
            raise ValueError(f"steps_per_draw must be a whole number from 1 on, got {steps_per_draw!r}.")
        self.graph = as_graph(graph)
        validate(self.graph)
        self.log_mu = log_target(self.graph, target)
        self.lazy = laziness(self.graph, self.log_mu, base, lazy)
        build = srrw if method == "srrw" else hdt_graph
        self.walk: Walk = build(self.graph, self.log_mu, alpha, base=base, lazy=self.lazy, prior=prior)
        self.method, self.alpha, self.history, self.base = method, alpha, history, base
        self.steps_per_draw, self.prior, self.bar_was_seen = steps_per_draw, prior, False
        self._held: Walk | None  # `walk`, its arrays behind references

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects beside the draws."""
        return ("z", "alpha", "revisit_rate", "accept_prob", "num_nonfinite")

    # Start and draws

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`: at `init_params["node"]`, else at a node drawn uniformly."""
        num, (key_node, rng_key) = self.graph.num_nodes, random.split(rng_key)
        node = random.randint(key_node, (), 0, num) if init_params is None else init_params["node"]
        history, zero = dense_history(num, self.prior), jnp.zeros(())
        return GraphWalkState(
            z={"node": jnp.asarray(node, jnp.int32)},
            history=history,
            warmup=tally_of(history) if self.history == "keep" else None,
            i=jnp.zeros((), jnp.int32),
            alpha=zero,
            revisit_rate=zero,
            accept_prob=zero,
            num_nonfinite=jnp.zeros((), jnp.uint32),
            rng_key=rng_key,
        )

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """See `ChainKernel`."""
        self._check_start(init_params, model_args, model_kwargs)
        if self._held is None:
            with jax.ensure_compile_time_eval():  # they outlive a program that starts a chain
                self._held = jax.tree.map(_referenced, self.walk)
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def sample_one(self, state, model_args, model_kwargs):
        """See `ChainKernel`."""
        state = self._turned(state)
        keys = random.split(state.rng_key)
        travelled = self._walk().travel(keys[0], _place(state), self.steps_per_draw)
        return self._drawn(state, keys[1], *travelled)._replace(i=state.i + 1)

    def sample_chains(self, states, model_args, model_kwargs):  # type: ignore[override]
        """See `vectorized`: what needs no order is done for all chains at once."""
        states = self._turned(states)
        keys = jax.vmap(random.split)(states.rng_key)
        travelled = self._walk().travel(keys[:, 0], _place(states), self.steps_per_draw, scan_together)
        drawn = jax.vmap(self._drawn)(states._replace(i=None), keys[:, 1], *travelled)
        return drawn._replace(i=states.i + 1)

    def _turned(self, state: GraphWalkState) -> GraphWalkState:
        """The state, at the end of warm-up with its history turned over; of one chain or a batch."""
        over = state.i == self._num_warmup
        if self.history == "keep":
            return state._replace(
                warmup=lax.cond(over, lambda: tally_of(state.history), lambda: state.warmup)
            )
        return state._replace(history=lax.cond(over, emptied, lambda history: history, state.history))

    def _walk(self) -> Walk:
        """The walk.

        A large graph is read through references, which are arguments of the loop of `MCMC`. Arrays are constants in
        it, and XLA copies a constant into every branch and loop that reads it: 460 MB for a million nodes.
        """
        return jax.tree.map(_read, self._held)

    def _drawn(self, state: GraphWalkState, rng_key, walked: WalkState, nodes, refused) -> GraphWalkState:
        """The state that those steps lead to."""
        node, history = walked
        assert isinstance(history, DenseHistory)
        alpha = alpha_at(self.walk.alpha, as_float(history.steps) - 1, self.walk.target.min_mu)
        moved = nodes != jnp.concatenate([state.z["node"][None], nodes[:-1]])
        return state._replace(
            z={"node": node},
            history=history,
            alpha=alpha,
            revisit_rate=as_float(history.revisits) / as_float(history.steps),
            accept_prob=moved.mean(dtype=float),
            num_nonfinite=state.num_nonfinite + refused,
            rng_key=rng_key,
        )

    def _check_start(self, init_params: Any, model_args: tuple, model_kwargs: dict[str, Any] | None) -> None:
        if model_args or model_kwargs:
            raise ValueError("GraphWalk has no model: mcmc.run takes a key, and no arguments of a model.")
        if init_params is None:
            return
        if set(init_params) != {"node"}:
            raise ValueError(f'init_params must be {{"node": number}}, got {sorted(init_params)}.')
        node = init_params["node"]
        if isinstance(node, jax.core.Tracer):
            return
        bad = np.extract((np.asarray(node) < 0) | (np.asarray(node) >= self.graph.num_nodes), node)
        if bad.size:
            raise ValueError(
                f'init_params["node"] must be from 0 to {self.graph.num_nodes - 1}, got {bad[0]}.'
            )

    # What NumPyro and the shared words ask for besides

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        say_what_a_bar_costs(self)
        return progress_text(state)

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        return walk_warnings(self, mcmc)


def _referenced(leaf: Any) -> Any:
    large = isinstance(leaf, jax.Array) and leaf.nbytes > _LARGE
    return jax.new_ref(leaf) if large else leaf


def _read(leaf: Any) -> Any:
    return leaf[...] if isinstance(leaf, jax.Ref) else leaf


def _place(state: GraphWalkState) -> WalkState:
    return WalkState(state.z["node"], state.history)
