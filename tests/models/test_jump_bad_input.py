"""What a jump process in a model cannot mean is refused at once: the argument, the value, the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from emberwalk.kernels.jump import LagGrid, lag_grid, path_statistics
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess, load_flashing_ratchet

Q = np.array([[0.0, 1.0, 0.5], [0.25, 0.0, 0.5], [2.0, 0.0, 0.0]])
TIMES = np.array([0.0, 0.3, 1.0, 1.2])
LABELS = np.array([[0, 2, 2, 1], [1, 1, 0, 0]])
STATS = path_statistics(TIMES, LABELS)
LEVELS = dist.Normal(jnp.arange(3.0), 1.0)


def process(rates=Q, times=TIMES, **options):
    return lambda: MarkovJumpProcess(rates, times, **options)


def density(value, rates=Q, times=TIMES, **options):
    return lambda: MarkovJumpProcess(rates, times, **options).log_prob(value)


def counts(rates=Q, statistics=STATS, **options):
    return lambda: MarkovJumpCounts(rates, statistics, **options)


def changed(array, where, value):
    array = np.array(array)
    array[where] = value
    return array


TWO = np.tile(TIMES, (2, 1))
BAD = {
    "negative rate": (process(-Q), r"rates must be .* -1\.0 from state 0 to state 1"),
    "NaN rate": (process(changed(Q, (2, 0), np.nan)), r"nan from state 2 to state 0"),
    "rates that are no matrix": (process(np.ones(3)), r"rates must be \[\.\.\., n, n\].*\(3,\)"),
    "one state": (process(np.ones((1, 1))), r"n at least 2, got the shape \(1, 1\)"),
    "times that fall": (process(times=changed(TIMES, 2, 0.1)), r"times must not fall.*0\.1 at position 2"),
    "times that fall in one path": (
        process(times=changed(TWO, (1, 3), 0.5)),
        r"0\.5 in path 1 at position 3 comes after a later one",
    ),
    "NaN time": (process(times=changed(TWO, (1, 1), np.nan)), r"finite: nan in path 1 at position 1"),
    "one time": (process(times=TIMES[:1]), r"at least 2 points.*\(1,\)"),
    "time without an axis": (process(times=1.0), r"times \(\).*\[\.\.\., L\] is needed"),
    "nothing seen": (process(mask=np.zeros((2, 4), bool)), r"no path has two points.*2 paths with 0 points"),
    "one point seen in each path": (
        process(mask=np.eye(4, dtype=bool)[:2]),
        r"no path has two points.*2 paths with 2 points",
    ),
    "shape of the mask": (process(mask=np.ones(3, bool)), r"times \(4,\) and mask \(3,\) do not fit"),
    "leading axes": (
        process(np.stack([Q] * 3), times=TWO, mask=np.ones(4, bool)),
        r"do not broadcast: rates \(3,\), times \(2,\), grid \(2,\)",
    ),
    "traced times": (
        lambda: jax.jit(lambda t: MarkovJumpProcess(Q, t).log_prob(LABELS))(TIMES),
        r"times are traced.*pass grid=lag_grid\(times\)",
    ),
    "traced mask": (
        lambda: jax.jit(lambda m: MarkovJumpProcess(Q, TIMES, mask=m).log_prob(LABELS))(LABELS > 0),
        r"pass grid=lag_grid",
    ),
    "grid of another length": (process(grid=lag_grid(TIMES[:3])), r"index \(2,\) do not fit times \(4,\).*3\]"),
    "grid of another unit": (
        process(grid=lag_grid(1000 * TIMES)),
        r"grid is of other times or another mask: it has a lag of 300\.0 at position 0, where .* have 0\.3",
    ),
    "grid without the mask": (
        process(times=TWO, mask=np.array([True, False, True, True]), grid=lag_grid(TWO)),
        r"another mask: it has a lag of 0\.3 in path 0 at position 0, where .* have 0\.",
    ),
    "grid whose index is too large": (
        process(grid=LagGrid(np.ones(1), np.array([0, 1, 0]))),
        r"reaches from 0 to 1, and there are 1 lags",
    ),
    "noise too large": (process(label_noise=0.7), r"label_noise must be .* \(n - 1\) / n = 0\.6667, got 0\.7"),
    "negative noise of one path": (process(label_noise=np.array([0.1, -0.1])), r"got -0\.1"),
    "sampled noise that is no probability": (process(label_noise=jnp.float32(1.2)), r"got 1\.2"),
    "rows of noise": (process(label_noise=np.eye(3) * 0.9), r"row 0, the law of the labels of state 0"),
    "noise and emission": (process(label_noise=0.1, emission=LEVELS), r"emission and label_noise .* give one"),
    "emission of other states": (process(emission=dist.Normal(0.0, 1.0)), r"each of the 3 states.*got \(\)"),
    "word for initial": (process(initial="uniform"), r"""None, "stationary" or probabilities, got 'uniform'"""),
    "initial of other states": (process(initial=np.ones(2) / 2), r"3 probabilities.*\(2,\)"),
    "initial that is no law": (process(initial=np.ones(3)), r"sum to 1, got \[1\.0, 1\.0, 1\.0\]"),
    "float labels": (density(LABELS * 1.0), r"integers from 0 on, got float64.*give emission="),
    "traced float labels": (
        lambda: jax.jit(MarkovJumpProcess(Q, TIMES).log_prob)(LABELS * 1.0),
        r"integers from 0 on, got float32.*give emission=",
    ),
    "negative label": (density(changed(LABELS, (1, 2), -1)), r"-1 in path 1 at position 2"),
    "label beyond": (density(changed(LABELS, (1, 2), 3)), r"below num_states = 3: 3 in path 1 at position 2"),
    "noisy label beyond": (density(LABELS + 1, label_noise=0.1), r"3 in path 0 at position 1"),
    "two labels at one time": (
        density(LABELS, times=changed(TIMES, 1, 0.0)),
        r"2 in path 0 at position 1 at the time of another label before it.*set label_noise",
    ),
    "two labels at one time around a gap": (
        density(LABELS, times=changed(TIMES, 2, 0.0), mask=np.array([True, False, True, True])),
        r"2 in path 0 at position 2 at the time of another",
    ),
    "length of the labels": (density(LABELS[:, :3]), r"shape \(2, 3\), and the batch shape is \(\).*\(4,\)"),
    "number of paths": (
        density(np.zeros((3, 4), int), times=TWO),
        r"shape \(3, 4\), and the batch shape is \(2,\)",
    ),
    "counts of other states": (counts(Q[:2, :2]), r"with the n = 2 of rates, got the shape \(3, 3, 3\)"),
    "counts of a negative rate": (counts(-Q), r"-1\.0 from state 0 to state 1"),
    "counts and lags": (
        counts(statistics=STATS._replace(lags=STATS.lags[:1])),
        r"lags \(1,\) and counts \(3, 3, 3\) do not fit",
    ),
    "counts with an initial that is no law": (counts(initial=np.ones(3)), r"sum to 1"),
    "other counts": (
        lambda: counts()().log_prob(STATS.counts[:1]),
        r"MarkovJumpCounts: a value has the shape \(1, 3, 3\)",
    ),
    "ratchet of another potential": (lambda: load_flashing_ratchet(2), r"0 or 1, got 2.*simulate_batch"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_jump_bad_input_of_a_model_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_jump_bad_input_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"emission must be a NumPyro distribution, got ndarray"):
        MarkovJumpProcess(Q, TIMES, emission=np.zeros(3))
    with pytest.raises(TypeError, match=r"what path_statistics returns, got ndarray.*MarkovJumpProcess"):
        MarkovJumpCounts(Q, LABELS)


def test_jump_bad_input_counts_cannot_be_drawn():
    with pytest.raises(NotImplementedError, match=r"Draw paths from MarkovJumpProcess\(rates, times\)"):
        MarkovJumpCounts(Q, STATS).sample(random.key(0))


@pytest.mark.parametrize("noise", [None, 0.1])
def test_jump_bad_input_that_is_traced_has_no_density(noise):
    """What cannot be seen in time is NaN, which kernels count and SVI shows."""

    @jax.jit
    def log_prob(rates, labels):
        return MarkovJumpProcess(rates, TIMES, label_noise=noise).log_prob(labels)

    assert np.isfinite(log_prob(Q, LABELS)).all()
    assert np.isnan(log_prob(-Q, LABELS)).all()
    assert np.isnan(log_prob(changed(Q, (0, 1), np.nan), LABELS)).all()
    assert np.isnan(log_prob(Q, changed(LABELS, (1, 2), 3))).tolist() == [False, True]
    of_counts = jax.jit(lambda q: MarkovJumpCounts(q, STATS).log_prob(STATS.counts))
    assert np.isfinite(of_counts(Q))
    assert np.isnan(of_counts(-Q))


def test_jump_bad_input_is_not_looked_at_where_nothing_was_seen():
    """NaN times, labels that are none, two of them at one time."""
    mask = np.array([[True, True, False, True], [True, False, True, True]])
    times, labels = changed(TWO, ~mask, np.nan), changed(LABELS, ~mask, -99)
    found = MarkovJumpProcess(Q, times, mask=mask).log_prob(labels)
    assert np.isfinite(found).all()
    repeated = MarkovJumpProcess(Q, np.array([0.0, 0.3, 0.3, 0.3]), mask=mask[0])
    assert np.isfinite(repeated.log_prob(np.array([0, 1, 2, 1])))


def test_jump_bad_input_is_not_seen_in_a_draw():
    """A prior on (0, 1) starts above (n - 1) / n for a third of all keys where there are two states."""
    law = MarkovJumpProcess(Q[:2, :2], TIMES, label_noise=jnp.array(0.7))
    mirrored = MarkovJumpProcess(Q[:2, :2], TIMES, label_noise=0.3)
    np.testing.assert_allclose(law.log_prob(LABELS % 2), mirrored.log_prob(1 - LABELS % 2), rtol=1e-5)


def test_jump_bad_input_is_let_through_without_validation():
    """Labels beyond the states: no error, and no number either."""
    law = MarkovJumpProcess(Q, TIMES, validate_args=False)
    assert np.isnan(law.log_prob(LABELS + 2)).all()


def test_jump_bad_input_noise_of_a_sample_may_be_anywhere():
    """NumPyro begins its search at values that the prior hardly has."""
    law = MarkovJumpProcess(Q, TIMES, label_noise=jnp.float32(0.7))
    assert np.isfinite(law.log_prob(LABELS)).all()


def test_jump_bad_input_names_the_argument_inside_a_model():
    def model():
        with numpyro.plate("paths", 2):
            numpyro.sample("y", MarkovJumpProcess(Q, TIMES, label_noise=0.9), obs=LABELS)

    with pytest.raises(ValueError, match="label_noise must be"):
        numpyro.handlers.trace(model).get_trace()


def test_jump_bad_input_many_labels_in_float32_are_warned_of():
    with pytest.warns(UserWarning, match=r"1000002 labels.*MarkovJumpCounts\(\.\.\., relative=True\)"):
        MarkovJumpProcess(Q, np.arange(3.0)).log_prob(np.zeros((333_334, 3), int))
