"""Random-walk Metropolis on `infer/contract.py`: the smallest kernel that has all a kernel of ours must have.

    y = z + s e,  e ~ N(0, I);   z' = y with probability min(1, exp(U(z) - U(y)))                  (1)

The tests of the contract run it, and the planted bugs of the laws are its subclasses. Metropolis et
al. (1953).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.flatten_util import ravel_pytree

from emberwalk.infer.contract import ModelKernel


class MetropolisState(NamedTuple):
    """State of one chain.

    Attributes:
        i: iterations done.
        z: unconstrained value of each latent site.
        potential_energy: of `z`.
        accept_prob: of the last proposal.
        num_nonfinite: proposals refused because the density was not finite.
        rng_key: key of the next step.
    """

    i: jax.Array
    z: dict
    potential_energy: jax.Array
    accept_prob: jax.Array
    num_nonfinite: jax.Array
    rng_key: jax.Array


class Metropolis(ModelKernel):
    """Equation (1) with a fixed step s in unconstrained units."""

    state_class = MetropolisState
    default_fields = ("z", "accept_prob", "num_nonfinite")

    def __init__(self, model, step_size=1.0, **kwargs):
        super().__init__(model, **kwargs)
        self.step_size = step_size

    def start(self, rng_key, z, potential_fn):
        potential = potential_fn(z)
        zero = jnp.zeros_like(potential)
        return MetropolisState(
            jnp.zeros((), jnp.int32), z, potential, zero, jnp.zeros((), jnp.int32), rng_key
        )

    def move(self, state, potential_fn):
        rng_key, key_move, key_accept = random.split(state.rng_key, 3)
        flat, unravel = ravel_pytree(state.z)
        proposal = unravel(flat + self.step_size * random.normal(key_move, flat.shape, flat.dtype))
        potential = potential_fn(proposal)
        finite = jnp.isfinite(potential)
        accept_prob = self.accept_prob(state.potential_energy - potential)
        accepted = random.uniform(key_accept, dtype=flat.dtype) < accept_prob
        z, potential = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (proposal, potential),
            (state.z, state.potential_energy),
        )
        nonfinite = state.num_nonfinite + ~finite
        return MetropolisState(state.i + 1, z, potential, accept_prob, nonfinite, rng_key)

    def accept_prob(self, log_ratio):
        """min(1, exp(U(z) - U(y))), 0 where U(y) is not finite."""
        return jnp.where(jnp.isfinite(log_ratio), jnp.minimum(1.0, jnp.exp(log_ratio)), 0.0)

    def get_diagnostics_str(self, state):
        return f"acc. prob={state.accept_prob:.2f}"


def location_scale(y, cut=jnp.inf):
    """y ~ N(m, s), m ~ N(0, 1), s ~ HalfNormal(1); the density is NaN where m > cut."""
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(jnp.where(m > cut, jnp.nan, m), s), obs=y)
