"""What the particle kernels know of a model: where its path is, and how to ask it for an `SSM`.

Two front-ends make one: `scan_model.py` reads a scan, `state_space_model.py` a `StateSpace` site.
Both are plain data that pickles; the functions of the `SSM` are made anew from the model's arguments
whenever they are needed, inside the trace that needs them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from ...kernels.smc import SSM, Path
from .capture import Assign, OuterModel

type SiteValues = dict[str, Array]


class Opened(NamedTuple):
    """A model at given parameters and given noise of its start.

    Attributes:
        initial: x_0.
        log_density: log of everything but the transitions and emissions of stages 1, ..., T.
        log_scale: log |dx_0/dz_0|.
        ssm: the model, its first carry fixed to that of x_0.
    """

    initial: Any
    log_density: Float[Array, ""]
    log_scale: Float[Array, ""]
    ssm: SSM


class Simulated(NamedTuple):
    """A stage drawn from the model.

    Attributes:
        latents: path sites.
        observed: what is observed of them.
        carry: c_t.
    """

    latents: SiteValues
    observed: SiteValues
    carry: Any


type Simulate = Callable[[Array, Any, Array, Any, SiteValues], Simulated]
"""(key, c_{t-1}, t, inputs of the stage, latents that are known) -> Simulated."""


class PathModel(ABC):
    """The path of a model.

    Attributes:
        sites: names of all path sites, initial ones first.
        init_sites: those outside the scan; empty for a `StateSpace`.
        observed: names of observed sites whose likelihood weighs the particles.
        length: T, number of transitions.
        order: Markov order, None if backward sampling is not to be had.
        without_noise: (site, class) of continuous latents that are not location-scale.
        has_continuous: whether any path site is continuous.
        stochastic: which leaves of the carry depend on a latent, in order.
        time_deterministic: deterministic sites with a time axis.
        offset: stages of the path site before its first transition: 1 for a `StateSpace`, whose
            array holds x_0 too, 0 for a scan.
    """

    sites: tuple[str, ...]
    init_sites: tuple[str, ...]
    observed: tuple[str, ...]
    length: int
    order: int | None
    without_noise: tuple[tuple[str, str], ...]
    has_continuous: bool
    stochastic: tuple[bool, ...]
    time_deterministic: tuple[str, ...]
    offset: int

    @property
    def num_times(self) -> int:
        """Length of the time axis of the path sites in the posterior."""
        return self.length + self.offset

    @property
    def time_sites(self) -> tuple[str, ...]:
        """The path sites with a time axis."""
        return tuple(name for name in self.sites if name not in self.init_sites)

    def over_all_times(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A NumPyro model with its path given, all times of it at once where that can be had."""
        return fn

    @abstractmethod
    def ssm(self, outer: OuterModel) -> SSM:
        """The state-space model; every latent of `outer` but the path is conditioned."""

    @abstractmethod
    def log_start(self, outer: OuterModel, initial: Any) -> Float[Array, ""]:
        """log of everything but the transitions and emissions of stages 1, ..., T, at x_0."""

    @abstractmethod
    def path_of(self, values: SiteValues) -> Path:
        """Site values as x_{0:T}."""

    @abstractmethod
    def values_of(self, path: Path) -> SiteValues:
        """x_{0:T} as site values."""

    @abstractmethod
    def sites_of(self, latents: Any) -> SiteValues:
        """x_t, t >= 1, as values of the path sites at one time."""

    @abstractmethod
    def transition_laws(self, outer: OuterModel, carry: Any, t: Any) -> dict[str, Distribution]:
        """m_t given c_{t-1}, one law a path site."""

    @abstractmethod
    def simulator(self, outer: OuterModel) -> "Simulate":
        """Draws of a stage, what is observed of it included, at the parameters of `outer`."""

    @abstractmethod
    def last_carry(self, ssm: SSM, path: Path) -> Any:
        """c_T of a path."""

    @abstractmethod
    def initial_noise(self, outer: OuterModel, assign: Assign, initial: Any) -> Any:
        """z_0 of x_0, the parameters being what `assign` says."""

    @abstractmethod
    def open(self, outer: OuterModel, assign: Assign, initial_noise: Any) -> Opened:
        """The model at the parameters that `assign` gives and at z_0."""


def assign_from(values: SiteValues) -> Callable[[dict[str, Any]], Array | None]:
    """`assign` that looks sites up in `values`."""
    return lambda msg: values.get(msg["name"])


def given_path(given: SiteValues, drawn: SiteValues) -> SiteValues:
    """The path that was drawn, with what `init_params` gives of it in its place."""
    for name, value in drawn.items():
        if name in given and jnp.shape(given[name]) != value.shape:
            raise ValueError(
                f"init_params gives path site {name!r} the shape {jnp.shape(given[name])}, but it has {value.shape}."
            )
    return {name: jnp.asarray(given.get(name, value), value.dtype) for name, value in drawn.items()}


def check_length(kept: int, given: int) -> None:
    """Refuse a state of a path of one length with data of another."""
    if kept != given:
        raise ValueError(
            f"The path has {kept} transitions, but the model now makes {given}: a state (post_warmup_state) belongs to "
            "data of one length. Warm up again on the new data."
        )
