"""Counts do not depend on how paths are ordered and split; rates: `tests/infer/jump/test_jump_equivariance.py`."""

import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import merge, path_statistics, simulate_batch
from tests.kernels.jump.processes import random_rates

TIMES = np.linspace(0, 6, 40)
LABELS = simulate_batch(3, random_rates(np.random.default_rng(2), 4), TIMES, 25)

FIELDS = ("counts", "first", "visits", "num_paths", "num_labels")


@pytest.mark.parametrize("bins", [None, np.geomspace(0.01, 10, 13)], ids=["lags", "bins"])
def test_jump_equivariance_of_counts_under_order_and_parts(bins):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.1, 0.3, 2.0], LABELS.shape), 1)
    whole = path_statistics(times, LABELS, num_states=4, lag_bins=bins)
    order = rng.permutation(len(LABELS))
    shuffled = path_statistics(times[order], LABELS[order], num_states=4, lag_bins=bins)
    parts = [
        path_statistics(times[part], LABELS[part], num_states=4, lag_bins=bins)
        for part in (slice(0, 7), slice(7, 8), slice(8, 25))
    ]
    merged = merge(merge(parts[0], parts[1]), parts[2])
    for stats in (shuffled, merged, merge(parts[2], merge(parts[1], parts[0]))):
        for field in FIELDS:
            npt.assert_array_equal(getattr(stats, field), getattr(whole, field))
        npt.assert_allclose(stats.lags, whole.lags, rtol=1e-12)
        assert float(stats.total_time) == pytest.approx(float(whole.total_time), rel=1e-12)
