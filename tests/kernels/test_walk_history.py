"""What a walk remembers: ratios of visits that no float32 holds, and a histogram that forgets without an underflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emberwalk.kernels.walk import dense_history, hdt_graph, srrw, weighted_history
from emberwalk.kernels.walk.history import MAX_COUNT, target_of
from emberwalk.models import karate_club
from tests.kernels.walk_chains import Weights, weighted
from tests.statistics import optimised

KARATE = karate_club()


def of_counts(counts, prior: float = 1.0):
    return dense_history(len(counts), prior)._replace(counts=jnp.asarray(counts, jnp.int32))


@pytest.mark.parametrize("count", [10**4, 10**7, 10**9, MAX_COUNT - 10**5])
def test_walk_counts_a_root_apart_have_their_ratio(count):
    """Logarithms in float32 are off by 3.5 % at 1e9."""
    counts = np.array([count, count + int(count**0.5), 0])
    seen = of_counts(counts).log_ratio(target_of(None, 3), jnp.int32(0), jnp.arange(3))
    exact = np.log1p((counts - counts[0]) / (counts[0] + 1.0))
    np.testing.assert_allclose(seen, exact, rtol=1e-6)


@pytest.mark.parametrize("mu", [None, np.array([1.0, 4.0])], ids=["uniform", "target"])
@pytest.mark.parametrize("prior", [1e-8, 1.0])
def test_walk_counts_that_never_were_have_a_finite_ratio(mu, prior):
    target = target_of(None if mu is None else np.log(mu), 2)
    seen = of_counts([0, 2**25], prior).log_ratio(target, jnp.int32(0), jnp.arange(2))
    share = np.ones(2) if mu is None else mu / mu.mean()
    z = np.array([0, 2.0**25]) / share + prior
    np.testing.assert_allclose(seen, np.log(z / z[0]), rtol=1e-6)


@pytest.mark.parametrize("build", [srrw, hdt_graph])
@pytest.mark.parametrize("full", [0, 2**25])
def test_walk_counts_with_a_tiny_prior_do_not_make_it_stick(build, full):
    """All 34 nodes within 2000 steps, as with a prior of 1, from a node that hangs on a hub and was visited much."""
    walk = build(KARATE, alpha=5.0, prior=1e-8)
    start = walk.init(11)
    counts = jnp.zeros(34, jnp.int32).at[11].set(full)
    start = start._replace(history=start.history._replace(counts=counts))
    with optimised():
        end, nodes, refused = jax.jit(lambda key: walk.travel(key, start, 2000))(jax.random.key(0))
    assert int(refused) == 0
    np.testing.assert_array_equal(end.history.counts - counts, np.bincount(nodes, minlength=34))
    assert set(np.asarray(nodes).tolist()) >= set(range(34)) - ({11} if full else set())
    assert full == 0 or int(nodes[0]) == 0


def test_walk_weighted_history_is_the_histogram_that_forgets():
    """30,000 visits to two of five nodes: what is left of the others is 1e-20 of its share, and exact in log form."""
    mu = np.array([1.0, 2.0, 3.0, 4.0, 5.0]) / 15
    target, nodes = target_of(np.log(mu), 5), np.arange(30_000) % 2

    def record(history, node):
        return history.record(node), None

    with optimised():
        history = jax.jit(
            lambda: lax.scan(record, weighted_history(target, 5, 0.75), jnp.asarray(nodes))[0]
        )()
    log_x = log_of_weighted(mu, nodes, 0.75)
    assert log_x[2] < -40
    np.testing.assert_allclose(history.log_v + history.log_scale[0] - history.log_scale[1], log_x, atol=2e-4)
    seen = history.log_ratio(target, jnp.int32(1), jnp.arange(5))
    np.testing.assert_allclose(seen, (log_x - log_x[1]) - (np.log(mu) - np.log(mu[1])), atol=2e-4)


def log_of_weighted(x: Weights, nodes: np.ndarray, a: float) -> Weights:
    """log x in float64."""
    for step, node in enumerate(nodes, 1):
        x = weighted(x, node, step, a)
    return np.log(x)
