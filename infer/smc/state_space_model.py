"""The front-end for a `StateSpace` site with `emission`s: such a model as an `SSM`.

    x_{0:T}: the site;   m_t: its transition;   g_t(x_t) = prod of fn(x_t, t).log_prob(y[t])    (1)

g_t asks an emission for one time alone. Element t of the whole array would give the same number at
T times the cost: XLA does not remove the rest.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from jaxtyping import Array, Float

from ...kernels.smc import SSM, Evaluation, Path
from ...models.state_space import Emission, StateSpace
from .capture import Assign, OuterModel, Sites, sum_log_prob
from .location_scale import required_noise_map
from .path_model import Opened, PathModel, Simulate, Simulated, SiteValues, check_length
from .scan_model import initial_map


@dataclass(frozen=True)
class StateSpaceModel(PathModel):
    """The path of a model with one `StateSpace` site; fields as in `PathModel`."""

    sites: tuple[str, ...]
    observed: tuple[str, ...]
    length: int
    discrete: bool
    shape: tuple[int, ...]
    dtype: str
    without_noise: tuple[tuple[str, str], ...]
    init_sites: tuple[str, ...] = ()
    order: int | None = 1
    stochastic: tuple[bool, ...] = (True,)
    time_deterministic: tuple[str, ...] = ()
    offset: int = 1

    @property
    def has_continuous(self) -> bool:  # type: ignore[override]
        """See `PathModel`."""
        return not self.discrete

    def ssm(self, outer: OuterModel) -> SSM:
        """See `PathModel`."""
        return self._ssm(self._run(outer, lambda msg: None))

    def log_start(self, outer: OuterModel, initial: Array) -> Float[Array, ""]:
        """See `PathModel`."""
        sites = self._run(outer, lambda msg: None)
        return self._log_start(sites, self._ssm(sites), initial)

    def path_of(self, values: SiteValues) -> Path:
        """See `PathModel`."""
        (site,) = self.sites
        return Path(values[site][0], values[site][1:])

    def values_of(self, path: Path) -> SiteValues:
        """See `PathModel`."""
        (site,) = self.sites
        return {site: jnp.concatenate([path.initial[None], path.latents])}

    def sites_of(self, latents: Array) -> SiteValues:
        """See `PathModel`."""
        return {self.sites[0]: latents}

    def transition_laws(self, outer: OuterModel, carry: Array, t: Array) -> dict[str, dist.Distribution]:
        """See `PathModel`."""
        law = self._law(self._run(outer, lambda msg: None))
        return {self.sites[0]: law.transition(carry, t)}

    def simulator(self, outer: OuterModel) -> Simulate:
        """See `PathModel`; there are no inputs."""
        sites = self._run(outer, lambda msg: None)
        (site,), law = self.sites, self._law(sites)
        emissions = {name: unwrap_emission(sites[name]["fn"])[0] for name in self.observed}

        def simulate(key, carry, t, inputs, known):
            key_state, *keys = random.split(key, 1 + len(emissions))
            x = (
                known[site]
                if site in known
                else jnp.asarray(law.transition(carry, t).sample(key_state), self.dtype)
            )
            observed = {n: e.fn(x, t).sample(k) for (n, e), k in zip(emissions.items(), keys, strict=True)}
            return Simulated({site: x}, observed, x)

        return simulate

    def last_carry(self, ssm: SSM, path: Path) -> Array:
        """See `PathModel`."""
        return path.latents[-1]

    def initial_noise(self, outer: OuterModel, assign: Assign, initial: Array) -> Array:
        """See `PathModel`."""
        law = self._law(self._run(outer, assign))
        return initial if self.discrete else initial_map(law.initial).to_noise(initial)

    def open(self, outer: OuterModel, assign: Assign, initial_noise: Array) -> Opened:
        """See `PathModel`."""
        sites = self._run(outer, assign)
        ssm = self._ssm(sites)
        initial, log_scale = initial_noise, jnp.zeros(())
        if not self.discrete:
            standard = initial_map(self._law(sites).initial)
            initial = standard.to_value(initial_noise)
            log_scale = jnp.sum(standard.log_det(initial_noise))
        return Opened(initial, self._log_start(sites, ssm, initial), log_scale, ssm)

    def _log_start(self, sites: Sites, ssm: SSM, initial: Array) -> Float[Array, ""]:
        own = (*self.sites, *self.observed)
        others = sum_log_prob(s for n, s in sites.items() if s["type"] == "sample" and n not in own)
        return others + ssm.init_logpdf(initial) + ssm.init_loglik(initial)

    def _run(self, outer: OuterModel, assign: Assign) -> Sites:
        """The model around its path: no site but the emissions reads the zeros put in its place."""
        (site,) = self.sites

        def with_placeholder(msg):
            return jnp.zeros(self.shape, self.dtype) if msg["name"] == site else assign(msg)

        return outer.run(with_placeholder).sites

    def _law(self, sites: Sites) -> StateSpace:
        return sites[self.sites[0]]["fn"]

    def _ssm(self, sites: Sites) -> SSM:
        law = self._law(sites)
        check_length(self.length, law.length - 1)
        observed = [sites[name] for name in self.observed]

        def log_likelihood(x, t):
            return sum((emission_log_prob(site, x, t) for site in observed), start=jnp.zeros(()))

        def evaluate(previous, x, t):
            log_transition = jnp.sum(law.transition(previous, t).log_prob(x))
            return Evaluation(log_transition, log_likelihood(x, t), x)

        def from_noise(previous, z, t):
            if self.discrete:
                return z, z, jnp.zeros(())
            standard = required_noise_map(law.transition(previous, t))
            x = jnp.asarray(standard.to_value(z), self.dtype)
            return x, x, jnp.sum(standard.log_det(z))

        return SSM(
            init=lambda key: jnp.asarray(law.initial.sample(key), self.dtype),
            init_logpdf=lambda x: jnp.sum(law.initial.log_prob(x)),
            init_carry=lambda x: x,
            init_loglik=lambda x: log_likelihood(x, jnp.array(0)),
            sample=lambda key, previous, t: jnp.asarray(law.transition(previous, t).sample(key), self.dtype),
            evaluate=evaluate,
            length=self.length,
            to_noise=lambda previous, x, t: (
                x if self.discrete else required_noise_map(law.transition(previous, t)).to_noise(x)
            ),
            from_noise=from_noise,
        )


def unwrap_emission(law: dist.Distribution) -> tuple[Emission | None, Array | bool]:
    """The `Emission` inside a law and the mask around it; None where there is none."""
    mask: Array | bool = True
    while isinstance(law, dist.MaskedDistribution):
        mask, law = mask & law._mask, law.base_dist
    return (law if isinstance(law, Emission) else None), mask


def emission_log_prob(site: dict, x: Array, t: Array) -> Float[Array, ""]:
    """log g of one observed site at time t alone, with its mask and scale."""
    emission, mask = unwrap_emission(site["fn"])
    assert emission is not None
    law = emission.fn(x, t)
    if mask is not True:
        law = law.mask(jnp.broadcast_to(mask, emission.batch_shape)[t])
    log_prob = jnp.sum(law.log_prob(jnp.asarray(site["value"])[t]))
    scale = site["scale"]
    if scale is None:
        return log_prob
    return log_prob * (scale if jnp.ndim(scale) == 0 else jnp.broadcast_to(scale, emission.batch_shape)[t])
