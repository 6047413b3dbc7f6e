"""What a run says beyond its draws: smoothed functionals, moments by time, forecasts, data drawn anew.

The exact answers are those of a linear Gaussian model with known parameters, on thousands of short
chains: chains are independent, and so are their z-scores.
"""

import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC

from emberwalk.infer import (
    PPG,
    ParticleGibbs,
    diagnose,
    forecast,
    lag_product,
    moment,
    posterior_predictive,
    ppg_estimates,
    to_datatree,
)
from emberwalk.models import StateSpace, emission
from tests.kernels.smc_models import autoregression
from tests.metropolis import Metropolis
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

Y = (1.5, -0.5, 2.0, 0.3)
EXACT = autoregression(Y)
LAG_PRODUCTS = 2.2391309  # E sum_t x_t x_{t-1}


def states(y):
    start = dist.Normal(0.0, 1 / np.sqrt(0.19))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(0.9 * prev, 1.0), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def scanned(y):
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1 / np.sqrt(0.19)))
    numpyro.sample("y0", dist.Normal(x0, 1.0), obs=y[0])

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, x0, y[1:])


def lag_product_from_x0(previous, current, t):
    return (previous["x"] + previous["x0"]) * current["x"]


def third_state(previous, current, t):
    return jnp.where(t == 2, current["x"] ** jnp.array([1, 2]), 0.0)


class FrontEnd(NamedTuple):
    """A model, its sum of lag products, and how many of the four states precede its time axis."""

    model: object
    lag_products: object
    offset: int


FRONT_ENDS = {
    "StateSpace": FrontEnd(states, lag_product("x"), 0),
    "scan": FrontEnd(scanned, lag_product_from_x0, 1),
}


class Chains(NamedTuple):
    mcmc: MCMC
    front_end: FrontEnd


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(FRONT_ENDS["StateSpace"], id="StateSpace"),
        pytest.param(FRONT_ENDS["scan"], id="scan", marks=pytest.mark.nightly),
    ],
)
def chains(request) -> Chains:
    """The last of 12 draws of 8000 chains, N = 4."""
    functionals = {"lag products": request.param.lag_products, "third": third_state, "sum": moment("x")}
    kernel = ParticleGibbs(request.param.model, 4, functionals=functionals)
    mcmc = MCMC(
        kernel, num_warmup=11, num_samples=1, num_chains=8000, chain_method="vectorized", progress_bar=False
    )
    with optimised():
        mcmc.run(random.key(0), np.asarray(Y, np.float32))  # as a user has them
    return Chains(mcmc, request.param)


@pytest.mark.xdist_group("estimates")
def test_smc_functionals_of_conditional_sweeps_have_the_exact_mean_and_vary_less_than_those_of_paths(chains):
    fields = chains.mcmc.get_extra_fields()
    smoothed, drawn = fields["functionals"], fields["path_functionals"]
    third = 2 + chains.front_end.offset
    exact = {
        "lag products": LAG_PRODUCTS,
        "third": [EXACT.mean[third], EXACT.covariance[third, third] + EXACT.mean[third] ** 2],
        "sum": EXACT.mean[chains.front_end.offset :].sum(),
    }
    for name, value in exact.items():
        assert_exact(z_scores(smoothed[name], value))
        assert_exact(z_scores(drawn[name], value))
        assert np.all(np.var(smoothed[name], 0) < np.var(drawn[name], 0))


@pytest.mark.xdist_group("estimates")
def test_smc_functionals_of_the_drawn_path_are_those_of_the_path_in_the_draws(chains):
    samples, drawn = chains.mcmc.get_samples(), chains.mcmc.get_extra_fields()["path_functionals"]
    x = np.asarray(samples["x"])
    np.testing.assert_allclose(drawn["sum"], x.sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn["third"], x[:, 2, None] ** [1, 2], rtol=1e-4, atol=1e-5)
    if "x0" in samples:
        x = np.concatenate([samples["x0"][:, None], x], axis=1)
    np.testing.assert_allclose(drawn["lag products"], (x[:, 1:] * x[:, :-1]).sum(1), rtol=1e-3, atol=1e-4)


def normal_moments(draws, mean, variance):
    """z of the mean and of the second moment at each step."""
    draws, mean = np.asarray(draws, float), np.asarray(mean)
    return np.stack([z_scores(draws, mean), z_scores(draws**2, variance + mean**2)])


@pytest.mark.xdist_group("estimates")
def test_smc_forecast_is_the_kalman_prediction(chains):
    ahead = forecast(chains.mcmc, random.key(1), 3)
    steps = np.arange(1, 4)
    mean = 0.9**steps * EXACT.mean[-1]
    variance = 0.81**steps * EXACT.covariance[-1, -1] + np.cumsum(0.81 ** (steps - 1))
    assert ahead.keys() == {"x", "y"}
    assert_exact(normal_moments(ahead["x"], mean, variance))
    assert_exact(normal_moments(ahead["y"], mean, variance + 1))
    # the step from the last state is made: at the state itself the answer is another
    assert_caught(normal_moments(ahead["x"], EXACT.mean[-1], EXACT.covariance[-1, -1]))


@pytest.mark.xdist_group("estimates")
def test_smc_data_drawn_anew_have_the_states_of_the_draws(chains):
    first = chains.front_end.offset
    again = posterior_predictive(chains.mcmc, random.key(2))
    assert again.keys() == {"y"}
    assert_exact(normal_moments(again["y"], EXACT.mean[first:], np.diag(EXACT.covariance)[first:] + 1))
    few = posterior_predictive(chains.mcmc, random.key(2), num_draws=7)
    assert few["y"].shape == (7, 4 - first)


@pytest.fixture(scope="module")
def whole() -> MCMC:
    """All of it in one small run: three chains that leave the path out of the draws and keep its moments."""
    kernel = PPG(
        with_a_clock, 4, interweave="theta", interweave_steps=2, path_moments=True, proposal=wide,
        functionals={"xx": lag_product("x"), "pair": pair}, inner_kernel=Metropolis,
    )  # fmt: skip
    mcmc = MCMC(
        kernel, num_warmup=4, num_samples=12, num_chains=3, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(random.key(3), jnp.asarray(Y), extra_fields=("~z.x", "block_states.0.z"))
    return mcmc


def with_a_clock(y):
    """`linear_gaussian_scan` whose carry is a tuple."""
    phi, sx = numpyro.sample("phi", dist.Uniform(-1, 1)), numpyro.sample("sx", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0.0, sx / jnp.sqrt(1 - phi**2)))

    def step(carry, y_t):
        x, clock = carry
        x = numpyro.sample("x", dist.Normal(phi * x, sx))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return (x, clock + 1), None

    scan(step, (x0, 0), y)


def wide(carry, t):
    return {"x": dist.Normal(carry[0], 1.5)}


def pair(previous, current, t):
    return {"first": current["x"], "cubes": current["x"] ** jnp.array([3, 3])}


@pytest.mark.xdist_group("estimates")
def test_smc_path_moments_are_those_of_the_paths_that_were_left_out(whole):
    assert "x" not in whole.get_samples()
    x = np.asarray(whole.get_extra_fields(group_by_chain=True)["block_states.0.z"]["x"], float)
    by_time = to_datatree(whole)["path_diagnostics"].to_dataset()
    assert by_time["x_mean"].dims == ("chain", "time")
    np.testing.assert_allclose(by_time["x_mean"], x.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_time["x_sd"], x.std(1, ddof=1), rtol=1e-4)
    assert diagnose(whole) == []


@pytest.mark.xdist_group("estimates")
def test_smc_estimates_are_means_over_the_draws_with_their_errors(whole):
    estimates = ppg_estimates(whole)
    fields = whole.get_extra_fields()
    xx = estimates["xx"]
    np.testing.assert_allclose(xx.mean, np.mean(fields["functionals"]["xx"], dtype=float), rtol=1e-5)
    np.testing.assert_allclose(
        xx.path_mean, np.mean(fields["path_functionals"]["xx"], dtype=float), rtol=1e-5
    )
    np.testing.assert_allclose(
        xx.mcse, np.std(fields["functionals"]["xx"], ddof=1) / np.sqrt(xx.ess), rtol=1e-4
    )
    np.testing.assert_allclose(xx.gain, (xx.path_mcse / xx.mcse) ** 2)
    assert estimates["pair"]["cubes"].mean.shape == (2,)
    group = to_datatree(whole)["functional_estimates"].to_dataset()
    assert set(group.data_vars) == {"xx", "pair.first", "pair.cubes"}
    np.testing.assert_allclose(group["pair.cubes"].sel(estimate="mcse"), estimates["pair"]["cubes"].mcse)


@pytest.mark.xdist_group("estimates")
def test_smc_forecast_without_the_path_starts_from_the_last_carry(whole):
    fields = whole.get_extra_fields()
    np.testing.assert_array_equal(fields["last_carry"][0], fields["block_states.0.z"]["x"][:, -1])
    ahead = forecast(whole, random.key(4), 2, num_draws=5)
    assert ahead["y"].shape == (5, 2)
    # a run read from its directory has lists where the carry has tuples
    read, as_read = copy.copy(whole), {**fields, "last_carry": list(fields["last_carry"])}
    read.get_extra_fields = lambda group_by_chain=False: as_read
    jax.tree.map(np.testing.assert_array_equal, forecast(read, random.key(4), 2, num_draws=5), ahead)
    with pytest.raises(ValueError, match=r"The path \['x'\] is not among the draws"):
        posterior_predictive(whole, random.key(4))


def driven(y, inputs, drift):
    """A state driven by an input, and by an argument whose rows are indexed by time."""
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(carry, both):
        (x, t), (y_t, u_t) = carry, both
        x = numpyro.sample("x", dist.Normal(0.5 * x + u_t + drift[t], 1e-3))
        numpyro.sample("y", dist.Normal(x, 1e-3), obs=y_t)
        return (x, t + 1), None

    scan(step, (x0, 0), (y, inputs))


@pytest.mark.xdist_group("estimates")
def test_smc_forecast_bad_input_asks_for_what_the_steps_to_come_need():
    mcmc = MCMC(ParticleGibbs(driven, 4), num_warmup=0, num_samples=2, progress_bar=False)
    mcmc.run(random.key(0), jnp.zeros(3), jnp.zeros(3), jnp.array([0.0, 0, 0, 3, 5]))
    with pytest.raises(ValueError, match=r"inputs \['xs\[1\]'\] beyond its observation.*xs="):
        forecast(mcmc, random.key(1), 2)
    with pytest.raises(ValueError, match=r"xs\[1\] has shape \(3,\), but \(2,\) is needed"):
        forecast(mcmc, random.key(1), 2, xs=(None, jnp.ones(3)))
    with pytest.raises(ValueError, match="xs has the form"):
        forecast(mcmc, random.key(1), 2, xs=jnp.ones(2))
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1, got 0"):
        forecast(mcmc, random.key(1), 0)
    with pytest.raises(
        ValueError, match="num_draws must be a whole number from 1 to 2, the draws there are, got 3"
    ):
        forecast(mcmc, random.key(1), 2, xs=(None, jnp.ones(2)), num_draws=3)
    ahead = forecast(mcmc, random.key(1), 2, xs=(None, jnp.array([1.0, 10.0])))
    last = mcmc.get_samples()["x"][:, -1]
    np.testing.assert_allclose(ahead["x"], jnp.stack([last / 2 + 4, last / 4 + 17], 1), atol=0.02)
    with pytest.warns(UserWarning, match=r"argument 2 of the model, which has 5 rows.*at least 6 rows"):
        forecast(mcmc, random.key(1), 3, xs=(None, jnp.zeros(3)))


def test_smc_estimates_without_functionals_say_what_to_ask_for():
    class Run:
        def get_extra_fields(self, group_by_chain):
            return {"num_steps": np.ones((1, 3))}

    with pytest.raises(
        ValueError, match=r"No functionals were collected, only \['num_steps'\].*functionals="
    ):
        ppg_estimates(Run())
