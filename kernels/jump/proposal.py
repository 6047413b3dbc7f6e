"""What an independence sampler proposes: the skewed Laplace density, and now and then something wide.

    t_i = T_i(x_i),   x ~ N(0, Rm),   log q_skew(t) = log N(x; 0, Rm) - sum_i log T_i'(x_i)                 (1)
    q(t) = .95 q_skew(t) + .05 Student-t_5(t; mode, 1.5^2 S)                                                (2)

Weights pi / q are bounded only where q has the heavier tail; the second part of (2) sees to it, at the price of one
proposal in twenty. Its tails are not looked for: it is fixed.

T_i is the quantile of the i-th marginal of a `SkewLaplace` at 513 scores x from -9 to 9, read off a table, and straight
between and beyond them. So (1) is the exact density of what is drawn, whatever the table leaves out, and the quantiles
may come from sums over a fine grid. A sampler asks for (1) at every draw: the incomplete gamma function of the
marginals would cost more than the density that is sampled, and as much to compile as the rest of the program.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key

from .laplace import SkewLaplace
from .log_gamma import log_gamma_below_mode

_WIDE_SHARE, _DEGREES, _WIDTH = 0.05, 5, 1.5
_FARTHEST, _INTERVALS = 9.0, 512
_STEP = 2 * _FARTHEST / _INTERVALS
_GRID, _BEND = 2048, 4.0
_LOG_2PI = math.log(2 * math.pi)


class Proposal(NamedTuple):
    """Equations (1) and (2); made by `tabled`.

    Attributes:
        mode: of the fit `[d]`.
        sd: by its curvature `[d]`.
        knots: T_i at the scores, less the mode, rising, `[d, 513]`.
        chol: Cholesky factor of the correlations Rm, `[d, d]`.
        whiten: its inverse.
    """

    mode: Float[Array, " d"]
    sd: Float[Array, " d"]
    knots: Float[Array, "d m"]
    chol: Float[Array, "d d"]
    whiten: Float[Array, "d d"]

    @partial(jax.jit, static_argnames="shape")
    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Draws `[*shape, d]`."""
        key_which, key_normal, key_scale = random.split(key, 3)
        x = random.normal(key_normal, (*shape, self.mode.shape[0]), self.mode.dtype) @ self.chol.T
        # chi squared: a sum, where a Gamma draw is a loop that takes a second to compile
        squared = (random.normal(key_scale, (*shape, _DEGREES), self.mode.dtype) ** 2).sum(-1, keepdims=True)
        wide = _WIDTH * self.sd * x * jnp.sqrt(_DEGREES / squared)
        is_wide = random.uniform(key_which, (*shape, 1), self.mode.dtype) < _WIDE_SHARE
        return self.mode + jnp.where(is_wide, wide, self._away(x))

    @jax.jit
    def log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        """Of t `[..., d]`."""
        skew = self.skew_log_prob(t) + math.log1p(-_WIDE_SHARE)
        return jnp.logaddexp(skew, self._wide_log_prob(t) + math.log(_WIDE_SHARE))

    @jax.jit
    def skew_log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        """Equation (1)."""
        x, slope = self.score(t)
        square = ((x @ self.whiten.T) ** 2).sum(-1)
        return self._log_det() - (square + x.shape[-1] * _LOG_2PI) / 2 - jnp.log(slope).sum(-1)

    @jax.jit
    def score(self, t: Float[Array, "*shape d"]) -> tuple[Float[Array, "*shape d"], Float[Array, "*shape d"]]:
        """x of (1), and T'(x)."""
        away = t - self.mode
        below = jax.vmap(lambda knots, away: jnp.searchsorted(knots, away, side="right"), (0, -1), -1)
        k = jnp.clip(below(self.knots, away) - 1, 0, _INTERVALS - 1)
        start, slope = self._interval(k)
        return k * _STEP - _FARTHEST + (away - start) / slope, slope

    def _away(self, x: Float[Array, "*shape d"]) -> Float[Array, "*shape d"]:
        """T(x), less the mode."""
        k = jnp.clip(jnp.floor((x + _FARTHEST) / _STEP).astype(jnp.int32), 0, _INTERVALS - 1)
        start, slope = self._interval(k)
        return start + (x + _FARTHEST - k * _STEP) * slope

    def _interval(self, k: Int[Array, "*shape d"]) -> tuple[Float[Array, "*shape d"], Float[Array, "*shape d"]]:
        each = jnp.arange(self.knots.shape[0])
        start, end = self.knots[each, k], self.knots[each, k + 1]
        # scores far out may share a value in float32
        return start, jnp.maximum((end - start) / _STEP, jnp.finfo(start.dtype).tiny)

    def _log_det(self) -> Float[Array, ""]:
        return jnp.log(jnp.diagonal(self.whiten)).sum()

    def _wide_log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        d = t.shape[-1]
        square = ((((t - self.mode) / (_WIDTH * self.sd)) @ self.whiten.T) ** 2).sum(-1)
        # of numbers that are known: the log Gamma function of JAX is as long to compile as a filter
        log_gammas = math.lgamma((_DEGREES + d) / 2) - math.lgamma(_DEGREES / 2)
        constant = log_gammas - d / 2 * math.log(_DEGREES * math.pi)
        log_det = self._log_det() - jnp.log(_WIDTH * self.sd).sum()
        return constant + log_det - (_DEGREES + d) / 2 * jnp.log1p(square / _DEGREES)


@jax.jit
def tabled(fit: SkewLaplace) -> Proposal:
    """The proposal of a fit.

    Args:
        fit: of `laplace`.

    Examples:
        >>> from emberwalk.kernels.jump import laplace, newton, tabled
        >>> log_density = lambda t: 3 * t[0] - jnp.exp(t[0])
        >>> proposal = tabled(laplace(log_density, newton(log_density, jnp.zeros(1))))
        >>> t = proposal.sample(random.key(0), (1000,))
        >>> weights = jnp.exp(jnp.vectorize(log_density, signature="(d)->()")(t) - proposal.log_prob(t))
        >>> round(float(weights.mean()), 1)  # the mass of the density is Gamma(3) = 2
        2.0
    """
    sd = jnp.sqrt(jnp.diagonal(fit.cov))
    chol = jnp.linalg.cholesky(fit.cov / sd / sd[:, None])
    whiten = jax.scipy.linalg.solve_triangular(chol, jnp.eye(len(sd), dtype=chol.dtype), lower=True)
    alpha, s = (jnp.where(fit.normal, 1, x)[:, None] for x in (fit.alpha, fit.skew_scale))
    scores = jnp.linspace(-_FARTHEST, _FARTHEST, _INTERVALS + 1, dtype=fit.mode.dtype)
    log_g = jax.vmap(_log_gamma_quantiles, (0, None))(alpha[:, 0], scores)
    # a marginal that is turned round has its scores turned round as well
    skewed = s * (jnp.where(s > 0, log_g, log_g[:, ::-1]) - jnp.log(alpha))
    knots = jnp.where(fit.normal[:, None], sd[:, None] * scores, skewed)
    return Proposal(fit.mode, sd, knots, chol, whiten)


def _log_gamma_quantiles(alpha: Float[Array, ""], scores: Float[Array, " m"]) -> Float[Array, " m"]:
    """Of log g, g ~ Gamma(alpha, 1), at rising scores, by the trapezoid rule; each tail is summed from its end."""
    # log F is -45 at the lower end, by Stirling's formula where alpha is small, and log (1 - F) at the upper
    stirling = (alpha + 0.5) * jnp.log(alpha + 1) - alpha - 1 + _LOG_2PI / 2 + 1 / (12 * (alpha + 1))
    low = jnp.where(alpha > 30, jnp.log(alpha) - 13 / jnp.sqrt(alpha), (stirling - 45) / alpha)
    high = jnp.log(alpha + 14 * jnp.sqrt(alpha) + 50)
    # closer together at the upper end, where a small alpha has all that bends
    back = jnp.expm1(_BEND * jnp.linspace(1, 0, _GRID, dtype=scores.dtype)) / math.expm1(_BEND)
    log_g = high - (high - low) * back
    density = jnp.exp(log_gamma_below_mode(alpha, log_g))
    mass = (density[1:] + density[:-1]) / 2 * jnp.diff(log_g)
    nothing = jnp.zeros((1,), mass.dtype)
    below = jnp.concatenate([nothing, jnp.cumsum(mass)])
    above = jnp.concatenate([jnp.cumsum(mass[::-1])[::-1], nothing])
    lower = jnp.maximum(jnp.minimum(below, above) / mass.sum(), jnp.finfo(mass.dtype).tiny)
    x = jnp.where(below < above, ndtri(lower), -ndtri(lower))
    return jnp.interp(scores, x, log_g)
