"""Indices by inverse CDF: distributed as the weights, and never one of weight zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc.resampling import (
    effective_sample_size,
    inverse_cdf,
    relative_weights,
    safe_log_weights,
    select,
)
from tests.statistics import assert_exact, replicas, z_scores


def weights_with_zeros(num: int, scale: float) -> np.ndarray:
    """Log-normal weights, half of them zero, both ends among them; the largest is 1."""
    g = np.random.default_rng(num)
    weights = np.exp(scale * g.normal(size=num)) * (g.random(num) < 0.5)
    weights[num // 2] = weights.max() + 1
    weights[[0, 1, -2, -1]] = 0
    return (weights / weights.max()).astype(np.float32)


def without_a_look_at_the_weights(uniforms, weights):
    """`select` as it is in every textbook."""
    cdf = jnp.cumsum(weights)
    return jnp.minimum(jnp.searchsorted(cdf, uniforms * cdf[-1], side="right"), len(weights) - 1)


def adverse_uniforms(weights: np.ndarray) -> np.ndarray:
    """The edges of the CDF as it is computed, their neighbours in float32, and 0 and the last below 1."""
    cdf = np.asarray(jnp.cumsum(jnp.asarray(weights)), np.float32)
    edges = np.concatenate([cdf / cdf[-1], (cdf[:-1] + cdf[1:]) / (2 * cdf[-1]), [0.0]]).astype(np.float32)
    uniforms = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))])
    return np.clip(uniforms, 0, np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("num", [16, 4096])
def test_no_index_of_weight_zero_is_drawn(num, scale):
    weights = jnp.asarray(weights_with_zeros(num, scale))
    weight_drawn = jax.jit(lambda uniforms: weights[select(uniforms, weights)])
    for uniforms in (random.uniform(random.key(num), (1_000_000,)), jnp.asarray(adverse_uniforms(weights))):
        assert np.all(np.asarray(weight_drawn(uniforms)) > 0)


def test_planted_cdf_whose_rounding_draws_an_index_of_weight_zero():
    weights = jnp.asarray(weights_with_zeros(4096, 0.1))
    index = without_a_look_at_the_weights(jnp.asarray(adverse_uniforms(weights)), weights)
    assert not (weights[index] > 0).all()


def test_planted_left_side_draws_a_weight_zero_at_u_0():
    weights = jnp.array([0.0, 1.0])
    assert jnp.searchsorted(jnp.cumsum(weights), 0.0, side="left") == 0
    assert select(jnp.zeros(1), weights)[0] == 1


@pytest.mark.parametrize("num", [16, 100])
def test_indices_are_distributed_as_the_weights(num):
    weights = weights_with_zeros(num, 1.0).astype(np.float64)
    probabilities, count = weights / weights.sum(), 1_000_000
    log_weights = jnp.asarray(np.log(weights, where=weights > 0, out=np.full(num, -np.inf)) + 300.0)
    index = np.asarray(jax.jit(lambda key: inverse_cdf(key, log_weights, count))(random.key(0)))
    shares = np.bincount(index, minlength=num) / count
    possible = probabilities > 0
    error = np.sqrt(probabilities * (1 - probabilities) / count)[possible]
    assert_exact((shares - probabilities)[possible] / error)
    assert not shares[~possible].any()


def test_draws_are_independent():
    """Multinomial counts, whose variance is n p (1 - p); a systematic scheme has less."""
    log_weights = jnp.log(jnp.array([0.3, 0.7]))
    counts = replicas(lambda key: inverse_cdf(key, log_weights, 10).sum(), random.key(0), 20_000)
    assert_exact(z_scores((counts - 7) ** 2, 2.1))


def test_all_weights_zero_answers_0_and_is_visible_in_the_weights():
    weights, largest = relative_weights(jnp.full(3, -jnp.inf))
    assert largest == 0
    np.testing.assert_array_equal(weights, 0)
    np.testing.assert_array_equal(select(jnp.array([0.0, 0.5, 0.999]), weights), 0)
    assert effective_sample_size(weights) == 0


def test_weights_that_are_no_numbers_are_counted_and_made_zero():
    log_weights, num_bad = safe_log_weights(jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf, -2.0]))
    np.testing.assert_array_equal(log_weights, [0, -np.inf, -np.inf, -np.inf, -2])
    assert num_bad == 2  # -inf is an impossible particle, not a mistake


@pytest.mark.parametrize(
    ("weights", "size"),
    [((1.0, 1.0, 1.0, 1.0), 4.0), ((0.0, 1e-9, 0.0, 0.0), 1.0), ((1.0, 0.5, 0.0, 0.0), 1.8)],
)
def test_effective_sample_size_lies_between_one_and_n(weights, size):
    assert effective_sample_size(jnp.array(weights)) == pytest.approx(size, rel=1e-6)
