"""Variances, biases and limits of the walks against the closed forms, and kernels with planted bugs."""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.walk import (
    Growth,
    asymptotic_covariance,
    hdt_graph,
    row_table,
    srrw,
)
from emberwalk.kernels.walk.base import Walk
from emberwalk.kernels.walk.history import target_of
from emberwalk.kernels.walk.rows import rows_from, uniform_of
from emberwalk.kernels.walk.srrw import Srrw
from emberwalk.models import karate_club
from tests.kernels.walk_chains import P5, P5_F, P5_GRAPH, P5_MU, P5_TABLE
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

KARATE = karate_club()
DEGREE = KARATE.degree.astype(float)
CHAINS = 200


def counts_of(walk: Walk, length: int, num_chains: int, seed: int = 0) -> np.ndarray:
    """Visits of every chain, each started at a node drawn from the target."""
    nodes = start_nodes(walk, num_chains, seed)
    with optimised():
        return np.asarray(
            _counts(walk, nodes, random.split(random.key(seed), num_chains), length), np.float64
        )


def start_nodes(walk: Walk, num_chains: int, seed: int) -> np.ndarray:
    log_mu = walk.target.log_mu
    mu = np.ones(walk.num_nodes) if log_mu is None else np.exp(np.asarray(log_mu, np.float64))
    return np.random.default_rng(seed).choice(walk.num_nodes, num_chains, p=mu / mu.sum()).astype(np.int32)


def _visits(walk, node, key, length):
    return walk.run(key, walk.init(node), length)[0].history.counts


_counts = jax.jit(jax.vmap(_visits, in_axes=(None, 0, 0, None)), static_argnums=3)


def traces(counts: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """n sum_i (c_i / n - mu_i)^2 of each chain."""
    n = counts[0].sum()
    return n * ((counts / n - mu) ** 2).sum(1)


NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize("length", [2000, pytest.param(20_000, marks=NIGHTLY)])
@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_walk_visits_vary_as_the_closed_form_says(alpha, length):
    walk = srrw(P5_GRAPH, np.log(P5_MU), 1.0, base=P5_TABLE)
    counts = counts_of(replace(walk, alpha=alpha), length, 4000)
    V = asymptotic_covariance(P5, P5_MU, alpha, "srrw")
    off = length**0.5 * (counts / length - P5_MU) @ P5_F
    assert_exact(z_scores(traces(counts, P5_MU), np.trace(V)))
    assert_exact(z_scores(off**2, P5_F @ V @ P5_F))


@pytest.mark.nightly
@pytest.mark.parametrize(("build", "method", "figure"), [(srrw, "srrw", 0.0271), (hdt_graph, "hdt", 0.0476)])
def test_walk_visits_of_the_karate_club_vary_as_the_closed_form_says(build, method, figure):
    counts = counts_of(build(KARATE, alpha=10.0), 100_000, 400)
    assert abs(traces(counts, np.full(34, 1 / 34)).mean() / 8.3354 / figure - 1) < 0.1


def excess_of_degree(counts: np.ndarray) -> np.ndarray:
    """n times the error of the mean degree, one value a chain: a bias of order 1/n is a constant here."""
    return counts @ DEGREE - counts[0].sum() * DEGREE.mean()


HDT_EXCESS = 157.0  # n times the bias of the mean degree after 8000 steps at alpha = 10, measured apart


@pytest.mark.parametrize("num_chains", [1000, pytest.param(2000, marks=NIGHTLY)])
def test_walk_bias_is_small_with_rows_and_large_with_the_history_driven_target(num_chains):
    rows = excess_of_degree(counts_of(srrw(KARATE, alpha=10.0), 8000, num_chains))
    assert abs(rows.mean()) < 60
    assert_caught(z_scores(rows, HDT_EXCESS))
    driven = excess_of_degree(counts_of(hdt_graph(KARATE, alpha=10.0), 8000, num_chains))
    assert_exact(z_scores(driven, HDT_EXCESS))  # what `history="keep"` is for


def test_walk_growth_takes_the_error_to_one_over_n():
    counts = counts_of(srrw(KARATE, alpha=Growth(1.0)), 20_000, CHAINS)
    assert traces(counts, np.full(34, 1 / 34)).mean() < 0.007


RIGHT = srrw(KARATE, alpha=5.0, chunk=32)
NO_STAY = row_table(KARATE)._replace(log_p_self=np.full(34, -np.inf, np.float32))
NO_CORRECTION = row_table(KARATE, np.log(DEGREE), "simple")


@cache
def errors_of(name: str) -> dict[str, np.ndarray]:
    counts = counts_of(PLANTED.get(name, RIGHT), 20_000, CHAINS, seed=1)
    return {"degree": excess_of_degree(counts), "trace": traces(counts, np.full(34, 1 / 34))}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CountsMoves(Srrw):
    """Counts where it goes to, and not where it stays; what it visits is written beside, behind the counts."""

    def advance(self, state, bits):
        after, info = super().advance(state, bits)
        counts = jnp.where(info.moved, after.history.counts, state.history.counts)
        return after._replace(history=after.history._replace(counts=counts)), info


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RejectsByTheLeast(Srrw):
    """Proposes q from P, accepts it with (least z of the row / z_q)^alpha, and else stays."""

    num_words = 2

    def choose(self, state, alpha, bits):
        q = self.rows.draw(state.node, jnp.zeros_like, uniform_of(bits[0]))
        everyone = jnp.arange(34)
        log_z = state.history.log_ratio(self.target, state.node, everyone)
        near = jnp.asarray(KARATE.adjacency().toarray(), bool)[state.node] | (everyone == state.node)
        least = jnp.where(near, log_z, jnp.inf).min()
        return jnp.where(uniform_of(bits[1]) < jnp.exp(alpha * (least - log_z[q])), q, state.node)


PLANTED = {
    "no degree correction": Srrw(rows_from(KARATE, NO_CORRECTION), RIGHT.target, 5.0, 1.0),
    "row sum without the node itself": replace(RIGHT, rows=rows_from(KARATE, NO_STAY)),
    "sign of the tilt": replace(RIGHT, alpha=-0.5),
    "accepts by the least of the row": RejectsByTheLeast(RIGHT.rows, RIGHT.target, 5.0, 1.0),
}
FIGURE = 8.3354 * 0.05278


def test_walk_of_the_karate_club_is_without_bias_and_has_its_variance():
    errors = errors_of("right")
    assert_exact(z_scores(errors["degree"], 0.0))
    assert_exact(z_scores(errors["trace"], FIGURE))


@pytest.mark.parametrize("name", PLANTED)
def test_walk_planted_bugs_show_in_the_mean_degree_or_the_variance(name):
    errors = errors_of(name)
    z = [z_scores(errors["degree"], 0.0), z_scores(errors["trace"], FIGURE)]
    assert_caught(np.array(z))


def test_walk_planted_count_of_moves_alone_has_another_limit():
    walk = CountsMoves(RIGHT.rows, RIGHT.target, 5.0, 1.0)

    def visits(node, key):
        nodes = walk.run(key, walk.init(node), 20_000)[1]
        return jnp.zeros(34, jnp.int32).at[nodes].add(1)

    with optimised():
        counts = jax.jit(jax.vmap(visits))(jnp.zeros(20, jnp.int32), random.split(random.key(2), 20))
    distance = np.abs(np.asarray(counts) / 20_000 - 1 / 34).sum(1) / 2
    assert distance.min() > 0.5


def test_walk_planted_target_missing_from_the_tilt_shows_where_the_target_is_not_uniform():
    right = srrw(KARATE, np.log(DEGREE), 5.0, base="simple")
    mean = (DEGREE**2).sum() / DEGREE.sum()
    z = {
        name: z_scores(counts_of(walk, 20_000, CHAINS) @ DEGREE / 20_000, mean)
        for name, walk in {
            "right": right,
            "planted": replace(right, target=replace(target_of(np.zeros(34), 34))),
        }.items()
    }
    assert_exact(z["right"])
    assert_caught(z["planted"])
