"""Fractional Brownian motion seen with noise: as a linear model for the filter, and as one dense Gaussian."""

import jax.numpy as jnp
import numpy as np

from emberwalk.kernels.fractional import Linear, Sites, bank_step, initial_factor


def bridge(coef, weights, num_steps, horizon, integrator="exact"):
    """x = B, the bank beside it, and the step that moves both."""
    factors = bank_step(coef.rates, horizon / num_steps, integrator)
    K = len(coef.rates)
    M = jnp.zeros((K + 1, K + 1)).at[0, 0].set(1).at[0, 1:].set(weights * factors.decay_m1)
    M = M.at[1:, 1:].set(jnp.diag(factors.decay))
    L = jnp.concatenate([(weights @ factors.noise_factor)[None], factors.noise_factor])
    start = jnp.concatenate([jnp.zeros((1, K)), initial_factor(coef.rates, rtol=0)])
    steps = (jnp.broadcast_to(x, (num_steps, *x.shape)) for x in (M, jnp.zeros(K + 1), L))
    return Linear(*steps, jnp.zeros(K + 1), start)


def observations(num_steps, every, sd, values=0.0):
    """Sites of x at every so many steps, and the constant that a Gaussian density has beside them."""
    at = np.arange(every, num_steps + 1, every)
    y = np.broadcast_to(values, at.shape)
    h = jnp.zeros((num_steps + 1, 1)).at[at, 0].set(y / sd**2)
    J = jnp.zeros((num_steps + 1, 1, 1)).at[at, 0, 0].set(1 / sd**2)
    return Sites(h, J), -np.sum(y**2 / sd**2 + np.log(2 * np.pi * sd**2)) / 2
