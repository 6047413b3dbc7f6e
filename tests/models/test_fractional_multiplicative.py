"""dX = X o dB / 2, whose solution is exp(B / 2): Heun, Ito's convention, and what each does not reach."""

import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.handlers import seed, substitute

from emberwalk.models import fractional_sde
from tests.models.fractional_laws import normal_sites
from tests.statistics import assert_caught, optimised, z_scores

TS = np.linspace(0.0, 1.0, 201)


def geometric(hurst, convention="stratonovich"):
    return fractional_sde(
        "x", lambda t, x: 0.0, lambda t, x: x / 2, TS, hurst, 1.0, num_modes=5, convention=convention
    )


def driver(hurst):
    return fractional_sde("x", lambda t, x: 0.0, lambda t, x: 1.0, TS, hurst, 0.0, num_modes=5)


@cache
def program(convention):
    shapes = normal_sites(driver, 0.5)

    def error(key, hurst):
        noises = {
            site: random.normal(random.fold_in(key, i), shape)
            for i, (site, shape) in enumerate(shapes.items())
        }
        x = substitute(seed(partial(geometric, hurst, convention), 0), noises)()
        return jnp.log(x[-1]) - substitute(seed(partial(driver, hurst), 0), noises)()[-1] / 2

    return jax.jit(jax.vmap(error, (0, None)))


def log_errors(hurst, convention="stratonovich"):
    """log X(1) - B(1) / 2 of independent paths."""
    with optimised(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ito's convention
        errors = program(convention)(random.split(random.key(0), 2000), hurst)
    return np.asarray(errors, np.float64)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, 0.9])
def test_heun_is_the_exponential(hurst):
    assert np.abs(log_errors(hurst)).mean() <= 0.02


def test_ito_at_one_half_lacks_an_eighth():
    """log(1 + dB / 2) = dB / 2 - dB^2 / 8 + ...: -1/8, and a sixth of a percent for the fourth power."""
    assert log_errors(0.5, "ito").mean() == pytest.approx(-0.125, rel=0.01)


def test_planted_euler_in_place_of_heun():
    wrong = log_errors(0.3, "ito")
    assert np.abs(wrong).mean() > 0.5
    assert_caught(z_scores(wrong, 0.0))


def test_noise_that_does_not_use_the_state_is_stepped_by_euler():
    """Heun's drift would be the mean of both ends."""
    path = seed(
        lambda: fractional_sde("x", lambda t, x: -x, lambda t, x: jnp.zeros_like(x), TS, 0.3, 1.0), 0
    )()
    np.testing.assert_allclose(path[-1], (1 - 1 / 200) ** 200, rtol=1e-5)


def test_noise_that_uses_the_state_has_heun_s_drift():
    path = seed(lambda: fractional_sde("x", lambda t, x: -x, lambda t, x: 0.0 * x, TS, 0.3, 1.0), 0)()
    np.testing.assert_allclose(path[-1], (1 - 1 / 200 + 1 / 200**2 / 2) ** 200, rtol=1e-5)
