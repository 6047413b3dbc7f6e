"""`fbm_path`: the law of the path by its images, on any times, and what it does in a model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

from emberwalk.kernels.fractional import fbm_covariance, fractional_coefficients
from emberwalk.models import FractionalBrownianMotion, fbm_path, fractional_path, hurst_prior
from tests.models.fractional_laws import affine_law, as_function, drawn, normal_sites
from tests.statistics import assert_exact, moments, replicas, z_scores

UNEVEN = 0.7 + np.cumsum(np.append(0.0, np.tile([0.1, 0.7, 0.2], 4)))
EVEN = 0.7 + np.linspace(0.0, 2.5, 13)
GRIDS = {"even": EVEN, "uneven": UNEVEN}


def path(ts, hurst=0.3, scale=1.5, **options):
    return fbm_path("B", ts, hurst, scale, **options)


def exact_covariance(ts, hurst=0.3, scale=1.5):
    return scale**2 * np.asarray(fbm_covariance(ts - ts[0], hurst))


def covariances(ts, hursts=(0.1, 0.3, 0.9), **options):
    """Of the path at each H, by one program."""
    value, size = as_function(lambda H: path(ts, H, **options), 0.5)
    images = jax.jit(lambda H: jax.jacfwd(lambda flat: value(flat, H))(jnp.zeros(size)))
    assert not value(jnp.zeros(size), 0.5).any()
    return {H: np.asarray(images(H) @ images(H).T) for H in hursts}


@pytest.mark.parametrize("ts", GRIDS.values(), ids=GRIDS)
def test_exact_path_has_the_covariance_of_fractional_motion(ts, x64):
    for hurst, covariance in covariances(ts).items():
        np.testing.assert_allclose(covariance, exact_covariance(ts, hurst), atol=1e-10)


def test_exact_path_on_the_circle_has_the_covariance_of_fractional_motion(monkeypatch, x64):
    monkeypatch.setattr(fractional_path, "_CHOLESKY_UP_TO", 4)
    assert normal_sites(partial(path, EVEN)) == {"B_noise": (24, 1)}
    assert normal_sites(partial(path, UNEVEN)) == {"B_noise": (12, 1)}
    _, covariance = affine_law(partial(path, EVEN))
    np.testing.assert_allclose(covariance, exact_covariance(EVEN), atol=1e-10)


def test_a_float32_grid_of_many_times_is_uniform():
    assert normal_sites(partial(path, jnp.linspace(0.0, 1.0, 1025))) == {"B_noise": (2048, 1)}
    assert normal_sites(partial(path, np.linspace(0.0, 1.0, 1024))) == {"B_noise": (1023, 1)}


def kl_per_increment(covariance, exact):
    """Of the increments; the path starts at 0 in both."""
    law, other = (np.diff(np.diff(C, axis=0), axis=1) for C in (covariance, exact))
    ratio = np.linalg.solve(law, other)
    return (np.trace(ratio) - len(ratio) - np.linalg.slogdet(ratio)[1]) / (2 * len(ratio))


@pytest.mark.parametrize("ts", GRIDS.values(), ids=GRIDS)
def test_path_of_the_bank_has_the_law_of_fractional_motion(ts, x64):
    for hurst, covariance in covariances(ts, method="markov").items():
        assert kl_per_increment(covariance, exact_covariance(ts, hurst)) < 2e-4


def test_planted_path_of_another_unit_of_time_is_caught(x64):
    """Invisible where the unit is 1."""
    _, covariance = affine_law(partial(path, EVEN, method="markov"))
    assert kl_per_increment(covariance, exact_covariance((EVEN - EVEN[0]) / 2.5)) > 0.02


def test_given_coefficients_are_taken_by_the_path(x64):
    C = fractional_coefficients(horizon=10.0, num_steps=200, num_modes=5)
    assert normal_sites(partial(path, EVEN, method="markov", coefficients=C))["B_bank"] == (1, 5)
    _, covariance = affine_law(partial(path, EVEN, method="markov", coefficients=C))
    assert kl_per_increment(covariance, exact_covariance(EVEN)) < 1e-3


@pytest.mark.parametrize("method", ["exact", "markov"])
def test_drawn_paths_have_the_moments_of_fractional_motion(method):
    """In float32; the bank's variances are those of its own law."""
    at = jnp.array([1, 2, 12])
    with jax.enable_x64(True):
        _, covariance = affine_law(partial(path, UNEVEN, method=method))
    exact = np.append(np.zeros(3), covariance[np.ix_(at, at)][np.triu_indices(3)])
    one = partial(path, UNEVEN, method=method)
    draws = replicas(lambda key: moments(drawn(one, key)[at]), random.key(0), 4000)
    assert_exact(z_scores(draws, exact))


@pytest.mark.parametrize("method", ["exact", "markov"])
def test_paths_of_a_plate_are_independent_and_have_scales_of_their_own(method, x64):
    scales = np.array([0.5, 1.0, 2.0])

    def model():
        with numpyro.plate("series", 3):
            return path(UNEVEN, scale=scales, method=method)

    _, alone = affine_law(partial(path, UNEVEN, scale=1.0, method=method))
    _, covariance = affine_law(model)
    blocks = covariance.reshape(3, 13, 3, 13)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(blocks[i, :, i], scale**2 * alone, atol=1e-10)
        assert not blocks[i, :, (i + 1) % 3].any()


def noisy(method):
    def model(y):
        x = fbm_path("x", EVEN, numpyro.sample("H", hurst_prior()), method=method, num_modes=5)
        numpyro.sample("y", dist.Normal(x, 0.1), obs=y)

    return model


@pytest.mark.nightly  # daily of fractional_sde
@pytest.mark.parametrize("method", ["exact", "markov"])
def test_a_path_with_h_unknown_runs_under_nuts(method):
    mcmc = MCMC(NUTS(noisy(method)), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(random.key(0), jnp.sin(EVEN))
    assert np.isfinite(mcmc.get_samples()["x"]).all()


@pytest.mark.nightly  # daily of fractional_sde
@pytest.mark.parametrize("method", ["exact", "markov"])
def test_a_path_with_h_unknown_is_learnt_by_svi(method):
    model = noisy(method)
    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO())
    losses = svi.run(random.key(0), 30, jnp.sin(EVEN), progress_bar=False).losses
    assert np.isfinite(losses).all()
    assert losses[-5:].mean() < losses[:5].mean()


def factorised_gap(model, size):
    """Nats that the best independent normals lose: by the precision of a Gaussian posterior, at five H."""
    value = lambda u, H: log_density(model, (H, u), {}, {})[0]  # noqa: E731
    precision = jax.jit(lambda H: -jax.hessian(value)(jnp.zeros(size), H))
    every = [np.asarray(precision(H)) for H in (0.1, 0.3, 0.5, 0.7, 0.9)]
    return np.array([np.log(np.diag(found)).sum() - np.linalg.slogdet(found)[1] for found in every]) / 2


def test_fractional_factorised_guides_lose_as_much_as_published(x64):
    """128 steps, 32 observations with noise of sd .1: the noise that makes the path, and the path itself."""
    ts, at = np.linspace(0, 1, 129), np.arange(3, 128, 4)

    def seen(x):
        numpyro.sample("y", dist.Normal(x[at], 0.1), obs=jnp.zeros(32))

    def by_noise(H, e):
        with numpyro.handlers.substitute(data={"B_noise": e[:, None]}):
            seen(fbm_path("B", ts, H)[1:])

    def by_path(H, x):
        seen(numpyro.sample("x", FractionalBrownianMotion(H, 1.0, ts[1:]), obs=x))

    np.testing.assert_allclose(factorised_gap(by_noise, 128), [113, 130, 129, 119, 86], atol=2.5)
    np.testing.assert_allclose(factorised_gap(by_path, 128), [3.0, 9.3, 24, 48, 73], atol=0.3)
