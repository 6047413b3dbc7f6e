"""The score by particles, and the optimum that `ScoreAscent` finds with it.

    S(theta) = grad log p(y; theta) = E[grad log p(x, y; theta) | y]                              (1)

Exact answers: the gradient of the log joint density for a given path; finite differences of a Kalman
filter in float64 for the mean of (1); the optimum of that filter.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpy.typing import NDArray
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy.optimize import minimize

from emberwalk.infer import ScoreAscent
from emberwalk.infer.smc.capture import OuterModel
from emberwalk.infer.smc.parameters import ParametricModel, find_parameters
from emberwalk.infer.smc.score import SweepOptions, path_score, score_functional, score_of_sweeps
from emberwalk.kernels.smc import Functional, Path, of_path, unconditional_sweep
from emberwalk.models import StateSpace, emission
from tests.smc_data import kalman_log_likelihood, linear_gaussian_data
from tests.statistics import assert_caught, assert_exact, mcse, optimised, replicas, z_scores

NIGHTLY = pytest.mark.nightly


def data(length: int) -> jax.Array:
    return jnp.asarray(linear_gaussian_data(length), jnp.float32)


def linear(y, learn_sy: bool = False):
    """Equation (2) of `models.ssm_examples` with parameters to learn."""
    phi = numpyro.param("phi", 0.5, constraint=constraints.interval(-1, 1))
    sx = numpyro.param("sx", 0.5, constraint=constraints.positive)
    sy = numpyro.param("sy", 0.5, constraint=constraints.positive) if learn_sy else 1.0
    start = dist.Normal(0, sx / jnp.sqrt(1 - phi**2))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, sy), x), obs=y)


def linear_with_priors(y):
    """The same with phi ~ U(-1, 1), sx ~ HalfNormal(1)."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    sx = numpyro.sample("sx", dist.HalfNormal(1))
    start = dist.Normal(0, sx / jnp.sqrt(1 - phi**2))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def exact_score(length: int, theta: tuple[float, ...], step: float = 1e-5) -> NDArray[np.float64]:
    """Derivatives of `kalman_log_likelihood` by central differences, in constrained coordinates."""
    y = linear_gaussian_data(length)
    moves = step * np.eye(len(theta))
    return np.array([
        (kalman_log_likelihood(y, *(theta + m)) - kalman_log_likelihood(y, *(theta - m))) / (2 * step)
        for m in moves
    ])  # fmt: skip


def unconstrained(phi: float, sx: float, sy: float = 1.0) -> dict[str, jax.Array]:
    """Coordinates in which `linear` is learned."""
    values = {"phi": np.log((1 + phi) / (1 - phi)), "sx": np.log(sx), "sy": np.log(sy)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


# One path


def driven(y):
    """All that theta can do to a carry: it is x - mu, beside a decay, a parameter handed on, and a counter."""
    mu, rate = numpyro.param("mu", 0.4), numpyro.param("rate", jnp.array([0.9, 0.7]))
    sd = numpyro.param("sd", 0.8, constraint=constraints.positive)
    x0 = numpyro.sample("x0", dist.Normal(mu, sd))
    numpyro.sample("y0", dist.Normal(x0 * rate[0], 1.0), obs=0.3)

    def step(carry, y_t):
        centred, force, scale, clock = carry
        x = numpyro.sample("x", dist.Normal(mu + 0.8 * centred + force.sum(), scale))
        numpyro.sample("y", dist.Normal(x - 0.3 * centred + 0.1 * clock, 1.0), obs=y_t)
        return (x - mu, force * rate, scale, clock + 1), None

    scan(step, (x0 - mu, rate**2, sd, 0), y)


def driven_log_joint(theta: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """The density of `driven`, written by hand; x_0 first."""
    mu, rate, sd = theta["mu"], theta["rate"], jnp.exp(theta["sd"])
    times = jnp.arange(len(y))
    force = (rate ** (2 + times[:, None])).sum(1)
    centred = x[:-1] - mu
    start = dist.Normal(mu, sd).log_prob(x[0]) + dist.Normal(x[0] * rate[0], 1.0).log_prob(0.3)
    moves = dist.Normal(mu + 0.8 * centred + force, sd).log_prob(x[1:])
    seen = dist.Normal(x[1:] - 0.3 * centred + 0.1 * times, 1.0).log_prob(y)
    return start + moves.sum() + seen.sum()


THETA = {"mu": jnp.array(0.3), "rate": jnp.array([0.8, 0.6]), "sd": jnp.array(-0.2)}


def driven_model(y: jax.Array) -> ParametricModel:
    model = find_parameters(OuterModel(driven, (y,), {}), "mle")
    assert model.path.order == 1
    assert model.path.stochastic == (True, False, False, False)
    return model


class Bug(NamedTuple):
    """Which bug is planted: numbers, so that one program has all of them."""

    swapped: jax.Array
    without_carry: jax.Array

    def in_carry(self, ssm):
        """The SSM, its carries without their theta."""

        def carry(value):
            still = jax.lax.stop_gradient(value)
            return jax.tree.map(lambda a, b: jnp.where(self.without_carry, a, b), still, value)

        def evaluate(before, x, t):
            factors = ssm.evaluate(before, x, t)
            return factors._replace(carry=carry(factors.carry))

        return ssm._replace(evaluate=evaluate, init_carry=lambda initial: carry(ssm.init_carry(initial)))

    def in_step(self, h: Functional) -> Functional:
        """The functional, its states swapped."""

        def step(initial, before, now, t):
            pick = jax.tree.map(lambda a, b: jnp.where(self.swapped, a, b), (now, before), (before, now))
            return h.step(initial, *pick, t)

        return Functional(h.first, step)


def test_smc_score_of_a_path_is_the_gradient_of_its_log_joint_density(monkeypatch):
    y, x = data(6), jnp.linspace(-1.0, 2.0, 7)
    model, right = driven_model(y), ParametricModel.ssm
    path = model.path.path_of({"x0": x[0], "x": x[1:]})

    def flat(score):
        return jnp.concatenate([score["mu"][None], score["rate"], score["sd"][None]])

    def by_stage(bug: Bug):
        monkeypatch.setattr(ParametricModel, "ssm", lambda self, theta: bug.in_carry(right(self, theta)))
        return of_path(bug.in_step(score_functional(model, THETA, path)), path)

    bugs = Bug(jnp.array([False, True, False]), jnp.array([False, False, True]))
    found, swapped, without_carry = jax.jit(jax.vmap(by_stage))(bugs)
    monkeypatch.undo()
    exact, at_once = jax.jit(
        lambda: (flat(jax.grad(driven_log_joint)(THETA, x, y)), path_score(model, THETA, path))
    )()
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(at_once, exact, rtol=1e-4, atol=1e-4)
    assert np.abs(swapped - exact).max() > 1
    assert np.all(np.abs(without_carry - exact) > 0.1)


@NIGHTLY
def test_smc_score_of_both_kinds_has_one_mean_where_the_carry_depends_on_theta():
    model = driven_model(data(6))

    def difference(key):
        keys = random.split(key, 3)
        path = unconditional_sweep(keys[0], model.ssm(THETA), 4).path
        both = (
            score_of_sweeps(keys[1], model, THETA, path, SweepOptions(4, how)) for how in ("paris", "path")
        )
        by_particles, by_path = (estimate.score for estimate in both)
        return jnp.concatenate([jnp.ravel(by_particles[n] - by_path[n]) for n in THETA])

    assert_exact(z_scores(replicas(difference, random.key(0), 2000, optimise=False), np.zeros(4)))


# The mean over paths


EXACT = {
    (0.9, 1.0, 1.0): (-16.4948, -9.7551, -27.4087),
    (0.8, 0.7, 1.0): (490.470, 254.538),
}


def smoothing_law(length: int, phi: float, sx: float, sy: float) -> tuple[jax.Array, jax.Array]:
    """Mean of the path of `linear` given y, and a root of its covariance."""
    steps = np.eye(length) - phi * np.eye(length, k=-1)
    steps[0, 0] = np.sqrt(1 - phi**2)
    precision = steps.T @ steps / sx**2 + np.eye(length) / sy**2
    mean = np.linalg.solve(precision, linear_gaussian_data(length) / sy**2)
    root = np.linalg.inv(np.linalg.cholesky(precision)).T
    return jnp.asarray(mean, jnp.float32), jnp.asarray(root, jnp.float32)


def z_of_score(
    theta: tuple[float, float, float], every: dict[str, SweepOptions], start, *args
) -> NDArray[np.float64]:
    """z of the score by each of `every`, 64 chains from `start(model, key, *args)`, at T = 500."""
    model = find_parameters(OuterModel(linear, (data(500), True), {}), "mle")
    phi, sx, sy = theta

    def scores(key, at, *args):
        path = start(model, random.fold_in(key, 0), *args)
        found = [
            score_of_sweeps(random.fold_in(key, k), model, at, path, options).score
            for k, options in enumerate(every.values(), 1)
        ]
        return jnp.stack([jnp.stack([one["phi"], one["sx"], one["sy"]]) for one in found])

    exact, known = exact_score(500, theta), EXACT[theta]
    np.testing.assert_allclose(exact[: len(known)], known, atol=1e-3)
    slopes = np.array([(1 - phi**2) / 2, sx, sy])  # of the values along the coordinates
    seen = replicas(scores, random.key(0), 64, unconstrained(phi, sx, sy), *args, optimise=False)
    return z_scores(seen, np.tile(exact * slopes, (len(every), 1)))


@pytest.mark.xdist_group("smc-score")  # one program
@pytest.mark.parametrize("theta", [(0.9, 1.0, 1.0), (0.8, 0.7, 1.0)])
def test_smc_score_from_exact_draws_is_that_of_the_kalman_filter(theta):
    every = {"imh": SweepOptions(8, paris="imh"), "path": SweepOptions(8, score="path")}

    def exact_draw(model, key, mean, root):
        x = mean + root @ random.normal(key, mean.shape)
        return Path(x[0], x[1:])

    assert_exact(z_of_score(theta, every, exact_draw, *smoothing_law(500, *theta)))


@NIGHTLY
def test_smc_score_after_five_sweeps_is_that_of_the_kalman_filter():
    """Not so at the other theta, far from the optimum, where some times are hardly renewed: off by 4 errors."""
    theta = (0.9, 1.0, 1.0)
    after = {"num_sweeps": 6, "burn_in": 5}
    every = {
        "imh": SweepOptions(64, paris="imh", **after),
        "dense": SweepOptions(64, paris="dense", **after),
        "path": SweepOptions(64, score="path", **after),
    }

    def filtered(model, key):
        return unconditional_sweep(key, model.ssm(unconstrained(*theta)), 64).path

    assert_exact(z_of_score(theta, every, filtered))


# The optimum


def kalman_optimum(length: int, log_prior: Callable = lambda phi, sx: 0.0) -> NDArray[np.float64]:
    """Of the likelihood of `linear`, or of the posterior density of (phi, sx)."""
    y = linear_gaussian_data(length)

    def loss(theta):
        phi, sx = np.tanh(theta[0]), np.exp(theta[1])
        return -kalman_log_likelihood(y, phi, sx) - log_prior(phi, sx)

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
    return np.array([np.tanh(best[0]), np.exp(best[1])])


def optima(ascent: ScoreAscent, num_steps: int, num: int, length: int) -> NDArray[np.float64]:
    """(phi, sx) that `num` runs find."""
    y = data(length)
    start = {"phi": jnp.array(0.8), "sx": jnp.array(0.8)}

    def one(key):
        params = ascent.run(key, num_steps, y, progress_bar=False, init_params=start).params
        return jnp.stack([params["phi"], params["sx"]])

    with optimised():
        return np.asarray(jax.vmap(one)(random.split(random.key(0), num)), np.float64)


def assert_within_three_errors(found: NDArray[np.float64], exact: NDArray[np.float64]) -> None:
    z = z_scores(found, exact)
    assert np.abs(z).max() < 3, f"z = {z}, optima {found.mean(0)} with errors {mcse(found)}, exact {exact}"


def decreasing(first: float) -> optax.GradientTransformation:
    """Steps whose sum is at least ten times the variance of each coordinate: less would remember the start.

    And that fall towards 0: at a step that stays the mean of the iterates is off by a part of it. Of the mode of 500
    observations phi was off by .0003 (error .00008) where steps stayed at .001, and by .00003 (.00007) here.
    """
    return optax.sgd(optax.exponential_decay(first, 200, 0.3))


@NIGHTLY
def test_smc_score_ascent_finds_the_optimum_of_the_kalman_filter():
    found = optima(ScoreAscent(linear, decreasing(0.02), 16), 400, 16, 100)
    assert_within_three_errors(found, kalman_optimum(100))


@NIGHTLY
@pytest.mark.parametrize("score", ["paris", "path"])
def test_smc_score_ascent_finds_the_optimum_of_500_observations(score):
    exact = kalman_optimum(500)
    np.testing.assert_allclose(exact, [0.896776, 0.970180], atol=2e-6)
    assert kalman_log_likelihood(linear_gaussian_data(500), *exact) == pytest.approx(-918.675869, abs=1e-6)
    assert_within_three_errors(
        optima(ScoreAscent(linear, decreasing(0.004), 32, score=score), 800, 16, 500), exact
    )


def log_prior(phi: float, sx: float) -> float:
    """Of `linear_with_priors`, in constrained space."""
    return -(sx**2) / 2


@NIGHTLY
def test_smc_score_ascent_finds_the_mode_in_constrained_space():
    exact = kalman_optimum(500, log_prior)
    np.testing.assert_allclose(exact, [0.897278, 0.966539], atol=2e-6)
    ascent = ScoreAscent(linear_with_priors, decreasing(0.004), 32, objective="map")
    assert_within_three_errors(optima(ascent, 800, 16, 500), exact)


@NIGHTLY
def test_smc_score_ascent_knows_the_mode_from_the_maximum_of_the_likelihood():
    ascent = ScoreAscent(linear_with_priors, decreasing(0.05), 16, objective="map", num_sweeps=3, burn_in=1)
    found = optima(ascent, 800, 32, 20)
    assert_within_three_errors(found, kalman_optimum(20, log_prior))
    assert_caught(z_scores(found, kalman_optimum(20)))
