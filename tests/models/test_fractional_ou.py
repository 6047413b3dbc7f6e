"""The fractional Ornstein-Uhlenbeck process dx = -2 x dt + dB, x(0) = 0: the bank against exact noise."""

from functools import cache

import jax
import numpy as np
import pytest

from emberwalk.models import fractional_sde
from tests.models.fractional_laws import as_function, gaussian_kl, linear_law

N, THETA, SD = 200, 2.0, 0.1
TS = np.linspace(0.0, 1.0, N + 1)
ENDS = {0.1: 0.4125, 0.3: 0.3025, 0.5: 0.2467, 0.7: 0.2148, 0.9: 0.1948}
EVERY = {"10 observations": 20, "200 observations": 1}
LARGEST_KL = {"10 observations": 1e-3, "200 observations": 0.01}


def model(hurst):
    return fractional_sde("x", lambda t, x: -THETA * x, lambda t, x: 1.0, TS, hurst)


@cache
def covariances():
    """Of x at the times 1 to N, by the bank and by exact noise."""
    value, size = as_function(model, 0.3)
    images = jax.jit(lambda H: jax.jacfwd(lambda flat: value(flat, H))(np.zeros(size)))
    found = {}
    for H in ENDS:
        root = np.asarray(images(H))[1:]
        found[H] = root @ root.T, linear_law(TS, range(1, N + 1), THETA, 0.0, 1.0, (H,), 0.0)[1]
    return found


@pytest.mark.parametrize("hurst", ENDS)
def test_variance_at_the_end_is_as_computed_elsewhere(hurst, x64):
    bank, exact = covariances()[hurst]
    assert exact[-1, -1] == pytest.approx(ENDS[hurst], abs=6e-5)
    assert bank[-1, -1] == pytest.approx(ENDS[hurst], rel=5e-3)


@pytest.mark.parametrize("observed", EVERY)
@pytest.mark.parametrize("hurst", ENDS)
def test_what_is_seen_has_nearly_the_law_of_exact_noise(hurst, observed, x64):
    at = np.arange(EVERY[observed] - 1, N, EVERY[observed])
    bank, exact = (C[np.ix_(at, at)] + SD**2 * np.eye(len(at)) for C in covariances()[hurst])
    zero = np.zeros(len(at))
    assert gaussian_kl(zero, bank, zero, exact) <= LARGEST_KL[observed]


@pytest.mark.parametrize("hurst", ENDS)
def test_posterior_is_that_of_exact_noise(hurst, x64):
    bank, exact = covariances()[hurst]
    rng = np.random.default_rng(0)
    at = np.arange(19, N, 20)
    y = np.linalg.cholesky(exact)[at] @ rng.normal(size=N) + SD * rng.normal(size=len(at))

    def posterior(C):
        gain = np.linalg.solve(C[np.ix_(at, at)] + SD**2 * np.eye(len(at)), C[at]).T
        return gain @ y, np.sqrt(np.diag(C - gain @ C[at]))

    (mean, sd), (exact_mean, exact_sd) = posterior(bank), posterior(exact)
    assert (np.abs(mean - exact_mean) / exact_sd).max() < 0.05
    assert np.abs(sd / exact_sd - 1).max() < 0.01


def test_planted_sign_of_the_drift(x64):
    """A path that runs away."""
    wrong = linear_law(TS, [N], -THETA, 0.0, 1.0, (0.3,), 0.0)[1]
    assert wrong[0, 0] > 10 * ENDS[0.3]
