"""`AutoMJP` begins where training would end."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

from emberwalk.infer.jump import start
from emberwalk.infer.jump.guide import AutoMJP
from emberwalk.kernels.jump import path_statistics, rates_from_vector
from emberwalk.models import MarkovJumpCounts
from tests.infer.jump.jump_cases import THREE_TIMES, many_rates, ratchet_counts, three_state_labels, two_state
from tests.kernels.jump.two_state import case, exact
from tests.statistics import optimised

DRAWS = 4000


def elbo(svi, params, *args):
    """The evidence bound at these params, with its standard error below .05."""
    loss = Trace_ELBO(num_particles=DRAWS, vectorize_particles=False)
    return -float(jax.jit(lambda p: loss.loss(random.key(7), p, svi.model, svi.guide, *args))(params))


def first_and_last(model, guide, steps, *args, rate=1e-3):
    """Evidence bounds before and after training."""
    svi = SVI(model, guide, optax.adam(rate), Trace_ELBO(num_particles=8))
    with optimised():
        first = svi.get_params(svi.init(random.key(0), *args))
        result = svi.run(random.key(0), steps, *args, progress_bar=False)
        return elbo(svi, first, *args), elbo(svi, result.params, *args)


def counts_of_three(num_paths=200):
    return path_statistics(THREE_TIMES, three_state_labels(num_paths), num_states=3)


def three_rates(stats):
    many_rates(stats, n=3)


@pytest.mark.parametrize("full_rank", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_jump_guide_begins_within_2_nats_of_its_end(full_rank):
    first, last = first_and_last(
        three_rates, AutoMJP(three_rates, full_rank=full_rank), 300, counts_of_three()
    )
    assert last > first - 0.1
    assert last - first < (0.2 if full_rank else 2)


def test_jump_planted_guide_without_the_refined_start_is_far():
    """NumPyro's own begins hundreds of nats below."""
    stats = counts_of_three()
    svi = SVI(three_rates, AutoMultivariateNormal(three_rates), optax.adam(1e-3), Trace_ELBO())
    refined = SVI(three_rates, AutoMJP(three_rates), optax.adam(1e-3), Trace_ELBO())
    plain, known = (elbo(s, s.get_params(s.init(random.key(0), stats)), stats) for s in (svi, refined))
    assert known - plain > 20


@pytest.mark.nightly
def test_jump_guide_says_that_it_begins_below_the_mode(monkeypatch):
    monkeypatch.setattr(start, "_MODE_STEPS", 1)
    monkeypatch.setattr(start, "_PULL_STEPS", 1)
    svi = SVI(three_rates, AutoMJP(three_rates), optax.adam(1e-3), Trace_ELBO())
    with pytest.warns(UserWarning, match=r"the mode .* was not reached"):
        svi.init(random.key(0), counts_of_three())


@pytest.mark.nightly
def test_jump_guide_is_near_the_exact_posterior():
    times, labels, rho, *_ = case("five percent")
    times = np.broadcast_to(times, labels.shape)
    guide = AutoMJP(two_state)
    svi = SVI(two_state, guide, optax.adam(1e-3), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(0), times, labels, rho))
    law, known = guide.get_posterior(params), exact("five percent")
    assert np.abs((law.mean - known.mean) / known.sd).max() < 0.1
    npt.assert_allclose(np.sqrt(np.diag(law.covariance_matrix)), known.sd, rtol=0.1)


def in_another_order(stats):
    """Sites whose names are not in the order in which they are sampled."""
    rates = numpyro.sample("z", dist.LogNormal(0, 1).expand([2]).to_event(1))
    others = numpyro.sample("a", dist.LogNormal(0, 1).expand([4]).to_event(1))
    q = rates_from_vector(jnp.concatenate([rates, others]), 3)
    numpyro.sample("y", MarkovJumpCounts(q, stats), obs=stats.counts)


def test_jump_guide_knows_which_latent_is_which():
    stats = counts_of_three(1000)
    guide = AutoMJP(in_another_order)
    svi = SVI(in_another_order, guide, optax.adam(1e-3), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(0), stats))
    median = guide.median(params)
    found = np.concatenate([median["z"], median["a"]])
    npt.assert_allclose(found, [1.0, 0.5, 0.25, 0.5, 2.0, 0.3], rtol=0.25)
    draws = guide.sample_posterior(random.key(1), params, sample_shape=(2000,))
    spread = np.concatenate([np.std(np.log(draws["z"]), 0), np.std(np.log(draws["a"]), 0)])
    low, high = (guide.quantiles(params, [p]) for p in (0.159, 0.841))
    half = [(np.log(high[name][0]) - np.log(low[name][0])) / 2 for name in ("z", "a")]
    npt.assert_allclose(spread, np.concatenate(half), rtol=0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("full_rank", [True, False])
def test_jump_guide_of_30_rates_begins_within_2_nats_of_its_end(full_rank):
    first, last = first_and_last(
        many_rates, AutoMJP(many_rates, full_rank=full_rank), 3000, ratchet_counts(300)
    )
    assert last > first - 0.2
    assert last - first < 2
