"""Averaged over the sweeps of a chain, the PaRIS statistic forgets the bias that it has in the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc import additive, conditional_sweep, unconditional_sweep
from emberwalk.models import linear_gaussian_ssm
from tests.smc_data import linear_gaussian_data
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

EXACT = 2179.1149  # E sum_t x_t x_{t-1}, by a Kalman smoother
SERIES = linear_gaussian_data(500)


def statistics_by_sweep(num_particles: int, num_sweeps: int, count: int = 100) -> np.ndarray:
    """PaRIS statistic and functional of the path, shape (count, num_sweeps, 2); the first sweep has no reference."""
    ssm = linear_gaussian_ssm(jnp.asarray(SERIES, jnp.float32), phi=0.9, sx=1.0)
    options = {"functional": additive(lambda previous, current, t: previous * current), "paris": "imh"}

    def replica(key):
        key_first, key_rest = random.split(key)
        first = unconditional_sweep(key_first, ssm, num_particles, **options)

        def step(path, key):
            sweep = conditional_sweep(key, ssm, path, num_particles, **options)
            return sweep.path, jnp.stack([sweep.statistic, sweep.path_statistic])

        _, rest = jax.lax.scan(step, first.path, random.split(key_rest, num_sweeps - 1))
        return jnp.concatenate([jnp.stack([first.statistic, first.path_statistic])[None], rest])

    return replicas(replica, random.key(num_particles), count)


@pytest.mark.nightly
def test_smc_roll_out_of_few_particles_is_unbiased_once_the_first_sweeps_are_left_out():
    statistic = statistics_by_sweep(25, 13)[:, :, 0]
    assert_exact(z_scores(statistic[:, 6:].mean(1), EXACT))
    assert_caught(z_scores(statistic[:, 0], EXACT))  # PaRIS without a reference


@pytest.mark.nightly
def test_smc_roll_out_varies_less_than_the_mean_of_the_paths():
    by_sweep = statistics_by_sweep(100, 9)
    assert_exact(z_scores(by_sweep[:, 8, 0], EXACT))
    statistic_rmse, path_rmse = np.sqrt(((by_sweep[:, 5:].mean(1) - EXACT) ** 2).mean(0))
    assert statistic_rmse <= 24
    assert statistic_rmse < path_rmse / 1.5
