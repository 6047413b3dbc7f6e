"""Exact posteriors of two-state processes, by quadrature over both log rates.

P(t) in closed form; log a (0 -> 1), log b (1 -> 0) ~ N(0, 1); stationary start; labels wrong with probability rho
"""

from functools import cache

import jax.numpy as jnp
import numpy as np

from emberwalk.kernels.jump import (
    forward,
    label_log_emission,
    lag_grid,
    rates_from_vector,
    simulate_batch,
    stationary,
    transition_matrices,
)

TIMES2 = np.array([[0, 0.4, 1, 2.5, 3]])
LABELS2 = np.array([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]])
# rho: log evidence, then mean and sd of log a and of log b, and their correlation
STORED = {
    0.0: (-7.664793, (-0.00706, 0.35598), (0.70617, 0.69887), 0.51671),
    0.1: (-7.448889, (-0.10861, 0.33105), (0.77106, 0.77016), 0.39791),
}


def log_likelihood_on_grid(log_a, log_b, times, labels, rho):
    """Of all paths, for arrays of rates, with P in closed form."""
    a, b = np.exp(log_a), np.exp(log_b)
    pi = np.stack([b, a]) / (a + b)
    E = np.array([[1 - rho, rho], [rho, 1 - rho]])
    total = np.zeros(np.shape(a))
    for t, y in zip(np.broadcast_to(times, labels.shape), labels, strict=True):
        alpha = [pi[0] * E[0, y[0]], pi[1] * E[1, y[0]]]
        for lag, label in zip(np.diff(t), y[1:], strict=True):
            decay = np.exp(-(a + b) * lag)
            stay0, stay1 = pi[0] + pi[1] * decay, pi[1] + pi[0] * decay
            alpha = [
                (alpha[0] * stay0 + alpha[1] * (1 - stay1)) * E[0, label],
                (alpha[0] * (1 - stay0) + alpha[1] * stay1) * E[1, label],
            ]
            scale = alpha[0] + alpha[1]
            total += np.log(scale)
            alpha = [x / scale for x in alpha]
    return total


class Exact:
    """Moments by the rectangle rule on a grid, which is exact to many digits for a smooth density."""

    def __init__(self, times, labels, rho, centre=(0.0, 0.0), width=6.0, size=401):
        axes = [np.linspace(c - width, c + width, size) for c in centre]
        x, y = np.meshgrid(*axes, indexing="ij")
        log_joint = log_likelihood_on_grid(x, y, times, labels, rho) - (x**2 + y**2) / 2 - np.log(2 * np.pi)
        largest = log_joint.max()
        w = np.exp(log_joint - largest)
        cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
        self.log_evidence = largest + np.log(w.sum() * cell)
        w /= w.sum()
        self.mean = np.array([(w * x).sum(), (w * y).sum()])
        self.sd = np.sqrt([(w * (x - self.mean[0]) ** 2).sum(), (w * (y - self.mean[1]) ** 2).sum()])
        covariance = (w * (x - self.mean[0]) * (y - self.mean[1])).sum()
        self.correlation = covariance / self.sd.prod()


@cache
def case(name):
    """Times, labels, rho, where to look."""
    if name in STORED:
        return TIMES2, LABELS2, name, (0.0, 0.0), 7.0
    rng_seed, (a, b), rho, dt = {
        "clean": (1, (1.0, 0.5), 0.0, 0.4),
        "five percent": (2, (0.8, 0.6), 0.05, 0.4),
        "fast": (3, (2.0, 1.5), 0.1, 0.4),
        "fastest": (3, (3.0, 2.0), 0.1, 0.4),
    }[name]
    times = dt * np.arange(15)[None]
    q = np.array([[0, a], [b, 0]])
    labels = simulate_batch(rng_seed, q, times[0], 20, label_noise=rho or None)
    return times, labels, rho, (np.log(a), np.log(b)), 3.0


@cache
def exact(name):
    times, labels, rho, centre, width = case(name)
    return Exact(times, labels, rho, centre, width)


def log_density(theta, lags, index, labels, rho):
    """By the kernels; rho may be traced, and 0."""
    q = rates_from_vector(jnp.exp(theta), 2)
    emission = label_log_emission(labels, rho, 2)
    log_likelihood, _ = forward(emission, transition_matrices(q, lags), index, stationary(q))
    return log_likelihood.sum() - jnp.sum(theta**2) / 2


def data_of(name):
    times, labels, rho, *_ = case(name)
    grid = lag_grid(np.broadcast_to(times, labels.shape))
    return jnp.asarray(grid.lags), jnp.asarray(grid.index), jnp.asarray(labels), jnp.asarray(rho, float)
