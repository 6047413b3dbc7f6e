"""Both front-ends, the map over time, and the noise of every law, against the model and autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.scipy.stats import norm
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import transforms
from numpyro.infer.util import log_density, potential_energy

from emberwalk.infer.smc.location_scale import (
    SCALAR_CLASSES,
    VECTOR_CLASSES,
    noise_map,
    required_noise_map,
    unconstrained_map,
)
from emberwalk.infer.smc.time_parallel import TimeParallel
from emberwalk.kernels.smc import SSM, Evaluation, particle_filter
from emberwalk.models import (
    linear_gaussian,
    linear_gaussian_scan,
    load_gbp_usd,
    nonlinear_growth,
    poisson_counts,
    regime_switching,
    stochastic_volatility,
)
from tests.infer.smc_lowering import Y, at, densities, draw, find, observe, phi_and_x0, plain, sample_x
from tests.smc_data import counts_data, growth_data, linear_gaussian_data, switching_data
from tests.statistics import assert_exact, replicas

RETURNS = np.asarray(load_gbp_usd()[1], np.float32)
# a Beta is slow to draw from
VOLATILITY = handlers.substitute(stochastic_volatility, {"b": jnp.array(0.92)})
EXAMPLES = {
    "stochastic_volatility": (VOLATILITY, jnp.asarray(RETURNS[:8])),
    "linear_gaussian": (linear_gaussian, jnp.asarray(linear_gaussian_data(8), jnp.float32)),
    "linear_gaussian_scan": (linear_gaussian_scan, jnp.asarray(linear_gaussian_data(8), jnp.float32)),
    "nonlinear_growth": (nonlinear_growth, jnp.asarray(growth_data(8), jnp.float32)),
    "regime_switching": (regime_switching, jnp.asarray(switching_data(8), jnp.float32)),
}


@pytest.mark.parametrize(("model", "y"), EXAMPLES.values(), ids=EXAMPLES)
def test_smc_pieces_of_the_example_models_sum_to_their_density(model, y):
    pieces, exact = densities(model, y)
    np.testing.assert_allclose(pieces, exact, rtol=1e-5)


def test_smc_pieces_of_the_counts_sum_to_their_density():
    y = jnp.asarray(counts_data(8))
    pieces, exact = densities(handlers.substitute(poisson_counts, {"x": 2 * y}), y)
    assert jnp.isfinite(exact).all()
    np.testing.assert_allclose(pieces, exact, rtol=1e-5)


def test_smc_scan_and_state_space_have_the_same_pieces():
    y = EXAMPLES["linear_gaussian"][1]
    x = random.normal(random.key(0), y.shape)
    theta = {"phi": jnp.array(0.7), "sx": jnp.array(0.5)}

    def pieces(model, values):
        path_model = find(model, y)
        outer, path = at(model, (y,), path_model, {**theta, **values})
        ssm = path_model.ssm(outer)
        first = path.latents[0] if values.keys() == {"x"} else {"x": path.latents["x"][0]}

        @jax.jit
        def all_of(initial, first):
            one = ssm.evaluate(ssm.init_carry(initial), first, jnp.array(1))
            return [ssm.init_logpdf(initial), ssm.init_loglik(initial), *one[:2]]

        return all_of(path.initial, first)

    np.testing.assert_allclose(
        pieces(linear_gaussian, {"x": x}), pieces(linear_gaussian_scan, {"x0": x[0], "x": x[1:]}), rtol=1e-5
    )


def clock_in_the_carry(y):
    """Two clocks, one of them driven by a parameter, a weakly typed start, and a deterministic site."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    sy = numpyro.sample("sy", dist.HalfNormal(1.0))
    late = numpyro.sample("late", dist.Normal(0, 1))

    def step(carry, y_t):
        x, (t, drift) = carry
        x = numpyro.sample("x", dist.Normal(phi * x + 0.1 * t, jnp.exp(drift)))
        numpyro.deterministic("scaled", x * sy)
        numpyro.sample("y", dist.Normal(x, sy), obs=y_t)
        return (x, (t + 1, 0.9 * drift + 0.01 * late)), x

    _, x = scan(step, (0, (0, 0.1)), y)
    numpyro.deterministic("mean", x.mean())


def vectors_and_plates(y):
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def step(x, y_t):
        with numpyro.plate("series", 2):
            v = numpyro.sample("v", dist.LogNormal(0.1 * x, 0.3))
        x = numpyro.sample("x", dist.MultivariateNormal(phi * x, jnp.diag(v)))
        with handlers.mask(mask=y_t > 0), handlers.scale(scale=0.5):
            numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y_t)
        return x, None

    scan(step, x0, y)


LONG = jnp.asarray(np.tile(np.asarray(Y), 50))
PARALLEL = {
    "linear_gaussian_scan": (linear_gaussian_scan, LONG),
    "volatility": (VOLATILITY, jnp.asarray(RETURNS[:200])),
    "regime_switching": (regime_switching, LONG),
    "clock in the carry": (clock_in_the_carry, LONG),
    "vectors and plates": (vectors_and_plates, LONG),
}


def in_parallel(model, y):
    found = find(model, y)
    assert found.order == 1
    return lambda conditioned: TimeParallel(
        conditioned, latents=found.time_sites, stochastic=found.stochastic
    )


DAILY = ("volatility", "vectors and plates")


@pytest.mark.parametrize(
    ("model", "y"),
    [
        pytest.param(*case, id=name, marks=() if name in DAILY else pytest.mark.nightly)
        for name, case in PARALLEL.items()
    ],
)
def test_smc_map_over_time_has_the_potential_of_the_scan(model, y):
    found, wrapper = find(model, y), in_parallel(model, y)
    values = draw(model, random.key(0), y)
    path = {name: values.pop(name) for name in found.sites}
    given = handlers.substitute(handlers.condition(model, path), path)
    # unconstrained parameters; where there is none the path moves, as an argument of the density
    theta = {name: jnp.array(0.3) for name in values}

    def potential(model):
        return jax.value_and_grad(lambda theta: potential_energy(model, (y,), {}, theta))

    scanned, mapped = jax.jit(lambda theta: (potential(given)(theta), potential(wrapper(given))(theta)))(
        theta
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), mapped, scanned)
    assert scanned[0] != 0


def test_smc_map_over_time_runs_the_body_without_a_loop():
    model, y = PARALLEL["clock in the carry"]
    values = draw(model, random.key(0), y)

    def loops(conditioned):
        text = str(jax.make_jaxpr(lambda: log_density(conditioned, (y,), {}, values)[0])())
        return text.count("= scan["), text.count("erf_inv")

    given = handlers.condition(model, {"x": values["x"]})
    scans, _ = loops(given)
    assert scans == 1
    scans, draws = loops(in_parallel(model, y)(given))
    assert (scans, draws) == (1, 0)  # the clock alone, see `_clock_leaves`
    model, y = PARALLEL["volatility"]
    values = draw(model, random.key(0), y)
    assert loops(in_parallel(model, y)(handlers.condition(model, {"h": values["h"]}))) == (0, 0)


def test_smc_map_over_time_shows_the_sites_of_the_scan():
    model, y = PARALLEL["clock in the carry"]
    values = draw(model, random.key(0), y)
    given = handlers.substitute(handlers.seed(model, random.key(1)), values)
    order, shapes = [], []

    @jax.jit
    def values_of_both():
        both = [handlers.trace(m).get_trace(y) for m in (given, in_parallel(model, y)(given))]
        for sites in both:
            order.append(list(sites))
            shapes.append([s["fn"].batch_shape for s in sites.values() if s["type"] == "sample"])
        return [{name: site["value"] for name, site in sites.items()} for sites in both]

    scanned, mapped = values_of_both()
    assert order[0] == order[1]
    assert shapes[0] == shapes[1]
    for name, value in scanned.items():
        np.testing.assert_allclose(mapped[name], value, rtol=1e-5)


def test_smc_map_over_time_leaves_a_path_that_is_not_given_to_the_scan():
    wrapper = in_parallel(plain, Y)
    for given in ({}, {"x0": jnp.array(0.5)}):
        model = handlers.condition(plain, given)
        scanned, wrapped = draw(model, random.key(0), Y)["x"], draw(wrapper(model), random.key(0), Y)["x"]
        np.testing.assert_array_equal(wrapped, scanned)
        assert len(np.unique(scanned)) == 4


def test_smc_map_over_time_needs_every_latent_of_the_body():
    def two_latents(y):
        phi, x0 = phi_and_x0()

        def step(x, y_t):
            u = numpyro.sample("u", dist.Normal(x, 1.0))
            x = sample_x(phi * u)
            observe(x, y_t)
            return x, None

        scan(step, x0, y)

    given = handlers.condition(two_latents, {"x": Y})
    scanned, wrapped = (
        draw(model, random.key(0), Y)["u"] for model in (given, in_parallel(two_latents, Y)(given))
    )
    np.testing.assert_array_equal(wrapped, scanned)


ROOT = jnp.array([[1.5, 0.0], [-0.4, 0.7]])
SQUARED = transforms.ComposeTransform([transforms.AffineTransform(0.5, -2.0), transforms.SigmoidTransform()])
# Made inside of the programs that use them: made here, each would compile a dozen of its own.
LAWS = {
    **{cls.__name__: partial(cls, loc=0.3, scale=1.7) for cls in SCALAR_CLASSES if cls is not dist.StudentT},
    "StudentT": lambda: dist.StudentT(4.0, 0.3, 1.7),
    "batch": lambda: dist.Normal(jnp.array([0.3, -0.1, 2.0]), jnp.array([[0.5], [1.7]])),
    "MultivariateNormal": lambda: dist.MultivariateNormal(jnp.array([0.3, -1.0]), scale_tril=ROOT),
    "MultivariateNormal, batch": lambda: dist.MultivariateNormal(jnp.zeros((3, 2)), scale_tril=ROOT),
    "MultivariateNormal, batch of roots": lambda: dist.MultivariateNormal(
        jnp.zeros(2), scale_tril=jnp.stack([ROOT, 2 * ROOT, 3 * ROOT])
    ),
    "MultivariateNormal, precision": lambda: dist.MultivariateNormal(jnp.zeros(2), precision_matrix=ROOT @ ROOT.T),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(5.0, jnp.array([0.3, -1.0]), ROOT),
    "MultivariateStudentT, batch": lambda: dist.MultivariateStudentT(jnp.array([3.0, 5.0]), jnp.zeros(2), ROOT),
    "Independent": lambda: dist.Normal(jnp.zeros((3, 2)), jnp.array([0.5, 1.7])).to_event(1),
    "Independent twice": lambda: dist.Normal(jnp.zeros((3, 2)), 1.7).to_event(1).to_event(1),
    "Independent vector": lambda: dist.MultivariateNormal(jnp.zeros((3, 2)), scale_tril=ROOT).to_event(1),
    "Expanded": lambda: dist.Laplace(jnp.array([[0.3], [1.0]]), 1.7).expand((2, 3)),
    "Expanded to new axes": lambda: dist.Normal(0.3, jnp.array([0.5, 1.7])).expand((3, 2)),
    "Expanded vector": lambda: dist.MultivariateNormal(jnp.zeros(2), scale_tril=ROOT).expand((3,)),
    "Expanded Independent": lambda: dist.Normal(jnp.zeros(2), 1.7).to_event(1).expand((3,)),
    "Independent Expanded": lambda: dist.Normal(0.3, 1.7).expand((3, 2)).to_event(2),
    "LogNormal": lambda: dist.LogNormal(0.3, 0.7),
    "LogNormal, batch": lambda: dist.LogNormal(jnp.array([0.3, 1.0]), 0.7),
    "LogNormal, event": lambda: dist.LogNormal(jnp.array([0.3, 1.0]), 0.7).to_event(1),
    "Transformed": lambda: dist.TransformedDistribution(dist.StudentT(4.0, 0.3, 1.7), [SQUARED]),
    "Transformed, batch": lambda: dist.TransformedDistribution(
        dist.Normal(jnp.array([0.3, 1.0]), 0.7), [transforms.AffineTransform(1.0, jnp.array([2.0, -3.0]))]
    ),
    "Transformed vector": lambda: dist.TransformedDistribution(
        dist.MultivariateNormal(jnp.zeros(2), scale_tril=ROOT), [transforms.LowerCholeskyAffine(jnp.ones(2), ROOT)]
    ),
    "Transformed scalars to a vector": lambda: dist.TransformedDistribution(
        dist.Normal(jnp.zeros(2), 0.7), [transforms.LowerCholeskyAffine(jnp.ones(2), ROOT)]
    ),
    "Transformed Independent": lambda: dist.TransformedDistribution(
        dist.Normal(jnp.zeros((3, 2)), 0.7).to_event(1), [transforms.ExpTransform()]
    ),
    "Masked True": lambda: dist.Normal(jnp.zeros(3), 1.7).mask(True),
}  # fmt: skip


@pytest.mark.parametrize("make_law", LAWS.values(), ids=LAWS)
def test_smc_noise_gives_the_value_back_and_its_determinant_is_that_of_the_jacobian(make_law):
    @jax.jit
    def all_of(width):
        law = make_law()
        standard, shape = required_noise_map(law), law.shape()
        z = width * jnp.asarray(np.linspace(-1.1, 1.3, int(np.prod(shape))).reshape(shape), jnp.float32)
        x, log_det = standard.to_value(z), standard.log_det(z)
        assert log_det.shape == law.batch_shape
        jacobian = jax.jacobian(lambda z: standard.to_value(z.reshape(shape)).ravel())(z.ravel())
        density = law.log_prob(x).sum() + log_det.sum()
        return z, standard.to_noise(x), log_det.sum(), jacobian, density, standard_density(law, z)

    z, again, log_det, jacobian, density, of_standard = all_of(1.0)
    np.testing.assert_allclose(again, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-5)
    # the density of z, log p(x(z)) + log |dx/dz|, knows nothing of loc and scale
    np.testing.assert_allclose(density, of_standard, rtol=1e-4, atol=1e-5)


def standard_density(law, z):
    """log-density of z under the innermost law with loc 0 and scale 1, summed."""
    while hasattr(law, "base_dist"):
        law = law.base_dist
    size = z.shape[-1] if type(law) in VECTOR_CLASSES else 1
    df = {"df": law.df} if hasattr(law, "df") else {}
    if type(law) in VECTOR_CLASSES:
        named = {"scale_tril": jnp.eye(size)}
        return jnp.broadcast_to(type(law)(loc=jnp.zeros(size), **named, **df).log_prob(z), z.shape[:-1]).sum()
    return type(law)(loc=0.0, scale=1.0, **df).log_prob(z).sum()


def test_smc_masked_noise_has_no_determinant_where_it_is_masked():
    mask = jnp.array([True, False, True])
    law = dist.Normal(jnp.zeros(3), jnp.array([2.0, 3.0, 5.0])).mask(mask)
    np.testing.assert_allclose(
        required_noise_map(law).log_det(jnp.ones(3)),
        jnp.where(mask, jnp.log(jnp.array([2.0, 3.0, 5.0])), 0.0),
    )
    z = required_noise_map(law).to_noise(jnp.ones(3))
    np.testing.assert_allclose(required_noise_map(law).to_value(z), 1.0, rtol=1e-6)


STARTS = {
    "HalfNormal": dist.HalfNormal(1.5),
    "Gamma": dist.Gamma(jnp.array([2.0, 3.0]), 1.0),
    "Beta": dist.Beta(2.0, 3.0),
    "Uniform": dist.Uniform(-1.0, 4.0),
    "VonMises": dist.VonMises(0.3, 2.0),
}


@pytest.mark.parametrize("law", STARTS.values(), ids=STARTS)
def test_smc_start_without_a_scale_moves_in_unconstrained_coordinates(law):
    assert noise_map(law) is None
    standard = unconstrained_map(law)
    x = jax.jit(law.sample)(random.key(0))

    @jax.jit
    def all_of(x):
        z = standard.to_noise(x)
        jacobian = jax.jacobian(lambda z: jnp.ravel(standard.to_value(z.reshape(x.shape))))(jnp.ravel(z))
        return standard.to_value(z), jnp.sum(standard.log_det(z)), jacobian

    again, log_det, jacobian = all_of(x)
    np.testing.assert_allclose(again, x, rtol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-4)


@pytest.mark.parametrize(
    "law",
    [dist.Gamma(2.0, 1.0), dist.Delta(0.0), dist.TruncatedNormal(0.0, 1.0, low=0.0), dist.Poisson(3.0),
     dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros(2), 1.0))],
    ids=lambda law: type(law).__name__,
)  # fmt: skip
def test_smc_law_without_location_and_scale_has_no_noise(law):
    assert noise_map(law) is None
    assert noise_map(law.expand((3,)).to_event(1)) is None


def volatility_by_hand(y, mu, phi, sigma):
    """`stochastic_volatility` at given parameters, its densities those of jax.scipy."""

    def evaluate(c, h, t):
        log_transition = norm.logpdf(h, mu + phi * (c - mu), sigma)
        return Evaluation(log_transition, norm.logpdf(y[t - 1], 0.0, jnp.exp(h / 2)), h)

    return SSM(
        init=lambda key: mu + sigma / jnp.sqrt(1 - phi**2) * random.normal(key),
        init_logpdf=lambda h: norm.logpdf(h, mu, sigma / jnp.sqrt(1 - phi**2)),
        init_carry=lambda h: h,
        init_loglik=lambda h: jnp.zeros(()),
        sample=lambda key, c, t: mu + phi * (c - mu) + sigma * random.normal(key),
        evaluate=evaluate,
        length=y.shape[0],
    )


def test_smc_filter_of_the_volatility_model_has_the_evidence_of_one_written_by_hand():
    y, theta = jnp.asarray(RETURNS[:200]), {"mu": -1.3, "b": 0.92, "sigma": 0.46}
    found = find(stochastic_volatility, y)
    start = {"h0": jnp.zeros(()), "h": jnp.zeros(y.shape)}
    outer, _ = at(stochastic_volatility, (y,), found, {**theta, **start})
    by_hand = volatility_by_hand(y, theta["mu"], 2 * theta["b"] - 1, theta["sigma"])

    def evidence(key):
        keys = random.split(key)
        ssms = (found.ssm(outer), by_hand)
        return jnp.stack([particle_filter(k, m, 32).log_evidence for k, m in zip(keys, ssms, strict=True)])

    log_evidence = replicas(evidence, random.key(0), 400)
    assert 0.05 < log_evidence[:, 1].std() < 2.0
    difference = log_evidence[:, 0] - log_evidence[:, 1]
    assert_exact(difference.mean() / difference.std(ddof=1) * np.sqrt(len(difference)))
