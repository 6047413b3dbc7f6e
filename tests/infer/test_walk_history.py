"""What a history does at the end of warm-up, and over a stop: forgotten, kept, or read back, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import SRRW, GraphWalk, resumable, streamed, support_average
from emberwalk.infer.walk.estimators import visits_of
from emberwalk.infer.walk.support import visited_states
from emberwalk.kernels.walk import Ramp
from emberwalk.models import karate_club
from tests.infer.resume_cases import check_equal
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

KARATE = karate_club()
TRACE = 8.3354  # n times the squared error of all visits under the base chain
SRRW_SHARE = 0.05278  # of it at alpha = 5


def walked(kernel, num_warmup, num_samples, num_chains):
    options = {"chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains, **options)
    mcmc.run(random.key(0))
    return mcmc


# On a graph


def visits(num_warmup: int, steps: int, num_chains: int, **options) -> np.ndarray:
    """Visits after `num_warmup` draws of as many steps as the five that follow have."""
    kernel = GraphWalk(KARATE, alpha=5.0, steps_per_draw=steps // 5, **options)
    with optimised():  # nothing here but loops
        return visits_of(walked(kernel, num_warmup, 5, num_chains))[1].astype(float)


def test_walk_history_planted_kept_where_reset_is_asked_trebles_the_variance():
    """After a warm-up as long as the run."""

    def errors(history):
        counts = visits(5, 5000, 50, history=history)
        return 5000 * ((counts / 5000 - 1 / 34) ** 2).sum(1)

    assert_exact(z_scores(errors("reset"), TRACE * SRRW_SHARE))
    kept = errors("keep")
    assert_caught(z_scores(kept, TRACE * SRRW_SHARE))
    assert 2.5 < kept.mean() / (TRACE * SRRW_SHARE) < 3.5


@pytest.mark.nightly
@pytest.mark.parametrize("num_warmup", [5, 1])
def test_walk_history_kept_has_the_variance_of_its_formula(num_warmup):
    """(n + n0 - 2 n (n0 / n)^(alpha + 1)) / (n - n0) of that after a reset, n0 of n steps warm-up; by the trace."""
    kept, reset = (
        np.trace(np.cov(visits(num_warmup, 10_000, 1000, method="hdt", history=history).T))
        for history in ("keep", "reset")
    )
    n0, n = 2000 * num_warmup, 10_000 + 2000 * num_warmup
    assert abs(kept / reset / ((n + n0 - 2 * n * (n0 / n) ** 6) / (n - n0)) - 1) < 0.1


# On a model


def dice():
    with numpyro.plate("dice", 2):
        die = numpyro.sample("die", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    numpyro.factor("tied", 0.5 * (die[0] == die[1]))


def pips(sites):
    return jnp.stack([sites["die"].sum(-1), sites["die"].prod(-1)], -1)


def walk_on_dice(history_size, steps_per_draw=4, **options):
    kernel = {"history_size": history_size, "steps_per_draw": steps_per_draw, "guard": None, "stream": pips}
    return SRRW(dice, Ramp(5.0, 60), **kernel, **options)


with_counts_and_table = pytest.mark.parametrize(
    ("base", "history_size"),
    [
        pytest.param("gibbs", "auto", id="counts", marks=pytest.mark.nightly),
        pytest.param("mh", 16, id="table"),
    ],
)


def moved(kernel, state, num):
    sample = jax.jit(lambda state: kernel.sample(state, (), {}))
    for _ in range(num):
        state = sample(state)
    return state


def started(kernel, num_warmup):
    return kernel.init(random.key(3), num_warmup, None, model_args=(), model_kwargs={})


@with_counts_and_table
def test_walk_srrw_history_reset_is_a_fresh_run(base, history_size):
    """From the state at the end of warm-up, with the key it has there; the ramp begins anew."""
    kernel, fresh = (walk_on_dice(history_size, base=base) for _ in range(2))
    warm = moved(kernel, started(kernel, 20), 20)
    assert int(warm.history.steps[1]) == 80
    start = started(fresh, 0)._replace(
        z=warm.z, x=warm.x, potential_energy=warm.potential_energy, rng_key=warm.rng_key
    )
    ours, by_hand = moved(kernel, warm, 12), moved(fresh, start, 12)
    assert int(ours.history.steps[1]) == 48
    assert float(ours.alpha) == pytest.approx(5.0 * 47 / 60)
    check_equal(ours._replace(i=by_hand.i), by_hand)


@with_counts_and_table
def test_walk_srrw_history_kept_is_an_uninterrupted_run_without_its_beginning(base, history_size):
    kept = walked(walk_on_dice(history_size, 1, base=base, history="keep"), 40, 60, num_chains=2)
    whole = walked(walk_on_dice(history_size, 1, base=base), 0, 100, num_chains=2)
    check_equal(kept.last_state.history, whole.last_state.history)
    draws = np.asarray(whole.get_samples(group_by_chain=True)["die"])
    np.testing.assert_array_equal(kept.get_samples(group_by_chain=True)["die"], draws[:, 40:])
    for chain, path in zip(visited_states(kept), draws, strict=True):
        found = np.bincount(chain.x @ [3, 1], chain.counts, minlength=9)
        np.testing.assert_array_equal(found, np.bincount(path[40:] @ [3, 1], minlength=9))
    exact = np.stack([draws.sum(-1), draws.prod(-1)], -1)[:, 40:].mean(1)
    np.testing.assert_allclose(streamed(kept).per_chain, exact, atol=1e-6)
    np.testing.assert_allclose(support_average(kept, pips).per_chain, exact, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("history", ["reset", "keep"])
def test_walk_srrw_history_in_a_table_and_its_stream_are_resumed_bit_for_bit(history, tmp_path):
    """In three segments, and read back, against one run that was never saved; daily a law of `tests/laws` has both."""

    def mcmc():
        kernel = walk_on_dice(16, history=history)
        options = {"chain_method": "vectorized", "progress_bar": False}
        return MCMC(kernel, num_warmup=10, num_samples=30, num_chains=2, **options)

    whole = mcmc()
    whole.run(random.key(5))
    for _ in range(2):  # of the second nothing is left to do
        segments = resumable(mcmc(), tmp_path / "run", every=10)
        segments.run(random.key(5))
        check_equal(segments.last_state, whole.last_state)
        check_equal(segments.get_samples(group_by_chain=True), whole.get_samples(group_by_chain=True))
    check_equal(support_average(segments, pips).per_chain, support_average(whole, pips).per_chain)
