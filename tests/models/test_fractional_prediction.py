"""`fractional_sde` under NUTS, SVI and Predictive: posteriors against dense algebra, and forecasts with the noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.distributions import constraints
from numpyro.handlers import mask, seed, substitute
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from emberwalk.kernels.fractional import fractional_coefficients
from emberwalk.models import extend_noise, fractional_sde, hurst_prior
from tests.models.fractional_laws import affine_law, linear_law
from tests.statistics import assert_caught, assert_exact, moments, optimised, z_scores

TS = 0.5 + np.array([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
LONGER = np.append(TS, [1.7, 1.9, 2.2])
C = fractional_coefficients(horizon=2.0, num_steps=64, num_modes=5)
SD = 0.2


def path(ts, noise, hurst=0.3, pull=0.8, scale=0.6, y0=0.7, **options):
    options = {"coefficients": C} | options
    return fractional_sde(
        "x", lambda t, x: pull * (1.3 - x), lambda t, x: scale, ts, hurst, y0, noise=noise, **options
    )


def observed(ts, noise, y=None):
    x = path(ts, noise, y0=dist.Normal(0.7, 0.5))
    numpyro.sample("y", dist.Normal(x, SD), obs=y)


# Posteriors

Y = np.array([0.9, 1.4, 1.0, 0.2, 0.4, 0.9])


def posterior(noise):
    """Mean and covariance of x given Y."""
    with jax.enable_x64(True):
        if noise == "exact":
            mean, covariance = linear_law(TS, range(len(TS)), 0.8, 1.3, 0.6, (0.3,), 0.7, 0.25)
        else:
            mean, covariance = affine_law(partial(path, TS, noise, y0=dist.Normal(0.7, 0.5)))
    gain = np.linalg.solve(covariance + SD**2 * np.eye(len(Y)), covariance).T
    return mean + gain @ (Y - mean), covariance - gain @ covariance


@pytest.mark.nightly  # NUTS runs daily in the example of fractional_sde
@pytest.mark.parametrize("noise", ["exact", "markov"])
def test_nuts_has_the_posterior_of_dense_algebra(noise):
    mcmc = MCMC(
        NUTS(observed),
        num_warmup=100,
        num_samples=100,
        num_chains=30,
        chain_method="vectorized",
        progress_bar=False,
    )
    with optimised():
        mcmc.run(random.key(0), TS, noise, Y)
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
    mean, covariance = posterior(noise)
    second = (covariance + np.outer(mean, mean))[np.triu_indices(len(mean))]
    exact = np.append(mean, second)
    of_chains = np.asarray(jax.vmap(jax.vmap(moments))(jnp.asarray(x))).mean(1)
    z = z_scores(of_chains, exact)
    assert_exact(z)
    prior_mean = linear_law(TS, range(len(TS)), 0.8, 1.3, 0.6, (0.3,), 0.7)[0]
    assert_caught(z_scores(x.mean(1), prior_mean))


@pytest.mark.nightly
def test_all_parameters_are_learnt_by_svi_with_h_a_param():
    def model(y):
        hurst = numpyro.param("hurst", 0.5, constraint=constraints.interval(0.02, 0.98))
        k, s = (numpyro.sample(name, dist.LogNormal(0.0, 1.0)) for name in "ks")
        x = path(TS, "markov", hurst, k, s)
        with mask(mask=np.arange(len(TS)) != 2):
            numpyro.sample("y", dist.Normal(x, SD), obs=jnp.asarray(y))

    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.02), Trace_ELBO())
    result = svi.run(random.key(0), 60, Y, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert result.losses[-10:].mean() < result.losses[:10].mean()
    assert 0.02 < result.params["hurst"] < 0.98
    assert result.params["hurst"] != 0.5


@pytest.mark.nightly
def test_all_parameters_are_learnt_by_nuts():
    def model(y):
        H = numpyro.sample("H", hurst_prior())
        k, s = (numpyro.sample(name, dist.HalfNormal()) for name in "ks")
        with numpyro.plate("seq", 2):
            x = path(TS, "markov", H, k, s, y0=dist.Normal(0.7, 0.5))
            numpyro.sample("y", dist.Normal(x, SD).to_event(1), obs=y)

    mcmc = MCMC(NUTS(model), num_warmup=10, num_samples=10, progress_bar=False)
    mcmc.run(random.key(0), jnp.stack([Y, Y[::-1]]))
    samples = mcmc.get_samples()
    assert samples["x"].shape == (10, 2, 6)
    assert all(np.isfinite(value).all() for value in samples.values())


# Prediction


@pytest.mark.parametrize("noise", ["exact", "markov"])
def test_a_path_is_predicted_from_its_noise_and_drawn_anew_without(noise):
    prior = Predictive(observed, num_samples=4)(random.key(0), TS, noise)
    again = Predictive(observed, prior)(random.key(1), TS, noise)
    np.testing.assert_allclose(again["x"], prior["x"], atol=1e-6)
    only_path = Predictive(observed, {"x": prior["x"]})(random.key(1), TS, noise)
    assert (np.abs(only_path["x"] - prior["x"]).max(1) > 0.1).any()


def forecast_moments(noise, drop_noise=False, num=4000):
    """Of x at the new times, given the one past of a draw."""
    seen = Predictive(partial(path, TS), num_samples=1)(random.key(3), noise)
    past = {site: jnp.repeat(value, num, 0) for site, value in seen.items()}
    if drop_noise:
        past = {"x": past["x"], "x_noise": random.normal(random.key(5), past["x_noise"].shape)} | {
            site: value for site, value in past.items() if site == "x_bank"
        }
    longer = extend_noise(random.key(1), past, "x", 3)
    assert set(longer) == set(past) - {"x"}
    x = Predictive(partial(path, LONGER), longer)(random.key(2), noise)["x"]
    if not drop_noise:
        np.testing.assert_allclose(x[:, : len(TS)], past["x"], atol=1e-5)
    return np.asarray(jax.vmap(moments)(x[:, len(TS) :])), np.asarray(seen["x"][0], np.float64)


def conditional_moments(noise, seen):
    """Of exact noise the past path is all that is known; of the bank its state is known too."""
    with jax.enable_x64(True):
        mean, covariance = linear_law(LONGER, range(len(LONGER)), 0.8, 1.3, 0.6, (0.3,), 0.7)
    past, new = np.arange(1, len(TS)), np.arange(len(TS), len(LONGER))
    gain = np.linalg.solve(covariance[np.ix_(past, past)], covariance[np.ix_(past, new)]).T
    mean = mean[new] + gain @ (seen[past] - mean[past])
    covariance = covariance[np.ix_(new, new)] - gain @ covariance[np.ix_(past, new)]
    return np.append(mean, (covariance + np.outer(mean, mean))[np.triu_indices(len(new))])


def test_a_forecast_is_the_conditional_law():
    draws, seen = forecast_moments("exact")
    assert_exact(z_scores(draws, conditional_moments("exact", seen)))


def test_planted_forecast_without_the_noise():
    draws, seen = forecast_moments("exact", drop_noise=True)
    assert_caught(z_scores(draws, conditional_moments("exact", seen)))


def test_a_forecast_by_the_bank_is_the_law_of_its_fresh_normals():
    """The longer steps of the new times have more noises than the old: none of them may be missing."""
    draws, _ = forecast_moments("markov")
    seen = Predictive(partial(path, TS), num_samples=1)(random.key(3), "markov")
    N, _, r = seen["x_noise"].shape[1:]
    longer = extend_noise(random.key(1), seen, "x", 3)["x_noise"][0]
    assert longer.shape[-1] > r
    with jax.enable_x64(True):

        def new_times(fresh):
            noise = jnp.concatenate([longer[:N], fresh.reshape(3, 1, -1)])
            sites = {"x_bank": seen["x_bank"][0], "x_noise": noise}
            return substitute(seed(partial(path, LONGER, "markov"), 0), sites)()[len(TS) :]

        zero = jnp.zeros(longer[N:].size)
        both = jax.jit(lambda fresh: (new_times(fresh), jax.jacfwd(new_times)(fresh)))
        mean, images = map(np.asarray, both(zero))
    second = (images @ images.T + np.outer(mean, mean))[np.triu_indices(3)]
    assert_exact(z_scores(draws, np.append(mean, second)))


def test_sequences_of_a_plate_are_continued_each():
    def model(ts):
        with numpyro.plate("seq", 3):
            return path(ts, "markov")

    seen = Predictive(model, num_samples=2)(random.key(0), TS)
    longer = extend_noise(random.key(1), seen, "x", 3)
    x = Predictive(model, longer)(random.key(2), LONGER)["x"]
    assert x.shape == (2, 3, len(LONGER))
    np.testing.assert_allclose(x[..., : len(TS)], seen["x"], atol=1e-5)
    assert len(np.unique(np.asarray(x[..., -1]))) == 6


def test_without_coefficients_a_longer_grid_has_another_bank():
    """Why they must be given: the same noises make another past."""
    model = partial(path, noise="markov", coefficients=None)
    seen = Predictive(model, num_samples=2)(random.key(0), TS)
    x = Predictive(model, extend_noise(random.key(1), seen, "x", 3))(random.key(2), LONGER)["x"]
    assert np.abs(x[:, : len(TS)] - seen["x"]).max() > 1e-3
