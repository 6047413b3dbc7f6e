"""`ParticleGibbs`: the latent path of a model, given its parameters, as a block of `Gibbs`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, PyTree
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned

from ...kernels.smc import SSM, Paris, PathMove, SweepResult, conditional_sweep, unconditional_sweep
from ...kernels.smc.checkpoint import Checkpoint, check_checkpoint, is_checkpointed
from ...kernels.smc.conditional import PATH_MOVES
from ...kernels.smc.forward import start_sweep
from ...kernels.smc.paris import check_paris
from ...kernels.smc.types import check_count
from ..contract import ChainKernel, num_chains_of
from .capture import OuterModel
from .estimates import estimate_groups
from .functionals import Term, check_functionals, functional_of
from .observations import check_observed
from .path_model import PathModel, SiteValues, given_path
from .proposal import Proposal, check_proposal, guided
from .report import path_dims, path_groups, path_warnings
from .structure import check_owns_latents, check_path_move, find_path_model

_MAX_DOUBLINGS = 10


class ParticleGibbsState(NamedTuple):
    """State of one chain. "Stages" are 0 (the start) to T; counts and sums run after warm-up only.

    Attributes:
        i: iterations done, warm-up included.
        z: the path, one array a site.
        particle_ess: mean over time of 1 / sum W^2, in [1, N].
        particle_ess_min: the smallest over time.
        path_update_rate: share of times at which the reference particle was left.
        log_evidence: of the conditional sweep: E[Z / Zhat] = 1 under stationarity, so that it lies
            about half its variance above log Z.
        num_nonfinite: weights that were NaN or +inf, plus stages without a possible particle.
        num_sweeps: sweeps after warm-up, of which the counts and sums below are.
        update_counts: how often each stage left its reference particle.
        ess_sums: sums of 1 / sum W^2 of each stage.
        tracing_counts: how often the particle drawn at stage t was the ancestor of that at t + 1, where
            that had left its reference.
        functionals: PaRIS estimates of the functionals by this sweep; empty if none were asked for.
        path_functionals: the functionals of the path that it drew.
        rng_key: key of the next step.
    """

    i: Int[Array, ""]
    z: SiteValues
    particle_ess: Float[Array, ""]
    particle_ess_min: Float[Array, ""]
    path_update_rate: Float[Array, ""]
    log_evidence: Float[Array, ""]
    num_nonfinite: Int[Array, ""]
    num_sweeps: Int[Array, ""]
    update_counts: Int[Array, "T+1"]
    ess_sums: Float[Array, "T+1"]
    tracing_counts: Int[Array, "T"]
    functionals: dict[str, PyTree[Array]]
    path_functionals: dict[str, PyTree[Array]]
    rng_key: Array


class ParticleGibbs(ChainKernel):
    """The latent path of a model, given everything else, by a conditional particle filter.

    Exact for every `num_particles` >= 2 (`kernels/smc/conditional.py`, equation 1; Andrieu, Doucet
    and Holenstein 2010). A block for `numpyro.infer.Gibbs`, listed before NUTS; its sites may be
    discrete. `PPG` is this block, NUTS and the innovations move in one. A model without parameters
    may be given to `MCMC` with this kernel alone. The first path comes from a particle filter; alone,
    `init_params` gives another, which a `Gibbs` does not hand on.

    Args:
        model: a NumPyro model with one `scan` or one `StateSpace` site.
        num_particles: N >= 2, the reference particle included. Raise it until every time renews its
            state in half of the sweeps (`diagnose` says so).
        sites: the path sites; None: found by dataflow, or what `Gibbs` gives to the block.
        init_sites: sites outside the scan that start the path; None: found by dataflow.
        path_move: "backward" draws the path by backward sampling; "trace" follows the genealogy,
            which any model allows and which hardly moves early states.
        paris: how functionals are averaged backwards: "imh", O(N), "dense", O(N^2), or "auto", the
            faster (`kernels/smc/paris.py`).
        num_backward: backward draws a particle of "imh".
        functionals: name -> h(previous, current, t), summed over time, see `PPG`.
        proposal: (carry, t) -> a law for each path site, see `PPG`.
        checkpoint: True stores every sqrt(T)-th stage of a sweep and makes the others again: the same
            draws in up to twice the time and O(N sqrt(T)) memory. "auto" does so where the vectorized
            chains together would store more than 256 MiB.

    Raises:
        ValueError: for an N below 2, an unknown path move or `checkpoint` at once; when sampling starts, for
            a model without a path, or with one that the particle filter cannot take.
        RuntimeError: if no particle can explain the data at some time, with up to 1024 N particles.

    Examples:
        >>> from numpyro.infer import Gibbs
        >>> from emberwalk.infer import ParticleGibbs
        >>> from emberwalk.models import StateSpace, emission
        >>> def regimes(y):
        ...     stay = numpyro.sample("stay", dist.Uniform(0.5, 1.0))
        ...     x = numpyro.sample("x", StateSpace(
        ...         dist.Bernoulli(0.5), lambda prev, t: dist.Bernoulli(jnp.where(prev == 1, stay, 1 - stay)), 3))
        ...     numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 0.5), x), obs=y)
        >>> kernel = Gibbs([(ParticleGibbs(regimes, 16), ["x"]), (NUTS(regimes), None)])
        >>> mcmc = MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([0.2, 1.4, 0.8]))
        >>> mcmc.get_samples()["x"].shape
        (5, 3)
    """

    state_class = ParticleGibbsState
    fresh: dict[str, Any] = {**ChainKernel.fresh, "_given_path": None}  # noqa: RUF012

    def __init__(
        self,
        model: Callable[..., Any],
        num_particles: int = 32,
        *,
        sites: Sequence[str] | None = None,
        init_sites: Sequence[str] | None = None,
        path_move: PathMove = "backward",
        paris: Paris = "auto",
        num_backward: int = 2,
        functionals: Mapping[str, Term] | None = None,
        proposal: Proposal | None = None,
        checkpoint: Checkpoint = "auto",
    ):
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}.")
        check_count("num_particles", num_particles, 2)
        if path_move not in PATH_MOVES:
            raise ValueError(f"path_move must be one of {PATH_MOVES}, got {path_move!r}.")
        check_paris(paris, num_backward)
        check_checkpoint(checkpoint)
        check_proposal(proposal, model)
        self._model = model
        self.num_particles = num_particles
        self.path_move = path_move
        self.paris, self.num_backward = paris, num_backward
        self.functionals = check_functionals(functionals, model)
        self.proposal = proposal
        self.checkpoint = checkpoint
        self.sites = _names(sites, "sites")
        self.init_sites = _names(init_sites, "init_sites")
        self.path_model: PathModel | None = None
        self.num_chains = 1  # swept together, in one vectorized step

    @property
    def model(self) -> Callable[..., Any]:
        """The model, as `Gibbs` asks for it."""
        return self._model

    @property
    def path(self) -> PathModel:
        """The path found when sampling started."""
        if self.path_model is None:
            raise RuntimeError("The path of a model is found when sampling starts; run the kernel first.")
        return self.path_model

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects."""
        return ("z", *SCALAR_FIELDS, *(FUNCTIONAL_FIELDS if self.functionals else ()))

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """See `ChainKernel`."""
        if not isinstance(rng_key, jax.core.Tracer):  # within PPG, which has said how many there are
            self.num_chains = num_chains_of(rng_key)
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        """The path drawn by an unconditional filter at the present parameters."""
        return self._init_with(self.num_particles, rng_key, init_params, model_args, model_kwargs)

    def failed(self, state):
        """See `ChainKernel`: a weight of the first filter was no number, or all were zero."""
        return state.num_nonfinite > 0

    def init_again(self, rng_key, init_params, model_args, model_kwargs):
        """The first path with twice, four times, ... as many particles; refuses data that are no numbers."""
        outer = self._outer(model_args, model_kwargs)
        first = partial(self._first_sweep, model_args=model_args, model_kwargs=model_kwargs)
        sweep = sweep_with_more(first, self.num_particles, rng_key, outer, self.path)
        return self._first_state(sweep, rng_key, init_params, model_kwargs)

    def _init_with(self, num, rng_key, init_params, model_args, model_kwargs):
        in_gibbs = GIBBS_SITES_KWARG in model_kwargs and init_params is not None
        sites = self.sites or (tuple(init_params) if in_gibbs else None)
        outer = self._outer(model_args, model_kwargs)
        self.path_model = self._given_path or find_path_model(outer, init_sites=self.init_sites, sites=sites)
        check_owns_latents(outer, self.path)
        if self.functionals and self.path.order != 1:
            raise ValueError(
                f"functionals {list(self.functionals)} need a model of Markov order 1, and this one has order "
                f"{self.path.order}: with more lags the backward kernel only traces. Compute them from the drawn paths."
            )
        self._path_move = check_path_move(self.path, self.path_move)
        sweep = self._first_sweep(num, random.fold_in(rng_key, 0), model_args, model_kwargs)
        return self._first_state(sweep, rng_key, init_params, model_kwargs)

    def _first_sweep(self, num, key, model_args, model_kwargs) -> SweepResult:
        ssm = self._ssm(model_args, model_kwargs)
        return unconditional_sweep(key, ssm, num, **self._how(ssm))

    def _first_state(self, sweep: SweepResult, rng_key, init_params, model_kwargs) -> ParticleGibbsState:
        model, values = self.path, self.path.values_of(sweep.path)
        # what Gibbs hands to its blocks is a prototype of its own, not what a user asked for
        if init_params is not None and GIBBS_SITES_KWARG not in model_kwargs:
            values = given_path(init_params, values)
        return ParticleGibbsState(
            jnp.zeros((), jnp.int32), values, *_scalars(sweep, model.offset), sweep.num_nonfinite,
            jnp.zeros((), jnp.int32), jnp.zeros(model.length + 1, jnp.int32), jnp.zeros_like(sweep.ess),
            jnp.zeros(model.length, jnp.int32), sweep.statistic or {}, sweep.path_statistic or {},
            random.fold_in(rng_key, _MAX_DOUBLINGS + 1),
        )  # fmt: skip

    def sample_one(self, state, model_args, model_kwargs):
        """One conditional sweep."""
        model = self.path
        rng_key, key = random.split(state.rng_key)
        ssm = self._ssm(model_args, model_kwargs)
        sweep = conditional_sweep(key, ssm, model.path_of(state.z), self.num_particles, **self._how(ssm))
        counted = state.i >= self._num_warmup
        return ParticleGibbsState(
            state.i + 1,
            model.values_of(sweep.path),
            *_scalars(sweep, model.offset),
            state.num_nonfinite + sweep.num_nonfinite,
            state.num_sweeps + counted,
            state.update_counts + (counted & (sweep.indices != 0)),
            state.ess_sums + jnp.where(counted, sweep.ess, 0.0),
            state.tracing_counts + (counted & sweep.from_ancestor),
            sweep.statistic or {},
            sweep.path_statistic or {},
            rng_key,
        )

    def refresh(self, state, model_args, model_kwargs):
        """The state itself: nothing of the conditioning values is kept in it."""
        return state

    def get_constrain_fn(self, model_args, model_kwargs):
        """Path values are constrained as they are."""
        return _identity

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        text = f"path renewed={state.path_update_rate:.2f}, particle ESS={state.particle_ess:.1f}"
        return text + (f", nonfinite={state.num_nonfinite}" if state.num_nonfinite else "")

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        return path_warnings(self, mcmc.last_state)

    def groups(self, mcmc) -> dict[str, Any]:
        """Groups of `to_datatree`: `path_diagnostics` by time, `functional_estimates` if there are any."""
        return path_groups(self, mcmc.last_state) | estimate_groups(mcmc)

    def dims(self, mcmc) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The time axis of the path sites."""
        return path_dims(self.path)

    def _ssm(self, model_args, model_kwargs) -> SSM:
        """The model of one particle, drawn by the proposal if there is one."""
        outer = self._outer(model_args, model_kwargs)
        ssm = self.path.ssm(outer)
        return ssm if self.proposal is None else guided(ssm, self.proposal, self.path, outer)

    def _how(self, ssm: SSM) -> dict[str, Any]:
        """What a sweep is told."""
        how: dict[str, Any] = {"path_move": self._path_move, "checkpoint": self._is_checkpointed(ssm)}
        if self.functionals:
            functional = functional_of(self.functionals, self.path, ssm)
            how |= {"functional": functional, "paris": self.paris, "num_backward": self.num_backward}
        return how

    def _is_checkpointed(self, ssm: SSM) -> bool:
        """What one sweep cannot know: how many chains store theirs beside it."""
        first = jax.eval_shape(lambda key: start_sweep(key, ssm, self.num_particles, None), random.key(0))
        return is_checkpointed(self.checkpoint, ssm.length, first.cloud, self.num_chains)

    def _outer(self, model_args: tuple, model_kwargs: dict[str, Any] | None) -> OuterModel:
        return OuterModel(conditioned(self._model), model_args, dict(model_kwargs or {}))


def sweep_with_more(
    first: Callable[[int, Array], SweepResult],
    num_particles: int,
    key: Array,
    outer: OuterModel,
    path: PathModel,
) -> SweepResult:
    """`first(N, key)` with N, 2 N, 4 N, ... particles, until every stage has a possible one.

    Raises:
        ValueError: for observed values that are no numbers.
        RuntimeError: if 1024 N particles are too few.
    """
    check_observed(outer, path)
    for doubling in range(_MAX_DOUBLINGS + 1):
        num = num_particles * 2**doubling
        sweep = jax.jit(partial(first, num))(random.fold_in(key, doubling))
        if not sweep.impossible.any():
            return sweep
    (times,) = jnp.nonzero(sweep.impossible)
    raise RuntimeError(
        f"No particle can explain the data at stage {int(times[0])} of {path.length}: with {num} particles "
        f"every weight of {list(path.observed)} was 0 or NaN there (log-weights all -inf). Look for a value "
        "outside the support of its law, or start from parameters under which it is possible (init_params)."
    )


SCALAR_FIELDS = ("particle_ess", "particle_ess_min", "path_update_rate", "log_evidence", "num_nonfinite")
FUNCTIONAL_FIELDS = ("functionals", "path_functionals")


def _scalars(sweep: SweepResult, offset: int) -> tuple[Array, Array, Array, Array]:
    """particle_ess, particle_ess_min, path_update_rate and log_evidence over the time axis of the path."""
    ess, indices = sweep.ess[1 - offset :], sweep.indices[1 - offset :]
    return ess.mean(), ess.min(), jnp.mean(indices != 0, dtype=ess.dtype), sweep.log_evidence


def _names(names: Sequence[str] | None, argument: str) -> tuple[str, ...] | None:
    if isinstance(names, str):
        raise ValueError(
            f"{argument} must be a list of site names, got the string {names!r}: write [{names!r}]."
        )
    return None if names is None else tuple(names)


def _identity(values):
    return values
