"""Training: a run that was interrupted is one that was not; the loss knows its optimum; corrections are fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random

from emberwalk.kernels.jump import network_correction, train
from emberwalk.kernels.jump.network import MJPNet, load_weights, prepare
from emberwalk.kernels.jump.network_correction import fit_log_odds, fit_log_scale, odds_basis
from emberwalk.kernels.jump.train import (
    CHECKPOINT,
    WEIGHTS,
    Plan,
    advance,
    begin,
    bounded_square,
    draw_batch,
    load_checkpoint,
    loss,
    scores,
)
from tests.statistics import assert_exact, z_scores

TINY = Plan(seed=3, steps=4, max_states=2, batch_size=3, correction_draws=6)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_jump_network_training_resumed_is_bit_for_bit_that_without_a_stop(tmp_path):
    """4 steps = 2 + resume + 2."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    straight = advance(TINY, begin(TINY), whole, 4)
    half = advance(TINY, begin(TINY), parts, 2)
    resumed = load_checkpoint(parts, TINY)
    assert resumed.step == half.step == 2
    assert same(resumed, half)
    assert not same(half.net, begin(TINY).net)
    ended = advance(TINY, resumed, parts, 4)
    assert ended.step == 4
    assert not same(ended.net, half.net)
    assert same(ended, straight)
    assert same(load_checkpoint(parts, TINY), straight)
    with np.load(parts / CHECKPOINT, allow_pickle=False) as arrays:
        assert arrays["plan"].tolist() == list(TINY)


def test_jump_network_training_ends_with_weights_that_load(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_SAVE_EVERY", 1)
    plan = TINY._replace(steps=2)
    digest = train.train(plan, tmp_path, num_workers=0)
    net = load_weights(tmp_path / WEIGHTS, digest)
    run = load_checkpoint(tmp_path, plan)
    assert run.step == 2
    npt.assert_array_equal(net.link_weight, run.net.link_weight)
    for name in ("sd_correction", "presence_correction"):
        assert (np.asarray(getattr(run.net, name)) == 0).all()
        assert np.isfinite(np.asarray(getattr(net, name))).all()
        assert np.asarray(getattr(net, name)).any()
    # what had ended is not begun anew
    assert train.train(plan, tmp_path, resume=True, num_workers=0) == digest


def test_jump_network_bad_input_training(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoint\.npz to resume from"):
        train.train(TINY, tmp_path, resume=True, num_workers=0)
    train.save_checkpoint(tmp_path, TINY, begin(TINY))
    with pytest.raises(ValueError, match=r"seed=3.*not of.*seed=4"):
        load_checkpoint(tmp_path, TINY._replace(seed=4))
    with pytest.raises(ValueError, match="num_states must be at least one number"):
        draw_batch(TINY._replace(max_states=1), 0)


def test_jump_network_training_batches_depend_on_seed_and_step_alone():
    again = [draw_batch(TINY, 5), draw_batch(TINY, 5)]
    assert same(*again)
    assert not np.array_equal(draw_batch(TINY, 6).rates, again[0].rates)
    assert not np.array_equal(draw_batch(TINY, 5, stream=1).rates, again[0].rates)
    made = list(train.batches(TINY, 3, 7, None))
    assert all(same(batch, draw_batch(TINY, index)) for batch, index in zip(made, range(3, 7), strict=True))


class Later:
    """A pool that works when it is asked for the result."""

    def __init__(self):
        self.waiting = 0

    def submit(self, fn, *args):
        self.waiting += 1
        self.most = max(self.waiting, getattr(self, "most", 0))

        def result():
            self.waiting -= 1
            return fn(*args)

        return type("Future", (), {"result": staticmethod(result)})


@pytest.mark.parametrize("number", [3, 20])
def test_jump_network_training_batches_of_a_pool_keep_their_order(monkeypatch, number):
    monkeypatch.setattr(train, "draw_batch", lambda plan, index, stream: index)
    pool = Later()
    assert list(train.batches(TINY, 2, 2 + number, pool)) == list(range(2, 2 + number))
    assert pool.waiting == 0
    assert pool.most == min(number, 13)


def test_jump_network_training_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    run = begin(TINY)
    train.save_checkpoint(tmp_path, TINY, run._replace(step=1))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        train.save_checkpoint(tmp_path, TINY, run._replace(step=2))
    assert load_checkpoint(tmp_path, TINY).step == 1


def test_jump_network_training_square_is_bounded_and_its_derivative_points_the_right_way():
    """Planted: min(z^2, 100) has none, and log s then falls without end where z is large."""

    def of_log_sd(square, error):
        return jax.grad(lambda log_sd: square(error * jnp.exp(-log_sd)) / 2 + log_sd)(0.0)

    def hard(z):
        return jnp.minimum(z**2, 100)

    npt.assert_allclose(bounded_square(jnp.array([-3.0, 10.0, 1e3])), [9, 100, 100], rtol=1e-6)
    assert of_log_sd(bounded_square, 3.0) == pytest.approx(1 - 9, rel=1e-5)
    assert of_log_sd(bounded_square, 50.0) == pytest.approx(1 - 100, rel=1e-5)
    assert of_log_sd(hard, 50.0) == 1


@pytest.fixture(scope="module")
def batch():
    return draw_batch(Plan(seed=0, steps=1, max_states=3, batch_size=8), 1)


def test_jump_network_training_loss_has_no_unit(batch):
    """Of a network without a unit: times a thousand, rates over a thousand, the same loss."""
    net = MJPNet(random.key(0))
    paths = batch.statistics.paths
    slow = batch.statistics._replace(
        paths=paths._replace(lags=1024 * paths.lags, total_time=1024 * paths.total_time),
        time2=1024 * batch.statistics.time2,
        time4=1024 * batch.statistics.time4,
    )
    at = jax.jit(lambda s, q: loss(net, jax.vmap(prepare)(s), q, batch.label_noise))
    fast = at(batch.statistics, batch.rates)
    npt.assert_allclose(at(slow, batch.rates / 1024), fast, rtol=1e-5)
    # planted: the unit of the rates forgotten
    assert abs(float(at(slow, batch.rates)) - float(fast)) > 0.1


def test_jump_network_training_scores_are_of_links_that_are_there(batch):
    net = MJPNet(random.key(0))
    prepared = jax.jit(jax.vmap(prepare))(batch.statistics)
    predicted, _ = jax.jit(jax.vmap(lambda p: train.answer(net, p)))(prepared)
    z, noise = scores(predicted, jnp.asarray(batch.rates), jnp.asarray(batch.label_noise))
    there = batch.rates > 0
    exact = (np.sqrt(batch.rates) - predicted.sqrt_mean) / np.where(there, predicted.sqrt_sd, 1)
    npt.assert_allclose(z[there], np.asarray(exact)[there], rtol=1e-4, atol=1e-5)
    assert (np.asarray(z)[~there] == 0).all()
    noisy = batch.label_noise > 0
    assert 0 < noisy.sum() < len(noisy)
    root = np.sqrt(batch.label_noise)
    exact = np.where(noisy, (root - predicted.label_noise_mean) / predicted.label_noise_sd, 0)
    npt.assert_allclose(noise, exact, rtol=1e-4)


def test_jump_network_training_learns(batch):
    """The same batch forty times: the loss falls."""
    net, state, losses = MJPNet(random.key(0)), None, []
    state = train.optimiser(400).init(net)
    for _ in range(40):
        net, state, value = train._step(net, state, batch, 400)
        losses.append(float(value))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 1
    assert not np.asarray(net.sd_correction).any()
    assert not np.asarray(net.presence_correction).any()


def test_jump_network_training_log_scale_gives_the_intervals_their_content():
    """With outliers, which have no say in a quantile: 50 % and 90 %."""
    rng = np.random.default_rng(0)
    known = np.column_stack([np.ones(20_000), rng.uniform(0, 10, 20_000), rng.integers(2, 9, 20_000)])
    weights = np.ones(20_000)
    exact = np.array([0.4, -0.15, 0.1])
    z = np.exp(known @ exact) * rng.normal(size=20_000)
    z[:100] *= 1e4
    found = np.asarray(fit_log_scale(z, known, weights))
    npt.assert_allclose(known @ found, known @ exact, atol=0.1)
    right = np.abs(z) / np.exp(known @ found)
    for level, quantile in ((0.5, 0.6745), (0.9, 1.6449)):
        # the outliers are half a hundredth of all
        assert abs((right < quantile).mean() - level) < 0.02
    few = (known[:, 1] < 2) & (known[:, 2] > 6)
    assert_exact(z_scores(right[few] < 0.6745, 0.5))
    # planted: the scale that is likeliest, which outliers make
    assert np.log(z.std()) > np.log(np.median(np.abs(z)) / 0.6745) + 1


def test_jump_network_training_log_odds_are_made_right():
    """Links that are there less often than was said, where log J is large: a shift and a slope that depend on it."""
    rng = np.random.default_rng(1)
    number = 60_000
    known = np.column_stack([np.ones(number), rng.uniform(0, 10, number), rng.integers(2, 9, number)])
    said = 2 * rng.normal(size=number)
    shift, slope = known @ [0.3, -0.15, 0.05], known @ [0.2, -0.06, 0.0]
    right = shift + (1 + slope) * said + 0.3 * np.maximum(said, 0)
    there = rng.random(number) < 1 / (1 + np.exp(-right))
    found = np.asarray(fit_log_odds(said, there, known, np.ones(number)))
    npt.assert_allclose(found, [[0.3, -0.15, 0.05], [0.2, -0.06, 0.0], [0.3, 0.0, 0.0]], atol=0.12)
    parts = np.asarray(odds_basis(jnp.asarray(said)))
    corrected = 1 / (1 + np.exp(-(said + (parts * (found @ known.T)).sum(0))))
    many = known[:, 1] > 7
    for presence, is_right in ((corrected, True), (1 / (1 + np.exp(-said)), False)):
        middle = many & (presence > 0.25) & (presence < 0.5)
        z = z_scores(there[middle] - presence[middle], 0.0)
        assert (np.abs(z) < 4.5).all() == is_right


def test_jump_network_training_log_odds_count_by_their_weights():
    """A link that counts twice is two links; what has no weight says nothing."""
    rng = np.random.default_rng(2)
    said, uniform = rng.normal(size=500), rng.random(500)
    known = np.column_stack([np.ones(500), rng.normal(size=500)])
    there, weights = uniform < 0.3, rng.integers(0, 3, 500)
    weighted = fit_log_odds(said, there, known, weights)
    repeated = fit_log_odds(*(np.repeat(x, weights, axis=0) for x in (said, there, known)), np.ones(weights.sum()))
    npt.assert_allclose(weighted, repeated, atol=2e-3)
    assert np.abs(np.asarray(fit_log_odds(said, there, known, np.ones(500)) - weighted)).max() > 0.02


def test_jump_network_training_says_where_log_odds_were_not_fitted(monkeypatch):
    monkeypatch.setattr(network_correction, "_SLOPE_TOLERATED", 0.0)
    said, there, ones = np.array([0.0, 0.5, 1.0]), np.array([True, False, True]), np.ones(3)
    with pytest.raises(RuntimeError, match=r"the log odds of 3 links were not fitted, slope \d"):
        fit_log_odds(said, there, ones[:, None], ones)


def test_jump_network_training_loss_is_that_of_its_equation(batch):
    """Equation (1), link by link and process by process in float64."""
    net = MJPNet(random.key(4))
    prepared = jax.jit(jax.vmap(prepare))(batch.statistics)
    predicted, log_odds = jax.jit(jax.vmap(lambda p: train.answer(net, p)))(prepared)
    of_links, of_presence, of_noise, of_noisy = [], [], [], []
    for b, (q, rho) in enumerate(zip(batch.rates, batch.label_noise, strict=True)):
        unit = np.sqrt(float(prepared.base.change_rate[b]))
        for i, j in np.argwhere(~np.eye(len(q), dtype=bool)):
            odds = float(log_odds.links[b, i, j])
            of_presence.append(np.logaddexp(0, -odds if q[i, j] > 0 else odds))
            if q[i, j] > 0:
                sd = float(predicted.sqrt_sd[b, i, j])
                z = (np.sqrt(q[i, j]) - float(predicted.sqrt_mean[b, i, j])) / sd
                of_links.append(np.log(sd / unit) + min(z**2, 100) / 2)
        odds = float(log_odds.label_noise[b])
        of_noisy.append(np.logaddexp(0, -odds if rho > 0 else odds))
        if rho > 0:
            sd = float(predicted.label_noise_sd[b])
            z = (np.sqrt(rho) - float(predicted.label_noise_mean[b])) / sd
            of_noise.append(np.log(sd) + min(z**2, 100) / 2)
    exact = np.mean(of_links) + np.mean(of_presence) + 0.1 * (np.mean(of_noise) + np.mean(of_noisy))
    found = jax.jit(loss)(net, prepared, batch.rates, batch.label_noise)
    npt.assert_allclose(float(found), exact, rtol=1e-4)
