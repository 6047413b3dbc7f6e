"""Control variates: statistics of mean zero, exactly; averages without bias and with less variance."""

from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import GraphWalk, control_variate, discrete_residual, score_control_variate
from emberwalk.infer.walk.control_variate import _check_drawn, _columns
from tests.statistics import assert_caught, assert_exact, z_scores


def test_walk_control_variate_residuals_of_discrete_sites_have_mean_zero(x64):
    """By enumeration of two sites that are tied, one of them with three values."""
    table = jnp.log(jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(12)).reshape(3, 2, 2)))
    supports = {"a": np.array([3, 4, 5]), "b": np.array([0, 1])}

    def log_p(values):
        return table[values["a"] - 3, values["b"][0], values["b"][1]]

    states = np.array(list(product((3, 4, 5), (0, 1), (0, 1))))
    residuals = np.array(
        [discrete_residual(log_p, {"a": jnp.array(s[0]), "b": jnp.array(s[1:])}, supports) for s in states]
    )
    assert residuals.shape == (12, 4)
    p = np.exp(np.asarray(table)).ravel()
    np.testing.assert_allclose(p @ residuals, 0, atol=1e-14)
    assert (np.abs(residuals) <= 1).all()


def positive_pair():
    s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
    numpyro.sample("x", dist.Normal(0.5, s))


@pytest.mark.parametrize("order", [1, 2])
def test_walk_control_variate_scores_have_mean_zero(order, x64):
    """By quadrature over log s and x, a site of its own support among them."""
    columns = _columns(positive_pair, (), {}, order)
    u, v = np.meshgrid(np.linspace(-16, 4, 400), np.linspace(-9, 9, 400), indexing="ij")
    s = np.exp(u.ravel())
    x = 0.5 + s * v.ravel()
    weights = s**2 * np.exp(-s) * np.exp(-(v.ravel() ** 2) / 2)  # of log s and (x - .5) / s
    seen = np.asarray(columns({"s": jnp.asarray(s), "x": jnp.asarray(x)}))
    assert seen.shape == (160_000, 2 if order == 1 else 5)
    means = weights @ seen / weights.sum()
    size = np.sqrt(weights @ seen**2 / weights.sum())
    assert (np.abs(means) < 1e-6 * size).all()


MEANS, SDS, SHARE = np.array([-1.0, 1.5]), np.array([0.8, 1.2]), 0.35


def two_components():
    z = numpyro.sample("z", dist.Bernoulli(SHARE))
    numpyro.sample("x", dist.Normal(jnp.asarray(MEANS)[z], jnp.asarray(SDS)[z]))


@pytest.fixture(scope="module")
def mixed_runs():
    """400 runs of 2000 independent draws, and their columns."""
    rng = np.random.default_rng(0)
    z = (rng.random((400, 2000)) < SHARE).astype(np.int32)
    x = (MEANS[z] + SDS[z] * rng.normal(size=z.shape)).astype(np.float32)
    draws = {"z": jnp.asarray(z.ravel()), "x": jnp.asarray(x.ravel())}
    return z, x, np.asarray(jax.jit(_columns(two_components, (), {}, 1))(draws)).reshape(400, 2000, -1)


@pytest.mark.parametrize(("name", "most"), [("x", 0.6), ("z", 0.7)])
def test_walk_control_variate_of_a_mixed_model_has_no_bias_and_less_variance(name, most, mixed_runs):
    z, x, columns = mixed_runs
    exact = SHARE if name == "z" else (1 - SHARE) * MEANS[0] + SHARE * MEANS[1]
    f = z if name == "z" else x
    controlled = np.array([control_variate(one, c) for one, c in zip(f, columns, strict=True)])
    assert_exact(z_scores(controlled, exact))
    assert ((controlled - exact) ** 2).mean() / ((f.mean(1) - exact) ** 2).mean() < most


def test_walk_planted_control_variate_without_the_conditional_probability(mixed_runs):
    """1{z = 1} alone has no mean of zero: the estimate moves."""
    z, x, columns = mixed_runs
    wrong = np.concatenate([z[..., None], columns[..., 1:]], -1)
    exact = (1 - SHARE) * MEANS[0] + SHARE * MEANS[1]
    assert_caught(
        z_scores(np.array([control_variate(one, c) for one, c in zip(x, wrong, strict=True)]), exact)
    )


def test_walk_control_variate_after_nuts_is_the_intercept_of_a_fit():
    mcmc = MCMC(
        NUTS(positive_pair),
        num_warmup=100,
        num_samples=100,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0))
    seen = score_control_variate(mcmc, lambda draws: jnp.stack([draws["x"], draws["s"]], -1), order=2)
    samples = mcmc.get_samples(group_by_chain=True)
    assert seen.mean.shape == (2,)
    for chain in range(4):
        s, x = (np.asarray(samples[name][chain], np.float64) for name in ("s", "x"))
        by_hand = np.stack([2 - s - 1 + ((x - 0.5) / s) ** 2, -(x - 0.5) / s**2], -1)  # d/d log s, d/dx
        u = np.stack([np.log(s), x], -1)
        pairs = [
            u[:, k] * by_hand[:, j] + u[:, j] * by_hand[:, k] + 2 * (k == j)
            for k, j in ((0, 0), (0, 1), (1, 1))
        ]
        design = np.column_stack([np.ones(100), by_hand, *pairs])
        fit = np.linalg.lstsq(design, np.stack([x, s], -1), rcond=None)[0][0]
        np.testing.assert_allclose(seen.per_chain[chain], fit, rtol=2e-3, atol=2e-3)


def logistic(X, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([5]).to_event(1))
    numpyro.sample("y", dist.BernoulliLogits(X @ beta), obs=y)


@pytest.mark.nightly
def test_walk_control_variate_halves_the_error_of_a_logistic_regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5))
    y = rng.random(100) < 1 / (1 + np.exp(-X @ np.array([1.0, -1.0, 0.5, 0.0, 2.0])))

    def run(num_samples, num_chains, key):
        mcmc = MCMC(
            NUTS(logistic), num_warmup=500, num_samples=num_samples, num_chains=num_chains,
            chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        mcmc.run(random.key(key), jnp.asarray(X), jnp.asarray(y, float))
        return mcmc

    mcmc, long = run(4000, 64, 0), run(40_000, 16, 1)
    exact = score_control_variate(long, lambda draws: draws["beta"]).mean
    seen = score_control_variate(mcmc, lambda draws: draws["beta"]).per_chain
    plain = np.asarray(mcmc.get_samples(group_by_chain=True)["beta"]).mean(1)
    assert_exact(z_scores(seen, exact))
    assert ((seen - exact) ** 2).mean() < ((plain - exact) ** 2).mean() / 2


def summed_out():
    z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    numpyro.sample("x", dist.Normal(z, 1.0))


def test_walk_control_variate_bad_input_of_a_site_that_was_summed_out():
    run = SimpleNamespace(_args=(), _kwargs={})
    with pytest.raises(ValueError, match=r"there are no draws of \['z'\], which were summed out"):
        _check_drawn(summed_out, run, {"x": jnp.zeros((2, 3))})


def test_walk_control_variate_bad_input_says_what_to_do():
    mcmc = MCMC(NUTS(positive_pair), num_warmup=5, num_samples=6, progress_bar=False)
    mcmc.run(random.key(0))
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        score_control_variate(mcmc, lambda draws: draws["x"], order=3)
    with pytest.raises(
        ValueError, match=r"5 control variates need at least 7 draws a chain, got 6\. Draw more"
    ):
        score_control_variate(mcmc, lambda draws: draws["x"], order=2)
    with pytest.raises(
        ValueError, match=r"f must return an array with one entry a draw, 6, got shape \(2,\)"
    ):
        score_control_variate(mcmc, lambda draws: jnp.zeros(2))
    with pytest.raises(TypeError, match="needs the MCMC of a kernel with a model, got GraphWalk"):
        score_control_variate(
            MCMC(GraphWalk([(0, 1), (1, 2), (2, 0)]), num_warmup=1, num_samples=1),
            lambda draws: draws["node"],
        )
