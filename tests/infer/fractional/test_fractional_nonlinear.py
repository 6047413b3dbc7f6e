"""Guides where the equation or the likelihood is not linear: their gap to the evidence, residuals, encoders."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from scipy.special import logsumexp

from emberwalk.infer import AutoFractionalSDE
from emberwalk.models import fractional_sde
from tests.infer.fractional.double_well import EVERY, double_well, drawn, stored
from tests.infer.fractional.guided import SD, coefficients, log_weights, set_up, unit, weighted_paths
from tests.statistics import optimised


def gap(log_w):
    """Evidence by importance sampling less the ELBO, nats."""
    return logsumexp(log_w) - np.log(len(log_w)) - log_w.mean()


@cache
def draws(H, residual=None, num_steps=2000):
    """(log weights, paths at the stored steps) of the guide, a residual trained before; 200 steps."""
    model, y = double_well(), jnp.asarray(stored(H).y, jnp.result_type(float))
    guide = AutoFractionalSDE(model, residual=residual)
    with optimised():
        params = {}
        if residual is None:
            set_up(guide, H, y)
        else:
            svi = SVI(model, guide, optax.adam(1e-3), Trace_ELBO(num_particles=8))
            params = svi.run(random.key(0), num_steps, H, y, progress_bar=False).params
        weights = weighted_paths(model, guide, params)
        parts = [weights(random.split(random.key(i), 1000), H, y) for i in range(60)]
    log_w, x = (np.concatenate([np.asarray(part[i], float) for part in parts]) for i in range(2))
    return log_w, x[:, EVERY::EVERY]


def log_evidence(log_w):
    """By importance sampling, and its standard error."""
    w = np.exp(log_w - log_w.max())
    return np.log(w.mean()) + log_w.max(), w.std() / w.mean() / np.sqrt(len(w))


@pytest.mark.nightly
@pytest.mark.parametrize(("H", "bound"), [(0.3, 0.45), (0.7, 0.12)])
def test_fractional_nonlinear_double_well_has_a_small_gap_untrained(H, bound):
    log_w, _ = draws(H)
    assert 0 <= gap(log_w) <= bound


@pytest.mark.nightly
@pytest.mark.parametrize("H", [0.3, 0.7])
def test_fractional_nonlinear_double_well_has_the_posterior_means_of_nuts(H):
    log_w, x = draws(H)
    answer, w = stored(H), np.exp(log_w - log_w.max())
    w /= w.sum()
    off = np.abs(w @ x - answer.mean) / answer.sd
    assert (answer.mcse / answer.sd).max() < 0.03
    assert off.max() <= 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("H", [0.3, 0.7])
def test_fractional_nonlinear_double_well_has_one_evidence_with_and_without_residual(H):
    (plain, error), (trained, its_error) = (log_evidence(draws(H, width)[0]) for width in (None, 32))
    assert abs(plain - trained) <= 3 * np.hypot(error, its_error)
    assert gap(draws(H, 32)[0]) < gap(draws(H)[0])


def test_fractional_nonlinear_double_well_needs_its_passes():
    """Linearised about straight lines alone the weights vary more."""
    model = double_well(50)
    y = drawn(model, 0.7)
    spread = [
        np.asarray(
            log_weights(model, set_up(AutoFractionalSDE(model, relinearise=passes), 0.7, y))(
                random.split(random.key(0), 300), 0.7, y
            )
        ).std()
        for passes in (0, 2)
    ]
    assert spread[1] < spread[0] / 2


@pytest.mark.nightly
def test_fractional_nonlinear_residual_begins_as_nothing_and_learns():
    model = double_well(50)
    y = drawn(model, 0.7)
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


def volatility(H, y=None):
    """Returns whose log variance is a path: a small one says no more than that it was low."""
    ts = np.linspace(0, 1, 21)
    x = fractional_sde("x", lambda t, x: -x, unit, ts, H, coefficients=coefficients(1.0, 20))
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(x[1:] / 2)), obs=y)


def test_fractional_nonlinear_learnt_sites_begin_near_the_posterior_where_data_say_little():
    """The mean of a site of y = 1e-4 is hundreds of millions below; a reference through it would be infinite."""
    y = jnp.array([1e-4, -0.3, 2.0, 1e-3, 0.4, -1.5, 0.0, 8.0, -0.2, 0.5] * 2)
    guide = set_up(AutoFractionalSDE(volatility), 0.3, y)
    assert guide._kind == "learnt"
    mean = guide._first.h[:, 0] / jnp.maximum(guide._first.J[:, 0, 0], 1e-6)
    assert mean[1:].min() < -1000
    params = {"auto_site_h": guide._first.h, "auto_site_C": jnp.sqrt(guide._first.J + 1e-6)}
    log_w = np.asarray(
        log_weights(volatility, guide, params)(random.split(random.key(0), 1000), 0.3, y), float
    )
    assert 0 <= gap(log_w) < 0.3


class Encoder(eqx.Module):
    """Precision and value of each datum, by one scale."""

    log_precision: jax.Array

    def __call__(self, y, mask, ts):
        precision = jnp.exp(self.log_precision) * jnp.where(mask, 1.0, 0.0)
        return y, precision


@pytest.mark.nightly
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
