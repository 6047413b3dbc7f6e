"""The logarithm of a Gamma variable as a monotone function of a normal one, and back.

    F_alpha(g) = Phi(x)                                                                                    (1)
    x = r + log(v / r) / r,  u = log g - log alpha,  r = sgn(u) sqrt(2 alpha (e^u - 1 - u)),
                             v = sqrt(alpha) (e^u - 1)                                                     (2)

JAX has no inverse of the incomplete gamma function. Below alpha = 100 (1) is solved by Newton on log F, concave in
log g, and on log(1 - F) above the median, so that neither tail is 0. From there on (2), the saddlepoint form of
Barndorff-Nielsen (1986), is closer to (1) than float32 can compute the incomplete function: 4e-6 in x.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammainc, gammaincc, gammaln, log_ndtr, ndtri
from jaxtyping import Array, Float

type Values = Float[Array, "*shape"]

_SADDLEPOINT = 100.0
_NEWTON_STEPS = 10
# Below this g the series is summed: exact in both tails, also where g underflows and log F does not.
_SMALL, _TERMS = 1.0, 12
_LOG_2PI = 1.8378770664093453


@jax.jit
def log_gamma_log_density(alpha: Values, log_g: Values) -> Values:
    """Log density of log g, g ~ Gamma(alpha, 1).

    As alpha (u - e^u + 1) less Stirling's correction where alpha is large: the plain form loses four digits there.
    """
    large = jnp.maximum(alpha, 20.0)
    stirling = 0.5 * (jnp.log(large) - _LOG_2PI) - 1 / (12 * large) + 1 / (360 * large**3)
    plain = alpha * log_g - jnp.exp(log_g) - gammaln(alpha)
    return jnp.where(alpha > 20, stirling + log_gamma_below_mode(alpha, log_g), plain)


def log_gamma_below_mode(alpha: Values, log_g: Values) -> Values:
    """Log density of log g less that at its mode, log alpha: no Gamma function is in it."""
    return -alpha * _exp_less_two_terms(log_g - jnp.log(alpha))


@jax.jit
def log_gamma_log_moment(alpha: Values, s: Values) -> Values:
    """log E (g / alpha)^s, g ~ Gamma(alpha, 1); infinite where alpha + s is not above 0.

    By Stirling's series where alpha is large: of the difference of two log Gammas float32 keeps nothing there.
    """
    finite = alpha + s > 0
    end = jnp.where(finite, alpha + s, 1.0)
    large = jnp.minimum(alpha, end) > 20
    a, b, by = jnp.where(large, alpha, 20.0), jnp.where(large, end, 20.0), jnp.where(large, s, 0.0)
    corrections = (1 / b - 1 / a) / 12 - (1 / b**3 - 1 / a**3) / 360
    plain = gammaln(end) - gammaln(alpha) - s * jnp.log(alpha)
    found = jnp.where(large, (b - 0.5) * jnp.log1p(by / a) - by + corrections, plain)
    return jnp.where(finite, found, jnp.inf)


def _exp_less_two_terms(u: Values) -> Values:
    """e^u - 1 - u, without cancellation."""
    small = jnp.where(jnp.abs(u) < 0.3, u, 0)
    series = 1 + small / 3 * (
        1 + small / 4 * (1 + small / 5 * (1 + small / 6 * (1 + small / 7 * (1 + small / 8))))
    )
    return jnp.where(jnp.abs(u) < 0.3, small**2 / 2 * series, jnp.expm1(u) - u)


@jax.jit
def log_gamma_log_cdf(alpha: Values, log_g: Values) -> tuple[Values, Values]:
    """log F and log(1 - F) at log_g, finite far out in both tails."""
    g = jnp.exp(log_g)
    tiny = jnp.finfo(g.dtype).tiny
    front = alpha * log_g - g - gammaln(alpha + 1)
    # F = g^a e^-g / Gamma(a + 1) (1 + r_1 (1 + r_2 (...))), r_k = g / (a + k)
    few, tail = jnp.minimum(g, _SMALL), jnp.zeros_like(g)
    for k in range(_TERMS, 0, -1):
        tail = few / (alpha + k) * (1 + tail)
    series = jnp.minimum(front + jnp.log1p(tail), -tiny)
    cdf, survival = gammainc(alpha, g), gammaincc(alpha, g)
    deep = front - jnp.log1p(-jnp.minimum(g / (alpha + 1), 0.9))
    log_cdf = jnp.where(
        g < _SMALL, series, jnp.where(cdf > 1e3 * tiny, jnp.log(jnp.maximum(cdf, tiny)), deep)
    )
    beyond = front + jnp.log(alpha) - jnp.log(jnp.maximum(g - alpha + 1, 1))
    log_survival = jnp.where(survival > 1e3 * tiny, jnp.log(jnp.maximum(survival, tiny)), beyond)
    # there 1 - F is known to more digits than it is computed to
    log_survival = jnp.where(g < _SMALL, jnp.log(-jnp.expm1(series)), log_survival)
    return log_cdf, log_survival


@jax.jit
def normal_score(log_cdf: Values, log_survival: Values) -> Values:
    """x with log Phi(x) = log F, by the smaller of both tails."""
    smaller = jnp.minimum(log_cdf, log_survival)
    near = smaller > -60
    near_value = jnp.where(near, smaller, -1.0)
    x = ndtri(jnp.exp(near_value))
    for _ in range(2):
        log_phi = log_ndtr(x)
        x = x - (log_phi - near_value) * jnp.exp(log_phi + (x**2 + _LOG_2PI) / 2)
    # log Phi(x) = -(x^2 + log 2 pi) / 2 - log |x| - 1 / x^2, far out
    most = jnp.where(near, 120.0, -2 * smaller - _LOG_2PI)
    square = most - jnp.log(most)
    square = most - jnp.log(square) - 2 / square
    x = jnp.where(near, x, -jnp.sqrt(square))
    return jnp.where(log_cdf < log_survival, x, -x)


def _saddlepoint_score(alpha: Values, log_g: Values) -> Values:
    """Equation (2)."""
    u = log_g - jnp.log(alpha)
    near = jnp.abs(u) < 1e-2
    far = jnp.where(near, 1.0, u)
    r = jnp.sign(far) * jnp.sqrt(2 * alpha * _exp_less_two_terms(far))
    correction = jnp.log(jnp.sqrt(alpha) * jnp.expm1(far) / r) / r
    small = jnp.where(near, u, 0.0)
    r_near = jnp.sqrt(alpha) * small * jnp.sqrt(2 * _exp_less_two_terms_over_square(small))
    correction_near = (1 / 3 + small / 36) / (jnp.sqrt(alpha) * (1 + small / 6))
    return jnp.where(near, r_near + correction_near, r + correction)


def _exp_less_two_terms_over_square(u: Values) -> Values:
    """(e^u - 1 - u) / u^2 near 0."""
    return 0.5 * (1 + u / 3 * (1 + u / 4 * (1 + u / 5)))


@jax.jit
def log_gamma_score(alpha: Values, log_g: Values) -> Values:
    """x of equation (1) at log_g: standard normal where log_g is the logarithm of a Gamma variable.

    Args:
        alpha: shape of the Gamma distribution, from .02 on.
        log_g: any shape that broadcasts with alpha.

    Examples:
        >>> from emberwalk.kernels.jump import log_gamma_score
        >>> round(abs(float(log_gamma_score(jnp.float32(1.0), jnp.log(jnp.log(2.0))))), 3)  # the median of Exp(1)
        0.0
    """
    alpha, log_g = jnp.broadcast_arrays(alpha, log_g)
    few = jnp.minimum(alpha, _SADDLEPOINT)
    exact = normal_score(*log_gamma_log_cdf(few, jnp.where(alpha < _SADDLEPOINT, log_g, jnp.log(few))))
    many = jnp.maximum(alpha, _SADDLEPOINT)
    by_saddlepoint = _saddlepoint_score(many, jnp.where(alpha < _SADDLEPOINT, jnp.log(many), log_g))
    return jnp.where(alpha < _SADDLEPOINT, exact, by_saddlepoint)


@jax.jit
def log_gamma_quantile(alpha: Values, x: Values) -> Values:
    """log_g of equation (1) at x.

    Args:
        alpha: shape of the Gamma distribution, from .02 on.
        x: any shape that broadcasts with alpha.

    Examples:
        >>> from emberwalk.kernels.jump import log_gamma_quantile
        >>> round(float(jnp.exp(log_gamma_quantile(jnp.float32(1.0), jnp.float32(0.0)))), 4)  # log 2
        0.6931
    """
    alpha, x = jnp.broadcast_arrays(alpha, x)
    few, many = jnp.minimum(alpha, _SADDLEPOINT), jnp.maximum(alpha, _SADDLEPOINT)
    return jnp.where(alpha < _SADDLEPOINT, _exact_quantile(few, x), _saddlepoint_quantile(many, x))


def _first_guess(alpha: Values, x: Values) -> Values:
    """Wilson and Hilferty's cube, or the lower tail, log F ~ alpha log_g - log Gamma(alpha + 1)."""
    tail = (log_ndtr(x) + gammaln(alpha + 1)) / alpha
    root = 1 - 1 / (9 * alpha) + x / (3 * jnp.sqrt(alpha))
    cube = jnp.log(alpha) + 3 * jnp.log(jnp.maximum(root, 0.1))
    return jnp.where((alpha > 1) & (root > 0.1), cube, tail)


def _exact_quantile(alpha: Values, x: Values) -> Values:
    lower = x <= 0
    wanted = log_ndtr(-jnp.abs(x))

    def newton(log_g: Values, _: None) -> tuple[Values, None]:
        log_cdf, log_survival = log_gamma_log_cdf(alpha, log_g)
        reached = jnp.where(lower, log_cdf, log_survival)
        slope = jnp.exp(log_gamma_log_density(alpha, log_g) - reached)
        step = (reached - wanted) / jnp.maximum(slope, jnp.finfo(log_g.dtype).tiny)
        # the upper tail is flat near the median of a small alpha: no leap from there
        return jnp.where(lower, log_g - step, log_g + jnp.clip(step, -1.5, 1.5)), None

    return lax.scan(newton, _first_guess(alpha, x), length=_NEWTON_STEPS)[0]


def _saddlepoint_quantile(alpha: Values, x: Values) -> Values:
    def newton(log_g: Values, _: None) -> tuple[Values, None]:
        score = _saddlepoint_score(alpha, log_g)
        slope = jnp.exp(log_gamma_log_density(alpha, log_g) + (score**2 + _LOG_2PI) / 2)
        return log_g - (score - x) / slope, None

    return lax.scan(newton, _first_guess(alpha, x), length=3)[0]
