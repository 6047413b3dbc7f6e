"""`fractional_sde` on linear equations: the law of the path against dense algebra, for every shape it takes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.handlers import seed, trace

from emberwalk.kernels.fractional import fractional_coefficients
from emberwalk.models import fractional, fractional_sde
from emberwalk.models.fractional_increments import Bank
from tests.models.fractional_laws import affine_law, drawn, gaussian_kl, linear_law, normal_sites
from tests.statistics import assert_caught, assert_exact, moments, replicas, z_scores

EVEN = np.linspace(0.0, 1.0, 13)
# steps of 1 to 7, a start that is not 0, a horizon that is not 1
UNEVEN = 0.7 + np.cumsum(np.append(0.0, np.tile([0.1, 0.7, 0.2], 3)))
MIXING = np.array([[1.0, -0.5], [0.3, 2.0]])
TWO_BY_THREE = np.array([[0.5, 0.2, -0.1], [0.0, 0.4, 0.3]])
COVARIANCE = np.array([[0.3, 0.1], [0.1, 0.2]])


def scalar(noise, ts=UNEVEN, pull=0.8, mean=1.3, scale=0.6, hurst=0.3, y0=0.7, **options):
    return fractional_sde(
        "x", lambda t, x: pull * (mean - x), lambda t, x: scale, ts, hurst, y0, noise=noise, **options
    )


def vector(noise, S, hurst, y0, ts=UNEVEN, **options):
    A, S = jnp.asarray(MIXING), jnp.asarray(S)
    mean, y0 = jnp.array([1.3, -0.4]), y0() if callable(y0) else y0
    return fractional_sde(
        "x", lambda t, x: (mean - x) @ A.T, lambda t, x: S, ts, hurst, y0, noise=noise, **options
    )


def fine_of(ts, substeps):
    pieces = [np.linspace(a, b, n + 1)[1:] for a, b, n in zip(ts, ts[1:], substeps, strict=False)]
    return np.concatenate([ts[:1], *pieces]), np.append(0, np.cumsum(substeps))


def scalar_law(ts=UNEVEN, substeps=None, hursts=(0.3,), S=0.6, x0=0.7, V0=0.0, pull=0.8, mean=1.3):
    fine, outputs = fine_of(ts, [1] * (len(ts) - 1) if substeps is None else substeps)
    return linear_law(fine, outputs, pull, mean, S, hursts, x0, V0)


def vector_law(S, hursts, x0=(0.7, -1.0), V0=0.0, ts=UNEVEN):
    return linear_law(ts, range(len(ts)), MIXING, np.array([1.3, -0.4]), S, hursts, x0, V0)


Y0 = np.array([0.7, -1.0])
SUBSTEPS = [3, 1, 2, 1, 5, 1, 1, 2, 1]
CASES = {
    "scalar": (scalar, scalar_law),
    "even steps, rough": (
        partial(scalar, ts=EVEN, hurst=0.1),
        partial(scalar_law, ts=EVEN, hursts=(0.1,)),
    ),
    "smooth": (partial(scalar, hurst=0.9), partial(scalar_law, hursts=(0.9,))),
    "substeps": (partial(scalar, substeps=3), partial(scalar_law, substeps=[3] * 9)),
    "uneven substeps": (partial(scalar, substeps=SUBSTEPS), partial(scalar_law, substeps=SUBSTEPS)),
    "random start": (partial(scalar, y0=dist.Normal(0.7, 0.5)), partial(scalar_law, V0=0.25)),
    "scalar with two noises": (
        lambda noise: fractional_sde(
            "x",
            lambda t, x: 0.8 * (1.3 - x),
            lambda t, x: jnp.array([0.6, 0.2]),
            UNEVEN,
            np.array([0.3, 0.8]),
            0.7,
            noise=noise,
            noise_dim=2,
        ),
        partial(scalar_law, hursts=(0.3, 0.8), S=[[0.6, 0.2]]),
    ),
    "two states": (
        partial(vector, S=[0.5, 0.4], hurst=0.3, y0=Y0),
        partial(vector_law, S=np.diag([0.5, 0.4]), hursts=(0.3, 0.3)),
    ),
    "two states, an H each": (
        partial(vector, S=[0.5, 0.4], hurst=np.array([0.2, 0.8]), y0=Y0),
        partial(vector_law, S=np.diag([0.5, 0.4]), hursts=(0.2, 0.8)),
    ),
    "three noises mixed": (
        partial(vector, S=TWO_BY_THREE, hurst=np.array([0.2, 0.5, 0.8]), y0=Y0, noise_dim=3),
        partial(vector_law, S=TWO_BY_THREE, hursts=(0.2, 0.5, 0.8)),
    ),
    "two random starts": (
        partial(vector, S=[0.5, 0.4], hurst=0.3, y0=lambda: dist.MultivariateNormal(Y0, COVARIANCE)),
        partial(vector_law, S=np.diag([0.5, 0.4]), hursts=(0.3, 0.3), V0=COVARIANCE),
    ),
}


def divergence(model, law, noise, ridge=1e-4):
    """KL of the two laws seen through noise of variance `ridge`, which a start that is not random needs."""
    (mean, covariance), (exact_mean, exact) = affine_law(model, noise), law()
    eye = ridge * np.eye(len(mean))
    return gaussian_kl(mean, covariance + eye, exact_mean, exact + eye)


DAILY = ("scalar", "uneven substeps", "random start", "three noises mixed", "two random starts")
EACH = [pytest.param(case, marks=[] if case in DAILY else pytest.mark.nightly) for case in CASES]


@pytest.mark.parametrize("case", EACH)
def test_exact_noise_has_the_law_of_the_equation(case, x64):
    model, law = CASES[case]
    (mean, covariance), (exact_mean, exact) = affine_law(model, "exact"), law()
    np.testing.assert_allclose(mean, exact_mean, atol=1e-12)
    np.testing.assert_allclose(covariance, exact, atol=1e-11)


@pytest.mark.parametrize("case", EACH)
def test_the_bank_has_the_law_of_the_equation(case, x64):
    model, law = CASES[case]
    assert divergence(model, law, "markov") < MARKOV_BOUND


MARKOV_BOUND = 5e-3


# In a plate

RATES = np.array([0.2, 0.8, 1.5])
Y0_OF_EACH = np.array([[0.7, -1.0], [0.0, 0.3], [2.0, 1.0]])


def plated(noise):
    with numpyro.plate("seq", 3):
        k = jnp.asarray(RATES)[:, None]
        return fractional_sde(
            "x",
            lambda t, x: k * (1.3 - x),
            lambda t, x: jnp.asarray(TWO_BY_THREE),
            UNEVEN,
            np.array([0.2, 0.5, 0.8]),
            Y0_OF_EACH,
            noise=noise,
            noise_dim=3,
        )


def plated_law():
    """Sequences are independent of each other."""
    laws = [
        linear_law(
            UNEVEN, range(len(UNEVEN)), k * np.eye(2), np.full(2, 1.3), TWO_BY_THREE, (0.2, 0.5, 0.8), x0
        )
        for k, x0 in zip(RATES, Y0_OF_EACH, strict=True)
    ]
    size = len(laws[0][0])
    covariance = np.zeros((3, size, 3, size))
    for b, (_, each) in enumerate(laws):
        covariance[b, :, b] = each
    return np.concatenate([mean for mean, _ in laws]), covariance.reshape(3 * size, 3 * size)


def test_sequences_of_a_plate_have_the_law_of_each(x64):
    (mean, covariance), (exact_mean, exact) = affine_law(plated, "exact"), plated_law()
    np.testing.assert_allclose(mean, exact_mean, atol=1e-12)
    np.testing.assert_allclose(covariance, exact, atol=1e-11)
    assert divergence(plated, plated_law, "markov") < 3 * MARKOV_BOUND


def scalars_in_plates(noise, y0):
    with numpyro.plate("outer", 2, dim=-2), numpyro.plate("inner", 3, dim=-1):
        return scalar(noise, y0=y0)


@pytest.mark.parametrize("noise", ["exact", pytest.param("markov", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "y0", [0.7, np.full((2, 3), 0.7), dist.Normal(0.7, 1e-9)], ids=["one", "each", "law"]
)
def test_a_start_is_shared_or_given_for_each_of_the_plate(noise, y0, x64):
    path = drawn(partial(scalars_in_plates, noise, y0), random.key(0))
    assert path.shape == (2, 3, 10)
    np.testing.assert_allclose(path[..., 0], 0.7, atol=1e-7)
    assert len(np.unique(np.asarray(path[..., 1]))) == 6


def test_sites_have_the_shapes_that_are_promised():
    by_bank = normal_sites(plated, "markov")
    assert list(by_bank) == ["x_bank", "x_noise"]
    assert by_bank["x_bank"] == (3, 3, 8)
    assert by_bank["x_noise"][:3] == (3, 9, 3)
    assert normal_sites(plated, "exact") == {"x_noise": (3, 9, 3)}
    assert normal_sites(scalar, "exact") == {"x_noise": (9, 1)}
    laws = normal_sites(partial(scalar, y0=dist.Normal(0.0, 1.0)), "markov")
    assert list(laws) == ["x_init", "x_bank", "x_noise"]
    assert laws["x_init"] == ()


# Draws in float32


def test_drawn_paths_have_the_moments_of_the_equation():
    def path(key):
        return moments(drawn(CASES["three noises mixed"][0], key, "exact")[jnp.array([1, 2, 9])].ravel())

    mean, covariance = CASES["three noises mixed"][1]()
    chosen = [2, 3, 4, 5, 18, 19]
    mean, covariance = mean[chosen], covariance[np.ix_(chosen, chosen)]
    second = (covariance + np.outer(mean, mean))[np.triu_indices(6)]
    assert_exact(z_scores(replicas(path, random.key(0), 4000), np.append(mean, second)))


def test_drawn_paths_of_the_bank_have_its_moments():
    def path(key):
        return moments(drawn(scalar, key, "markov")[jnp.array([1, 2, 9])])

    with jax.enable_x64(True):
        mean, covariance = affine_law(scalar, "markov")
    mean, covariance = mean[[1, 2, 9]], covariance[np.ix_([1, 2, 9], [1, 2, 9])]
    second = (covariance + np.outer(mean, mean))[np.triu_indices(3)]
    draws = replicas(path, random.key(0), 4000)
    assert_exact(z_scores(draws, np.append(mean, second)))
    assert_caught(z_scores(draws, np.append(mean, 1.2 * second)))


@pytest.mark.parametrize("noise", ["exact", "markov"])
def test_precision_is_that_of_the_session(noise):
    for precision, is_double in ((jnp.float32, False), (jnp.float64, True)):
        with jax.enable_x64(is_double):
            model = seed(partial(scalar, y0=0, hurst=jnp.float32(0.3)), 0)
            path = jax.eval_shape(lambda model=model: model(noise))
        assert path.dtype == precision


def test_the_drift_sees_the_time_before_the_step(x64):
    """x' = t by Euler is a sum of left ends."""
    path = drawn(lambda: fractional_sde("x", lambda t, x: t, lambda t, x: 0.0, UNEVEN, 0.3), random.key(0))
    np.testing.assert_allclose(path, np.append(0.0, np.cumsum(UNEVEN[:-1] * np.diff(UNEVEN))), atol=1e-12)


def test_the_fine_grid_is_recorded_when_asked():
    found = trace(seed(partial(scalar, substeps=SUBSTEPS, save_path=True), 0)).get_trace("exact")
    assert found["x_path"]["value"].shape == (sum(SUBSTEPS) + 1,)
    np.testing.assert_array_equal(
        found["x_path"]["value"][np.append(0, np.cumsum(SUBSTEPS))], found["x"]["value"]
    )
    assert found["x_path"]["type"] == found["x"]["type"] == "deterministic"


def test_a_checkpointed_path_has_the_same_derivative():
    def end(pull, checkpoint):
        return drawn(partial(scalar, pull=pull, checkpoint=checkpoint), random.key(0), "exact")[-1]

    slopes = [jax.grad(end)(0.8, checkpoint) for checkpoint in (False, True)]
    assert slopes[0] != 0
    np.testing.assert_allclose(*slopes, rtol=1e-5)


# What must not go unseen: each moves the divergence far above its bound


def horizon_forgotten(bank):
    """Invisible on a horizon of 1."""
    return replace(bank, weights=bank.weights * (UNEVEN[-1] - UNEVEN[0]) ** -0.3)


def start_forgotten(bank):
    """Another process: kind II. Invisible at H = 1/2."""
    return replace(bank, start_factor=0 * bank.start_factor)


def one_noise_for_all(bank):
    return replace(bank, weights=jnp.broadcast_to(bank.weights[:1], bank.weights.shape))


def steps_reversed(bank):
    """Invisible where all steps are equal."""
    return replace(bank, steps=jax.tree.map(lambda x: x[::-1], bank.steps))


PLANTED = {
    "horizon forgotten": (horizon_forgotten, "scalar"),
    "bank starts at zero": (start_forgotten, "smooth"),
    "one H for all noises": (one_noise_for_all, "three noises mixed"),
    "steps in the wrong order": (steps_reversed, "scalar"),
}


@pytest.mark.parametrize(("bug", "case"), PLANTED.values(), ids=PLANTED)
def test_planted_bug_in_the_bank_is_caught(bug, case, monkeypatch, x64):
    right = fractional.make_bank
    monkeypatch.setattr(fractional, "make_bank", lambda *args: bug(right(*args)))
    assert divergence(*CASES[case], "markov") > 10 * MARKOV_BOUND


def test_planted_noise_shared_by_the_states_is_caught(monkeypatch, x64):
    right = Bank.increments

    def shared(self, b, e):
        return jnp.broadcast_to(right(self, b, e)[..., :1], e.shape[:-1])

    monkeypatch.setattr(Bank, "increments", shared)
    assert divergence(*CASES["two states"], "markov") > 10 * MARKOV_BOUND


def test_planted_half_of_the_substeps_is_caught(x64):
    assert divergence(partial(scalar, substeps=2), CASES["substeps"][1], "exact") > 1e-3


def test_given_coefficients_are_taken(x64):
    longer = fractional_coefficients(horizon=6.0, num_steps=60)
    given = affine_law(partial(scalar, coefficients=longer), "markov")[1]
    made = affine_law(scalar, "markov")[1]
    assert np.abs(given - made).max() > 1e-7
    assert divergence(partial(scalar, coefficients=longer), scalar_law, "markov") < MARKOV_BOUND
