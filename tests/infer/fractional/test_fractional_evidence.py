"""`AutoFractionalSDE` on linear models with Gaussian data: every draw's weight is the evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from scipy import stats

from emberwalk.infer import AutoFractionalSDE
from emberwalk.infer.fractional.reference import gains_of
from emberwalk.kernels.fractional import control_floor
from emberwalk.models import fractional_sde
from tests.infer.fractional.guided import (
    HURSTS,
    SD,
    bridge,
    coefficients,
    exact_gp,
    fbm_prior,
    linear_bridge,
    log_weights,
    posterior,
    set_up,
    through_euler,
)
from tests.models.fractional_laws import as_function

# Log evidence of y = 0 at steps of 200 under exact fractional Brownian motion, H as in HURSTS.
EVIDENCE = {
    200: (-0.9239, -0.9239, -0.9239, -0.9239, -0.9239),
    20: (-5.6384, -2.2272, 1.4873, 5.1087, 8.4212),
    1: (-46.8915, 110.8378, 207.6173, 244.8471, 261.4847),
}
KEYS = random.split(random.key(1), 8)


def seen_every(every, num_steps=200):
    return np.arange(every, num_steps + 1, every)


@pytest.mark.parametrize(("every", "bound"), [(200, 0.05), (20, 0.05), (1, 0.15)])
def test_fractional_evidence_is_the_weight_of_every_draw(every, bound):
    """In float32, untrained."""
    at = seen_every(every)
    model, y = bridge(200, at), jnp.zeros(len(at))
    weights = log_weights(model, set_up(AutoFractionalSDE(model), 0.3, y))
    for H, exact in zip(HURSTS, EVIDENCE[every], strict=True):
        found = np.asarray(weights(KEYS, jnp.asarray(H), y))
        assert found.std() <= 1e-3, H
        assert abs(found.mean() - exact) <= bound, H


@pytest.mark.parametrize("H", HURSTS)
def test_fractional_evidence_has_the_posterior_of_the_exact_process(H):
    at = seen_every(20)
    y = np.sin(5 * at / 200)
    mean, sd = posterior(bridge(200, at), jnp.asarray(H), jnp.asarray(y))
    _, exact_mean, exact_sd = exact_gp(fbm_prior(np.linspace(0, 1, 201), H), at, y)
    assert (np.abs(mean - exact_mean)[1:] / exact_sd[1:]).max() <= 0.05
    assert 0.97 <= (sd[1:] / exact_sd[1:]).min() <= (sd[1:] / exact_sd[1:]).max() <= 1.03


@pytest.mark.parametrize("H", [0.2, 0.7])
def test_fractional_evidence_of_an_ornstein_uhlenbeck_process_at_irregular_times(H):
    """Pull, mean, start and data none of them 0, steps of three lengths, horizon not 1."""
    ts = np.concatenate([np.arange(0, 1, 0.05), np.arange(1, 2, 0.02), np.linspace(2, 2.5, 6)])
    at = np.arange(7, len(ts), 9)
    prior_mean, prior = through_euler(ts, H, 2.0, 0.7, -0.4, 0.8)
    rng = np.random.default_rng(0)
    y = rng.multivariate_normal(prior_mean, prior)[at] + SD * rng.normal(size=len(at))
    options = {"coefficients": coefficients(2.5, 125)}
    model = bridge(len(ts) - 1, at, lambda t, x: 2.0 * (0.7 - x), lambda t, x: 0.8, -0.4, ts, **options)
    found = np.asarray(
        log_weights(model, set_up(AutoFractionalSDE(model), H, jnp.asarray(y)))(
            KEYS, jnp.asarray(H), jnp.asarray(y)
        )
    )
    evidence, exact_mean, exact_sd = exact_gp(prior, at, y, prior_mean)
    assert found.std() <= 1e-3
    assert abs(found.mean() - evidence) <= 0.05
    mean, sd = posterior(model, jnp.asarray(H), jnp.asarray(y))
    assert (np.abs(mean - exact_mean)[1:] / exact_sd[1:]).max() <= 0.05
    assert np.abs(sd[1:] / exact_sd[1:] - 1).max() <= 0.03


def test_fractional_evidence_with_a_random_start():
    at = seen_every(10, 50)
    y = jnp.linspace(1.0, 2.0, len(at))
    model = bridge(50, at, y0=dist.Normal(0.8, 0.6))
    found = np.asarray(
        log_weights(model, set_up(AutoFractionalSDE(model), 0.3, y))(KEYS, jnp.asarray(0.3), y)
    )
    prior = fbm_prior(np.linspace(0, 1, 51), 0.3) + 0.6**2
    assert found.std() <= 1e-3
    assert abs(found.mean() - exact_gp(prior, at, np.asarray(y), 0.8)[0]) <= 0.05


def test_fractional_evidence_of_mixed_noises_in_two_plates_with_substeps():
    """All at once: three noises into two states, an H each, an uneven grid, a drawn start, data at every time."""
    ts = np.array([0.5, 0.6, 1.0, 1.1, 2.0])
    pull = jnp.array([[1.0, -0.5], [0.3, 2.0]])
    mix = jnp.array([[0.5, 0.2, -0.1], [0.0, 0.4, 0.3]])
    hurst = np.array([0.2, 0.5, 0.8])
    options = {"substeps": [2, 1, 2, 3], "noise_dim": 3, "coefficients": coefficients(1.5, 120, 5)}

    def path(start):
        with numpyro.plate("outer", 2, dim=-2), numpyro.plate("inner", 3, dim=-1):
            drift = lambda t, x: (1.0 - x) @ pull.T * jnp.sin(t)  # noqa: E731
            return fractional_sde("x", drift, lambda t, x: mix, ts, hurst, start, **options)

    def model(y):
        x = path(dist.MultivariateNormal(jnp.ones(2), 0.3 * jnp.eye(2)))
        with numpyro.plate("outer", 2, dim=-2), numpyro.plate("inner", 3, dim=-1):
            numpyro.sample("y", dist.Normal(x, 0.1).to_event(2), obs=y)

    y = random.normal(random.key(0), (2, 3, 5, 2))
    found = np.asarray(log_weights(model, set_up(AutoFractionalSDE(model), y))(KEYS, y))
    assert found.std() <= 1e-3
    # beside it the images of all normals, the start among them
    start = jnp.ones((2, 3, 2))
    value, size = as_function(path, start)
    at = jnp.zeros(size), start
    images = [np.asarray(part).reshape(y.size, -1) for part in jax.jit(jax.jacfwd(value, (0, 1)))(*at)]
    covariance = images[0] @ images[0].T + 0.3 * images[1] @ images[1].T + 0.01 * np.eye(y.size)
    exact = stats.multivariate_normal(np.ravel(value(*at)), covariance).logpdf(np.ravel(y))
    assert abs(found.mean() - exact) < 1e-4 * abs(exact)


def test_fractional_evidence_by_learnt_sites():
    """They begin at the Gauss-Newton answer, and training does not lose it."""
    at = seen_every(10, 50)
    model, y = bridge(50, at), jnp.zeros(5)
    guide = AutoFractionalSDE(model, sites="learnt")
    result = SVI(model, guide, optax.adam(0.01), Trace_ELBO()).run(
        random.key(0), 200, 0.3, y, progress_bar=False
    )
    found = np.asarray(log_weights(model, guide, result.params)(random.split(random.key(2), 400), 0.3, y))
    exact = exact_gp(fbm_prior(np.linspace(0, 1, 51), 0.3), at, np.zeros(5))[0]
    assert abs(exact - found.mean()) <= 0.05 + 4.5 * found.std() / 20


def test_fractional_planted_params_hidden_in_the_guides_run_of_the_model():
    """With the scale of the noise a param, and not at its first value, the weights would vary."""
    ts = np.linspace(0, 1, 21)

    def model(y=None):
        s = numpyro.param("s", 1.0)
        x = fractional_sde("x", lambda t, x: -x, lambda t, x: s, ts, 0.3, coefficients=coefficients(1.0, 20))
        b = numpyro.param("b", 0.0)  # after the path
        numpyro.sample("y", dist.Normal(x[1:] + b, SD), obs=y)

    y = jnp.sin(3 * ts[1:])
    guide = set_up(AutoFractionalSDE(model), y)
    params = {"s": jnp.asarray(2.5), "b": jnp.asarray(0.7)}
    right = np.asarray(log_weights(model, guide, params)(KEYS, y))
    assert right.std() <= 1e-3
    blind = handlers.block(
        handlers.substitute(guide, data={"s": 1.0, "b": 0.0}), expose_types=["sample", "deterministic"]
    )
    wrong = np.asarray(log_weights(model, blind, params)(KEYS, y))
    assert wrong.std() > 0.1


def test_fractional_planted_unit_variance_of_the_noise_loses_the_floor(monkeypatch):
    """The filter's means with variance 1 are the best control; at H = .1 they lose 9 nats, the guide none."""

    def unit_variance(*args, **options):
        gains, factors = gains_of(*args, **options)
        ones = jnp.broadcast_to(jnp.eye(gains.steps.chol.shape[-1]), gains.steps.chol.shape)
        return gains._replace(steps=gains.steps._replace(chol=ones)), factors

    model, y = bridge(200, seen_every(200)), jnp.zeros(1)
    floor = float(control_floor(*linear_bridge(model, 0.1, y)).path)
    assert 8.4 <= floor <= 10.3
    monkeypatch.setattr("emberwalk.infer.fractional.guide.gains_of", unit_variance)
    guide = set_up(AutoFractionalSDE(model), 0.1, y)
    found = np.asarray(
        log_weights(model, guide)(random.split(random.key(2), 4000), jnp.asarray(0.1), y), float
    )
    error = found.std() / np.sqrt(len(found))
    assert EVIDENCE[200][0] - found.mean() > 5  # caught: the test above asks for .05
    assert abs(EVIDENCE[200][0] - found.mean() - floor) < 4.5 * error + 0.05
