"""Squares of normals: mean, variance and quantiles of the noncentral chi square distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random
from scipy import stats

from emberwalk.kernels.jump.sqrt_normal import SqrtNormal
from tests.statistics import assert_exact, z_scores

LOC = np.array([[0.0, 0.3], [1.0, 5.0]])
SCALE = np.array([[1.0, 0.5], [0.4, 0.01]])
EXACT = stats.ncx2(1, (LOC / SCALE) ** 2, scale=SCALE**2)
Q = SqrtNormal(jnp.float32(LOC), jnp.float32(SCALE))


def test_jump_sqrt_normal_moments_are_exact():
    npt.assert_allclose(Q.mean, EXACT.mean(), rtol=1e-6)
    npt.assert_allclose(Q.variance, EXACT.var(), rtol=1e-4)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.95, 0.999])
def test_jump_sqrt_normal_quantiles_are_exact(p):
    found = np.asarray(jax.jit(Q.quantile)(p))
    # a rate that is known to a thousandth has few digits for its quantiles
    npt.assert_allclose(EXACT.cdf(found), p, atol=1e-5)
    # planted: the quantile of the normal, squared, where its root may be negative
    naive = np.maximum(LOC + SCALE * stats.norm.ppf(p), 0) ** 2
    if p < 0.5:
        assert abs(EXACT.cdf(naive)[0, 0] - p) > 5e-4


def test_jump_sqrt_normal_probabilities_may_differ_by_rate():
    p = np.array([[0.2, 0.4], [0.6, 0.8]])
    npt.assert_allclose(EXACT.cdf(np.asarray(Q.quantile(p))), p, atol=1e-5)


def test_jump_sqrt_normal_without_spread_is_its_square():
    known = SqrtNormal(jnp.array([0.0, 3.0]), jnp.zeros(2))
    npt.assert_array_equal(known.quantile(0.3), [0, 9])
    npt.assert_array_equal(known.sample(random.key(0), (2,)), [[0, 9]] * 2)


def test_jump_sqrt_normal_draws_are_of_it():
    draws = np.asarray(Q.sample(random.key(0), (20_000,)))
    assert draws.shape == (20_000, 2, 2)
    for i, j in np.ndindex(2, 2):
        assert_exact(z_scores(draws[:, i, j], EXACT.mean()[i, j]))
        median = EXACT.ppf(0.5)[i, j]
        assert_exact(z_scores(draws[:, i, j] < median, 0.5))
