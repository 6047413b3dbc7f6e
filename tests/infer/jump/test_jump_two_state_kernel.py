"""`ZeroShotMJP` against exact two-state posteriors, and bugs in its acceptance ratio that must show there.

For the bugs proposals are made wider, or narrower: a perfect one would hide every one of them. All are chains of one
program, told apart by a number that their proposal carries.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.infer.jump.kernel import ZeroShotMJP
from emberwalk.kernels.jump import Proposal
from tests.infer.chains import chain_means
from tests.infer.jump.jump_cases import exact_moments, two_state, two_state_args
from tests.statistics import assert_caught, assert_exact, moments, z_scores

pytestmark = pytest.mark.xdist_group("jump-two-state-kernel")  # what is fitted once serves all

KINDS = ("as it is", "wide", "narrow", "nonsense", "density forgotten", "phi forgotten", "slope forgotten")
RIGHT, BUGS = KINDS[:4], KINDS[4:]
SCALES = (1.0, 1.5, 0.6, 1.0, 1.5, 1.5, 0.6)


class Spoilt(NamedTuple):
    """A proposal with one of the bugs.

    Attributes:
        right: the proposal.
        kind: which of `KINDS` it is.
    """

    right: Proposal
    kind: jax.Array

    def sample(self, key, shape=()):
        return self.right.sample(key, shape)

    def log_prob(self, t):
        """With the density left out; with that of the normal scores; without the slopes of the marginals."""
        skew = self.right.skew_log_prob(t)
        x, slope = self.right.score(t)
        skew = skew - jnp.where(self.kind == KINDS.index("phi forgotten"), (x**2).sum(-1) / 2, 0)
        forgotten = jnp.log(slope).sum(-1)
        skew = skew + jnp.where(self.kind == KINDS.index("slope forgotten"), forgotten, 0)
        mixed = jnp.logaddexp(skew + jnp.log(0.95), self.right._wide_log_prob(t) + jnp.log(0.05))
        return jnp.where(self.kind == KINDS.index("density forgotten"), 0, mixed)


class EachKind(ZeroShotMJP):
    """Chains of all kinds, by the number of the chain that `init_params` begins with."""

    def start(self, rng_key, z, potential_fn, known=None):
        kind, z = z["kind"], {"log_rates": z["log_rates"]}
        state = super().start(rng_key, z, potential_fn, known)
        right = state.proposal
        scale = jnp.array(SCALES)[kind]
        shift = jnp.where(kind == KINDS.index("nonsense"), jnp.log(100.0), 0)
        wide = right._replace(sd=scale * right.sd, knots=scale * right.knots, mode=right.mode + shift)
        return state._replace(proposal=Spoilt(wide, kind))


CHAINS = 40


@cache
def moments_of_kinds(num_draws=500):
    """First and second moments of both log rates: by kind, one row a chain."""
    start = {
        "log_rates": jnp.zeros((len(KINDS) * CHAINS, 2)),
        "kind": jnp.repeat(jnp.arange(len(KINDS)), CHAINS),
    }
    kernel, args = EachKind(two_state), two_state_args(0.0)
    state = kernel.init(random.split(random.key(0), len(KINDS) * CHAINS), 60, start, args, {})

    def sweep(state, _):
        state = kernel.sample(state, args, {})
        return state, jax.vmap(moments)(state.z["log_rates"])

    _, seen = jax.jit(lambda state: jax.lax.scan(sweep, state, None, 60 + num_draws))(state)
    found = np.asarray(seen[60:], np.float64).mean(0).reshape(len(KINDS), CHAINS, -1)
    return dict(zip(KINDS, found, strict=True))


@pytest.mark.parametrize("kind", RIGHT)
def test_jump_two_state_kernel_has_the_exact_posterior_with_any_proposal(kind):
    assert_exact(z_scores(moments_of_kinds()[kind], exact_moments(0.0)))


@pytest.mark.parametrize("kind", BUGS)
def test_jump_two_state_planted_bug_of_the_acceptance_ratio_is_caught(kind):
    assert_caught(z_scores(moments_of_kinds()[kind], exact_moments(0.0)))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_jump_two_state_kernel_with_many_draws(kind):
    z = z_scores(moments_of_kinds(2500)[kind], exact_moments(0.0))
    if kind in RIGHT:
        assert_exact(z)
    else:
        assert_caught(z, at_least=12)


def run_moments(name, num_draws=500):
    def collect(state):
        return jax.vmap(moments)(state.z["log_rates"])

    return chain_means(ZeroShotMJP(two_state), collect, CHAINS, 20, num_draws, *two_state_args(name))


@pytest.mark.nightly
def test_jump_two_state_kernel_has_the_exact_posterior_of_noisy_labels():
    assert_exact(z_scores(run_moments(0.1), exact_moments(0.1)))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["clean", "five percent", "fast", "fastest"])
def test_jump_two_state_kernel_has_the_exact_posterior_of_larger_data(name):
    assert_exact(z_scores(run_moments(name, 2500), exact_moments(name)))
