"""`PPG`: particle Gibbs on a whole model: the path, the parameters, and both together.

    1. path | theta, y          conditional sweep                 (`particle_gibbs.py`)
    2. theta | path, y          NUTS, or another inner kernel
    3. (theta, path) | y        HMC on parameters and noise, or on parameters given noise (`interweave.py`)

Each move leaves p(theta, path | y) invariant, and so does their composition. Andrieu, Doucet and
Holenstein (2010) for 1 and 2; Yu and Meng (2011) for 3, without which the parameters of a weakly
observed model hardly move.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import random
from jaxtyping import Array
from numpyro.distributions import biject_to
from numpyro.infer import HMC, Gibbs
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned, with_conditioning
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import identity

from ...kernels.smc import Paris, PathMove, innovations_hmc
from ...kernels.smc.checkpoint import Checkpoint
from ...kernels.smc.types import check_count
from ..contract import (
    ModelKernel,
    Start,
    chain_axes,
    first_chain,
    holds_tracers,
    num_chains_of,
    start_again,
    vectorized,
)
from .capture import OuterModel
from .estimates import estimate_groups
from .functionals import Term
from .inner_kernel import inner_kernel as checked_inner_kernel
from .interweave import interweave
from .location_scale import allowed_classes
from .particle_gibbs import FUNCTIONAL_FIELDS, SCALAR_FIELDS, ParticleGibbs
from .path_model import SiteValues, assign_from, given_path
from .path_moments import add_draw, no_moments
from .ppg_state import Interweaving, PPGState
from .proposal import Proposal
from .replay import replay
from .report import path_dims, path_groups, path_warnings
from .structure import find_path_model

_log = logging.getLogger(__name__)
_INTERWEAVE = ("auto", "joint", "theta", None)
# state fields of an HMC block under the names that ArviZ knows
_HMC_FIELDS = ("potential_energy", "accept_prob", "num_steps", "diverging")


class PPG(Gibbs):
    """Particle Gibbs for state-space models written in NumPyro: drop-in for `NUTS(model)`.

    The model holds its path in one `numpyro.contrib.control_flow.scan`, or in one `StateSpace` site
    with `emission`s. The draws are exact for every `num_particles` >= 2, for continuous, discrete
    and mixed paths (see the first lines of this module for the three moves of a draw).

    Args:
        model: the NumPyro model, unchanged.
        num_particles: N. 8 to 64 for states of one or two dimensions; raise it until every time is
            renewed in half of the sweeps (`diagnose`, `plot_update_rate`), lower it if all of them
            are in nine of ten: a sweep costs O(N).
        inner_kernel: for the parameters. None: `NUTS(model, max_tree_depth=3)`; or a class or factory
            called with the model; or an instance on the same model. It must implement `refresh`.
        sites: names of the path sites; None: found by dataflow.
        init_sites: sites outside the scan that start the path; None: found by dataflow.
        path_move: "backward" (exact O(N) backward sampling) or "trace" (the genealogy).
        paris: how functionals are averaged backwards: "imh", O(N), "dense", O(N^2), or "auto", the
            faster (`kernels/smc/paris.py`).
        num_backward: backward draws a particle of "imh".
        functionals: name -> h(previous, current, t) -> array, whose sum over the time axis of the path
            is estimated in every sweep (`ppg_estimates`): `previous` and `current` are dictionaries of
            the path sites at t - 1 and t. At t = 0 `previous` holds zeros, and the sites outside a scan
            that start the path; those are zeros later. Ready-made: `lag_product(site)`, `moment(site, k)`.
        interweave: "joint" moves parameters and noise together after every sweep, "theta" the
            parameters given the noise; None leaves it out; "auto" makes the joint move where every
            continuous latent is location-scale given the carry.
        interweave_steps: leapfrog steps of that move; the first draws make 1, 2, 3, ... of them.
        proposal: (carry, t) -> a law for each path site, from which particles are drawn instead of the
            transition; t counts along the time axis. For precise observations or states of more than five
            dimensions.
        path_moments: keep the running mean and variance of the path at every time after warm-up, in
            the group `path_diagnostics`: what is left of a path that is too long to store (leave it out
            of the draws by `mcmc.run(..., extra_fields=("~z.h",))`).
        checkpoint: True stores every sqrt(T)-th stage of a sweep and makes the others again, the same
            draws in O(N sqrt(T)) memory; "auto" does so where the vectorized chains together would store
            more than 256 MiB.

    Raises:
        ValueError, TypeError: for arguments that cannot be meant, at once; for a model that has no
            path, or one that particles cannot follow, when sampling starts. Both name the site.
        RuntimeError: if no particle can explain the data at the first parameters.

    Examples:
        >>> from emberwalk.infer import PPG
        >>> from emberwalk.models import linear_gaussian
        >>> kernel = PPG(linear_gaussian, num_particles=8)
        >>> mcmc = MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([0.1, -0.4, 0.3, 1.2]))
        >>> mcmc.get_samples()["x"].shape
        (5, 4)
    """

    _state_cls = PPGState

    def __init__(
        self,
        model: Callable[..., Any],
        num_particles: int = 32,
        *,
        inner_kernel: MCMCKernel | Callable[[Callable], MCMCKernel] | None = None,
        sites: Sequence[str] | None = None,
        init_sites: Sequence[str] | None = None,
        path_move: PathMove = "backward",
        paris: Paris = "auto",
        num_backward: int = 2,
        functionals: Mapping[str, Term] | None = None,
        interweave: str | None = "auto",
        interweave_steps: int = 40,
        proposal: Proposal | None = None,
        path_moments: bool = False,
        checkpoint: Checkpoint = "auto",
    ):
        if interweave not in _INTERWEAVE:
            raise ValueError(f"interweave must be one of {_INTERWEAVE}, got {interweave!r}.")
        check_count("interweave_steps", interweave_steps, 1)
        block = ParticleGibbs(
            model, num_particles, sites=sites, init_sites=init_sites, path_move=path_move,
            paris=paris, num_backward=num_backward, functionals=functionals, proposal=proposal, checkpoint=checkpoint,
        )  # fmt: skip
        inner = checked_inner_kernel(inner_kernel, model)
        super().__init__([(block, _found_at_init), (inner, None)])
        _, self._plain_inner = self._kernels  # type: ignore[has-type]
        self.interweave = interweave
        self.interweave_steps = interweave_steps
        self.path_moments = path_moments
        self._interweaves = False
        self._num_warmup = 0
        self._has_param = False
        self._start: Start | None = None

    @property
    def path_block(self) -> ParticleGibbs:
        """The block of the path."""
        return self._kernels[0]

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects: all scalars of the state, what `forecast` and `ppg_estimates` read."""
        hmc = _HMC_FIELDS if isinstance(self._plain_inner, HMC) else ()
        innovations = ("interweave_accept_prob",) if self.interweave is not None else ()
        functionals = FUNCTIONAL_FIELDS if self.path_block.functionals else ()
        return ("z", *SCALAR_FIELDS, *innovations, *hmc, "last_carry", *functionals)

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """First state of a chain, or of vectorized chains where `rng_key` is a batch of keys."""
        self._num_warmup = num_warmup
        self.path_block.num_chains = num_chains_of(rng_key)
        model_kwargs = dict(model_kwargs or {})
        arguments = (num_warmup, model_args, model_kwargs)
        axes = chain_axes(PPGState, ("i",))
        if self._start is None or not self._start.is_for(arguments):
            self._read_model(OuterModel(conditioned(self._model), model_args, model_kwargs))
            self._start = Start(self._init_one, axes, arguments)
        state = self._start(rng_key, init_params, model_kwargs)
        inner = self._kernels[1]
        if holds_tracers(inner) or not isinstance(inner, HMC | ModelKernel) or self._has_param:
            # what the inner kernel noted in that trace must not outlive it
            self._init_one(*first_chain(rng_key, init_params), model_args, model_kwargs)
        again = partial(self._init_one, model_args=model_args, model_kwargs=model_kwargs)
        failed = self.path_block.failed(state.block_states[0])
        state = start_again(state, failed, again, rng_key, init_params, ("i",))
        self._sample_fn = vectorized(self._sample_one, axes, rng_key, state)  # after Gibbs has set its own
        return state

    def _init_one(self, rng_key, init_params, model_args, model_kwargs) -> PPGState:
        """First state of one chain; the path comes from an unconditional filter unless it is given."""
        parameters, path = self._split_given(init_params, model_args, model_kwargs)
        key_first, key_chain = random.split(rng_key)
        state = super().init(key_first, self._num_warmup, parameters, model_args, model_kwargs)
        block, inner = state.block_states
        if path:
            block = block._replace(z=given_path(path, block.z))
            inner = self._kernels[1].refresh(inner, model_args, with_conditioning(model_kwargs, block.z))
        self._interweaves = self._wants_interweaving(inner)
        interweaving = None
        if self._interweaves:
            adaptation = self._innovations().init(inner.z)
            interweaving = Interweaving(adaptation, jnp.zeros_like(adaptation.step_size))
        moments = no_moments(block.z) if self.path_moments else None
        blocks = (block, inner)
        last_carry = self._last_carry(blocks, model_args, model_kwargs)
        return PPGState(
            self._merge_z(blocks),
            blocks,
            key_chain,
            jnp.zeros((), jnp.int32),
            last_carry,
            interweaving,
            moments,
        )

    def _sample_one(self, state, model_args, model_kwargs) -> PPGState:
        """The moves of one draw. Every key comes from the outer one, which `Gibbs` never hands to its blocks:
        continued from a state with a new key, they would repeat themselves. Its own sweep is not used either:
        it refreshes under `cond`, which compiles, and under vmap runs, what is done here once.
        """
        model_kwargs = dict(model_kwargs or {})
        rng_key, key_path, key_inner, key_joint = random.split(state.rng_key, 4)
        (path_block, inner_kernel), (block, inner) = self._kernels, state.block_states
        constrained = inner_kernel.get_constrain_fn(model_args, model_kwargs)(inner.z)
        parameters = {name: constrained[name] for name in self._sites[1]}
        block = block._replace(rng_key=key_path)
        block = path_block.sample(block, model_args, with_conditioning(model_kwargs, parameters))
        given_path = with_conditioning(model_kwargs, block.z)
        inner = inner_kernel.refresh(inner._replace(rng_key=key_inner), model_args, given_path)
        inner = inner_kernel.sample(inner, model_args, given_path)
        state = state._replace(block_states=(block, inner))
        if self._interweaves:
            state = self._interweave(key_joint, state, model_args, model_kwargs)
        moments = state.moments
        if moments is not None:
            moments = add_draw(moments, state.block_states[0].z, state.i >= self._num_warmup)
        return state._replace(
            z=self._merge_z(state.block_states),
            rng_key=rng_key,
            i=state.i + 1,
            last_carry=self._last_carry(state.block_states, model_args, model_kwargs),
            moments=moments,
        )

    def _last_carry(self, blocks, model_args, model_kwargs) -> Any:
        """c_T of a draw, at its own parameters: the sweep made its carries at those before."""
        block, inner = blocks
        constrained = self._kernels[1].get_constrain_fn(model_args, model_kwargs)(inner.z)
        at_parameters = with_conditioning(dict(model_kwargs), constrained)
        model, outer = self.path_block.path, OuterModel(conditioned(self._model), model_args, at_parameters)
        return model.last_carry(model.ssm(outer), model.path_of(block.z))

    def _interweave(self, key: Array, state: PPGState, model_args, model_kwargs) -> PPGState:
        """Move 3; it writes the path and the parameters into their blocks. The gradient that the inner kernel
        keeps is of the parameters before it: every draw begins with a refresh.
        """
        assert state.interweave is not None
        block, inner = state.block_states
        moved = interweave(
            key,
            self._innovations(),
            state.interweave.adaptation,
            jnp.minimum(self.interweave_steps, 1 + state.i),
            self.path_block.path,
            OuterModel(conditioned(self._model), model_args, model_kwargs),
            inner.z,
            block.z,
            hold_noise=self.interweave == "theta",
        )
        block = block._replace(z=moved.path)
        inner = inner._replace(z=moved.theta, potential_energy=moved.potential_energy)
        interweaving = Interweaving(moved.state, moved.accept_prob)
        return state._replace(block_states=(block, inner), interweave=interweaving)

    def _innovations(self):
        return innovations_hmc(self._num_warmup)

    def _read_model(self, outer: OuterModel) -> None:
        """Find the path, name the blocks' sites, and give the inner kernel the time-parallel density."""
        block = self.path_block
        model = find_path_model(outer, init_sites=block.init_sites, sites=block.sites)
        block._given_path = model
        self._specs = (model.sites, None)
        self._has_param = outer.has_param()
        self._kernels = (block, self._plain_inner.wrap_model(model.over_all_times))

    def _wants_interweaving(self, inner_state: Any) -> bool:
        """Whether the innovations move is made; said once at INFO where "auto" leaves it out."""
        model = self.path_block.path
        reason = None
        if model.without_noise:
            site, law = model.without_noise[0]
            reason = f"{site!r} is {law}, and the move needs latents with a location and a scale ({allowed_classes()})"
        elif not isinstance(self._plain_inner, HMC | ModelKernel):
            reason = f"{type(self._plain_inner).__name__} does not hold unconstrained parameters"
        elif not inner_state.z:
            reason = "the model has no parameters"
        elif not model.has_continuous:
            reason = "the path is discrete"
        if self.interweave in ("joint", "theta") and reason is not None:
            raise ValueError(f'interweave="{self.interweave}" cannot be had: {reason}. Use interweave=None.')
        if self.interweave == "auto" and reason is not None:
            _log.info("PPG makes no innovations move: %s.", reason)
        return self.interweave is not None and reason is None

    def _split_given(self, init_params, model_args, model_kwargs) -> tuple[SiteValues | None, SiteValues]:
        """`init_params` as `Gibbs` hands them to the inner kernel, and those of the path.

        A user gives parameters unconstrained, an enclosing `Gibbs` constrained prototypes; an HMC block takes
        them unconstrained, any other constrained.
        """
        if not init_params:
            return None, {}
        model = self.path_block._given_path or self.path_block.path
        path = {name: value for name, value in init_params.items() if name in model.sites}
        parameters = {name: value for name, value in init_params.items() if name not in model.sites}
        enclosed, for_hmc = GIBBS_SITES_KWARG in model_kwargs, isinstance(self._plain_inner, HMC)
        if enclosed == for_hmc and parameters:
            outer = OuterModel(conditioned(self._model), model_args, model_kwargs)
            sites = outer.run(assign_from(init_params if enclosed else {})).sites
            maps = {name: biject_to(sites[name]["fn"].support) for name in parameters if name in sites}
            parameters |= {n: (m._inverse if enclosed else m)(parameters[n]) for n, m in maps.items()}
        return parameters or None, {} if enclosed else path

    def postprocess_fn(self, model_args, model_kwargs):
        """Constrained values, and deterministic sites. The model is run without its scan, or with the scan mapped
        over time where a deterministic site needs it: stock `Gibbs` scans all the data again at every draw.
        """
        if not self._sites:
            return identity
        constrain = self.get_constrain_fn(model_args, model_kwargs)
        if not self._has_deterministic:
            return constrain
        outer = OuterModel(conditioned(self._model), model_args, dict(model_kwargs or {}))

        def with_deterministic(z: SiteValues) -> SiteValues:
            values = constrain(z)
            sites = replay(self.path_block.path, outer, values)
            found = {name: site["value"] for name, site in sites.items() if site["type"] == "deterministic"}
            return {**values, **found}

        return with_deterministic

    def wrap_model(self, wrapper):
        """A copy on `wrapper(model)`."""
        wrapped = copy.copy(self)
        wrapped._model = wrapper(self._model)
        wrapped._plain_inner = self._plain_inner.wrap_model(wrapper)
        wrapped._kernels = (self.path_block.wrap_model(wrapper), wrapped._plain_inner)
        wrapped._specs = (_found_at_init, None)
        wrapped._sites, wrapped._sample_fn, wrapped._start = (), None, None
        return wrapped

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_start": None}

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        text = super().get_diagnostics_str(state)
        return (
            text
            if state.interweave is None
            else f"{text} | innovations acc. prob={state.interweave_accept_prob:.2f}"
        )

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        return path_warnings(
            self.path_block, mcmc.last_state.block_states[0], innovations_move=self._interweaves
        )

    def groups(self, mcmc) -> dict[str, Any]:
        """Groups of `to_datatree`: `path_diagnostics` by time, `functional_estimates` if there are any."""
        state = mcmc.last_state
        groups = path_groups(self.path_block, state.block_states[0], state.moments)
        return groups | estimate_groups(mcmc)

    def dims(self, mcmc) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The time axis of the path sites."""
        return path_dims(self.path_block.path)


def _found_at_init(trace):
    """Stands for the sites of the path until `PPG.init` has found them."""
    raise AssertionError("PPG names the sites of its blocks before Gibbs asks for them.")
