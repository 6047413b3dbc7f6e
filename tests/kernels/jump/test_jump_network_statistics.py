"""Counts for the network: those of a loop, the same on the host and traced, and additive."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import simulate_batch
from emberwalk.kernels.jump.network_statistics import (
    NUM_BINS,
    NetworkStatistics,
    merge_network_statistics,
    network_statistics,
)
from tests.kernels.jump.processes import random_rates

RNG = np.random.default_rng(8)
SHAPE = (7, 40)
LABELS = simulate_batch(4, random_rates(RNG, 3), np.linspace(0, 8, SHAPE[1]), SHAPE[0], label_noise=0.1)
MASK = RNG.random(SHAPE) < 0.7
MASK[3] = False
MASK[4, 2:] = False
REGULAR = np.linspace(0, 8, SHAPE[1])
FEW = np.cumsum(RNG.choice([0.25, 0.5, 1.0], SHAPE), 1)
MANY = np.cumsum(RNG.exponential(0.2, SHAPE), 1)
REPEATED = np.repeat(np.arange(20.0), 2)
TIMES = {"regular": REGULAR, "few lags": FEW, "many lags": MANY, "repeated times": REPEATED}
FAR = ("pair2", "time2", "pair4", "time4", "blips")


def one_by_one(times, labels, mask, n):
    """Every pair and triple in a loop."""
    found = {name: np.zeros((n, n)) for name in FAR}
    for t, y, seen in zip(np.broadcast_to(times, labels.shape), labels, mask, strict=True):
        t, y = t[seen], y[seen]
        for places in (2, 4):
            for at in range(places, len(t)):
                if t[at] > t[at - places]:
                    found[f"pair{places}"][y[at - places], y[at]] += 1
                    found[f"time{places}"][y[at - places], y[at]] += t[at] - t[at - places]
        for at in range(2, len(t)):
            i, j, k = y[at - 2 : at + 1]
            if i == k != j and t[at - 2] < t[at - 1] < t[at]:
                found["blips"][i, j] += 1
    return found


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_jump_network_statistics_are_those_of_a_loop(times):
    stats = network_statistics(times, np.where(MASK, LABELS, -5), MASK, 4)
    for name, exact in one_by_one(times, LABELS, MASK, 4).items():
        npt.assert_allclose(getattr(stats, name), exact, rtol=1e-12, err_msg=name)
    assert all(getattr(stats, name).dtype.kind == "i" for name in ("pair2", "pair4", "blips"))
    assert stats.paths.lags.shape == (NUM_BINS,)
    assert stats.blips.sum() > 3


@partial(jax.jit, static_argnames="n")
def traced(times, labels, mask, n):
    return network_statistics(times, labels, mask, n)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all seen", "masked"])
def test_jump_network_statistics_traced_are_those_of_the_host(times, mask):
    host = network_statistics(times, LABELS, mask, 3)
    found = traced(jnp.float32(times), LABELS, mask, 3)
    for name in FAR:
        npt.assert_allclose(getattr(found, name), getattr(host, name), rtol=1e-5, err_msg=name)
    for name in ("first", "visits", "num_paths", "num_labels", "total_time"):
        npt.assert_allclose(getattr(found.paths, name), getattr(host.paths, name), rtol=1e-5, err_msg=name)
    # distinct lags, and bins: the same table
    npt.assert_array_equal(found.paths.counts, host.paths.counts)
    # times up to 8 in float32, lags from 0.004
    npt.assert_allclose(found.paths.lags, host.paths.lags, rtol=5e-5)


@pytest.mark.parametrize("bins", [None, np.geomspace(1e-4, 10, 21)], ids=["lags", "bins"])
def test_jump_network_statistics_add(bins):
    times = FEW if bins is None else MANY
    whole = network_statistics(times, LABELS, MASK, 3, lag_bins=bins)
    parts = [
        network_statistics(times[at], LABELS[at], MASK[at], 3, lag_bins=bins)
        for at in (slice(3), slice(3, 7))
    ]
    merged = merge_network_statistics(*parts)
    for found, exact in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
        npt.assert_allclose(found, exact, rtol=1e-12)
    assert isinstance(merged, NetworkStatistics)


def test_jump_network_bad_input_statistics():
    with pytest.raises(ValueError, match=r"traced.*pass num_states="):
        jax.jit(network_statistics)(REGULAR, LABELS)
    with pytest.raises(ValueError, match=r"traced.*leave lag_bins out"):
        jax.jit(lambda t: network_statistics(t, LABELS, num_states=3, lag_bins=[0, 9]).blips)(REGULAR)
    with pytest.raises(ValueError, match=r"-5 in path 0"):
        network_statistics(REGULAR, np.full(SHAPE, -5))
    many = [network_statistics(MANY[at], LABELS[at], num_states=3) for at in (slice(3), slice(3, 7))]
    with pytest.raises(ValueError, match="Give the same lag_bins="):
        merge_network_statistics(*many)


def in_a_trace(times, labels, mask=None, num_states=3):
    return jax.jit(lambda t, y: network_statistics(t, y, mask, num_states))(times, labels)


@pytest.mark.parametrize("statistics", [network_statistics, in_a_trace])
def test_jump_network_statistics_do_not_look_at_times_that_were_not_seen(statistics):
    garbage = np.where(MASK, MANY, np.nan)
    found = statistics(garbage, LABELS, MASK, num_states=3)
    clean = statistics(MANY, LABELS, MASK, num_states=3)
    for name in FAR:
        npt.assert_allclose(getattr(found, name), getattr(clean, name), rtol=1e-6)
    npt.assert_allclose(found.paths.total_time, clean.paths.total_time, rtol=1e-6)


def test_jump_network_statistics_of_very_many_lags_are_binned_in_a_trace():
    """100,000 lags between .5 and 1.5 follow each other more closely than rounding: they are not one lag."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, (1000, 100)), 1)
    labels = np.random.default_rng(1).integers(0, 3, times.shape)
    host, trace = network_statistics(times, labels), in_a_trace(times, labels)
    used = np.asarray(trace.paths.counts).sum((1, 2)) > 0
    assert used.sum() == NUM_BINS
    number = np.asarray(host.paths.counts).sum((1, 2))
    npt.assert_allclose(np.asarray(trace.paths.counts).sum((1, 2)), number, atol=0.02 * number.max())


def test_jump_network_statistics_know_lags_of_times_far_from_zero():
    """Dates in seconds, shared by data sets whose labels alone are traced."""
    times = 1.7e9 + 0.05 * np.arange(SHAPE[1])
    found = jax.jit(lambda y: network_statistics(times, y, num_states=3))(LABELS)
    npt.assert_array_equal(found.paths.counts.sum(0), network_statistics(times, LABELS).paths.counts.sum(0))
    npt.assert_allclose(float(found.paths.lags.max()), 0.05, rtol=1e-4)


def test_jump_network_bad_input_in_a_trace_is_refused_or_makes_all_nan():
    with pytest.raises(ValueError, match="num_states must be at least 2, got 1"):
        in_a_trace(REGULAR, LABELS * 0, num_states=1)
    with pytest.raises(ValueError, match="below num_states = 2: 2 is not"):
        jax.jit(lambda t: network_statistics(t, LABELS, num_states=2))(REGULAR)
    assert np.isfinite(in_a_trace(REGULAR, LABELS).paths.total_time)
    assert np.isnan(in_a_trace(REGULAR, LABELS, num_states=2).paths.total_time)
    assert np.isnan(in_a_trace(REGULAR, np.where(MASK, LABELS, -1)).paths.total_time)
    assert np.isfinite(in_a_trace(REGULAR, np.where(MASK, LABELS, -1), MASK).paths.total_time)
    assert np.isnan(in_a_trace(REGULAR[::-1], LABELS).paths.total_time)
