"""Whole kernels on models with exact answers: the path, the parameters, and both front-ends.

Chains are independent, and so are their means; z-scores are between chains.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpy.typing import NDArray
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, NUTS, Gibbs

from emberwalk.infer import PPG, ParticleGibbs
from emberwalk.infer.smc import interweave as interweave_module
from emberwalk.infer.smc import ppg as ppg_module
from emberwalk.infer.smc.scan_model import ScanModel
from emberwalk.kernels.smc import particle_filter
from emberwalk.models import StateSpace, emission, linear_gaussian, linear_gaussian_scan
from tests.infer.chains import chain_means
from tests.infer.smc_lowering import at, find
from tests.kernels.smc_models import HMM_TRANSITIONS, HMM_Y, autoregression, hidden_markov
from tests.smc_data import kalman_log_likelihood, linear_gaussian_data
from tests.statistics import assert_caught, assert_exact, mcse, moments, optimised, replicas, z_scores

THETA = ("phi", "sx")


def path_moments(sites: tuple[str, ...]) -> Callable:
    """First and second moments of the path, its sites one after another."""

    def collect(state):
        x = jnp.concatenate([jnp.atleast_2d(state.z[name].T).T for name in sites], axis=1)
        return jax.vmap(moments)(x.astype(jnp.float32))

    return collect


def hmm_scan(y):
    transitions = jnp.asarray(HMM_TRANSITIONS, jnp.float32)

    def step(x, y_t):
        x = numpyro.sample("x", dist.Categorical(transitions[x]))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, 0, y)


def hmm_states(y):
    transitions = jnp.asarray(HMM_TRANSITIONS, jnp.float32)
    law = StateSpace(dist.Categorical(transitions[0]), lambda prev, t: dist.Categorical(transitions[prev]), 5)
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), numpyro.sample("x", law)), obs=y)


@pytest.mark.nightly
@pytest.mark.parametrize("model", [hmm_scan, hmm_states])
def test_smc_hidden_markov_chain_is_that_of_forward_backward(model):
    _, paths, log_joint = hidden_markov()
    joint = np.exp(log_joint)
    assert np.log(joint.sum()) == pytest.approx(-5.1799, abs=5e-5)
    y = jnp.asarray(HMM_Y, jnp.float32)
    exact = joint @ np.asarray(jax.vmap(moments)(jnp.asarray(paths))) / joint.sum()
    kernel, collect = ParticleGibbs(model, 4), path_moments(("x",))
    assert_exact(z_scores(chain_means(kernel, collect, 2000, 10, 20, y, optimise=False), exact))
    found = find(model, y)
    outer, _ = at(model, (y,), found, {"x": jnp.zeros(5, jnp.int32)})
    evidence = replicas(
        lambda key: particle_filter(key, found.ssm(outer), 8).log_evidence,
        random.key(1),
        4000,
        optimise=False,
    )
    assert_exact(z_scores(np.exp(evidence), joint.sum()))


GAPS_Y = linear_gaussian_data(20)[:10]
SEEN = np.arange(10) % 5 != 4


def gaps_scan(y):
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1 / np.sqrt(0.19)))
    numpyro.sample("y0", dist.Normal(x0, 1.0), obs=y[0])

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0))
        with handlers.mask(mask=~jnp.isnan(y_t)):
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, x0, y[1:])


def gaps_states(y):
    start = dist.Normal(0.0, 1 / np.sqrt(0.19))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(0.9 * prev, 1.0), y.shape[0]))
    with handlers.mask(mask=~jnp.isnan(y)):
        numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "sites"), [(gaps_scan, ("x0", "x")), (gaps_states, ("x",))])
def test_smc_every_fifth_observation_masked_is_a_kalman_smoother_with_gaps(model, sites):
    y = jnp.asarray(np.where(SEEN, GAPS_Y, np.nan), jnp.float32)
    exact = autoregression(GAPS_Y, seen=SEEN).exact_moments()
    seen = chain_means(ParticleGibbs(model, 8), path_moments(sites), 2000, 15, 15, y)
    assert_exact(z_scores(seen, exact))
    # the test sees the gaps: the smoother of all ten observations is another
    assert_caught(z_scores(seen, autoregression(GAPS_Y).exact_moments()))


class Posterior(NamedTuple):
    """What is known of linear_gaussian given y.

    Attributes:
        theta: E of phi, sx, phi^2, phi sx, sx^2.
        path: E of x_0, x_0^2 and sum_t (x_t - phi x_{t-1})^2 / sx^2, the size of the noise.
    """

    theta: NDArray[np.float64]
    path: NDArray[np.float64]

    @property
    def mean_and_sd(self) -> list[float]:
        phi, sx, phi2, _, sx2 = self.theta
        return [phi, np.sqrt(phi2 - phi**2), sx, np.sqrt(sx2 - sx**2)]

    @property
    def all(self) -> NDArray[np.float64]:
        return np.append(self.theta, self.path)


@lru_cache
def posterior(length: int, size: int = 120) -> Posterior:
    """By a grid over theta in float64: log p(y | theta) and the law of x given y and theta are Gaussian."""
    y = linear_gaussian_data(length)
    middles = (np.arange(size) + 0.5) / size
    angle, sx = (axis.ravel() for axis in np.meshgrid(np.pi * (middles - 0.5), 3 * middles))
    phi = np.sin(angle)  # its density in the angle is smooth up to the ends
    # the precision of x is tridiagonal: transitions D x / sx with the start scaled, and emissions
    steps = np.eye(length) - phi[:, None, None] * np.eye(length, k=-1)
    steps[:, 0, 0] = np.sqrt(1 - phi**2)
    precision = np.swapaxes(steps, 1, 2) @ steps / sx[:, None, None] ** 2 + np.eye(length)
    covariance = np.linalg.inv(precision)
    mean = covariance @ y
    log_prior = -0.5 * sx**2 + np.log(np.cos(angle)) + 0.5 * np.log(1 - phi**2) - length * np.log(sx)
    log_density = log_prior - 0.5 * np.linalg.slogdet(precision)[1] + 0.5 * mean @ y
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    moving = steps[:, 1:]
    spread = np.einsum("gij,gjk,gik->g", moving, covariance, moving) + ((moving @ mean[..., None]) ** 2).sum(
        (1, 2)
    )
    start = (mean[:, 0], covariance[:, 0, 0] + mean[:, 0] ** 2)
    theta, path = (
        np.array([np.sum(weights * f) for f in functions])
        for functions in ((phi, sx, phi**2, phi * sx, sx**2), (*start, spread / sx**2))
    )
    return Posterior(theta, path)


def test_smc_grid_of_the_theta_posterior_is_the_known_one():
    np.testing.assert_allclose(posterior(20).mean_and_sd, [0.84435, 0.09853, 0.93837, 0.24904], atol=1e-5)
    np.testing.assert_allclose(posterior(20, 80).all, posterior(20).all, rtol=1e-5)


def theta_moments(state):
    """What `Posterior.all` is the mean of; the state holds phi and sx unconstrained."""
    phi, sx = 2 * jax.nn.sigmoid(state.z["phi"]) - 1, jnp.exp(state.z["sx"])
    x = state.z["x"]
    if "x0" in state.z:
        x = jnp.concatenate([state.z["x0"][:, None], x], axis=1)
    noise = (x[:, 1:] - phi[:, None] * x[:, :-1]) / sx[:, None]
    path = jnp.stack([x[:, 0], x[:, 0] ** 2, (noise**2).sum(1)], axis=1)
    return jnp.append(jax.vmap(moments)(jnp.stack([phi, sx], axis=1)), path, axis=1)


def data(length: int) -> jax.Array:
    return jnp.asarray(linear_gaussian_data(length), jnp.float32)


@pytest.mark.nightly
def test_smc_theta_posterior_of_two_blocks_of_gibbs_is_that_of_ppg():
    kernel = Gibbs([
        (ParticleGibbs(linear_gaussian, 16), ["x"]),
        (NUTS(linear_gaussian, max_tree_depth=3), None),
    ])  # fmt: skip
    alone = PPG(linear_gaussian, 16, interweave=None)
    blocks, ppg = (chain_means(k, theta_moments, 400, 80, 80, data(20)) for k in (kernel, alone))
    assert_exact(z_scores(blocks, posterior(20).all))
    assert_exact((blocks.mean(0) - ppg.mean(0)) / np.hypot(mcse(blocks), mcse(ppg)))


@pytest.mark.nightly
def test_smc_three_blocks_of_gibbs_run():
    def hmc():
        return HMC(linear_gaussian, step_size=0.1, num_steps=2, trajectory_length=None)

    kernel = Gibbs([(ParticleGibbs(linear_gaussian, 4), ["x"]), (hmc(), ["phi"]), (hmc(), ["sx"])])
    y = data(20)[:4]
    state = kernel.init(random.key(0), 0, None, (y,), {})
    step = jax.jit(lambda state: kernel.sample(state, (y,), {}))
    after = step(step(state))
    for name in ("x", "phi", "sx"):
        assert np.all(np.isfinite(after.z[name]))
        assert np.any(after.z[name] != state.z[name])


class Switched:
    """PPG whose innovations move, and two bugs, are switched by an argument: one program for all of them.

    A path that is not made anew after the move hardly shows in theta; `tests/laws` sees it.
    `switch` is a number while that program is traced; everything is right where it is `RIGHT`.
    """

    RIGHT, NO_INNOVATIONS, NO_LOG_SCALE, NO_INIT_LOGLIK = range(4)

    def __init__(self, monkeypatch, num_chains: int):
        self.switch = jnp.array(self.RIGHT)
        self.num_chains = num_chains
        monkeypatch.setattr(ppg_module, "interweave", self._interweave(ppg_module.interweave))
        monkeypatch.setattr(interweave_module, "from_noise", self._from_noise(interweave_module.from_noise))
        monkeypatch.setattr(ScanModel, "ssm", self._ssm(ScanModel.ssm))
        self.kernel = PPG(linear_gaussian_scan, 10, interweave="joint", interweave_steps=8)
        self.y = data(20)
        self.program = jax.jit(self._run)

    def _unless(self, switches: tuple[int, ...], value, otherwise):
        off = jnp.isin(self.switch, jnp.array(switches))
        return jax.tree.map(lambda new, old: jnp.where(off, old, new), value, otherwise)

    def _interweave(self, right):
        def switched(key, kernel, state, num_steps, model, outer, theta, path, **options):
            moved = right(key, kernel, state, num_steps, model, outer, theta, path, **options)
            return moved._replace(
                theta=self._unless((self.NO_INNOVATIONS,), moved.theta, theta),
                path=self._unless((self.NO_INNOVATIONS,), moved.path, path),
            )

        return switched

    def _from_noise(self, right):
        def switched(ssm, initial, noise):
            path, before, log_scale = right(ssm, initial, noise)
            return path, before, self._unless((self.NO_LOG_SCALE,), log_scale, 0.0)

        return switched

    def _ssm(self, right):
        def switched(model, outer):
            ssm = right(model, outer)
            return ssm._replace(
                init_loglik=lambda x: self._unless((self.NO_INIT_LOGLIK,), ssm.init_loglik(x), 0.0)
            )

        return switched

    def _run(self, state, switch):
        self.switch = switch

        def sweep(state, _):
            state = self.kernel.sample(state, (self.y,), {})
            return state, theta_moments(state)

        return jax.lax.scan(sweep, state, None, 160)[1]

    def z_scores(self, switch: int) -> NDArray[np.float64]:
        """Of the second half of 160 sweeps."""
        self.switch = jnp.array(self.RIGHT)
        keys = random.split(random.key(0), self.num_chains)
        state = self.kernel.init(keys, 80, None, (self.y,), {})
        with optimised():
            seen = self.program(state, jnp.array(switch))[80:]
        return z_scores(np.asarray(seen, np.float64).mean(0), posterior(20).all)


def test_smc_theta_posterior_with_and_without_the_innovations_move_and_with_planted_bugs(monkeypatch):
    switched = Switched(monkeypatch, 500)
    assert_exact(switched.z_scores(Switched.RIGHT))
    assert_exact(switched.z_scores(Switched.NO_INNOVATIONS))
    assert_caught(switched.z_scores(Switched.NO_LOG_SCALE))
    assert_caught(switched.z_scores(Switched.NO_INIT_LOGLIK))


def wide_proposal(carry, t):
    return {"x": dist.Normal(carry, 2.0)}


NIGHTLY = {
    "scan, None": (linear_gaussian_scan, {"interweave": None}),
    "scan, joint": (linear_gaussian_scan, {"interweave": "joint"}),
    "scan, theta": (linear_gaussian_scan, {"interweave": "theta", "interweave_steps": 8}),
    "StateSpace, None": (linear_gaussian, {"interweave": None}),
    "StateSpace, joint": (linear_gaussian, {"interweave": "joint"}),
    "scan, wide proposal": (linear_gaussian_scan, {"interweave": None, "proposal": wide_proposal}),
    "StateSpace, wide proposal": (linear_gaussian, {"interweave": None, "proposal": wide_proposal}),
    "scan, trace": (linear_gaussian_scan, {"interweave": None, "path_move": "trace"}),
    "StateSpace, trace and joint": (linear_gaussian, {"interweave": "joint", "path_move": "trace"}),
}


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "options"), NIGHTLY.values(), ids=NIGHTLY)
def test_smc_theta_posterior_of_20_observations(model, options):
    num_sweeps = 240 if options.get("path_move") == "trace" else 120
    seen = chain_means(PPG(model, 10, **options), theta_moments, 2000, num_sweeps, num_sweeps, data(20))
    assert_exact(z_scores(seen, posterior(20).all))


@pytest.mark.nightly
@pytest.mark.parametrize("model", [linear_gaussian_scan, linear_gaussian])
def test_smc_theta_posterior_of_100_observations(model):
    exact = posterior(100, 48)
    np.testing.assert_allclose(exact.mean_and_sd, [0.89215, 0.04706, 0.97839, 0.14471], atol=1e-5)
    seen = chain_means(PPG(model, 16, interweave="joint"), theta_moments, 400, 150, 150, data(100))
    assert_exact(z_scores(seen, exact.all))


@pytest.mark.nightly
def test_smc_theta_posterior_of_500_observations():
    """Of theta alone, whose posterior is known by a Kalman filter on a grid."""
    phi, sx = np.meshgrid(np.linspace(0.75, 0.995, 200), np.linspace(0.65, 1.4, 200))
    log_density = kalman_log_likelihood(linear_gaussian_data(500), phi, sx) - sx**2 / 2
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    exact = np.array([np.sum(weights * f) for f in (phi, sx, phi**2, phi * sx, sx**2)])
    mean_and_sd = [exact[0], np.sqrt(exact[2] - exact[0] ** 2), exact[1], np.sqrt(exact[4] - exact[1] ** 2)]
    np.testing.assert_allclose(mean_and_sd, [0.89585, 0.02235, 0.97484, 0.06150], atol=2e-5)
    kernel = PPG(linear_gaussian_scan, 32, interweave="joint", interweave_steps=8)
    seen = chain_means(kernel, theta_moments, 100, 200, 200, data(500))
    assert_exact(z_scores(seen[:, :5], exact))
