"""What the noise of minibatch gradients is known to be, from probes.

    a_n = .9 a_{n-1} + .1 Var(g_1, ..., g_K),   w_n = .9 w_{n-1} + .1,   V = a_n / w_n               (1)

A probe is K independent gradients at one z, by the estimator in use. (1) forgets at the pace of ten probes and
is unbiased from the first. The second moment of the gradients, for a mass or preconditioner, likewise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ...kernels.sgmcmc import gradient_variance
from .target import Values

_KEPT = 0.9


class Noise(NamedTuple):
    """Equation (1).

    Attributes:
        variance_sum: a of the variance of each element.
        moment_sum: a of the second moment of each element; None where nothing is adapted by it.
        weight: w.
    """

    variance_sum: Values
    moment_sum: Values | None
    weight: Float[Array, ""]

    @property
    def variance(self) -> Values:
        """V of each element; 0 before the first probe."""
        return jax.tree.map(self._over_weight, self.variance_sum)

    @property
    def second_moment(self) -> Values:
        """E g^2 of each element."""
        return jax.tree.map(self._over_weight, self.moment_sum)

    def _over_weight(self, total: Array) -> Array:
        weight = self.weight.reshape(self.weight.shape + (1,) * (total.ndim - self.weight.ndim))
        return total / jnp.where(weight > 0, weight, 1)


def no_noise(z: Values, *, with_moment: bool) -> Noise:
    """Before the first probe."""
    zeros = jax.tree.map(jnp.zeros_like, z)
    return Noise(zeros, zeros if with_moment else None, jnp.zeros((), jnp.result_type(float)))


def add_probe(noise: Noise, gradients: Values, forget: Bool[Array, ""]) -> Noise:
    """The noise with one more probe.

    Args:
        noise: so far.
        gradients: of the probe, leading axis K.
        forget: whether what was known is dropped: at the half of warm-up, and at its end.
    """
    kept = jnp.where(forget, 0.0, _KEPT)
    new = Noise(
        gradient_variance(gradients),
        None if noise.moment_sum is None else jax.tree.map(lambda g: jnp.mean(g**2, 0), gradients),
        jnp.ones_like(noise.weight),
    )
    return jax.tree.map(lambda old, one: (kept * old + (1 - _KEPT) * one).astype(old.dtype), noise, new)


def probe(gradient_of: Callable[[Any], Values], batches: Any) -> Values:
    """`gradient_of(batch)` for each batch, one after the other: K at once may not fit.

    What is not finite counts as 0: one bad batch shall not end the estimate. All data, a batch without indices,
    have one gradient, here twice.
    """
    if jax.tree.leaves(batches):
        gradients = lax.map(gradient_of, batches)
    else:
        gradients = jax.tree.map(lambda g: jnp.stack([g, g]), gradient_of(batches))
    return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), gradients)
