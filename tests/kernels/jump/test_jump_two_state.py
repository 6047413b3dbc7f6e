"""Exact posteriors of two-state processes, by quadrature over both log rates, against `newton` and `laplace`.

P(t) in closed form; log a (0 -> 1), log b (1 -> 0) ~ N(0, 1); stationary start; labels wrong with probability rho
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    forward,
    label_log_emission,
    lag_grid,
    laplace,
    newton,
    rates_from_vector,
    simulate_batch,
    stationary,
    transition_matrices,
)

TIMES2 = np.array([[0, 0.4, 1, 2.5, 3]])
LABELS2 = np.array([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]])
# rho: log evidence, then mean and sd of log a and of log b, and their correlation
STORED = {
    0.0: (-7.664793, (-0.00706, 0.35598), (0.70617, 0.69887), 0.51671),
    0.1: (-7.448889, (-0.10861, 0.33105), (0.77106, 0.77016), 0.39791),
}


def log_likelihood_on_grid(log_a, log_b, times, labels, rho):
    """Of all paths, for arrays of rates, with P in closed form."""
    a, b = np.exp(log_a), np.exp(log_b)
    pi = np.stack([b, a]) / (a + b)
    E = np.array([[1 - rho, rho], [rho, 1 - rho]])
    total = np.zeros(np.shape(a))
    for t, y in zip(np.broadcast_to(times, labels.shape), labels, strict=True):
        alpha = [pi[0] * E[0, y[0]], pi[1] * E[1, y[0]]]
        for lag, label in zip(np.diff(t), y[1:], strict=True):
            decay = np.exp(-(a + b) * lag)
            stay0, stay1 = pi[0] + pi[1] * decay, pi[1] + pi[0] * decay
            alpha = [
                (alpha[0] * stay0 + alpha[1] * (1 - stay1)) * E[0, label],
                (alpha[0] * (1 - stay0) + alpha[1] * stay1) * E[1, label],
            ]
            scale = alpha[0] + alpha[1]
            total += np.log(scale)
            alpha = [x / scale for x in alpha]
    return total


class Exact:
    """Moments by the rectangle rule on a grid, which is exact to many digits for a smooth density."""

    def __init__(self, times, labels, rho, centre=(0.0, 0.0), width=6.0, size=401):
        axes = [np.linspace(c - width, c + width, size) for c in centre]
        x, y = np.meshgrid(*axes, indexing="ij")
        log_joint = log_likelihood_on_grid(x, y, times, labels, rho) - (x**2 + y**2) / 2 - np.log(2 * np.pi)
        largest = log_joint.max()
        w = np.exp(log_joint - largest)
        cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
        self.log_evidence = largest + np.log(w.sum() * cell)
        w /= w.sum()
        self.mean = np.array([(w * x).sum(), (w * y).sum()])
        self.sd = np.sqrt([(w * (x - self.mean[0]) ** 2).sum(), (w * (y - self.mean[1]) ** 2).sum()])
        covariance = (w * (x - self.mean[0]) * (y - self.mean[1])).sum()
        self.correlation = covariance / self.sd.prod()


@cache
def case(name):
    """Times, labels, rho, where to look."""
    if name in STORED:
        return TIMES2, LABELS2, name, (0.0, 0.0), 7.0
    rng_seed, (a, b), rho, dt = {
        "clean": (1, (1.0, 0.5), 0.0, 0.4),
        "five percent": (2, (0.8, 0.6), 0.05, 0.4),
        "fast": (3, (2.0, 1.5), 0.1, 0.4),
        "fastest": (3, (3.0, 2.0), 0.1, 0.4),
    }[name]
    times = dt * np.arange(15)[None]
    q = np.array([[0, a], [b, 0]])
    labels = simulate_batch(rng_seed, q, times[0], 20, label_noise=rho or None)
    return times, labels, rho, (np.log(a), np.log(b)), 3.0


@cache
def exact(name):
    times, labels, rho, centre, width = case(name)
    return Exact(times, labels, rho, centre, width)


def log_density(theta, lags, index, labels, rho):
    """By the kernels; rho may be traced, and 0."""
    q = rates_from_vector(jnp.exp(theta), 2)
    emission = label_log_emission(labels, rho, 2)
    log_likelihood, _ = forward(emission, transition_matrices(q, lags), index, stationary(q))
    return log_likelihood.sum() - jnp.sum(theta**2) / 2


def data_of(name):
    times, labels, rho, *_ = case(name)
    grid = lag_grid(np.broadcast_to(times, labels.shape))
    return jnp.asarray(grid.lags), jnp.asarray(grid.index), jnp.asarray(labels), jnp.asarray(rho, float)


@pytest.mark.parametrize("rho", STORED)
def test_jump_two_state_quadrature_has_the_stored_digits(rho):
    log_evidence, mean, sd, correlation = STORED[rho]
    found = exact(rho)
    assert found.log_evidence == pytest.approx(log_evidence, abs=1e-6)
    npt.assert_allclose(found.mean, mean, atol=1e-5)
    npt.assert_allclose(found.sd, sd, atol=1e-5)
    assert found.correlation == pytest.approx(correlation, abs=1e-5)


@pytest.mark.parametrize("rho", STORED)
def test_jump_two_state_likelihood_of_the_kernels_is_the_closed_form(rho, x64):
    data = data_of(rho)
    for theta in ([0.0, 0.0], [1.3, -0.7], [-2.0, 2.0]):
        closed = log_likelihood_on_grid(*np.array(theta), TIMES2, LABELS2, rho) - np.sum(np.square(theta)) / 2
        assert float(log_density(jnp.asarray(theta), *data)) == pytest.approx(float(closed), rel=1e-12)


LARGER = ["clean", "five percent", "fast", "fastest"]


@jax.jit
def fit_of(theta, *data):
    here = partial(log_density, lags=data[0], index=data[1], labels=data[2], rho=data[3])
    return laplace(here, newton(here, theta, tolerance=1e-4))


@cache
def fitted(name, double):
    """The fit, its means and its standard deviations."""
    with jax.enable_x64(double):
        fit = fit_of(jnp.zeros(2), *data_of(name))
        return fit, np.asarray(fit.mean), np.asarray(fit.sd)


def errors(name, mean, sd):
    """Of the means in sd, and of the sd relatively."""
    known = exact(name)
    return np.abs((np.asarray(mean) - known.mean) / known.sd), np.abs(np.asarray(sd) / known.sd - 1)


CASES = [(name, False) for name in [*STORED, *LARGER]] + [(name, True) for name in STORED]


@pytest.mark.parametrize(("name", "double"), CASES)
def test_jump_two_state_newton_and_laplace_are_near_the_exact_posterior(name, double):
    of_mean, of_sd = errors(name, *fitted(name, double)[1:])
    assert of_mean.max() < 0.1
    assert of_sd.max() < 0.08


def test_jump_two_state_correlation_of_strongly_correlated_rates_is_that_of_the_exact_posterior():
    """Two jumps per lag, a tenth of the labels wrong."""
    known, (fit, *_) = exact("fastest"), fitted("fastest", False)
    assert known.correlation > 0.86
    cov = np.asarray(fit.cov)
    assert cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) == pytest.approx(known.correlation, abs=0.08)


def test_jump_two_state_planted_variance_without_fourth_derivatives_is_caught():
    """Tails that are heavier than those of log-Gamma variables: a seventh of the sd."""
    fit, *_ = fitted("fastest", False)
    data = data_of("fastest")
    here = partial(log_density, lags=data[0], index=data[1], labels=data[2], rho=data[3])
    curved = np.sqrt(np.diag(np.linalg.inv(-np.asarray(jax.jit(jax.hessian(here))(fit.mode), np.float64))))
    narrow = np.asarray(fit.sd) * curved / np.sqrt(np.diag(np.asarray(fit.cov, np.float64)))
    _, of_sd = errors("fastest", fit.mean, narrow)
    assert of_sd.min() > 0.12


def test_jump_two_state_nested_derivatives_give_nearly_the_same():
    fit, *_ = fitted("fast", False)
    data = data_of("fast")
    here = partial(log_density, lags=data[0], index=data[1], labels=data[2], rho=data[3])
    found = jax.jit(lambda t: laplace(here, newton(here, t, tolerance=1e-4), nested=True))(fit.mode)
    npt.assert_allclose(found.sd, fit.sd, rtol=0.01)
    assert (np.abs(found.mean - fit.mean) < 0.01 * fit.sd).all()


def test_jump_two_state_planted_third_derivatives_of_one_rate_alone_are_caught():
    """The others held: the skewness of strongly correlated rates has then the wrong sign."""
    fit, *_ = fitted("fastest", False)
    data = data_of("fastest")
    here = partial(log_density, lags=data[0], index=data[1], labels=data[2], rho=data[3])
    precision = jnp.diagonal(jnp.linalg.inv(fit.cov))
    along = jax.jit(lambda t, e: jax.jvp(lambda t: jnp.diagonal(jax.hessian(here)(t)) @ e, (t,), (e,))[1])
    third = jnp.stack([along(fit.mode, e) for e in jnp.eye(2)])
    s = -precision / third
    alone = fit._replace(skew_scale=s, alpha=s**2 / jnp.diagonal(fit.cov))
    of_mean, _ = errors("fastest", alone.mean, alone.sd)
    assert of_mean.max() > 0.2


def test_jump_two_state_planted_curvature_without_the_prior_is_caught():
    fit, *_ = fitted(0.0, False)
    wide = np.linalg.inv(np.linalg.inv(np.asarray(fit.cov, np.float64)) - np.eye(2))
    assert (np.sqrt(np.diag(wide)) / exact(0.0).sd).min() > 1.2


def test_jump_two_state_planted_sign_of_the_skewness_is_caught():
    fit, *_ = fitted(0.0, False)
    turned = fit._replace(skew_scale=-fit.skew_scale)
    of_mean, _ = errors(0.0, turned.mean, turned.sd)
    assert of_mean.max() > 0.1  # what the right one is below
