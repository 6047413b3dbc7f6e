"""The two distributions of exact fractional noise against dense Gaussians of float64, and the Nile."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density
from scipy import linalg, optimize, stats

from emberwalk.kernels.fractional import fbm_covariance
from emberwalk.kernels.fractional.kl_criterion import fractional_noise
from emberwalk.models import FractionalBrownianMotion, FractionalGaussianNoise, hurst_prior, load_nile
from tests.statistics import assert_caught, assert_exact, moments, replicas, z_scores

IRREGULAR = np.cumsum(np.random.default_rng(0).exponential(size=200) + 0.02)
REGULAR = 0.3 * np.arange(1, 201)


def single(value):
    """The same number in float32 and float64."""
    return float(np.float32(value))


def noise_covariance(hurst, scale, num, dt):
    return scale**2 * linalg.toeplitz(fractional_noise(hurst, num, dt))


def motion_covariance(hurst, scale, ts, obs_noise):
    with jax.enable_x64(True):
        path = np.asarray(fbm_covariance(ts, hurst))
    return scale**2 * path + obs_noise**2 * np.eye(len(ts))


def draw_of(covariance, mean=0.0):
    """A draw that float32 holds exactly, and its log density."""
    x = mean + np.linalg.cholesky(covariance) @ np.random.default_rng(1).normal(size=len(covariance))
    x = np.float64(np.float32(x))
    return x, stats.multivariate_normal(np.full(len(x), mean), covariance, allow_singular=True).logpdf(x)


TOLERANCE = {"float32": 0.02, "float64": 1e-6}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.83, 0.97])
def test_exact_density_of_noise_is_that_of_a_dense_gaussian(hurst, precision):
    hurst, scale, mean, dt = single(hurst), 2.5, 1.25, 0.3
    x, exact = draw_of(noise_covariance(hurst, scale, 200, dt), mean)
    with jax.enable_x64(precision == "float64"):
        law = FractionalGaussianNoise(hurst, scale, mean, num_steps=200, dt=dt)
        found = law.log_prob(jnp.asarray(x, precision))
    assert found.dtype == precision
    assert float(found) == pytest.approx(exact, abs=TOLERANCE[precision])


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("obs_noise", [0.0, 0.25])
@pytest.mark.parametrize("ts", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
@pytest.mark.parametrize("hurst", [0.1, 0.83])
def test_exact_density_of_motion_is_that_of_a_dense_gaussian(hurst, ts, obs_noise, precision):
    hurst = single(hurst)
    x, exact = draw_of(motion_covariance(hurst, 1.5, ts, obs_noise))
    with jax.enable_x64(precision == "float64"):
        found = FractionalBrownianMotion(hurst, 1.5, ts, obs_noise).log_prob(jnp.asarray(x, precision))
    assert found.dtype == precision
    assert float(found) == pytest.approx(exact, abs=2 * TOLERANCE[precision])


def test_exact_motion_may_be_seen_at_its_origin():
    ts = np.array([0.0, 0.5, 2.0])
    x, exact = draw_of(motion_covariance(single(0.1), 1.5, ts, 0.5))
    found = FractionalBrownianMotion(single(0.1), 1.5, ts, 0.5).log_prob(jnp.asarray(x))
    assert float(found) == pytest.approx(exact, abs=1e-4)


def planted_noise_of_differences(x, hurst, scale, ts, obs_noise):
    """Planted: the noise of the differences taken as independent."""
    increments = np.diff(np.diff(motion_covariance(hurst, scale, np.append(0.0, ts), 0.0), axis=0), axis=1)
    covariance = increments + 2 * obs_noise**2 * np.eye(len(ts))
    return stats.multivariate_normal(cov=covariance).logpdf(np.diff(x, prepend=0.0))


def test_planted_independent_noise_of_differences_is_far_off():
    hurst = single(0.83)
    x, exact = draw_of(motion_covariance(hurst, 1.5, IRREGULAR, 3.0))
    wrong = planted_noise_of_differences(x, hurst, 1.5, IRREGULAR, 3.0)
    assert abs(wrong - exact) > 100 * TOLERANCE["float32"]


def test_planted_step_length_without_its_power_is_far_off():
    """dt in place of dt^H; invisible at dt = 1."""
    x, exact = draw_of(noise_covariance(single(0.83), 1.0, 200, 0.3))
    wrong = FractionalGaussianNoise(single(0.83), 0.3**0.17, num_steps=200, dt=0.3).log_prob(jnp.asarray(x))
    assert abs(float(wrong) - exact) > 100 * TOLERANCE["float32"]


BATCH = {"hurst": np.array([0.2, 0.7]), "scale": np.array([[0.5], [1.0], [2.0]])}
LAWS = {
    "noise": partial(FractionalGaussianNoise, loc=0.5, num_steps=4, dt=0.3),
    "motion": partial(FractionalBrownianMotion, ts=[0.3, 0.4, 2.0, 3.0], obs_noise=0.2),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_batch_is_its_members(law):
    batch = law(**BATCH)
    assert (batch.batch_shape, batch.event_shape) == ((3, 2), (4,))
    x = jax.jit(lambda key: batch.sample(key, (5,)))(random.key(0))
    assert x.shape == batch.shape((5,)) == (5, 3, 2, 4)
    density = jax.jit(batch.log_prob)(x)
    assert density.shape == (5, 3, 2)
    for i, j in ((0, 1), (2, 0)):
        one = law(hurst=BATCH["hurst"][j], scale=BATCH["scale"][i, 0])
        np.testing.assert_allclose(density[:, i, j], jax.jit(one.log_prob)(x[:, i, j]), rtol=2e-5)
        np.testing.assert_allclose(batch.mean[i, j], one.mean, rtol=1e-6)
        np.testing.assert_allclose(batch.variance[i, j], one.variance, rtol=1e-6)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_draws_have_the_moments_of_the_law(law):
    one = law(hurst=0.8, scale=1.5)
    with jax.enable_x64(True):
        if isinstance(one, FractionalGaussianNoise):
            covariance = noise_covariance(0.8, 1.5, 4, 0.3)
        else:
            covariance = motion_covariance(0.8, 1.5, one.ts, 0.2)
    mean = np.asarray(one.mean, np.float64)
    second = (covariance + np.outer(mean, mean))[np.triu_indices(4)]
    draws = replicas(lambda key: moments(one.sample(key)), random.key(0), 20_000)
    assert_exact(z_scores(draws, np.append(mean, second)))
    np.testing.assert_allclose(one.variance, np.diag(covariance), rtol=1e-5)
    without_loc = np.append(0 * mean, covariance[np.triu_indices(4)])
    if mean.any():
        assert_caught(z_scores(draws, without_loc))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_density_has_the_derivative_of_float64(law):
    x = np.float32(np.random.default_rng(2).normal(size=4))
    at = (single(0.7), single(1.3))
    gradient = jax.jit(jax.grad(lambda H, s, x: law(hurst=H, scale=s).log_prob(x), (0, 1, 2)))
    slopes = gradient(*map(jnp.float32, at), x)
    with jax.enable_x64(True):
        exact = gradient(*map(jnp.float64, at), np.float64(x))
    for slope, double in zip(slopes, exact, strict=True):
        np.testing.assert_allclose(slope, double, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_passes_through_jit(law):
    one = law(hurst=0.7, scale=1.3)
    x = one.sample(random.key(0))
    np.testing.assert_allclose(jax.jit(lambda law, x: law.log_prob(x))(one, x), one.log_prob(x), rtol=1e-5)


def in_a_plate(law, y=None):
    H = numpyro.sample("H", hurst_prior())
    with numpyro.plate("series", 2):
        numpyro.sample("y", law(hurst=H, scale=1.0), obs=y)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_is_a_site_like_any_other(law):
    model = partial(in_a_plate, law)
    y = Predictive(model, num_samples=3)(random.key(0))["y"]
    assert y.shape == (3, 2, 4)
    joint = jax.jit(lambda H: log_density(model, (y[0],), {}, {"H": H})[0])(0.6)
    of_y = jax.jit(law(hurst=0.6, scale=1.0).log_prob)(y[0])
    np.testing.assert_allclose(joint, of_y.sum() + hurst_prior().log_prob(0.6), rtol=1e-5)


@pytest.mark.nightly  # daily as the example of FractionalGaussianNoise
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_is_seen_by_nuts(law):
    mcmc = MCMC(NUTS(partial(in_a_plate, law)), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(random.key(1), jnp.ones((2, 4)))
    H = mcmc.get_samples()["H"]
    assert ((H > 0.02) & (H < 0.98)).all()


def test_prior_of_h_is_a_moved_beta():
    at = np.array([0.03, 0.2, 0.9])
    exact = stats.beta(3, 5).logpdf((at - 0.02) / 0.96) - np.log(0.96)
    np.testing.assert_allclose(hurst_prior(3.0, 5.0).log_prob(at), exact, rtol=1e-4)
    assert isinstance(hurst_prior().support, dist.constraints._Interval)


# The Nile at Cairo, 622 to 1284: maximum likelihood of H, sigma and mu as published with the specification

MLE = {"hurst": 0.8315, "scale": 89.14, "loc": 1149.88}
LOG_LIKELIHOOD = -3757.463
# by the profile's curvature, sd .025
INFORMATION = 1 / 0.025**2


def test_nile_is_the_series_that_was_published():
    years, minima = load_nile()
    np.testing.assert_array_equal(years, np.arange(622, 1285))
    assert minima.shape == (663,)
    assert minima.dtype == np.float64
    assert minima.mean() == pytest.approx(1148.13, abs=0.005)
    assert minima.std() == pytest.approx(88.75, abs=0.1)
    assert minima[[0, 1, -1]].tolist() == [1157.0, 1088.0, 1097.0]


def nile_density(parameters, y):
    hurst, log_scale, loc = parameters
    return FractionalGaussianNoise(hurst, jnp.exp(log_scale), loc, num_steps=len(y)).log_prob(y)


@cache
def fitted_nile():
    """H, log sigma and mu at the maximum, and the log likelihood there; by coordinates of order 1."""
    _, y = load_nile()

    def natural(u):
        return jax.nn.sigmoid(u[0]), u[1], 1000.0 + 100.0 * u[2]

    value = jax.jit(jax.value_and_grad(lambda u: -nile_density(natural(u), y)))
    start = np.array([1.0, 4.4, 1.0])
    found = optimize.minimize(lambda u: tuple(map(np.asarray, value(u))), start, jac=True, method="BFGS")
    return np.array([float(x) for x in natural(found.x)]), -found.fun


def test_nile_has_its_maximum_likelihood_by_exact_noise(x64):
    (hurst, log_scale, loc), log_likelihood = fitted_nile()
    assert hurst == pytest.approx(MLE["hurst"], abs=0.001)
    assert np.exp(log_scale) == pytest.approx(MLE["scale"], abs=0.02)
    assert loc == pytest.approx(MLE["loc"], abs=0.02)
    assert log_likelihood == pytest.approx(LOG_LIKELIHOOD, abs=0.001)


def test_nile_has_the_same_maximum_in_float32_by_exact_noise():
    """Newton's step from the maximum of float64 is below .001 in H."""
    with jax.enable_x64(True):
        at, _ = fitted_nile()
    y = jnp.asarray(load_nile()[1], jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(partial(nile_density, y=y)))(jnp.asarray(at, jnp.float32))
    assert float(value) == pytest.approx(LOG_LIKELIHOOD, abs=0.02)
    assert abs(float(slope[0])) / INFORMATION < 0.001
