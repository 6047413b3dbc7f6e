"""Variational inference by a control, as published (Daems et al. 2024), and what it cannot reach.

    dW -> dW + u(t, z) dt;   on a grid e_n ~ N(u_n, I),   KL = E sum_n |u_n|^2 / 2                       (1)
    ELBO <= log evidence - sum_n (tr S_n - r - log det S_n) / 2                                          (2)

A control shifts the mean of the noise and leaves its variance at I. The posterior of e_n given z is
N(m + G z, S_n^-1) (`gaussian_filter.py`): the best control has its mean, and loses (2) whatever its network. The
loss vanishes as the step does; at 200 steps and H = .1 it is 3.4 nats for one observation. Where the noise of the
start keeps its variance too, the same expression with its S comes on top, and where it keeps its mean, |C'm|^2 / 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .gaussian_filter import Linear, Noise, Point, Sites, Step, backward

type Control = Callable[[Point, PyTree[Array]], Noise]


class Floor(NamedTuple):
    """What a control cannot reach, nats.

    Attributes:
        path: equation (2).
        initial: more, where the noise of the start keeps its variance.
    """

    path: Float[Array, ""]
    initial: Float[Array, ""]


class Controlled(NamedTuple):
    """A path under a control.

    Attributes:
        e: noises, `[N, r]`, the control included.
        z: the path, `[N + 1, n]`.
        kl: of equation (1), for this path.
    """

    e: Float[Array, "N r"]
    z: Float[Array, "N+1 n"]
    kl: Float[Array, ""]


def control_kl(u: Float[Array, "*N r"]) -> Float[Array, ""]:
    """Equation (1): half the sum of squares of u, which moves the mean of noises of variance 1.

    A control u(t) of the Brownian motion itself is u(t) sqrt(dt) here.

    Examples:
        >>> from emberwalk.kernels.fractional import control_kl
        >>> float(control_kl(jnp.array([[1.0], [2.0]])))
        2.5
    """
    return jnp.sum(u**2) / 2


def control_floor(linear: Linear, sites: Sites) -> Floor:
    """Equation (2): the gap that no control closes, on a linear model with Gaussian sites.

    Args:
        linear: the model.
        sites: the observations; only their precision J matters.

    Examples:
        >>> from emberwalk.kernels.fractional import Linear, Sites, control_floor
        >>> one = jnp.ones((1, 1, 1))
        >>> walk = Linear(one, jnp.zeros((1, 1)), one, jnp.zeros(1), jnp.zeros((1, 1)))
        >>> seen = Sites(jnp.zeros((2, 1)), jnp.array([[[0.0]], [[1.0]]]))
        >>> round(float(control_floor(walk, seen).path), 4)  # (1 - log 2) / 2
        0.1534
    """
    gains = backward(linear, sites)
    return Floor(_loss(gains.steps.chol), _loss(gains.start.chol))


def simulate_control(
    noise: Float[Array, "N r"], control: Control, step: Step, z0: Point, inputs: PyTree[Array] = None
) -> Controlled:
    """A path under e_n = u(z_n, inputs of the step) + noise_n.

    Args:
        noise: independent normals, `[N, r]`.
        control: (z, inputs of the step) -> u, `[r]`, in units of the noise's sd.
        step: (z, e, inputs of the step) -> z+, the model's own.
        z0: the start, `[n]`.
        inputs: of all steps, leading axis N.

    Examples:
        >>> from emberwalk.kernels.fractional import simulate_control
        >>> path = simulate_control(jnp.zeros((3, 1)), lambda z, _: 1 - z, lambda z, e, _: z + e / 2, jnp.zeros(1))
        >>> path.z[:, 0].tolist()
        [0.0, 0.5, 0.75, 0.875]
    """

    def advance(z: Point, step_inputs):
        xi, inputs = step_inputs
        u = control(z, inputs)
        after = step(z, u + xi, inputs)
        return after, (after, u)

    _, (z, u) = lax.scan(advance, z0, (noise, inputs))
    return Controlled(u + noise, jnp.concatenate([z0[None], z]), control_kl(u))


def _loss(chol: Float[Array, "*N r r"]) -> Float[Array, ""]:
    """(tr S - r - log det S) / 2 by its Cholesky factor, summed."""
    diagonal = jnp.diagonal(chol, axis1=-2, axis2=-1)
    return (jnp.sum(chol**2) - diagonal.size) / 2 - jnp.sum(jnp.log(diagonal))
