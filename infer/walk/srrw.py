"""`SRRW`: a self-repellent walk on a model whose latent sites are all discrete and finite."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key, PyTree, UInt
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

from ...kernels.walk.history import Tally, as_float, dense_history, emptied, tally_of
from ...kernels.walk.repellence import Growth, Repellence, check_alpha, check_positive
from ...kernels.walk.site_walk import SiteBase, SiteHistory, SiteState, SiteWalk
from ...kernels.walk.table import HashHistory, hash_history
from ..contract import ChainKernel
from .chains import chains_together
from .discrete_sites import DiscreteSites, log_joint, prior_draw, read_sites
from .report import progress_text, site_warnings

DENSE_STATES = 2**20  # more are kept in a table
BASES, HISTORIES, GUARDS = ("gibbs", "mh"), ("reset", "keep"), ("adapt", "warn", None)
_TRIES = 100


class SRRWState(NamedTuple):
    """State of one chain.

    Attributes:
        z: values of the sites.
        x: the same as numbers of their supports, `[D]`.
        history: visits since the end of warm-up; with history="keep" those of warm-up too.
        warmup: with history="keep" what warm-up had counted, which averages leave out; None without.
        i: draws done, warm-up included; one for all vectorized chains.
        alpha: repellence in force at the last step.
        revisit_rate: share of the steps since the last reset that hit a state visited before.
        accept_prob: share of the steps of the draw that changed the state.
        potential_energy: minus log density of the draw.
        num_nonfinite: steps refused so far, because a NaN or a density of zero left no law to draw from.
        num_untracked: steps whose state found no place in the table.
        streamed: sum of `stream` over all inner steps after warm-up, and what it has lost to rounding; None without.
        rng_key: key of the next draw.
    """

    z: dict[str, Array]
    x: Int[Array, " D"]
    history: SiteHistory
    warmup: Tally | None
    i: Int[Array, ""]
    alpha: Float[Array, ""]
    revisit_rate: Float[Array, ""]
    accept_prob: Float[Array, ""]
    potential_energy: Float[Array, ""]
    num_nonfinite: UInt[Array, ""]
    num_untracked: UInt[Array, ""]
    streamed: tuple[PyTree, PyTree] | None
    rng_key: Key[Array, ""]


class SRRW(ChainKernel):
    """The history-driven target on an all-discrete model (a row of `srrw` would cost one evaluation a neighbour).

    The walk keeps away from states it has visited more often than the posterior asks for. Up to 2^20 states plain
    enumeration is exact; the use of this kernel is a concentrated posterior over many more, such as 30 to 100
    inclusion indicators, by `support_average(..., method="distinct")`.

    Args:
        model: its latent sites discrete, of finite support that depends on no other site.
        alpha: repellence: 0 is the base chain.
        base: "gibbs" redraws one coordinate from its conditional, at as many evaluations of the model as the largest
            support has values; "mh" proposes another value, at one.
        history_size: slots of the table of visited states, a power of two; "auto" counts all states where there are
            at most 2^20, and else takes a table of 2^20.
        steps_per_draw: coordinates renewed a draw; None: as many as there are.
        prior: visits that each state is taken to have had.
        history: "reset" forgets at the end of warm-up; "keep" goes on repelling from what warm-up visited.
        guard: "adapt" takes the repellence down to 0 as the share of revisits falls from .98 to .8, below which the
            kernel is its base chain; "warn" leaves it and says so; None is silent.
        stream: values of the sites -> array, summed over every inner step; read by `streamed`.

    Raises:
        ValueError, TypeError: for arguments at once, for models when sampling starts; both by name.

    Examples:
        >>> from emberwalk.infer import SRRW, support_average
        >>> def model():
        ...     numpyro.sample("k", dist.DiscreteUniform(3, 5))
        >>> mcmc = MCMC(
        ...     SRRW(model, alpha=1.0), num_warmup=10, num_samples=500, num_chains=2, chain_method="vectorized",
        ...     progress_bar=False,
        ... )
        >>> mcmc.run(random.key(0))
        >>> float(support_average(mcmc, lambda sites: sites["k"], method="distinct").mean)
        4.0
    """

    state_class = SRRWState
    fresh = {**ChainKernel.fresh, "_sites": None}  # noqa: RUF012

    def __init__(
        self,
        model: Callable[..., Any],
        alpha: Repellence = 5.0,
        *,
        base: SiteBase = "gibbs",
        history_size: Literal["auto"] | int = "auto",
        steps_per_draw: int | None = None,
        prior: float = 1.0,
        history: Literal["reset", "keep"] = "reset",
        guard: Literal["adapt", "warn"] | None = "adapt",
        stream: Callable[[dict[str, Array]], Array] | None = None,
    ):
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}.")
        check_alpha(alpha)
        if isinstance(alpha, Growth):
            raise ValueError(
                "alpha: Growth needs the rows of a walk on a graph; give SRRW a number or a Ramp."
            )
        for name, value, choices in (
            ("base", base, BASES),
            ("history", history, HISTORIES),
            ("guard", guard, GUARDS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
        if history_size != "auto" and (
            not isinstance(history_size, int) or history_size & (history_size - 1) or history_size < 1
        ):
            raise ValueError(f'history_size must be "auto" or a power of two, got {history_size!r}.')
        if steps_per_draw is not None and (not isinstance(steps_per_draw, int) or steps_per_draw < 1):
            raise ValueError(f"steps_per_draw must be a whole number from 1 on, got {steps_per_draw!r}.")
        check_positive("prior", prior)
        self._model, self.alpha, self.base, self.history_size = model, alpha, base, history_size
        self.given_steps, self.prior, self.history = steps_per_draw, prior, history
        self.guard, self.stream = guard, stream
        self._sites: DiscreteSites | None

    @property
    def model(self):
        """The model, as `Gibbs` asks for it."""
        return self._model

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects beside the draws."""
        of_walk = ("alpha", "revisit_rate", "accept_prob", "potential_energy")
        return ("z", *of_walk, "num_nonfinite", "num_untracked")

    @property
    def sites(self) -> DiscreteSites:
        """The sites as coordinates; `init` comes first."""
        assert self._sites is not None
        return self._sites

    @property
    def steps_per_draw(self) -> int:
        """Inner steps of a draw."""
        return self.given_steps or len(self.sites.space.num_values)

    # Start

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """See `ChainKernel`."""
        kwargs = dict(model_kwargs or {})
        if GIBBS_SITES_KWARG in kwargs and (callable(self.alpha) or self.alpha != 0):
            raise ValueError(
                f"SRRW with alpha={self.alpha} cannot be a block of Gibbs: its visits are of states whose probability "
                "changes with the other blocks. Use SRRW(model, alpha=0.0), a Gibbs sampler with the right supports."
            )
        self._sites = read_sites(self._model, model_args, kwargs)
        if init_params is not None and GIBBS_SITES_KWARG not in kwargs:
            self._sites.check(init_params)
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`: at `init_params` (values), else at the first possible one of 100 draws of the prior."""
        key_start, rng_key = random.split(rng_key)
        walk = self._walk(model_args, model_kwargs)
        if init_params is None:
            x = self._possible_draw(key_start, walk, model_args, model_kwargs)
        else:
            x = self.sites.state(init_params)
        history, zero = self._no_visits(), jnp.zeros(())
        nothing = jax.tree.map(jnp.zeros_like, self._streamed_at(x))
        return SRRWState(
            z=self.sites.values(x),
            x=x,
            history=history,
            warmup=tally_of(history) if self.history == "keep" else None,
            i=jnp.zeros((), jnp.int32),
            alpha=zero,
            revisit_rate=zero,
            accept_prob=zero,
            potential_energy=-walk.init(x, history).log_mu,
            num_nonfinite=jnp.zeros((), jnp.uint32),
            num_untracked=jnp.zeros((), jnp.uint32),
            streamed=None if self.stream is None else (nothing, nothing),
            rng_key=rng_key,
        )

    def failed(self, state):
        """See `ChainKernel`: a start of density zero."""
        return ~(jnp.atleast_1d(state.potential_energy) < jnp.inf)

    def init_again(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`: says why there is no start."""
        where = "at init_params" if init_params is not None else f"at all of {_TRIES} draws of the prior"
        raise ValueError(
            f"SRRW: the density is zero {where}. Give init_params with values that are possible."
        )

    def _possible_draw(self, key, walk, model_args, model_kwargs):
        def draw(number):
            one = random.fold_in(key, number)
            return prior_draw(self._model, self.sites, one, model_args, model_kwargs)

        def impossible(carry):
            number, x = carry
            return ~(walk.log_density(x) > -jnp.inf) & (number < _TRIES)

        return lax.while_loop(impossible, lambda carry: (carry[0] + 1, draw(carry[0])), (1, draw(0)))[1]

    def _no_visits(self) -> SiteHistory:
        space = self.sites.space
        if self.history_size == "auto" and space.num_states <= DENSE_STATES:
            return dense_history(space.num_states, self.prior)
        size = DENSE_STATES if self.history_size == "auto" else self.history_size
        return hash_history(size, space.num_words, self.prior)

    def _walk(self, model_args: tuple, model_kwargs: dict[str, Any] | None) -> SiteWalk:
        density = log_joint(self._model, self.sites, model_args, dict(model_kwargs or {}))
        return SiteWalk(self.sites.space, density, self.alpha, self.base, guarded=self.guard == "adapt")

    # Draws

    def sample_one(self, state, model_args, model_kwargs):
        """See `ChainKernel`."""
        return self._walked(self._turned(state), model_args, model_kwargs)._replace(i=state.i + 1)

    def sample_chains(self, states, model_args, model_kwargs):  # type: ignore[override]
        """See `vectorized`."""
        states = self._turned(states)
        own = states._replace(i=None, warmup=None)  # what walks; the rest stays

        def walked(state, nothing):
            return self._walked(state, model_args, model_kwargs), nothing

        moved, _ = chains_together(walked, own, None)
        return moved._replace(i=states.i + 1, warmup=states.warmup)

    def _turned(self, state: SRRWState) -> SRRWState:
        """The state, at the end of warm-up with its history and its stream turned over."""
        over = state.i == self._num_warmup
        nothing = jax.tree.map(jnp.zeros_like, state.streamed)
        state = state._replace(
            streamed=jax.tree.map(lambda z, s: jnp.where(over, z, s), nothing, state.streamed)
        )
        if self.history == "keep":
            return state._replace(
                warmup=lax.cond(over, lambda: tally_of(state.history), lambda: state.warmup)
            )
        return state._replace(history=lax.cond(over, emptied, lambda history: history, state.history))

    def _walked(self, state: SRRWState, model_args: tuple, model_kwargs: Any) -> SRRWState:
        """The steps of one draw."""
        key, rng_key = random.split(state.rng_key)
        walk = self._walk(model_args, model_kwargs)
        start = SiteState(state.x, -state.potential_energy, state.history)
        visit = None if self.stream is None else self._add
        end, info, streamed = walk.run(key, start, self.steps_per_draw, visit, state.streamed)
        history = end.history
        return state._replace(
            z=self.sites.values(end.x),
            x=end.x,
            history=history,
            alpha=info.alpha,
            revisit_rate=as_float(history.revisits) / as_float(history.steps),
            accept_prob=info.moved,
            potential_energy=-end.log_mu,
            num_nonfinite=state.num_nonfinite + info.finite.astype(jnp.uint32),
            num_untracked=history.untracked if isinstance(history, HashHistory) else state.num_untracked,
            streamed=streamed,
            rng_key=rng_key,
        )

    def _streamed_at(self, x: Int[Array, " D"]) -> PyTree:
        if self.stream is None:
            return None
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), self.stream(self.sites.values(x)))

    def _add(self, seen: tuple[PyTree, PyTree], x: Int[Array, " D"]) -> tuple[PyTree, PyTree]:
        """Kahan's sum: it runs over millions of steps."""
        total, lost = seen
        term = jax.tree.map(jnp.subtract, self._streamed_at(x), lost)
        new = jax.tree.map(jnp.add, total, term)
        lost = jax.tree.map(lambda n, t, y: (n - t) - y, new, total, term)
        return new, lost

    # What NumPyro and the shared words ask for besides

    def refresh(self, state, model_args, model_kwargs):
        """The density at `state.x` for what the model is now conditioned on."""
        walk = self._walk(model_args, model_kwargs)
        return state._replace(potential_energy=-walk.log_density(state.x))

    def get_constrain_fn(self, model_args, model_kwargs):
        """Values are their own."""
        return _same

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        return progress_text(state)

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        return site_warnings(self, mcmc)


def _same(values: Any) -> Any:
    return values
