"""Filter, smoother, draws and most likely path against the sum over all paths."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random

from emberwalk.kernels.jump import (
    confusion_matrix,
    forward,
    forward_backward,
    label_log_emission,
    lag_grid,
    most_likely_states,
    path_log_likelihood,
    sample_states,
    scaled_emission,
    scaled_labels,
    transition_matrices,
)
from tests.kernels.jump.processes import by_enumeration, exact_transitions, random_rates
from tests.statistics import assert_caught, assert_exact, z_scores

N, LENGTH, PATHS = 3, 5, 3
RNG = np.random.default_rng(7)
Q = random_rates(RNG, N)
TIMES = np.cumsum(RNG.choice([0.2, 0.5, 1.3], (PATHS, LENGTH)), 1)
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], bool)
EMISSION = RNG.normal(0, 2, (PATHS, LENGTH, N))
INITIAL = np.array([0.5, 0.2, 0.3])


def enumerated(path, tables=None):
    """What is known of one path, in full, and at the points that were seen."""
    seen = np.flatnonzero(MASK[path])
    steps = exact_transitions(Q, np.diff(TIMES[path, seen])) if tables is None else tables
    return seen, by_enumeration(EMISSION[path, seen], steps, INITIAL)


def given():
    grid = lag_grid(TIMES, MASK)
    return jnp.asarray(EMISSION), transition_matrices(Q, grid.lags), grid.index, INITIAL, MASK


def test_jump_forward_is_the_sum_over_all_paths(x64):
    found, filtered = forward(*given())
    npt.assert_allclose(found, [enumerated(path)[1][0] for path in range(PATHS)], rtol=1e-11)
    npt.assert_allclose(filtered.states.sum(-1), 1, rtol=1e-12)
    npt.assert_allclose(filtered.log_scale.sum(1), found, rtol=1e-12)
    for path in range(PATHS):  # at the last point seen, the filter is the smoother
        seen, (_, states, _, _) = enumerated(path)
        npt.assert_allclose(filtered.states[path, seen[-1]], states[-1], atol=1e-12)


def test_jump_smoother_is_the_sum_over_all_paths(x64):
    smoothed = forward_backward(*given())
    grid = lag_grid(TIMES, MASK)
    pairs = np.zeros((len(grid.lags), N, N))
    for path in range(PATHS):
        seen, (log_likelihood, states, counts, _) = enumerated(path)
        npt.assert_allclose(smoothed.states[path, seen], states, atol=1e-11)
        assert float(smoothed.log_likelihood[path]) == pytest.approx(log_likelihood, rel=1e-11)
        for step, count in enumerate(counts):
            pairs[np.argmin(np.abs(grid.lags - np.diff(TIMES[path, seen])[step]))] += count
    moved = grid.lags > 0  # points that were not seen stand still, at lag 0
    npt.assert_allclose(smoothed.pair_counts[moved], pairs[moved], atol=1e-11)
    npt.assert_allclose(smoothed.states.sum(-1), 1, rtol=1e-11)


def test_jump_smoother_in_float32_is_that_of_float64():
    grid = lag_grid(TIMES, MASK)
    found = forward_backward(
        jnp.float32(EMISSION),
        transition_matrices(jnp.float32(Q), grid.lags),
        grid.index,
        jnp.float32(INITIAL),
        MASK,
    )
    with jax.enable_x64(True):
        exact = forward_backward(*given())
    npt.assert_allclose(found.states, exact.states, atol=1e-5)
    npt.assert_allclose(found.pair_counts, exact.pair_counts, atol=1e-5)


def test_jump_filter_takes_rates_of_each_path(x64):
    """A table for each path: covariates, or rates that differ between subjects."""
    grid = lag_grid(TIMES, MASK)
    many = np.stack([Q * (1 + path) for path in range(PATHS)])
    tables = transition_matrices(many, grid.lags)
    found = forward(jnp.asarray(EMISSION), tables, grid.index, INITIAL, MASK)[0]
    smoothed = forward_backward(jnp.asarray(EMISSION), tables, grid.index, INITIAL, MASK)
    for path in range(PATHS):
        one = (
            EMISSION[path : path + 1],
            tables[path],
            grid.index[path : path + 1],
            INITIAL,
            MASK[path : path + 1],
        )
        assert float(found[path]) == pytest.approx(float(forward(*map(jnp.asarray, one))[0][0]), rel=1e-12)
        alone = forward_backward(*map(jnp.asarray, one)).pair_counts
        npt.assert_allclose(smoothed.pair_counts[path], alone, atol=1e-12)


def one_lag(n):
    return transition_matrices(n, np.array([0.4])), np.zeros((PATHS, LENGTH - 1), int)


def many_lags(n):
    grid = lag_grid(TIMES, MASK)
    return transition_matrices(n, grid.lags), grid.index


def lags_of_each_path(n):
    grid = lag_grid(TIMES, MASK)
    return transition_matrices(np.stack([n * (1 + path) for path in range(PATHS)]), grid.lags), grid.index


@pytest.mark.parametrize("tables", [one_lag, many_lags, lags_of_each_path])
def test_jump_filter_has_the_derivatives_that_jax_finds(x64, tables):
    """Of the likelihood of each path in everything, first and second, forwards and backwards."""
    P, index = tables(Q)
    at = (jnp.asarray(EMISSION), P, jnp.broadcast_to(INITIAL, (PATHS, N)))
    weights = jnp.array([1.0, -0.4, 2.2])  # of paths
    ways = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), at)

    def by_rule(log_emission, P, initial):
        return weights @ path_log_likelihood(scaled_emission(log_emission, MASK), P, index, initial)

    def by_jax(log_emission, P, initial):
        return weights @ forward(log_emission, P, index, initial, MASK)[0]

    def derivatives(density):
        slope = jax.grad(density, (0, 1, 2))

        def of_slope(*at):
            return sum(jnp.vdot(x, way) for x, way in zip(slope(*at), ways, strict=True))

        return (
            density(*at),
            slope(*at),
            jax.jvp(density, at, ways)[1],
            jax.jvp(slope, at, ways)[1],
            jax.grad(of_slope, (0, 1, 2))(*at),
        )

    found, exact = (jax.jit(partial(derivatives, density))() for density in (by_rule, by_jax))
    jax.tree.map(lambda a, b: npt.assert_allclose(a, b, rtol=1e-9, atol=1e-10), found, exact)


def test_jump_labels_are_an_emission_like_any_other(x64):
    labels = RNG.integers(0, N, (PATHS, LENGTH))
    P, index = many_lags(Q)
    own = jnp.stack([confusion_matrix(rho, N) for rho in (0.1, 0.3, 0.0)])
    for confusion in (own[0], own):
        each = jnp.broadcast_to(confusion, own.shape)
        log_emission = jnp.stack([label_log_emission(*x, N) for x in zip(labels, each, strict=True)])
        exact = path_log_likelihood(scaled_emission(log_emission, MASK), P, index, INITIAL)
        found = path_log_likelihood(scaled_labels(labels, confusion, MASK), P, index, INITIAL)
        npt.assert_allclose(found, exact, rtol=1e-12)


def test_jump_label_that_no_state_gives_says_nothing_and_is_seen_in_the_likelihood():
    """As in float32 with a law of labels that is learnt: the others are still there to learn from."""
    confusion = jnp.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.5, 0.0]])
    P = transition_matrices(jnp.float32(Q), np.array([0.4]))
    with_it, without = (
        path_log_likelihood(
            scaled_labels(jnp.array([[0, 2, 1]]), confusion, mask), P, np.zeros((1, 2), int), jnp.ones(3) / 3
        )
        for mask in (None, np.array([[True, False, True]]))
    )
    npt.assert_allclose(with_it - without, np.log(np.finfo(np.float32).tiny), rtol=1e-4)


def test_jump_emissions_of_any_scale_do_not_underflow():
    emission = jnp.float32(EMISSION) - 1e4
    grid = lag_grid(TIMES, MASK)
    P = transition_matrices(jnp.float32(Q), grid.lags)
    plain, far = (
        forward(e, P, grid.index, jnp.float32(INITIAL), MASK)[0] for e in (jnp.float32(EMISSION), emission)
    )
    npt.assert_allclose(far + 1e4 * MASK.sum(1), plain, atol=0.02)


def test_jump_what_no_state_explains_has_likelihood_0_and_no_nan():
    emission = jnp.full((1, 3, 2), -jnp.inf).at[0, 0].set(0.0)
    P = transition_matrices(jnp.ones((2, 2)), jnp.ones(1))
    found, filtered = forward(emission, P, jnp.zeros((1, 2), int), jnp.ones(2) / 2)
    assert found[0] == -jnp.inf
    assert not jnp.isnan(filtered.states).any()


def indicators(paths):
    """All first and second moments of which state is where."""
    paths = np.asarray(paths)
    of = (paths[..., None] == np.arange(N)).reshape(len(paths), -1).astype(float)
    rows, columns = np.triu_indices(of.shape[1], N)
    pairs = of[:, rows] * of[:, columns]
    return np.concatenate([of, pairs], 1)


def exact_indicators(path):
    seen, _ = enumerated(path)
    steps = exact_transitions(Q, np.diff(TIMES[path, seen]))
    weights, rows = [], []
    for states in itertools.product(range(N), repeat=len(seen)):
        weight = INITIAL[states[0]] * np.exp(
            sum(EMISSION[path, at, s] for at, s in zip(seen, states, strict=True))
        )
        for step, table in enumerate(steps):
            weight *= table[states[step], states[step + 1]]
        weights.append(weight)
        rows.append(states)
    weights = np.array(weights) / np.sum(weights)
    return seen, (indicators(np.array(rows)) * weights[:, None]).sum(0)


def z_of_draws(draw):
    """z-scores of all moments of 20,000 draws, over all paths; moments that are nearly certain are left out."""
    draws = np.asarray(draw(random.split(random.key(3), 20_000)))
    found = []
    for path in range(PATHS):
        seen, exact = exact_indicators(path)
        values = indicators(draws[:, path][:, seen])
        often = (exact > 2e-3) & (exact < 1 - 2e-3)
        found.append(z_scores(values[:, often], exact[often]))
    return np.concatenate(found)


def test_jump_draws_of_states_have_the_law_of_the_smoother():
    emission, P, index, initial, mask = (jnp.asarray(x) for x in given())
    assert_exact(
        z_of_draws(jax.jit(jax.vmap(lambda key: sample_states(key, emission, P, index, initial, mask))))
    )


def test_jump_planted_draws_of_each_state_by_itself_are_caught():
    """From the smoother's margins: right one by one, wrong together."""
    states = forward_backward(*(jnp.asarray(x) for x in given())).states
    draw = jax.vmap(lambda key: random.categorical(key, jnp.log(states), axis=-1))
    assert_caught(z_of_draws(draw))


def test_jump_planted_draws_from_the_filter_alone_are_caught():
    states = forward(*(jnp.asarray(x) for x in given()))[1].states
    draw = jax.vmap(lambda key: random.categorical(key, jnp.log(states), axis=-1))
    assert_caught(z_of_draws(draw))


def test_jump_most_likely_path_is_the_best_of_all(x64):
    found = np.asarray(most_likely_states(*given()))
    for path in range(PATHS):
        seen, (*_, best) = enumerated(path)
        npt.assert_array_equal(found[path, seen], best)


def test_jump_exact_labels_are_conditioned_on(x64):
    labels = np.array([[0, 2, 1, 1, 0]])
    grid = lag_grid(TIMES[:1])
    P = transition_matrices(Q, grid.lags)
    emission = label_log_emission(labels, None, N)
    npt.assert_array_equal(sample_states(random.key(0), emission, P, grid.index, INITIAL), labels)
    npt.assert_array_equal(most_likely_states(emission, P, grid.index, INITIAL), labels)
    smoothed = forward_backward(emission, P, grid.index, INITIAL)
    npt.assert_allclose(smoothed.states, np.eye(N)[labels], atol=1e-12)
