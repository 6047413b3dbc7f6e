"""Exact posteriors of two-state processes, by quadrature over both log rates, against `newton` and `laplace`."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import laplace, newton
from tests.kernels.jump.two_state import (
    LABELS2,
    STORED,
    TIMES2,
    data_of,
    exact,
    log_density,
    log_likelihood_on_grid,
)

pytestmark = pytest.mark.xdist_group("jump-two-state")  # what is fitted once serves all


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
