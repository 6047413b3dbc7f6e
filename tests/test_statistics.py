"""The z-scores themselves: right values pass, and what must not pass does not."""

import jax
import numpy as np
import pytest

from tests.statistics import assert_caught, assert_exact, moments, replicas, z_scores


def test_z_of_independent_normals_is_standard_normal():
    values = np.random.default_rng(0).normal(1.0, 3.0, size=(400, 2_000))
    z = z_scores(values, 1.0)
    assert abs(z.mean()) < 4.5 / np.sqrt(2_000)
    assert abs((z**2).mean() - 1) < 4.5 * np.sqrt(2 / 2_000)
    assert_exact(z)


@pytest.mark.parametrize(
    "values", [[1.0, np.nan, 2.0], [2.0, 2.0, 2.0]], ids=["nan", "stuck at a wrong value"]
)
def test_planted_values_do_not_pass(values):
    with pytest.raises(AssertionError):
        assert_exact(z_scores(values, 1.0))


def test_right_kernel_is_not_caught_and_neither_is_nan():
    for z in (np.array([0.3, -7.9]), np.array([np.nan, 1.0])):
        with pytest.raises(AssertionError):
            assert_caught(z)


def test_constant_that_is_right_passes():
    assert_exact(z_scores([2.0, 2.0, 2.0], 2.0))


def test_replicas_are_float64_and_as_many_as_keys():
    values = replicas(lambda key, shift: jax.random.normal(key, (2,)) + shift, jax.random.key(0), 10_000, 5.0)
    assert values.shape == (10_000, 2)
    assert values.dtype == np.float64
    assert_exact(z_scores(values, 5.0))


def test_moments_are_all_first_and_second_ones():
    np.testing.assert_array_equal(moments(jax.numpy.array([2.0, 3.0])), [2, 3, 4, 6, 9])
