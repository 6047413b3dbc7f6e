"""At alpha = 0 every walk is its base chain, step by step: the same nodes from the same random words."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from emberwalk.kernels.walk import (
    Graph,
    ProductSpace,
    SiteWalk,
    dense_history,
    dense_transition,
    hash_history,
    hdt,
    hdt_graph,
    srrw,
    token_walk,
)
from emberwalk.kernels.walk.base import Walk, WalkState
from emberwalk.models import karate_club
from tests.kernels.walk_chains import P5, P5_GRAPH, P5_MU, P5_TABLE, Weights, lazily

KARATE = karate_club()
LENGTH = 500
LOG_DEGREE, LOG_P5 = np.log(KARATE.degree), np.log(P5_MU)


def uniforms(words: np.ndarray) -> np.ndarray:
    return (words >> 8) * 2.0**-24


def by_row(graph: Graph, P: Weights, i: int, words: np.ndarray) -> int:
    """The inverse of the distribution function of row i: its neighbours, then i."""
    order = np.append(graph.indices[graph.indptr[i] : graph.indptr[i + 1]], i)
    return order[np.searchsorted(np.cumsum(P[i, order]), uniforms(words)[0], side="right")]


def metropolis(pull: Weights, lazy: float, i: int, words: np.ndarray) -> int:
    """A neighbour, uniformly; accepted by the ratio of mu over degree."""
    j = KARATE.indices[KARATE.indptr[i] + words[0] % KARATE.degree[i]]
    return j if uniforms(words)[1] < (1 - lazy) * min(1.0, np.exp(pull[j] - pull[i])) else i


def six_sided(key, i):
    """A move that leaves the uniform law of six states as it is."""
    return (i + random.randint(key, (), 0, 6)) % 6


def by_sampler(i: int, words: np.ndarray) -> int:
    return int(six_sided(random.wrap_key_data(jnp.asarray(words[:2]), impl="threefry2x32"), i))


class Case(NamedTuple):
    """A walk at alpha = 0, its start, and a step of its base chain in numpy: (i, words) -> j."""

    walk: Walk
    start: WalkState
    step: Callable


def case(walk: Walk, step: Callable) -> Case:
    return Case(walk, walk.init(0), step)


def of_token(method: str, a: float, step: Callable) -> Case:
    token = token_walk(KARATE, 0.0, method=method, gamma_exponent=a)
    return Case(token.walk, token.init(random.key(0))._replace(node=jnp.int32(0)), step)


EVEN, FLAT = partial(by_row, KARATE, dense_transition(KARATE)), partial(metropolis, -LOG_DEGREE, 0.0)
CASES = {
    "srrw": lambda: case(srrw(KARATE, alpha=0.0, chunk=8), EVEN),
    "srrw, target": lambda: case(
        srrw(KARATE, 2 * LOG_DEGREE, 0.0), partial(by_row, KARATE, dense_transition(KARATE, 2 * LOG_DEGREE))
    ),
    "srrw, simple": lambda: case(
        srrw(KARATE, LOG_DEGREE, 0.0, base="simple"),
        partial(by_row, KARATE, dense_transition(KARATE, LOG_DEGREE, "simple")),
    ),
    "srrw, lazy": lambda: case(
        srrw(KARATE, alpha=0.0, lazy=0.3), partial(by_row, KARATE, lazily(dense_transition(KARATE), 0.3))
    ),
    "srrw, table": lambda: case(
        srrw(P5_GRAPH, LOG_P5, 0.0, base=P5_TABLE, chunk=2), partial(by_row, P5_GRAPH, P5)
    ),
    "srrw, tiny prior": lambda: case(srrw(KARATE, alpha=0.0, prior=1e-8), EVEN),
    "hdt": lambda: case(hdt_graph(KARATE, alpha=0.0), FLAT),
    "hdt, target": lambda: case(
        hdt_graph(KARATE, 2 * LOG_DEGREE, 0.0), partial(metropolis, LOG_DEGREE, 0.0)
    ),
    "hdt, simple": lambda: case(
        hdt_graph(KARATE, LOG_DEGREE, 0.0, base="simple"), partial(metropolis, 0 * LOG_DEGREE, 0.0)
    ),
    "hdt, lazy": lambda: case(hdt_graph(KARATE, alpha=0.0, lazy=0.3), partial(metropolis, -LOG_DEGREE, 0.3)),
    "hdt, table": lambda: case(
        hdt_graph(P5_GRAPH, LOG_P5, 0.0, base=P5_TABLE), partial(by_row, P5_GRAPH, P5)
    ),
    "hdt, any sampler": lambda: case(hdt(six_sided, np.zeros(6), 0.0), by_sampler),
    "hdt, tiny prior": lambda: case(hdt_graph(KARATE, alpha=0.0, prior=1e-8), FLAT),
    "token": lambda: of_token("srrw", 0.75, EVEN),
    "token, counts": lambda: of_token("srrw", 1.0, EVEN),
    "token, hdt": lambda: of_token("hdt", 1.0, FLAT),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_walk_alpha_zero_is_the_base_chain_step_by_step(name):
    walk, start, step = CASES[name]()
    words = random.bits(random.key(3), (LENGTH, walk.num_words), jnp.uint32)

    def advance(state, bits):
        state, info = walk.advance(state, bits)
        return state, (state.node, info.finite)

    path, finite = jax.jit(lambda: lax.scan(advance, start, words)[1])()
    node, by_hand = 0, []
    for bits in np.asarray(words):
        node = step(node, bits)
        by_hand.append(node)
    np.testing.assert_array_equal(path, by_hand)
    assert np.asarray(finite).all()


# On a product of sets

SPACE, VALUES = ProductSpace((3, 2, 1, 4)), (3, 2, 1, 4)
WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(24)).reshape(VALUES)


def heat_bath(x: np.ndarray, bits: np.ndarray) -> np.ndarray:
    d = bits[0] % 4
    line = np.cumsum(WEIGHTS[tuple(slice(None) if e == d else x[e] for e in range(4))])
    x[d] = np.searchsorted(line, uniforms(bits)[1] * line[-1], side="right")
    return x


def another_value(x: np.ndarray, bits: np.ndarray) -> np.ndarray:
    d, proposed = bits[0] % 4, x.copy()
    proposed[d] = (x[d] + 1 + bits[2] % max(VALUES[d] - 1, 1)) % VALUES[d]
    return proposed if uniforms(bits)[1] < WEIGHTS[tuple(proposed)] / WEIGHTS[tuple(x)] else x


@pytest.mark.parametrize(("size", "guarded"), [(None, False), (64, True)], ids=["counts", "table and guard"])
@pytest.mark.parametrize(("base", "move"), [("gibbs", heat_bath), ("mh", another_value)])
def test_walk_alpha_zero_on_a_product_is_its_gibbs_or_metropolis_chain(base, move, size, guarded):
    log_mu = jnp.log(jnp.asarray(WEIGHTS, jnp.float32))
    walk = SiteWalk(SPACE, lambda x: log_mu[tuple(x)], 0.0, base, guarded)
    history = dense_history(24) if size is None else hash_history(size, SPACE.num_words)
    start = walk.init(jnp.zeros(4, jnp.int32), history)
    keys = random.split(random.key(4), LENGTH)

    def one_step(state, key):
        state, info = walk.step(key, state)
        return state, (state.x, info.finite)

    path, finite = jax.jit(lambda: lax.scan(one_step, start, keys)[1])()
    x, by_hand = np.zeros(4, int), []
    for bits in np.asarray(jax.vmap(lambda key: random.bits(key, (3,), jnp.uint32))(keys)):
        x = move(x.copy(), bits)
        by_hand.append(x)
    np.testing.assert_array_equal(path, by_hand)
    assert np.asarray(finite).all()
