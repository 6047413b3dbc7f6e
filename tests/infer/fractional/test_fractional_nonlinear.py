"""Guides where the equation or the likelihood is not linear: their gap to the evidence, residuals, encoders."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Predictive, Trace_ELBO
from scipy.special import logsumexp

from emberwalk.infer import AutoFractionalSDE
from emberwalk.models import fractional_sde
from tests.infer.fractional.guided import SD, bridge, coefficients, log_weights, set_up, unit


def wells(t, x):
    return 4 * (x - x**3)


def double_well(H, num_steps=200):
    """The model, and data drawn from it."""
    at = np.arange(num_steps // 10, num_steps + 1, num_steps // 10)
    model = bridge(num_steps, at, wells, unit)
    y = Predictive(model, num_samples=1)(random.key(4), H)["y"][0]
    return model, y


def gap(log_w):
    """Evidence by importance sampling less the ELBO, nats."""
    return logsumexp(log_w) - np.log(len(log_w)) - log_w.mean()


@pytest.mark.nightly
@pytest.mark.parametrize(("H", "bound"), [(0.3, 0.45), (0.7, 0.12)])
def test_fractional_nonlinear_double_well_has_a_small_gap_untrained(H, bound):
    model, y = double_well(H)
    guide = set_up(AutoFractionalSDE(model), H, y)
    weights = log_weights(model, guide)
    found = np.concatenate(
        [np.asarray(weights(random.split(random.key(i), 1000), H, y), float) for i in range(20)]
    )
    assert 0 <= gap(found) <= bound


def test_fractional_nonlinear_double_well_needs_its_passes():
    """Linearised about straight lines alone the weights vary more."""
    model, y = double_well(0.7, 50)
    spread = [
        np.asarray(
            log_weights(model, set_up(AutoFractionalSDE(model, relinearise=passes), 0.7, y))(
                random.split(random.key(0), 300), 0.7, y
            )
        ).std()
        for passes in (0, 2)
    ]
    assert spread[1] < spread[0] / 2


def test_fractional_nonlinear_residual_begins_as_nothing_and_learns():
    model, y = double_well(0.7, 50)
    keys = random.split(random.key(0), 200)
    plain = log_weights(model, set_up(AutoFractionalSDE(model), 0.7, y))(keys, 0.7, y)
    guide = AutoFractionalSDE(model, residual=16)
    svi = SVI(model, guide, optax.adam(3e-3), Trace_ELBO(num_particles=8))
    state = svi.init(random.key(1), 0.7, y)
    first = log_weights(model, guide, svi.get_params(state))(keys, 0.7, y)
    np.testing.assert_allclose(first, plain, atol=1e-3)
    trained = svi.run(random.key(1), 200, 0.7, y, init_state=state, progress_bar=False).params
    after = log_weights(model, guide, trained)(keys, 0.7, y)
    assert not np.allclose(after, plain, atol=1e-3)
    assert np.asarray(after).mean() > np.asarray(plain).mean() - 0.02


def counts(H, y=None):
    """Poisson counts of a path: the curvature depends on it."""
    ts = np.linspace(0, 1, 21)
    x = fractional_sde("x", lambda t, x: -x, unit, ts, H, coefficients=coefficients(1.0, 20))
    numpyro.sample("y", dist.Poisson(jnp.exp(1 + x[1:])), obs=y)


def test_fractional_nonlinear_likelihood_has_learnt_sites_near_its_posterior():
    y = jnp.array([1, 3, 2, 4, 6, 5, 8, 9, 7, 5, 4, 3, 2, 2, 1, 0, 1, 2, 2, 3.0])
    guide = AutoFractionalSDE(counts)
    svi = SVI(counts, guide, optax.adam(0.01), Trace_ELBO(num_particles=8))
    state = svi.init(random.key(1), 0.3, y)
    assert guide._kind == "learnt"
    log_w = np.asarray(
        log_weights(counts, guide, svi.get_params(state))(random.split(random.key(0), 1000), 0.3, y), float
    )
    assert 0 <= gap(log_w) < 0.2


class Encoder(eqx.Module):
    """Precision and value of each datum, by one scale."""

    log_precision: jax.Array

    def __call__(self, y, mask, ts):
        precision = jnp.exp(self.log_precision) * jnp.where(mask, 1.0, 0.0)
        return y, precision


def test_fractional_nonlinear_encoder_of_a_plate_learns_the_precision_of_the_data():
    """Seven sequences, half of the data missing: the best sites are y with precision 1 / sd^2."""
    ts = np.array([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.8, 1.0])
    seen = random.bernoulli(random.key(0), 0.5, (7, 8, 2))

    def model(y, seen):
        with numpyro.plate("seq", 7):
            x = fractional_sde(
                "x", lambda t, x: -x, unit, ts, 0.3, jnp.zeros((7, 2)), coefficients=coefficients(1.0, 20)
            )
            numpyro.sample("y", dist.Normal(x[:, 1:], SD).mask(seen).to_event(2), obs=y)

    y = 0.5 * random.normal(random.key(1), (7, 8, 2))
    guide = AutoFractionalSDE(model, encoder=Encoder(jnp.log(jnp.array(20.0))))
    svi = SVI(model, guide, optax.adam(0.05), Trace_ELBO(num_particles=4))
    params = svi.run(random.key(2), 150, y, seen, progress_bar=False).params
    found = float(jnp.exp(params["auto_encoder$params"].log_precision))
    assert 0.8 < found * SD**2 < 1.25
