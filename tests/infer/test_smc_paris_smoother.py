"""`paris_smoother` gives the smoothed sums of the model as written, by either front-end, in O(N) memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan

from emberwalk.infer import lag_product, moment, paris_smoother
from emberwalk.models import StateSpace, emission, linear_gaussian, linear_gaussian_scan
from tests.infer.smc_lowering import Y, plain
from tests.kernels.smc_models import autoregression
from tests.smc_data import linear_gaussian_data
from tests.statistics import assert_exact, replicas, z_scores

KEY, AT, XX = random.key(0), {"phi": 0.9, "sx": 1.0}, {"xx": lag_product("x")}
DATA = linear_gaussian_data(20)
CASE = autoregression(DATA)


def after_outer_start(previous, current, t):
    """x_{t-1} x_t where x_0 is a site of its own, outside the scan."""
    return jnp.where(t == 0, previous["x0"], previous["x"]) * current["x"]


LAGGED = [
    pytest.param(linear_gaussian, XX, id="StateSpace"),
    pytest.param(linear_gaussian_scan, {"xx": after_outer_start}, id="scan", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize(("model", "functionals"), LAGGED)
def test_smoothed_sum_and_evidence_of_a_linear_gaussian_model(model, functionals):
    y = jnp.asarray(DATA)

    def replica(key):
        result = paris_smoother(key, model, AT, functionals, y, num_particles=500)
        # exp of it has the evidence as its mean
        return jnp.stack([result.estimates["xx"], jnp.exp(result.log_evidence - CASE.log_evidence)])

    lagged = np.diag(CASE.covariance + np.outer(CASE.mean, CASE.mean), -1).sum()
    assert_exact(z_scores(replicas(replica, KEY, 200), [lagged, 1.0]))


@pytest.mark.nightly
def test_smoothed_sum_of_500_times():
    y = jnp.asarray(linear_gaussian_data(500))

    def replica(key):
        result = paris_smoother(key, linear_gaussian, AT, XX, y, num_particles=2000)
        return jnp.stack([result.estimates["xx"], jnp.exp(result.log_evidence + 918.850884)])

    assert_exact(z_scores(replicas(replica, KEY, 50), [2179.115, 1.0]))


def learned(y):
    """`linear_gaussian` with `param` sites."""
    phi = numpyro.param("phi", 0.1, constraint=dist.constraints.interval(-1, 1))
    sx = numpyro.param("sx", 3.0, constraint=dist.constraints.positive)
    start = dist.Normal(0, sx / jnp.sqrt(1 - phi**2))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def test_param_sites_are_given_like_sample_sites():
    results = [paris_smoother(KEY, model, AT, XX, Y, num_particles=8) for model in (learned, linear_gaussian)]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_second_call_runs_the_model_no_more_and_sees_its_new_values():
    runs = []

    def model(y):
        runs.append(y)
        linear_gaussian(y)

    first = paris_smoother(KEY, model, AT, XX, Y, num_particles=8)
    once = len(runs)
    other = paris_smoother(KEY, model, {"phi": 0.5, "sx": 1.0}, {"xx": lag_product("x")}, Y, num_particles=8)
    assert len(runs) == once
    assert other.log_evidence != first.log_evidence


def test_the_program_holds_nothing_of_the_length_of_the_series():
    length = 50_000
    y = jnp.zeros(length)
    program = jax.jit(lambda key, y: paris_smoother(key, linear_gaussian, AT, XX, y, num_particles=8))
    assert program.lower(KEY, y).compile().memory_analysis().temp_size_in_bytes < length


def test_data_that_params_cannot_have_made_are_warned_of():
    def counts(y):
        x = numpyro.sample("x", StateSpace(dist.Poisson(3.0), lambda prev, t: dist.Poisson(3.0), 4))
        law = partial(dist.Poisson, validate_args=False)
        numpyro.sample("y", emission(lambda x_t, t: law(x_t + 1.0), x), obs=y)

    with pytest.warns(
        UserWarning, match=r"^1 weights were NaN or infinite, or times without a possible part"
    ):
        result = paris_smoother(
            KEY, counts, {}, {"x": moment("x")}, jnp.array([2, 1, -1, 0]), num_particles=8
        )
    assert result.log_evidence == -jnp.inf
    assert result.min_ess == 0


def second_order(y):
    def step(carry, y_t):
        x, before = carry
        new = numpyro.sample("x", dist.Normal(0.5 * x + 0.3 * before, 1.0))
        numpyro.sample("y", dist.Normal(new, 1.0), obs=y_t)
        return (new, x), None

    scan(step, (0.0, 0.0), y)


BAD = {
    "no functional": (linear_gaussian, AT, {}, {}, "functionals must name at least one sum"),
    "functionals no dictionary": (linear_gaussian, AT, lag_product("x"), {}, "must be a dictionary.*partial"),
    "params no dictionary": (linear_gaussian, None, XX, {}, "params must be a dictionary.*got NoneType; {} for none"),
    "unknown parameter": (linear_gaussian, {**AT, "psi": 1.0}, XX, {},
                          r"params=\['psi'\] are no parameters.*\['phi', 'sx', 'x'\]"),
    "parameter left out": (linear_gaussian, {"phi": 0.9}, XX, {}, r"every parameter, but \['sx'\] are left out"),
    "param site left out": (learned, {"phi": 0.9}, XX, {}, r"every parameter, but \['sx'\] are left out"),
    "several draws": (linear_gaussian, {**AT, "sx": np.ones(3)}, XX, {},
                      r"params\['sx'\] has shape \(3,\), but the site has \(\): give one value"),
    "one particle": (linear_gaussian, AT, XX, {"num_particles": 1}, "num_particles must be.* at least 2, got 1"),
    "backward kernel": (linear_gaussian, AT, XX, {"paris": "exact"}, "paris must be one of.*got 'exact'"),
    "order 2": (second_order, {}, XX, {}, "needs a model of Markov order 1, got order 2"),
    "no path": (lambda y: numpyro.sample("y", dist.Normal(0, 1), obs=y), {}, XX, {}, "No path found"),
    "site of the scan given": (plain, {"phi": 0.9, "x": Y}, XX, {}, r"params=\['x'\] are no parameters"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "params", "functionals", "options", "words"), BAD.values(), ids=BAD)
def test_paris_smoother_bad_input(model, params, functionals, options, words):
    with pytest.raises(ValueError, match=words):
        paris_smoother(KEY, model, params, functionals, Y, **options)


def test_data_that_are_no_numbers_are_refused():
    with pytest.raises(
        ValueError, match="Observed site 'y' is NaN or infinite at 1 of its 4 times, first at 2"
    ):
        paris_smoother(KEY, linear_gaussian, AT, XX, Y.at[2].set(jnp.nan), num_particles=8)
