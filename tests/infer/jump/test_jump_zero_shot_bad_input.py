"""What is wrong with the data is said by `zero_shot` as by the kernels: the value, where it stands, the way out."""

import jax
import numpy as np
import pytest

from emberwalk.infer import RatePrior, zero_shot
from emberwalk.kernels.jump import path_statistics
from tests.infer.jump import front_end

TIMES = np.array([0.0, 1.0, 2.0])
LABELS = np.array([[0, 1, 1], [1, 0, 2]])
NONE = np.zeros((2, 3), bool)
STATS = path_statistics(TIMES, LABELS)

WRONG = {
    "float labels": ((TIMES, LABELS * 1.0), {}, r"integers from 0 on, got float64.*give emission="),
    "negative label": ((TIMES, np.array([[0, 1, 1], [1, -1, 2]])), {}, r"-1 in path 1 at position 1"),
    "label beyond num_states": ((TIMES, LABELS, None, 2), {}, r"below num_states = 2: 2 in path 1 at position 2"),
    "times that fall": ((TIMES[[0, 2, 1]], LABELS), {}, r"must not fall.*in path 0 at position 2"),
    "NaN time": ((np.array([[0, 1, 2], [0, np.nan, 2]]), LABELS), {}, r"finite: nan in path 1 at position 1"),
    "two labels at one time": (
        (np.array([0.0, 1.0, 1.0]), LABELS), {"label_noise": 0.0}, r"0 and 2 at one time.*set label_noise"
    ),
    "one point in each path": ((TIMES[:1], LABELS[:, :1]), {}, r"no path has two points"),
    "nothing seen": ((TIMES, LABELS, NONE), {}, r"no path has two points.*with 0 points"),
    "one state": ((TIMES, LABELS * 0), {}, r"only state 0 was seen.*num_states="),
    "shapes": ((TIMES[:2], LABELS, NONE), {}, r"times \(2,\), states \(2, 3\) and mask \(2, 3\) do not fit"),
    "no states": ((TIMES,), {}, r"states are missing"),
    "negative noise": ((TIMES, LABELS), {"label_noise": -0.1}, r"below \(n - 1\) / n = 0\.6667, got -0\.1"),
    "noise of chance": ((TIMES, LABELS), {"label_noise": 2 / 3}, r"got 0\.666"),
    "NaN noise": ((TIMES, LABELS), {"label_noise": np.nan}, r"got nan"),
    "word for noise": ((TIMES, LABELS), {"label_noise": "learn"}, r"must be \"infer\" or a number, got 'learn'"),
    "switch for noise": ((TIMES, LABELS), {"label_noise": True}, r"got True"),
    "matrix of noise": ((TIMES, LABELS), {"label_noise": np.eye(3)}, r"MarkovJumpProcess"),
    "counts and states": ((STATS, LABELS), {}, r"give no states and no mask"),
    "counts and a mask": ((STATS, None, NONE), {}, r"give no states and no mask"),
    "counts with noise": ((STATS,), {}, r"'infer', and counts cannot say.*pass label_noise=0\.0"),
    "counts of other states": (
        (STATS, None, None, 4), {"label_noise": 0.0}, r"num_states is 4, and the counts are of 3"
    ),
    "no counts": ((STATS._replace(counts=STATS.counts * 0),), {"label_noise": 0.0}, r"counts are all 0"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "words"), WRONG.values(), ids=WRONG)
def test_jump_bad_input_of_zero_shot(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        zero_shot(*arguments, **options)


def test_jump_bad_input_prior_of_another_kind():
    with pytest.raises(TypeError, match=r"prior must be a RatePrior, got float"):
        zero_shot(TIMES, LABELS, prior=2.0)
    with pytest.raises(ValueError, match=r"link_probability"):
        zero_shot(TIMES, LABELS, prior=RatePrior(link_probability=0.0))


def test_jump_bad_input_traced_data_are_sent_to_the_kernels():
    with pytest.raises(ValueError, match=r"these are traced.*refine_counts"):
        jax.jit(lambda t: zero_shot(t, LABELS).mean)(TIMES)
    with pytest.raises(ValueError, match=r"these are traced"):
        jax.vmap(lambda y: zero_shot(TIMES, y).mean)(LABELS)


def test_jump_bad_input_rates_that_are_not_finite_are_an_error(monkeypatch):
    """No NaN reaches a user: here the kernels are made to return one."""
    from emberwalk.infer.jump import zero_shot as module
    from emberwalk.kernels.jump import refine_counts

    def broken(stats, prior, tell=None):
        found = refine_counts(stats, prior)
        return found._replace(mean=found.mean.at[1, 0].set(np.nan))

    monkeypatch.setattr(module, "refine_counts", broken)
    with pytest.raises(RuntimeError, match=r"no finite rate from state 1 to state 0: nan.*float64"):
        zero_shot(front_end.TIMES, front_end.CLEAN, label_noise=0.0)
