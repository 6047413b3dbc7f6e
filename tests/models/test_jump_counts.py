"""`MarkovJumpCounts`: the process of the same paths in one number, and float32 at millions of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import numpyro
import pytest
from numpyro.infer.util import log_density

from emberwalk.kernels.jump import PathStatistics, path_statistics, simulate_batch
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess
from tests.kernels.jump.processes import INITIAL3, LABELS3, Q3, TIMES3, random_rates

RNG = np.random.default_rng(5)
TIMES = np.cumsum(RNG.choice([0.2, 0.5, 1.3], (4, 7)), 1)
LABELS = RNG.integers(0, 3, (4, 7))
MASK = RNG.random((4, 7)) < 0.8
OTHER = random_rates(RNG, 3)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_jump_fixed_log_prob_of_counts(double):
    with jax.enable_x64(double):
        stats = path_statistics(TIMES3, LABELS3)
        found = MarkovJumpCounts(Q3, stats, initial=INITIAL3).log_prob(stats.counts)
        assert found.dtype == (jnp.float64 if double else jnp.float32)
        assert float(found) == pytest.approx(-7.520295, abs=5e-7 if double else 3e-6)


@pytest.mark.parametrize("initial", [None, "stationary", INITIAL3], ids=["uniform", "stationary", "given"])
def test_jump_counts_are_the_sum_over_paths(initial, x64):
    stats = path_statistics(TIMES, LABELS, MASK)
    process = MarkovJumpProcess(Q3, TIMES, mask=MASK, initial=initial)
    found = MarkovJumpCounts(Q3, stats, initial=initial).log_prob(stats.counts)
    assert float(found) == pytest.approx(float(process.log_prob(LABELS).sum()), rel=1e-11)


def test_jump_relative_counts_differ_by_what_the_data_say_of_themselves(x64):
    stats = path_statistics(TIMES, LABELS, MASK)

    def both(rates):
        return [
            MarkovJumpCounts(rates, stats, initial="stationary", relative=relative).log_prob(stats.counts)
            for relative in (False, True)
        ]

    (plain, relative), (plain_other, relative_other) = both(Q3), both(OTHER)
    assert float(plain - plain_other) == pytest.approx(float(relative - relative_other), rel=1e-10)
    # rates that explain each row as well as its own shares leave nothing
    assert float(relative) < 0
    shares = np.asarray(stats.counts, float)
    shares = np.where(shares > 0, shares / np.maximum(shares.sum(-1, keepdims=True), 1), 1)
    first = np.where(stats.first > 0, stats.first / stats.first.sum(), 1)
    saturated = np.sum(stats.counts * np.log(shares)) + np.sum(stats.first * np.log(first))
    assert float(plain - relative) == pytest.approx(saturated, rel=1e-10)


def many():
    """Statistics of twenty million pairs, without making them."""
    stats = path_statistics(np.linspace(0, 5, 51), simulate_batch(0, OTHER, np.linspace(0, 5, 51), 200))
    return stats._replace(counts=2000 * stats.counts, first=2000 * stats.first)


def test_jump_relative_counts_keep_the_digits_of_float32():
    """The difference of two log densities, of which 1e7 is common: what Metropolis lives on."""
    stats, near = many(), OTHER * (1 + 1e-3)

    def difference(relative):
        laws = [MarkovJumpCounts(q, stats, relative=relative) for q in (OTHER, near)]
        return float(laws[1].log_prob(stats.counts) - laws[0].log_prob(stats.counts))

    with jax.enable_x64(True):
        exact = difference(True)
    found = difference(True)
    with pytest.warns(UserWarning, match=r"20000000 pairs.*relative=True"):
        plain = difference(False)
    assert abs(found - exact) < 0.2
    assert abs(plain - exact) > 2 * abs(found - exact)


def test_jump_counts_of_subjects_stand_in_a_plate(x64):
    """Two subjects at the same lags, with rates of their own."""
    grid_times = np.linspace(0, 3, 7)
    parts = [path_statistics(grid_times, LABELS[k : k + 2], num_states=3) for k in (0, 2)]
    stacked = PathStatistics(*(None if part[0] is None else np.stack(part) for part in zip(*parts, strict=True)))
    rates = np.stack([Q3, OTHER])
    law = MarkovJumpCounts(rates, stacked, initial="stationary")
    assert law.batch_shape == (2,)
    each = [
        MarkovJumpCounts(q, part, initial="stationary").log_prob(part.counts)
        for q, part in zip(rates, parts, strict=True)
    ]
    npt.assert_allclose(law.log_prob(stacked.counts), each, rtol=1e-11)

    def model(stats):
        with numpyro.plate("subjects", 2):
            law = MarkovJumpCounts(rates, stats, initial="stationary")
            numpyro.sample("counts", law, obs=stats.counts)

    npt.assert_allclose(jax.jit(lambda s: log_density(model, (s,), {}, {})[0])(stacked), sum(each), rtol=1e-11)


def test_jump_counts_are_trees():
    stats = path_statistics(TIMES3, LABELS3)
    law = MarkovJumpCounts(Q3, stats, initial=INITIAL3, relative=True)
    through = jax.jit(lambda law: law)(law)
    assert through.relative
    npt.assert_allclose(through.log_prob(stats.counts), law.log_prob(stats.counts), rtol=1e-5)
    assert law.expand((2,)).log_prob(stats.counts).shape == (2,)


def test_jump_impossible_pairs_that_never_happened_have_no_weight(x64):
    """A chain of states: no link from 0 to 2 and back, seen at one short lag."""
    q = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    stats = path_statistics(np.array([0.0, 0.0, 1.0]), np.array([[1, 1, 2]]), num_states=3)

    def log_prob(scale):
        law = MarkovJumpCounts(scale * jnp.asarray(q), stats, initial=jnp.array([0.0, 1.0, 0.0]))
        return law.log_prob(stats.counts)

    value, slope = jax.value_and_grad(log_prob)(1.0)
    assert np.isfinite(value)
    assert np.isfinite(slope)
