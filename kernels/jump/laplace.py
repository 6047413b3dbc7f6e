"""The mode of a log density, and a normal copula with log-Gamma marginals that matches it to fourth order.

At the mode t^ of log pi let S = (-Hessian)^-1, sd_i^2 = S_ii, Rm its correlations, v_i = S e_i / S_ii the ridge along
which t_i moves and the others follow, and d_i, f_i the third and fourth derivatives of log pi along v_i:

    t_i = t^_i + s_i log(g_i / alpha_i), g_i ~ Gamma(alpha_i, 1), s_i = -1 / (sd_i^2 d_i), alpha_i = s_i^2 / sd_i^2  (1)
    x ~ N(0, Rm),   F_alpha(g_i) = Phi(x_i)                                                                (2)
    log q(t) = log N(x; 0, Rm) - sum_i log phi(x_i) + sum_i [alpha l - e^l - lgamma(alpha) - log |s|],  l = log g  (3)
    sd_i, s_i times sqrt(c_i),   c_i = 1 / (1 - (1 / alpha_i + sd_i^4 f_i) / 2)                           (4)

(1) has the mode, the curvature and the skewness of pi along each ridge; s < 0 turns the marginal round. (4) has the
next term of the variance: 1 for a log-Gamma variable, and all of it for Student's t, whose tails are heavier. All is
exact for the logarithms of independent Gamma variables, as rates of a process that is watched all
the time are a posteriori. Derivatives in t_i alone, the others held, have even the sign of the skewness wrong where
correlations are large: means are then off by .3 sd where those along ridges leave .05 (two rates, correlation .87).
Where alpha is above 1e4 a marginal is normal, and its term in (3) is log phi(x) - log sd.

Everything is for a density on R^d, whatever it came from. What a reader would get wrong: the mode of a log-Gamma
variable is not its mean.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Bool, Float, Int, Key

from .log_gamma import log_gamma_log_density, log_gamma_log_moment, log_gamma_quantile, log_gamma_score

type Point = Float[Array, " d"]
type LogDensity = Callable[[Point], Float[Array, ""]]
# (name of the iteration, step, change), on the host at each step: for a progress bar
type Tell = Callable[[str, Array, Array], None]

_NORMAL_ABOVE = 1e4
_SMALLEST_EIGENVALUE = 0.05
_HALVINGS, _ROUNDING = 30, 8.0
# Half to twice the variance: beyond, its next term says only that there are more.
_HEAVIER = (-1.0, 0.5)
# of differences of slopes, in sd: float32 knows them to 1e-6
RIDGE_STEP = 0.25
_LOG_2PI = 1.8378770664093453


class Mode(NamedTuple):
    """What `newton` returns.

    Attributes:
        position: t^ `[d]`.
        log_density: there.
        gradient: there, `[d]`.
        precision: A `[d, d]`, minus the Hessian there.
        num_steps: steps made.
        converged: whether the last step promised less than the tolerance.
    """

    position: Point
    log_density: Float[Array, ""]
    gradient: Point
    precision: Float[Array, "d d"]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


def newton(
    log_density: LogDensity,
    start: Point,
    *,
    max_steps: int = 10,
    tolerance: float = 1e-3,
    tell: Tell | None = None,
) -> Mode:
    """The mode, by damped Newton steps: eigenvalues of A are at least .05, a step is halved until the density rises.

    For a density through a filter, whose second derivatives are much to compute and to compile, there is `climb`.

    Args:
        log_density: of a vector `[d]`, twice differentiable in forward and reverse mode.
        start: `[d]`, not far: EM, or another estimate.
        max_steps: none after so many.
        tolerance: steps end where the next would raise the log density by less, in nats.
        tell: called on the host before each step with "Newton", the steps made and the nats that it promises.

    Examples:
        >>> from emberwalk.kernels.jump import newton
        >>> mode = newton(lambda t: 3 * t[0] - jnp.exp(t[0]), jnp.zeros(1))  # the log of Gamma(3, 1)
        >>> round(float(mode.position[0]), 3), round(float(jnp.log(3)), 3), bool(mode.converged)
        (1.099, 1.099, True)
    """
    # the first step goes nowhere: the density and its derivatives are traced, and compiled, at one place
    zero, one = jnp.zeros((), jnp.int32), jnp.eye(start.shape[0], dtype=start.dtype)
    nowhere = Mode(start, -jnp.inf * one[0, 0], 0 * start, one, zero - 1, zero > 0)

    def go_on(carry: tuple[Mode, Bool[Array, ""]]) -> Bool[Array, ""]:
        mode, stuck = carry
        return ~mode.converged & ~stuck & (mode.num_steps < max_steps)

    def step(carry: tuple[Mode, Bool[Array, ""]]) -> tuple[Mode, Bool[Array, ""]]:
        mode, _ = carry
        direction = _direction(mode)
        promised = mode.gradient @ direction / 2
        if tell is not None:
            jax.debug.callback(partial(tell, "Newton"), mode.num_steps, promised)
        # the last step is below what rounding does to the density: it is made whole, and may lose that much
        rounding = _ROUNDING * jnp.finfo(start.dtype).eps * jnp.abs(mode.log_density)
        last = promised < jnp.where(jnp.isfinite(rounding), jnp.maximum(tolerance, rounding), tolerance)
        slack = jnp.where(promised < tolerance, tolerance, 0.0)
        length = _length(log_density, mode._replace(log_density=mode.log_density - slack), direction)
        moved = _at(log_density, mode.position + length * direction)
        better = moved.log_density >= mode.log_density - slack
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, mode)
        begun = mode.num_steps >= 0
        converged = ((promised < tolerance) | (~better & last)) & begun
        return kept._replace(num_steps=mode.num_steps + 1, converged=converged), ~better & begun

    return lax.while_loop(go_on, step, (nowhere, zero > 0))[0]


def _at(log_density: LogDensity, position: Point) -> Mode:
    value, gradient = jax.value_and_grad(log_density)(position)

    def column(direction: Point) -> Point:
        return jax.jvp(jax.grad(log_density), (position,), (direction,))[1]

    hessian = jax.vmap(column)(jnp.eye(position.shape[0], dtype=position.dtype))
    zero = jnp.zeros((), jnp.int32)
    return Mode(position, value, gradient, -(hessian + hessian.T) / 2, zero, zero > 0)


def _each(fn: Callable[[Point], Array], rows: Float[Array, "m d"], batch_size: int | None) -> Array:
    return jax.vmap(fn)(rows) if batch_size is None else lax.map(fn, rows, batch_size=batch_size)


def _direction(mode: Mode) -> Point:
    values, vectors = jnp.linalg.eigh(mode.precision)
    return vectors @ ((vectors.T @ mode.gradient) / jnp.maximum(values, _SMALLEST_EIGENVALUE))


def _length(log_density: LogDensity, mode: Mode, direction: Point) -> Float[Array, ""]:
    """1, 1/2, ... until the density rises; NaN does not."""

    def go_on(carry: tuple[Array, Array, Array]) -> Array:
        _, value, halvings = carry
        return ~(value >= mode.log_density) & (halvings < _HALVINGS)

    def halve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        length, _, halvings = carry
        length = length / 2
        return length, log_density(mode.position + length * direction), halvings + 1

    start = jnp.asarray([2.0, jnp.nan], direction.dtype)
    return lax.while_loop(go_on, halve, (start[0], start[1], jnp.zeros((), jnp.int32)))[0]


class SkewLaplace(NamedTuple):
    """A density on R^d; see `laplace`.

    Attributes:
        mode: t^ `[d]`.
        cov: S `[d, d]`.
        skew_scale: s `[d]`, positive where the marginal leans to the left; infinite where it is normal.
        alpha: `[d]`; infinite where the marginal is normal.
    """

    mode: Float[Array, " d"]
    cov: Float[Array, "d d"]
    skew_scale: Float[Array, " d"]
    alpha: Float[Array, " d"]

    @property
    def normal(self) -> Bool[Array, " d"]:
        """Which marginals are plain normal."""
        return ~(self.alpha <= _NORMAL_ABOVE)

    @property
    @jax.jit
    def mean(self) -> Float[Array, " d"]:
        """Of each t_i."""
        alpha, s = self._safe()
        return self.mode + jnp.where(self.normal, 0, s * (digamma(alpha) - jnp.log(alpha)))

    @property
    @jax.jit
    def sd(self) -> Float[Array, " d"]:
        """Of each t_i; that of `cov` is the curvature's."""
        alpha, s = self._safe()
        return jnp.where(self.normal, self._curvature_sd(), jnp.abs(s) * jnp.sqrt(polygamma(1, alpha)))

    @jax.jit
    def mean_exp(self, power: float = 1.0) -> Float[Array, " d"]:
        """E exp(power t_i): of a rate whose logarithm is t_i the moment; infinite where alpha <= -power s."""
        return jnp.exp(power * self.mode + self.log_moment(power))

    @jax.jit
    def log_moment(self, power: float = 1.0) -> Float[Array, " d"]:
        """log E exp(power (t_i - its mode)): small, and known to its last digits, where a rate is known well."""
        alpha, s = self._safe()
        normal = (power * self._curvature_sd()) ** 2 / 2
        return jnp.where(self.normal, normal, log_gamma_log_moment(alpha, power * s))

    @jax.jit
    def quantile(self, p: float | Array) -> Float[Array, "*shape d"]:
        """Of each t_i at the probability p, a number or `[..., d]`."""
        x = jax.scipy.special.ndtri(jnp.asarray(p, self.mode.dtype))
        return self.from_score(jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, self.mode.shape)))

    @partial(jax.jit, static_argnames="shape")
    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Draws `[*shape, d]`, equations (1) and (2)."""
        noise = random.normal(key, (*shape, self.mode.shape[0]), self.mode.dtype)
        return self.from_score(noise @ self._correlation_chol().T)

    @jax.jit
    def log_prob(self, t: Float[Array, "*shape d"]) -> Float[Array, "*shape"]:
        """Equation (3) at t `[..., d]`."""
        x, log_marginal = self._score(t)
        chol = self._correlation_chol()
        flat = x.reshape(-1, x.shape[-1])
        whitened = solve_triangular(chol, flat.T, lower=True).T.reshape(x.shape)
        log_joint = -(whitened**2).sum(-1) / 2 - jnp.log(jnp.diagonal(chol)).sum()
        # the constants of N and of phi cancel
        return log_joint + (x**2).sum(-1) / 2 + log_marginal.sum(-1)

    def _safe(self) -> tuple[Array, Array]:
        """alpha and s, with numbers that stand for those of normal marginals."""
        return jnp.where(self.normal, 1.0, self.alpha), jnp.where(self.normal, 1.0, self.skew_scale)

    def _curvature_sd(self) -> Float[Array, " d"]:
        return jnp.sqrt(jnp.diagonal(self.cov))

    def _correlation_chol(self) -> Float[Array, "d d"]:
        sd = self._curvature_sd()
        return jnp.linalg.cholesky(self.cov / sd / sd[:, None])

    @jax.jit
    def from_score(self, x: Float[Array, "*shape d"]) -> Float[Array, "*shape d"]:
        """t of the normal scores x, each of its own coordinate; equation (2)."""
        alpha, s = self._safe()
        skew = s * (log_gamma_quantile(alpha, jnp.sign(s) * x) - jnp.log(alpha))
        return self.mode + jnp.where(self.normal, self._curvature_sd() * x, skew)

    def _score(self, t: Float[Array, "*shape d"]) -> tuple[Array, Array]:
        """x of (2), and the log density of each marginal."""
        alpha, s = self._safe()
        sd, away = self._curvature_sd(), t - self.mode
        x_normal = away / sd
        log_g = jnp.where(self.normal, 0.0, away / s) + jnp.log(alpha)
        x = jnp.where(self.normal, x_normal, jnp.sign(s) * log_gamma_score(alpha, log_g))
        of_normal = -(x_normal**2 + _LOG_2PI) / 2 - jnp.log(sd)
        of_gamma = log_gamma_log_density(alpha, log_g) - jnp.log(jnp.abs(s))
        return x, jnp.where(self.normal, of_normal, of_gamma)


def laplace(
    log_density: LogDensity, mode: Mode, *, batch_size: int | None = None, nested: bool = False
) -> SkewLaplace:
    """Equations (1) and (4) at a mode.

    Args:
        log_density: of a vector `[d]`, differentiable; with `nested` four times, in forward mode.
        mode: from `newton`.
        batch_size: ridges at once; all of them without it.
        nested: whether third and fourth derivatives are those of nested forward mode, to the last digit. Else they are
            differences of slopes, right to a percent for a handful of jumps and better for more: half the work, and
            an eighth of the program to compile.

    Returns:
        The density, with `.sample`, `.log_prob`, `.mean`, `.sd`, `.quantile`, `.mean_exp`. Directions in which log pi
        is not curved downwards get the curvature .05.

    Examples:
        >>> from emberwalk.kernels.jump import laplace, newton
        >>> log_density = lambda t: 3 * t[0] - jnp.exp(t[0])  # the log of Gamma(3, 1), which it is exact for
        >>> fit = laplace(log_density, newton(log_density, jnp.zeros(1), tolerance=1e-6), nested=True)
        >>> round(float(fit.alpha[0]), 2), round(float(fit.mean_exp()[0]), 2)
        (3.0, 3.0)
    """
    values, vectors = jnp.linalg.eigh(mode.precision)
    values = jnp.maximum(values, _SMALLEST_EIGENVALUE)
    cov = (vectors / values) @ vectors.T
    variance = jnp.diagonal(cov)
    # one sd of t_i long: derivatives are then numbers without a scale
    ridges = cov / jnp.sqrt(variance)[:, None]
    derivatives = _nested if nested else _differences
    third, fourth = _each(partial(derivatives, log_density, mode.position), ridges, batch_size).T
    return skewed(mode.position, cov, third, fourth)


@jax.jit
def skewed(mode: Point, cov: Float[Array, "d d"], third: Point, fourth: Point) -> SkewLaplace:
    """Equations (1) and (4).

    Args:
        mode: t^ `[d]`.
        cov: S `[d, d]`.
        third: derivatives along the ridges, each one sd of its t_i long: sd_i^3 d_i `[d]`.
        fourth: likewise, sd_i^4 f_i.
    """
    variance = jnp.diagonal(cov)
    is_skewed = jnp.abs(third) > 0
    alpha = 1 / jnp.where(is_skewed, third, 1) ** 2
    width = jnp.sqrt(variance / (1 - jnp.clip((third**2 + fourth) / 2, *_HEAVIER)))
    s = jnp.where(is_skewed, -jnp.sign(third) * width * jnp.sqrt(alpha), jnp.inf)
    correlations = cov / jnp.sqrt(variance) / jnp.sqrt(variance)[:, None]
    return SkewLaplace(
        mode, correlations * width * width[:, None], s, jnp.where(is_skewed, alpha, jnp.inf)
    )


def _along(log_density: LogDensity, position: Point, direction: Point) -> Callable[[Array], Array]:
    return lambda step: log_density(position + step * direction)


def _derivative(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda step: jax.jvp(fn, (step,), (jnp.ones_like(step),))[1]


def _nested(log_density: LogDensity, position: Point, direction: Point) -> Float[Array, "2"]:
    """Third and fourth derivative."""
    third = _derivative(_derivative(_derivative(_along(log_density, position, direction))))
    zero = jnp.zeros((), position.dtype)
    return jnp.stack(jax.jvp(third, (zero,), (jnp.ones_like(zero),)))


def _differences(log_density: LogDensity, position: Point, direction: Point) -> Float[Array, "2"]:
    """The same from the slope at five places: gradients alone, which are less to compile."""

    def slope(step: Array) -> Array:
        return jax.grad(log_density)(position + step * direction) @ direction

    return jnp.stack(third_and_fourth(lax.map(slope, RIDGE_STEP * jnp.arange(-2, 3, dtype=position.dtype))))


def third_and_fourth(slopes: Float[Array, "5 *d"]) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
    """Third and fourth derivative from the slopes at -2, ..., 2 steps of `RIDGE_STEP`; 0 where one is not finite.

        [16 (g_1 + g_-1) - (g_2 + g_-2) - 30 g_0] / 12 h^2,   [g_2 - g_-2 - 2 (g_1 - g_-1)] / 2h^3         (5)

    Args:
        slopes: along ridges, each one sd of its t_i long.
    """
    far_behind, behind, here, ahead, far_ahead = slopes
    third = (16 * (ahead + behind) - far_ahead - far_behind - 30 * here) / (12 * RIDGE_STEP**2)
    fourth = (far_ahead - far_behind - 2 * (ahead - behind)) / (2 * RIDGE_STEP**3)
    known = jnp.isfinite(third) & jnp.isfinite(fourth)
    return jnp.where(known, third, 0), jnp.where(known, fourth, 0)
