"""What a walk counts over a warm-up that is kept, a run that is continued, and steps that are refused."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import SRRW, GraphWalk, plot_visits, streamed, support_average, visit_statistics
from emberwalk.infer.walk.support import missing_mass
from emberwalk.kernels.walk import asymptotic_covariance, dense_transition, row_table
from emberwalk.models import karate_club
from tests.statistics import optimised

KARATE = karate_club()
HISTORIES = pytest.mark.parametrize("history", ["reset", "keep"])


def ten_sites():
    with numpyro.plate("sites", 10):
        x = numpyro.sample("x", dist.Bernoulli(0.5))
    numpyro.factor("tied", 0.7 * (x[1:] == x[:-1]).sum())


def ones(sites):
    return sites["x"].sum(-1)


def chains(kernel, num_warmup, num_samples, **options):
    return MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=2, chain_method="vectorized",
        progress_bar=False, **options,
    )  # fmt: skip


@HISTORIES
def test_walk_stream_is_the_average_of_visits_over_kept_and_continued_runs(history):
    kernel = SRRW(ten_sites, 5.0, steps_per_draw=20, history=history, stream=ones, guard=None)
    mcmc = chains(kernel, 30, 50)
    with optimised():
        mcmc.run(random.key(0))
        for steps in (1000, 2000):
            seen, summed = support_average(mcmc, ones), streamed(mcmc)
            np.testing.assert_allclose(summed.per_chain, seen.per_chain, rtol=1e-6)
            np.testing.assert_array_equal(summed.num_steps, steps)
            np.testing.assert_array_equal(visit_statistics(mcmc).num_steps, steps)
            mcmc.post_warmup_state = mcmc.last_state
            mcmc.run(random.key(1))


def test_walk_stream_of_a_warmup_alone_is_its_average():
    mcmc = chains(SRRW(ten_sites, 5.0, steps_per_draw=20, stream=ones), 30, 50)
    mcmc.warmup(random.key(0))
    np.testing.assert_allclose(streamed(mcmc).per_chain, support_average(mcmc, ones).per_chain, rtol=1e-6)


@HISTORIES
@pytest.mark.parametrize("num_warmup", [100, 400])
def test_walk_missing_mass_is_the_share_of_new_states_in_the_last_tenth(history, num_warmup):
    """Of a walk whose every step is a draw, so that it can be counted by hand."""
    mcmc = chains(SRRW(ten_sites, 5.0, steps_per_draw=1, history=history), num_warmup, 1000)
    with optimised():
        mcmc.warmup(random.key(0), collect_warmup=True)
        warm = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
        mcmc.run(random.key(1))
    kept = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
    walked = np.concatenate([warm, kept], 1) if history == "keep" else kept
    codes = walked @ 2 ** np.arange(10)
    new = [np.isin(np.arange(codes.shape[1]), np.unique(row, return_index=True)[1]) for row in codes]
    assert missing_mass(mcmc) == pytest.approx(np.array(new)[:, -100:].mean(), abs=1e-3)


def nan_at_three_of_four(step):
    return jnp.where(step % 4 == 0, 5.0, jnp.nan)


def infinite(step):
    return jnp.inf + 0 * step


def negative(step):
    return -2.0 + 0 * step


@pytest.mark.parametrize(("alpha", "share"), [(nan_at_three_of_four, 0.75), (infinite, 1), (negative, 1)])
@pytest.mark.parametrize("steps_per_draw", [20, 1200])  # words drawn before the loop, or in it
def test_walk_steps_without_a_strength_are_refused_and_counted(alpha, share, steps_per_draw):
    mcmc = chains(GraphWalk(KARATE, alpha=alpha, steps_per_draw=steps_per_draw), 0, 10)
    with optimised():
        mcmc.run(random.key(0))
    np.testing.assert_array_equal(mcmc.last_state.num_nonfinite, 10 * steps_per_draw * share)


def test_walk_band_of_visits_is_that_of_the_base_chain_in_force():
    table = row_table(KARATE, lazy=0.9)
    mcmc = chains(GraphWalk(KARATE, base=table, steps_per_draw=100), 0, 10)
    with optimised():
        mcmc.run(random.key(0))
    ax = plot_visits(mcmc)
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    V = asymptotic_covariance(dense_transition(KARATE, lazy=0.9), np.ones(34), 0.0)
    assert top == pytest.approx(1 + 2 * 34 * np.sqrt(np.diag(V).max() / 1000), rel=1e-4)
