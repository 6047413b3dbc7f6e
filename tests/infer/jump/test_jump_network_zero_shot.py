"""`zero_shot(..., method="network")`: what the network says, as a `RatePosterior`; alone and under vmap."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random

from emberwalk.infer import RatePrior, plot_rates, zero_shot
from emberwalk.kernels.jump import path_statistics, simulate_batch
from emberwalk.kernels.jump.network import load_weights, network_statistics, predict
from tests.house import ROOT
from tests.infer.jump.front_end import ABSENT, CLEAN, NOISE, NOISY, PRESENT, TIMES, Q, away
from tests.statistics import assert_exact, z_scores


@pytest.fixture(scope="module")
def post():
    return zero_shot(TIMES, NOISY, method="network")


def test_jump_network_posterior_finds_rates_links_and_noise(post):
    assert post.method == "network"
    assert np.abs(away(post)).max() < 4
    assert (np.asarray(post.presence)[PRESENT] > 0.9).all()
    assert (np.asarray(post.presence)[ABSENT] < 0.5).all()
    assert abs(float(post.label_noise.mean) - NOISE) < 4 * float(post.label_noise.sd)
    assert post.log_evidence is None
    assert post.reciprocal is None
    assert post.log_rates is None
    assert float(post.by_roots.label_noise_presence) > 0.9
    assert zero_shot(TIMES, CLEAN, label_noise=0.0).method == "refined"


def test_jump_network_posterior_is_what_the_network_says(post):
    found = predict(load_weights(), network_statistics(TIMES, NOISY))
    npt.assert_allclose(post.mean, found.rates, rtol=1e-6)
    npt.assert_allclose(post.presence, found.presence)
    npt.assert_allclose(post.label_noise.mean, found.label_noise, rtol=1e-5)
    npt.assert_allclose(post.mode, np.asarray(found.sqrt_mean) ** 2, rtol=1e-6)
    npt.assert_allclose(float(post.initial.sum()), 1, rtol=1e-6)


def test_jump_network_posterior_draws_have_its_moments_and_quantiles(post):
    draws = np.asarray(post.sample(random.key(1), (20_000,)))
    low, median = (np.asarray(post.quantile(p)) for p in (0.05, 0.5))
    if_present = np.asarray(post.quantile_if_present(0.05))
    mean, sd, w = (np.asarray(x, np.float64) for x in (post.mean, post.sd, post.presence))
    for i, j in np.argwhere(~np.eye(3, dtype=bool)):
        q = draws[:, i, j]
        assert_exact(z_scores(q, mean[i, j]))
        assert_exact(z_scores((q - mean[i, j]) ** 2, sd[i, j] ** 2))
        # by the standard error that w itself has: a link that is nearly sure may be there in all draws
        assert_exact(((q > 0).mean() - w[i, j]) / np.sqrt(max(w[i, j] * (1 - w[i, j]), 1e-12) / len(q)))
        if median[i, j] > 0:
            assert_exact(z_scores(q <= median[i, j], 0.5))
        if low[i, j] > 0:
            assert_exact(z_scores(q <= low[i, j], 0.05))
        assert_exact(z_scores(q[q > 0] <= if_present[i, j], 0.05))
    # links are there or not each by itself
    there = draws > 0
    assert_exact(z_scores(there[:, 0, 2] & there[:, 2, 0], w[0, 2] * w[2, 0]))


def test_jump_network_posterior_draws_of_the_noise_level():
    """Of labels that are right, so that it may be 0."""
    post = zero_shot(TIMES, CLEAN, method="network")
    tree = post.to_datatree(4000)
    noise = tree["posterior"]["label_noise"].to_numpy().ravel()
    assert_exact(z_scores(noise, float(post.label_noise.mean)))
    assert_exact(z_scores((noise - noise.mean()) ** 2, float(post.label_noise.sd) ** 2))
    assert_exact(z_scores(noise > 0, float(post.by_roots.label_noise_presence)))
    assert "log_evidence" not in tree["refinement"]
    assert post.stationary().values.shape == (1000, 3)


def test_jump_network_posterior_prints_and_plots(post):
    assert repr(post).startswith("RatePosterior of 3 states, label noise 0.0")
    assert "by the network" in repr(post)
    plot_rates(post, truth=Q)


def test_jump_network_takes_counts_in_place_of_paths(post):
    found = zero_shot(network_statistics(TIMES, NOISY), method="network")
    npt.assert_array_equal(found.mean, post.mean)


def test_jump_network_zero_shot_under_vmap_is_one_by_one():
    times = np.stack([TIMES, 2 * TIMES])
    labels = np.stack([NOISY, CLEAN])

    def one(t, y):
        return zero_shot(t, y, num_states=3, method="network")

    together = jax.vmap(one)(times, labels)
    compiled = jax.jit(jax.vmap(lambda t, y: one(t, y).mean))(times, labels)
    for at in range(2):
        alone = zero_shot(times[at], labels[at], num_states=3, method="network")
        for name in ("mean", "sd", "presence", "initial", "mode"):
            exact = np.asarray(getattr(alone, name))
            assert np.abs(getattr(together, name)[at] - exact).max() < 1e-5 * np.abs(exact).max() + 1e-7, name
        assert np.abs(compiled[at] - alone.mean).max() < 1e-5 * np.abs(alone.mean).max()
    assert repr(together) == "2 times RatePosterior of 3 states"
    for ask in (lambda: together.quantile(0.5), lambda: together.sample(random.key(0)), together.to_datatree):
        with pytest.raises(ValueError, match="a batch of 2 posteriors"):
            ask()
    one_of_them = jax.tree.map(lambda x: x[1], together)
    assert one_of_them.quantile(0.5).shape == (3, 3)


def test_jump_network_answers_nan_where_labels_in_a_trace_are_no_states():
    mean = jax.jit(lambda y: zero_shot(TIMES, y, num_states=2, method="network").mean)(NOISY)
    assert np.isnan(mean[0, 1])


def test_jump_network_counts_may_be_more_than_a_program_has_integers_for():
    """Thousands of millions of pairs: the estimate that the network begins from is that of their shares."""
    stats = network_statistics(TIMES, CLEAN)
    many = 10**7
    more = jax.tree.map(lambda x: x if x.dtype == float and x.ndim == 1 else x * many, stats)
    assert np.asarray(more.paths.counts).sum(dtype=np.int64) > 2**35
    net = load_weights()
    few, most = (np.asarray(predict(net, s).base)[PRESENT] for s in (stats, more))
    npt.assert_allclose(most, few, rtol=0.05)
    assert np.isfinite(zero_shot(more, method="network").mean).all()


def test_jump_network_weights_are_read_once_and_outlive_the_trace_that_asked():
    """In a new process, in which a trace is the first to ask."""
    code = (
        "import jax, numpy as np\n"
        "from emberwalk.infer import zero_shot\n"
        "y = np.arange(40)[None] // 4 % 2\n"
        "f = lambda y: zero_shot(np.arange(40.0), y, num_states=2, method='network').mean\n"
        "a, b = jax.jit(f)(y), f(y)\n"
        "print(float(abs(a - b).max() / b.max()) < 1e-4)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "True", done.stderr


REFUSED = {
    "prior": ({"prior": RatePrior(shape=0.5)}, r"has that of its training: use method='refined'"),
    "a noise that is known": ({"label_noise": 0.05}, r"label_noise is 0\.05.*use method='refined'"),
    "labels that are right": ({"label_noise": 0.0}, r"label_noise is 0\.0.*use method='refined'"),
    "too few states": ({"num_states": 2}, r"below num_states = 2: 2 in path"),
    "the default prior, given": ({"prior": RatePrior()}, r"has that of its training"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_jump_network_bad_input_of_zero_shot(options, words):
    with pytest.raises(ValueError, match=words):
        zero_shot(TIMES, NOISY, method="network", **options)


def test_jump_network_bad_input_of_zero_shot_data():
    with pytest.raises(ValueError, match=r'"refined" or "network", got \'net\''):
        zero_shot(TIMES, NOISY, method="net")
    with pytest.raises(ValueError, match=r"-1 in path 0 at position 0"):
        zero_shot(TIMES, np.where(np.arange(41) == 0, -1, NOISY), method="network")
    with pytest.raises(ValueError, match=r"more than these counts.*network_statistics"):
        zero_shot(path_statistics(TIMES, NOISY, exact=False), method="network")
    with pytest.raises(ValueError, match=r"states are missing"):
        zero_shot(TIMES, method="network")
    stats = network_statistics(TIMES, NOISY)
    with pytest.raises(ValueError, match=r"give no states and no mask"):
        zero_shot(stats, NOISY, method="network")
    with pytest.raises(ValueError, match=r"num_states is 4, and the counts are of 3"):
        zero_shot(stats, num_states=4, method="network")
    with pytest.raises(ValueError, match=r"traced.*pass num_states="):
        jax.jit(lambda y: zero_shot(TIMES, y, method="network").mean)(jnp.asarray(NOISY))


def test_jump_network_says_where_it_was_not_trained():
    rates = np.ones((9, 9)) - np.eye(9)
    labels = simulate_batch(0, rates, TIMES, 20)
    with pytest.warns(UserWarning, match=r"trained on 2 to 8 states, and these are 9.*method='refined'"):
        zero_shot(TIMES, labels, method="network")
    with pytest.warns(UserWarning, match=r"and these are 9"):
        jax.vmap(lambda y: zero_shot(TIMES, y, num_states=9, method="network").mean)(labels[None])
    with pytest.warns(UserWarning, match=r"No pair of points begins in the states \[3\]"):
        zero_shot(TIMES, NOISY, num_states=4, method="network")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero_shot(TIMES, NOISY, method="network")
