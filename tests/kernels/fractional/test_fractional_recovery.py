"""H from 256 increments of exact noise of unknown scale: the maximum of the bank's likelihood, and of the exact one."""

from functools import cache

import numpy as np
import pytest
from scipy import linalg

from emberwalk.kernels.fractional import fractional_coefficients, increment_autocovariance, weights
from emberwalk.kernels.fractional.kl_criterion import fractional_noise
from tests.kernels.fractional.bridges import HURSTS

N = 256
GRID = np.linspace(0.02, 0.98, 97)


@cache
def whitening(family):
    """For each H of the grid the inverse Cholesky factor of the increments' covariance."""
    return [linalg.inv(linalg.cholesky(linalg.toeplitz(r), lower=True)) for r in autocovariances(family)]


def autocovariances(family):
    if family == "exact":
        return [fractional_noise(H, N, 1 / N) for H in GRID]
    num_modes, criterion = family
    coef = fractional_coefficients(1.0, N, num_modes=num_modes, criterion=criterion)
    return [increment_autocovariance(coef.rates, np.asarray(weights(coef, H)), N, 1 / N) for H in GRID]


def maxima(family, paths):
    """H of each path `[N, R]`; the scale is its own maximum, and the top of a parabola is between the grid's points."""
    profile = np.array(
        [np.log(np.diag(W)).sum() - N / 2 * np.log(((W @ paths) ** 2).mean(0)) for W in whitening(family)]
    )
    top = np.clip(profile.argmax(0), 1, len(GRID) - 2)
    left, centre, right = (profile[top + i, np.arange(paths.shape[1])] for i in (-1, 0, 1))
    ahead = np.clip((left - right) / (2 * (left - 2 * centre + right)), -1, 1)
    return GRID[top] + ahead * (GRID[1] - GRID[0])


def rmse_and_bounds(family, hurst, num_paths=60):
    """Errors of the bank's and of the exact maxima, and how many of the bank's lie at the end of the grid."""
    noise = np.random.default_rng(int(100 * hurst)).normal(size=(N, num_paths))
    paths = linalg.cholesky(linalg.toeplitz(fractional_noise(hurst, N, 1 / N)), lower=True) @ noise
    bank, exact = maxima(family, paths), maxima("exact", paths)
    at_bound = (np.abs(bank - 0.5) > 0.475).sum()
    return *(np.sqrt(((found - hurst) ** 2).mean()) for found in (bank, exact)), at_bound


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize("num_modes", [8, 5])
def test_hurst_is_recovered_as_by_exact_noise(hurst, num_modes):
    bank, exact, at_bound = rmse_and_bounds((num_modes, "kl"), hurst)
    assert bank <= 1.25 * exact
    assert not at_bound


@pytest.mark.filterwarnings("ignore:8 modes are")
def test_planted_path_weights_lose_hurst():
    bank, exact, at_bound = rmse_and_bounds((8, "path"), 0.1)
    assert bank > 1.25 * exact or at_bound
