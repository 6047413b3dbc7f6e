"""The discrete flashing ratchet of OpenFIM's data: errors of the refined rates on disjoint consecutive blocks.

Root mean square error over the 30 off-diagonal rates, mean over the blocks; deterministic. With V = 1 the published
network has .648 at 1 path and .330 / .212 / .162 / .230 / .723 at 30 / 100 / 300 / 1000 / 5000.
"""

import jax
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import path_statistics, refine_counts, simulate_batch
from emberwalk.models import load_flashing_ratchet
from tests.kernels.jump.processes import block_errors, ratchet, refined_blocks, rmse
from tests.statistics import optimised

pytestmark = pytest.mark.xdist_group("jump-ratchet")  # what is fitted once serves all

ALL_BLOCKS = {1: 2000, 3: 333, 10: 333, 30: 333, 100: 100, 300: 33, 1000: 10, 5000: 2}
BARS = {
    1: {1: 0.65, 3: 0.55, 10: 0.40, 30: 0.27, 100: 0.16, 300: 0.10, 1000: 0.05, 5000: 0.025},
    0: {1: 0.52, 30: 0.21, 100: 0.13, 300: 0.075, 1000: 0.05, 5000: 0.025},
}
DAILY = {1: 400, 30: 100, 300: 33, 5000: 2}


def test_jump_ratchet_formula_is_that_of_the_file():
    for potential in (0, 1):
        times, labels, truth = load_flashing_ratchet(potential)
        npt.assert_allclose(truth, ratchet(potential), atol=1e-6)
        assert labels.shape == (10_000, 100)
        npt.assert_allclose(np.diff(times), 2.5 / 99, rtol=1e-5)


def mean_error(potential, num_paths, num_blocks):
    times, labels, truth = load_flashing_ratchet(potential)
    return block_errors(times, labels, truth, num_paths, num_blocks).mean()


@pytest.mark.parametrize("num_paths", DAILY)
def test_jump_ratchet_error_is_below_its_bar(num_paths):
    assert mean_error(1, num_paths, DAILY[num_paths]) <= BARS[1][num_paths]


WHOLE = [(potential, num_paths) for potential, bars in BARS.items() for num_paths in bars]


@pytest.mark.nightly
@pytest.mark.parametrize(("potential", "num_paths"), WHOLE)
def test_jump_ratchet_error_on_all_blocks_is_below_its_bar(potential, num_paths):
    error = mean_error(potential, num_paths, ALL_BLOCKS[num_paths])
    assert error <= BARS[potential][num_paths], f"V = {potential}, {num_paths} paths: {error:.4f}"


def test_jump_ratchet_planted_count_ratio_is_caught():
    """Jumps over dwell times, as if nothing happened between two points: too slow by what is missed."""
    times, labels, truth = load_flashing_ratchet(1)
    errors = []
    for block in range(2):
        stats = path_statistics(times, labels[block * 5000 : (block + 1) * 5000])
        counts = stats.counts.sum(0).astype(float)
        dwell = counts.sum(1) * stats.lags[0]
        errors.append(rmse(counts / dwell[:, None], truth))
    assert np.mean(errors) > 2 * BARS[1][5000]


def test_jump_ratchet_graph_is_found_at_300_paths():
    """Links that are there have presence near 1, those that are not near 0; and it is reciprocal."""
    times, labels, truth = load_flashing_ratchet(1)
    _, presence = refined_blocks(times, labels, 300, 33)
    w = presence.probability.mean(0)
    links = ~np.eye(6, dtype=bool)
    assert w[links & (truth > 0)].mean() > 0.99
    assert w[links & (truth == 0)].mean() < 0.02
    assert presence.reciprocal.mean() > 0.9


# Draws of the training prior of FIM: 100 points in [0, 10]

OFTEN = 50  # points of a state, of 10,000
SEEN = {"full": {1: 0.269, 10: 0.148, 100: 0.055}, "sparse": {1: 0.221, 10: 0.152, 100: 0.062}}


def prior_draws(data_folder, graph, num=100):
    file = data_folder / "mjp" / "fim_prior_6st_irregular_test.npz"
    if not file.exists():
        pytest.skip(
            "mjp/fim_prior_6st_irregular_test.npz is not in EMBERWALK_DATA; github.com/FIM4Science/OpenFIM."
        )
    with np.load(file, allow_pickle=False) as data:
        links = data["adjacency"] * (1 - np.eye(6, dtype=int))
        full = links.sum((1, 2)) == 30
        chosen = full if graph == "full" else ~full
        rates, initial = data["rates"] * links, data["initial_distribution"]
        return zip(*(x[chosen][:num].astype(float) for x in (rates, initial)), strict=True)


def prior_errors(data_folder, graph, num_paths, start):
    """Of 100 processes, whose paths begin in the law `start(initial)`; and over rates out of states seen often."""
    times, errors, of_seen = np.linspace(0, 10, 100), [], []
    refine = jax.jit(lambda stats: refine_counts(stats).mean)
    with optimised():
        for seed, (q, initial) in enumerate(prior_draws(data_folder, graph)):
            labels = simulate_batch(seed, q, times, num_paths, start(initial))
            stats = path_statistics(times, labels, num_states=6)
            found = np.asarray(refine(stats), np.float64)
            errors.append(rmse(found, q))
            rates = (stats.counts.sum((0, 2)) >= OFTEN)[:, None] & ~np.eye(6, dtype=bool)
            of_seen.append(np.sqrt(np.sum((found - q)[rates] ** 2) / max(rates.sum(), 1)))
    return np.array(errors), np.array(of_seen)


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", [1, 10, 100])
@pytest.mark.parametrize("graph", SEEN)
def test_jump_errors_on_draws_of_a_published_prior(data_folder, graph, num_paths):
    """Rates and links of the file, starts in all states alike: bars 10 % above what was seen with five steps of EM.

    Those steps alone, without a judgement of links, give .232, .157 and .064 with such starts on sparse graphs; .236,
    .168 and .086 with the starts of the file, .239, .175 and .097 with stationary ones.
    """
    errors, _ = prior_errors(data_folder, graph, num_paths, lambda initial: np.ones(6) / 6)
    assert errors.mean() <= 1.1 * SEEN[graph][num_paths]


@pytest.mark.nightly
def test_jump_errors_with_the_starts_of_the_published_prior(data_folder):
    """Directed sparse graphs have states that are left for good: where no path begins there, only the prior is known.

    A dozen such processes make a third of the mean error: the bar is for the median, and for states that are seen.
    """
    errors, of_seen = prior_errors(data_folder, "sparse", 100, lambda initial: initial)
    assert np.median(errors) <= 1.1 * SEEN["sparse"][100]
    assert of_seen.mean() <= 1.1 * SEEN["sparse"][100]
    assert errors.mean() > of_seen.mean()
