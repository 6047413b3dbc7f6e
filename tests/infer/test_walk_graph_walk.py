"""`GraphWalk` under `MCMC`: what it counts, what it forgets, and averages with honest errors."""

import copy
import pickle

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import (
    GraphWalk,
    diagnose,
    node_average,
    summary,
    to_datatree,
    visit_statistics,
)
from emberwalk.infer.walk import graph_walk
from emberwalk.kernels.walk import Growth, Ramp
from emberwalk.models import karate_club, read_edge_list
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

KARATE = karate_club()
DEGREE = KARATE.degree.astype(float)


def walked(kernel, num_warmup=10, num_samples=200, num_chains=4, method="vectorized", key=0, **options):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method=method,
        progress_bar=False,
    )
    with optimised():  # nothing here but loops
        mcmc.run(random.key(key), **options)
    return mcmc


def test_walk_graph_walk_counts_every_step_of_every_draw():
    mcmc = walked(GraphWalk(KARATE, steps_per_draw=7), num_warmup=5, num_samples=40)
    counts = np.asarray(mcmc.last_state.history.counts)
    np.testing.assert_array_equal(counts.sum(1), 280)
    np.testing.assert_array_equal(visit_statistics(mcmc).num_steps, 280)
    assert mcmc.get_samples(group_by_chain=True)["node"].shape == (4, 40)
    every_step = walked(GraphWalk(KARATE), num_warmup=5, num_samples=300)
    nodes = np.asarray(every_step.get_samples(group_by_chain=True)["node"])
    by_hand = np.array([np.bincount(chain, minlength=34) for chain in nodes])
    np.testing.assert_array_equal(every_step.last_state.history.counts, by_hand)


def test_walk_graph_walk_forgets_its_warmup_and_is_then_a_fresh_run():
    """From the state at the end of warm-up, with the key it has there."""
    kernel = GraphWalk(KARATE, alpha=Ramp(5.0, 50), steps_per_draw=3)
    warm = walked(kernel, num_warmup=20, num_samples=30, num_chains=1)
    state = kernel.init(random.key(0), 20, None, model_args=(), model_kwargs={})
    for _ in range(20):
        state = kernel.sample(state, (), {})
    fresh = GraphWalk(KARATE, alpha=Ramp(5.0, 50), steps_per_draw=3)
    start = fresh.init(random.key(1), 0, {"node": state.z["node"]}, model_args=(), model_kwargs={})
    start = start._replace(rng_key=state.rng_key)
    for _ in range(30):
        start = fresh.sample(start, (), {})
    np.testing.assert_array_equal(start.history.counts, warm.last_state.history.counts)
    assert float(start.alpha) == float(warm.last_state.alpha) == 5.0


@pytest.mark.parametrize("method", ["srrw", "hdt"])
def test_walk_graph_walk_of_vectorized_chains_are_those_of_one_each(method):
    """Chain after chain in one array of counts: no chain reads another's."""
    kernel = GraphWalk(KARATE, alpha=5.0, method=method, steps_per_draw=5)
    keys = random.split(random.key(4), 3)

    def moved(key):
        state = kernel.init(key, 2, None, model_args=(), model_kwargs={})
        for _ in range(6):
            state = kernel.sample(state, (), {})
        return state

    together = jax.jit(moved)(keys)
    for chain, key in enumerate(keys):
        one = jax.jit(moved)(key)
        np.testing.assert_array_equal(together.history.counts[chain], one.history.counts)
        np.testing.assert_array_equal(together.z["node"][chain], one.z["node"])
        np.testing.assert_array_equal(together.history.revisits[chain], one.history.revisits)
    assert (np.asarray(together.history.offset) == 0).all()


# NumPyro donates a buffer that a callable chain method makes unusable
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("method", ["sequential", "vectorized", jax.vmap])
def test_walk_graph_walk_reads_a_large_graph_by_reference_and_walks_the_same(monkeypatch, method):
    kernel = GraphWalk(KARATE, "degree", steps_per_draw=5)
    constants = walked(kernel, num_samples=20, num_chains=2, method=method)
    monkeypatch.setattr(graph_walk, "_LARGE", 0)
    references = walked(copy.deepcopy(kernel), num_samples=20, num_chains=2, method=method)
    assert isinstance(references.sampler._held.rows.columns, jax.Ref)
    np.testing.assert_array_equal(constants.get_samples()["node"], references.get_samples()["node"])
    pickle.dumps(references.sampler)


def test_walk_graph_walk_averages_are_exact_and_their_errors_honest():
    mcmc = walked(
        GraphWalk(KARATE, alpha=10.0, steps_per_draw=100), num_warmup=1, num_samples=100, num_chains=64
    )
    degree = node_average(mcmc, DEGREE)
    assert_exact((degree.mean - DEGREE.mean()) / degree.mcse)
    # 39.794 .03292 is n times the variance
    predicted = np.sqrt(39.794 * 0.03292 / 10_000 / 64)
    assert 0.6 < degree.mcse / predicted < 1.5
    distinct = node_average(mcmc, dict(enumerate(DEGREE)), method="distinct")
    np.testing.assert_allclose(distinct.mean, DEGREE.mean(), rtol=1e-12)
    assert (degree.num_steps == 10_000).all()
    assert (distinct.coverage == 1).all()
    assert "64 chains, t interval" in str(degree)


def test_walk_graph_walk_averages_under_other_weights():
    """A walk to the degree, averaged evenly; f of two columns."""
    kernel = GraphWalk(KARATE, "degree", alpha=5.0, base="simple", steps_per_draw=100)
    mcmc = walked(kernel, num_warmup=1, num_samples=50, num_chains=64)
    both = node_average(mcmc, lambda nodes: np.stack([DEGREE[nodes], nodes == 33], -1), weights=np.ones(34))
    assert both.mean.shape == (2,)
    assert_exact((both.mean - [DEGREE.mean(), 1 / 34]) / both.mcse)
    plain = node_average(mcmc, DEGREE)
    assert_exact((plain.mean - (DEGREE**2).sum() / DEGREE.sum()) / plain.mcse)


def test_walk_graph_walk_kept_history_takes_the_bias_of_the_history_driven_target_out():
    """8000 steps after 8000: n times the bias of the mean degree is 158 after a reset."""

    def excess(history):
        kernel = GraphWalk(KARATE, alpha=10.0, method="hdt", steps_per_draw=2000, history=history)
        mcmc = walked(kernel, num_warmup=4, num_samples=4, num_chains=1000)
        return 8000 * (node_average(mcmc, DEGREE).per_chain - DEGREE.mean())

    assert_exact(z_scores(excess("keep"), 0.0))
    reset = excess("reset")
    assert reset.mean() > 100
    assert_caught(z_scores(reset, 0.0))


@pytest.mark.nightly
def test_walk_graph_walk_on_a_graph_of_4039_nodes_errs_a_third_of_its_base_chain(data_folder):
    """40,000 steps; over the distinct nodes the error is that of the few that were missed."""
    graph = read_edge_list(data_folder / "graphs" / "facebook_combined.txt.gz")

    def errors(alpha, num_chains, method):
        kernel = GraphWalk(graph, alpha=alpha, steps_per_draw=1000)
        mcmc = walked(kernel, num_warmup=0, num_samples=40, num_chains=num_chains)
        average = node_average(mcmc, graph.degree, method=method)
        return np.sqrt(np.mean((average.per_chain / graph.degree.mean() - 1) ** 2))

    assert errors(5.0, 128, "visits") < errors(0.0, 512, "visits") / 3
    assert errors(5.0, 128, "distinct") < 0.01


def test_walk_graph_walk_reaches_arviz_and_says_how_it_went():
    mcmc = walked(GraphWalk(nx.karate_club_graph(), steps_per_draw=100), num_warmup=2, num_samples=50)
    tree = to_datatree(mcmc)
    assert tree["posterior"]["node"].shape == (4, 50)
    assert list(summary(mcmc).index) == ["node"]
    statistics = visit_statistics(mcmc)
    assert (statistics.tvd < 0.1).all()
    assert (statistics.coverage == 1).all()
    assert (statistics.revisit_rate > 0.99).all()
    assert (statistics.num_untracked == 0).all()


def test_walk_graph_walk_without_repellence_and_with_growth():
    base = walked(GraphWalk(KARATE, alpha=0.0, steps_per_draw=100), num_samples=20)
    assert float(base.last_state.alpha[0]) == 0.0
    grown = walked(GraphWalk(KARATE, alpha=Growth(), steps_per_draw=100), num_samples=20)
    np.testing.assert_allclose(grown.last_state.alpha, 1999 / 34, rtol=1e-5)
    assert (visit_statistics(grown).tvd < visit_statistics(base).tvd / 5).all()


def test_walk_graph_walk_is_pickled_and_copied():
    kernel = GraphWalk(KARATE, {i: 1.0 + i for i in range(34)}, alpha=Ramp(5.0, 10))
    again = pickle.loads(pickle.dumps(kernel))
    draws = [walked(k, num_samples=20).get_samples()["node"] for k in (kernel, again, copy.deepcopy(kernel))]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


BAD = {
    "method": (
        lambda: GraphWalk(KARATE, method="rotor"),
        r"method must be one of \('srrw', 'hdt'\), got 'rotor'",
    ),
    "history": (lambda: GraphWalk(KARATE, history="lose"), "history must be one of .* got 'lose'"),
    "steps": (
        lambda: GraphWalk(KARATE, steps_per_draw=0),
        "steps_per_draw must be a whole number from 1 on, got 0",
    ),
    "prior": (lambda: GraphWalk(KARATE, prior=0.0), r"prior must be above 0, got 0\.0"),
    "strength": (lambda: GraphWalk(KARATE, alpha=-1.0), r"alpha must be 0 .* got -1\.0"),
    "growth": (lambda: GraphWalk(KARATE, alpha=Growth(), method="hdt"), "Growth needs the rows of srrw"),
    "start": (
        lambda: walked(GraphWalk(KARATE), init_params={"node": jnp.array([0, 34, 1, 2])}),
        r'init_params\["node"\] must be from 0 to 33, got 34',
    ),
    "start without a node": (
        lambda: walked(GraphWalk(KARATE), init_params={"x": jnp.zeros(4)}),
        r'init_params must be \{"node": number\}, got \[\'x\'\]',
    ),
    "values too short": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), [1.0, 2.0]),
        r"f must have one value a node, 34, got shape \(2,\)",
    ),
    "values in no dict": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), {0: 1.0}),
        r"f misses 33 nodes: 1, 2, 3, 4, 5, \.\.\.",
    ),
    "weights by a word": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), DEGREE, weights="degree"),
        "weights must be numbers, one a node, or a dict by label, got 'degree'",
    ),
    "weights of NaN": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), DEGREE, weights=np.full(34, np.nan)),
        "weights must be finite and at least 0: node 0 has nan",
    ),
    "weights of 0": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), DEGREE, weights=np.zeros(34)),
        "weights must not all be 0",
    ),
    "two parts": (lambda: GraphWalk([(0, 1), (2, 3)]), "graph has 2 components"),
    "estimator": (
        lambda: node_average(walked(GraphWalk(KARATE), num_samples=2), DEGREE, method="thinned"),
        'method must be "visits" or "distinct", got \'thinned\'',
    ),
    "not run": (
        lambda: node_average(MCMC(GraphWalk(KARATE), num_warmup=1, num_samples=1), DEGREE),
        "has not run",
    ),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_walk_graph_walk_bad_input_says_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_walk_graph_walk_bad_input_of_another_kernel_or_a_model():
    with pytest.raises(TypeError, match=r"Averages over nodes are those of a run of GraphWalk: .* got NUTS"):
        node_average(MCMC(NUTS(lambda: None), num_warmup=1, num_samples=1), DEGREE)
    mcmc = MCMC(GraphWalk(KARATE), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match=r"GraphWalk has no model: mcmc.run takes a key"):
        mcmc.run(random.key(0), DEGREE)


def nan_at_last(step):
    return jnp.where(step > 50, jnp.nan, 1.0)


def test_walk_graph_walk_warns_of_what_went_wrong():
    short = walked(GraphWalk(KARATE), num_samples=30)
    with (
        pytest.warns(UserWarning, match=r"The chains took 30 steps on 34 nodes: below 10 steps a node"),
        pytest.warns(UserWarning, match=r"% of the steps hit a state visited before"),
    ):
        diagnose(short)
    broken = walked(GraphWalk(KARATE, alpha=nan_at_last, steps_per_draw=10), num_samples=100)
    with pytest.warns(UserWarning, match=r"steps were refused because alpha or a density was NaN"):
        diagnose(broken)
    assert np.isfinite(np.asarray(broken.get_samples()["node"])).all()
    one = walked(GraphWalk(KARATE, steps_per_draw=100), num_samples=20, num_chains=1)
    with pytest.warns(UserWarning, match="One chain has no error"):
        average = node_average(one, DEGREE)
    assert np.isnan(average.mcse)


def test_walk_graph_walk_counts_no_further_than_an_int32_and_says_so():
    kernel = GraphWalk([(0, 1), (1, 2), (2, 0)], steps_per_draw=100)
    mcmc = walked(kernel, num_samples=1, num_chains=1)
    full = jnp.full(3, 2**31 - 1, jnp.int32)
    state = mcmc.last_state._replace(history=mcmc.last_state.history._replace(counts=full))
    mcmc._last_state = jax.jit(lambda state: kernel.sample(state, (), {}))(state)
    np.testing.assert_array_equal(mcmc.last_state.history.counts, full)
    with pytest.warns(UserWarning, match="100 visits were not counted"):
        diagnose(mcmc)


def test_walk_graph_walk_says_once_that_the_bar_costs_more_than_its_steps():
    kernel = GraphWalk(KARATE)
    state = kernel.init(random.key(0), 0, None, model_args=(), model_kwargs={})
    state = kernel.sample(state, (), {})
    with pytest.warns(UserWarning, match="costs more than its 1 steps: raise steps_per_draw to 100"):
        assert kernel.get_diagnostics_str(state).startswith("alpha 5 revisit ")
    kernel.get_diagnostics_str(state)
