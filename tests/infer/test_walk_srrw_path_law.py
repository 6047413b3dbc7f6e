"""`SRRW` on two sites of three and two values: whole paths by their exact law, from its start and after a past."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from emberwalk.infer import SRRW
from emberwalk.kernels.walk import dense_history, hash_history
from tests.kernels.walk_chains import Weights, count_z, path_codes, path_law
from tests.statistics import assert_caught, assert_exact, optimised

REPLICAS, STEPS, START = 200_000, 4, 3
ALPHAS, COUNTS = (1.0, 5.0), np.array([3, 0, 1, 2, 0, 1])


def two_sites():
    a = numpyro.sample("a", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    b = numpyro.sample("b", dist.Bernoulli(0.4))
    numpyro.factor("tied", 0.8 * a * b)


STATES = np.array(list(product(range(3), range(2))))
MU = np.array([[0.2, 0.5, 0.3][a] * [0.6, 0.4][b] * np.exp(0.8 * a * b) for a, b in STATES])


def row(base: str, alpha: float, counts: Weights, i: int, prior: float = 1.0) -> Weights:
    """Law of the next state: a coordinate drawn uniformly, then (2) or (3) of `site_walk.py`."""
    tilted = MU * ((counts + prior) / MU) ** -alpha
    law = np.zeros(6)
    for d in range(2):
        near = np.flatnonzero((np.delete(STATES, d, 1) == np.delete(STATES[i], d)).all(1))
        if base == "gibbs":
            law[near] += tilted[near] / tilted[near].sum() / 2
        else:
            others = near[near != i]
            moves = np.minimum(1, tilted[others] / tilted[i]) / len(others) / 2
            law[others] += moves
            law[i] += 0.5 - moves.sum()
    return law


def exact_law(base: str, alpha: float, counts: Weights, prior: float = 1.0) -> np.ndarray:
    def record(counts, j, step):
        return counts + (np.arange(6) == j)

    return path_law(lambda counts, i: row(base, alpha, counts, i, prior), counts, record, START, STEPS)


@cache
def program(base: str, history_size: str | int):
    """(alpha, history, keys) -> paths: one compilation for every strength and every past."""

    def path(alpha, history, key):
        kernel = SRRW(two_sites, base=base, guard=None, history_size=history_size, steps_per_draw=1)
        values = {"a": jnp.array(STATES[START][0]), "b": jnp.array(STATES[START][1])}
        state = kernel.init(key, 0, values, model_args=(), model_kwargs={})._replace(history=history, i=1)
        kernel.alpha = alpha

        def move(state, _):
            state = kernel.sample(state, (), {})
            return state, 2 * state.x[0] + state.x[1]

        return jax.lax.scan(move, state, None, STEPS)[1]

    return jax.jit(jax.vmap(path, in_axes=(None, None, 0)))


def past(history_size: str | int, counts: np.ndarray, prior: float = 1.0):
    """A history with these visits."""
    if history_size == "auto":
        return dense_history(6, prior)._replace(counts=jnp.asarray(counts, jnp.int32))
    history = hash_history(history_size, 1, prior)
    for (a, b), count, mu in zip(STATES, counts, MU, strict=True):
        for _ in range(count):
            history = history.record(jnp.array([a + 4 * b], jnp.uint32), jnp.log(mu))  # two bits, then one
    return history


def codes_of(base: str, history_size: str | int, alpha: float, history) -> np.ndarray:
    with optimised():
        seen = program(base, history_size)(alpha, history, random.split(random.key(1), REPLICAS))
    return path_codes(np.asarray(seen, np.int64), 6)


@pytest.mark.parametrize(
    ("base", "history_size"),
    [
        pytest.param("gibbs", "auto", id="gibbs-counts"),
        pytest.param("mh", "auto", id="mh-counts"),
        pytest.param("mh", 16, id="mh-table"),
        pytest.param("gibbs", 16, id="gibbs-table", marks=pytest.mark.nightly),
    ],
)
def test_walk_srrw_path_law_is_exact(base, history_size):
    for counts in (np.zeros(6, int), COUNTS):
        for alpha in ALPHAS:
            codes = codes_of(base, history_size, alpha, past(history_size, counts))
            assert_exact(count_z(codes, exact_law(base, alpha, counts)))
    assert_caught(count_z(codes, exact_law(base, 1.0, COUNTS)))  # the strength is seen
    assert_caught(count_z(codes, exact_law(base, 5.0, np.zeros(6))))  # and the past
    assert program(base, history_size)._cache_size() == 1


@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_path_law_with_a_tiny_prior_is_exact(base):
    codes = codes_of(base, "auto", 5.0, past("auto", np.zeros(6, int), 1e-8))
    assert_exact(count_z(codes, exact_law(base, 5.0, np.zeros(6), 1e-8)))


@pytest.mark.nightly
@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_path_law_is_exact_in_x64(base, x64):
    program.cache_clear()
    codes = codes_of(base, "auto", 5.0, past("auto", COUNTS))
    program.cache_clear()
    assert_exact(count_z(codes, exact_law(base, 5.0, COUNTS)))
