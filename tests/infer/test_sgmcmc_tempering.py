"""T4 of SG-MCMC: what the temperature is applied to, against exact tempered densities.

    "posterior"    N(mu, T Sigma) for a linear regression; Exponential(1) at T = .1 is Exponential(10)
    "likelihood"   the prior of T = 1 with a likelihood of noise variance T s^2

Full data, Leimkuhler-Matthews or BAOAB at small steps, chains as replicas. T = 1 alone would pass every bug.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import NUTS, Gibbs
from numpyro.infer.gibbs import conditioned, prototype_trace
from numpyro.infer.util import potential_energy

from emberwalk.infer import SGMCMC
from emberwalk.infer.sgmcmc import kernel as kernel_module
from emberwalk.infer.sgmcmc.target import Target
from emberwalk.infer.sgmcmc.tempering import CLASSES, class_weights, site_classes, temper
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews
from tests.infer.chains import chain_means
from tests.statistics import assert_caught, assert_exact, z_scores

T = 0.1


def regression(X, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2**0.5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, 0.5**0.5), obs=y)


def regression_data():
    r = np.random.default_rng(0)
    X = r.standard_normal((30, 3))
    y = X @ np.ones(3) + 0.5**0.5 * r.standard_normal(30)
    return X, y


def exact_regression(tempering):
    X, y = regression_data()
    prior = np.eye(3) / 2 * (T if tempering == "likelihood" else 1)
    precision = X.T @ X / 0.5 + prior
    return np.linalg.solve(precision, X.T @ y / 0.5), T * np.trace(np.linalg.inv(precision))


KNOWN = {
    "posterior": ([1.023509, 0.997463, 0.904239], 0.005873390),
    "likelihood": ([1.027266, 1.008257, 0.912723], 0.005930580),
}


@pytest.mark.parametrize("tempering", KNOWN)
def test_sgmcmc_tempering_of_a_linear_regression(tempering):
    """Mean, and trace of the covariance about it, of N(mu, T Sigma) and of the moved one."""
    mean, trace = exact_regression(tempering)
    np.testing.assert_allclose(mean, KNOWN[tempering][0], atol=1e-6)
    np.testing.assert_allclose(trace, KNOWN[tempering][1], atol=1e-8)
    args = tuple(jnp.asarray(a, float) for a in regression_data())
    kernel = SGMCMC(
        regression, leimkuhler_matthews(0.002), temperature=T, tempering=tempering, steps_per_sample=5
    )
    exact = jnp.asarray(mean)

    def moments(z):
        away = z["w"] - exact
        return jnp.append(away, jnp.sum(away**2))

    means = chain_means(kernel, lambda state: jax.vmap(moments)(state.z), 32, 100, 1000, *args)
    assert_exact(z_scores(means, [0.0, 0.0, 0.0, trace]))


def priors():
    """Each with a support of its own; one in a plate, one in a scan."""
    numpyro.sample("e", dist.Exponential(1.0))
    with numpyro.plate("pair", 2):
        numpyro.sample("b", dist.Beta(2.0, 3.0))
    numpyro.sample("d", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))

    def step(carry, _):
        return numpyro.sample("s", dist.Exponential(1.0)), None

    scan(step, jnp.zeros(()), jnp.arange(2))


def moments_of_priors(z):
    e, s = jnp.exp(z["e"]), jnp.exp(z["s"])
    b, d = jax.nn.sigmoid(z["b"]), dist.biject_to(dist.constraints.simplex)(z["d"])
    return jnp.concatenate([jnp.stack([e, e**2]), s, s**2, b, d])


def of_priors(state):
    return jax.vmap(moments_of_priors)(state.z)


EXACT_PRIORS = [0.1, 0.02, 0.1, 0.1, 0.02, 0.02, 11 / 32, 11 / 32, 11 / 63, 21 / 63, 31 / 63]


def mean_of_priors(kernel):
    return chain_means(kernel, of_priors, 64, 50, 500)


def cold_priors():
    return SGMCMC(priors, baoab(0.2, 0.5), temperature=T, steps_per_sample=10)


def test_sgmcmc_tempering_leaves_the_jacobian_alone():
    """Exponential(1) at T = .1 has mean .1 and variance .01; Beta(2, 3) is Beta(11, 21), not Beta(20, 30)."""
    assert_exact(z_scores(mean_of_priors(cold_priors()), EXACT_PRIORS))


@pytest.mark.parametrize("bug", ["jacobian_powered", "temperature_twice"])
def test_sgmcmc_planted_tempering(bug, monkeypatch):
    """Powering U(z), or `_log_det` taken for a likelihood; T in the potential and in the noise."""
    jacobian = 1.0 if bug == "jacobian_powered" else T
    scale = 1 / T if bug == "temperature_twice" else 1.0

    def weights(tempering, temperature):
        one = jnp.ones(())
        return {"prior": scale * one, "likelihood": scale * one, "jacobian": scale * jacobian * one}

    monkeypatch.setattr("emberwalk.infer.sgmcmc.target.class_weights", weights)
    kernel = SGMCMC(priors, baoab(0.05, 2.0), temperature=T, steps_per_sample=10)
    means = chain_means(kernel, of_priors, 16, 50, 100, optimise=False)
    assert_caught(z_scores(means, EXACT_PRIORS))


def test_sgmcmc_planted_tempering_without_the_root_of_the_temperature(monkeypatch):
    """sqrt(2 h) T xi for sqrt(2 h T) xi, in the whole kernel."""
    right = kernel_module.Sampling._level
    monkeypatch.setattr(kernel_module.Sampling, "_level", lambda *which: right(*which) ** 2, raising=True)
    means = chain_means(cold_priors(), of_priors, 128, 20, 60, optimise=False)
    assert_caught(z_scores(means, EXACT_PRIORS))


def everything(y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with handlers.scope(prefix="net", divider="/"):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, s))
    flat = numpyro.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), ()))
    u = numpyro.sample("u", dist.Uniform(0.0, tau))
    numpyro.factor("pull", -0.5 * (mu - u) ** 2 - flat)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / tau), obs=y)


def without_scope(y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    s = numpyro.sample("net/s", dist.HalfNormal(1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, s))
    flat = numpyro.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), ()))
    u = numpyro.sample("u", dist.Uniform(0.0, tau))
    numpyro.factor("pull", -0.5 * (mu - u) ** 2 - flat)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / tau), obs=y)


Z = {"tau": 0.3, "net/s": -0.4, "mu": 0.7, "flat": 0.2, "u": -0.1}


def sums(model, args, z, factors="likelihood", kwargs=None):
    """-log p of each class of sites at z."""
    kwargs = kwargs or {}
    trace = prototype_trace(model, random.key(0), args, kwargs)
    classes = site_classes(model, trace, args, kwargs, factors=factors)
    z = {name: jnp.asarray(value, float) for name, value in z.items()}
    target = Target(model, classes, _NO_ROWS, "posterior", args, kwargs)
    return target.derivatives(z, class_weights("posterior", 1.0), {})[1], z


class _NoRows:
    sizes: dict = {}  # noqa: RUF012

    @staticmethod
    def bind(batch, kwargs):
        return {}, kwargs


_NO_ROWS = _NoRows()


def test_sgmcmc_tempering_classes_add_up_to_the_potential(x64):
    """To 1e-12, and the factor goes where it is told."""
    y = jnp.array([0.3, -1.0, 2.0])
    for factors in ("likelihood", "prior"):
        by_class, z = sums(everything, (y,), Z, factors)
        total = potential_energy(handlers.seed(everything, random.key(0)), (y,), {}, z)
        np.testing.assert_allclose(sum(by_class.values()), total, rtol=1e-12)
    as_likelihood, as_prior = (sums(everything, (y,), Z, f)[0] for f in ("likelihood", "prior"))
    u = jnp.exp(0.3) * jax.nn.sigmoid(-0.1)
    pull = 0.5 * (0.7 - u) ** 2 + jnp.exp(0.2)
    np.testing.assert_allclose(as_likelihood["likelihood"] - as_prior["likelihood"], pull, rtol=1e-10)
    np.testing.assert_allclose(as_prior["prior"] - as_likelihood["prior"], pull, rtol=1e-10)


def test_sgmcmc_tempering_classes_are_the_same_inside_a_scope(x64):
    """The Jacobian of a site inside `scope` is no likelihood, whatever its name."""
    y = jnp.array([0.3, -1.0, 2.0])
    inside, outside = sums(everything, (y,), Z)[0], sums(without_scope, (y,), Z)[0]
    for name in CLASSES:
        np.testing.assert_allclose(inside[name], outside[name], rtol=1e-12)


def two_blocks(y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / tau), obs=y)


def test_sgmcmc_tempering_classes_are_the_same_in_a_block_of_gibbs(x64):
    """A site that another block holds is prior, though it is conditioned on."""
    y = jnp.array([0.3, -1.0, 2.0])
    alone, _ = sums(two_blocks, (y,), {"tau": 0.3, "mu": 0.7})
    block = SGMCMC(two_blocks, baoab(0.1, 1.0), temperature=T)
    gibbs = Gibbs([(block, ["tau"]), (NUTS(two_blocks), None)])
    gibbs.init(random.key(0), 0, None, model_args=(y,), model_kwargs={})
    inside = gibbs.blocks[0][0]
    target = inside.potential((y,), {"_gibbs_sites": {"mu": jnp.asarray(0.7)}})
    by_class = target.derivatives({"tau": jnp.asarray(0.3)}, class_weights("posterior", 1.0), {})[1]
    for name in CLASSES:
        np.testing.assert_allclose(by_class[name], alone[name], rtol=1e-12)


def test_sgmcmc_planted_tempering_of_another_blocks_site(x64, monkeypatch):
    """Taken for a likelihood, the other block's site moves the classes."""
    y = jnp.array([0.3, -1.0, 2.0])
    alone, _ = sums(two_blocks, (y,), {"tau": 0.3, "mu": 0.7})
    given = {"_gibbs_sites": {"mu": jnp.asarray(0.7)}}
    trace = prototype_trace(conditioned(two_blocks), random.key(0), (y,), given)
    classes = site_classes(conditioned(two_blocks), trace, (y,), given)
    wrong = {name: "likelihood" if name == "mu" else kind for name, kind in classes.items()}
    target = Target(conditioned(two_blocks), wrong, _NO_ROWS, "posterior", (y,), given)
    by_class = target.derivatives({"tau": jnp.asarray(0.3)}, class_weights("posterior", 1.0), {})[1]
    assert abs(float(by_class["prior"] - alone["prior"])) > 0.1


def test_sgmcmc_tempering_refuses_a_site_that_was_not_there():
    model = temper(
        handlers.seed(two_blocks, random.key(0)), class_weights("posterior", 1.0), {"tau": "prior"}
    )
    with pytest.raises(ValueError, match="'mu' was not there"):
        model(jnp.zeros(2))


def test_sgmcmc_tempering_in_a_block_of_gibbs_samples_the_whole_posterior(x64):
    """At T = 1 beside NUTS: means of tau and mu by quadrature, though each is moved given the other."""
    y = jnp.array([0.3, -1.0, 2.0])
    tau, mu = np.meshgrid(np.linspace(0.005, 12, 1500), np.linspace(-6, 6, 801), indexing="ij")
    log_density = np.log(tau) - tau - mu**2 / 2 + 3 * np.log(tau)
    log_density -= tau**2 / 2 * ((np.asarray(y)[:, None, None] - mu) ** 2).sum(0)
    weights = np.exp(log_density - log_density.max())
    exact = [(weights * tau).sum() / weights.sum(), (weights * mu).sum() / weights.sum()]
    block = SGMCMC(two_blocks, baoab(0.1, 1.0), warmup="full", steps_per_sample=10)
    gibbs = Gibbs([(block, ["tau"]), (NUTS(two_blocks, max_tree_depth=3, step_size=0.5), None)])

    def means(state):
        return jnp.stack([jnp.exp(state.z["tau"]), state.z["mu"]], -1)

    assert_exact(z_scores(chain_means(gibbs, means, 32, 50, 300, y), exact))
