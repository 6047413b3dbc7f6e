"""A small real kernel that says all it may to `diagnostics`, a model with a plate, and two helpers."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr
from jax import random
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel

DRAWS = 12
DAYS = np.arange("2016-06-20", "2016-07-02", dtype="datetime64[D]").astype("datetime64[ns]")
Y = jnp.array([0.3, -0.2, 1.1])
SENTENCES = ["x stuck 6 times; move it.", "x is short."]  # of a PathKernel("x") in two chains


class PathState(NamedTuple):
    z: dict
    site_ratio: jax.Array
    accept_prob: jax.Array
    num_steps: jax.Array
    totals: dict
    num_stuck: jax.Array
    rng_key: jax.Array


class PathKernel(MCMCKernel):
    """Draws a path of independent N(0, 1); no model, and all that a kernel may say to `diagnostics`."""

    sample_field = "z"
    default_fields = ("z", "site_ratio", "accept_prob", "num_steps", "totals")

    def __init__(self, site, length=12, axis=("left", "right")):
        self.site, self.length, self.axis = site, length, list(axis)

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        return self.sample(PathState(*[None] * 6, rng_key), model_args, model_kwargs)

    def sample(self, state, model_args, model_kwargs):
        rng_key, key = random.split(state.rng_key)
        x = random.normal(key, (self.length,))
        totals = {"sum": x.sum(), "ends": x[jnp.array([0, -1])]}
        return PathState({self.site: x}, x[:2], jnp.tanh(x[0]), jnp.array(0), totals, jnp.array(3), rng_key)

    def refresh(self, state, model_args, model_kwargs):
        return state

    def warnings(self, mcmc):
        number = int(mcmc.last_state.num_stuck.sum())
        return [f"{self.site} stuck {number} times; move it.", f"{self.site} is short."]

    def groups(self, mcmc):
        x = np.asarray(mcmc.get_samples(group_by_chain=True)[self.site])
        rate = xr.DataArray(x.mean(1), dims=("chain", "time"), coords={"time": np.arange(self.length)})
        return {"path_diagnostics": xr.Dataset({"update_rate": rate})}

    def dims(self, mcmc):
        coords = {"time": np.arange(self.length), "site": self.axis}
        return coords, {self.site: ["time"], "site_ratio": ["site"], "totals.ends": ["end"]}


def schools(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.deterministic("twice", 2.0 * mu)  # smaller than its plate: ArviZ alone raises
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def run(kernel, *args, chains=2, method="sequential", draws=DRAWS, warmup=10, **fields):
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
    )
    mcmc.run(random.key(1), *args, **fields)
    return mcmc


def quiet(function, *args, **kwargs):
    """Calls it; returns what it gave and the sentences of the UserWarnings it issued."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    assert {w.category for w in caught} <= {UserWarning}
    return result, [str(w.message) for w in caught]
