"""Paths and parameters of models whose answers come from sums over a grid: two modes, regimes, whole numbers.

    alpha_t = (alpha_{t-1} K_t) g_t,    beta_{t-1} = K_t (g_t beta_t),    p(x_t | y) = alpha_t beta_t / Z    (1)

on a grid fine enough that its error is far below those of the chains, which are independent.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray
from numpyro import handlers
from scipy.stats import binom, halfnorm, norm, poisson

from emberwalk.infer import PPG, ParticleGibbs
from emberwalk.models import nonlinear_growth, poisson_counts, regime_switching
from tests.infer.chains import chain_means
from tests.smc_data import counts_data, growth_data, switching_data
from tests.statistics import assert_exact, z_scores


class Smoothed(NamedTuple):
    """Equation (1).

    Attributes:
        log_evidence: log p(y).
        marginals: p(x_t | y), shape (T, grid).
    """

    log_evidence: float
    marginals: NDArray[np.float64]

    def mean(self, f: NDArray) -> NDArray[np.float64]:
        """E f(x_t) at every t; `f` holds its values on the grid."""
        return self.marginals @ f


def forward_backward(initial, transition: Callable, likelihood) -> Smoothed:
    """`transition(t)` is the matrix from the grid at t - 1 to the grid at t, its cells weighted."""
    likelihood = np.asarray(likelihood, float)
    forward, log_evidence = [], 0.0
    alpha = initial * likelihood[0]
    for t in range(len(likelihood)):
        alpha = alpha if t == 0 else (forward[-1] @ transition(t)) * likelihood[t]
        log_evidence += np.log(alpha.sum())
        forward.append(alpha / alpha.sum())
    beta = np.ones_like(alpha)
    marginals = [forward[-1]]
    for t in range(len(likelihood) - 1, 0, -1):
        beta = transition(t) @ (likelihood[t] * beta)
        beta /= beta.max()
        marginals.append(forward[t - 1] * beta / (forward[t - 1] @ beta))
    return Smoothed(float(log_evidence), np.array(marginals[::-1]))


# Growth: only x^2 is seen, so that the law of many states has two modes.

GROWTH_X, GROWTH_CELL = np.linspace(-40, 40, 801, retstep=True)


def half_line() -> NDArray[np.float64]:
    """Weights of P(x > 0): the trapezoid rule on a half-line, with its first correction (Euler and Maclaurin)."""
    weights, middle = np.heaviside(GROWTH_X, 0.5), GROWTH_X.size // 2
    weights[[middle - 1, middle + 1]] += [-1 / 24, 1 / 24]
    return weights


ABOVE_ZERO = half_line()


def growth(state_sd: float) -> Smoothed:
    x, y = GROWTH_X, growth_data()
    drift = x / 2 + 25 * x / (1 + x**2)

    def transition(t):
        # ten times as fast as scipy's, and it is most of the grid
        steps = (x - drift[:, None] - 8 * np.cos(1.2 * t)) / state_sd
        return np.exp(-(steps**2) / 2) * (GROWTH_CELL / (state_sd * np.sqrt(2 * np.pi)))

    initial = GROWTH_CELL * norm.pdf(x, scale=np.sqrt(5))
    return forward_backward(initial, transition, norm.pdf(y[:, None], x**2 / 20))


@lru_cache
def growth_of_known_sd() -> Smoothed:
    return growth(np.sqrt(10))


def values_and_signs(state):
    return jnp.concatenate([state.z["x"], (state.z["x"] > 0).astype(jnp.float32)], axis=1)


def undecided(shares: NDArray) -> NDArray[np.bool_]:
    """Where a share is none that few draws would take for 0 or 1."""
    return (shares > 0.02) & (shares < 0.98)


@pytest.mark.xdist_group("growth")  # its grid is made once
def test_smc_grid_of_the_growth_model_is_the_known_one():
    exact = growth_of_known_sd()
    assert exact.log_evidence == pytest.approx(-123.55659, abs=1e-3)
    assert exact.mean(GROWTH_X).sum() == pytest.approx(-79.40517, abs=1e-2)
    assert exact.mean(GROWTH_X**2).sum() == pytest.approx(4858.46664, abs=1e-2)
    np.testing.assert_allclose(
        exact.mean(ABOVE_ZERO)[[22, 21, 23, 32]], [0.8147, 0.8037, 0.4377, 0.2235], atol=1e-3
    )


@pytest.mark.xdist_group("growth")
def test_smc_states_of_the_growth_model_have_both_modes_in_their_right_shares():
    y = jnp.asarray(growth_data(), jnp.float32)
    model = handlers.condition(nonlinear_growth, {"state_sd": jnp.float32(np.sqrt(10))})
    seen = chain_means(ParticleGibbs(model, 32), values_and_signs, 200, 20, 60, y)
    exact = growth_of_known_sd()
    above = exact.mean(ABOVE_ZERO)
    assert_exact(z_scores(seen[:, :50], exact.mean(GROWTH_X)))
    assert_exact(z_scores(seen[:, 50:], above)[undecided(above)])


@pytest.mark.nightly
def test_smc_growth_model_of_unknown_state_sd(monkeypatch):
    module = sys.modules[__name__]
    # P(x_23 > 0) needs cells half as wide: with those of the other test it is .0015 too large
    monkeypatch.setattr(module, "GROWTH_X", np.linspace(-40, 40, 1601))
    monkeypatch.setattr(module, "GROWTH_CELL", 0.05)
    monkeypatch.setattr(module, "ABOVE_ZERO", half_line())
    sds = np.linspace(0.7, 5.1, 23)
    each = [growth(sd) for sd in sds]
    log_joint = halfnorm(0, 5).logpdf(sds) + [one.log_evidence for one in each]
    weights = np.exp(log_joint - log_joint.max())
    weights /= weights.sum()
    above = weights @ [one.mean(module.ABOVE_ZERO) for one in each]
    mean, second = weights @ sds, weights @ sds**2
    # of a grid twice as wide in sd; cells a quarter as wide change log p(y | sd) by 1e-3 where sd is 1.2, 1e-6 at 2.3
    np.testing.assert_allclose([mean, np.sqrt(second - mean**2)], [2.31454, 0.42253], atol=1e-4)
    np.testing.assert_allclose(above[[22, 23]], [0.9493, 0.6929], atol=1e-3)

    def collect(state):
        sd = jnp.exp(state.z["state_sd"])[:, None]
        return jnp.concatenate([sd, sd**2, (state.z["x"] > 0).astype(jnp.float32)], axis=1)

    y = jnp.asarray(growth_data(), jnp.float32)
    seen = chain_means(PPG(nonlinear_growth, 128), collect, 200, 300, 300, y)
    assert_exact(z_scores(seen[:, :2], [mean, second]))
    assert_exact(z_scores(seen[:, 2:], above)[undecided(above)])


# Regimes: a discrete and a continuous latent at every step.

SWITCHING_X, SWITCHING_CELL = np.linspace(-12, 12, 801, retstep=True)


@lru_cache
def switching() -> Smoothed:
    x, sds = SWITCHING_X, (0.2, 1.5)
    stay_or_switch = np.array([[0.95, 0.05], [0.1, 0.9]])
    moves = [norm.pdf(x, 0.9 * x[:, None], sd) * SWITCHING_CELL for sd in sds]
    matrix = np.block([[stay_or_switch[s, s_next] * moves[s_next] for s_next in (0, 1)] for s in (0, 1)])
    initial = np.concatenate(
        [p * norm.pdf(x, 0, sd) * SWITCHING_CELL for p, sd in zip((2 / 3, 1 / 3), sds, strict=True)]
    )
    likelihood = norm.pdf(switching_data()[:, None], np.tile(x, 2), 0.5)
    return forward_backward(initial, lambda t: matrix, likelihood)


@pytest.mark.nightly
def test_smc_regimes_and_states_of_the_switching_model_are_those_of_the_grid():
    exact = switching()
    stormy = exact.mean(np.repeat([0.0, 1.0], SWITCHING_X.size))
    states = exact.mean(np.tile(SWITCHING_X, 2))
    assert exact.log_evidence == pytest.approx(-101.683853, abs=1e-4)
    assert (stormy.sum(), states.sum()) == pytest.approx((23.306060, 63.02193), abs=1e-3)
    np.testing.assert_allclose(stormy[[15, 33]], [0.3323, 0.5103], atol=1e-4)

    def collect(state):
        each = [state.z["s0"][:, None], state.z["s"], state.z["x0"][:, None], state.z["x"]]
        return jnp.concatenate([jnp.asarray(values, jnp.float32) for values in each], axis=1)

    y = jnp.asarray(switching_data(), jnp.float32)
    # a storm that begins at a surprising return is found by few particles: the first path must be forgotten
    seen = chain_means(ParticleGibbs(regime_switching, 64), collect, 64, 60, 30, y)
    assert_exact(z_scores(seen[:, :80], stormy)[undecided(stormy)])
    assert_exact(z_scores(seen[:, 80:], states))


# Whole numbers: no other kernel of NumPyro moves such a path.


def counts(lam: float, rho: float, size: int = 140) -> Smoothed:
    x, y = np.arange(size), counts_data()
    matrix = poisson.pmf(x, lam + rho * x[:, None])
    return forward_backward(poisson.pmf(x, 20), lambda t: matrix, binom.pmf(y[:, None], x, 0.5))


@pytest.mark.nightly
def test_smc_counts_at_known_parameters_are_those_of_forward_backward():
    exact = counts(4.0, 0.8)
    assert exact.log_evidence == pytest.approx(-149.192107, abs=1e-6)
    means = exact.mean(np.arange(140.0))
    np.testing.assert_allclose(means[[0, 30, 59]], [19.28344, 17.38844, 28.70230], atol=1e-5)
    model = handlers.condition(poisson_counts, {"lam": jnp.float32(4.0), "rho": jnp.float32(0.8)})

    def collect(state):
        x = jnp.asarray(state.z["x"], jnp.float32)
        return jnp.concatenate([x, (x[:, 1:] * x[:, :-1]).sum(1, keepdims=True)], axis=1)

    seen = chain_means(ParticleGibbs(model, 32), collect, 100, 20, 40, jnp.asarray(counts_data()))
    assert_exact(z_scores(seen, np.append(means, 27600.9493)))


@pytest.mark.nightly
def test_smc_counts_of_unknown_parameters():
    lams, rhos = (np.arange(40) + 0.5) / 40 * 12, (np.arange(40) + 0.5) / 40
    log_joint = np.array(
        [[halfnorm(0, 5).logpdf(lam) + counts(lam, rho).log_evidence for rho in rhos] for lam in lams]
    )
    weights = np.exp(log_joint - log_joint.max())
    weights /= weights.sum()
    lam, rho = weights.sum(1) @ lams, weights.sum(0) @ rhos
    sd_lam, sd_rho = np.sqrt(weights.sum(1) @ (lams - lam) ** 2), np.sqrt(weights.sum(0) @ (rhos - rho) ** 2)
    np.testing.assert_allclose([lam, sd_lam, rho, sd_rho], [3.211, 1.475, 0.8521, 0.0750], rtol=2e-3)
    both = lams @ weights @ rhos
    assert (both - lam * rho) / (sd_lam * sd_rho) == pytest.approx(-0.922, abs=2e-3)

    def collect(state):
        lam, rho = jnp.exp(state.z["lam"]), jax.nn.sigmoid(state.z["rho"])
        return jnp.stack([lam, rho, lam**2, lam * rho, rho**2], axis=1)

    # from a start drawn uniformly the path may be impossible: it makes fewer than were counted
    start = {"lam": jnp.log(3.0), "rho": jnp.array(1.5)}
    y = jnp.asarray(counts_data())
    seen = chain_means(PPG(poisson_counts, 32), collect, 64, 300, 300, y, init_params=start)
    exact = [lam, rho, weights.sum(1) @ lams**2, both, weights.sum(0) @ rhos**2]
    assert_exact(z_scores(seen, exact))
