"""Simulation-based calibration of `ZeroShotMJP`: ranks of the truth among its draws are uniform (Talts et al. 2018).

One hundred draws of a prior may by themselves lie outside of a band. So ranks are also held against the truth's exact
place in its posterior, by quadrature, draw for draw: that does not depend on what the prior gave.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers

from emberwalk.infer.jump.kernel import ZeroShotMJP
from emberwalk.kernels.jump import lag_grid, rates_from_vector
from emberwalk.models import MarkovJumpProcess
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

TIMES = np.linspace(0.0, 3.0, 11)
PATHS = 8


def right_labels(labels=None, grid=None):
    """Two states."""
    log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1))
    _paths(rates_from_vector(jnp.exp(log_rates), 2), None, labels, grid)


def noisy_labels(labels=None, grid=None):
    """Three states, the noise unknown."""
    log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([6]).to_event(1))
    rho = numpyro.sample("rho", dist.Beta(1.5, 10.5))
    _paths(rates_from_vector(jnp.exp(log_rates), 3), rho, labels, grid)


def _paths(q, rho, labels, grid):
    with numpyro.plate("paths", PATHS):
        law = MarkovJumpProcess(q, TIMES, initial="stationary", label_noise=rho, grid=grid)
        numpyro.sample("y", law, obs=labels)


def simulated(model, key):
    """Trace of a draw of the prior and its labels, and the key of the chain."""
    key_truth, key_chain = random.split(key)
    grid = jax.tree.map(jnp.asarray, lag_grid(TIMES))
    return handlers.trace(handlers.seed(partial(model, grid=grid), key_truth)).get_trace(), key_chain, grid


def ranks(kernel, model, num_simulations, num_draws, thinning, seed=1):
    """Of each latent among the draws, one row a simulation; all in one program, the data traced."""

    def one(key):
        trace, key_chain, grid = simulated(model, key)
        sampler = kernel(model)
        args = (trace["y"]["value"], grid)
        state = sampler.init(key_chain, 20, None, model_args=args, model_kwargs={})

        def draw(state, _):
            state = jax.lax.fori_loop(0, thinning, lambda _, s: sampler.sample(s, args, {}), state)
            return state, sampler.postprocess_fn(args, {})(state.z)

        # the first 20 or a few more are warm-up, in the same loop: half as much to compile
        few = -(-20 // thinning)
        _, draws = jax.lax.scan(draw, state, length=few + num_draws)
        below = [(draws[name][few:] < trace[name]["value"]).sum(0) for name in draws]
        return jnp.concatenate([jnp.atleast_1d(x) for x in below])

    with optimised():
        return np.asarray(jax.jit(jax.vmap(one))(random.split(random.key(seed), num_simulations)))


def outside(found, num_draws, probability=0.99):
    """How many points of the ECDF of the ranks lie outside arviz's simultaneous band, for each latent."""
    from arviz_stats.ecdf_utils import ecdf_pit

    rng, counts = np.random.default_rng(0), []
    for column in found.T:
        uniform = (column + rng.random(len(column))) / (num_draws + 1)
        _, ecdf, lower, upper = ecdf_pit(uniform, probability, 1000, rng=np.random.default_rng(1))
        counts.append(int(((ecdf < lower) | (ecdf > upper)).sum()))
    return np.array(counts)


def exact_places(num_simulations, seed, half_width=5.0, size=161):
    """Posterior probability of less than the truth, by quadrature over both log rates; [simulation, latent]."""

    def data(key):
        trace, *_ = simulated(right_labels, key)
        return trace["log_rates"]["value"], trace["y"]["value"]

    truths, labels = (np.asarray(x) for x in jax.vmap(data)(random.split(random.key(seed), num_simulations)))
    line = np.linspace(-half_width, half_width, size)
    up, down = np.exp(line)[:, None], np.exp(line)
    total = up + down
    moved = -np.expm1(-total * (TIMES[1] - TIMES[0])) / total
    from_0, from_1 = up * moved, down * moved
    log_table = np.log([[1 - from_0, from_0], [from_1, 1 - from_1]])
    log_start = np.log([down / total, up / total])
    log_prior = -(line[:, None] ** 2 + line**2) / 2
    places = []
    for truth, paths in zip(truths, labels, strict=True):
        counts = np.zeros((2, 2))
        np.add.at(counts, (paths[:, :-1], paths[:, 1:]), 1)
        first = np.bincount(paths[:, 0], minlength=2)
        log_density = log_prior + np.tensordot(counts, log_table, 2) + np.tensordot(first, log_start, 1)
        density = np.exp(log_density - log_density.max())
        for at, axis in zip(truth, (1, 0), strict=True):
            marginal = density.sum(axis)
            below = np.append(0, np.cumsum((marginal[1:] + marginal[:-1]) / 2))
            places.append(np.interp(at, line, below / below[-1]))
    return np.reshape(places, (-1, 2))


def off_by(kernel, num_simulations, seed):
    """z of the ranks less the exact places: their mean, and whether draws are too wide or too narrow."""
    exact = exact_places(num_simulations, seed)
    found = (ranks(kernel, right_labels, num_simulations, 63, 1, seed) + 0.5) / 64
    outwards = np.sign(exact - 0.5)
    return z_scores(np.concatenate([found - exact, (found - exact) * outwards], 1), 0.0)


@pytest.mark.nightly
def test_jump_sbc_ranks_are_the_places_in_the_exact_posterior():
    assert_exact(off_by(ZeroShotMJP, 400, seed=0))


@pytest.mark.nightly
def test_jump_sbc_planted_potential_moves_the_places():
    assert_caught(off_by(Flat, 400, seed=0))


def test_jump_sbc_ranks_are_uniform():
    found = ranks(ZeroShotMJP, right_labels, num_simulations=100, num_draws=63, thinning=1)
    assert found.shape == (100, 2)
    assert outside(found, 63).max() == 0


class Flat(ZeroShotMJP):
    """A quarter of the potential: draws are too wide, and ranks pile up in the middle."""

    def potential(self, model_args, model_kwargs):
        right = super().potential(model_args, model_kwargs)
        return lambda z: right(z) / 4


@pytest.mark.nightly
def test_jump_sbc_planted_potential_is_caught():
    found = ranks(Flat, right_labels, num_simulations=100, num_draws=63, thinning=1)
    assert outside(found, 63).max() > 3


@pytest.mark.nightly
def test_jump_sbc_ranks_are_uniform_with_noise():
    """Draws that depend on each other spread ranks outwards: two transitions of NUTS lie between one and the next."""
    found = ranks(ZeroShotMJP, noisy_labels, num_simulations=200, num_draws=99, thinning=8)
    assert outside(found, 99).max() == 0
