"""Counts: integers that add, the same on the host and traced, and all that the likelihood of right labels needs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    change_rate,
    coarsen,
    count_log_likelihood,
    counts_likelihood,
    dwell_times,
    forward,
    generator,
    label_log_emission,
    lag_grid,
    merge,
    pack_paths,
    path_statistics,
    simulate_batch,
    transition_matrices,
)
from tests.kernels.jump.processes import random_rates

RNG = np.random.default_rng(11)
Q = random_rates(RNG, 3)
TIMES = np.cumsum(RNG.choice([0.25, 0.5, 1.0], (6, 9)), 1)
LABELS = RNG.integers(0, 3, (6, 9))
MASK = RNG.random((6, 9)) < 0.7
MASK[4] = False
FIELDS = ("counts", "first", "visits", "num_paths", "num_labels", "total_time")


def one_by_one(times, labels, mask):
    """Every pair in a loop: (lag, before, after) -> how often."""
    found, span = {}, 0.0
    for t, y, seen in zip(times, labels, mask, strict=True):
        points = np.flatnonzero(seen)
        for a, b in itertools.pairwise(points):
            key = (round(t[b] - t[a], 9), int(y[a]), int(y[b]))
            found[key] = found.get(key, 0) + 1
        span += t[points[-1]] - t[points[0]] if len(points) else 0.0
    return found, span


def test_jump_counts_are_those_of_a_loop():
    stats = path_statistics(TIMES, np.where(MASK, LABELS, -7), MASK, 3)
    exact, span = one_by_one(TIMES, LABELS, MASK)
    where = np.argwhere(stats.counts)
    found = {
        (round(float(stats.lags[u]), 9), int(i), int(j)): int(stats.counts[u, i, j]) for u, i, j in where
    }
    assert found == exact
    assert float(stats.total_time) == pytest.approx(span)
    assert int(stats.num_paths) == 5
    assert int(stats.num_labels) == MASK.sum() == stats.visits.sum()
    first = [y[m][0] for y, m in zip(LABELS, MASK, strict=True) if m.any()]
    npt.assert_array_equal(stats.first, np.bincount(first, minlength=3))
    assert stats.counts.dtype.kind == "i"


def test_jump_traced_counts_are_those_of_the_host():
    grid = lag_grid(TIMES, MASK)
    host = path_statistics(TIMES, LABELS, MASK, 3, grid=grid)
    counted = jax.jit(lambda t, y, m, g: path_statistics(t, y, m, 3, grid=g))
    traced = counted(jnp.float32(TIMES), LABELS, MASK, grid)
    for field in FIELDS:
        npt.assert_allclose(getattr(traced, field), getattr(host, field), rtol=1e-6)
    plain = path_statistics(TIMES, LABELS, MASK, 3)
    used = host.counts.sum((1, 2)) > 0
    npt.assert_allclose(host.lags[used], plain.lags)
    npt.assert_array_equal(host.counts[used], plain.counts)


def test_jump_repeated_times_are_no_pairs():
    times = np.array([[0.0, 1.0, 1.0, 2.0]])
    stats = path_statistics(times, np.array([[0, 1, 1, 0]]))
    assert stats.lags.tolist() == [1.0]
    assert stats.counts.sum() == 2
    grid = lag_grid(times)
    traced = jax.jit(lambda y: path_statistics(times, y, None, 2, grid=grid))(jnp.array([[0, 1, 1, 0]]))
    assert int(traced.counts.sum()) == 2
    assert path_statistics(times, np.array([[0, 1, 0, 0]]), exact=False).counts.sum() == 2


def test_jump_counts_have_the_likelihood_of_the_filter(x64):
    """And `counts_likelihood`, less that of the frequencies."""
    grid = lag_grid(TIMES, MASK)
    P = transition_matrices(Q, grid.lags)
    initial = np.array([0.2, 0.5, 0.3])
    by_filter = forward(label_log_emission(LABELS, None, 3), P, grid.index, initial, MASK)[0].sum()
    stats = path_statistics(TIMES, LABELS, MASK)
    by_counts = count_log_likelihood(transition_matrices(Q, stats.lags), stats) + stats.first @ np.log(
        initial
    )
    assert float(by_counts) == pytest.approx(float(by_filter), rel=1e-12)
    totals = stats.counts.sum(2, keepdims=True)
    saturated = np.sum(
        stats.counts * np.log(np.where(stats.counts > 0, stats.counts / np.maximum(totals, 1), 1))
    )
    relative = counts_likelihood(stats)(generator(Q), jnp.eye(3), jnp.asarray(initial))
    assert float(relative + saturated) == pytest.approx(float(by_filter), rel=1e-12)


def test_jump_log_likelihood_of_ten_million_pairs_keeps_its_digits_in_float32():
    """Less that of the frequencies: differences between rates are right to .02 nats, where the sum has 1 at best."""
    lag = 2.5 / 99
    near = Q * 1.0005
    with jax.enable_x64(True):
        P = np.asarray(transition_matrices(Q, np.array([lag])))
        stats = path_statistics(np.array([0.0, lag]), np.array([[0, 1]]), num_states=3)
        stats = stats._replace(counts=np.round(1e7 / 3 * P).astype(np.int64))
        exact = [float(count_log_likelihood(transition_matrices(q, stats.lags), stats)) for q in (Q, near)]
    log_likelihood = counts_likelihood(stats)
    found = [float(log_likelihood(generator(jnp.float32(q)), jnp.eye(3), jnp.ones(3) / 3)) for q in (Q, near)]
    plain = [
        float(count_log_likelihood(transition_matrices(jnp.float32(q), stats.lags), stats)) for q in (Q, near)
    ]
    right = exact[1] - exact[0]
    assert abs(right) < 5
    assert found[1] - found[0] == pytest.approx(right, abs=0.15)
    assert abs(plain[0]) > 1e6  # of which half a unit of float32 is .06 to .25


def test_jump_counts_stay_integers_beyond_the_reach_of_float32():
    stats = path_statistics(np.array([0.0, 1.0]), np.array([[0, 1]]))
    many = stats._replace(counts=stats.counts * 2**24)
    assert merge(many, stats).counts[0, 0, 1] == 2**24 + 1


def test_jump_merged_counts_unite_their_lags():
    a = path_statistics(np.array([0.0, 1.0, 3.0]), np.array([[0, 1, 1]]))
    b = path_statistics(np.array([0.0, 1.0 + 1e-9, 5.0]), np.array([[1, 0, 0]]))
    both = merge(a, b)
    npt.assert_allclose(both.lags, [1, 2, 4], rtol=1e-8)
    assert both.counts.sum() == 4
    assert both.counts[0].tolist() == [[0, 1], [1, 0]]


def test_jump_coarse_counts_hold_the_same_pairs_and_nearly_the_same_likelihood():
    times = np.cumsum(RNG.exponential(0.1, (40, 80)), 1)
    q = Q / 2
    fine = np.linspace(0, times.max() + 1, 400)
    paths = simulate_batch(0, q, fine, 40)
    labels = np.take_along_axis(paths, np.searchsorted(fine, times), 1)
    stats = path_statistics(times, labels)
    few = coarsen(stats)
    assert few.lags.shape == (16,)
    npt.assert_array_equal(few.counts.sum(0), stats.counts.sum(0))
    assert np.sum(few.lags * few.counts.sum((1, 2))) == pytest.approx(float(stats.total_time))
    assert coarsen(few) is few
    gains = []
    for s in (stats, few):
        at = [float(counts_likelihood_of(s, rates)) for rates in (q, 1.2 * q)]
        gains.append(at[1] - at[0])
    assert gains[1] == pytest.approx(gains[0], abs=0.05 * abs(gains[0]) + 0.5)


def counts_likelihood_of(stats, q):
    with jax.enable_x64(True):
        return count_log_likelihood(transition_matrices(q, stats.lags), stats)


def test_jump_coarse_counts_of_a_stream_keep_its_lags():
    """Bins without a lag say nothing of where lags are, however many pairs there are."""
    bins, rng = np.geomspace(1e-4, 100, 61), np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 10, (50, 40)), 1)
    stats = path_statistics(times, rng.integers(0, 3, times.shape), num_states=3, lag_bins=bins)
    many = coarsen(stats._replace(counts=10**4 * stats.counts))
    npt.assert_allclose(many.lags, coarsen(stats).lags)
    assert (many.lags > 0).sum() > 12
    assert many.counts.sum() == 10**4 * stats.counts.sum()


def test_jump_unit_of_time_and_dwell_times():
    stats = path_statistics(np.array([0.0, 1.0, 3.0]), np.array([[0, 0, 1], [1, 1, 1]]))
    assert float(change_rate(stats)) == pytest.approx(1.5 / 6)
    npt.assert_allclose(dwell_times(stats), [1 + 1, 1 + 3])


def test_jump_paths_of_different_lengths_are_packed():
    times, states, mask = pack_paths([[0.0, 1.0, 2.0], [0.5, 0.7]], [[0, 1, 1], [2, 0]])
    assert times.tolist() == [[0, 1, 2], [0.5, 0.7, 0.7]]
    assert states.tolist() == [[0, 1, 1], [2, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, True, False]]
    stats = path_statistics(times, states, mask)
    assert stats.counts.sum() == 3
