"""Exact fractional noise: covariances, draws and densities in float32 against float64, and the minima of the Nile."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import linalg, optimize, stats

from emberwalk.kernels.fractional import (
    cholesky_increments,
    circulant_increments,
    fbm_covariance,
    fgn_autocovariance,
    fgn_log_density,
    fractional_coefficients,
    increment_autocovariance,
    increment_covariance,
    sample_cholesky,
    sample_davies_harte,
    stationary_log_density,
    weights,
)
from emberwalk.kernels.fractional import exact as module
from emberwalk.kernels.fractional.kl_criterion import fractional_noise
from emberwalk.models import load_nile
from tests.statistics import assert_caught, assert_exact, moments, replicas, z_scores

HURSTS = (0.02, 0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 0.83, 0.9, 0.98)
IRREGULAR = np.cumsum(np.append(0.0, np.random.default_rng(0).exponential(size=80) + 0.02))


covariance_of_increments = jax.jit(increment_covariance)


def single(hurst):
    """H in float32, and the same number in float64."""
    return jnp.float32(hurst), float(np.float32(hurst))


# Covariances


@pytest.mark.parametrize("hurst", HURSTS)
def test_autocovariance_in_float32_is_that_of_float64(hurst):
    H, same = single(hurst)
    exact = fractional_noise(same, 2001, 0.5)
    np.testing.assert_allclose(fgn_autocovariance(2001, H, 0.5), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("hurst", HURSTS)
def test_autocovariance_in_float64_is_the_second_difference(hurst, x64):
    np.testing.assert_allclose(
        fgn_autocovariance(30, hurst), fractional_noise(hurst, 30), rtol=1e-10, atol=1e-13
    )


def second_difference(n, hurst):
    """Planted: as it is written."""
    lag = jnp.arange(n, dtype=jnp.float32)
    return ((lag + 1) ** (2 * hurst) + jnp.abs(lag - 1) ** (2 * hurst) - 2 * lag ** (2 * hurst)) / 2


@pytest.mark.parametrize("hurst", [0.1, 0.83])
def test_planted_second_difference_in_float32_is_far_off(hurst):
    H, same = single(hurst)
    error = np.asarray(second_difference(2001, H)) / fractional_noise(same, 2001) - 1
    assert np.abs(error).max() > 0.1


@pytest.mark.parametrize("hurst", HURSTS)
def test_covariance_of_irregular_increments_is_the_double_difference(hurst, x64):
    path = np.asarray(fbm_covariance(IRREGULAR, hurst))
    exact = np.diff(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(covariance_of_increments(IRREGULAR, hurst), exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("hurst", HURSTS)
def test_covariance_of_regular_increments_is_the_autocovariance(hurst, x64):
    exact = linalg.toeplitz(fgn_autocovariance(40, hurst, 0.3))
    np.testing.assert_allclose(
        covariance_of_increments(0.3 * np.arange(41), hurst), exact, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.83])
@pytest.mark.parametrize("num", [200, 600])
def test_density_of_irregular_increments_in_float32_is_that_of_float64(hurst, num):
    """The double difference in float32 is wrong by .05 to .2 nats here."""
    rng = np.random.default_rng(num)
    ts = np.cumsum(np.append(0.0, rng.exponential(size=num)))
    H, same = single(hurst)
    with jax.enable_x64(True):
        exact_covariance = np.asarray(covariance_of_increments(ts, same))
    x = np.linalg.cholesky(exact_covariance) @ rng.normal(size=num)

    def density(covariance):
        factor = jnp.linalg.cholesky(covariance)
        e = jax.scipy.linalg.solve_triangular(factor, jnp.asarray(x, covariance.dtype), lower=True)
        return float(-jnp.sum(e**2) / 2 - jnp.sum(jnp.log(jnp.diagonal(factor))))

    with jax.enable_x64(True):
        exact = density(jnp.asarray(exact_covariance))
    assert density(covariance_of_increments(ts, H)) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.9])
def test_covariances_have_a_derivative_in_hurst(hurst):
    for fn in (
        partial(fbm_covariance, IRREGULAR[:9]),
        partial(increment_covariance, IRREGULAR[:9]),
        partial(fgn_autocovariance, 9),
    ):
        slope = jax.jit(jax.jacfwd(fn))(jnp.float32(hurst))
        with jax.enable_x64(True):
            double = jax.jit(fn)
            exact = np.asarray(double(hurst + 1e-5) - double(hurst - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, exact, atol=2e-4 * np.abs(exact).max())


# Draws


@pytest.mark.parametrize("num_steps", [1, 2, 3, 64, 1500])
def test_the_circle_has_no_negative_eigenvalue_at_any_hurst(num_steps, x64):
    for hurst in np.arange(2, 99) / 100:
        half = np.asarray(fgn_autocovariance(num_steps + 1, hurst))
        eigenvalues = np.fft.rfft(np.append(half, half[-2:0:-1])).real
        assert eigenvalues.min() > -1e-8


@pytest.mark.parametrize("hurst", [0.02, 0.3, 0.5, 0.9, 0.98])
def test_the_circle_has_the_covariance_of_the_noise(hurst, x64):
    """All of it, from the images of unit vectors."""
    images = jax.vmap(lambda e: circulant_increments(e, hurst, 0.5))(jnp.eye(24))
    exact = linalg.toeplitz(fractional_noise(hurst, 12, 0.5))
    np.testing.assert_allclose(images.T @ images, exact, atol=1e-10)


def test_cholesky_has_the_covariance_of_the_increments(x64):
    images = jax.vmap(lambda e: cholesky_increments(e, IRREGULAR[:9], 0.3))(jnp.eye(8))
    np.testing.assert_allclose(images.T @ images, covariance_of_increments(IRREGULAR[:9], 0.3), atol=1e-10)


TS = np.array([0.0, 0.1, 0.5, 0.6, 2.0])
SAMPLERS = {
    "davies-harte": (partial(sample_davies_harte, n=4, hurst=0.8, dt=0.5), 0.5 * np.arange(5), 0.8),
    "cholesky": (partial(sample_cholesky, ts=TS, hurst=0.2), TS, 0.2),
}


def exact_moments(ts, hurst):
    with jax.enable_x64(True):
        covariance = np.asarray(covariance_of_increments(ts, hurst))
    return np.append(np.zeros(len(covariance)), covariance[np.triu_indices(len(covariance))])


@pytest.mark.parametrize(("sampler", "ts", "hurst"), SAMPLERS.values(), ids=SAMPLERS)
def test_draws_have_the_moments_of_fractional_noise(sampler, ts, hurst):
    draws = replicas(lambda key: moments(sampler(key)), random.key(0), 20_000)
    assert_exact(z_scores(draws, exact_moments(ts, hurst)))


def test_planted_draws_on_a_short_circle():
    """A circle of n steps wraps the last increment around to the first."""

    def short(key):
        half = fgn_autocovariance(3, 0.8, 0.5)
        root = jnp.sqrt(jnp.fft.rfft(jnp.append(half, half[-2:0:-1])).real)
        return moments(jnp.fft.irfft(root * jnp.fft.rfft(random.normal(key, (4,))), 4))

    assert_caught(z_scores(replicas(short, random.key(0), 20_000), exact_moments(0.5 * np.arange(5), 0.8)))


# Densities


@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.83, 0.98])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_log_density_is_that_of_a_dense_gaussian(hurst, precision):
    scale, dt, N = 2.5, 0.3, 300
    _, same = single(hurst)
    covariance = scale**2 * linalg.toeplitz(fractional_noise(same, N, dt))
    x = np.linalg.cholesky(covariance) @ np.random.default_rng(1).normal(size=N)
    x = np.float64(np.float32(x))
    exact = stats.multivariate_normal(cov=covariance, allow_singular=True).logpdf(x)
    with jax.enable_x64(precision == "float64"):
        found = fgn_log_density(jnp.asarray(x, precision), jnp.asarray(same, precision), scale, dt)
    assert found.dtype == precision
    assert float(found) == pytest.approx(exact, abs=0.01 if precision == "float32" else 1e-8)


def test_log_density_has_the_derivative_of_float64():
    x = np.cumsum(np.random.default_rng(2).normal(size=400)) / 10
    arguments = (0.83, 1.3)
    gradient = jax.grad(lambda H, s, x: fgn_log_density(x, H, s), (0, 1))
    slope = jax.jit(gradient)(*map(jnp.float32, arguments), jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        exact = jax.jit(gradient)(*np.float64(np.float32(arguments)), jnp.asarray(x))
    np.testing.assert_allclose(slope, exact, rtol=1e-3)


# The Nile at Cairo, 622 to 1284


@pytest.fixture(scope="module")
def nile():
    return load_nile()[1]


def profile(log_density, series, autocovariance):
    """Highest log density over mean and scale, given the autocovariance of unit scale; with both of them.

    The recursion is linear in the series, so that generalised least squares need its errors alone.
    """
    errors, variances = module._innovations(series, autocovariance)
    ones, _ = module._innovations(jnp.ones_like(series), autocovariance)
    mean = jnp.sum(errors * ones / variances) / jnp.sum(ones**2 / variances)
    scale = jnp.sqrt(jnp.mean((errors - mean * ones) ** 2 / variances))
    return log_density((series - mean) / scale) - len(series) * jnp.log(scale), mean, scale


def maximum(fn, dtype=np.float64):
    found = optimize.minimize_scalar(
        lambda H: -float(fn(dtype(H))[0]), bounds=(0.7, 0.95), method="bounded", options={"xatol": 1e-5}
    )
    return found.x, *map(float, fn(dtype(found.x)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nile_has_its_maximum_likelihood_by_exact_noise(nile, dtype):
    with jax.enable_x64(dtype == np.float64):
        y = jnp.asarray(nile, dtype)

        @jax.jit
        def fit(H):
            return profile(lambda x: fgn_log_density(x, H), y, fgn_autocovariance(len(y), H))

        hurst, log_likelihood, mean, scale = maximum(fit, dtype)
    assert hurst == pytest.approx(0.8315, abs=0.001)
    assert log_likelihood == pytest.approx(-3757.463, abs=0.005)
    assert mean == pytest.approx(1149.88, abs=0.02)
    assert scale == pytest.approx(89.14, abs=0.02)


def test_nile_has_its_maximum_likelihood_by_the_bank(nile, x64):
    coef = fractional_coefficients(horizon=1024.0, num_steps=1024)
    fit = jax.jit(lambda r: profile(lambda x: stationary_log_density(x, r), jnp.asarray(nile), r))

    def markov(H):
        return fit(increment_autocovariance(coef.rates, np.asarray(weights(coef, H)), len(nile), 1.0))

    hurst, log_likelihood, *_ = maximum(markov)
    assert hurst == pytest.approx(0.8315, abs=0.005)
    assert log_likelihood == pytest.approx(-3757.463, abs=0.5)


def test_planted_second_difference_moves_the_maximum_of_the_nile(nile):
    """In float32; in float64 it would be right."""
    y = jnp.asarray(nile, jnp.float32)

    @jax.jit
    def fit(H):
        r = second_difference(len(y), H)
        return profile(lambda x: stationary_log_density(x, r), y, r)

    assert abs(maximum(fit, np.float32)[0] - 0.8315) > 0.002
