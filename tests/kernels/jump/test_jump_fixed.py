"""Numbers known to all printed digits, in both precisions, and bugs that would change them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    confusion_matrix,
    count_log_likelihood,
    entropy_production,
    first_passage_times,
    forward,
    label_log_emission,
    lag_grid,
    path_statistics,
    relaxation_times,
    stationary,
    transition_matrices,
)
from tests.kernels.jump.processes import (
    ALANINE,
    INITIAL3,
    LABELS3,
    Q3,
    TIMES3,
    ratchet,
)

LOG_LIKELIHOOD = {0.0: -7.520295, 0.15: -5.641921}
EMISSIONS = -5.986320
CURRENT, LEVELS, SD = np.array([[0.2, 2.7, 1.4, 0.9]]), np.array([0.0, 1.0, 3.0]), 0.5
DIGITS = 5e-7


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def precision(request):
    """Half a unit of the sixth digit, and what float32 adds to a number of size 7."""
    with jax.enable_x64(request.param):
        yield DIGITS if request.param else 3e-6


def labels_of(noise):
    return label_log_emission(LABELS3, noise, 3)


def current():
    away = (jnp.asarray(CURRENT)[..., None] - LEVELS) / SD
    return -(away**2) / 2 - jnp.log(SD * jnp.sqrt(2 * jnp.pi))


def log_likelihood(log_emission, table=lambda P: P, shift=0, q=Q3, initial=INITIAL3):
    grid = lag_grid(TIMES3)
    P = table(transition_matrices(jnp.asarray(q, float), grid.lags))
    index = (grid.index + shift) % len(grid.lags)
    return float(forward(log_emission, P, index, jnp.asarray(initial, float))[0][0])


@pytest.mark.parametrize("noise", LOG_LIKELIHOOD)
def test_jump_fixed_log_likelihood_of_labels(noise, precision):
    assert log_likelihood(labels_of(noise)) == pytest.approx(LOG_LIKELIHOOD[noise], abs=precision)


def test_jump_fixed_log_likelihood_of_emissions(precision):
    assert log_likelihood(current()) == pytest.approx(EMISSIONS, abs=precision)


def test_jump_fixed_log_likelihood_of_counts(precision):
    """The same without a filter."""
    stats = path_statistics(TIMES3, LABELS3)
    P = transition_matrices(jnp.asarray(Q3, float), stats.lags)
    found = float(count_log_likelihood(P, stats)) + np.log(INITIAL3[0])
    assert found == pytest.approx(LOG_LIKELIHOOD[0.0], abs=precision)


def test_jump_fixed_stationary_law_and_first_passage(precision):
    npt.assert_allclose(stationary(jnp.asarray(Q3, float)), np.array([12, 16, 7]) / 35, rtol=precision)
    exact = np.array([[0, 1.25, 2], [5 / 3, 0, 2], [0.5, 1.75, 0]])
    npt.assert_allclose(first_passage_times(jnp.asarray(Q3, float)), exact, rtol=precision)


def test_jump_fixed_relaxation_times(precision):
    found = relaxation_times(jnp.asarray(Q3, float))
    npt.assert_allclose(found.times, [1 / 1.75, 1 / 2.5], rtol=precision)
    assert not found.oscillating.any()


def test_jump_fixed_flashing_ratchet(precision):
    q = jnp.asarray(ratchet(), float)
    npt.assert_allclose(stationary(q), [0.3012, 0.1365, 0.0623, 0.2003, 0.1591, 0.1406], atol=5e-5)
    npt.assert_allclose(relaxation_times(q).times, [0.5, 0.3496, 0.2806, 0.2050, 0.1589], atol=6e-5)
    passage = first_passage_times(q)
    npt.assert_allclose([passage[0, 2], passage[2, 0]], [2.9653, 0.7899], atol=5e-5)


PRODUCED = {0.0: 0.0, 0.25: 0.012406, 0.5: 0.048541, 0.75: 0.105474, 1.0: 0.179194}


def test_jump_fixed_entropy_production(precision):
    found = entropy_production(jnp.stack([jnp.asarray(ratchet(V), float) for V in PRODUCED]))
    npt.assert_allclose(found, list(PRODUCED.values()), atol=precision)


def test_jump_fixed_alanine(precision):
    q = jnp.asarray(ALANINE, float)
    npt.assert_allclose(stationary(q), [0.298, 0.312, 0.232, 0.097, 0.053, 0.008], atol=5e-4)
    relaxation = relaxation_times(q)
    assert float(relaxation.times[0]) == pytest.approx(0.691, abs=5e-4)
    assert relaxation.oscillating.sum() == 2
    npt.assert_allclose(-1 / relaxation.times[relaxation.oscillating], -113.6, atol=0.05)
    assert float(entropy_production(q)) == pytest.approx(1.0327, abs=5e-5)


# Planted bugs

SKEWED = np.array([[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.3, 0.1, 0.6]])


def test_jump_planted_transposed_transitions_change_the_fixed_number():
    wrong = log_likelihood(labels_of(0.15), table=lambda P: jnp.swapaxes(P, 1, 2))
    assert abs(wrong - LOG_LIKELIHOOD[0.15]) > 0.1


def test_jump_planted_transposed_confusion_shows_with_an_asymmetric_matrix(x64):
    right = log_likelihood(labels_of(SKEWED))
    alpha = INITIAL3 * SKEWED[:, LABELS3[0, 0]]
    grid = lag_grid(TIMES3)
    P = np.asarray(transition_matrices(jnp.asarray(Q3), grid.lags))
    for step, label in enumerate(LABELS3[0, 1:]):
        alpha = (alpha @ P[grid.index[0, step]]) * SKEWED[:, label]
    assert right == pytest.approx(np.log(alpha.sum()), abs=1e-10)
    assert abs(log_likelihood(labels_of(SKEWED.T)) - right) > 0.1


def test_jump_planted_lag_of_another_step_changes_the_fixed_number():
    assert abs(log_likelihood(labels_of(0.15), shift=1) - LOG_LIKELIHOOD[0.15]) > 0.1


def test_jump_planted_label_replaced_by_any_changes_the_fixed_number():
    """rho meaning "replaced by any of n" is wrong by a third."""
    replaced = label_log_emission(LABELS3, 0.15 * 2 / 3, 3)
    assert abs(log_likelihood(replaced) - LOG_LIKELIHOOD[0.15]) > 0.1
    rows = np.asarray(confusion_matrix(0.15, 3))
    npt.assert_allclose(np.diag(rows), 0.85, rtol=1e-6)
    npt.assert_allclose(rows.sum(1), 1, rtol=1e-6)


def test_jump_planted_mask_that_keeps_the_lag_of_what_was_not_seen(x64):
    """A fifth point that was not seen: nothing changes, unless its lag is kept and another point follows."""
    times = np.array([[0.0, 0.3, 77.0, 1.0, 1.2]])
    labels, mask = np.array([[0, 2, -9, 2, 1]]), np.array([[True, True, False, True, True]])
    grid = lag_grid(times, mask)
    P = transition_matrices(jnp.asarray(Q3), grid.lags)
    found = float(forward(label_log_emission(labels, 0.15, 3), P, grid.index, INITIAL3, mask)[0][0])
    assert found == pytest.approx(LOG_LIKELIHOOD[0.15], abs=DIGITS)
    kept = lag_grid(np.array([[0.0, 0.3, 0.9, 1.6, 1.8]]))
    P = transition_matrices(jnp.asarray(Q3), kept.lags)
    wrong = float(forward(label_log_emission(labels, 0.15, 3), P, kept.index, INITIAL3, mask)[0][0])
    assert abs(wrong - LOG_LIKELIHOOD[0.15]) > 1e-3
