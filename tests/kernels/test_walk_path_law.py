"""The law of whole paths, exactly: the sharpest test of a walk, and the only one that sees in which order it counts.

Every path of four steps has a probability, the product of the rows it meets, each tilted by the visits before.
Replicas are counted against it. No average is taken, so that nothing can cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.walk import TokenWalk, dense_transition, hdt, hdt_graph, srrw, token_walk
from emberwalk.kernels.walk.base import Walk, WalkState
from emberwalk.kernels.walk.hdt import HdtUniform
from emberwalk.kernels.walk.srrw import Srrw
from tests.kernels.walk_chains import (
    P5,
    P5_GRAPH,
    P5_MU,
    P5_TABLE,
    STAR,
    STAR_MU,
    Weights,
    count_z,
    counted,
    lazily,
    path_codes,
    path_law,
    row_of_hdt,
    row_of_hdt_moves,
    row_of_srrw,
    weighted,
)
from tests.statistics import assert_caught, assert_exact, optimised

REPLICAS = 200_000
ALPHAS = (1.0, 5.0)
STEPS, MANY_STEPS = 4, 6  # a history that forgets is more than its counts: from the fifth step on it shows
COUNTS = np.array([3, 0, 1, 2, 1])
EARLIER = (3, 0, 3, 2)  # visits of a token before its first step
GAMMA, LAZY, START, TINY = 0.75, 0.3, 1, 1e-8


class Case(NamedTuple):
    """A walk and the exact law of its steps: `row(z, alpha, i)`."""

    walk: Walk
    mu: Weights
    row: Callable
    prior: float = 1.0


UNIFORM, LOG_STAR, LOG_P5 = np.ones(4), np.log(STAR_MU), np.log(P5_MU)
CASES = {
    "srrw, uniform": lambda: Case(srrw(STAR, chunk=2), UNIFORM, partial(row_of_srrw, dense_transition(STAR))),
    "srrw, target": lambda: Case(
        srrw(STAR, LOG_STAR, chunk=2), STAR_MU, partial(row_of_srrw, dense_transition(STAR, LOG_STAR))
    ),
    "srrw, table": lambda: Case(srrw(P5_GRAPH, LOG_P5, base=P5_TABLE, chunk=2), P5_MU, partial(row_of_srrw, P5)),
    "srrw, lazy": lambda: Case(
        srrw(STAR, chunk=2, lazy=LAZY), UNIFORM, partial(row_of_srrw, lazily(dense_transition(STAR), LAZY))
    ),
    "srrw, lazy target": lambda: Case(
        srrw(STAR, LOG_STAR, chunk=2, lazy=LAZY),
        STAR_MU, partial(row_of_srrw, lazily(dense_transition(STAR, LOG_STAR), LAZY)),
    ),
    "srrw, tiny prior": lambda: Case(
        srrw(STAR, LOG_STAR, chunk=2, prior=TINY),
        STAR_MU, partial(row_of_srrw, dense_transition(STAR, LOG_STAR)), TINY,
    ),
    "hdt, uniform": lambda: Case(hdt_graph(STAR), UNIFORM, row_of_hdt(STAR, UNIFORM)),
    "hdt, target": lambda: Case(hdt_graph(STAR, LOG_STAR), STAR_MU, row_of_hdt(STAR, STAR_MU)),
    "hdt, table": lambda: Case(
        hdt_graph(P5_GRAPH, LOG_P5, base=P5_TABLE), P5_MU, partial(row_of_hdt_moves, P5)
    ),
    "hdt, lazy": lambda: Case(hdt_graph(STAR, lazy=LAZY), UNIFORM, row_of_hdt(STAR, UNIFORM, LAZY)),
    "hdt, lazy target": lambda: Case(
        hdt_graph(STAR, LOG_STAR, lazy=LAZY), STAR_MU, row_of_hdt(STAR, STAR_MU, LAZY)
    ),
    "hdt, tiny prior": lambda: Case(hdt_graph(STAR, prior=TINY), UNIFORM, row_of_hdt(STAR, UNIFORM), TINY),
    "hdt, lazy table": lambda: Case(
        hdt_graph(P5_GRAPH, LOG_P5, base=P5_TABLE, lazy=LAZY), P5_MU, partial(row_of_hdt_moves, lazily(P5, LAZY))
    ),
    "hdt, any sampler": lambda: Case(
        hdt(lambda key, i: random.categorical(key, jnp.log(jnp.asarray(P5))[i]), LOG_P5),
        P5_MU, partial(row_of_hdt_moves, P5),
    ),
    "hdt, any integer": lambda: Case(
        hdt(lambda key, i: random.randint(key, (), 0, 4), np.zeros(4)),
        UNIFORM, partial(row_of_hdt_moves, np.full((4, 4), 0.25)),
    ),
}  # fmt: skip


@partial(jax.jit, static_argnums=4)
@partial(jax.vmap, in_axes=(None, None, None, 0, None))
def paths(walk, alpha, state, key, length):
    """Walk, strength and start are arguments: one compilation a kernel and graph."""
    return replace(walk, alpha=alpha).run(key, state, length)[1]


def codes_of(walk: Walk, alpha: float, state: WalkState, length: int = STEPS) -> np.ndarray:
    """Codes of the paths of all replicas."""
    keys = random.split(random.key(int(10 * alpha)), REPLICAS)
    seen = paths(replace(walk, alpha=0.0), alpha, state, keys, length)
    return path_codes(np.asarray(seen, np.int64), walk.num_nodes)


def started(walk: Walk, counts: Weights | None = None) -> WalkState:
    state = walk.init(START)
    if counts is None:
        return state
    return state._replace(history=state.history._replace(counts=jnp.asarray(counts, jnp.int32)))


def exact_law(case: Case, alpha: float, counts: Weights) -> np.ndarray:
    def row(counts, i):
        return case.row(counted(counts, case.mu, case.prior), alpha, i)

    def record(counts, j, step):
        return counts + (np.arange(len(counts)) == j)

    return path_law(row, counts, record, START, STEPS)


@pytest.mark.xdist_group("walk-path-law")  # several cases are one program
@pytest.mark.parametrize("name", CASES)
def test_walk_path_law_is_exact(name):
    case = CASES[name]()
    num, compiled = case.walk.num_nodes, paths._cache_size()
    with optimised():
        for counts in (np.zeros(num), COUNTS[:num]):
            for alpha in ALPHAS:
                codes = codes_of(case.walk, alpha, started(case.walk, counts))
                assert_exact(count_z(codes, exact_law(case, alpha, counts)))
    assert paths._cache_size() <= compiled + 1


IN_X64 = ("srrw, target", "hdt, target", "hdt, table", "hdt, lazy", "hdt, any integer")


@pytest.mark.parametrize("name", IN_X64)
def test_walk_path_law_is_exact_in_x64(name, x64):
    """Where random words would be of 64 bits, every uniform above 1, and a node an int64."""
    case = CASES[name]()
    with optimised():
        codes = codes_of(case.walk, 5.0, started(case.walk))
    assert_exact(count_z(codes, exact_law(case, 5.0, np.zeros(case.walk.num_nodes))))


# A token, whose history forgets


class TokenCase(NamedTuple):
    """A token and its base chain."""

    walk: TokenWalk
    mu: Weights
    P: Weights


TOKENS = {
    "uniform": lambda: TokenCase(
        token_walk(STAR, gamma_exponent=GAMMA), UNIFORM / 4, dense_transition(STAR)
    ),
    "target": lambda: TokenCase(
        token_walk(STAR, target=STAR_MU, gamma_exponent=GAMMA),
        STAR_MU / STAR_MU.sum(), dense_transition(STAR, LOG_STAR),
    ),
    "table": lambda: TokenCase(
        token_walk(P5_GRAPH, target=P5_MU, base=P5_TABLE, gamma_exponent=GAMMA), P5_MU, P5
    ),
}  # fmt: skip


def token_at(case: TokenCase, earlier: tuple[int, ...]) -> WalkState:
    state = case.walk.init(random.key(0))._replace(node=jnp.int32(START))
    for node in earlier:
        state = state._replace(history=state.history.record(jnp.int32(node)))
    return state


def exact_law_of_token(case: TokenCase, alpha: float, earlier: tuple[int, ...]) -> np.ndarray:
    def row(x, i):
        return row_of_srrw(case.P, x / case.mu, alpha, i)

    def record(x, j, step):
        return weighted(x, j, step + len(earlier), GAMMA)

    x = case.mu
    for step, node in enumerate(earlier, 1):
        x = weighted(x, node, step, GAMMA)
    return path_law(row, x, record, START, MANY_STEPS)


# daily the target in x64 alone
@pytest.mark.parametrize("name", ["uniform", "table", pytest.param("target", marks=pytest.mark.nightly)])
def test_walk_path_law_of_a_token_is_exact(name):
    case, compiled = TOKENS[name](), paths._cache_size()
    with optimised():
        for earlier in ((), EARLIER):
            for alpha in ALPHAS:
                codes = codes_of(case.walk.walk, alpha, token_at(case, earlier), MANY_STEPS)
                assert_exact(count_z(codes, exact_law_of_token(case, alpha, earlier)))
    assert paths._cache_size() <= compiled + 1


def test_walk_path_law_of_a_token_is_exact_in_x64(x64):
    case = TOKENS["target"]()
    with optimised():
        codes = codes_of(case.walk.walk, 5.0, token_at(case, EARLIER), MANY_STEPS)
    assert_exact(count_z(codes, exact_law_of_token(case, 5.0, EARLIER)))


# Bugs that no average shows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CountsTheOldNode(Srrw):
    """Counts the node it leaves."""

    def advance(self, state, bits):
        moved, info = super().advance(state, bits)
        return moved._replace(history=state.history.record(state.node)), info


def test_walk_path_law_sees_a_planted_visit_counted_at_the_old_node():
    case = CASES["srrw, uniform"]()
    walk = CountsTheOldNode(case.walk.rows, case.walk.target, case.walk.alpha, case.walk.prior)
    codes = codes_of(walk, 5.0, started(walk))
    assert_caught(count_z(codes, exact_law(case, 5.0, np.zeros(4))))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LazyWithoutMinimum(HdtUniform):
    """Accepts with moves e^log_accept, which may be above `moves`."""

    def accept(self, state, alpha, j, log_ratio, uniform, moves=1.0):
        log_accept = log_ratio - alpha * state.history.log_ratio(self.target, state.node, j)
        return jnp.where(uniform < moves * jnp.exp(log_accept), j, state.node)


@pytest.mark.parametrize("name", ["hdt, lazy", "hdt, lazy target"])
def test_walk_path_law_sees_a_planted_lazy_step_without_its_minimum(name):
    case = CASES[name]()
    walk = LazyWithoutMinimum(*(getattr(case.walk, field.name) for field in fields(HdtUniform)))
    codes = codes_of(walk, 5.0, started(walk))
    assert_caught(count_z(codes, exact_law(case, 5.0, np.zeros(4))))
