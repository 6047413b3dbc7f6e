"""The bank's path: its law by algebra, its draws in float32, and steps of every length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.fractional import (
    BankState,
    bank_path,
    bank_step,
    fractional_coefficients,
    increment_autocovariance,
    increment_covariance,
    init,
    initial_factor,
    step,
    weights,
)
from tests.kernels.fractional.bridges import default_coefficients, even
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

UNEVEN = np.tile([1.0, 7.0], 12) / 96


def increments_of_units(coef, hurst, dts, rtol=1e-13, integrator="exact", start=None):
    """dB `[R, N]` of each unit vector among all noises: their products sum to the covariance of dB."""
    factors = bank_step(coef.rates, dts, integrator, rtol)
    root = initial_factor(coef.rates, rtol) if start is None else start
    N, rank, r0 = len(dts), factors.noise_factor.shape[-1], root.shape[1]

    def path(unit):
        e = unit[r0:].reshape(N, rank)
        return bank_path(BankState(root @ unit[:r0]), e, factors, weights(coef, hurst), parallel=True)[1]

    return np.asarray(jax.jit(jax.vmap(path))(jnp.eye(r0 + N * rank)))


def covariance(*args, **kwargs):
    images = increments_of_units(*args, **kwargs)
    return images.T @ images


@pytest.mark.parametrize("hurst", [0.1, 0.9])
def test_the_bank_s_increments_have_their_autocovariance(hurst, x64):
    coef = default_coefficients(2.5, 50)
    r = increment_autocovariance(coef.rates, np.asarray(weights(coef, hurst)), 50, 0.05)
    lags = np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    found = covariance(coef, hurst, even(50, 2.5))
    np.testing.assert_allclose(found, r[lags], atol=1e-10 * r[0])


def test_one_step_has_the_law_of_two_halves(x64):
    coef = default_coefficients()
    halves = increments_of_units(coef, 0.3, np.full(40, 0.01)).reshape(-1, 20, 2).sum(2)
    np.testing.assert_allclose(covariance(coef, 0.3, np.full(20, 0.02)), halves.T @ halves, atol=1e-12)


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.7, 0.9])
def test_uneven_steps_have_the_law_of_fractional_motion(hurst, x64):
    """KL per increment, at the default rank of the noise."""
    coef = default_coefficients(1.0, 96)
    ratio = np.linalg.solve(
        covariance(coef, hurst, UNEVEN, rtol=1e-5),
        increment_covariance(np.append(0.0, np.cumsum(UNEVEN)), hurst),
    )
    assert (np.trace(ratio) - len(ratio) - np.linalg.slogdet(ratio)[1]) / (2 * len(ratio)) < 2e-4


def test_euler_tends_to_the_exact_step(x64):
    coef = default_coefficients(1.0, 64)
    errors = [
        np.abs(covariance(coef, 0.3, dts, integrator="euler") / covariance(coef, 0.3, dts) - 1).max()
        for dts in (np.full(4, 1e-5), np.full(4, 1e-6))
    ]
    assert errors[1] < errors[0] / 8 < 0.1


def test_the_default_rank_of_the_noise_is_enough(x64):
    coef = default_coefficients()
    assert bank_step(coef.rates, 1 / 200).noise_factor.shape == (8, 4)
    full, low = (covariance(coef, 0.1, even(50, 0.25), rtol=rtol) for rtol in (1e-13, 1e-5))
    ratio = np.linalg.solve(low, full)
    assert (np.trace(ratio) - 50 - np.linalg.slogdet(ratio)[1]) / 100 < 1e-5


@pytest.mark.parametrize("num_paths", [4000, pytest.param(20_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("hurst", [0.1, 0.9])
def test_paths_in_float32_have_the_moments_of_the_bank(hurst, num_paths):
    coef = default_coefficients(1.0, 96, 5)
    assert_exact(z_of_moments(coef, hurst, num_paths, lambda coef, b: init(coef, b)))


@pytest.mark.parametrize("hurst", [0.1, 0.9])
def test_planted_bank_that_starts_at_zero(hurst):
    coef = default_coefficients(1.0, 96, 5)
    assert_caught(z_of_moments(coef, hurst, 4000, lambda coef, b: BankState(jnp.zeros(5))))


def test_planted_horizon_forgotten_in_the_paths():
    """Invisible on a horizon of 1."""
    coef = default_coefficients(2.5, 240, 5)
    assert_caught(z_of_moments(coef, 0.3, 4000, init, w=weights(coef, 0.3) * 2.5**-0.3))


def z_of_moments(coef, hurst, num_paths, start, w=None):
    """Squares and neighbours' products of the increments, and B(T)^2, against algebra."""
    w = weights(coef, hurst) if w is None else w
    factors = bank_step(coef.rates, UNEVEN)
    rank = factors.noise_factor.shape[-1]

    def path(key):
        key_b, key_e = random.split(key)
        b, e = random.normal(key_b, (5,)), random.normal(key_e, (len(UNEVEN), rank))
        dB = bank_path(start(coef, b), e, factors, w)[1]
        return jnp.concatenate([dB**2, dB[1:] * dB[:-1], jnp.sum(dB)[None] ** 2])

    with jax.enable_x64(True):
        exact = covariance(coef, hurst, UNEVEN, rtol=1e-5)
    wanted = np.concatenate([np.diag(exact), np.diag(exact, 1), [exact.sum()]])
    return z_scores(replicas(path, random.key(1), num_paths), wanted)


@pytest.mark.parametrize("hurst", [0.1, 0.9])
def test_increments_in_float32_are_exact_to_1e_4_of_their_sd(hurst):
    coef = default_coefficients()
    errors = {}
    for name, to_increments in (("expm1", lambda y0, y, w, dB: dB), ("differences", by_differences)):
        single = path_of_fixed_noise(coef, hurst, to_increments)
        with jax.enable_x64(True):
            double = path_of_fixed_noise(coef, hurst, lambda y0, y, w, dB: dB)
        errors[name] = np.abs(single - double).max() / double.std()
    assert errors["expm1"] < 1e-4
    if hurst == 0.9:
        assert errors["differences"] > 5 * errors["expm1"]


def by_differences(y0, y, w, dB):
    """Planted: B as a weighted sum, then its differences."""
    return jnp.diff(jnp.append(0.0, (y - y0) @ w))


def path_of_fixed_noise(coef, hurst, to_increments):
    rng, factors, w = (
        np.random.default_rng(3),
        bank_step(coef.rates, 1 / 200),
        weights(coef, jnp.asarray(hurst)),
    )
    b, e = (np.float32(rng.normal(size=shape)) for shape in (8, (200, 4)))
    state = init(coef, jnp.asarray(b))
    y, dB = bank_path(state, jnp.asarray(e), factors, w)
    return np.asarray(to_increments(state.y, y, w, dB), np.float64)


@pytest.mark.parametrize("dts", [np.full(24, 0.01), UNEVEN], ids=["even", "uneven"])
def test_in_parallel_the_path_is_the_same(dts):
    coef = default_coefficients(1.0, 96)
    factors, w = bank_step(coef.rates, dts), weights(coef, jnp.array([0.2, 0.8, 0.4]))
    e = random.normal(random.key(0), (24, 3, factors.noise_factor.shape[-1]))
    state = init(coef, random.normal(random.key(1), (3, 8)))
    path = jax.jit(bank_path, static_argnames="parallel")
    for slow, fast in zip(*(path(state, e, factors, w, parallel=p) for p in (False, True)), strict=True):
        assert slow.shape == fast.shape
        np.testing.assert_allclose(slow, fast, atol=2e-5)


def test_a_path_is_its_steps():
    coef = default_coefficients(1.0, 96)
    factors, w = bank_step(coef.rates, UNEVEN), weights(coef, 0.7)
    e = random.normal(random.key(0), (24, factors.noise_factor.shape[-1]))
    state = first = init(coef, jnp.ones(8))
    increments = []
    for n in range(24):
        state, dB = step(state, e[n], jax.tree.map(lambda x, n=n: x[n], factors), w)
        increments.append(dB)
    y, dB = bank_path(first, e, factors, w)
    np.testing.assert_allclose(dB, jnp.stack(increments), atol=1e-6)
    np.testing.assert_allclose(y[-1], state.y, atol=1e-6)


def test_lengths_that_differ_by_rounding_share_a_factor():
    ts = np.cumsum(np.full(300, 0.1))
    factors = bank_step(np.array([1.0, 10.0]), np.diff(ts))
    assert len(np.unique(factors.noise_factor, axis=0)) == 1


def test_kind_two_starts_at_zero():
    coef = fractional_coefficients(1.0, 64, kind="II", criterion="path")
    assert not init(coef, jnp.ones(8)).y.any()


BAD = {
    "integrator": ((1.0, 0.1, "heun"), "heun"),
    "length": ((1.0, 0.0), "positive length"),
    "lengths": ((1.0, [0.1, np.nan]), "positive length"),
    "stiff": (
        (80.0, 0.1, "euler"),
        r"rate 80 times the step 0.1 must be below 0.5. Take steps below 0.00625",
    ),
}


@pytest.mark.parametrize(("args", "says"), BAD.values(), ids=BAD)
def test_bad_steps_are_refused(args, says):
    with pytest.raises(ValueError, match=says):
        bank_step([args[0]], *args[1:])
