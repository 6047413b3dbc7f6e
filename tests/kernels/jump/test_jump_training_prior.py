"""Counts drawn for many paths against simulated paths: means, spreads, and how lags 1, 2 and 4 go together."""

import numpy as np
import numpy.testing as npt
import pytest
from scipy.sparse.csgraph import connected_components

from emberwalk.kernels.jump import simulate_batch, stationary, training_prior
from emberwalk.kernels.jump.network_statistics import NUM_BINS, network_statistics
from emberwalk.kernels.jump.training_prior import TrainingPrior, draw_counts, process_statistics, stacked
from tests.kernels.jump.processes import random_rates
from tests.statistics import assert_caught, assert_exact, mcse, z_scores

pytestmark = pytest.mark.xdist_group("jump-training-prior")  # what is fitted once serves all

Q = 3 * random_rates(np.random.default_rng(5), 3)
Q[0, 2] = 0.0
TIMES = np.cumsum(np.random.default_rng(6).choice([0.05, 0.1, 0.25], 24))
START = np.array([0.7, 0.2, 0.1])
NOISE = 0.1
PATHS, TOGETHER, DRAWS = 20_000, 1000, 800


def of_each_path(labels):
    """What `flat` has, for each path by itself; from indicators, without a count."""
    seen = np.eye(3)[labels]
    found = [seen[:, 0], seen.sum(1)]
    for places in (1, 2, 4):
        lags = TIMES[places:] - TIMES[:-places]
        found += [
            np.einsum("pli,plj->pij", seen[:, :-places], seen[:, places:]),
            np.einsum("l,pli,plj->pij", lags, seen[:, :-places], seen[:, places:]),
        ]
    blips = np.einsum("pli,plj,pli->pij", seen[:, :-2], seen[:, 1:-1], seen[:, 2:])
    found.append(blips * ~np.eye(3, dtype=bool))
    return np.concatenate([x.reshape(len(labels), -1) for x in found], 1)


def flat(stats):
    """First labels, visits, pairs and summed lags of lags 1, 2 and 4, blips; each cell a number."""
    counts = np.asarray(stats.paths.counts)
    lag1 = counts.sum(0), np.tensordot(stats.paths.lags, counts, 1)
    fields = (stats.paths.first, stats.paths.visits, *lag1, *stats[1:])
    return np.concatenate([np.ravel(x) for x in fields])


LAG1, LAG2, LAG4 = slice(6, 15), slice(24, 33), slice(42, 51)


@pytest.fixture(scope="module")
def simulated():
    return of_each_path(simulate_batch(1, Q, TIMES, PATHS, START, NOISE))


def draws(label_noise=NOISE, number=DRAWS, num_paths=TOGETHER):
    rng = np.random.default_rng(2)
    return np.array([flat(draw_counts(rng, Q, TIMES, num_paths, START, label_noise)) for _ in range(number)])


@pytest.fixture(scope="module")
def drawn():
    return draws()


def two_sample(a, b):
    """z of equal means; 0 where neither varies."""
    scale = np.hypot(mcse(a), mcse(b))
    return (a.mean(0) - b.mean(0)) / np.where(scale > 0, scale, 1)


def products(values):
    """Of all pairs of cells of pairs and blips: their means are covariances."""
    x = (values - values.mean(0))[:, np.r_[LAG1, LAG2, LAG4, 60:69]]
    rows, columns = np.triu_indices(x.shape[1])
    return x[:, rows] * x[:, columns]


def test_jump_network_drawn_counts_have_the_means_of_simulated_paths(drawn, simulated):
    assert_exact(two_sample(drawn / TOGETHER, simulated))


def test_jump_network_drawn_counts_have_the_covariances_of_simulated_paths(drawn, simulated):
    """Of K paths, over K, those of one; lags 1, 2 and 4 are correlated, and so are their draws."""
    assert_exact(two_sample(products(drawn) / TOGETHER, products(simulated)))
    of_lags = np.corrcoef(simulated[:, LAG1].T, simulated[:, LAG4].T)[:9, 9:]
    assert np.abs(of_lags).max() > 0.6


def test_jump_network_planted_lags_drawn_independently_are_caught(drawn, simulated):
    """Each lag from other draws: means and spreads stay right, covariances between lags are gone."""
    independent = drawn.copy()
    for shift, lag in ((1, LAG2), (2, LAG4)):
        independent[:, lag] = np.roll(drawn[:, lag], shift, 0)
    assert_exact(two_sample(independent / TOGETHER, simulated))
    assert_caught(two_sample(products(independent) / TOGETHER, products(simulated)))


def test_jump_network_planted_noise_replaced_by_any_label_is_caught(simulated):
    assert_caught(two_sample(draws(NOISE * 2 / 3, 100) / TOGETHER, simulated))


def test_jump_network_drawn_counts_that_are_few_have_their_means():
    """Cells of less than 30 are Poisson."""
    slow = draws(num_paths=40, number=400)
    assert slow.min(0).max() > 0
    labels = simulate_batch(1, Q, TIMES, PATHS, START, NOISE)
    assert_exact(two_sample(slow / 40, of_each_path(labels)))


def test_jump_network_drawn_counts_have_the_bins_of_simulated_paths():
    """Where there are more than 16 lags too."""
    times = np.cumsum(np.random.default_rng(3).exponential(0.1, 60))
    labels = simulate_batch(0, Q, times, 400, START)
    exact, found = network_statistics(times, labels), draw_counts(0, Q, times, 400, START)
    npt.assert_allclose(found.paths.lags, exact.paths.lags)
    assert found.paths.lags.shape == (NUM_BINS,)
    pairs = np.asarray(exact.paths.counts).sum((1, 2))
    npt.assert_allclose(found.paths.counts.sum((1, 2)), pairs, atol=5 + 0.01 * pairs.max())
    for name in ("num_paths", "num_labels", "total_time"):
        assert float(getattr(found.paths, name)) == pytest.approx(float(getattr(exact.paths, name)))


def test_jump_network_training_processes_are_as_they_are_described(monkeypatch):
    monkeypatch.setattr(training_prior, "_LEAST", 0.0)  # else some graphs would not look reciprocal any more
    rng = np.random.default_rng(0)
    prior = TrainingPrior()
    processes = [prior.process(rng, 4) for _ in range(1500)]
    rates = np.array([p.rates for p in processes])
    links = rates > 0
    assert all(connected_components(q, connection="strong")[0] == 1 for q in rates)
    assert (rates[:, range(4), range(4)] == 0).all()
    exits = np.log(rates.sum(2).mean(1))
    full = links.sum((1, 2)) == 12
    reciprocal = (links == links.transpose(0, 2, 1)).all((1, 2))
    laws = np.asarray(stationary(rates), np.float64)
    still = np.abs([p.initial for p in processes] - laws).max(1) < 1e-4
    noise = np.array([p.label_noise for p in processes])
    regular = np.array([np.ptp(np.diff(p.times)) < 1e-9 for p in processes])
    assert_exact(z_scores(exits, np.log(1.5 * 40) / 2))
    assert_exact(z_scores(still, 0.6))
    assert_exact(z_scores(noise == 0, 0.4))
    assert_exact(z_scores(noise[noise > 0], 0.1))
    assert_exact(z_scores(regular, 0.5))
    assert 0.45 < full.mean() < 0.7
    assert 0.75 < reciprocal.mean() < 0.95
    assert all(p.times[0] == 0 and p.times[-1] <= 1 and len(p.times) > 3 for p in processes)
    flows = laws[:, :, None] * rates
    balanced = np.abs(flows - flows.transpose(0, 2, 1)).max((1, 2)) < 1e-3 * flows.max((1, 2))
    # 25 %, where the graph is reciprocal
    assert_exact(z_scores(balanced[reciprocal], 0.25))
    # q_ij q_ji is then the same for all links, and the energies of a state and the next differ by sqrt(2) / 2
    both = balanced & full
    products = (rates * rates.transpose(0, 2, 1))[both][:, 0, 1:]
    npt.assert_allclose(products, np.broadcast_to(products[:, :1], products.shape), rtol=1e-4)
    ratios = np.log(rates[both, 0, 1] / rates[both, 1, 0])
    assert_exact(z_scores(ratios**2, 0.5))


def test_jump_network_training_drops_links_below_1_percent_of_the_strongest(monkeypatch):
    prior, seeds = TrainingPrior(), range(400)
    kept = np.array([prior.process(seed, 6).rates for seed in seeds])
    monkeypatch.setattr(training_prior, "_LEAST", 0.0)
    all_links = np.array([prior.process(seed, 6).rates for seed in seeds])
    strongest = all_links.max((1, 2), keepdims=True)
    share, share_kept = all_links / strongest, kept / kept.max((1, 2), keepdims=True)
    npt.assert_allclose(share_kept[share >= 0.01], share[share >= 0.01], rtol=1e-9)
    weak = share_kept[(share > 0) & (share < 0.01)]
    raised = np.isclose(weak, 0.01, rtol=1e-9)
    assert (raised | (weak == 0)).all()
    # a cycle is 6 of 30 links, and more of them in sparse graphs
    assert 0.15 < raised.mean() < 0.4
    assert all(connected_components(q, connection="strong")[0] == 1 for q in kept)
    npt.assert_allclose(kept.sum(2).mean(1), all_links.sum(2).mean(1), rtol=1e-9)


def test_jump_network_training_path_numbers_are_as_they_are_described():
    numbers = np.array([TrainingPrior().draw_num_paths(seed) for seed in range(4000)])
    assert_exact([z_scores(numbers == few, 1 / 8) for few in (1, 2, 4, 10, 30, 100)])
    assert_exact(z_scores((numbers >= 150) & (numbers <= 300), 1 / 8))
    many = numbers[numbers > 300]
    assert_exact(z_scores(np.log(many), (np.log(300) + np.log(1e5)) / 2))
    assert {TrainingPrior((2, 5)).draw_num_states(seed) for seed in range(50)} == {2, 5}


def test_jump_network_training_statistics_stack():
    rng = np.random.default_rng(0)
    prior = TrainingPrior()
    many = stacked(process_statistics(rng, prior.process(rng, 3), paths) for paths in (1, 30, 5000))
    assert many.paths.counts.shape == (3, NUM_BINS, 3, 3)
    assert many.blips.shape == (3, 3, 3)
    assert many.paths.num_paths.tolist() == [1, 30, 5000]


def test_jump_network_bad_input_training_prior():
    with pytest.raises(ValueError, match=r"each 2 or more, got \(1, 3\)"):
        TrainingPrior((1, 3))
    with pytest.raises(ValueError, match="at least 3, one row and rising"):
        draw_counts(0, Q, [0.0, 1.0, 1.0], 400)
    with pytest.raises(ValueError, match=r"label_noise.*got 0\.9"):
        draw_counts(0, Q, TIMES, 400, label_noise=0.9)
    with pytest.raises(ValueError, match=r"-1\.0 from state 0 to state 1"):
        draw_counts(0, -np.ones((2, 2)), TIMES, 400)
