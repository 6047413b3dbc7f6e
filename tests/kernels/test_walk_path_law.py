"""The law of whole paths, exactly: the sharpest test of a walk, and the only one that sees in which order it counts.

Every path of four steps has a probability, the product of the rows it meets, each tilted by the visits before.
Replicas are counted against it. No average is taken, so that nothing can cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.walk import dense_transition, hdt, hdt_graph, srrw, token_walk
from emberwalk.kernels.walk.base import Walk
from emberwalk.kernels.walk.srrw import Srrw
from tests.kernels.walk_chains import (
    P5,
    P5_GRAPH,
    P5_MU,
    P5_TABLE,
    STAR,
    STAR_MU,
    count_z,
    counted,
    path_codes,
    path_law,
    row_of_hdt,
    row_of_hdt_moves,
    row_of_srrw,
)
from tests.statistics import assert_caught, assert_exact, optimised

REPLICAS = 200_000
ALPHAS = (1.0, 5.0)
STEPS = 4
COUNTS = np.array([3.0, 0.0, 1.0, 2.0, 1.0])
GAMMA = 0.75


class Case(NamedTuple):
    """A walk and the exact law of its steps: `row(z, alpha, i)`."""

    walk: Walk
    mu: np.ndarray
    row: Callable

    @property
    def start(self) -> int:
        return 1


UNIFORM, LOG_STAR = np.ones(4), np.log(STAR_MU)
CASES = {
    "srrw, uniform": lambda: Case(srrw(STAR, chunk=2), UNIFORM, partial(row_of_srrw, dense_transition(STAR))),
    "srrw, target": lambda: Case(
        srrw(STAR, LOG_STAR, chunk=2), STAR_MU, partial(row_of_srrw, dense_transition(STAR, LOG_STAR))
    ),
    "srrw, table": lambda: Case(
        srrw(P5_GRAPH, np.log(P5_MU), base=P5_TABLE, chunk=2), P5_MU, partial(row_of_srrw, P5)
    ),
    "hdt, uniform": lambda: Case(hdt_graph(STAR), UNIFORM, row_of_hdt(STAR, UNIFORM)),
    "hdt, target": lambda: Case(hdt_graph(STAR, LOG_STAR), STAR_MU, row_of_hdt(STAR, STAR_MU)),
    "hdt, table": lambda: Case(
        hdt_graph(P5_GRAPH, np.log(P5_MU), base=P5_TABLE), P5_MU, partial(row_of_hdt_moves, P5)
    ),
    "hdt, any sampler": lambda: Case(
        hdt(lambda key, i: random.categorical(key, jnp.log(jnp.asarray(P5))[i]), np.log(P5_MU)),
        P5_MU, partial(row_of_hdt_moves, P5),
    ),
}  # fmt: skip


def paths_of(program: Callable, walk: Walk, alpha: float, state: Any) -> np.ndarray:
    """Codes of the paths of all replicas."""
    keys = random.split(random.key(int(10 * alpha)), REPLICAS)
    return path_codes(np.asarray(program(walk, alpha, state, keys), np.int64), walk.num_nodes)


def program_for(walk: Walk) -> Callable:
    """Walk, strength and start are arguments: one compilation a kernel and graph."""

    def run(walk, alpha, state, key):
        return replace(walk, alpha=alpha).run(key, state, STEPS)[1]

    return jax.jit(jax.vmap(run, in_axes=(None, None, None, 0)))


def exact_law(case: Case, alpha: float, counts: np.ndarray) -> np.ndarray:
    def row(counts, i):
        return case.row(counted(counts, case.mu, 1.0), alpha, i)

    def record(counts, j, step):
        return counts + (np.arange(len(counts)) == j)

    return path_law(row, counts, record, case.start, STEPS)


@pytest.mark.parametrize("name", CASES)
def test_walk_paths_have_their_exact_law(name):
    case = CASES[name]()
    program, num = program_for(case.walk), case.walk.num_nodes
    with optimised():
        for counts in (np.zeros(num), COUNTS[:num]):
            for alpha in ALPHAS:
                state = case.walk.init(case.start)
                state = state._replace(history=state.history._replace(counts=jnp.asarray(counts, jnp.int32)))
                codes = paths_of(program, case.walk, alpha, state)
                assert_exact(count_z(codes, exact_law(case, alpha, counts)))
        assert program._cache_size() == 1


@pytest.mark.parametrize("name", ["srrw, target", "hdt, target", "hdt, table"])
def test_walk_paths_have_their_exact_law_in_x64(name, x64):
    """Where random words would be of 64 bits, and every uniform above 1."""
    case = CASES[name]()
    codes = paths_of(program_for(case.walk), case.walk, 5.0, case.walk.init(case.start))
    assert_exact(count_z(codes, exact_law(case, 5.0, np.zeros(case.walk.num_nodes))))


def exact_law_of_token(P: np.ndarray, mu: np.ndarray, alpha: float, start: int) -> np.ndarray:
    def row(x, i):
        return row_of_srrw(P, x / mu, alpha, i)

    def record(x, j, step):
        gamma = (step + 1.0) ** -GAMMA
        return (1 - gamma) * x + gamma * (np.arange(len(x)) == j)

    return path_law(row, mu / mu.sum(), record, start, STEPS)


@pytest.mark.parametrize("target", ["uniform", "weights"])
def test_walk_paths_of_a_token_have_their_exact_law(target):
    mu = UNIFORM if target == "uniform" else STAR_MU
    token = token_walk(STAR, target=target if target == "uniform" else mu, gamma_exponent=GAMMA)
    program = program_for(token.walk)
    state = token.init(random.key(0))._replace(node=jnp.int32(1))
    P = dense_transition(STAR, np.log(mu))
    with optimised():
        for alpha in ALPHAS:
            assert_exact(
                count_z(paths_of(program, token.walk, alpha, state), exact_law_of_token(P, mu, alpha, 1))
            )


def test_walk_planted_visit_counted_at_the_old_node_shows_in_the_paths():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class OldNode(Srrw):
        def advance(self, state, bits):
            moved, info = super().advance(state, bits)
            return moved._replace(history=state.history.record(state.node)), info

    case = CASES["srrw, uniform"]()
    walk = OldNode(case.walk.rows, case.walk.target, case.walk.alpha, case.walk.prior)
    codes = paths_of(program_for(walk), walk, 5.0, walk.init(case.start))
    assert_caught(count_z(codes, exact_law(case, 5.0, np.zeros(4))))
