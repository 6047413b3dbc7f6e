"""Fractional Brownian motion seen with noise: as a linear model for the filter, and as one dense Gaussian."""

from functools import cache

import jax.numpy as jnp
import numpy as np

from emberwalk.kernels.fractional import Linear, Sites, bank_step, fractional_coefficients, initial_factor

HURSTS = (0.1, 0.3, 0.5, 0.7, 0.9)


@cache
def default_coefficients(horizon=1.0, num_steps=200, num_modes=8):
    return fractional_coefficients(horizon, num_steps, num_modes=num_modes)


def bridge(coef, weights, dts, integrator="exact", pull=0.0, scale=1.0, x0=0.0, mean=0.0):
    """dx = pull (mean - x) dt + scale dB by Euler, the bank beside it: z = (x, y)."""
    factors = bank_step(coef.rates, dts, integrator)
    N, K = factors.decay.shape
    dts, w = jnp.asarray(dts), scale * weights
    M = jnp.zeros((N, K + 1, K + 1)).at[:, 0, 0].set(1 - pull * dts).at[:, 0, 1:].set(w * factors.decay_m1)
    M = M.at[:, 1:, 1:].set(factors.decay[:, :, None] * jnp.eye(K))
    c = jnp.zeros((N, K + 1)).at[:, 0].set(pull * mean * dts)
    L = jnp.concatenate([(w @ factors.noise_factor)[:, None], factors.noise_factor], 1)
    start = initial_factor(coef.rates)
    return Linear(
        M, c, L, jnp.zeros(K + 1).at[0].set(x0), jnp.concatenate([jnp.zeros((1, start.shape[1])), start])
    )


def even(num_steps, horizon=1.0):
    return np.full(num_steps, horizon / num_steps)


def observations(num_steps, every, sd, values=0.0):
    """Sites of x at every so many steps, and the constant that a Gaussian density has beside them."""
    at = np.arange(every, num_steps + 1, every)
    y = np.broadcast_to(values, at.shape)
    h, J = np.zeros((num_steps + 1, 1)), np.zeros((num_steps + 1, 1, 1))
    h[at, 0], J[at, 0, 0] = y / sd**2, 1 / sd**2
    return Sites(jnp.asarray(h), jnp.asarray(J)), float(-np.sum(y**2 / sd**2 + np.log(2 * np.pi * sd**2)) / 2)


def model_of(linear):
    """`start` and `step` of the model itself, for `simulate`; its inputs are the matrices."""

    def start(b):
        return linear.start_mean + linear.start_factor @ b

    def step(z, e, matrices):
        M, c, L = matrices
        return M @ z + c + L @ e

    return start, step, linear[:3]


def site_density(sites, z):
    """Log of the product of the sites on a path `[N + 1, n]`."""
    x = z[:, : sites.h.shape[1]]
    return jnp.sum(sites.h * x) - jnp.einsum("ni,nij,nj->", x, sites.J, x) / 2


def standard_normal(x):
    return -(jnp.sum(x**2) + x.size * np.log(2 * np.pi)) / 2


def dense(linear, d=1):
    """Mean and covariance of all x at the times 0, ..., N, `[(N + 1) d]`, by images of the noises; float64."""
    M, c, L, mean, factor = (np.asarray(x, np.float64) for x in linear)
    images, means = [factor], [mean]
    for n in range(len(M)):
        images.append(np.concatenate([M[n] @ images[-1], L[n]], 1))
        means.append(M[n] @ means[-1] + c[n])
    width = images[-1].shape[1]
    rows = np.concatenate([np.pad(image[:d], ((0, 0), (0, width - image.shape[1]))) for image in images])
    return np.concatenate([m[:d] for m in means]), rows @ rows.T


def conditioned(mean, covariance, h, J):
    """log E exp(h'x - x'J x / 2), and the mean and covariance of x under it, x ~ N(mean, covariance)."""
    size = len(mean)
    inner = np.eye(size) + covariance @ J
    posterior = np.linalg.solve(inner, covariance)
    pulled = h - J @ mean
    log_evidence = h @ mean - mean @ J @ mean / 2 + pulled @ posterior @ pulled / 2
    return log_evidence - np.linalg.slogdet(inner)[1] / 2, mean + posterior @ pulled, posterior


def block_diagonal(sites):
    """The sites as one h and one J."""
    N, d = sites.h.shape
    J = np.zeros((N, d, N, d))
    J[np.arange(N), :, np.arange(N)] = sites.J
    return np.ravel(sites.h), J.reshape(N * d, N * d)
