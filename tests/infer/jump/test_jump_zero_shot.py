"""`zero_shot` from paths to a posterior: what it takes, which road it goes, what it says meanwhile."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.infer import RatePrior, zero_shot
from emberwalk.infer.jump.progress import progress_text
from emberwalk.infer.jump.report import noise_correlation, sentences
from emberwalk.infer.jump.zero_shot import _has_contradictions, _read
from emberwalk.kernels.jump import lag_grid, pack_paths, path_statistics, rates_to_vector, simulate_batch
from emberwalk.kernels.jump.transition import padded_lags
from tests.infer.jump.front_end import (
    ABSENT,
    CLEAN,
    NOISE,
    NOISY,
    NUM_PATHS,
    PRESENT,
    TIMES,
    Q,
    as_arrays,
    away,
    clean,
    noisy,
)
from tests.laws.runs import compilations

pytestmark = pytest.mark.xdist_group("jump-front-end")  # what is fitted once serves all


def assert_same(a, b):
    for x, y in zip(as_arrays(a), as_arrays(b), strict=True):
        npt.assert_array_equal(x, y)


@pytest.mark.parametrize("found", [clean, noisy], ids=["clean", "noisy"])
def test_jump_zero_shot_finds_rates_and_links_as_far_as_it_says(found):
    post = found()
    assert np.abs(away(post)).max() < 4.5, away(post)
    presence = np.asarray(post.presence)
    assert (presence[PRESENT] > 0.95).all()
    assert (presence[ABSENT] < 0.3).all()
    assert not np.asarray(post.no_data).any()
    assert bool(post.converged)
    assert post.num_states == 3
    assert float(post.initial.sum()) == pytest.approx(1, rel=1e-5)


def test_jump_zero_shot_planted_transposed_rates_are_far_away():
    assert np.abs(away(clean(), Q.T)).max() > 8


def test_jump_zero_shot_finds_the_noise_level():
    level = noisy().label_noise
    assert abs(float(level.mean) - NOISE) < 4.5 * float(level.sd)
    assert 0.003 < float(level.sd) < 0.03


def test_jump_zero_shot_takes_clean_labels_as_right():
    """Where less than one wrong label is thought to be there all is as with label_noise=0.0.

    Ten times slower than the others: jumps forth and back within three points could be wrong labels.
    """
    slow = simulate_batch(1, Q / 10, TIMES, NUM_PATHS)
    found = zero_shot(TIMES, slow)
    assert float(found.label_noise.mean) == 0
    assert_same(found, zero_shot(TIMES, slow, label_noise=0.0))


@pytest.mark.nightly
def test_jump_zero_shot_holds_a_noise_that_is_given():
    found = zero_shot(TIMES, NOISY, label_noise=NOISE)
    assert float(found.label_noise.mean) == pytest.approx(NOISE)
    assert float(found.label_noise.sd) == 0
    assert np.abs(away(found)).max() < 4.5
    # what is known need not be found: rates are known a little better
    assert np.asarray(found.sd)[PRESENT].sum() < np.asarray(noisy().sd)[PRESENT].sum()


def test_jump_zero_shot_planted_noise_of_any_label_is_another_level():
    """Labels replaced by any of n, itself among them: a third of them stay right."""
    rng = np.random.default_rng(0)
    replaced = rng.random(CLEAN.shape) < 0.3
    level = zero_shot(TIMES, np.where(replaced, rng.integers(0, 3, CLEAN.shape), CLEAN)).label_noise
    assert abs(float(level.mean) - 0.2) < 4.5 * float(level.sd)
    assert abs(float(level.mean) - 0.3) > 4.5 * float(level.sd)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 0, 1, 0], True), ([0, 1, 1, 0], False)])
def test_jump_zero_shot_knows_that_two_labels_at_one_time_are_not_both_right(labels, wrong):
    """Few as they are, and whatever EM thinks of the noise; a point between them that was not seen hides nothing."""
    times = np.array([[0.0, 1.0, 7.0, 1.0, 2.0]])
    seen = np.array([[True, True, False, True, True]])
    packed = np.array([[*labels[:2], 9, *labels[2:]]])
    assert _has_contradictions(_read(times, packed, seen, 2)) is wrong
    assert _has_contradictions(_read(TIMES, NOISY, None, None)) is False


@pytest.mark.nightly
def test_jump_zero_shot_does_not_take_contradictions_as_right():
    """The noise that they speak for is below one label."""
    found = zero_shot(np.array([[0.0, 1.0, 1.0, 2.0]]), np.array([[0, 0, 1, 0]]))
    assert float(found.label_noise.mean) > 0.01


def test_jump_zero_shot_takes_arrays_of_numpy_and_of_jax_alike():
    found = zero_shot(jnp.asarray(TIMES), jnp.asarray(CLEAN), jnp.ones(CLEAN.shape, bool), label_noise=0.0)
    assert_same(found, clean())


def test_jump_zero_shot_takes_counts():
    stats = path_statistics(TIMES, CLEAN)
    assert_same(zero_shot(stats, label_noise=0.0), clean())


def packed_and_masked(seen):
    """Paths of other lengths, packed; and whole ones with anything where nothing was seen."""
    packed = pack_paths([TIMES[m] for m in seen], [y[m] for y, m in zip(CLEAN, seen, strict=True)])
    return packed, (np.where(seen, TIMES, np.nan), np.where(seen, CLEAN, -7), seen)


def test_jump_zero_shot_does_not_look_where_nothing_was_seen():
    seen = np.arange(41) < np.random.default_rng(3).integers(2, 42, (NUM_PATHS, 1))
    packed, masked = packed_and_masked(seen)
    assert_same(zero_shot(*packed, label_noise=0.0), zero_shot(*masked, label_noise=0.0))


@pytest.mark.nightly
@pytest.mark.parametrize("noise", [0.0, "infer"])
def test_jump_zero_shot_does_not_look_between_points_either(noise, x64):
    """In float64: in float32 sums in another order change curvatures, which are differences, by 2e-4."""
    seen = np.random.default_rng(3).random(CLEAN.shape) < 0.8
    packed, masked = packed_and_masked(seen)
    for x, y in zip(
        *(as_arrays(zero_shot(*paths, label_noise=noise)) for paths in (packed, masked)), strict=True
    ):
        npt.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("noise", [0.0, NOISE], ids=["clean", "noisy"])
def test_jump_zero_shot_takes_irregular_times(noise):
    rng = np.random.default_rng(4)
    times = np.sort(rng.uniform(0, 8, (NUM_PATHS, 41)).round(1), 1)
    fine = np.linspace(0, 8, 81)
    states = simulate_batch(5, Q, fine, NUM_PATHS, label_noise=noise or None)
    at = np.searchsorted(fine, times - 1e-9)
    found = zero_shot(fine[at], np.take_along_axis(states, at, 1), label_noise="infer" if noise else 0.0)
    assert np.abs(away(found)).max() < 4.5


def test_jump_zero_shot_gives_a_state_that_was_never_seen_only_its_prior():
    """Two of three states, number 1 not among them."""
    two = 2 * simulate_batch(7, np.array([[0.0, 1.0], [2.0, 0.0]]), TIMES, NUM_PATHS)
    with pytest.warns(UserWarning, match=r"No pair of points begins in the states \[1\].*prior"):
        found = zero_shot(TIMES, two, label_noise=0.0)
    assert np.asarray(found.no_data).tolist() == [False, True, False]
    assert np.isfinite(np.asarray(found.mean)).all()
    assert (np.asarray(found.presence)[[0, 2], 1] < 0.4).all()
    assert sum("no data" in line for line in repr(found).splitlines()) == 2


@pytest.mark.nightly
def test_jump_zero_shot_takes_a_prior():
    """A reciprocal graph for sure, all links nearly sure."""
    found = zero_shot(TIMES, CLEAN, label_noise=0.0, prior=RatePrior(link_probability=0.999, reciprocal=1.0))
    assert float(found.reciprocal) == 1
    assert (np.asarray(found.presence)[ABSENT] > np.asarray(clean().presence)[ABSENT]).all()


def test_jump_zero_shot_compiles_once_for_a_shape():
    """Other data, in another unit of time."""
    wrong, right = (simulate_batch(9, Q, TIMES, NUM_PATHS, label_noise=noise) for noise in (0.1, None))
    clean(), noisy()
    with compilations() as events:
        zero_shot(3 * TIMES, wrong)
        zero_shot(3 * TIMES, right, label_noise=0.0)
    assert not events


@pytest.mark.nightly
def test_jump_zero_shot_compiles_once_for_any_noise_that_is_given_and_many_irregular_times():
    rng = np.random.default_rng(0)
    irregular = [np.sort(rng.uniform(0, 2, (NUM_PATHS, 41)), 1)[:, :-more] for more in (1, 2, 3)]
    zero_shot(TIMES, NOISY, label_noise=NOISE)
    zero_shot(irregular[0], CLEAN[:, :-1], label_noise=0.0)
    with compilations() as events:
        zero_shot(TIMES, NOISY, label_noise=0.11)
    assert not events
    sizes = {len(padded_lags(lag_grid(times).lags)) for times in irregular}
    assert len(sizes) < 3  # of tables of 2400, 2340 and 2280 lags


@pytest.mark.nightly
def test_jump_zero_shot_is_told_step_by_step(capfd):
    """The bar with each step of both iterations; the answer is that without it."""
    found = zero_shot(TIMES, CLEAN, label_noise=0.0, progress_bar=True)
    said = capfd.readouterr().err
    assert "EM step" in said
    assert "Newton step" in said
    for x, y in zip(as_arrays(found), as_arrays(clean()), strict=True):
        npt.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


WORDS = {
    "not converged": ({"converged": jnp.asarray(False)}, r"did not reach the mode.*ZeroShotMJP"),
    "clipped": ({"num_clipped_lags": jnp.asarray(3)}, r"^3 lags are so long.*float64"),
    "no data": ({"no_data": jnp.array([True, False, True])}, r"states \[0, 2\].*no_data"),
}


@pytest.mark.parametrize(("fields", "words"), WORDS.values(), ids=WORDS)
def test_jump_zero_shot_has_a_sentence_for_each_worry(fields, words):
    assert sentences(clean()) == sentences(noisy()) == []
    (sentence,) = sentences(dataclasses.replace(clean(), **fields))
    assert re.search(words, sentence)


def test_jump_zero_shot_says_where_noise_cannot_be_told_from_fast_jumps():
    """Were the noise to move with the fastest exit, as it does on coarse grids."""
    post = noisy()
    cov = np.asarray(post.log_rates.cov).copy()
    shares = np.append(np.where(np.arange(6) // 2 == 1, np.asarray(rates_to_vector(post.mean)), 0), 0)
    shares /= shares.sum()
    sd_exit = np.sqrt(shares @ cov @ shares)
    assert noise_correlation(post) == pytest.approx(
        shares @ cov[:, -1] / sd_exit / np.sqrt(cov[-1, -1]), rel=1e-4
    )
    assert -0.8 < noise_correlation(post) < 0
    # noise = -exit + a little: what is left of its own is a tenth of its sd
    row = -(cov @ shares)
    cov[-1, :-1] = cov[:-1, -1] = row[:-1]
    cov[-1, -1] = 1.1 * sd_exit**2
    tied = dataclasses.replace(post, log_rates=post.log_rates._replace(cov=jnp.asarray(cov)))
    (sentence,) = sentences(tied)
    assert re.search(r"have the correlation -0\.95.*Give label_noise=", sentence)
    assert noise_correlation(clean()) == 0


@pytest.mark.nightly
def test_jump_zero_shot_warns_on_coarse_grids():
    """A jump a lag, and wrong labels: -.93."""
    q, times = np.array([[0.0, 3.0], [2.0, 0.0]]), 0.4 * np.arange(30)
    with pytest.warns(UserWarning, match=r"have the correlation -0\.\d\d.*Give label_noise="):
        zero_shot(times, simulate_batch(3, q, times, 300, label_noise=0.1))


def test_jump_zero_shot_progress_text():
    assert progress_text("Newton", 2, 0.5) == "Newton step 2, nats to gain 0.5"


def test_jump_zero_shot_result_goes_through_jit():
    post = clean()
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: x + x, p.mean))(post)
    npt.assert_allclose(doubled, 2 * np.asarray(post.mean))
    assert jax.jit(lambda p: jnp.zeros(len(repr(p))))(post).shape == (
        len("RatePosterior of 3 states, traced"),
    )
