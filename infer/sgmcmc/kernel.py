"""`SGMCMC`: SG-MCMC on a NumPyro model, at a temperature.

What is static about a run is decided here: options, the sites of the model, where its rows come from. A draw is
made in `sampling.py`, from the gradients of `target.py`, on the density of `tempering.py`.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array
from numpyro import handlers
from numpyro.infer import init_to_uniform
from numpyro.infer.util import constrain_fn, transform_fn

from ...kernels.sgmcmc.base import COUNTS, Schedule, SGAlgorithm, at_count, check_schedule
from ...kernels.sgmcmc.cyclical import Cyclical
from ...kernels.sgmcmc.sgnht import Sgnht
from ..contract import ModelKernel
from .control_variates import LEAST_WARMUP, ControlVariates
from .improper import check_tempered_prior
from .minibatch import BATCHINGS, Batching
from .progress import Warmup
from .read_model import check_center, first_rows, read_sites
from .report import precision_warnings, progress_text, run_warnings
from .rows import HostRows, check_not_given, rows_of
from .sampling import Sampling
from .state import SGMCMCState
from .target import Anchor, Target, Values
from .tempering import Factors, Tempering, site_classes

TEMPERINGS, _FACTORS = ("posterior", "likelihood"), ("likelihood", "prior")
_WARMUPS = (None, "ramp", "full", "descent")


class SGMCMC(ModelKernel):
    """Langevin sampling of a NumPyro model from the gradients of minibatches, at a temperature.

    The rows of a batch are those of the model's own `plate(..., subsample_size=b)`; without such a plate the
    gradient is that of all data. The draws are not corrected by an accept step: at a finite step size
    their law is that of `kernels/sgmcmc/theory.py`, plus the noise of the minibatches, which `diagnose` and
    `temperature_table` measure. For fewer than about 10,000 rows NUTS is exact and cheaper.

    Args:
        model: the NumPyro model; its latent sites continuous and outside the subsampled plates.
        algorithm: one of `emberwalk.kernels.sgmcmc`, for instance `leimkuhler_matthews(1e-5)` or
            `baoab(1e-3, friction=50.0)`; its step is that of U, the *sum* over all rows.
        temperature: T > 0, or an optax schedule of the steps since the end of warm-up. Below 1 the posterior
            is sharper than Bayes' rule has it ("cold").
        tempering: what T is applied to (`tempering.py`): "posterior", the whole density, or "likelihood",
            which leaves the prior as it is. Densities are those of the sites as written: a centred and a
            non-centred model are two different tempered targets.
        factors: whether `numpyro.factor` sites belong to the "likelihood" or to the "prior".
        gradient: "minibatch", or `control_variates()`.
        batching: "replacement", or "epoch" for a new order of all rows in each epoch; the noise ratio is
            then an upper bound. The orders are those of the chain's first key: a run continued from
            `post_warmup_state` with another key goes through the same batches.
        steps_per_sample: steps of a draw, in warm-up too. Prefer it to `thinning`: what is between two
            draws then costs nothing but its gradients.
        warmup: course of the noise in warm-up: "ramp" raises it from 0 in the first half; "full" has it
            from the start; "descent" has none for three quarters. None: "descent" where control variates look
            for their centre, "full" for `sgnht`, whose thermostat holds what T it is told, else "ramp".
        noise_every: steps from one probe of the minibatch noise to the next.
        noise_batches: gradients of a probe, at least 2.
        data: `HostRows` for data larger than memory; its arrays are then arguments of the model that are not
            given to `run`.
        init_strategy: as in NumPyro; for networks `init_to_module`.
        keep_deterministic: collect deterministic sites, computed on the first b rows at every draw. Use
            `predict` on the draws you keep instead.

    Raises:
        ValueError, TypeError: for arguments that cannot be meant, at once; for models that cannot be sampled
            so, when sampling starts. Both name the argument or site.

    Examples:
        >>> from emberwalk.infer import SGMCMC
        >>> from emberwalk.kernels.sgmcmc import leimkuhler_matthews
        >>> def model(y, b=20):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", len(y), subsample_size=b):
        ...         numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, event_dim=0))
        >>> kernel = SGMCMC(model, leimkuhler_matthews(1e-3), temperature=0.1)
        >>> mcmc = MCMC(kernel, num_warmup=100, num_samples=100, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.ones(200))
        >>> mcmc.get_samples()["m"].shape
        (100,)
    """

    state_class = SGMCMCState
    fresh = {**ModelKernel.fresh, "_classes": None, "_rows": None, "_replays": False}  # noqa: RUF012

    def __init__(
        self,
        model: Callable[..., Any],
        algorithm: SGAlgorithm,
        *,
        temperature: float | Schedule = 1.0,
        tempering: Tempering = "posterior",
        factors: Factors = "likelihood",
        gradient: str | ControlVariates = "minibatch",
        batching: Batching = "replacement",
        steps_per_sample: int = 1,
        warmup: Warmup | None = None,
        noise_every: int = 200,
        noise_batches: int = 8,
        data: HostRows | None = None,
        init_strategy: Callable = init_to_uniform,
        keep_deterministic: bool = False,
    ):
        super().__init__(model, init_strategy=init_strategy)
        if not isinstance(algorithm, SGAlgorithm):
            raise TypeError(
                f"algorithm must be one of emberwalk.kernels.sgmcmc, got {type(algorithm).__name__}."
            )
        check_temperature(temperature)
        check_choice("tempering", tempering, TEMPERINGS)
        check_choice("factors", factors, _FACTORS)
        check_choice("batching", batching, BATCHINGS)
        check_choice("warmup", warmup, _WARMUPS)
        if gradient != "minibatch" and not isinstance(gradient, ControlVariates):
            raise ValueError(f"gradient must be 'minibatch' or control_variates(...), got {gradient!r}.")
        check_at_least("steps_per_sample", steps_per_sample, 1)
        check_at_least("noise_every", noise_every, 1)
        check_at_least("noise_batches", noise_batches, 2)
        if data is not None and not isinstance(data, HostRows):
            raise TypeError(f"data must be a HostRows, got {type(data).__name__}.")
        if isinstance(algorithm, Cyclical) and (steps_per_sample != 1 or warmup is not None):
            raise ValueError(
                f"cyclical decides itself how many steps a draw has and how warm-up goes, got "
                f"steps_per_sample={steps_per_sample} and warmup={warmup!r}: leave both out."
            )
        self.algorithm, self.temperature, self.tempering, self.factors = (
            algorithm, temperature, tempering, factors,
        )  # fmt: skip
        self.control = gradient if isinstance(gradient, ControlVariates) else None
        self.finds_center = self.control is not None and self.control.center is None
        if self.finds_center and warmup not in (None, "descent"):
            raise ValueError(
                f"control_variates() finds its center in a warm-up of 'descent', got warmup={warmup!r}: "
                "leave it out, or give a center."
            )
        self.batching, self.steps_per_sample = batching, steps_per_sample
        if self.finds_center and isinstance(algorithm, Cyclical):
            raise ValueError(
                "control_variates() finds its center in a descent, and the warm-up of cyclical is of whole cycles: "
                "give a center."
            )
        usual: Warmup = "full" if isinstance(algorithm, Sgnht) else "ramp"
        self.warmup: Warmup = warmup or ("descent" if self.finds_center else usual)
        if isinstance(algorithm, Cyclical):
            self.warmup = "full"
        self.noise_every, self.noise_batches = noise_every, noise_batches
        self.data, self.keep_deterministic = data, keep_deterministic
        if data is not None:
            self._model = partial(model, **data.first_rows())
        self.site_names: tuple[str, ...] = ()

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What `MCMC` collects beside the draws."""
        kinetic = ("kinetic_temperature",) if self.algorithm.underdamped else ()
        cycle = ("cycle",) if isinstance(self.algorithm, Cyclical) else ()
        temperatures = ("temperature", *kinetic, "configurational_temperature", "noise_ratio")
        return ("z", "potential_energy", "step_size", *temperatures, "num_nonfinite", "diverging", *cycle)

    # Start

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """First state of a chain, or of vectorized chains where `rng_key` is a batch of keys."""
        if self.finds_center and num_warmup < LEAST_WARMUP:
            raise ValueError(
                f"control_variates() finds its center in warm-up, and num_warmup is {num_warmup}: give a center, or "
                f"warm up for some hundred draws (at least {LEAST_WARMUP})."
            )
        kwargs = dict(model_kwargs or {})
        check_not_given(self.data, kwargs)
        if self.tempering == "posterior" and not isinstance(self.temperature, jax.core.Tracer):
            check_tempered_prior(self._model, model_args, kwargs, temperature_range(self.temperature))
        state = super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)
        if not isinstance(state.potential_energy, jax.core.Tracer):
            for sentence in precision_warnings(self, state):
                warnings.warn(sentence, UserWarning, stacklevel=2)
        return state

    def model_to_start(self, model_args, model_kwargs):
        """See `ModelKernel`: the model on its first rows; what else is static about it is read here."""
        sites = read_sites(self._model, model_args, model_kwargs)
        self._rows = rows_of(sites.plates, self.batching, self.data)
        self.site_names = sites.latent
        if self.control is not None and not self._rows.sizes:
            raise ValueError(
                "control_variates need a plate with subsample_size below its size: on all rows there is no noise to "
                "take out."
            )
        if self.control is not None and self.control.center is not None:
            check_center(self.control.center, sites.trace)
        self._classes = site_classes(self._model, sites.trace, model_args, model_kwargs, factors=self.factors)
        self._replays = sites.dynamic_support or (self.keep_deterministic and bool(sites.deterministic))
        if sites.deterministic and not self.keep_deterministic:
            warnings.warn(
                f"The deterministic sites {list(sites.deterministic)} are not collected, which would run the model at "
                "every draw: use predict on the draws you keep, or keep_deterministic=True.",
                UserWarning,
                stacklevel=2,
            )
        return handlers.substitute(self._model, data=first_rows(sites.plates))

    def potential(self, model_args, model_kwargs):
        """See `ModelKernel`: the target on batches of rows."""
        return Target(self._model, self._classes, self._rows, self.tempering, model_args, model_kwargs)

    def start(self, rng_key: Array, z: Values, potential_fn: Target) -> SGMCMCState:
        """First state of one chain at `z`."""
        return self._sampling().start(rng_key, z, potential_fn, self._first_anchor(potential_fn, z))

    def move(self, state: SGMCMCState, potential_fn: Target) -> SGMCMCState:
        """Next draw of one chain."""
        return self._sampling().draw(state, potential_fn)

    def _sampling(self) -> Sampling:
        return Sampling(
            self.algorithm, self.temperature, self.steps_per_sample, self.warmup, self.noise_every, self.noise_batches,
            self.finds_center, self._num_warmup,
        )  # fmt: skip

    def _first_anchor(self, target: Target, z: Values) -> Anchor | None:
        """At the center that was given; where warm-up finds it, draw 0 sets it first of all."""
        if self.control is None:
            return None
        if self.control.center is None:
            return Anchor(z, jax.tree.map(jnp.zeros_like, z))
        given = {
            name: jnp.asarray(value, jnp.result_type(float)) for name, value in self.control.center.items()
        }
        return target.anchor_at(transform_fn(self._inv_transforms, given, invert=True))

    # What NumPyro asks for besides

    def refresh(self, state, model_args, model_kwargs):
        """The gradient at `state.z` for what the model is now conditioned on (a `Gibbs` has no minibatches)."""
        target = self.potential(model_args, dict(model_kwargs or {}))
        estimate = target.estimate(state.z, {}, state.temperature)
        return state._replace(gradient=estimate.gradient, potential_energy=estimate.potential)

    def postprocess_fn(self, model_args, model_kwargs):
        """Constrained values; the model is run, on b rows, only where a support or `keep_deterministic` needs it."""
        if not self._replays:
            return partial(transform_fn, self._inv_transforms)
        model = handlers.seed(
            handlers.substitute(self._model, data=first_rows(self._rows.sizes)), random.key(0)
        )
        kwargs = dict(model_kwargs or {})
        return partial(constrain_fn, model, model_args, kwargs, return_deterministic=self.keep_deterministic)

    def get_constrain_fn(self, model_args, model_kwargs):
        """Unconstrained to constrained values of the sites alone."""
        if not self._replays:
            return partial(transform_fn, self._inv_transforms)
        return partial(
            constrain_fn, handlers.seed(self._model, random.key(0)), model_args, dict(model_kwargs or {})
        )

    def unconstrained(self, samples: Values) -> dict[str, np.ndarray]:
        """Draws on the scale that is sampled; empty in a kernel that has not run here."""
        if self._inv_transforms is None:
            return {}
        z = transform_fn(self._inv_transforms, {n: samples[n] for n in self.site_names}, invert=True)
        return {name: np.asarray(values) for name, values in z.items()}

    def wrap_model(self, wrapper):
        """A copy on `wrapper(model)`, as `Gibbs` asks for it."""
        if self.data is not None or self.control is not None:
            raise ValueError(
                "A block of Gibbs sees all data at once: SGMCMC with data= or control_variates cannot be one."
            )
        return super().wrap_model(wrapper)

    def get_diagnostics_str(self, state) -> str:
        """For the progress bar."""
        return progress_text(state)

    def warnings(self, mcmc) -> list[str]:
        """Sentences for `diagnose`, each with its number and the way out."""
        return run_warnings(self, mcmc)

    def dims(self, mcmc) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The axis of the sites that temperatures and noise ratio have."""
        names = ("kinetic_temperature", "configurational_temperature", "noise_ratio")
        return {"site": np.asarray(self.site_names)}, {name: ["site"] for name in names}


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Refuses what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


def check_at_least(name: str, value: Any, least: int) -> None:
    """Refuses what is no count from `least` on."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}.")


def check_temperature(temperature: float | Schedule) -> None:
    """Refuses T that is not positive; a schedule may be 0 nowhere either."""
    if (
        not callable(temperature)
        and not isinstance(temperature, jax.core.Tracer)
        and not 0 < temperature < float("inf")
    ):
        raise ValueError(
            f"temperature must be positive and finite, got {temperature!r}; T = 0 is optimisation: use DeepEnsemble."
        )
    check_schedule("temperature", temperature, positive=True)


def temperature_range(temperature: float | Schedule) -> tuple[float, float]:
    """The lowest and the highest T, as far as the counts that are looked at tell."""
    if not callable(temperature):
        return temperature, temperature
    with jax.ensure_compile_time_eval():
        values = [float(at_count(temperature, jnp.asarray(count))) for count in COUNTS]
    return min(values), max(values)
