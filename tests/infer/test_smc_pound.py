"""The posterior of the demo against a long run of another sampler."""

import jax
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import PPG
from emberwalk.models import load_gbp_usd, stochastic_volatility

# Mean and Monte Carlo error of 120,000 draws of NUTS on the non-centred form in float64.
REFERENCE = {"phi": (0.84121, 0.00041), "sigma": (0.46061, 0.00066), "mu": (-1.32395, 0.00048)}


@pytest.mark.nightly
def test_posterior_of_the_pound_agrees_with_a_long_run_of_nuts():
    dates, returns = load_gbp_usd()
    kernel = PPG(stochastic_volatility, num_particles=16)
    mcmc = MCMC(kernel, num_warmup=1000, num_samples=5000, num_chains=4, chain_method="vectorized")
    mcmc.run(random.key(7), np.asarray(returns, np.float32), extra_fields=("~z.h0",))
    samples = jax.device_get(mcmc.get_samples(group_by_chain=True))
    for name, (mean, error) in REFERENCE.items():
        own, own_error = _mean_and_mcse(samples[name])
        z = (own - mean) / np.hypot(own_error, error)
        assert abs(z) < 4.5, f"{name}: {own:.5f} ({own_error:.5f}) against {mean}: z = {z:.1f}"
    day = int(np.flatnonzero(dates == np.datetime64("2016-06-24"))[0])
    own, own_error = _mean_and_mcse(samples["h"][:, :, day])
    z = (own - 1.989) / np.hypot(own_error, 0.005)  # the reference is given to three digits
    assert abs(z) < 4.5, f"h on 2016-06-24: {own:.4f} ({own_error:.4f}): z = {z:.1f}"


def _mean_and_mcse(draws):
    from arviz_stats.base import array_stats

    values = np.asarray(draws, np.float64)
    return float(values.mean()), float(array_stats.mcse(values, chain_axis=0, draw_axis=1))


@pytest.mark.nightly
def test_no_chain_is_stuck_where_it_started():
    """Of 64 random starts; with trajectories of full length from the first draw on, 2 never leave sigma = e^-17."""
    _, returns = load_gbp_usd()
    kernel = PPG(stochastic_volatility, num_particles=8)
    mcmc = MCMC(kernel, num_warmup=150, num_samples=10, num_chains=64, chain_method="vectorized")
    mcmc.run(random.key(5), np.asarray(returns, np.float32), extra_fields=("~z.h",))
    sigma = mcmc.get_samples(group_by_chain=True)["sigma"]
    assert sigma.min() > np.exp(-3.0)
