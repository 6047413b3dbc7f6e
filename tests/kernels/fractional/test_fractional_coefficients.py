"""Coefficients of the bank: the path system by quadrature, the law of the increments, and the spline in H."""

import hashlib
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from emberwalk.kernels.fractional import (
    fractional_coefficients,
    increment_autocovariance,
    kl_per_increment,
    path_system,
    tables,
    weights,
)
from emberwalk.kernels.fractional.kl_criterion import fractional_noise
from emberwalk.kernels.fractional.path_criterion import path_weights

HURSTS = (0.1, 0.3, 0.5, 0.7, 0.9)
KNOTS = tables.KNOTS
MIDPOINTS = KNOTS[:-1] + 0.005
RANDOM = np.random.default_rng(0).uniform(0.02, 0.98, 50)
PAPER_GRID = np.geomspace(1 / 20, 20, 5)


@cache
def coefficients(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fractional_coefficients(**options)


def kl_at(coef, hurst, num_steps, w=None):
    """KL per increment over the whole horizon, in the user's time."""
    if w is None:
        with jax.enable_x64(True):
            w = np.asarray(weights(coef, np.float64(hurst)))
    return kl_per_increment(coef.rates, w, hurst, num_steps, coef.horizon / num_steps)


def kls(coef, hursts, num_steps):
    return np.array([kl_at(coef, H, num_steps) for H in hursts])


# The path system


def quad(fn, low, high, **options):
    return integrate.quad(fn, low, high, epsabs=0, epsrel=1e-11, limit=200, **options)[0]


def covariance_of_modes(t, g, h, kind):
    """E Y_g(t) Y_h(t) by its integral over the noise; kind I: of Y(t) - Y(0)."""
    since = quad(lambda s: np.exp(-(g + h) * (t - s)), 0, t)
    if kind == "II":
        return since
    before = quad(lambda s: np.exp((g + h) * s) * np.expm1(-g * t) * np.expm1(-h * t), -np.inf, 0)
    return since + before


def covariance_with_path(t, g, a, kind):
    """E Y_g(t) B(t); v^(a-1) dv = dx / a for x = v^a takes the singularity out."""
    since = quad(lambda u: np.exp(-g * u), 0, t, weight="alg", wvar=(a - 1, 0))
    if kind == "I":
        reached = quad(lambda v: (t + v) ** (a - 1) * np.exp(-g * v), 0, np.inf)
        left = quad(lambda x: np.exp(-g * x ** (1 / a)) / a, 0, np.inf)
        since += np.expm1(-g * t) * (reached - left)
    return since / special.gamma(a)


def variance_of_path(a, kind):
    """E B(1)^2; v^(2a-2) dv = dx / (2a-1) for x = v^(2a-1), and v = 1 / u far off."""
    since, power = 1 / (2 * a - 1), 1 / (2 * a - 1)
    if kind == "I":
        since += quad(lambda x: ((1 + x**-power) ** (a - 1) - 1) ** 2 * power if x else power, 0, 1)
        since += quad(lambda u: ((1 + u) ** (a - 1) - 1) ** 2 * u ** (-2 * a), 0, 1)
    return since / special.gamma(a) ** 2


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_path_system_is_that_of_quadrature(kind, hurst):
    T, a = 2.0, hurst + 0.5
    A, b, c = path_system(PAPER_GRID, hurst, T, kind)
    for i, g in enumerate(PAPER_GRID):
        with_path = quad(lambda t, g=g: covariance_with_path(t, g, a, kind), 0, T)
        assert b[i] == pytest.approx(with_path, rel=1e-9)
        for j, h in enumerate(PAPER_GRID[: i + 1]):
            among = quad(lambda t, g=g, h=h: covariance_of_modes(t, g, h, kind), 0, T)
            assert A[i, j] == pytest.approx(among, rel=1e-9)
            assert A[j, i] == A[i, j]
    assert c == pytest.approx(variance_of_path(a, kind) * T ** (2 * hurst + 1) / (2 * hurst + 1), rel=1e-9)


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("num_modes", [5, 8, 20])
def test_path_weights_reach_the_least_error(kind, num_modes):
    """No direction downhill is left, however badly A is conditioned, and the error is no less than 0."""
    rates = np.geomspace(0.01, 1e4, num_modes)
    A, b, c = path_system(rates, 0.3, 1.0, kind)
    w = path_weights(rates, 0.3, 1.0, kind, normalise=False) * np.sqrt(2 * rates)
    error = w @ A @ w - 2 * b @ w + c
    assert -1e-12 < error < 1e-2 * c
    assert np.abs((A @ w - b) / np.sqrt(np.diag(A))).max() < 1e-6


# The law of the increments

PAPER_KL = {0.1: 2.484, 0.3: 0.172, 0.5: 0.0000, 0.7: 0.045, 0.9: 0.080}
REQUIRED = {0.1: 0.04, 0.3: 0.001, 0.5: 0.001, 0.7: 0.005, 0.9: 0.05}


@pytest.mark.parametrize("hurst", HURSTS)
def test_the_paper_s_coefficients_are_as_far_off_as_published(hurst):
    coef = coefficients(horizon=1.0, num_steps=200, num_modes=5, criterion="path", grid="paper")
    assert kl_at(coef, hurst, 200) == pytest.approx(PAPER_KL[hurst], abs=0.002)


@pytest.mark.parametrize("criterion", ["kl", "path"])
@pytest.mark.parametrize("hurst", HURSTS)
def test_both_criteria_meet_the_fidelity_on_the_wide_grid(criterion, hurst):
    coef = coefficients(horizon=1.0, num_steps=200, criterion=criterion)
    assert kl_at(coef, hurst, 200) <= REQUIRED[hurst]


@pytest.mark.parametrize("where", [KNOTS, MIDPOINTS, RANDOM], ids=["knots", "midpoints", "random"])
def test_the_default_is_fractional_noise_at_every_hurst(where):
    assert kls(coefficients(horizon=1.0, num_steps=200), where, 200).max() <= 2e-4


@pytest.mark.parametrize("where", [KNOTS, MIDPOINTS, RANDOM], ids=["knots", "midpoints", "random"])
def test_the_default_is_fractional_noise_on_another_horizon(where):
    assert kls(coefficients(horizon=2.5, num_steps=64), where, 64).max() <= 2e-4


@pytest.mark.nightly
@pytest.mark.parametrize(("num_steps", "bound"), [(1000, 5e-4), (1100, 2e-3), (4096, 2e-3)])
def test_long_tables_are_fractional_noise(num_steps, bound):
    coef = coefficients(horizon=1.0, num_steps=num_steps)
    assert kls(coef, RANDOM[:10], num_steps).max() <= bound


def test_variance_of_the_path_at_the_horizon_is_one():
    coef, lag = coefficients(horizon=1.0, num_steps=200), np.arange(1, 200)
    for hurst in np.linspace(0.05, 0.9, 18):
        r = increment_autocovariance(coef.rates, np.asarray(weights(coef, hurst)), 200, 1 / 200)
        assert 0.97 < 200 * r[0] + 2 * (200 - lag) @ r[1:] < 1.03


def test_kl_is_that_of_dense_gaussians():
    coef, N, hurst = coefficients(horizon=1.0, num_steps=64), 40, 0.8
    w = np.asarray(weights(coef, hurst)) * 1.1
    r, R = increment_autocovariance(coef.rates, w, N, 1 / N), fractional_noise(hurst, N, 1 / N)
    lags = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    ratio = np.linalg.solve(r[lags], R[lags])
    exact = (np.trace(ratio) - N - np.linalg.slogdet(ratio)[1]) / (2 * N)
    assert kl_per_increment(coef.rates, w, hurst, N, 1 / N) == pytest.approx(exact, rel=1e-8)


def test_increments_have_the_covariance_of_the_bank():
    """From the stationary law and exact decay alone."""
    rates, w, dt = np.array([0.3, 5.0, 80.0]), np.array([1.0, -0.5, 2.0]), 0.1
    S = 2 * np.sqrt(np.outer(rates, rates)) / (rates[:, None] + rates)
    at = [np.exp(-rates * dt * n) * S for n in range(5)]  # E y(s) y(s + n D)'
    exact = [w @ (2 * at[0] - at[1] - at[1].T) @ w]
    exact += [w @ (2 * at[n] - at[n - 1] - at[n + 1]) @ w for n in (1, 2, 3)]
    np.testing.assert_allclose(increment_autocovariance(rates, w, 4, dt), exact, rtol=1e-12)


def independent_modes(rates, w, num_steps, dt):
    """Planted: each mode with a W of its own."""
    return sum(increment_autocovariance(rates[k : k + 1], w[k : k + 1], num_steps, dt) for k in range(len(w)))


@pytest.mark.parametrize("hurst", [0.1, 0.9])
def test_planted_independent_noises_have_another_law(hurst):
    coef = coefficients(horizon=1.0, num_steps=64)
    w = np.asarray(weights(coef, hurst))
    r, R = independent_modes(coef.rates, w, 64, 1 / 64), fractional_noise(hurst, 64, 1 / 64)
    assert np.abs(r / R - 1).max() > 0.1


def test_planted_published_variance():
    """Invisible at H = .5 and .7: the published variance is 1 and .995 there."""
    coef = coefficients(horizon=1.0, num_steps=64, criterion="path", normalise=False)
    assert kl_at(coef, 0.1, 64) > 0.2
    assert kl_at(coef, 0.9, 64) > 0.05
    assert kl_at(coef, 0.5, 64) < 1e-3


def test_planted_forgotten_horizon():
    coef = coefficients(horizon=2.5, num_steps=64)
    forgotten = np.asarray(weights(coef, 0.3)) * 2.5**-0.3
    assert kl_at(coef, 0.3, 64, forgotten) > 0.05


def test_planted_spline_off_by_one_knot():
    coef = coefficients(horizon=1.0, num_steps=64)
    assert kl_at(coef, 0.305, 64, np.asarray(weights(coef, 0.315))) > 1e-3


# The spline in H


@pytest.mark.parametrize("num_modes", [5, 8])
def test_gradient_in_hurst_in_float32(num_modes):
    """Against central differences of float64, in units of the largest weight's."""
    coef = coefficients(horizon=2.5, num_steps=200, num_modes=num_modes)
    hursts = np.random.default_rng(1).uniform(0.03, 0.97, 200)
    slopes = jax.vmap(jax.jacfwd(lambda H: weights(coef, H)))(jnp.asarray(hursts, jnp.float32))
    assert slopes.dtype == jnp.float32
    assert jnp.isfinite(slopes).all()
    with jax.enable_x64(True):
        at = np.float64(np.float32(hursts))
        exact = np.asarray(weights(coef, at + 1e-5) - weights(coef, at - 1e-5)) / 2e-5
    assert np.abs(slopes - exact).max() < 1e-3 * np.abs(exact).max(1).min()
    np.testing.assert_allclose(slopes, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())


def test_weights_at_the_knots_are_those_of_the_table(x64):
    coef = coefficients(horizon=2.5, num_steps=64)
    table = tables.load_table(8, 64)
    np.testing.assert_allclose(
        weights(coef, KNOTS), 2.5 ** KNOTS[:, None] * table.weights, rtol=1e-9, atol=1e-12
    )


def test_weights_outside_the_table_are_those_at_its_ends():
    coef = coefficients(horizon=1.0, num_steps=64)
    np.testing.assert_array_equal(
        weights(coef, jnp.array([0.001, 1.2])), weights(coef, jnp.array([0.02, 0.98]))
    )


def test_coefficients_pass_through_jit():
    coef = coefficients(horizon=1.0, num_steps=64)
    jitted = jax.jit(lambda coef, hurst: weights(coef, hurst))(coef, jnp.array([0.2, 0.6]))
    np.testing.assert_allclose(jitted, weights(coef, jnp.array([0.2, 0.6])), rtol=1e-5)


# The tables that ship


def test_the_smallest_table_is_what_its_script_makes():
    shipped = tables.load_table(8, 64)
    made = tables.make_table(tables.wide_grid(8, 64), 64)
    np.testing.assert_allclose(made.weights, shipped.weights, atol=1e-6)
    np.testing.assert_allclose(made.kl, shipped.kl, atol=1e-8)


@pytest.mark.parametrize("num_steps", [1, 64, 65, 4096])
def test_the_table_is_the_smallest_that_serves(num_steps):
    design = coefficients(horizon=1.0, num_steps=num_steps).design_steps
    assert design == min(N for N in (64, 256, 1024, 4096) if num_steps <= N)


def test_a_changed_file_of_tables_is_refused(monkeypatch):
    monkeypatch.setattr(tables, "_SHA256", hashlib.sha256(b"").hexdigest())
    with pytest.raises(ValueError, match=r"tables\.npz has SHA-256 .* Install emberwalk anew"):
        tables.load_table(8, 64)


def test_tables_of_another_shape_are_refused(monkeypatch):
    monkeypatch.setattr(tables, "SHIPPED_MODES", (5,))
    with pytest.raises(ValueError, match=r"tables\.npz holds .* but .* is needed"):
        tables.load_table(5, 64)


# Bad input

OK = {"horizon": 1.0, "num_steps": 10}
BAD = {
    "horizon": ({"horizon": 0.0}, "horizon must be a positive time"),
    "no steps": ({"num_steps": 0}, "at least 1"),
    "too many steps": (
        {"num_steps": 5000},
        r"at most 4096, got 5000: the smallest gap, 0\.0002, .* Merge times",
    ),
    "kind": ({"kind": "III"}, "III"),
    "criterion": ({"criterion": "mse"}, "mse"),
    "kind II by kl": ({"kind": "II"}, 'take criterion="path"'),
    "raw kl": ({"normalise": False}, "normalise=False is for"),
    "grid": ({"grid": "narrow"}, "narrow"),
    "rates": ({"grid": (1.0, -2.0)}, "positive rates"),
    "no modes": ({"num_modes": 0}, "num_modes must be at least 1"),
}


@pytest.mark.parametrize(("options", "says"), BAD.values(), ids=BAD)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        fractional_coefficients(**(OK | options))


def test_few_modes_warn():
    with pytest.warns(UserWarning, match=r"3 modes are .* nats per increment .* num_modes=8"):
        fractional_coefficients(horizon=1.0, num_steps=64, num_modes=3, criterion="path")


def test_kind_two_is_solved_by_its_path():
    coef = coefficients(horizon=1.0, num_steps=64, kind="II", criterion="path")
    assert np.isnan(coef.kl).all()
    assert np.isfinite(weights(coef, 0.3)).all()
