"""Whole kernels on data that they drew themselves: the joint law of parameters, path and data must not change.

    (theta, x) ~ prior;   then, again and again, y ~ p(y | theta, x),   (theta, x) ~ K_y((theta, x), .)   (1)

leaves the law of (theta, x, y) what it was (Geweke 2004), whatever the model, so that no exact answer is needed.
Ranks of the true parameters among draws of their posterior are uniform (Cook, Gelman and Rubin 2006).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer import NUTS
from scipy.stats import chi2

from emberwalk.infer import PPG
from emberwalk.infer.smc import interweave
from emberwalk.models import poisson_counts, regime_switching, stochastic_volatility
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

LENGTH = 6


class Joint(NamedTuple):
    """A model whose data can be drawn.

    Attributes:
        model: the model.
        parameters: support of each parameter.
        data: (key, latents) -> y.
        statistics: (latents, y) -> vector.
    """

    model: Callable
    parameters: dict[str, Any]
    data: Callable[[jax.Array, dict], jax.Array]
    statistics: Callable[[dict, jax.Array], jax.Array]


def normal_data(sd: Callable, mean: Callable) -> Callable:
    return lambda key, v: mean(v) + sd(v) * random.normal(key, (LENGTH,))


def of_volatility(v, y):
    theta = jnp.stack([v["mu"], v["sigma"], v["b"]])
    h = v["h"]
    return jnp.concatenate([theta, theta**2, jnp.stack([v["h0"], h[0], h[-1], h[-1] ** 2]), theta * h[-1]])


def of_counts(v, y):
    theta, x = jnp.stack([v["lam"], v["rho"]]), jnp.asarray(v["x"], jnp.float32)
    return jnp.concatenate([theta, theta**2, jnp.stack([x[0], x[-1], y[-1] ** 2.0]), theta * x[-1]])


def of_regimes(v, y):
    x, s = v["x"], jnp.asarray(v["s"], jnp.float32)
    return jnp.stack([v["x0"], x[-1], x[-1] ** 2, s[0], s[-1], s[-1] * s[-2], s[-1] * x[-1] ** 2, y[-1] ** 2])


def with_start(v):
    return jnp.append(v["x0"], v["x"])


JOINTS = {
    "volatility": Joint(
        stochastic_volatility,
        {"mu": constraints.real, "sigma": constraints.positive, "b": constraints.unit_interval},
        normal_data(lambda v: jnp.exp(v["h"] / 2), lambda v: 0.0),
        of_volatility,
    ),
    "counts": Joint(
        poisson_counts,
        {"lam": constraints.positive, "rho": constraints.unit_interval},
        lambda key, v: dist.Binomial(v["x"], 0.5).sample(key),
        of_counts,
    ),
    "switching": Joint(regime_switching, {}, normal_data(lambda v: 0.5, with_start), of_regimes),
}


class Chain:
    """`PPG` that takes latents and data as they come, one chain."""

    def __init__(self, joint: Joint):
        self.joint = joint
        inner = NUTS(joint.model, step_size=0.3, max_tree_depth=3)
        self.kernel = PPG(joint.model, 4, inner_kernel=inner, interweave_steps=8)
        self.first = self.kernel.init(
            random.key(0), 0, None, (self.data(random.key(1), self.prior(random.key(2))),), {}
        )
        self.path = tuple(self.first.block_states[0].z)

    def prior(self, key) -> dict[str, jax.Array]:
        dtype = jnp.int32 if self.joint.model is poisson_counts else jnp.float32
        trace = handlers.trace(handlers.seed(self.joint.model, key)).get_trace(jnp.zeros(LENGTH, dtype))
        return {n: s["value"] for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}

    def data(self, key, latents) -> jax.Array:
        return self.joint.data(key, latents)

    def move(self, key, latents, y) -> dict[str, jax.Array]:
        block, inner = self.first.block_states
        theta = {name: biject_to(s)._inverse(latents[name]) for name, s in self.joint.parameters.items()}
        blocks = (block._replace(z={n: latents[n] for n in self.path}), inner._replace(z=theta))
        # warm-up of length 0 is over: nothing adapts
        state = self.first._replace(block_states=blocks, rng_key=key, i=jnp.array(100))
        after = self.kernel.sample(state, (y,), {}).z
        return {
            n: biject_to(self.joint.parameters[n])(v) if n in self.joint.parameters else v
            for n, v in after.items()
        }


def z_of_changes(joint: Joint, count: int) -> np.ndarray:
    """z of what 20 rounds of equation (1) change in the means of the statistics, from draws of the prior."""
    chain = Chain(joint)

    def replica(key):
        key_prior, key_data, key_moves = random.split(key, 3)
        latents = chain.prior(key_prior)

        def step(latents, key):
            key_data, key_move = random.split(key)
            return chain.move(key_move, latents, chain.data(key_data, latents)), None

        y = chain.data(key_data, latents)
        before = joint.statistics(latents, y)
        after = jax.lax.scan(step, latents, random.split(key_moves, 20))[0]
        return joint.statistics(after, chain.data(key_data, after)) - before

    changes = replicas(replica, random.key(3), count)
    return z_scores(changes, np.zeros(changes.shape[1]))


@pytest.mark.nightly
@pytest.mark.parametrize("joint", JOINTS.values(), ids=JOINTS)
def test_smc_joint_law_of_parameters_path_and_data_stays_the_prior(joint):
    assert_exact(z_of_changes(joint, 20_000))


@pytest.mark.nightly
def test_smc_joint_law_planted_density_of_the_noise_without_its_scale(monkeypatch):
    right = interweave.from_noise

    def without_scale(*args):
        path, before, log_scale = right(*args)
        return path, before, 0 * log_scale

    monkeypatch.setattr(interweave, "from_noise", without_scale)
    assert_caught(z_of_changes(JOINTS["volatility"], 4000))


@pytest.mark.nightly
def test_smc_ranks_of_the_true_parameters_are_uniform():
    joint, num_draws, thinning = JOINTS["volatility"], 9, 40
    chain = Chain(joint)

    def replica(key):
        key_prior, key_data, key_moves = random.split(key, 3)
        truth = chain.prior(key_prior)
        y = chain.data(key_data, truth)

        def step(latents, key):
            return chain.move(key, latents, y), jnp.stack([latents[name] for name in joint.parameters])

        keys = random.split(key_moves, num_draws * thinning + 1)
        _, theta = jax.lax.scan(step, truth, keys)
        return (theta[thinning::thinning] < theta[0]).sum(0)

    ranks = replicas(replica, random.key(4), 4000)
    for column in ranks.T:
        counts = np.bincount(column.astype(int), minlength=num_draws + 1)
        expected = len(column) / (num_draws + 1)
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert chi2.sf(statistic, num_draws) > 1e-4, counts
