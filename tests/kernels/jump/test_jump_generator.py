"""Elimination without subtraction: precision in float32, gradients, chains that are not irreducible."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import (
    entropy_production,
    first_passage_times,
    generator,
    gth_solve,
    rates_from_vector,
    rates_to_vector,
    relaxation_times,
    stationary,
)
from tests.kernels.jump.processes import ALANINE, full_generator, metastable, random_rates

HARD = {"alanine": ALANINE, "metastable": metastable()}


def exact_stationary(q):
    n = len(q)
    A = np.concatenate([full_generator(q).T, np.ones((1, n))])
    with jax.enable_x64(True):
        found = np.asarray(stationary(jnp.asarray(q)))
    npt.assert_allclose(A @ found, np.append(np.zeros(n), 1), atol=1e-12 * q.max())
    return found


def exact_passage(q, target):
    keep = [i for i in range(len(q)) if i != target]
    return np.linalg.solve(-full_generator(q)[np.ix_(keep, keep)], np.ones(len(keep)))


@pytest.mark.parametrize("name", HARD)
def test_jump_stationary_law_in_float32_has_the_precision_of_the_rates(name):
    q = np.float32(HARD[name]).astype(np.float64)
    npt.assert_allclose(stationary(jnp.float32(q)), exact_stationary(q), rtol=6e-7)


@pytest.mark.parametrize("name", HARD)
def test_jump_first_passage_in_float32_has_the_precision_of_the_rates(name):
    q = np.float32(HARD[name]).astype(np.float64)
    found = np.asarray(first_passage_times(jnp.float32(q)), np.float64)
    for target in range(len(q)):
        npt.assert_allclose(np.delete(found[:, target], target), exact_passage(q, target), rtol=1e-6)
        assert found[target, target] == 0


def test_jump_planted_plain_solve_loses_digits_where_elimination_does_not():
    """What the tolerance above is worth: the textbook way, in float32."""
    q = np.float32(HARD["metastable"]).astype(np.float64)
    A = jnp.concatenate([generator(jnp.float32(q)).T[:-1], jnp.ones((1, 4))])
    plain = jnp.linalg.solve(A, jnp.zeros(4).at[-1].set(1))
    assert np.abs(plain / exact_stationary(q) - 1).max() > 1e-5


def test_jump_gth_solve_is_the_solution(x64):
    rng = np.random.default_rng(0)
    q = random_rates(rng, 5)
    e, b = rng.uniform(0, 1, 5) * (np.arange(5) > 2), rng.uniform(0, 1, 5)
    m = gth_solve(q, e, b)
    npt.assert_allclose((np.diag(q.sum(1) + e) - q) @ m, b, rtol=1e-12, atol=1e-12)


def test_jump_first_passage_to_a_set_is_that_to_the_set_as_one_state(x64):
    q = random_rates(np.random.default_rng(1), 5)
    keep = [0, 2, 4]
    exact = np.linalg.solve(-full_generator(q)[np.ix_(keep, keep)], np.ones(3))
    found = np.asarray(first_passage_times(q, targets=[1, 3]))
    npt.assert_allclose(found[keep], exact, rtol=1e-12)
    npt.assert_array_equal(found[[1, 3]], 0)
    npt.assert_allclose(first_passage_times(q, targets=2), first_passage_times(q)[:, 2], rtol=1e-12)


def test_jump_downstream_quantities_take_batches():
    q = np.stack([random_rates(np.random.default_rng(seed), 4) for seed in range(6)]).reshape(2, 3, 4, 4)
    for fn in (generator, stationary, first_passage_times, entropy_production, rates_to_vector):
        npt.assert_allclose(fn(jnp.asarray(q))[1, 2], fn(jnp.asarray(q[1, 2])), rtol=2e-6)
    npt.assert_allclose(relaxation_times(q).times[1, 2], relaxation_times(q[1, 2]).times, rtol=1e-5)
    npt.assert_array_equal(rates_from_vector(rates_to_vector(q), 4), jnp.asarray(q))


def test_jump_gradients_of_downstream_quantities_are_those_of_differences(x64):
    q = random_rates(np.random.default_rng(2), 4)
    q[0, 2] = 0.0  # the derivative in a link that is not there is one as well
    direction = random_rates(np.random.default_rng(3), 4) * (q > 0)
    functions = {
        "stationary": lambda q: stationary(q)[1],
        "passage": lambda q: first_passage_times(q)[0, 3],
        "set": lambda q: first_passage_times(q, targets=[0, 1])[3],
        "relaxation": lambda q: relaxation_times(q).times[0],
    }
    for name, fn in functions.items():
        slope = jnp.sum(jax.grad(fn)(q) * direction)
        h = 1e-6
        exact = (fn(q + h * direction) - fn(q - h * direction)) / (2 * h)
        assert float(slope) == pytest.approx(float(exact), rel=1e-6), name
    forward = (
        functions["passage"](q + 1e-6 * np.eye(4)[0][:, None] * np.eye(4)[2]) - functions["passage"](q)
    ) / 1e-6
    assert float(jax.grad(functions["passage"])(q)[0, 2]) == pytest.approx(float(forward), rel=1e-4)


def test_jump_gradients_are_finite_in_float32_for_rates_of_all_sizes():
    for q in HARD.values():
        slope = jax.grad(lambda q: jnp.log(stationary(q)).sum())(jnp.float32(q))
        assert jnp.isfinite(slope).all()


def test_jump_what_may_never_be_reached_takes_infinitely_long():
    q = np.array([[0, 1.0, 1.0], [0, 0, 0], [1.0, 0, 0]])  # 1 is never left
    passage = np.asarray(first_passage_times(q))
    npt.assert_array_equal(np.isinf(passage), [[0, 0, 1], [1, 0, 1], [0, 0, 0]])
    assert passage[0, 1] == pytest.approx(
        2.0
    )  # half go there at once, after 1/2; the others come back after 1
    npt.assert_allclose(stationary(q), [0, 1, 0], atol=1e-12)
    npt.assert_allclose(stationary(np.array([[0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])), [0, 0, 1], atol=1e-12)
    two_pairs = jnp.asarray(metastable(0.0))
    assert jnp.isinf(relaxation_times(two_pairs).times[0]) or relaxation_times(two_pairs).times[0] > 1e5
    assert not jnp.isnan(first_passage_times(two_pairs)).any()


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_jump_entropy_production_does_not_see_a_state_that_is_left_for_good(order):
    """Its link has one direction and no flux, whatever its number."""
    q = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[jnp.array(order)][:, jnp.array(order)]
    assert float(entropy_production(q)) == pytest.approx(0, abs=1e-6)


def test_jump_relaxation_of_a_process_in_two_parts_is_infinite():
    """Twice three states, many times: rounding leaves a second eigenvalue of 0 either sign."""
    q = np.random.default_rng(0).uniform(0.1, 3.0, (40, 6, 6)) * np.kron(np.eye(2), np.ones((3, 3)))
    times = relaxation_times(jnp.asarray(q, jnp.float32)).times
    npt.assert_array_equal(jnp.isinf(times).sum(-1), 1)


def test_jump_entropy_production_is_infinite_for_one_way_links_unless_there_is_a_floor():
    one_way = np.array([[0, 1.0, 0], [1.0, 0, 1.0], [1.0, 0.5, 0]])
    assert jnp.isinf(entropy_production(one_way))
    assert 0 < float(entropy_production(one_way, floor=1e-3)) < 10
    assert float(entropy_production(one_way, floor=1e-3)) < float(entropy_production(one_way, floor=1e-6))
    reversible = np.array([[0, 2.0, 0], [1.0, 0, 3.0], [0, 0.5, 0]])
    assert float(entropy_production(reversible)) == pytest.approx(0, abs=1e-6)
    unreached = np.array(
        [[0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]]
    )  # nothing flows out of 2, since nothing is there
    assert float(entropy_production(unreached)) == pytest.approx(0, abs=1e-6)
