"""Intervals, presence and noise level of the shipped network, on fresh processes of its training prior.

2000 processes for each number of states and of paths, seeds that training has not seen. Intervals of links that are
there; presence of links in four bins that a thousand links or more are in; the noise level where it is not 0, and how
often that is so.
"""

import jax
import numpy as np
import pytest

from emberwalk.kernels.jump.network import load_weights, predict
from emberwalk.kernels.jump.sqrt_normal import SqrtNormal
from emberwalk.kernels.jump.training_prior import TrainingPrior, process_statistics, stacked
from tests.statistics import optimised

NUM_PATHS = (1, 4, 16, 60, 200, 1000, 10_000)
NUM_DRAWS = 2000
PROBS = (0.5, 0.9)
BINS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01))
# a bin with fewer links than this says nothing to within .05
FEWEST_LINKS = 1000


def drawn(num_states, num_paths, num_draws=NUM_DRAWS):
    """What the network says, true rates, true label noise."""
    rng, prior = np.random.default_rng([7, num_states, num_paths]), TrainingPrior()
    processes = [prior.process(rng, num_states) for _ in range(num_draws)]
    statistics = stacked(process_statistics(rng, process, num_paths) for process in processes)
    net = load_weights()
    with optimised():
        found = jax.jit(jax.vmap(lambda s: predict(net, s)))(statistics)
        found = jax.block_until_ready(found)
    rates = np.array([process.rates for process in processes])
    return found, rates, np.array([process.label_noise for process in processes])


def held(mean, sd, values):
    """Share of the values that are not 0 in the central intervals."""
    density, chosen, found = SqrtNormal(mean, sd), values > 0, []
    for prob in PROBS:
        low, high = (np.asarray(density.quantile((1 + side * prob) / 2)) for side in (-1, 1))
        found.append(((low <= values) & (values <= high))[chosen].mean())
    return np.array(found)


def reliability(presence, there):
    """Share of links that are there less what was said, by bin; NaN where there are few."""
    found = []
    for low, high in BINS:
        chosen = (presence >= low) & (presence < high)
        few = chosen.sum() < FEWEST_LINKS
        found.append(np.nan if few else there[chosen].mean() - presence[chosen].mean())
    return np.array(found)


@pytest.mark.nightly
@pytest.mark.parametrize("num_states", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("num_paths", NUM_PATHS)
def test_jump_network_calibration_within_training(num_states, num_paths):
    found, rates, noise = drawn(num_states, num_paths)
    links = np.broadcast_to(~np.eye(num_states, dtype=bool), rates.shape)
    of_links = held(found.sqrt_mean, found.sqrt_sd, rates)
    of_noise = held(found.label_noise_mean, found.label_noise_sd, noise)
    of_presence = reliability(np.asarray(found.presence)[links], (rates > 0)[links])
    said = float(np.mean(found.label_noise_presence))
    print(f"n = {num_states}, {num_paths} paths: links {of_links}, noise {of_noise}, presence {of_presence}")
    assert np.abs(of_links - PROBS).max() <= 0.06, of_links
    assert np.abs(of_noise - PROBS).max() <= 0.05, of_noise
    assert np.nanmax(np.abs(of_presence)) <= 0.05, of_presence
    # .6 of the processes have wrong labels; two thousand draws know that to .011
    assert abs(said - (noise > 0).mean()) <= 0.05
    sure = np.asarray(found.label_noise_presence) > 0.9
    if sure.sum() > 100:
        assert (noise > 0)[sure].mean() > 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", NUM_PATHS)
def test_jump_network_calibration_of_ten_states(num_paths):
    """Never trained on."""
    found, rates, noise = drawn(10, num_paths)
    of_links = held(found.sqrt_mean, found.sqrt_sd, rates)
    of_noise = held(found.label_noise_mean, found.label_noise_sd, noise)
    errors = [np.sqrt(np.mean((np.asarray(q) - rates) ** 2)) for q in (found.rates, found.base)]
    print(f"10 states, {num_paths} paths: links {of_links}, noise {of_noise}, errors {errors}")
    assert np.abs(of_links - PROBS).max() <= 0.06, of_links
    assert of_noise[1] >= 0.8, of_noise
    assert errors[0] <= errors[1]
