"""The gap that no control closes: stored values, and the best control itself, simulated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.fractional import (
    backward,
    control_floor,
    control_kl,
    fractional_coefficients,
    simulate_control,
    weights,
)
from tests.kernels.fractional.bridges import (
    HURSTS,
    bridge,
    default_coefficients,
    even,
    model_of,
    observations,
    site_density,
)
from tests.statistics import assert_caught, assert_exact, replicas, z_scores


@pytest.fixture(scope="module")
def paper():
    """Five rates up to 20, weights solved on a horizon of 6."""
    with pytest.warns(UserWarning, match="nats per increment"):
        return fractional_coefficients(6.0, 64, num_modes=5, criterion="path", grid="paper")


def paper_bridge(coef, hurst, num_steps=200):
    return bridge(coef, weights(coef, hurst), even(num_steps, 2.0), "euler")


def over_hursts(fn, *args):
    return jax.jit(jax.vmap(fn, (0, *[None] * len(args))))(jnp.float32(HURSTS), *args)


ONE = (3.389, 1.449, 0.276, 0.071, 0.033)
INITIAL = (0.041, 0.005, 0.000, 0.006, 0.096)
LOG_Z = (-0.880, -1.123, -1.230, -1.261, -0.985)
COARSE = (7.45, 3.28, 0.61, 0.15, 0.07)
TEN = (33.94, 14.57, 2.79, 0.64, 0.21)


def test_floor_of_the_published_bridge(paper):
    def floor_and_evidence(hurst, sites):
        linear = paper_bridge(paper, hurst)
        return control_floor(linear, sites), backward(linear, sites).log_evidence

    sites, constant = observations(200, 200, 0.1)
    floors, evidence = over_hursts(floor_and_evidence, sites)
    np.testing.assert_allclose(floors.path, ONE, rtol=0, atol=0.002)
    np.testing.assert_allclose(floors.initial, INITIAL, rtol=0, atol=0.002)
    np.testing.assert_allclose(evidence + constant, LOG_Z, rtol=0, atol=0.002)


@pytest.mark.parametrize(
    ("num_steps", "every", "stored"), [(100, 100, COARSE), (200, 20, TEN)], ids=["coarse", "ten"]
)
def test_floor_with_other_steps_and_more_observations(paper, num_steps, every, stored):
    sites, _ = observations(num_steps, every, 0.1)
    floors = over_hursts(lambda H, sites: control_floor(paper_bridge(paper, H, num_steps), sites), sites)
    np.testing.assert_allclose(floors.path, stored, rtol=0, atol=0.0051)


def test_floor_of_the_default_bridge():
    sites, _ = observations(200, 200, 0.1)
    coef = default_coefficients()
    floors = over_hursts(
        lambda H, sites: control_floor(bridge(coef, weights(coef, H), even(200)), sites), sites
    )
    np.testing.assert_allclose(floors.path, (9.3, 1.1, 0.13, 0.05, 0.02), rtol=0.1)


def elbos(paper, hurst, scale=1.0):
    """Of the control with the posterior's mean; the bank at 0 has its prior, which is its mean here."""
    linear = paper_bridge(paper, hurst, 100)
    sites, _ = observations(100, 100, 0.1)
    gains = backward(linear, sites)
    start, step, inputs = model_of(linear)

    def control(z, inputs):
        m, G, _ = inputs
        return scale * (m + G @ z)

    def elbo(key):
        key_b, key_e = random.split(key)
        z0 = start(random.normal(key_b, gains.start.m.shape))
        noise = random.normal(key_e, gains.steps.m.shape)
        both = (gains.steps.m, gains.steps.G, inputs)
        path = simulate_control(noise, control, lambda z, e, i: step(z, e, i[2]), z0, both)
        return site_density(sites, path.z) - path.kl

    return replicas(elbo, random.key(0), 4000), gains.log_evidence - sum(control_floor(linear, sites))


@pytest.mark.parametrize("hurst", [0.3, 0.9])
def test_the_best_control_is_at_its_floor(paper, hurst):
    draws, exact = elbos(paper, hurst)
    assert_exact(z_scores(draws, exact))


def test_planted_weaker_control_is_below(paper):
    draws, exact = elbos(paper, 0.3, 0.5)
    assert_caught(z_scores(draws, exact))
    assert draws.mean() < exact


def test_kl_of_a_control_is_that_of_shifted_normals():
    u = random.normal(random.key(0), (5, 3))
    densities = jax.scipy.stats.norm.logpdf
    noise = random.normal(random.key(1), (40_000, 5, 3))
    ratio = (densities(u + noise, u) - densities(u + noise)).sum((1, 2))
    assert_exact(z_scores(ratio, control_kl(u)))


def test_controlled_noises_drive_the_path():
    step = lambda z, e, dt: z - z * dt + e  # noqa: E731
    noise, dts = random.normal(random.key(0), (6, 2)), jnp.linspace(0.1, 0.6, 6)
    path = simulate_control(noise, lambda z, dt: 0.5 - z * dt, step, jnp.ones(2), dts)
    z = jnp.ones(2)
    for n in range(6):
        z = step(z, path.e[n], dts[n])
        np.testing.assert_allclose(path.z[n + 1], z, rtol=1e-5)
    np.testing.assert_allclose(path.kl, control_kl(path.e - noise), rtol=1e-5)
