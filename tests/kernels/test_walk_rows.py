"""The rows that `srrw` draws from: laws, in balance with the stationary law of the paper, whose derivative is known.

    K_ij[x] = P_ij r_j / sum_k P_ik r_k,   pi_i[x] prop. to sum_j mu_i P_ij r_i r_j,   r = (x / mu)^-alpha (1)

The rows are read from the walk itself: its `choose` is run on rows that tell their law in place of drawing from it.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emberwalk.kernels.walk import (
    DenseHistory,
    WeightedHistory,
    dense_history,
    srrw,
    srrw_row,
    weighted_history,
)
from emberwalk.kernels.walk.base import WalkState
from emberwalk.kernels.walk.rows import Rows, _Row, rows_from
from emberwalk.kernels.walk.srrw import Srrw
from tests.kernels.walk_chains import P5, P5_GRAPH, P5_MU, counted, random_chain, row_of_srrw, table_of
from tests.statistics import optimised

CHAINS = {"P5": (P5_GRAPH, P5, P5_MU), **{f"random {seed}": random_chain(seed) for seed in range(3)}}
every_chain = pytest.mark.parametrize(("graph", "P", "mu"), CHAINS.values(), ids=CHAINS)
ALPHA = 2.5


@dataclass(frozen=True)
class LawOfRows:
    """In place of the rows of a walk: `draw` gives the law of the next node, and no node."""

    rows: Rows

    def draw(self, i, tilt, uniform):
        rows = self.rows
        row = _Row(rows, rows.indptr[i], rows.indptr[i + 1], tilt)
        ids, log_w = map(jnp.concatenate, zip(*map(row.log_weights, range(rows.max_chunks)), strict=True))
        weights = jnp.exp(log_w)
        return jnp.zeros(len(rows.indptr) - 1, weights.dtype).at[ids].add(weights) / weights.sum()


def walk_that_tells(graph, P, mu) -> Srrw:
    """`srrw` for the chain P, in the precision JAX is set to."""
    table = table_of(graph, P)
    walk = srrw(graph, np.log(mu), base=table, chunk=2)
    return replace(walk, rows=LawOfRows(rows_from(graph, table, chunk=2)))


def matrix(walk: Srrw, history: DenseHistory | WeightedHistory, alpha: float) -> jax.Array:
    """K, row after row, as `choose` has it."""
    num, words = len(walk.rows.rows.indptr) - 1, jnp.zeros(1, jnp.uint32)
    return jnp.stack([walk.choose(WalkState(jnp.int32(i), history), alpha, words) for i in range(num)])


def at(walk: Srrw, x: jax.Array) -> WeightedHistory:
    """A history that stands at x."""
    return weighted_history(walk.target, len(x), 0.75)._replace(log_v=jnp.log(x))


def stationary_law(K: jax.Array) -> jax.Array:
    """pi with pi K = pi."""
    equations = (K.T - jnp.eye(len(K))).at[-1].set(1.0)
    return jnp.linalg.solve(equations, jnp.eye(len(K))[-1])


def law_of_the_paper(P, mu, x, alpha):
    """pi[x] of equation (1)."""
    r = (x / mu) ** -alpha
    weights = mu * r * (P @ r)
    return weights / weights.sum()


@every_chain
def test_walk_rows_are_laws_in_balance_with_the_stationary_law_of_the_paper(graph, P, mu, x64):
    walk, rng = walk_that_tells(graph, P, mu), np.random.default_rng(7)
    for alpha in (0.0, 1.0, 5.0):
        x = rng.dirichlet(np.full(len(mu), 3.0))
        K = np.asarray(matrix(walk, at(walk, x), alpha))
        by_hand = [row_of_srrw(P, x / mu, alpha, i) for i in range(len(mu))]
        np.testing.assert_allclose(K, by_hand, atol=1e-12)
        np.testing.assert_allclose(K.sum(1), 1, atol=1e-12)
        pi = law_of_the_paper(P, mu, x, alpha)
        np.testing.assert_allclose(pi[:, None] * K, (pi[:, None] * K).T, atol=1e-13)
        np.testing.assert_allclose(stationary_law(jnp.asarray(K)), pi, atol=1e-10)
    np.testing.assert_allclose(matrix(walk, at(walk, mu), 5.0), P, atol=1e-12)


@every_chain
def test_walk_rows_do_not_see_the_scale_of_target_or_visits(graph, P, mu, x64):
    walk, counts = walk_that_tells(graph, P, mu), np.random.default_rng(8).integers(0, 9, len(mu))
    K = matrix(walk, seen(counts, 0.5), 5.0)
    by_hand = [row_of_srrw(P, counted(counts, mu, 0.5), 5.0, i) for i in range(len(mu))]
    np.testing.assert_allclose(K, by_hand, atol=1e-10)
    np.testing.assert_allclose(
        matrix(walk_that_tells(graph, P, 2e5 * mu), seen(counts, 0.5), 5.0), K, atol=1e-10
    )
    np.testing.assert_allclose(matrix(walk, seen(40 * counts, 20.0), 5.0), K, atol=1e-10)


def seen(counts: np.ndarray, prior: float) -> DenseHistory:
    return dense_history(len(counts), prior)._replace(counts=jnp.asarray(counts, jnp.int32))


@every_chain
def test_walk_derivative_of_the_stationary_law_is_minus_alpha_one_plus_p(graph, P, mu, x64):
    walk = walk_that_tells(graph, P, mu)
    slope = jax.jit(jax.jacfwd(lambda x: stationary_law(matrix(walk, at(walk, x), ALPHA))))(jnp.asarray(mu))
    tangent = np.eye(len(mu)) - 1 / len(mu)
    np.testing.assert_allclose(slope @ tangent, -ALPHA * (np.eye(len(mu)) + P.T) @ tangent, atol=1e-10)


# Draws: the share of an even grid of uniforms that leads to a node is its probability, to one part of the grid

GRID = 2**15


@pytest.mark.parametrize("chunk", [2, 32])
@pytest.mark.parametrize("name", ["P5", "random 1"])
def test_walk_row_is_drawn_from_in_proportion(name, chunk):
    graph, P, mu = CHAINS[name]
    walk = srrw(graph, np.log(mu), base=table_of(graph, P), chunk=chunk)
    counts = np.random.default_rng(9).integers(0, 4, len(mu))
    words = (jnp.arange(GRID, dtype=jnp.uint32) * (2**32 // GRID))[:, None]

    def choices(i):
        return jax.vmap(lambda bits: walk.choose(WalkState(i, seen(counts, 1.0)), 5.0, bits))(words)

    with optimised():
        nodes = np.asarray(jax.jit(jax.vmap(choices))(jnp.arange(len(mu))))
    shares = np.array([np.bincount(row, minlength=len(mu)) for row in nodes]) / GRID
    by_hand = [row_of_srrw(P, counted(counts, mu, 1.0), 5.0, i) for i in range(len(mu))]
    np.testing.assert_allclose(shares, by_hand, atol=2 / GRID)


def test_walk_row_of_an_array_is_drawn_from_in_proportion():
    rng = np.random.default_rng(10)
    p, log_z, alpha = np.append(rng.dirichlet(np.ones(6)), 0.0), 2 * rng.normal(size=7), 3.0
    uniforms = (jnp.arange(GRID) + 0.5) / GRID
    with np.errstate(divide="ignore"):
        log_p = jnp.log(jnp.asarray(p))
    weights = p * np.exp(-alpha * log_z)
    for shift in (0.0, 500.0, -500.0):  # where e^(-alpha log_z) is 0 or infinite in float32
        drawn = jax.vmap(lambda u, shift=shift: srrw_row(log_p, log_z + shift, alpha, u))(uniforms)
        shares = np.bincount(np.asarray(drawn), minlength=7) / GRID
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=2 / GRID + 1e-4 * (shift != 0))
    assert int(srrw_row(log_p, np.where(np.arange(7) == 2, np.nan, log_z), alpha, 0.5)) == -1
