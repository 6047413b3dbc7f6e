"""The filter against dense Gaussians: evidence, posterior, and the log weight of every single draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.fractional import (
    Linear,
    Sites,
    backward,
    increment_covariance,
    log_prob,
    simulate,
    weights,
)
from tests.kernels.fractional.bridges import (
    HURSTS,
    block_diagonal,
    bridge,
    conditioned,
    default_coefficients,
    dense,
    even,
    model_of,
    observations,
    site_density,
    standard_normal,
)
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

N = 200
# x = fractional motion on [0, 1], seen with sd .1, all values 0: its exact log density
OBSERVED = {
    1: (-0.9239, -0.9239, -0.9239, -0.9239, -0.9239),
    10: (-5.6384, -2.2272, 1.4873, 5.1087, 8.4212),
    200: (-46.8915, 110.8378, 207.6173, 244.8471, 261.4847),
}


def any_model(seed=0, num=7, n=3, d=2, r=2, r0=4):
    """Every matrix its own at every step, x0 random, information in all of x, at the start too."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    linear = Linear(draw(num, n, n) / 2, draw(num, n), draw(num, n, r), draw(n), draw(n, r0))
    root = draw(num + 1, d, d)
    J = (root @ root.transpose(0, 2, 1)).at[2].set(0)
    return linear, Sites(draw(num + 1, d).at[2].set(0), J)


# Evidence


def test_evidence_is_that_of_a_dense_gaussian(x64):
    linear, sites = any_model()
    exact, *_ = conditioned(*dense(linear, 2), *block_diagonal(sites))
    assert float(back(linear, sites).log_evidence) == pytest.approx(exact, abs=1e-9)


def test_evidence_of_a_known_start_is_that_of_its_information(x64):
    """Without noise at the start log beta(z_0) is all there is."""
    linear, sites = any_model()
    linear = linear._replace(start_factor=jnp.zeros((3, 1)))
    gains = back(linear, sites)
    z0, (P, v, k) = linear.start_mean, gains.info
    assert float(k + v @ z0 - z0 @ P @ z0 / 2) == pytest.approx(float(gains.log_evidence), abs=1e-10)


back = jax.jit(backward, static_argnames="checkpoint")


def evidence(hurst, sites):
    coef = default_coefficients()
    return backward(bridge(coef, weights(coef, hurst), even(N)), sites).log_evidence


@pytest.mark.parametrize("num", OBSERVED)
def test_evidence_of_the_bank_is_that_of_fractional_motion(num):
    sites, constant = observations(N, N // num, 0.1)
    found = evidences(jnp.float32(HURSTS), sites) + constant
    np.testing.assert_allclose(found, OBSERVED[num], rtol=0, atol=0.15 if num == N else 0.05)


evidences = jax.jit(jax.vmap(evidence, (0, None)))
slopes = jax.jit(jax.vmap(jax.grad(evidence), (0, None)))


def test_evidence_in_float32_has_the_slope_in_hurst_of_float64():
    hursts = np.float32((0.1, 0.33, 0.7, 0.9))
    slope = slopes(hursts, observations(N, 20, 0.1)[0])
    with jax.enable_x64(True):
        sites, h = observations(N, 20, 0.1)[0], np.float64(1e-5)
        exact = (evidences(hursts + h, sites) - evidences(hursts - h, sites)) / (2 * h)
    np.testing.assert_allclose(slope, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num", OBSERVED)
def test_stored_evidence_is_that_of_exact_increments(num, x64):
    sites, constant = observations(N, N // num, 0.1)
    h, J = block_diagonal(sites)
    for hurst, stored in zip(HURSTS, OBSERVED[num], strict=True):
        path = np.cumsum(np.cumsum(increment_covariance(np.arange(N + 1) / N, hurst), 0), 1)
        exact = conditioned(np.zeros(N), path, h[1:], J[1:, 1:])[0]
        assert exact + constant == pytest.approx(stored, abs=1e-4)


def late_sites(sites):
    """Planted: the site of time n + 1 at time n."""
    return Sites(*(jnp.roll(s, -1, axis=0) for s in sites))


def test_planted_site_one_step_early(x64):
    linear, sites = any_model()
    exact, *_ = conditioned(*dense(linear, 2), *block_diagonal(sites))
    assert abs(float(back(linear, late_sites(sites)).log_evidence) - exact) > 0.5


# Draws


@jax.jit
def log_weights(keys, hurst, sites):
    """log p(sites, noises) - log q(noises) of each draw, and the evidence."""
    coef = default_coefficients()
    linear = bridge(coef, weights(coef, hurst), even(N))
    gains = back(linear, sites)
    return jax.vmap(lambda key: weight_of(key, gains, linear, sites))(keys), gains.log_evidence


def weight_of(key, gains, linear, sites, log_prob_of=lambda draw: draw.log_prob):
    draw = simulate(key, gains, *model_of(linear))
    prior = standard_normal(draw.b) + standard_normal(draw.e)
    return prior + site_density(sites, draw.z) - log_prob_of(draw)


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize("num", OBSERVED)
def test_every_draw_has_the_evidence_for_its_log_weight(hurst, num):
    """In float32."""
    sites, _ = observations(N, N // num, 0.1)
    found, log_evidence = log_weights(random.split(random.key(0), 32), jnp.float32(hurst), sites)
    found = np.asarray(found, np.float64)
    assert found.std() < 1e-3
    assert found.mean() == pytest.approx(float(log_evidence), abs=1e-3)


def test_every_draw_of_any_linear_model_has_the_evidence_for_its_log_weight(x64):
    linear, sites = any_model()
    gains = back(linear, sites)
    found = jax.jit(jax.vmap(lambda key: weight_of(key, gains, linear, sites)))(
        random.split(random.key(0), 16)
    )
    np.testing.assert_allclose(found, gains.log_evidence, atol=1e-9)


def moments_of_draws(gains, linear, num=4000):
    model = model_of(linear)
    return replicas(lambda key: simulate(key, gains, *model).z[:, :2].ravel(), random.key(1), num)


def z_of_posterior(gains, linear, sites):
    _, mean, covariance = conditioned(*dense(linear, 2), *block_diagonal(sites))
    draws = moments_of_draws(gains, linear)
    return z_scores(
        np.concatenate([draws, (draws - mean) ** 2], 1), np.concatenate([mean, np.diag(covariance)])
    )


def test_draws_have_the_moments_of_the_posterior(x64):
    linear, sites = any_model()
    assert_exact(z_of_posterior(back(linear, sites), linear, sites))


def unit(chol):
    return jnp.broadcast_to(jnp.eye(chol.shape[-1]), chol.shape)


WRONG_GAINS = {
    "sign of G": lambda g: g._replace(steps=g.steps._replace(G=-g.steps.G)),
    "unit variance": lambda g: g._replace(steps=g.steps._replace(chol=unit(g.steps.chol))),
    "start from its prior": lambda g: g._replace(
        start=g.start._replace(m=0 * g.start.m, chol=unit(g.start.chol))
    ),
    "C for its transpose": lambda g: g._replace(
        steps=g.steps._replace(chol=jax.vmap(lambda C: C.at[1, 0].set(0))(g.steps.chol))
    ),
}


@pytest.mark.parametrize("change", WRONG_GAINS.values(), ids=WRONG_GAINS)
def test_planted_gains_draw_from_another_law(change, x64):
    linear, sites = any_model()
    assert_caught(z_of_posterior(change(back(linear, sites)), linear, sites))


def test_planted_log_weights_without_the_determinant(x64):
    linear, sites = any_model()
    gains = back(linear, sites)

    def without(draw):
        return draw.log_prob - jnp.sum(jnp.log(jnp.diagonal(gains.steps.chol, axis1=1, axis2=2)))

    wrong = weight_of(random.key(0), gains, linear, sites, without)
    assert abs(wrong - gains.log_evidence) > 0.1


# Densities of given noises


def residual(z, inputs):
    """Something to add to the mean of the noise."""
    return jnp.sin(z[:2]) / 3


@pytest.mark.parametrize("shift", [None, residual], ids=["plain", "shifted"])
def test_log_prob_of_a_draw_is_what_came_with_it(shift, x64):
    linear, sites = any_model()
    gains, (start, step, inputs) = back(linear, sites), model_of(linear)
    draw = simulate(random.key(0), gains, start, step, inputs, shift)
    again = log_prob(gains, start, step, draw.b, draw.e, inputs, shift)
    assert float(again) == pytest.approx(float(draw.log_prob), abs=1e-9)


def test_a_shift_moves_the_noise_and_keeps_the_expected_weight(x64):
    """Weights vary then, and their mean is the evidence still: a density of the noises was drawn from."""
    linear, sites = any_model()
    gains, (start, step, inputs) = back(linear, sites), model_of(linear)

    def weight(key):
        draw = simulate(key, gains, start, step, inputs, residual)
        prior = standard_normal(draw.b) + standard_normal(draw.e)
        return jnp.exp(prior + site_density(sites, draw.z) - draw.log_prob - gains.log_evidence)

    draws = replicas(weight, random.key(3), 20_000)
    assert draws.std() > 0.05
    assert_exact(z_scores(draws, 1.0))


# Checkpoints


def test_checkpointed_the_gains_and_their_derivatives_are_the_same(x64):
    linear, sites = any_model(num=7)

    def value(linear, checkpoint):
        gains = backward(linear, sites, checkpoint=checkpoint)
        return gains.log_evidence + jnp.sum(jnp.sin(gains.steps.m)) + jnp.sum(gains.steps.G**2)

    both = [
        jax.jit(jax.value_and_grad(value), static_argnums=1)(linear, checkpoint)
        for checkpoint in (True, False)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *both)


def test_checkpointed_a_draw_has_the_same_derivative_and_keeps_no_network():
    """Of a shift with a hidden layer of 256, along 400 steps."""
    linear, sites = any_model(num=400, n=3)
    gains = jax.jit(backward)(linear, sites)
    key = random.key(0)
    layers = 0.1 * random.normal(key, (3, 256)), 0.1 * random.normal(key, (256, 2))

    def gradient(checkpoint):
        def end(layers):
            def shift(z, _):
                return jnp.tanh(z @ layers[0]) @ layers[1]

            def step(z, e, inputs):
                M, L = inputs
                return jnp.tanh(M @ z + L @ e)

            start, inputs = lambda b: linear.start_mean, (linear.M, linear.L)
            return jnp.sum(simulate(key, gains, start, step, inputs, shift, checkpoint=checkpoint).z ** 2)

        return jax.jit(jax.grad(end)).lower(layers).compile()

    kept, made_anew = gradient(False), gradient(True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), made_anew(layers), kept(layers)
    )
    bytes_of = lambda program: program.memory_analysis().temp_size_in_bytes  # noqa: E731
    assert bytes_of(made_anew) < bytes_of(kept) / 3


# The posterior of fractional processes


def exact_bridge(hurst, dts, pull=0.0, scale=1.0, x0=0.0, mean=0.0):
    """The same recursion on exact increments: x_n = x0 A^n + ..., its mean and covariance at the times 1, ..., N."""
    size = len(dts)
    R = scale**2 * np.asarray(increment_covariance(np.append(0.0, np.cumsum(dts)), hurst))
    inverse = np.eye(size) - np.diag(1 - pull * dts[1:], -1)
    driven = pull * mean * dts
    driven[0] += x0 * (1 - pull * dts[0])
    lower = np.linalg.inv(inverse)
    return lower @ driven, lower @ R @ lower.T


def laws_of_data(linear, exact, sites):
    """Posterior mean and covariance by the bank and by exact noise; the KL of the two laws of the data."""
    h, J = block_diagonal(sites)
    h, J = h[1:], J[1:, 1:]
    mean, covariance = dense(linear)
    bank, true = (mean[1:], covariance[1:, 1:]), exact
    posteriors = [conditioned(*law, h, J)[1:] for law in (bank, true)]
    at = np.diag(J) > 0
    noise = np.diag(1 / np.diag(J)[at])
    C, R = (law[1][np.ix_(at, at)] + noise for law in (bank, true))
    shift, ratio = bank[0][at] - true[0][at], np.linalg.solve(C, R)
    kl = (np.trace(ratio) - at.sum() - np.linalg.slogdet(ratio)[1] + shift @ np.linalg.solve(C, shift)) / 2
    return posteriors, kl


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize("num", [10, 200])
def test_posterior_of_the_bank_is_that_of_fractional_motion(hurst, num, x64):
    coef = default_coefficients()
    values = np.sin(3 * np.arange(1, num + 1) / num)
    sites, _ = observations(N, N // num, 0.1, values)
    linear = bridge(coef, weights(coef, hurst), even(N))
    (bank, true), _ = laws_of_data(linear, exact_bridge(hurst, even(N)), sites)
    sd = np.sqrt(np.diag(true[1]))
    assert np.abs((bank[0] - true[0]) / sd).max() < 0.05
    ratio = np.sqrt(np.diag(bank[1])) / sd
    assert 0.97 < ratio.min() <= ratio.max() < 1.03


STATIONARY = dict(zip(HURSTS, (0.4125, 0.3025, 0.2467, 0.2148, 0.1948), strict=True))


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize("num", [10, 200])
def test_fractional_ornstein_uhlenbeck_of_the_bank_is_the_exact_one(hurst, num, x64):
    coef = default_coefficients()
    sites, _ = observations(N, N // num, 0.1, np.cos(np.arange(num)) / 2)
    exact = exact_bridge(hurst, even(N), pull=2.0)
    assert exact[1][-1, -1] == pytest.approx(STATIONARY[hurst], abs=1e-4)
    linear = bridge(coef, weights(coef, hurst), even(N), pull=2.0)
    (bank, true), kl = laws_of_data(linear, exact, sites)
    sd = np.sqrt(np.diag(true[1]))
    assert kl < (1e-3 if num == 10 else 0.01)
    assert np.abs((bank[0] - true[0]) / sd).max() < 0.05
    np.testing.assert_allclose(np.sqrt(np.diag(bank[1])) / sd, 1, atol=0.01)


@pytest.mark.parametrize("hurst", [0.2, 0.8])
def test_uneven_steps_mean_and_start_are_in_the_evidence(hurst, x64):
    """Of another scale, on another horizon; the filter against the bank's dense law, and that near the exact one."""
    dts = 2.5 * np.tile([1.0, 2.0, 7.0], 20) / 200
    coef = default_coefficients(2.5, 250)
    options = {"pull": 1.5, "scale": 0.7, "x0": -1.0, "mean": 2.0}
    linear = bridge(coef, weights(coef, hurst), dts, **options)
    sites, _ = observations(60, 6, 0.2, np.linspace(-1, 2, 10))
    h, J = block_diagonal(sites)
    of_bank = conditioned(*dense(linear), h, J)[0]
    of_noise = conditioned(*exact_bridge(hurst, dts, **options), h[1:], J[1:, 1:])[0]
    assert float(back(linear, sites).log_evidence) == pytest.approx(of_bank, abs=1e-8)
    assert of_bank == pytest.approx(of_noise, abs=0.05)
