"""A model and what the front-end makes of it, side by side.

    log p(everything)  =  sum over the pieces of the SSM  +  log p(sites that are no part of it)   (1)

The left side is NumPyro's `log_density`; the right side walks the path with the functions that the
particle kernels use.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned
from numpyro.infer.util import log_density

from emberwalk.infer.smc.capture import OuterModel, sum_log_prob
from emberwalk.infer.smc.path_model import PathModel, assign_from
from emberwalk.infer.smc.scan_model import ScanModel
from emberwalk.infer.smc.structure import find_path_model
from emberwalk.kernels.smc import Path, from_noise, to_noise
from emberwalk.kernels.smc.types import propose, take

Y = jnp.array([0.3, -0.2, 1.1, 0.5])


def phi_and_x0():
    """A parameter, and a start outside the scan."""
    return numpyro.sample("phi", dist.Uniform(-1, 1)), numpyro.sample("x0", dist.Normal(0, 2))


def chain(step: Callable, init: Callable | None = None) -> Callable:
    """Model of `step(phi, carry, y_t) -> carry`; `init(x0)` makes the first carry."""

    def model(y):
        phi, x0 = phi_and_x0()
        scan(lambda carry, y_t: (step(phi, carry, y_t), None), x0 if init is None else init(x0), y)

    return model


def sample_x(loc) -> jax.Array:
    return numpyro.sample("x", dist.Normal(loc, 1.0))


def observe(loc, y_t) -> None:
    numpyro.sample("y", dist.Normal(loc, 1.0), obs=y_t)


def plain_step(phi, x, y_t):
    """x ~ N(phi x, 1), y ~ N(x, 1)."""
    x = sample_x(phi * x)
    observe(x, y_t)
    return x


plain = chain(plain_step)


def find(model: Callable, *args, **options) -> PathModel:
    """The path of a model."""
    return find_path_model(OuterModel(conditioned(model), args, {}), **options)


def draw(model: Callable, key: jax.Array, *args) -> dict[str, jax.Array]:
    """Latent values of the prior, by one program."""

    @jax.jit
    def latents(key):
        sites = handlers.trace(handlers.seed(model, key)).get_trace(*args)
        return {n: s["value"] for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}

    return latents(key)


def at(
    model: Callable, args: tuple, path_model: PathModel, values: dict[str, Any]
) -> tuple[OuterModel, Path]:
    """The model given all values but the path, and the path."""
    given = {name: value for name, value in values.items() if name not in path_model.sites}
    outer = OuterModel(conditioned(model), args, {GIBBS_SITES_KWARG: given})
    return outer, path_model.path_of({name: values[name] for name in path_model.sites})


def sum_of_pieces(path_model: PathModel, outer: OuterModel, path: Path) -> jax.Array:
    """Right side of equation (1)."""
    ssm = path_model.ssm(outer)

    def step(carry, stage):
        factors = ssm.evaluate(carry, *stage)
        return factors.carry, factors.log_transition + factors.log_likelihood

    times = jnp.arange(1, ssm.length + 1)
    _, factors = lax.scan(step, ssm.init_carry(path.initial), (path.latents, times))
    in_g0 = path_model.likelihood_sites if isinstance(path_model, ScanModel) else path_model.observed
    sites = outer.run(assign_from(path_model.values_of(path))).sites
    rest = [n for n, s in sites.items() if s["type"] == "sample" and n not in {*path_model.sites, *in_g0}]
    start = ssm.init_logpdf(path.initial) + ssm.init_loglik(path.initial)
    return start + factors.sum() + sum_log_prob(sites[name] for name in rest)


def densities(model: Callable, *args, num: int = 2) -> tuple[jax.Array, jax.Array]:
    """Both sides of equation (1) at `num` draws of the prior."""
    path_model = find(model, *args)

    def one(key: jax.Array):
        values = draw(model, key, *args)
        outer, path = at(model, args, path_model, values)
        return sum_of_pieces(path_model, outer, path), log_density(model, args, {}, values)[0]

    return jax.jit(jax.vmap(one))(random.split(random.key(0), num))


class Lowered(NamedTuple):
    """A model and its SSM at a draw of the prior.

    Attributes:
        pieces: right side of equation (1).
        exact: left side.
        reference: x_1.
        kept: what `propose` makes of it in the slot of the reference.
        drawn: what it makes in another slot.
        proposed: log g that `propose` gives for `kept` and `drawn`.
        evaluated: the same of `evaluate`.
        path: x.
        again: x(z(x)), None where there is no noise.
    """

    pieces: jax.Array
    exact: jax.Array
    reference: Any
    kept: Any
    drawn: Any
    proposed: tuple[jax.Array, ...]
    evaluated: tuple[jax.Array, ...]
    path: Path
    again: Path | None


def lowered(model: Callable, *args, num: int = 2) -> Lowered:
    """`num` draws of the prior on the leading axis, one program."""
    path_model = find(model, *args)

    def one(key: jax.Array) -> Lowered:
        values = draw(model, key, *args)
        outer, path = at(model, args, path_model, values)
        ssm, first = path_model.ssm(outer), jnp.array(1)
        carry, reference = ssm.init_carry(path.initial), take(path.latents, 0)
        proposed = [propose(ssm)(key, carry, first, jnp.array(own), reference) for own in (True, False)]
        kept, drawn = (particle.latents for particle in proposed)
        evaluated = [ssm.evaluate(carry, latents, first) for latents in (kept, drawn)]
        return Lowered(
            sum_of_pieces(path_model, outer, path),
            log_density(model, args, {}, values)[0],
            reference,
            kept,
            drawn,
            tuple(particle.log_weight for particle in proposed),
            tuple(factors.log_likelihood for factors in evaluated),
            path,
            None if path_model.without_noise else from_noise(ssm, path.initial, to_noise(ssm, path))[0],
        )

    return jax.jit(jax.vmap(one))(random.split(random.key(0), num))
