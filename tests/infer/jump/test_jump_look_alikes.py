"""Processes like published ones, simulated: an ion channel, alanine dipeptide. Heavy: `nightly`."""

import numpy as np
import pytest

from emberwalk.infer import zero_shot
from emberwalk.kernels.jump import simulate_batch, stationary
from tests.kernels.jump.processes import ALANINE, ION_CHANNEL

LINKS3, LINKS6 = ~np.eye(3, dtype=bool), ~np.eye(6, dtype=bool)


def found(seed, q, dt, num_paths, length):
    times = dt * np.arange(length)
    return zero_shot(times, simulate_batch(seed, q, times, num_paths), label_noise=0.0)


@pytest.mark.nightly
def test_jump_ion_channel_is_found():
    """20 paths of a second at 5 kHz; one second holds 20 jumps, so that one path leaves errors of a half."""
    post = found(0, ION_CHANNEL, 1 / 5000, 20, 5000)
    rates = np.asarray(post.mean, np.float64)
    relative = np.sqrt(np.mean(((rates - ION_CHANNEL)[LINKS3] / ION_CHANNEL[LINKS3]) ** 2))
    assert relative <= 0.12
    assert np.abs(post.stationary().mean - np.asarray(stationary(ION_CHANNEL))).max() <= 0.03


def log_error(rates, often):
    """Median over the links, mean over the draws of paths."""
    rates = [np.asarray(one, np.float64)[often] for one in rates]
    return np.mean([np.median(np.abs(np.log(one / ALANINE[often]))) for one in rates])


@pytest.mark.nightly
@pytest.mark.parametrize(("dt", "bar"), [(0.002, 0.05), (0.02, 0.11)])
def test_jump_alanine_is_found_where_it_jumped(dt, bar):
    """Rates from .01 to 53, those with more than 10 expected jumps, after Newton: the mode with all links there.

    At dt = .02 three jumps are made in two lags, and a link of a rate below 1 can hardly be told from none under a
    prior whose links are all of a kind: the posterior mean drops some of them.
    """
    jumps = 100 * 999 * dt * np.asarray(stationary(ALANINE))[:, None] * ALANINE
    often = LINKS6 & (jumps > 10)
    posteriors = [found(seed, ALANINE, dt, 100, 1000) for seed in range(3)]
    assert all(np.isfinite(np.asarray(post.mean)).all() for post in posteriors)
    error = log_error([post.mode for post in posteriors], often)
    assert error <= bar, f"{error:.3f}"
    if dt < 0.01:
        error = log_error([post.mean for post in posteriors], often)
        assert error <= bar, f"{error:.3f}"
