"""Rates whose square roots are normal, each by itself: what a network says of them.

    q = x^2,   x ~ N(m, s^2)                                                                               (1)
    E q = m^2 + s^2,   Var q = 2 s^2 (2 m^2 + s^2)                                                         (2)
    P(q <= c^2) = Phi((c - m) / s) - Phi(-(c + m) / s)                                                     (3)

The root of a rate is known equally well at all rates. What a reader would get wrong: x may be negative, and its square
still is a rate; so (2) holds exactly, and quantiles are those of the folded normal (3), not (m + s z_p)^2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax, random
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key

_FARTHEST, _HALVINGS = 10.0, 40


class SqrtNormal(NamedTuple):
    """Equation (1).

    Attributes:
        loc: m, not negative, `[...]`.
        scale: s `[...]`; where it is 0, the rate is m^2.

    Examples:
        >>> from emberwalk.kernels.jump.sqrt_normal import SqrtNormal
        >>> q = SqrtNormal(jnp.array(2.0), jnp.array(0.1))
        >>> round(float(q.mean), 3), [round(float(q.quantile(p)), 2) for p in (0.05, 0.95)]
        (4.01, [3.37, 4.68])
    """

    loc: Float[Array, "*shape"]
    scale: Float[Array, "*shape"]

    @property
    def mean(self) -> Float[Array, "*shape"]:
        """Equation (2)."""
        return self.loc**2 + self.scale**2

    @property
    def variance(self) -> Float[Array, "*shape"]:
        """Equation (2)."""
        return 2 * self.scale**2 * (2 * self.loc**2 + self.scale**2)

    def quantile(self, p: float | Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Of q, by halving equation (3).

        Args:
            p: a probability, or some `[..., *shape]`.
        """
        m, s = self.loc, jnp.where(self.scale > 0, self.scale, 1)

        def halved(_: Array, between: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = between
            c = (low + high) / 2
            above = ndtr((c - m) / s) - ndtr(-(c + m) / s) < p
            return jnp.where(above, c, low), jnp.where(above, high, c)

        shape = jnp.broadcast_shapes(m.shape, jnp.shape(p))
        begin = (jnp.zeros(shape, m.dtype), jnp.broadcast_to(m + _FARTHEST * s, shape))
        low, high = lax.fori_loop(0, _HALVINGS, halved, begin)
        return jnp.where(self.scale > 0, (low + high) / 2, m) ** 2

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draws of q.

        Args:
            key: of the draws.
            shape: of the draws, before that of the rates.
        """
        return (self.loc + self.scale * random.normal(key, (*shape, *self.loc.shape), self.loc.dtype)) ** 2
