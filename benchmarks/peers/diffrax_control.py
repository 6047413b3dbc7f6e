"""The ELBO of a controlled bank of Ornstein-Uhlenbeck processes, as one writes it with diffrax.

    dy_k = (-g_k y_k + sqrt(2 g_k) u) dt + sqrt(2 g_k) dW,   dx = -x dt + sum_k w_k dy_k,   dKL = u^2 / 2 dt      (1)

Euler on the same grid, `VirtualBrownianTree` (the one Brownian motion of diffrax with a reverse mode), `vmap` over
paths, a network u(sin t, cos t, x, y). The bank starts from its prior. Daems et al. (2024) have it so.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key


def value_and_grad(
    rates: Float[Array, " K"],
    start_factor: Float[Array, "K r"],
    ts: Float[Array, "N+1"],
    seen: Float[Array, " M"],
    sd: float,
    num_paths: int,
) -> Callable[..., Any]:
    """((network, weights), key, y) -> the negative ELBO and its gradient.

    Args:
        rates: g.
        start_factor: of the bank's stationary covariance.
        ts: the grid.
        seen: times of the data.
        sd: of their noise.
        num_paths: averaged over.
    """
    kicks, tol = jnp.sqrt(2 * rates), float(ts[1] - ts[0]) / 2

    def drift(t, state, args):
        network, weights = args
        clock = jnp.stack([jnp.sin(t), jnp.cos(t)])
        u = network(jnp.concatenate([clock, state[:-1]]))[0]
        dy = -rates * state[1:-1] + kicks * u
        return jnp.concatenate([(weights @ dy - state[0])[None], dy, (u**2 / 2)[None]])

    def diffusion(t, state, args):
        return jnp.concatenate([(args[1] @ kicks)[None], kicks, jnp.zeros(1)])

    def negative_elbo(key: Key[Array, ""], args: Any, y: Float[Array, " M"]) -> Float[Array, ""]:
        key_start, key_path = random.split(key)
        noise = diffrax.VirtualBrownianTree(ts[0], ts[-1], tol, (), key_path)
        bank = start_factor @ random.normal(key_start, start_factor.shape[1:])
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, noise)),
            diffrax.Euler(),
            ts[0],
            ts[-1],
            None,
            jnp.concatenate([jnp.zeros(1), bank, jnp.zeros(1)]),
            args,
            saveat=diffrax.SaveAt(ts=seen),
            stepsize_controller=diffrax.StepTo(ts),
            max_steps=len(ts) - 1,
        )
        error = (y - solution.ys[:, 0]) / sd
        return jnp.sum(error**2 + jnp.log(2 * jnp.pi * sd**2)) / 2 + solution.ys[-1, -1]

    def loss(args: Any, key: Key[Array, ""], y: Float[Array, " M"]) -> Float[Array, ""]:
        each = jax.vmap(negative_elbo, (0, None, None))(random.split(key, num_paths), args, y)
        return each.mean()

    return eqx.filter_jit(eqx.filter_value_and_grad(loss))


def network(num_in: int, width: int, key: Key[Array, ""]) -> eqx.nn.MLP:
    """Two hidden layers."""
    return eqx.nn.MLP(num_in, 1, width, 2, jnp.tanh, key=key)
