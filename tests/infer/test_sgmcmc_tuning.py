"""`suggest_step_size` against curvatures and noise that are known, and the laws of the steps that it gives."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from emberwalk.infer import suggest_step_size
from emberwalk.infer.sgmcmc import tuning
from emberwalk.infer.sgmcmc.bound import bind
from emberwalk.kernels.sgmcmc import (
    baoab,
    cyclical,
    leimkuhler_matthews,
    psgld,
    sghmc,
    sgld,
    sgnht,
    stationary_variance,
)
from tests.infer.sgmcmc_models import logistic_data, logistic_mode, logistic_model, mean_data, mean_model
from tests.statistics import assert_caught, assert_exact, z_scores

KEY = random.key(0)
CURVATURES = (1.0, 4.0, 100.0)
N, B, T = 1000, 10, 0.1
IDENTITY = {"mass": "identity"}


def gaussian():
    numpyro.sample("q", dist.Normal(0.0, jnp.asarray(CURVATURES) ** -0.5).to_event(1))


def two_sites():
    numpyro.sample("flat", dist.Normal(0.0, 1.0))
    numpyro.sample("stiff", dist.Normal(0.0, 0.1))


ONES = {"flat": 1.0, "stiff": 1.0}
SHARES = {  # step, and what its exact law may exceed T / lam by
    "sgld": (sgld(1.0), 0.1 / 100, 1.053),
    "psgld": (psgld(1.0, "identity"), 0.1 / 100, 1.053),
    "leimkuhler_matthews": (leimkuhler_matthews(1.0), 0.25 / 100, 1.0),
    "sghmc": (sghmc(0.1, 2.0, **IDENTITY), 0.25 / 10, 1.017),
    "baoab": (baoab(1.0, 2.0), 0.25 / 10, 1.0),
    "sgnht": (sgnht(1.0, 2.0), 0.25 / 10, 1.0),
    "cyclical": (cyclical(sgld(1.0), 10), 0.1 / 100, 1.053),
}


@pytest.mark.parametrize(("algorithm", "step", "excess"), SHARES.values(), ids=SHARES)
def test_sgmcmc_tuning_takes_its_share_of_what_is_stable(algorithm, step, excess, x64):
    """Curvatures 1, 4, 100 and no noise; the law of the step is as near the target as the module says."""
    advice = suggest_step_size(gaussian, algorithm, KEY, params={"q": jnp.ones(3)}, temperature=T)
    np.testing.assert_allclose((advice.lambda_max, advice.step_size), (100.0, step), rtol=1e-6)
    assert (advice.noise, advice.limit) == (0.0, "stability")
    plain = replace(tuning.plain(algorithm), step_size=advice.step_size)
    ratio = float(stationary_variance(plain, 100.0, T)) / (T / 100)
    assert excess - 0.001 < ratio < excess + 1e-9


def test_sgmcmc_tuning_symplectic_euler_keeps_half_its_momentum(x64):
    """Friction times step at most 1/2; beyond 1 there is no such scheme."""
    advice = suggest_step_size(gaussian, sghmc(1e-3, 400.0, **IDENTITY), KEY, params={"q": jnp.ones(3)})
    np.testing.assert_allclose(advice.step_size, 0.5 / 400)


METRICS = {
    "identity": (baoab(1.0, 2.0), 100.0),
    "mass": (baoab(1.0, 2.0, "diagonal"), 1.0),
    "preconditioner": (psgld(1.0), 100.0),
    "preconditioner flat": (psgld(1.0, power=1.0), 1000.0),
}


@pytest.mark.parametrize(("algorithm", "exact"), METRICS.values(), ids=METRICS)
def test_sgmcmc_tuning_curvature_is_that_in_the_metric(algorithm, exact, x64):
    """At (1, 1) the gradients are (1, 100): M = (1, 100); G = (100, 1), with power 1 (1000, 1) for its bound."""
    advice = suggest_step_size(two_sites, algorithm, KEY, params=ONES)
    np.testing.assert_allclose(advice.lambda_max, exact, rtol=1e-3)


def test_sgmcmc_tuning_planted_curvature_without_the_metric(x64, monkeypatch):
    monkeypatch.setattr(
        tuning, "_root_of_metric", lambda _, state: jax.tree.map(jnp.ones_like, state.position)
    )
    assert suggest_step_size(two_sites, baoab(1.0, 2.0, "diagonal"), KEY, params=ONES).lambda_max > 99


def test_sgmcmc_tuning_curvature_is_that_of_the_data(x64):
    """4b rows are all: the Hessian at the mode of a logistic regression; from below, within 2 %."""
    X, y = logistic_data(100, 3)
    mode, hessian = logistic_mode(X, y)
    advice = suggest_step_size(logistic_model, sgld(1.0), KEY, X, y, 25, params={"beta": mode})
    exact = np.linalg.eigvalsh(hessian).max()
    assert 0.98 * exact < advice.lambda_max < exact * (1 + 1e-9)


@pytest.mark.parametrize("bug", [None, "of one row"])
def test_sgmcmc_tuning_noise_is_that_of_a_batch(bug, x64):
    """V = N^2 var(y) / b from 32 gradients, without bias; planted: V of a row in place of b of them."""
    y = mean_data(N)
    size = B if bug is None else 1
    measure = partial(tuning.measured, bind(mean_model, (y, size), {}), sgld(1.0))
    seen = jax.jit(jax.vmap(measure, in_axes=(0, None, None)))(
        random.split(KEY, 400), {"m": jnp.zeros(())}, T
    )
    np.testing.assert_allclose(seen.curvature, N + 1)
    z = z_scores(seen.variance["m"], N**2 * np.var(y) / B)
    assert_exact(z) if bug is None else assert_caught(z)


def coth(x):
    return 1 / np.tanh(x)


RATIOS = {  # r(h) V / T by the table of the algorithms
    "sgld": (sgld(1.0), lambda h: h / 2),
    "leimkuhler_matthews": (leimkuhler_matthews(1.0), lambda h: h / 2),
    "sghmc": (sghmc(1e-3, 9.0, **IDENTITY), lambda h: h / (2 * 9.0)),
    "baoab": (baoab(1.0, 9.0), lambda h: h**2 * coth(4.5 * h) / 4),
}


@pytest.mark.parametrize(("algorithm", "factor"), RATIOS.values(), ids=RATIOS)
def test_sgmcmc_tuning_noise_ratio_of_the_step_is_the_one_allowed(algorithm, factor, x64):
    """With its own estimate of V."""
    advice = suggest_step_size(
        mean_model, algorithm, KEY, mean_data(N), B, params={"m": 0.0}, temperature=T, noise_ratio=0.02
    )
    assert advice.limit == "noise"
    np.testing.assert_allclose(factor(advice.step_size) * advice.noise / T, 0.02, rtol=1e-4)


def test_sgmcmc_tuning_starts_where_numpyro_would():
    """Without params, and on all rows there is no noise."""
    advice = suggest_step_size(mean_model, sgld(1.0), KEY, jnp.asarray(mean_data(40)), 40)
    assert (advice.noise, advice.limit) == (0.0, "stability")
    assert advice.lambda_max == pytest.approx(41, rel=1e-5)


def on(**options):
    return lambda: suggest_step_size(gaussian, **{"algorithm": sgld(1.0), "rng_key": KEY, **options})


BAD = {
    "algorithm": (
        on(algorithm=0.1),
        TypeError,
        "algorithm must be one of emberwalk.kernels.sgmcmc, got float",
    ),
    "temperature": (on(temperature=0.0), ValueError, "temperature must be one positive .* got 0.0"),
    "schedule": (
        on(temperature=lambda k: 1.0),
        ValueError,
        "temperature must be one positive .* lowest of the run",
    ),
    "ratio": (on(noise_ratio=0.0), ValueError, "noise_ratio must be positive, got 0.0"),
    "params": (
        on(params={"p": 1.0}),
        ValueError,
        r"params must have a value for each of the sites \['q'\], got",
    ),
    "shape": (on(params={"q": 1.0}), ValueError, r"params\['q'\] must have the shape \(3,\), got \(\)"),
    "not finite": (on(params={"q": jnp.full(3, jnp.nan)}), ValueError, "must be a constrained value in"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_sgmcmc_tuning_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sgmcmc_tuning_no_curvature_is_no_scale():
    def line():
        q = numpyro.sample("q", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("slope", q)

    with pytest.raises(ValueError, match="curvature of U is 0 at params: without one there is no scale"):
        suggest_step_size(line, sgld(1.0), KEY, params={"q": 0.0})
