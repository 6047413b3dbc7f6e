"""`ZeroShotMJP`: a model with a Markov jump process, sampled by proposals that already know the rates.

    1. independence Metropolis, several times: proposals from the skewed Laplace density of `start.py`
    2. every few draws a transition of NUTS, with the covariance of that density for its mass matrix

Both leave the posterior invariant, whatever the start was: a bad one is slow and never wrong. Where rates, links and
noise are well known the first is nearly independent draws at the cost of a density each, and the second is made seldom;
where the posterior has another shape the second takes over. Which of them it is, warm-up decides.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import get_potential_fn, transform_fn

from ...kernels.jump import Proposal
from ...kernels.jump.paths import is_traced
from ..contract import ModelKernel, chain_axes
from .moves import Moved, Place, independence_moves
from .sites import Labels, Model
from .start import FlatModel, Refinement, check_refined, fell_back, refine, runner
from .transition import Nuts, NutsMove

_STUCK, _RARELY = 0.05, 0.1
# A NUTS transition costs as much as some twenty densities: where most proposals are accepted it is made more seldom.
_MOSTLY, _SELDOM = 0.5, 4

type Values = dict[str, Array]


class ZeroShotMJPState(NamedTuple):
    """State of one chain.

    Attributes:
        i: draws done, warm-up included; one for all vectorized chains.
        all_nuts: whether every draw is a transition of NUTS, since proposals were hardly ever accepted in warm-up; one
            for all vectorized chains.
        nuts_every: draws from one transition of NUTS to the next; one for all vectorized chains.
        z: unconstrained value of each latent site.
        z_grad: gradient of the potential at the end of the last transition of NUTS; zeros before the first.
        potential_energy: of `z`.
        num_steps: leapfrogs of this draw; 0 without NUTS.
        accept_prob: mean over the moves of this draw.
        independence_accept_prob: mean over its independence moves.
        mean_independence_accept_prob: of that, since the start or since the end of warm-up.
        diverging: whether its trajectory diverged.
        adapt_state: step size and mass matrix of NUTS.
        pareto_khat: of importance weights of 1000 proposals at the start; only reported.
        num_nonfinite: proposals so far that had no finite density; they were refused.
        num_clipped_lags: lags too long for the fastest rate at the start.
        fell_back: whether the start was the prior mean.
        converged: whether proposals are around a mode that was reached.
        proposal: where independence moves come from.
        rng_key: key of the next draw.
    """

    i: Int[Array, ""]
    all_nuts: Bool[Array, ""]
    nuts_every: Int[Array, ""]
    z: Values
    z_grad: Values
    potential_energy: Float[Array, ""]
    num_steps: Int[Array, ""]
    accept_prob: Float[Array, ""]
    independence_accept_prob: Float[Array, ""]
    mean_independence_accept_prob: Float[Array, ""]
    diverging: Bool[Array, ""]
    adapt_state: Any
    pareto_khat: Float[Array, ""]
    num_nonfinite: Int[Array, ""]
    num_clipped_lags: Int[Array, ""]
    fell_back: Bool[Array, ""]
    converged: Bool[Array, ""]
    proposal: Proposal
    rng_key: Key[Array, ""]


class ZeroShotMJP(ModelKernel):
    """Exact sampling of a model with a `MarkovJumpProcess` or `MarkovJumpCounts`, from a start that needs no warm-up.

    Rates may be anything that the model makes of its latents: log rates, a mechanism, covariates, a hierarchy. At the
    start the rates are refined from the data and pulled back to the latents; see `start.py`. Some 20 to 100 warm-up
    draws settle the step size of NUTS.

    With many distinct lags and vectorized chains all squarings of all transition matrices run: take sequential chains
    there. Under `chain_method=jax.vmap` both moves run at every draw.

    Args:
        model: the NumPyro model; its latents continuous, its plates whole, one jump process observed.
        site: name of that jump process, where there are several.
        labels: for emissions other than a scalar Normal with rising means: a guessed state for each measurement, or a
            function of the measurements that makes them. Only the start depends on it.
        num_proposals: independence moves of a draw. Raise it where they are accepted rarely and the density is cheap.
        nuts_every: draws from one transition of NUTS to the next; four times as many after a warm-up in which more
            than half of the proposals were accepted.
        target_accept_prob: of NUTS.
        max_tree_depth: of NUTS.

    Raises:
        ValueError: for arguments that cannot be meant, at once; for models without a jump process, or with several,
            discrete latents or subsampled plates, or rates that depend on no latent, when sampling starts.
        RuntimeError: if the density is not finite where a chain starts.

    Examples:
        >>> from emberwalk.infer import ZeroShotMJP
        >>> from emberwalk.kernels.jump import path_statistics, rates_from_vector, simulate_batch
        >>> from emberwalk.models import MarkovJumpCounts
        >>> times = np.linspace(0.0, 5.0, 26)
        >>> labels = simulate_batch(0, np.array([[0.0, 1.0], [0.5, 0.0]]), times, num_paths=1000)
        >>> def model(stats):
        ...     log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1))
        ...     law = MarkovJumpCounts(rates_from_vector(jnp.exp(log_rates), 2), stats)
        ...     numpyro.sample("counts", law, obs=stats.counts)
        >>> mcmc = MCMC(ZeroShotMJP(model), num_warmup=20, num_samples=100, progress_bar=False)
        >>> mcmc.run(random.key(0), path_statistics(times, labels))
        >>> bool(mcmc.get_extra_fields()["independence_accept_prob"].mean() > 0.8)
        True
    """

    state_class = ZeroShotMJPState
    shared_fields = ("i", "all_nuts", "nuts_every")
    start_level = 1
    fresh = {**ModelKernel.fresh, "_known": None}  # noqa: RUF012

    def __init__(
        self,
        model: Model,
        *,
        site: str | None = None,
        labels: Labels = None,
        num_proposals: int = 4,
        nuts_every: int = 4,
        target_accept_prob: float = 0.8,
        max_tree_depth: int = 10,
    ):
        super().__init__(model)
        for name, value in (
            ("num_proposals", num_proposals), ("nuts_every", nuts_every), ("max_tree_depth", max_tree_depth),
        ):  # fmt: skip
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}.")
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"target_accept_prob must be between 0 and 1, got {target_accept_prob!r}.")
        self.site, self.labels = site, labels
        self.num_proposals, self.nuts_every = num_proposals, nuts_every
        self._nuts = Nuts(target_accept_prob, max_tree_depth)
        self._max_tree_depth = max_tree_depth  # for the statistics of trees in ArviZ
        self._known: Refinement | None
        self._found: str | None = None  # name of the jump process

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects beside the draws."""
        acceptance = ("accept_prob", "independence_accept_prob")
        return ("z", "potential_energy", *acceptance, "num_steps", "diverging", "num_nonfinite")

    @property
    def posterior_start(self) -> Values:
        """The refined estimate: constrained values of all latents at the mode.

        Raises:
            ValueError: before sampling has started, or where the data were traced.
        """
        if self._known is None:
            raise ValueError("posterior_start is there once sampling has started here, with data that are not traced.")
        return self._known.estimate

    # Start

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """First state of a chain, or of vectorized chains where `rng_key` is a batch of keys."""
        model_kwargs = dict(model_kwargs or {})
        arguments = (num_warmup, model_args, model_kwargs)
        if self._known is None or self._start is None or not self._start.is_for(arguments):
            self._known = None
            if GIBBS_SITES_KWARG not in model_kwargs and not is_traced(model_args, model_kwargs):
                self._known = self._refined(model_args, model_kwargs)
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def _refined(self, model_args: tuple, model_kwargs: dict[str, Any]) -> Refinement:
        """The start, outside of whatever is traced: once, also for chains that come one after the other."""

        known = self._refinement(model_args, model_kwargs)
        check_refined(known, self._found, _WHO)
        return known

    def _refinement(self, model_args: tuple, model_kwargs: dict[str, Any]) -> Refinement:
        make, run = partial(self._flat, model_args, model_kwargs), runner((model_args, model_kwargs))
        return refine(make, self.labels, _WHO, run)

    def _flat(self, model_args: tuple, model_kwargs: dict[str, Any]) -> FlatModel:
        """The model, read: what it tells of draws is kept."""
        flat = FlatModel(self._model, self.site, _WHO, model_args, model_kwargs)
        self._found, self._inv_transforms = flat.site, flat.inv_transforms
        self._potential_fn_gen, self._postprocess_fn = get_potential_fn(
            flat.prepared, flat.inv_transforms, replay_model=flat.replays, dynamic_args=True,
            model_args=model_args, model_kwargs=model_kwargs,
        )  # fmt: skip
        return flat

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`: at a draw of the proposal, unless it is told where."""
        key_start, key_chain = random.split(rng_key)
        flat = self._flat(model_args, model_kwargs)
        known = self._known
        if known is None:
            known = self._refinement(model_args, model_kwargs)
        if init_params is None:
            # the density there is known: a program that starts a chain does without it
            at = random.randint(key_start, (), 0, len(known.starts))
            return self._begun(key_chain, flat.unravel(known.starts[at]), known.energies[at], known)
        if GIBBS_SITES_KWARG in model_kwargs:  # Gibbs hands its blocks constrained values
            init_params = transform_fn(self._inv_transforms, init_params, invert=True)
        return self.start(key_chain, init_params, self.potential(model_args, model_kwargs), known)

    def start(
        self,
        rng_key: Array,
        z: Values,
        potential_fn: Callable[[Values], Array],
        known: Refinement | None = None,
    ) -> ZeroShotMJPState:
        """First state of one chain at `z`; what is known is that of the data the kernel has started with."""
        known = known or self._known
        assert known is not None
        return self._begun(rng_key, z, potential_fn(z), known)

    def _begun(self, rng_key: Array, z: Values, energy: Array, known: Refinement) -> ZeroShotMJPState:
        key_nuts, key_chain = random.split(rng_key)
        place = Place(ravel_pytree(z)[0], energy)
        zero, nothing = jnp.zeros_like(energy), jnp.zeros((), jnp.int32)
        return ZeroShotMJPState(
            i=nothing,
            all_nuts=jnp.zeros((), bool),
            nuts_every=nothing + self.nuts_every,
            z=z,
            z_grad=jax.tree.map(jnp.zeros_like, z),
            potential_energy=energy,
            num_steps=nothing,
            accept_prob=zero,
            independence_accept_prob=zero,
            mean_independence_accept_prob=zero,
            diverging=jnp.zeros((), bool),
            adapt_state=self._nuts.start(key_nuts, place, known.fit.cov),
            pareto_khat=known.pareto_khat,
            num_nonfinite=nothing,
            num_clipped_lags=known.num_clipped_lags,
            fell_back=known.fell_back,
            converged=known.converged,
            proposal=known.proposal,
            rng_key=key_chain,
        )

    def failed(self, state):
        """See `ChainKernel`."""
        return ~jnp.isfinite(state.potential_energy)

    def init_again(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`: there is no better start than the one that failed.

        Raises:
            RuntimeError: always.
        """
        where = "init_params" if init_params is not None else "the refined start"
        raise RuntimeError(
            f"{_WHO}: the density is not finite at {where}. Look at the law of {self._found!r} for rates that are "
            "negative or NaN, and at the priors."
        )

    # Draws

    def sample_one(self, state, model_args, model_kwargs):
        """See `ChainKernel`."""
        state = self._turned(state, state.mean_independence_accept_prob)
        moved = self.move(state, self.potential(model_args, model_kwargs or {}))
        return moved._replace(i=state.i + 1)

    def sample_chains(self, states, model_args, model_kwargs):  # type: ignore[override]
        """See `vectorized`: whether proposals help is decided for all chains together."""
        states = self._turned(states, states.mean_independence_accept_prob.mean())
        axes = chain_axes(ZeroShotMJPState, self.shared_fields)
        move = partial(self.move, potential_fn=self.potential(model_args, model_kwargs or {}))
        return jax.vmap(move, (axes,), axes)(states)._replace(i=states.i + 1)

    def _turned(self, state: ZeroShotMJPState, acceptance: Array) -> ZeroShotMJPState:
        """The state, at the end of warm-up with its average begun anew."""
        over = (state.i == self._num_warmup) & (self._num_warmup > 0)
        all_nuts = jnp.where(over, acceptance < _STUCK, state.all_nuts)
        seldom = jnp.where(over & (acceptance > _MOSTLY), _SELDOM * self.nuts_every, state.nuts_every)
        return state._replace(
            all_nuts=all_nuts,
            nuts_every=jnp.where(all_nuts, 1, seldom),
            mean_independence_accept_prob=jnp.where(over, 0, state.mean_independence_accept_prob),
        )

    def move(self, state: ZeroShotMJPState, potential_fn: Callable[[Values], Array]) -> ZeroShotMJPState:
        """The moves of one draw of one chain; the counter is that of all chains, and stays."""
        rng_key, key_independence, key_nuts = random.split(state.rng_key, 3)
        u, unravel = ravel_pytree(state.z)

        def potential(u: Array) -> Array:
            return potential_fn(unravel(u))

        place, zero = Place(u, state.potential_energy), jnp.zeros_like(state.potential_energy)
        proposed = lax.cond(
            state.all_nuts,
            lambda: Moved(place, zero, jnp.zeros((), jnp.int32)),
            lambda: independence_moves(key_independence, place, state.proposal, potential, self.num_proposals),
        )
        with_nuts = state.i % state.nuts_every == 0
        ended = lax.cond(
            with_nuts,
            lambda: self._nuts.move(key_nuts, proposed.place, potential, state.adapt_state, self._phase(state)),
            lambda: NutsMove.none(proposed.place, ravel_pytree(state.z_grad)[0], state.adapt_state),
        )
        number = state.i + 1 - jnp.where(state.i < self._num_warmup, 0, self._num_warmup)
        mean = state.mean_independence_accept_prob
        proposals = jnp.where(state.all_nuts, 0, self.num_proposals)
        accepted = proposals * proposed.accept_prob + with_nuts * ended.accept_prob
        return state._replace(
            z=unravel(ended.place.u),
            z_grad=unravel(ended.gradient),
            potential_energy=ended.place.potential,
            num_steps=ended.num_steps,
            accept_prob=accepted / (proposals + with_nuts),
            independence_accept_prob=proposed.accept_prob,
            mean_independence_accept_prob=mean + (proposed.accept_prob - mean) / number,
            diverging=ended.diverging,
            adapt_state=ended.adapt_state,
            num_nonfinite=state.num_nonfinite + proposed.num_nonfinite,
            rng_key=rng_key,
        )

    def _phase(self, state: ZeroShotMJPState) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        """Whether the step size is adapted, and whether for the last time."""
        adapting = state.i < self._num_warmup
        return adapting, adapting & (state.i + self.nuts_every >= self._num_warmup)

    # What NumPyro and the shared words ask for besides

    def refresh(self, state, model_args, model_kwargs):
        """Potential and gradient at `state.z` for what the model is now conditioned on; the proposal stays."""
        energy, gradient = jax.value_and_grad(self.potential(model_args, dict(model_kwargs or {})))(state.z)
        return state._replace(potential_energy=energy, z_grad=gradient)

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        independence, both, khat = (
            float(np.mean(x))
            for x in (state.mean_independence_accept_prob, state.accept_prob, state.pareto_khat)
        )
        return f"independence acc. {independence:.2f}, all moves {both:.2f}, k-hat {khat:.2f}"

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        state, sentences = mcmc.last_state, []
        acceptance = float(np.mean(state.mean_independence_accept_prob))
        if acceptance < _RARELY:
            sentences.append(
                f"Independence moves rarely help: {acceptance:.1%} of them are accepted, and results rest on NUTS. "
                "Look at its effective sample size, and warm up for some hundred draws."
            )
        refused = int(np.sum(np.asarray(state.num_nonfinite, np.int64)))
        if refused:
            sentences.append(
                f"{refused} proposals had no finite density and were refused: look for rates that may become negative "
                "or overflow."
            )
        clipped = int(np.max(state.num_clipped_lags))
        if clipped:
            sentences.append(
                f"{clipped} lags are so long for the fastest rate that they were shortened: they say nothing of it. "
                "Enable float64, or leave them out by a mask."
            )
        if np.any(state.fell_back):
            sentences.append(fell_back(self._found, _WHO))
        if not np.all(state.converged):
            sentences.append(
                "The mode was not reached at the start, so that proposals are those of another place: "
                f"{acceptance:.1%} of them are accepted. Where that is little, warm up for some hundred draws."
            )
        return sentences


_WHO = "ZeroShotMJP"
