"""Processes like published ones, simulated: an ion channel, alanine dipeptide. Heavy: `nightly`."""

import numpy as np
import pytest

from emberwalk.kernels.jump import path_statistics, refine_counts, simulate_batch, stationary
from tests.kernels.jump.processes import ALANINE, ION_CHANNEL

LINKS3, LINKS6 = ~np.eye(3, dtype=bool), ~np.eye(6, dtype=bool)


def refined(seed, q, dt, num_paths, length):
    times = dt * np.arange(length)
    return refine_counts(path_statistics(times, simulate_batch(seed, q, times, num_paths)))


@pytest.mark.nightly
def test_jump_ion_channel_is_found():
    """20 paths of a second at 5 kHz; one second holds 20 jumps, so that one path leaves errors of a half."""
    found = np.asarray(refined(0, ION_CHANNEL, 1 / 5000, 20, 5000).mean, np.float64)
    relative = np.sqrt(np.mean(((found - ION_CHANNEL)[LINKS3] / ION_CHANNEL[LINKS3]) ** 2))
    assert relative <= 0.12
    assert np.abs(np.asarray(stationary(found)) - np.asarray(stationary(ION_CHANNEL))).max() <= 0.03


@pytest.mark.nightly
@pytest.mark.parametrize(("dt", "bar"), [(0.002, 0.05), (0.02, 0.11)])
def test_jump_alanine_is_found_where_it_jumped(dt, bar):
    """Rates from 0.01 to 53: the median error in log over those with more than 10 expected jumps, over three draws.

    At the mode with all links there: at dt = .02 most links of a rate below 1 cannot be told from none, and the
    posterior mean, which weighs each by its presence, drops them.
    """
    jumps = 100 * 999 * dt * np.asarray(stationary(ALANINE))[:, None] * ALANINE
    often, errors = LINKS6 & (jumps > 10), []
    for seed in range(3):
        found = refined(seed, ALANINE, dt, 100, 1000)
        assert np.isfinite(np.asarray(found.mean)).all()
        rates = np.asarray(found.fit.parameters.rates, np.float64)[often]
        errors.append(np.median(np.abs(np.log(rates / ALANINE[often]))))
    assert np.mean(errors) <= bar, np.round(errors, 3)
