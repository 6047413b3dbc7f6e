"""Intervals, presence and noise level of the shipped network, on fresh processes of its training prior.

4000 processes for each number of states and of paths, seeds that training has not seen: of 2000, 1200 have wrong
labels, and their share in an interval is known to .014 only. Intervals of links that are there; presence of links in
four bins that a thousand links or more are in; the noise level where it is not 0, and how often that is so.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from emberwalk.kernels.jump.network import load_weights, predict
from emberwalk.kernels.jump.sqrt_normal import SqrtNormal
from emberwalk.kernels.jump.training_prior import TrainingPrior, process_statistics, stacked
from tests.statistics import optimised

NUM_PATHS = (1, 4, 16, 60, 200, 1000, 10_000)
NUM_DRAWS, AT_ONCE = 4000, 1000
PROBS = np.array([0.5, 0.9])
EDGES = np.array([0.25, 0.5, 0.75])
# a bin with fewer links than this says nothing to within .05
FEWEST_LINKS = 1000


class Found(NamedTuple):
    """Of processes with as many states and paths.

    Attributes:
        links: share of links that are there in intervals of 50 and 90 %.
        noise: share of noise levels that are not 0 in theirs.
        presence: share of links that are there less what was said, by bin `[4]`; 0 where there are few.
        said_noisy: mean probability that labels may be wrong.
        noisy: share of processes of which that is so.
        sure: of those that are said to be noisy with .9 and more, their number and the share that is.
        errors: of rates, and of the base estimate.
    """

    links: np.ndarray
    noise: np.ndarray
    presence: np.ndarray
    said_noisy: float
    noisy: float
    sure: tuple[int, float]
    errors: tuple[float, float]


def drawn(num_states, num_paths):
    """What the network says, true rates, true label noise."""
    rng, prior, net = np.random.default_rng([7, num_states, num_paths]), TrainingPrior(), load_weights()
    said, rates, noise = [], [], []
    with optimised():
        predicted = jax.jit(jax.vmap(lambda s: predict(net, s)))
        for _ in range(NUM_DRAWS // AT_ONCE):
            processes = [prior.process(rng, num_states) for _ in range(AT_ONCE)]
            statistics = stacked(process_statistics(rng, process, num_paths) for process in processes)
            said.append(jax.device_get(predicted(statistics)))
            rates += [process.rates for process in processes]
            noise += [process.label_noise for process in processes]
    return jax.tree.map(lambda *x: np.concatenate(x), *said), np.array(rates), np.array(noise)


def found_at(num_states, num_paths):
    said, rates, noise = drawn(num_states, num_paths)
    links = np.broadcast_to(~np.eye(num_states, dtype=bool), rates.shape)
    presence, there = said.presence[links].astype(np.float64), (rates > 0)[links]
    bins = np.searchsorted(EDGES, presence, side="right")
    number, away = np.bincount(bins, minlength=4), np.bincount(bins, there - presence, minlength=4)
    p_noisy = said.label_noise_presence
    sure = p_noisy > 0.9
    return Found(
        links=held(said.sqrt_mean, said.sqrt_sd, rates),
        noise=held(said.label_noise_mean, said.label_noise_sd, noise),
        presence=np.where(number >= FEWEST_LINKS, away / np.maximum(number, 1), 0),
        said_noisy=float(p_noisy.mean()),
        noisy=float((noise > 0).mean()),
        sure=(int(sure.sum()), float((noise > 0)[sure].mean()) if sure.any() else 1.0),
        errors=tuple(float(np.sqrt(np.mean((q - rates) ** 2))) for q in (said.rates, said.base)),
    )


def held(mean, sd, values):
    """Share of the values that are not 0 in the central intervals."""
    density, chosen, found = SqrtNormal(mean, sd), values > 0, []
    for prob in PROBS:
        low, high = (np.asarray(density.quantile((1 + side * prob) / 2)) for side in (-1, 1))
        found.append(((low <= values) & (values <= high))[chosen].mean())
    return np.array(found)


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", NUM_PATHS)
@pytest.mark.parametrize("num_states", [2, 3, 4, 5, 6, 7, 8])
def test_jump_network_calibration_within_training(num_states, num_paths):
    found = found_at(num_states, num_paths)
    assert np.abs(found.links - PROBS).max() <= 0.06, found.links
    assert np.abs(found.noise - PROBS).max() <= 0.05, found.noise
    assert np.abs(found.presence).max() <= 0.05, found.presence
    # .6 of the processes have wrong labels; four thousand draws know that to .008
    assert abs(found.said_noisy - found.noisy) <= 0.05
    number, share = found.sure
    assert number < 100 or share > 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", NUM_PATHS)
def test_jump_network_calibration_of_ten_states(num_paths):
    """Never trained on. Noise levels of 10^4 paths: .789 of three times 4000 processes in their 90 % interval."""
    found = found_at(10, num_paths)
    assert np.abs(found.links - PROBS).max() <= 0.06, found.links
    assert found.noise[1] >= 0.77, found.noise
    ours, base = found.errors
    assert ours <= base
