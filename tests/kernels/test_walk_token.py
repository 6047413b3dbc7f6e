"""The token of stochastic optimisation: its covariance after n steps, and a history no float32 holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import emberwalk.kernels.walk.rows as rows_module
from emberwalk.kernels.walk import dense_transition, power_schedule, regime, sa_covariance, token_walk
from emberwalk.models import barabasi_albert, read_edge_list
from tests.kernels.walk_chains import P5, P5_F, P5_GRAPH, P5_MU, P5_TABLE
from tests.statistics import LIMIT, optimised

SETTINGS = {  # method, alpha, a, b
    "base": (0.0, 0.75, 0.9),
    "alpha 1, a < b": (1.0, 0.75, 0.9),
    "alpha 1, a = b": (1.0, 0.9, 0.9),
    "alpha 1, a > b": (1.0, 1.0, 0.9),
    "alpha 1, a >> b": (1.0, 1.0, 0.7),
    "alpha 2, a < b": (2.0, 0.75, 0.9),
}
RUNS = 8000


def token(alpha: float, a: float):
    return token_walk(
        P5_GRAPH, alpha, base=P5_TABLE, target=P5_MU, gamma_exponent=a, prior=0.2 if a == 1 else 1.0
    )


def last_thetas(walk, b: float, n: int):
    """theta_n of every run of theta + beta (f(X) - theta), from theta = 0 at the solution."""
    f, schedule = jnp.asarray(P5_F - P5_MU @ P5_F, jnp.float32), power_schedule(b)

    def one_run(node, key):
        state = walk.init(key)._replace(node=node)

        def step(theta, agent_and_count):
            agent, count = agent_and_count
            return theta + schedule(count) * (f[agent] - theta), None

        agents = walk.run(key, state, n)[1]
        return lax.scan(step, jnp.float32(0), (agents, jnp.arange(n)))[0]

    nodes = np.random.default_rng(0).choice(5, RUNS, p=P5_MU).astype(np.int32)
    with optimised():
        return np.asarray(jax.jit(jax.vmap(one_run))(nodes, random.split(random.key(1), RUNS)), np.float64)


def z_of_covariance(alpha: float, a: float, b: float, n: int) -> float:
    """z of the mean square against the recursion; 2 % stand for what is not linear."""
    h = (P5_F - P5_MU @ P5_F)[:, None]
    exact = sa_covariance(P5, P5_MU, alpha, h, np.eye(1), a, b, n=n)[0, 0] * (n + 1.0) ** -b
    squares = last_thetas(token(alpha, a), b, n) ** 2
    error = np.hypot(squares.std() / RUNS**0.5, 0.02 * exact)
    return (squares.mean() - exact) / error


@pytest.mark.parametrize(("alpha", "a", "b"), SETTINGS.values(), ids=SETTINGS)
def test_walk_token_has_the_sa_covariance_of_its_recursion(alpha, a, b):
    assert abs(z_of_covariance(alpha, a, b, 2000)) < LIMIT


@pytest.mark.nightly
@pytest.mark.parametrize(("alpha", "a", "b"), SETTINGS.values(), ids=SETTINGS)
def test_walk_token_has_the_sa_covariance_of_its_recursion_in_a_long_run(alpha, a, b):
    assert abs(z_of_covariance(alpha, a, b, 20_000)) < LIMIT


def path_in_float64(graph, uniforms, alpha, a):
    """The same walk in numpy, x itself in float64; and log of each row's sum beside the weight of its node."""
    P, x, i = dense_transition(graph), np.full(graph.num_nodes, 1 / graph.num_nodes), 0
    path, log_sums = [], []
    for n, u in enumerate(uniforms, start=1):
        order = np.append(graph.indices[graph.indptr[i] : graph.indptr[i + 1]], i)
        with np.errstate(divide="ignore"):
            log_w = np.log(P[i, order]) - alpha * np.log(x[order])
        w = np.exp(log_w - log_w.max())
        log_sums.append(log_w.max() + np.log(w.sum()) + alpha * np.log(x[i]))
        i = order[np.searchsorted(np.cumsum(w) / w.sum(), u, side="right")]
        gamma = (n + 1.0) ** -a
        x *= 1 - gamma
        x[i] += gamma
        path.append(i)
    return np.array(path), np.array(log_sums)


def path_of(graph, num: int):
    walk = token_walk(graph, 10.0, gamma_exponent=0.75)
    bits = random.bits(random.key(5), (num, 1), jnp.uint32)

    def step(state, words):
        state, _ = walk.walk.advance(state, words)
        return state, state.node

    start = walk.init(random.key(0))._replace(node=jnp.int32(0))
    path = np.asarray(jax.jit(lambda: lax.scan(step, start, bits)[1])())
    return path, *path_in_float64(graph, (np.asarray(bits)[:, 0] >> 8) * 2.0**-24, 10.0, 0.75)


def test_walk_token_of_a_weighted_history_whose_rows_overflow_walks_as_in_float64(data_folder):
    ours, exact, _ = path_of(read_edge_list(data_folder / "graphs" / "soc-wiki-Vote.txt.gz"), 2000)
    np.testing.assert_array_equal(ours, exact)


def test_walk_token_of_a_weighted_history_on_a_graph_with_hubs_walks_as_in_float64():
    ours, exact, _ = path_of(barabasi_albert(900, 3, seed=0), 1000)
    np.testing.assert_array_equal(ours, exact)


FLOAT32 = np.log(np.finfo(np.float32).max)


def test_walk_planted_row_maximum_left_on_stops_the_token_where_a_row_overflows(monkeypatch):
    """Of a weighted history; up to that step it is right, within the first that a token takes."""
    monkeypatch.setattr(rows_module, "LEAST", -1.0)
    monkeypatch.setattr(rows_module, "MOST", np.inf)
    monkeypatch.setattr(rows_module._Row, "draw_short", lambda row, uniform: row.draw_long(uniform))
    monkeypatch.setattr(rows_module._Row, "maximum", lambda row, num: jnp.float32(0))
    ours, exact, log_sums = path_of(barabasi_albert(900, 3, seed=0), 1000)
    first = np.argmax(log_sums > FLOAT32)
    assert 0 < first < 100
    np.testing.assert_array_equal(ours[:first], exact[:first])
    assert exact[first] != exact[first - 1]
    assert ours[first] == ours[first - 1]


def test_walk_regimes_have_names_and_gains():
    assert regime(0.75, 0.9).gain == "1/alpha^2"
    assert regime(0.9, 0.9).gain == "1/alpha"
    assert regime(1.0, 0.9).gain == "none"


def test_walk_schedule_of_powers_is_that_of_the_paper_and_pickles():
    import pickle

    schedule = pickle.loads(pickle.dumps(power_schedule(0.9, scale=2.0)))
    np.testing.assert_allclose([schedule(0), schedule(9)], [2 * 2**-0.9, 2 * 11**-0.9], rtol=1e-6)


def test_walk_token_bad_input_says_what_to_do():
    from emberwalk.kernels.walk import Growth

    with pytest.raises(ValueError, match=r"gamma_exponent must be above 1/2 and at most 1, got 0\.5"):
        token_walk(P5_GRAPH, gamma_exponent=0.5)
    with pytest.raises(
        ValueError, match=r"alpha: Growth counts visits; it needs gamma_exponent=1, got 0\.75"
    ):
        token_walk(P5_GRAPH, Growth())
    with pytest.raises(ValueError, match='method must be "srrw" or "hdt", got \'rotor\''):
        token_walk(P5_GRAPH, method="rotor")
    with pytest.raises(ValueError, match="exponent must be above 1/2 and at most 1, got 2"):
        power_schedule(2)
    with pytest.warns(UserWarning, match=r"bias of such a walk is of order gamma_n"):
        token_walk(P5_GRAPH, method="hdt")
