"""Covariances of the walks: every figure of the closed forms, and the recursion of a token."""

import numpy as np
import pytest
from networkx import karate_club_graph

from emberwalk.kernels.walk import (
    RowTable,
    asymptotic_covariance,
    dense_transition,
    from_networkx,
    sa_covariance,
    variance_ratio,
)
from emberwalk.kernels.walk.theory import modes_of, strength
from emberwalk.models import read_edge_list
from tests.kernels.walk_chains import P5, P5_F, P5_GRAPH, P5_MU, P5_TABLE, random_chain, table_of

KARATE = from_networkx(karate_club_graph())


CHAINS = {"P5": (P5, P5_MU), **{f"random {seed}": random_chain(seed)[1:] for seed in range(5)}}


@pytest.mark.parametrize(("P", "mu"), CHAINS.values(), ids=CHAINS)
def test_walk_covariance_of_a_base_chain_is_the_same_by_modes_and_by_the_fundamental_matrix(P, mu):
    modes = modes_of(P, mu)
    np.testing.assert_allclose((modes.u * modes.b) @ modes.u.T, asymptotic_covariance(P, mu, 0.0), atol=1e-14)
    for method in ("srrw", "hdt"):
        np.testing.assert_allclose(
            asymptotic_covariance(P, mu, 0.0, method), asymptotic_covariance(P, mu, 0.0), atol=1e-14
        )


def test_walk_covariance_of_an_irreversible_chain_is_the_sum_of_its_covariances():
    P = np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
    mu = np.linalg.matrix_power(P, 200)[0]
    power, V = np.eye(3), np.diag(mu) - np.outer(mu, mu)
    for _ in range(200):
        power = power @ P
        lagged = np.diag(mu) @ power - np.outer(mu, mu)
        V = V + lagged + lagged.T
    np.testing.assert_allclose(asymptotic_covariance(P, mu, 0.0), V, atol=1e-12)
    with pytest.raises(ValueError, match=r"P is not reversible for mu: from state \d to \d it flows with"):
        asymptotic_covariance(P, mu, 1.0, "srrw")


def test_walk_figures_of_the_chain_of_five():
    np.testing.assert_allclose(modes_of(P5, P5_MU).lam, [-0.772765, -0.617019, 0.310979, 0.412139], atol=1e-6)
    V = asymptotic_covariance(P5, P5_MU, 0.0)
    np.testing.assert_allclose([np.trace(V), P5_F @ V @ P5_F], [0.8887858, 3.7017588], atol=1e-7)
    assert_ratios(P5, P5_MU, "srrw", None, {1: 0.29629, 2: 0.17862, 5: 0.08286, 10: 0.04404})
    assert_ratios(P5, P5_MU, "srrw", P5_F, {1: 0.27253, 2: 0.15823, 5: 0.07022, 10: 0.03647})
    assert_ratios(P5, P5_MU, "hdt", P5_F, {1: 1 / 3, 5: 1 / 11})


def assert_ratios(P, mu, method, f, figures, atol=6e-6):
    seen = [variance_ratio(P, mu, alpha, method, f) for alpha in figures]
    np.testing.assert_allclose(seen, list(figures.values()), atol=atol)


def test_walk_figures_of_a_history_that_forgets():
    def ratio(alpha, method, **kw):
        return (
            P5_F
            @ asymptotic_covariance(P5, P5_MU, alpha, method, gamma_exponent=0.75, **kw)
            @ P5_F
            / 3.7017588
        )

    np.testing.assert_allclose([ratio(1, "srrw"), ratio(2, "srrw")], [0.18374, 0.07522], atol=6e-6)
    np.testing.assert_allclose([ratio(1, "hdt"), ratio(2, "hdt")], [0.25, 1 / 9], atol=1e-7)
    np.testing.assert_allclose(ratio(1, "hdt", estimator="history"), 0.25, atol=1e-7)


KARATE_FIGURES = {
    "mh": (None, -0.27428, 0.96650, 8.3354, {1: 0.21709, 5: 0.05278, 10: 0.02713}),
    "simple": (np.log(KARATE.degree), None, None, 1.6385, {1: 0.27225, 5: 0.07205, 10: 0.03766}),
}


@pytest.mark.parametrize("base", KARATE_FIGURES)
def test_walk_figures_of_the_karate_club(base):
    log_mu, lowest, second, trace, ratios = KARATE_FIGURES[base]
    P = dense_transition(KARATE, log_mu, base)
    mu = np.ones(34) if log_mu is None else np.exp(log_mu)
    assert_ratios(P, mu, "srrw", None, ratios)
    np.testing.assert_allclose(np.trace(asymptotic_covariance(P, mu, 0.0)), trace, atol=6e-5)
    if base == "mh":
        lam = modes_of(P, mu / mu.sum()).lam
        np.testing.assert_allclose([lam[0], lam[-1]], [lowest, second], atol=6e-6)
        V = asymptotic_covariance(P, mu, 0.0)
        np.testing.assert_allclose(KARATE.degree @ V @ KARATE.degree, 39.794, atol=6e-4)
        assert_ratios(P, mu, "srrw", KARATE.degree, {1: 0.24968, 5: 0.06355, 10: 0.03292})


FILES = {
    "soc-dolphins": (62, 159, 0.97680, 6.5592, {1: 0.22122, 5: 0.05420, 10: 0.02790}),
    "soc-wiki-Vote": (889, 2914, 0.99517, 15.339, {1: 0.20967, 5: 0.05052, 10: 0.02592}),
}


LARGE = pytest.param(
    "soc-wiki-Vote", (1, 10), marks=pytest.mark.nightly
)  # each a matrix of 889 to take apart


@pytest.mark.parametrize(
    ("name", "alphas"), [("soc-dolphins", (1, 5, 10)), ("soc-wiki-Vote", (5,)), LARGE], ids=str
)
def test_walk_figures_of_the_graphs_of_the_papers(name, alphas, data_folder):
    nodes, edges, second, trace, ratios = FILES[name]
    graph = read_edge_list(data_folder / "graphs" / f"{name}.txt.gz")
    assert (graph.num_nodes, graph.num_edges) == (nodes, edges)
    P, mu = dense_transition(graph), np.ones(nodes)
    np.testing.assert_allclose(modes_of(P, mu / nodes).lam[-1], second, atol=6e-6)
    np.testing.assert_allclose(np.trace(asymptotic_covariance(P, mu, 0.0)), trace, rtol=5e-5)
    assert_ratios(P, mu, "srrw", None, {alpha: ratios[alpha] for alpha in alphas})


def test_walk_dense_transition_is_the_chain_of_a_table():
    np.testing.assert_allclose(dense_transition(P5_GRAPH, np.log(P5_MU), P5_TABLE), P5, atol=1e-12)
    lazy = dense_transition(P5_GRAPH, np.log(P5_MU), P5_TABLE, lazy=0.25)
    np.testing.assert_allclose(lazy, 0.75 * P5 + 0.25 * np.eye(5), atol=1e-12)


def test_walk_table_that_is_no_chain_for_the_target_is_refused():
    with pytest.raises(
        ValueError, match=r"base is not reversible: from 0 to 1 it flows with .* mu, back with .* mu\."
    ):
        dense_transition(P5_GRAPH, None, P5_TABLE)
    with pytest.raises(ValueError, match=r"base: the row of node 0 sums to 0\.666667, not 1\."):
        dense_transition(P5_GRAPH, np.log(P5_MU), table_of(P5_GRAPH, P5 - np.diag(np.diag(P5))))
    short = RowTable(P5_TABLE.log_p[1:], P5_TABLE.log_p_self)
    with pytest.raises(ValueError, match=r"base: log_p and log_p_self have shapes \(\(11,\), \(5,\)\); this"):
        dense_transition(P5_GRAPH, np.log(P5_MU), short)


SETTINGS = {  # method, alpha, a, b: n^b MSE predicted at n = 2e4
    "base": ("base", 0.0, 0.75, 0.9, 2.233),
    "alpha 1, a < b": ("srrw", 1.0, 0.75, 0.9, 0.533),
    "alpha 1, a = b": ("srrw", 1.0, 0.9, 0.9, 0.853),
    "alpha 1, a > b": ("srrw", 1.0, 1.0, 0.9, 1.283),
    "alpha 1, a >> b": ("srrw", 1.0, 1.0, 0.7, 1.731),
    "alpha 2, a < b": ("srrw", 2.0, 0.75, 0.9, 0.262),
}


@pytest.mark.parametrize(("method", "alpha", "a", "b", "figure"), SETTINGS.values(), ids=SETTINGS)
def test_walk_sa_covariance_after_finitely_many_steps(method, alpha, a, b, figure):
    n, h = 20_000, (P5_F - P5_MU @ P5_F)[:, None]
    scaled = sa_covariance(P5, P5_MU, alpha, h, np.eye(1), a, b, n=n, method=method)[0, 0]
    np.testing.assert_allclose(scaled * (n / (n + 1)) ** b, figure, atol=6e-4)


LIMITS = {
    "base": ("base", 0.0, 0.75, 0.9, 1.0),
    "srrw, a < b": ("srrw", 1.0, 0.75, 0.9, 0.18374),
    "srrw, a < b, alpha 2": ("srrw", 2.0, 0.75, 0.9, 0.07522),
    "srrw, a = b": ("srrw", 1.0, 0.9, 0.9, 0.42761),
    "srrw, a = b, alpha 2": ("srrw", 2.0, 0.9, 0.9, 0.27253),
    "hdt, a = b": ("hdt", 1.0, 0.9, 0.9, 0.5),
    "hdt, a = b, alpha 2": ("hdt", 2.0, 0.9, 0.9, 1 / 3),
    "srrw, a > b": ("srrw", 2.0, 1.0, 0.9, 1.0),
}


@pytest.mark.parametrize(("method", "alpha", "a", "b", "figure"), LIMITS.values(), ids=LIMITS)
def test_walk_sa_covariance_in_the_limit_has_three_regimes(method, alpha, a, b, figure):
    h = (P5_F - P5_MU @ P5_F)[:, None]
    limit, base = (
        sa_covariance(P5, P5_MU, s, h, np.eye(1), a, b, method=m)[0, 0]
        for s, m in ((alpha, method), (0.0, "base"))
    )
    np.testing.assert_allclose(limit / base, figure, atol=6e-6)


def covariance_of_the_whole(A, G, s, var, a, b, n):
    """Equation (6) of `theory.py` as one linear recursion of (e, y), its covariance kept whole."""
    D, M = len(A), len(s)
    C = np.zeros((D + M, D + M))
    for step in range(1, n + 1):
        beta, gamma = (step + 1.0) ** -b, (step + 1.0) ** -a
        drift = np.block([[-beta * A, -beta * G.T * s], [np.zeros((M, D)), -gamma * np.diag(s + 1)]])
        push = np.concatenate([beta * G.T, gamma * np.eye(M)]) * np.sqrt(var)
        F = np.eye(D + M) + drift
        C = F @ C @ F.T + push @ push.T
    return C[:D, :D] / (n + 1.0) ** -b


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.7), (0.9, 0.9), (1.0, 0.7), (0.75, 1.0)])
def test_walk_sa_covariance_by_blocks_is_that_of_the_whole_recursion(a, b):
    """Two dimensions, whose A is not symmetric."""
    modes, A = modes_of(P5, P5_MU), np.array([[1.0, 0.4], [-0.3, 0.8]])
    h = np.stack([P5_F - P5_MU @ P5_F, np.arange(5) == 2], 1) - np.array([0, P5_MU[2]])
    for n in (1, 2, 60):
        for method in ("srrw", "hdt"):
            seen = sa_covariance(P5, P5_MU, 2.0, h, A, a, b, n=n, method=method)
            whole = covariance_of_the_whole(A, modes.u.T @ h, strength(modes, 2.0, method), modes.b, a, b, n)
            np.testing.assert_allclose(seen, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("a", "b", "falls"), [(0.7, 0.7, 2.0), (0.6, 0.8, 1.5)], ids=["same scale", "fast history"]
)
def test_walk_sa_covariance_comes_to_its_limit(a, b, falls):
    """Ten times the steps: what is missing falls by 10^(1 - b) = 2, and where a < b by 10^(b - a) = 1.58."""
    h = (P5_F - P5_MU @ P5_F)[:, None]
    seen = [sa_covariance(P5, P5_MU, 1.0, h, np.eye(1), a, b, n=n)[0, 0] for n in (2000, 20_000)]
    off = np.abs(np.array(seen) / sa_covariance(P5, P5_MU, 1.0, h, np.eye(1), a, b)[0, 0] - 1)
    assert falls < off[0] / off[1] < 1.2 * falls
