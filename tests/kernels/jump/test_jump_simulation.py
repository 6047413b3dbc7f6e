"""Simulated frequencies against expm, by chi-square for each state and lag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats

from emberwalk.kernels.jump import confusion_matrix, gillespie, sample_observed, simulate_batch, stationary
from tests.kernels.jump.processes import exact_transitions, random_rates
from tests.statistics import assert_caught, assert_exact, z_scores

Q = random_rates(np.random.default_rng(3), 3)
Q[1, 0] = 0.0
TIMES = np.array([0.0, 0.2, 0.9, 1.0, 3.5])
INITIAL = np.array([0.2, 0.5, 0.3])
PATHS = 20_000


def normal_scores(paths, q=Q, noise=None):
    """One z for each first state, and each row of each lag: a chi-square as a normal deviate."""
    paths = np.asarray(paths)
    found = [_score(np.bincount(paths[:, 0], minlength=3), INITIAL if noise is None else INITIAL @ noise)]
    for step, P in enumerate(exact_transitions(q, np.diff(TIMES))):
        for state in range(3):
            after = paths[paths[:, step] == state, step + 1]
            found.append(_score(np.bincount(after, minlength=3), P[state]))
    return np.array(found)


def _score(counts, probabilities):
    assert counts[probabilities < 1e-12].sum() == 0
    expected = counts.sum() * np.clip(probabilities, 1e-300, None)
    return stats.norm.isf(stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), 2))


@jax.jit
def all_jumps(key, q):
    """States of Gillespie's paths at the times."""
    paths = jax.vmap(lambda k: gillespie(k, q, INITIAL, TIMES[-1], 40))(random.split(key, PATHS))
    at = jax.vmap(lambda jumps: jnp.searchsorted(jumps, TIMES, side="right") - 1)(paths.times)
    # the rest of a path stands at t_end, with the last state
    return jnp.take_along_axis(paths.states, at, 1), paths.truncated.any(), paths.num_jumps


def test_jump_simulated_labels_have_the_frequencies_of_expm():
    times = np.broadcast_to(TIMES, (PATHS, 5))
    assert_exact(normal_scores(sample_observed(random.key(0), jnp.float32(Q), times, INITIAL)))


def test_jump_simulated_jumps_have_the_frequencies_of_expm():
    paths, truncated, num_jumps = all_jumps(random.key(1), jnp.float32(Q))
    assert not truncated
    assert_exact(normal_scores(paths))
    # expected jumps: the exit rate, integrated along the process
    grid = np.linspace(0, TIMES[-1], 400)
    expected = np.trapezoid(exact_transitions(Q, grid).transpose(0, 2, 1) @ INITIAL @ Q.sum(1), grid)
    assert_exact(z_scores(num_jumps, expected))


def test_jump_simulated_numpy_paths_have_the_frequencies_of_expm():
    assert_exact(normal_scores(simulate_batch(0, Q, TIMES, PATHS, INITIAL)))


@pytest.mark.parametrize("wrong", [Q.T, 1.3 * Q], ids=["transposed", "a third fast"])
def test_jump_planted_rates_of_another_process_are_caught(wrong):
    assert_caught(normal_scores(simulate_batch(0, wrong, TIMES, PATHS, INITIAL)))


def test_jump_simulated_wrong_labels_have_the_frequencies_of_the_confusion_matrix():
    times = np.broadcast_to(TIMES, (PATHS, 5))
    skewed = np.array([[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.3, 0.1, 0.6]])
    for noise in (0.3, skewed):
        E = np.asarray(confusion_matrix(noise, 3), np.float64)
        labels = sample_observed(random.key(2), jnp.float32(Q), times, INITIAL, label_noise=noise)
        if np.ndim(noise) == 0:
            drawn = {"jax": labels, "numpy": simulate_batch(2, Q, TIMES, PATHS, INITIAL, label_noise=noise)}
        else:
            drawn = {"jax": labels}
        P = exact_transitions(Q, TIMES)
        for paths in drawn.values():
            scores = [
                _score(np.bincount(np.asarray(paths)[:, at], minlength=3), INITIAL @ P[at] @ E)
                for at in range(5)
            ]
            assert_exact(scores)


def test_jump_simulated_paths_start_in_the_stationary_law_unless_told():
    paths = simulate_batch(5, Q, TIMES, PATHS)
    law = np.asarray(stationary(Q), np.float64)
    assert_exact([_score(np.bincount(paths[:, at], minlength=3), law) for at in range(5)])


def test_jump_simulated_path_says_when_it_had_no_room():
    path = gillespie(random.key(0), jnp.float32(100 * Q), INITIAL, 1.0, 5)
    assert path.truncated
    assert int(path.num_jumps) == 5
    assert float(path.times[-1]) < 1
    held = gillespie(random.key(0), jnp.zeros((3, 3)), INITIAL, 1.0, 5)
    assert not held.truncated
    assert int(held.num_jumps) == 0
    assert held.times.tolist() == [0, 1, 1, 1, 1, 1]


def test_jump_simulation_takes_one_path_many_and_traced_times():
    from emberwalk.kernels.jump import lag_grid

    one = sample_observed(random.key(0), jnp.float32(Q), TIMES, INITIAL)
    assert one.shape == (5,)
    grid = lag_grid(TIMES)
    traced = jax.jit(lambda t: sample_observed(random.key(0), jnp.float32(Q), t, INITIAL, grid=grid))(TIMES)
    assert traced.tolist() == one.tolist()
