"""What an independence sampler proposes: the skewed Laplace density, and now and then something wide.

    q(t) = .95 q_skew(t) + .05 Student-t_5(t; mode, 1.5^2 S)                                                (1)

Weights pi / q are bounded only where q has the heavier tail; the second part sees to it, at the price of one proposal
in twenty. Its tails are not looked for: it is fixed.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Key

from .laplace import SkewLaplace

_WIDE_SHARE, _DEGREES, _WIDTH = 0.05, 5.0, 1.5


class Proposal(NamedTuple):
    """Equation (1).

    Attributes:
        fit: of `laplace`.

    Examples:
        >>> from emberwalk.kernels.jump import Proposal, laplace, newton
        >>> log_density = lambda t: 3 * t[0] - jnp.exp(t[0])
        >>> proposal = Proposal(laplace(log_density, newton(log_density, jnp.zeros(1))))
        >>> t = proposal.sample(random.key(0), (1000,))
        >>> weights = jnp.exp(jnp.vectorize(log_density, signature="(d)->()")(t) - proposal.log_prob(t))
        >>> round(float(weights.mean()), 1)  # the mass of the density is Gamma(3) = 2
        2.0
    """

    fit: SkewLaplace

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Draws `[*shape, d]`."""
        key_which, key_skew, key_normal, key_scale = random.split(key, 4)
        mode = self.fit.mode
        normal = random.normal(key_normal, (*shape, mode.shape[0]), mode.dtype) @ self._wide_chol().T
        squared = 2 * random.gamma(key_scale, _DEGREES / 2, (*shape, 1), mode.dtype)
        wide = mode + normal * jnp.sqrt(_DEGREES / squared)
        is_wide = random.uniform(key_which, (*shape, 1), mode.dtype) < _WIDE_SHARE
        return jnp.where(is_wide, wide, self.fit.sample(key_skew, shape))

    def log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        """Of t `[..., d]`."""
        skew = self.fit.log_prob(t)
        # far out float32 has no number for the skewed part, and the wide one is all there is
        skew = jnp.where(jnp.isnan(skew), -jnp.inf, skew)
        return jnp.logaddexp(math.log1p(-_WIDE_SHARE) + skew, math.log(_WIDE_SHARE) + self._wide_log_prob(t))

    def _wide_chol(self) -> Float[Array, "d d"]:
        sd = jnp.sqrt(jnp.diagonal(self.fit.cov))
        return _WIDTH * sd[:, None] * jnp.linalg.cholesky(self.fit.cov / sd / sd[:, None])

    def _wide_log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        chol, d = self._wide_chol(), t.shape[-1]
        away = (t - self.fit.mode).reshape(-1, d)
        square = jnp.sum(solve_triangular(chol, away.T, lower=True) ** 2, 0).reshape(t.shape[:-1])
        constant = gammaln((_DEGREES + d) / 2) - gammaln(_DEGREES / 2) - d / 2 * math.log(_DEGREES * math.pi)
        log_det = jnp.sum(jnp.log(jnp.diagonal(chol)))
        return constant - log_det - (_DEGREES + d) / 2 * jnp.log1p(square / _DEGREES)
