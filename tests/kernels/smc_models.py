"""Tiny state-space models with exact answers, for the tests of `kernels/smc`.

The Gaussian ones are lists of linear equations,

    x_t = a_t . (x_{t-1}, x_{t-2}) + s_t e_t,    y_t = x_t + b x_{t-1} + r v_t                  (1)

from which both the `SSM` and, by linear algebra in float64, the law of x given y are made.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.stats import norm
from numpy.typing import NDArray

from emberwalk.kernels.smc import SSM, Evaluation, Path, with_proposal


class GaussianCase(NamedTuple):
    """A linear Gaussian model and what is known of it.

    Attributes:
        ssm: the model.
        mean: of x given y.
        covariance: of x given y.
        log_evidence: log p(y).
        has_initial: whether x_0 is part of the path; otherwise x starts at t = 1 from a fixed past.
    """

    ssm: SSM
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    log_evidence: float
    has_initial: bool = True

    def exact_draw(self, key: jax.Array) -> Path:
        """A path from the law of x given y."""
        root = np.linalg.cholesky(self.covariance)
        return self.path(jnp.asarray(self.mean) + jnp.asarray(root) @ random.normal(key, self.mean.shape))

    def path(self, x: jax.Array) -> Path:
        """The vector x as a `Path`."""
        return Path(x[0], x[1:]) if self.has_initial else Path((), x)

    def vector(self, path: Path) -> jax.Array:
        """The path as a vector x."""
        return jnp.append(path.initial, path.latents) if self.has_initial else path.latents

    def exact_moments(self) -> NDArray[np.float64]:
        """What `tests.statistics.moments` estimates."""
        rows, columns = np.triu_indices(len(self.mean))
        second = self.covariance + np.outer(self.mean, self.mean)
        return np.concatenate([self.mean, second[rows, columns]])


def condition(mean, covariance, emission, noise_variance, y) -> tuple[NDArray, NDArray, float]:
    """Mean and covariance of x given y = emission x + noise, and log p(y); x ~ N(mean, covariance)."""
    of_y = emission @ covariance @ emission.T + noise_variance * np.eye(len(y))
    gain = covariance @ emission.T @ np.linalg.inv(of_y)
    error = y - emission @ mean
    log_evidence = -0.5 * (error @ np.linalg.solve(of_y, error) + np.linalg.slogdet(2 * np.pi * of_y)[1])
    return mean + gain @ error, covariance - gain @ emission @ covariance, float(log_evidence)


def law_of_equations(dynamics: NDArray, sds: NDArray) -> NDArray[np.float64]:
    """Covariance of x with x = dynamics x + sds e."""
    inverse = np.linalg.inv(np.eye(len(sds)) - dynamics)
    return inverse @ np.diag(sds**2) @ inverse.T


def autoregression(y, phi=0.9, sx=1.0, sy=1.0, b=0.0, sds=None, seen=None) -> GaussianCase:
    """Order 1 with a stationary x_0 (sd by `phi` and `sx`), y_0 observed.

    Args:
        y: observations at t = 0, ..., T.
        phi: coefficient on the state before.
        sx: sd of a transition.
        sy: sd of an observation.
        b: of x_{t-1} in y_t; more than 0 makes the emission depend on the state before.
        sds: s_1, ..., s_T in place of `sx`: the model depends on time.
        seen: which y are observed; None: all. The others are NaN to the model.
    """
    y = np.asarray(y, float)
    size = len(y)
    seen = np.ones(size, bool) if seen is None else np.asarray(seen)
    first_sd = sx / np.sqrt(1 - phi**2)
    sds = np.full(size - 1, sx) if sds is None else np.asarray(sds, float)
    prior = law_of_equations(np.diag(np.full(size - 1, phi), -1), np.append(first_sd, sds))
    emission = (np.eye(size) + b * np.eye(size, k=-1))[seen]
    law = condition(np.zeros(size), prior, emission, sy**2, y[seen])
    y_given, sds_given = jnp.asarray(np.where(seen, y, np.nan)), jnp.asarray(np.append(first_sd, sds))

    def log_likelihood(mean, t):
        return jnp.where(jnp.isnan(y_given[t]), 0.0, norm.logpdf(jnp.nan_to_num(y_given[t]), mean, sy))

    def evaluate(c, x, t):
        return Evaluation(norm.logpdf(x, phi * c, sds_given[t]), log_likelihood(x + b * c, t), x)

    ssm = SSM(
        init=lambda key: first_sd * random.normal(key),
        init_logpdf=lambda x: norm.logpdf(x, 0.0, first_sd),
        init_carry=lambda x: x,
        init_loglik=lambda x: log_likelihood(x, 0),
        sample=lambda key, c, t: phi * c + sds_given[t] * random.normal(key),
        evaluate=evaluate,
        length=size - 1,
    )
    return GaussianCase(ssm, *law)


def second_order(y, first=0.5, second=0.3) -> GaussianCase:
    """x_t = first x_{t-1} + second x_{t-2} + e_t, y_t = x_t + v_t for t = 1, ..., T; x_0 = x_{-1} = 0."""
    y = np.asarray(y, float)
    size = len(y)
    dynamics = np.diag(np.full(size - 1, first), -1) + np.diag(np.full(size - 2, second), -2)
    law = condition(np.zeros(size), law_of_equations(dynamics, np.ones(size)), np.eye(size), 1.0, y)
    y_given = jnp.append(0.0, jnp.asarray(y))

    def mean(c):
        return first * c[0] + second * c[1]

    ssm = SSM(
        init=lambda key: (),
        init_logpdf=lambda x: jnp.zeros(()),
        init_carry=lambda x: (jnp.zeros(()), jnp.zeros(())),
        init_loglik=lambda x: jnp.zeros(()),
        sample=lambda key, c, t: mean(c) + random.normal(key),
        evaluate=lambda c, x, t: Evaluation(norm.logpdf(x, mean(c)), norm.logpdf(y_given[t], x), (x, c[0])),
        length=size,
        order=2,
    )
    return GaussianCase(ssm, *law, has_initial=False)


BASE = autoregression((1.5, -0.5, 2.0))
ORDER_TWO = second_order((1.0, -0.5, 2.0, 0.4, -1.0))
# The emission sees the state before, the noise of the state alternates, y_2 is missing.
EVENTFUL = autoregression((1.5, -0.5, 0.0, 2.0), b=0.8, sds=(2.0, 0.4, 2.0), seen=(True, True, False, True))


def with_wide_proposal(ssm: SSM, proposal_sd: float = 1.5, forget: bool = False) -> SSM:
    """An order-1 model whose particles come from N(c, proposal_sd), reweighted by log m - log q.

    `forget` leaves the correction out.
    """

    def log_prob(c, x, t):
        return ssm.evaluate(c, x, t).log_transition if forget else norm.logpdf(x, c, proposal_sd)

    return with_proposal(ssm, lambda key, c, t: c + proposal_sd * random.normal(key), log_prob)


# One path x_{1:T} of the hidden Markov model, all of them, and the log of each joint probability.
HMM_Y = np.array([0.0, 0.2, 0.4, 0.6, 0.8])
HMM_TRANSITIONS = np.array([[0.9, 0.1], [0.2, 0.8]])


def hidden_markov() -> tuple[SSM, NDArray[np.int64], NDArray[np.float64]]:
    """Two states from state 0, y_t ~ N(x_t, 1): the model, its 2^5 paths, log p(path, y) of each."""
    size = len(HMM_Y)
    paths = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    before = np.concatenate([np.zeros((2**size, 1), int), paths[:, :-1]], axis=1)
    log_joint = np.log(HMM_TRANSITIONS[before, paths]) - 0.5 * ((HMM_Y - paths) ** 2 + np.log(2 * np.pi))
    transitions, y = jnp.log(jnp.asarray(HMM_TRANSITIONS)), jnp.append(0.0, jnp.asarray(HMM_Y))
    ssm = SSM(
        init=lambda key: (),
        init_logpdf=lambda x: jnp.zeros(()),
        init_carry=lambda x: jnp.zeros((), jnp.int32),
        init_loglik=lambda x: jnp.zeros(()),
        sample=lambda key, c, t: random.categorical(key, transitions[c]).astype(jnp.int32),
        evaluate=lambda c, x, t: Evaluation(transitions[c, x], norm.logpdf(y[t], x), x),
        length=size,
    )
    return ssm, paths, log_joint.sum(1)


def moved(step: Callable[[jax.Array, Path], Path], key: jax.Array, path: Path, num_moves: int) -> Path:
    """`num_moves` steps of a kernel on paths."""
    return jax.lax.fori_loop(0, num_moves, lambda i, path: step(random.fold_in(key, i), path), path)
