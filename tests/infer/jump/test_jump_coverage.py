"""Intervals of `zero_shot` hold the rates as often as they say, when rates are drawn from its prior.

Rates of six states from `RatePrior`, paths of 100 points with the largest exit rate times the lag at .1. A link that is
there has its rate within the interval of `quantile_if_present` with the probability of the interval, exactly so for
the exact posterior: given that it is there, that is its law. 1 path is printed and not asked for: the scale of the
prior is then read from half a dozen jumps.
"""

import warnings

import numpy as np
import pytest

from emberwalk.infer import RatePrior, zero_shot
from emberwalk.kernels.jump import rates_to_vector, simulate_batch, stationary
from tests.statistics import optimised

NUM_STATES, LENGTH = 6, 100
WITHIN = {30: 0.07, 300: 0.05}
PROBS = (0.5, 0.9)


def prior_draw(rng, prior=RatePrior(), typical=1.0):  # noqa: B008
    """Rates, and which links are there; `typical` is the mean rate of a link."""
    n = NUM_STATES
    there = rng.random((n, n)) < prior.link_probability
    if rng.random() < prior.reciprocal:
        there = np.triu(there, 1) | np.triu(there, 1).T
    rates = rng.gamma(prior.shape, typical / prior.shape, (n, n))
    rates = np.where(there, rates, 1e-3 * typical)
    return rates * (1 - np.eye(n)), there & ~np.eye(n, dtype=bool)


def held(num_paths, num_draws, seed=0, intervals=None):
    """Of all links that are there: whether each interval holds its rate, `[links, probs]`; and all presence."""
    rng, found, presence = np.random.default_rng(seed), [], []
    ends = [(1 - p) / 2 for p in PROBS] + [(1 + p) / 2 for p in PROBS]
    intervals = intervals or (lambda post: np.asarray(post.quantile_if_present(ends)))
    with optimised(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(num_draws):
            q, there = prior_draw(rng)
            times = 0.1 / q.sum(1).max() * np.arange(LENGTH)
            labels = simulate_batch(rng, q, times, num_paths, np.asarray(stationary(q)))
            if (labels == labels[0, 0]).all():
                continue  # nothing happened: no data at all
            post = zero_shot(times, labels, num_states=NUM_STATES, label_noise=0.0)
            low, high = np.split(intervals(post), 2)
            found.append(((low <= q) & (q <= high))[:, there].T)
            presence.append(
                np.stack([np.asarray(rates_to_vector(post.presence)), rates_to_vector(there * 1.0)], 1)
            )
    return np.concatenate(found), np.concatenate(presence)


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", [1, *WITHIN])
def test_jump_coverage_of_zero_shot_is_what_it_says(num_paths):
    inside, presence = held(num_paths, 2000)
    shares = inside.mean(0)
    print(f"{num_paths} paths: 50 % intervals hold {shares[0]:.3f}, 90 % intervals {shares[1]:.3f}")
    assert np.isfinite(presence).all()
    if num_paths in WITHIN:
        assert np.abs(shares - PROBS).max() <= WITHIN[num_paths], shares


@pytest.mark.nightly
def test_jump_coverage_presence_is_as_often_right_as_it_says():
    """Links by their presence in four bins: so many of them are there."""
    _, presence = held(30, 2000)
    w, there = presence.T
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)):
        chosen = (w >= low) & (w < high)
        assert abs(there[chosen].mean() - w[chosen].mean()) < 0.07, (low, chosen.sum(), there[chosen].mean())


@pytest.mark.nightly
def test_jump_coverage_planted_half_as_wide_intervals_are_caught():
    def narrow(post):
        middle = np.asarray(post.quantile_if_present([0.5] * 4))
        ends = np.asarray(post.quantile_if_present([0.25, 0.05, 0.75, 0.95]))
        return middle + (ends - middle) / 2

    inside, _ = held(30, 100, intervals=narrow)
    assert inside.mean(0)[0] < 0.5 - WITHIN[30]
