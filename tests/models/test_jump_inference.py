"""Jump processes under what NumPyro has: NUTS against quadrature, subsampling, SVI with traced times, Predictive."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.handlers import substitute
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.util import log_density

from emberwalk.kernels.jump import lag_grid, path_statistics
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess
from tests.kernels.jump.two_state import LABELS2, TIMES2, case, exact
from tests.statistics import assert_caught, assert_exact, moments, optimised, z_scores

TIMES = TIMES2[0]


def two_rates():
    log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1))
    a, b = jnp.exp(log_rates)
    return jnp.array([[0.0, a], [b, 0.0]])


def of_labels(labels, rho=None):
    q = two_rates()
    with numpyro.plate("paths", LABELS2.shape[0]):
        law = MarkovJumpProcess(q, TIMES, initial="stationary", label_noise=rho)
        numpyro.sample("y", law, obs=labels)


def of_counts(stats):
    law = MarkovJumpCounts(two_rates(), stats, initial="stationary")
    numpyro.sample("counts", law, obs=stats.counts)


CHAINS = {"num_chains": 24, "chain_method": "vectorized", "progress_bar": False}


def chain_moments(model, *args):
    """First and second moments of both log rates, one row a chain."""
    mcmc = MCMC(NUTS(model), num_warmup=150, num_samples=250, **CHAINS)
    with optimised():
        mcmc.run(random.key(0), *args)
    draws = mcmc.get_samples(group_by_chain=True)["log_rates"]
    return np.asarray(jax.vmap(jax.vmap(moments))(draws), np.float64).mean(1)


def exact_moments(rho):
    known = exact(rho)
    second = known.sd**2 + known.mean**2
    cross = known.correlation * known.sd.prod() + known.mean.prod()
    return np.array([*known.mean, second[0], cross, second[1]])


def test_jump_nuts_has_the_exact_posterior_of_right_labels():
    """By counts, which are the labels."""
    found = chain_moments(of_counts, path_statistics(TIMES, LABELS2))
    assert_exact(z_scores(found, exact_moments(0.0)))
    assert_caught(z_scores(found, exact_moments(0.1)), at_least=6)


def test_jump_nuts_has_the_exact_posterior_of_noisy_labels():
    assert_exact(z_scores(chain_moments(of_labels, LABELS2, 0.1), exact_moments(0.1)))


# Subsampling, and times as arguments

PATHS, SIZE = 5, 2
RNG = np.random.default_rng(3)
MANY_TIMES = np.cumsum(RNG.choice([0.2, 0.5, 1.3], (PATHS, 6)), 1)
MANY_LABELS = RNG.integers(0, 2, (PATHS, 6))
MASK = RNG.random((PATHS, 6)) < 0.8


def of_some(times, labels, mask, grid, rho=0.1, size=SIZE):
    q = two_rates()
    with numpyro.plate("paths", labels.shape[0], subsample_size=size) as rows:
        law = MarkovJumpProcess(
            q, times[rows], mask=mask[rows], label_noise=rho, initial="stationary", grid=grid.take(rows)
        )
        numpyro.sample("y", law, obs=labels[rows])


def many():
    grid = lag_grid(MANY_TIMES, MASK)
    return tuple(jax.tree.map(jnp.asarray, (MANY_TIMES, MANY_LABELS, MASK, grid)))


def density_of_rows():
    """rows -> log density, at one pair of rates; all is traced."""

    @jax.jit
    def density(rows, args):
        model = substitute(of_some, data={"paths": rows})
        return log_density(model, args, {"size": rows.shape[0]}, {"log_rates": jnp.array([0.3, -0.2])})[0]

    return lambda rows: float(density(jnp.asarray(rows), many()))


def test_jump_subsampled_paths_are_unbiased(x64):
    density = density_of_rows()
    parts = [density(rows) for rows in itertools.combinations(range(PATHS), SIZE)]
    whole = density(range(PATHS))
    assert np.mean(parts) == pytest.approx(whole, rel=1e-10)
    assert np.ptp(parts) > 0.1


def test_jump_planted_grid_of_the_first_rows_is_biased(x64, monkeypatch):
    """Forgotten `take`: times of some paths, lags of others."""
    monkeypatch.setattr("emberwalk.kernels.jump.LagGrid.take", lambda grid, rows: grid._replace(index=grid.index[:2]))
    density = density_of_rows()
    parts = [density(rows) for rows in itertools.combinations(range(PATHS), SIZE)]
    monkeypatch.undo()
    assert abs(np.mean(parts) - density_of_rows()(range(PATHS))) > 0.05


def test_jump_svi_takes_times_as_arguments_and_some_paths():
    """`svi.run` traces its arguments. The guide ends near the exact posterior of twenty paths, 5 % of labels wrong."""
    times, labels, rho, *_ = case("five percent")
    times = np.broadcast_to(times, labels.shape)
    args = jax.tree.map(jnp.asarray, (times, labels, np.ones(labels.shape, bool), lag_grid(times)))
    guide = AutoMultivariateNormal(of_some)
    svi = SVI(of_some, guide, optax.adam(0.03), Trace_ELBO(num_particles=4), rho=rho, size=10)
    with optimised():
        result = svi.run(random.key(0), 400, *args, progress_bar=False)
    assert np.isfinite(result.losses).all()
    known, law = exact("five percent"), guide.get_posterior(result.params)
    assert np.abs((law.mean - known.mean) / known.sd).max() < 0.5
    npt.assert_allclose(np.sqrt(np.diag(law.covariance_matrix)), known.sd, rtol=0.4)


def test_jump_predictive_draws_labels():
    prior = Predictive(of_labels, num_samples=6)(random.key(0), None, 0.1)
    assert prior["y"].shape == (6, *LABELS2.shape)
    assert set(np.unique(prior["y"])) == {0, 1}
    slow, fast = (
        Predictive(of_labels, {"log_rates": jnp.full((50, 2), log_rate)}, parallel=True)(random.key(1), None)["y"]
        for log_rate in (-9.0, 3.0)
    )
    assert np.mean(np.diff(slow) != 0) == 0
    assert 0.35 < np.mean(np.diff(fast) != 0) < 0.65


# Covariates and hierarchies


def test_jump_rates_may_depend_on_covariates_and_subjects(x64):
    """Log rates a_s + b x_k of subject s and path k: the sum over single paths."""
    x, labels = np.array([-1.0, 0.0, 2.0]), RNG.integers(0, 2, (2, 3, 5))

    def model(labels):
        with numpyro.plate("subjects", 2, dim=-2):
            a = numpyro.sample("a", dist.Normal(0, 1))
            with numpyro.plate("paths", 3, dim=-1):
                rate = jnp.exp(a + 0.3 * x)[..., None, None]
                q = rate * jnp.array([[0.0, 1.0], [0.5, 0.0]])
                numpyro.sample("y", MarkovJumpProcess(q, TIMES, initial="stationary"), obs=labels)

    a = np.array([[0.2], [-0.4]])
    found = jax.jit(lambda a: log_density(model, (labels,), {}, {"a": a})[0])(a)
    expected = dist.Normal(0, 1).log_prob(a).sum()
    for s, k in itertools.product(range(2), range(3)):
        q = np.exp(a[s, 0] + 0.3 * x[k]) * np.array([[0.0, 1.0], [0.5, 0.0]])
        expected += MarkovJumpProcess(q, TIMES, initial="stationary").log_prob(labels[s, k])
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
