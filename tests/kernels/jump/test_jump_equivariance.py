"""Nothing depends on the names of states, on the unit of time, or on how paths are ordered and split."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    RatePrior,
    Slab,
    lag_grid,
    merge,
    path_statistics,
    refine_counts,
    refine_labels,
    simulate_batch,
)
from tests.kernels.jump.processes import random_rates

Q = random_rates(np.random.default_rng(2), 4)
Q[0, 3] = Q[3, 0] = 0.0
TIMES = np.linspace(0, 6, 40)
LABELS = simulate_batch(3, Q, TIMES, 25)
NOISY = simulate_batch(3, Q, TIMES, 12, label_noise=0.05)
ORDER = np.array([2, 0, 3, 1])  # the new name of each state


def clean(times=TIMES, labels=LABELS, prior=RatePrior()):  # noqa: B008
    return refine_counts(path_statistics(times, labels, num_states=4), prior)


def noisy(times=TIMES, labels=NOISY):
    return refine_labels(labels, lag_grid(times), path_statistics(times, labels, num_states=4, exact=False))


REFINE = {"clean": (clean, LABELS), "noisy": (noisy, NOISY)}


def renamed(matrix):
    """Rows and columns under the new names."""
    back = np.argsort(ORDER)
    return np.asarray(matrix)[np.ix_(back, back)]


@pytest.fixture(scope="module", params=REFINE)
def refined(request):
    refine, labels = REFINE[request.param]
    with jax.enable_x64(True):
        return refine, labels, refine(TIMES, labels)


def test_jump_equivariance_under_new_names(refined, x64):
    refine, labels, plain = refined
    found = refine(TIMES, ORDER[labels])
    npt.assert_allclose(found.mean, renamed(plain.mean), rtol=1e-5, atol=1e-7)
    npt.assert_allclose(found.presence.probability, renamed(plain.presence.probability), rtol=1e-5, atol=1e-7)
    assert float(found.log_evidence) == pytest.approx(float(plain.log_evidence), rel=1e-5)
    assert float(found.label_noise) == pytest.approx(float(plain.label_noise), rel=1e-5)
    npt.assert_allclose(found.initial, np.asarray(plain.initial)[np.argsort(ORDER)], rtol=1e-5)


def test_jump_equivariance_under_another_unit_of_time(refined, x64):
    refine, labels, plain = refined
    found = refine(1000 * TIMES, labels)
    npt.assert_allclose(1000 * found.mean, plain.mean, rtol=1e-5, atol=1e-7)
    npt.assert_allclose(found.presence.probability, plain.presence.probability, rtol=1e-5, atol=1e-9)
    npt.assert_allclose(found.log_rates.cov, plain.log_rates.cov, rtol=1e-5, atol=1e-9)
    assert float(found.presence.reciprocal) == pytest.approx(float(plain.presence.reciprocal), rel=1e-5)


def test_jump_equivariance_in_float32_where_nothing_is_iterated_to_the_last_digit():
    plain, named, slow = clean(), clean(labels=ORDER[LABELS]), clean(times=1000 * TIMES)
    npt.assert_allclose(named.mean, renamed(plain.mean), rtol=1e-4, atol=1e-5)
    npt.assert_allclose(1000 * slow.mean, plain.mean, rtol=1e-4, atol=1e-5)


class AbsolutePrior(RatePrior):
    """Planted: a scale in absolute units."""

    def slab(self, change_rate, num_states):
        return Slab(self.shape, jnp.asarray(2.0), jnp.asarray(1e-3))


def test_jump_equivariance_planted_absolute_scale_is_caught(x64):
    prior = AbsolutePrior()
    plain, slow = clean(prior=prior), clean(times=1000 * TIMES, prior=prior)
    assert np.abs(1000 * np.asarray(slow.mean) / np.asarray(plain.mean + np.eye(4)) - 1).max() > 1e-2


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
