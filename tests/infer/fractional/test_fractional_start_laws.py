"""Starts whose law is not normal, against quadrature over x_0: given it, all is Gaussian."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats
from scipy.special import logsumexp

from emberwalk.infer import AutoFractionalSDE
from emberwalk.models import fractional_sde
from tests.infer.fractional.guided import (
    SD,
    coefficients,
    exact_gp,
    fbm_prior,
    log_weights,
    nothing,
    set_up,
    unit,
)

TS = np.linspace(0, 1, 11)
C = coefficients(1.0, 10, num_modes=5)
ENDS = np.array([6.0, 3.0])  # data of two sequences lead there
Y = ENDS[:, None] * np.ones(11) + 0.1 * np.sin(5 * TS)


def model_of(law):
    """A plate of two paths, seen from the start on."""

    def model(y):
        with numpyro.plate("seq", 2):
            x = fractional_sde("x", nothing, unit, TS, 0.7, law, coefficients=C)
            numpyro.sample("y", dist.Normal(x, SD).to_event(1), obs=y)

    return model


def by_quadrature(law, y, grid):
    """log of the integral over x_0, float64."""
    prior, at = fbm_prior(TS, 0.7), np.arange(11)
    given = [exact_gp(prior, at, y, x0)[0] for x0 in grid]
    return logsumexp(np.array(given) + law.logpdf(grid)) + np.log(grid[1] - grid[0])


@pytest.mark.parametrize(
    ("law", "exact"),
    [
        (dist.LogNormal(jnp.array([0.0, 1.0]), 1.0), [stats.lognorm(1.0), stats.lognorm(1.0, scale=np.e)]),
        pytest.param(
            dist.Uniform(0.0, jnp.array([7.0, 9.0])),
            [stats.uniform(0.0, 7.0), stats.uniform(0.0, 9.0)],
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["log normal", "uniform"],
)
def test_fractional_start_law_has_the_evidence_of_quadrature(law, exact):
    """Untrained, in float32."""
    model, y = model_of(law), jnp.asarray(Y)
    guide = set_up(AutoFractionalSDE(model), y)
    found = np.asarray(log_weights(model, guide)(random.split(random.key(0), 500), y), float)
    answer = sum(
        by_quadrature(one, row, np.linspace(end - 1.5, end + 1.5, 3001))
        for one, row, end in zip(exact, Y, ENDS, strict=True)
    )
    assert guide._passes == 0  # the equation is linear, and the start is no part of its passes
    assert abs(logsumexp(found) - np.log(500) - answer) < 0.05
    assert answer - found.mean() < 0.1
    assert found.std() < 0.5


def test_fractional_planted_start_that_is_linearised_at_zero(monkeypatch):
    """By far: its draws begin at exp(5)."""
    monkeypatch.setattr(
        "emberwalk.infer.fractional.reference.most_probable_start",
        lambda equation, info: jnp.zeros((2, equation.num_start_noises)),
    )
    model, y = model_of(dist.LogNormal(jnp.array([0.0, 1.0]), 1.0)), jnp.asarray(Y)
    found = log_weights(model, set_up(AutoFractionalSDE(model), y))(random.split(random.key(0), 500), y)
    assert np.mean(found) < -1e4  # caught: the test above asks for a tenth of a nat
