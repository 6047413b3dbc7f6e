"""What is wrong in the input is said before anything is computed: the value, where it stands, the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    RatePrior,
    check_label_noise,
    check_rates,
    coarsen,
    em,
    entropy_production,
    exponentials,
    first_passage_times,
    lag_grid,
    merge,
    pack_paths,
    path_statistics,
    rates_from_vector,
    refine_counts,
    refine_labels,
    sample_observed,
    simulate_batch,
    transition_matrices,
)

TIMES = np.array([0.0, 1.0, 2.0])
LABELS = np.array([[0, 1, 1], [1, 0, 2]])
ALL, NONE = np.ones((2, 3), bool), np.zeros((2, 3), bool)
q = np.array([[0.0, 1.0], [2.0, 0.0]])


def hide(path, position):
    mask = ALL.copy()
    mask[path, position] = False
    return mask


WRONG_PATHS = {
    "float labels": ((TIMES, LABELS * 1.0), r"integers from 0 on, got float64.*give emission="),
    "negative label": ((TIMES, np.array([[0, 1, 1], [1, -1, 2]])), r"-1 in path 1 at position 1"),
    "label beyond num_states": ((TIMES, LABELS, None, 2), r"below num_states = 2: 2 in path 1 at position 2"),
    "times that fall": ((TIMES[[0, 2, 1]], LABELS), r"must not fall.*1\.0 in path 0 at position 2"),
    "times that fall in one path": (
        (np.array([[0, 1, 2], [0, 1, 0.5]]), LABELS),
        r"0\.5 in path 1 at position 2 comes after a later one",
    ),
    "NaN time": ((np.array([[0, 1, 2], [0, np.nan, 2]]), LABELS), r"finite: nan in path 1 at position 1"),
    "two labels at one time": (
        (np.array([0.0, 1.0, 1.0]), LABELS),
        r"0 and 2 at one time in path 1 at position 2.*set label_noise",
    ),
    "one point in each path": ((TIMES[:1], LABELS[:, :1]), r"no path has two points.*2 paths with 2 points"),
    "one time": ((0 * TIMES, 0 * LABELS + np.arange(2)[:, None]), r"no path has two points at different times"),
    "nothing seen": ((TIMES, LABELS, NONE), r"no path has two points.*with 0 points"),
    "one point seen in each path": (
        (TIMES, LABELS, hide(0, [0, 1]) & hide(1, [1, 2])),
        r"no path has two points",
    ),
    "one state": ((TIMES, LABELS * 0), r"only state 0 was seen.*num_states="),
    "one state asked for": ((TIMES, LABELS * 0, None, 1), r"num_states must be at least 2, got 1"),
    "shapes": ((TIMES[:2], LABELS, ALL), r"times \(2,\), states \(2, 3\) and mask \(2, 3\) do not fit"),
    "shape of the mask": ((TIMES, LABELS, ALL[:, :2]), r"states \(2, 3\) and mask \(2, 2\)"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG_PATHS.values(), ids=WRONG_PATHS)
def test_jump_bad_input_paths(arguments, words):
    with pytest.raises(ValueError, match=words):
        path_statistics(*arguments)


def test_jump_bad_input_is_not_looked_at_where_nothing_was_seen():
    labels, times = LABELS.copy(), np.tile(TIMES, (2, 1))
    labels[1, 1], times[1, 1] = -99, np.nan
    stats = path_statistics(times, labels, hide(1, 1))
    assert stats.counts.sum() == 3
    assert lag_grid(times, hide(1, 1)).lags.tolist() == [0, 1, 2]


def test_jump_bad_input_state_that_was_never_seen_has_only_its_prior():
    """Rates out of it, as the prior has them; nothing is NaN."""
    times = np.linspace(0, 5, 60)
    labels = simulate_batch(0, q, times, 30)
    found = refine_counts(path_statistics(times, labels, num_states=3))
    assert np.isfinite(np.asarray(found.mean)).all()
    npt.assert_allclose(found.mean[:2, :2], q, atol=0.4)
    assert (np.asarray(found.presence.probability)[[0, 1], 2] < 0.3).all()
    # it may have been there between two points, less than once in all
    assert float(found.fit.expected.jumps[2].sum()) < 0.5


def test_jump_bad_input_without_any_jump_there_is_a_unit_of_time_still():
    found = refine_counts(path_statistics(TIMES, LABELS * 0, num_states=3))
    assert np.isfinite(np.asarray(found.mean)).all()
    assert np.isfinite(float(found.log_evidence))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (np.array([[0.0, -1.0], [1.0, 0.0]]), r"-1\.0 from state 0 to state 1"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), r"nan from state 1 to state 0"),
        (np.ones((2, 3)), r"\(2, 3\)"),
        (np.ones((1, 1)), r"at least 2, got the shape \(1, 1\)"),
    ],
)
def test_jump_bad_input_rates(rates, words):
    with pytest.raises(ValueError, match=words):
        check_rates(rates)
    for simulate in (
        lambda: sample_observed(jax.random.key(0), rates, TIMES, np.ones(2) / 2),
        lambda: simulate_batch(0, rates, TIMES, 3),
    ):
        with pytest.raises(ValueError, match=words):
            simulate()


def test_jump_bad_input_traced_rates_pass():
    assert jax.jit(lambda q: check_rates(q) or q.sum())(-q) == -3
    assert check_rates(np.diag([-1.0, -2.0]) + q) is None  # a diagonal is not looked at


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (-0.1, r"at least 0 and below \(n - 1\) / n = 0\.5, got -0\.1"),
        (0.5, r"got 0\.5"),
        (np.nan, r"got nan"),
        (np.array([[0.9, 0.1], [0.3, 0.6]]), r"row 1"),
        (np.array([[1.1, -0.1], [0.3, 0.7]]), r"row 0"),
        (np.ones(2), r"shape \(2,\)"),
    ],
)
def test_jump_bad_input_label_noise(noise, words):
    with pytest.raises(ValueError, match=words):
        check_label_noise(noise, 2)


def test_jump_bad_input_label_noise_of_a_refinement():
    stats, grid = path_statistics(TIMES, LABELS), lag_grid(TIMES)
    for noise in (0.0, 0.7):
        with pytest.raises(ValueError, match=rf"label_noise must be above 0.*got {noise}"):
            refine_labels(LABELS, grid, stats, label_noise=noise)


def test_jump_bad_input_traced_times_need_a_grid():
    with pytest.raises(ValueError, match=r"times are traced.*pass grid=lag_grid\(times\)"):
        jax.jit(lambda t: lag_grid(t).lags)(TIMES)
    with pytest.raises(ValueError, match=r"pass grid=lag_grid\(times\) and num_states="):
        jax.jit(lambda t: path_statistics(t, LABELS).counts)(TIMES)
    with pytest.raises(ValueError, match=r"pass grid=lag_grid\(times\)"):
        jax.jit(lambda t: sample_observed(jax.random.key(0), q, t, np.ones(2) / 2))(TIMES)
    grid = lag_grid(TIMES)
    with pytest.raises(ValueError, match=r"lag_bins and grid"):
        jax.jit(lambda t: path_statistics(t, LABELS, None, 3, grid=grid, lag_bins=[0, 9]).counts)(TIMES)
    with pytest.raises(ValueError, match=r"lag_bins and grid"):
        path_statistics(TIMES, LABELS, grid=grid, lag_bins=[0, 9])


def test_jump_bad_input_merged_counts():
    a, b = (path_statistics(TIMES, LABELS, lag_bins=bins) for bins in ([0.5, 3.0], [0.5, 4.0]))
    with pytest.raises(ValueError, match=r"lag_bins differ: \[0\.5 3\. ?\] and \[0\.5 4\. ?\]"):
        merge(a, b)
    with pytest.raises(ValueError, match=r"lag_bins differ: .* and None"):
        merge(a, path_statistics(TIMES, LABELS))
    with pytest.raises(ValueError, match=r"num_states differ: 3 and 4"):
        merge(path_statistics(TIMES, LABELS), path_statistics(TIMES, LABELS, num_states=4))


@pytest.mark.parametrize(
    ("bins", "words"),
    [
        ([1.5, 3.0], r"from 1\.5 to 3, and 4 lags are outside, such as 1"),
        ([3.0, 1.0], "rising"),
        ([1.0], "at least two"),
    ],
)
def test_jump_bad_input_bins(bins, words):
    with pytest.raises(ValueError, match=words):
        path_statistics(TIMES, LABELS, lag_bins=bins)


OPTIONS = {
    "vector": (lambda: rates_from_vector(jnp.ones(5), 3), r"n \(n - 1\) = 6 rates.*\(5,\)"),
    "targets": (lambda: first_passage_times(q, targets=[0, 7]), r"from 0 to 1.*\[0, 7\]"),
    "no targets": (lambda: first_passage_times(q, targets=[]), r"at least one"),
    "floor": (lambda: entropy_production(q, floor=0.0), r"floor must be a positive rate, got 0\.0"),
    "method": (lambda: transition_matrices(q, TIMES, method="eig"), r"got 'eig'"),
    "method of Q": (lambda: exponentials(jnp.eye(2), TIMES, method="expm"), r"got 'expm'"),
    "short times": (lambda: lag_grid(TIMES[:1]), r"at least 2 points.*\(1,\)"),
    "mask of the grid": (lambda: lag_grid(TIMES, np.ones((2, 2), bool)), r"times \(3,\) and mask \(2, 2\)"),
    "bins": (lambda: coarsen(path_statistics(TIMES, LABELS), 0), r"num_bins must be at least 1, got 0"),
    "steps": (lambda: em(None, None, 1.0, 1.0, min_steps=9, max_steps=3), r"got 9 and 3"),
    "shape": (lambda: RatePrior(shape=0.0), r"shape must be a positive number, got 0\.0"),
    "links": (lambda: RatePrior(link_probability=1.0), r"link_probability.*got 1\.0"),
    "reciprocal": (lambda: RatePrior(reciprocal=1.5), r"reciprocal.*got 1\.5"),
    "numbers of paths": (lambda: pack_paths([[0.0]], []), r"got 1 and 0"),
    "lengths of a path": (lambda: pack_paths([[0.0], [0.0, 1.0]], [[0], [1]]), r"path 1 .*\(2,\) and \(1,\)"),
}


@pytest.mark.parametrize(("call", "words"), OPTIONS.values(), ids=OPTIONS)
def test_jump_bad_input_options(call, words):
    with pytest.raises(ValueError, match=words):
        call()
