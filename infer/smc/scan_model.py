"""The front-end for `numpyro.contrib.control_flow.scan`: a scan model as an `SSM`.

    x_0: sites outside the scan on which the first carry depends;   c_0: the first carry
    x_t: latents of the body;   log m_t, log g_t: log p of its latent and observed sites        (1)

Sites outside the scan that depend on x_0 make g_0. Where everything stands is found by dataflow on
the model itself (`structure.py`), never by names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from ...kernels.smc import SSM, Evaluation, Path, Proposed
from .capture import (
    Assign,
    OuterModel,
    ScanCall,
    latent_sites,
    run_body,
    simulate_body,
    sum_log_prob,
)
from .location_scale import noise_map, required_noise_map, unconstrained_map
from .path_model import Opened, PathModel, Simulate, Simulated, SiteValues, assign_from, check_length
from .time_parallel import TimeParallel


@dataclass(frozen=True)
class ScanModel(PathModel):
    """The path of a scan model; fields as in `PathModel`.

    Attributes:
        likelihood_sites: sites outside the scan that depend on an initial site: they make g_0.
        discrete: names of discrete path sites.
        never_forgotten: names of the leaves that make the order None.
        replay: whether a deterministic site can only be had by running the scan.
    """

    sites: tuple[str, ...]
    init_sites: tuple[str, ...]
    observed: tuple[str, ...]
    likelihood_sites: tuple[str, ...]
    discrete: frozenset[str]
    length: int
    order: int | None
    without_noise: tuple[tuple[str, str], ...]
    stochastic: tuple[bool, ...]
    never_forgotten: tuple[str, ...]
    time_deterministic: tuple[str, ...]
    replay: bool
    offset: int = 0

    @property
    def has_continuous(self) -> bool:  # type: ignore[override]
        """See `PathModel`."""
        return bool(set(self.time_sites) - self.discrete)

    def over_all_times(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """See `PathModel`."""
        if self.order != 1:
            return fn
        return TimeParallel(fn, latents=self.time_sites, stochastic=self.stochastic)

    def ssm(self, outer: OuterModel) -> SSM:
        """See `PathModel`."""

        def init(key):
            sites = outer.run(lambda msg: None, key).sites
            return {name: sites[name]["value"] for name in self.init_sites}

        def outside(initial, names):
            sites = outer.run(assign_from(initial)).sites
            return sum_log_prob(sites[name] for name in names)

        call = outer.run(lambda msg: None).call
        return self._body_ssm(call)._replace(
            init=init,
            init_logpdf=lambda initial: outside(initial, self.init_sites),
            init_carry=lambda initial: outer.run(assign_from(initial)).call.init,
            init_loglik=lambda initial: outside(initial, self.likelihood_sites),
        )

    def log_start(self, outer: OuterModel, initial: SiteValues) -> Float[Array, ""]:
        """See `PathModel`."""
        sites = outer.run(assign_from(initial)).sites
        return sum_log_prob(site for site in sites.values() if site["type"] == "sample")

    def path_of(self, values: SiteValues) -> Path:
        """See `PathModel`."""
        return Path({n: values[n] for n in self.init_sites}, {n: values[n] for n in self.time_sites})

    def values_of(self, path: Path) -> SiteValues:
        """See `PathModel`."""
        return {**path.initial, **path.latents}

    def sites_of(self, latents: SiteValues) -> SiteValues:
        """See `PathModel`."""
        return latents

    def transition_laws(self, outer: OuterModel, carry: Any, t: Any) -> dict[str, Distribution]:
        """See `PathModel`."""
        call = outer.run(lambda msg: None).call
        sites = latent_sites(run_body(call, carry, t - 1, lambda msg: None).sites)
        return {name: site["fn"] for name, site in sites.items()}

    def simulator(self, outer: OuterModel) -> Simulate:
        """See `PathModel`; the inputs are those of one step of the scan."""
        call = outer.run(lambda msg: None).call

        def simulate(key, carry, t, inputs, known):
            run = simulate_body(call, carry, t - 1, inputs, assign_from(known), key)
            values = {name: site["value"] for name, site in run.sites.items() if site["type"] == "sample"}
            return Simulated(
                {name: values[name] for name in self.time_sites},
                {name: values[name] for name in self.observed if jnp.size(values[name])},  # a factor is empty
                run.carry,
            )

        return simulate

    def last_carry(self, ssm: SSM, path: Path) -> Any:
        """See `PathModel`; the stages that the last carry has forgotten are not run."""
        remembers = self.order is None or not all(self.stochastic)  # a clock counts from the start
        first = 0 if remembers else max(self.length - self.order, 0)  # type: ignore[operator]
        times = jnp.arange(first + 1, self.length + 1)

        def step(carry, stage):
            t, latents = stage
            return ssm.evaluate(carry, latents, t).carry, None

        latents = {name: value[first:] for name, value in path.latents.items()}
        return lax.scan(step, ssm.init_carry(path.initial), (times, latents))[0]

    def initial_noise(self, outer: OuterModel, assign: Assign, initial: SiteValues) -> SiteValues:
        """See `PathModel`; a discrete initial site stays as it is."""
        sites = outer.run(_first_of(assign_from(initial), assign)).sites
        return {
            name: value if name in self.discrete else initial_map(sites[name]["fn"]).to_noise(value)
            for name, value in initial.items()
        }

    def open(self, outer: OuterModel, assign: Assign, initial_noise: SiteValues) -> Opened:
        """See `PathModel`."""
        log_dets = []

        def assign_initial(msg):
            noise = initial_noise.get(msg["name"])
            if noise is None or msg["name"] in self.discrete:
                return noise
            standard = initial_map(msg["fn"])
            log_dets.append(jnp.sum(standard.log_det(noise)))
            return standard.to_value(noise)

        run = outer.run(_first_of(assign_initial, assign))
        call = run.call
        initial = {name: run.sites[name]["value"] for name in self.init_sites}
        density = sum_log_prob(site for site in run.sites.values() if site["type"] == "sample")
        ssm = self._body_ssm(call)._replace(init_carry=lambda initial: call.init)
        return Opened(initial, density, sum(log_dets, start=jnp.zeros(())), ssm)

    def _body_ssm(self, call: ScanCall) -> SSM:
        """Stages 1, ..., T of equation (1); the kernels' t is the scan's index plus one."""
        check_length(self.length, call.length)

        def evaluate(carry, latents, t):
            return _evaluation(run_body(call, carry, t - 1, assign_from(latents)))

        def sample(key, carry, t):
            sites = latent_sites(run_body(call, carry, t - 1, lambda msg: None, key).sites)
            return {name: site["value"] for name, site in sites.items()}

        def propose(key, carry, t, is_reference, reference):
            # `seed` would hash a key for each site; one latent may have the particle's own
            keys = dict(zip(self.time_sites, _keys(key, len(self.time_sites)), strict=True))

            def draw(msg):
                drawn = msg["fn"](rng_key=keys[msg["name"]], sample_shape=msg["kwargs"]["sample_shape"])
                own = reference[msg["name"]]
                return jnp.where(is_reference, jnp.asarray(own, drawn.dtype), drawn)

            run = run_body(call, carry, t - 1, draw, random.fold_in(key, _BEYOND_DRAWS))
            latents = {name: site["value"] for name, site in latent_sites(run.sites).items()}
            return Proposed(latents, run.carry, _evaluation(run).log_likelihood)

        def to_noise(carry, latents, t):
            sites = latent_sites(run_body(call, carry, t - 1, assign_from(latents)).sites)
            return {
                name: site["value"]
                if name in self.discrete
                else required_noise_map(site["fn"]).to_noise(site["value"])
                for name, site in sites.items()
            }

        def from_noise(carry, noise, t):
            log_dets = []

            def value(msg):
                own = noise[msg["name"]]
                if msg["name"] in self.discrete:
                    return own
                standard = required_noise_map(msg["fn"])
                log_dets.append(jnp.sum(standard.log_det(own)))
                return standard.to_value(own)

            run = run_body(call, carry, t - 1, value)
            latents = {name: site["value"] for name, site in latent_sites(run.sites).items()}
            return latents, run.carry, sum(log_dets, start=jnp.zeros(()))

        return SSM(
            init=_unset, init_logpdf=_unset, init_carry=_unset, init_loglik=_unset,
            sample=sample, evaluate=evaluate, propose=propose, length=call.length, order=self.order,
            to_noise=to_noise, from_noise=from_noise,
        )  # fmt: skip


def initial_map(law):
    """Standardised noise of an initial site, or its unconstrained value where it has no scale."""
    return noise_map(law) or unconstrained_map(law)


_BEYOND_DRAWS = 2**31 - 1  # no counter of a draw: a key apart, for what else in a body asks for chance


def _keys(key: Array, num: int) -> list[Array]:
    return [key] if num == 1 else list(random.split(key, num))


def _evaluation(run) -> Evaluation:
    latents = latent_sites(run.sites)
    samples = {name: site for name, site in run.sites.items() if site["type"] == "sample"}
    observed = [site for name, site in samples.items() if name not in latents]
    return Evaluation(sum_log_prob(latents.values()), sum_log_prob(observed), run.carry)


def _first_of(first: Assign, second: Assign) -> Assign:
    def assign(msg: dict[str, Any]) -> Array | None:
        value = first(msg)
        return second(msg) if value is None else value

    return assign


def _unset(*args):
    raise AssertionError("This SSM has no start of its own.")
