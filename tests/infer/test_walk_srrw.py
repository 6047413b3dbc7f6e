"""`SRRW` on discrete models: paths by their exact law, supports by their values, averages by enumeration."""

import re
import warnings
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import MCMC, NUTS, Gibbs

from emberwalk.infer import SRRW, diagnose, streamed, support_average, to_datatree
from emberwalk.infer.walk.support import visited_states
from emberwalk.kernels.walk import Growth, asymptotic_covariance
from emberwalk.models import g_prior_selection, ising
from tests.statistics import assert_exact, optimised, z_scores

NIGHTLY = pytest.mark.nightly


def walked(kernel, *args, num_warmup=10, num_samples=200, num_chains=4, key=0, **options):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    with optimised():  # nothing here but loops
        mcmc.run(random.key(key), *args, **options)
    return mcmc


# Supports


def two_sites():
    a = numpyro.sample("a", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    b = numpyro.sample("b", dist.Bernoulli(0.4))
    numpyro.factor("tied", 0.8 * a * b)


def mixed_supports():
    numpyro.sample("from three", dist.DiscreteUniform(3, 5))
    numpyro.sample("coin", dist.Bernoulli(0.3))
    numpyro.sample("one", dist.Categorical(jnp.ones(1)))
    with numpyro.plate("dice", 3):
        numpyro.sample("die", dist.Categorical(jnp.array([0.1, 0.2, 0.7])))


@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_supports_are_those_of_the_model(base):
    mcmc = walked(SRRW(mixed_supports, 0.0, base=base), num_samples=300, num_chains=64)
    samples = mcmc.get_samples(group_by_chain=True)
    assert set(np.unique(samples["from three"])) == {3, 4, 5}
    assert set(np.unique(samples["one"])) == {0}
    assert samples["die"].shape == (64, 300, 3)
    for name, exact in (("from three", [1 / 3] * 3), ("coin", [0.7, 0.3]), ("die", [0.1, 0.2, 0.7])):
        first = min(np.unique(samples[name]))
        seen = np.stack([(np.asarray(samples[name]) == first + k).mean(1) for k in range(len(exact))], 1)
        exact_of_all = np.array(exact).reshape(-1, *[1] * (seen.ndim - 2))
        assert_exact(z_scores(seen, exact_of_all))


# The Ising model


def spins(D, beta=0.5):
    rng = np.random.default_rng(0)
    J = beta * np.triu(rng.normal(0, 1, (D, D)) / np.sqrt(D), 1)
    return J, rng.normal(0, 0.3, D)


@cache
def exact_means(D):
    J, h = spins(D)
    s = 2.0 * np.array(list(product(range(2), repeat=D))) - 1
    p = np.exp(np.einsum("ni,ij,nj->n", s, J, s) + s @ h)
    return (p / p.sum()) @ s


def mean_spin(sites):
    return 2.0 * sites["up"] - 1


def of_spins(D, alpha, base, num_chains, steps=20_000, **options):
    kernel = SRRW(ising, alpha, base=base, steps_per_draw=steps // 10, **options)
    return walked(
        kernel,
        *(jnp.asarray(x, jnp.float32) for x in spins(D)),
        num_warmup=0,
        num_samples=10,
        num_chains=num_chains,
    )


@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_ising_marginals_are_those_of_enumeration(base):
    mcmc = of_spins(6, 5.0, base, 32)
    means = support_average(mcmc, mean_spin)
    assert_exact(z_scores(means.per_chain, exact_means(6)))
    distinct = support_average(mcmc, mean_spin, method="distinct")
    np.testing.assert_allclose(distinct.mean, exact_means(6), atol=2e-5)
    assert (distinct.num_visited == 64).all()
    assert distinct.missing_mass < 1e-6
    assert "64 states, missing mass at least " in str(distinct)


@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_ising_table_counts_what_counts_count(base):
    dense, table = (of_spins(6, 5.0, base, 4, steps=2000, history_size=size) for size in ("auto", 128))
    np.testing.assert_array_equal(dense.get_samples()["up"], table.get_samples()["up"])
    for method in ("visits", "distinct"):
        one, other = (support_average(run, mean_spin, method=method).per_chain for run in (dense, table))
        np.testing.assert_allclose(one, other, atol=1e-6)
    for one, other in zip(visited_states(dense), visited_states(table), strict=True):
        order = np.lexsort(other.x.T[::-1])
        np.testing.assert_array_equal(one.x, other.x[order])
        np.testing.assert_array_equal(one.counts, other.counts[order])
        np.testing.assert_allclose(
            one.log_mu - one.log_mu[0], other.log_mu[order] - other.log_mu[order][0], atol=1e-5
        )


@pytest.mark.parametrize(("base", "spins", "size"), [("gibbs", 10, "auto"), ("mh", 40, 2048)])
def test_walk_srrw_chains_copy_nothing_as_long_as_their_history(base, spins, size):
    """A copy at every step would cost the more, the larger the table: no sum over draws shows it."""
    kernel = SRRW(ising, base=base, history_size=size)
    args = (0.1 * jnp.ones((spins, spins)), jnp.zeros(spins))
    states = kernel.init(random.split(random.key(0), 3), 5, None, args, {})
    draws = jax.jit(
        lambda states: lax.fori_loop(0, 20, lambda _, states: kernel.sample(states, args, {}), states),
        donate_argnums=0,
    )
    program = draws.lower(states).compile().as_text()
    long = 3 * (1024 if size == "auto" else size)
    copies = [line for line in program.splitlines() if re.search(rf"\[{long}\b\S* copy\(", line)]
    assert f"[{long}" in program
    assert not copies


def test_walk_srrw_ising_table_that_is_full_says_so_once():
    mcmc = of_spins(10, 5.0, "mh", 2, steps=3000, history_size=64)
    assert (np.asarray(mcmc.last_state.num_untracked) > 0).all()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        diagnose(mcmc)
    words = [str(warning.message) for warning in caught]
    assert len(words) == 2
    assert "of 6000 steps were in states that found no place in the table" in words[1]
    assert "visited before" in words[0]
    assert "The guard holds alpha at 0 until then" in words[0]


@cache
def square_error(D, alpha, base, guard=None, num_chains=256):
    averages = support_average(of_spins(D, alpha, base, num_chains, guard=guard), mean_spin).per_chain
    return ((averages - exact_means(D)) ** 2).mean()


@cache
def base_square_error(D, n=20_000):
    """Mean square error of the means of the base chain with base="mh" after n steps, from its transition matrix."""
    J, h = spins(D)
    s = 2.0 * np.array(list(product(range(2), repeat=D))) - 1
    log_p = np.einsum("ni,ij,nj->n", s, J, s) + s @ h
    number = np.arange(2**D)
    P = np.zeros((2**D, 2**D))
    for d in range(D):
        flipped = number ^ 2 ** (D - 1 - d)
        P[number, flipped] = np.minimum(1, np.exp(log_p[flipped] - log_p)) / D
    P[number, number] = 1 - P.sum(1)
    V = asymptotic_covariance(P, np.exp(log_p), 0.0)
    return np.einsum("nd,nm,md->", s, V, s) / D / n


# What is left of the base chain's error, measured apart, and what may be; heat baths cost thrice as much
LEFT = [
    pytest.param("mh", 6, None, 0.098, 0.12),
    pytest.param("mh", 10, None, 0.130, 0.16),
    pytest.param("mh", 14, None, 0.48, 0.57, marks=NIGHTLY),
    pytest.param("gibbs", 6, None, 0.095, 0.12, marks=NIGHTLY),
    pytest.param("gibbs", 10, None, 0.119, 0.16, marks=NIGHTLY),
    pytest.param("mh", 6, "adapt", 0.099, 0.12, marks=NIGHTLY),
    pytest.param("mh", 10, "adapt", 0.168, 0.20, marks=NIGHTLY),
]


@pytest.mark.parametrize(("base", "D", "guard", "seen", "most"), LEFT)
def test_walk_srrw_ising_repellence_takes_most_of_the_error_off(base, D, guard, seen, most):
    closed = base == "mh" and D <= 10
    ratio = square_error(D, 5.0, base, guard) / (
        base_square_error(D) if closed else square_error(D, 0.0, base)
    )
    assert seen / 1.2 < ratio < most


@NIGHTLY
@pytest.mark.parametrize("D", [6, 10])
def test_walk_srrw_ising_base_chain_errs_as_its_closed_form_says(D):
    assert 0.9 < square_error(D, 0.0, "mh") / base_square_error(D) < 1.1


@NIGHTLY
def test_walk_srrw_ising_guard_keeps_harm_away():
    """17 spins, 20,000 steps: 131,072 states, few revisits; without the guard the error is half as large again."""
    base = square_error(17, 0.0, "mh", num_chains=64)
    assert square_error(17, 5.0, "mh", num_chains=64) / base > 1.2
    assert 0.8 < square_error(17, 5.0, "mh", "adapt", num_chains=64) / base < 1.2
    with pytest.warns(UserWarning, match="of the steps hit a state visited before"):
        diagnose(of_spins(17, 5.0, "mh", 4, guard="warn"))


def test_walk_srrw_stream_is_the_average_over_all_steps():
    kernel = SRRW(ising, 5.0, steps_per_draw=50, stream=mean_spin)
    mcmc = walked(kernel, *(jnp.asarray(x, jnp.float32) for x in spins(6)), num_samples=40)
    np.testing.assert_allclose(
        streamed(mcmc).per_chain, support_average(mcmc, mean_spin).per_chain, atol=1e-6
    )


# Variable selection


def test_walk_srrw_selection_has_the_evidence_of_an_integral(x64):
    """Equation (2) of `g_prior_selection` against the normal-gamma integrals it stands for, all 64 models of six."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 6))
    y = X[:, 0] - 0.5 * X[:, 3] + rng.normal(size=30)
    mcmc = walked(SRRW(g_prior_selection, 5.0), jnp.asarray(X), jnp.asarray(y), num_samples=10_000)
    seen = support_average(mcmc, lambda sites: sites["use"], method="distinct")
    models = np.array(list(product(range(2), repeat=6)))
    log_p = np.array([log_evidence(X, y, u.astype(bool), g=30.0) for u in models])
    p = np.exp(log_p - log_p.max())
    np.testing.assert_allclose(seen.mean, (p / p.sum()) @ models, atol=1e-8)


def log_evidence(X, y, use, g):
    """log p(y | u) up to a constant: y centred is N(0, s^2 (I + g H)) on the n - 1 dimensions, and 1 / s integrated."""
    n = len(y)
    basis = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, : n - 1]]))[0][:, 1:]  # orthogonal to 1
    y, X = basis.T @ y, basis.T @ X[:, use]
    hat = X @ np.linalg.pinv(X) if use.any() else np.zeros((n - 1, n - 1))
    covariance = np.eye(n - 1) + g * hat
    return -0.5 * np.linalg.slogdet(covariance)[1] - (n - 1) / 2 * np.log(y @ np.linalg.solve(covariance, y))


# A block of Gibbs, and what is refused


def mixture(y):
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.DiscreteUniform(1, 2))
        numpyro.sample("y", dist.Normal(m * k, 1.0), obs=y)


def test_walk_srrw_without_repellence_is_a_block_of_gibbs():
    y = jnp.array([1.0, 2.3, 1.9])
    kernel = Gibbs([(SRRW(mixture, 0.0), ["k"]), (NUTS(mixture), None)])
    mcmc = MCMC(kernel, num_warmup=200, num_samples=4000, num_chains=1, progress_bar=False)
    with optimised():
        mcmc.run(random.key(0), y)
    samples = mcmc.get_samples()
    assert set(np.unique(samples["k"])) == {1, 2}
    grid = np.linspace(-8, 8, 4001)
    total = np.exp(-(grid**2) / 8) * np.prod(
        [np.exp(-((v - grid) ** 2) / 2) + np.exp(-((v - 2 * grid) ** 2) / 2) for v in np.asarray(y)], 0
    )
    exact = (grid * total).sum() / total.sum()
    batches = np.asarray(samples["m"]).reshape(40, 100).mean(1)
    assert_exact(z_scores(batches, exact))


def poisson():
    numpyro.sample("n", dist.Poisson(2.0))


def changing():
    n = numpyro.sample("n", dist.Bernoulli(0.5))
    numpyro.sample("m", dist.DiscreteUniform(0, 1 + n))


def events():
    numpyro.sample("n", dist.Multinomial(3, jnp.array([0.5, 0.5])))


def array_bounds():
    numpyro.sample("n", dist.DiscreteUniform(jnp.array([0, 1]), jnp.array([2, 3])))


def binomial_bounds():
    numpyro.sample("n", dist.Binomial(jnp.array([2, 3]), 0.5))


def forbidden():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.factor("one", jnp.where(k == 1, -jnp.inf, 0.0))


def subsampled():
    numpyro.sample("k", dist.Bernoulli(0.5))
    with numpyro.plate("rows", 10, subsample_size=2):
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=jnp.zeros(2))


def impossible():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.factor("never", -jnp.inf + 0 * k)


def nothing():
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=0.0)


def started(model, **options):
    return SRRW(model, **options).init(random.key(0), 0, None, model_args=(), model_kwargs={})


BAD = {
    "continuous": (
        lambda: SRRW(mixture).init(random.key(0), 0, None, model_args=(jnp.zeros(2),), model_kwargs={}),
        r"SRRW: the sites \['m'\] are continuous.*score_control_variate.*enumerate.*SRRW\(model, alpha=0\.0\)",
    ),
    "infinite": (lambda: started(poisson), r"SRRW: site 'n' \(Poisson\) has no finite support"),
    "changing": (
        lambda: started(changing),
        r"SRRW: the support of site 'm' changes from one draw",
    ),
    "events": (lambda: started(events), r"SRRW: site 'n' has events of shape \(2,\)"),
    "array bounds": (
        lambda: started(array_bounds),
        r"SRRW: NumPyro cannot enumerate the support of site 'n'",
    ),
    "subsampled": (lambda: started(subsampled), r"SRRW: the plates \['rows'\] are subsampled"),
    "impossible": (
        lambda: started(impossible),
        r"SRRW: the density is zero at all of 100 draws of the prior",
    ),
    "impossible start": (
        lambda: walked(SRRW(forbidden), num_samples=2, init_params={"k": jnp.ones(4, int)}),
        r"SRRW: the density is zero at init_params",
    ),
    "start outside the support": (
        lambda: walked(SRRW(two_sites), init_params={"a": jnp.full(4, 3), "b": jnp.zeros(4, int)}),
        r"init_params: 3 is no value of site 'a', whose support is \[0 1 2\]",
    ),
    "start without a site": (
        lambda: walked(SRRW(two_sites), init_params={"a": jnp.zeros(4, int)}),
        r"init_params must have a value for every site; \['b'\] are missing",
    ),
    "binomial array bounds": (
        lambda: started(binomial_bounds),
        r"SRRW: NumPyro cannot enumerate the support of site 'n' \(Binomial",
    ),
    "no latent": (lambda: started(nothing), "SRRW: the model has no latent site"),
    "growth": (lambda: SRRW(two_sites, Growth()), "Growth needs the rows of a walk on a graph"),
    "strength": (lambda: SRRW(two_sites, -1.0), r"alpha must be 0 .* got -1\.0"),
    "base": (lambda: SRRW(two_sites, base="swap"), r"base must be one of \('gibbs', 'mh'\), got 'swap'"),
    "history": (lambda: SRRW(two_sites, history="lose"), "history must be one of"),
    "guard": (lambda: SRRW(two_sites, guard="yes"), "guard must be one of"),
    "size": (
        lambda: SRRW(two_sites, history_size=100),
        r'history_size must be "auto" or a power of two, got 100',
    ),
    "steps": (
        lambda: SRRW(two_sites, steps_per_draw=0),
        "steps_per_draw must be a whole number from 1 on, got 0",
    ),
    "prior": (lambda: SRRW(two_sites, prior=-1.0), r"prior must be above 0, got -1\.0"),
    "block": (
        lambda: Gibbs([(SRRW(mixture, 5.0), ["k"]), (NUTS(mixture), None)]).init(
            random.key(0), 0, None, model_args=(jnp.zeros(2),), model_kwargs={}
        ),
        r"SRRW with alpha=5\.0 cannot be a block of Gibbs",
    ),
    "f": (
        lambda: support_average(walked(SRRW(two_sites), num_samples=20), lambda sites: jnp.zeros(3)),
        r"f must return an array with one entry a state, \d+, got shape \(3,\)",
    ),
    "no stream": (lambda: streamed(walked(SRRW(two_sites), num_samples=2)), "This SRRW streams nothing"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_walk_srrw_bad_input_says_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def nan_where_one():
    k = numpyro.sample("k", dist.Categorical(jnp.ones(3) / 3))
    numpyro.factor("hole", jnp.where(k == 1, jnp.nan, 0.0))


@pytest.mark.parametrize("base", ["gibbs", "mh"])
def test_walk_srrw_steps_into_a_nan_are_refused_and_counted(base):
    kernel = SRRW(nan_where_one, 1.0, base=base)
    mcmc = walked(kernel, num_samples=50, init_params={"k": jnp.zeros(4, int)})
    assert not (np.asarray(mcmc.get_samples()["k"]) == 1).any()
    with pytest.warns(UserWarning, match="steps were refused because alpha or a density was NaN"):
        diagnose(mcmc)


def test_walk_srrw_reaches_arviz():
    tree = to_datatree(walked(SRRW(mixed_supports, 2.0), num_samples=400))
    assert tree["posterior"]["die"].dims == ("chain", "draw", "dice")
    assert {"revisit_rate", "alpha", "num_untracked"} <= set(tree["sample_stats"].data_vars)
