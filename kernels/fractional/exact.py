"""Fractional Brownian motion without a bank: exact covariances, draws and density.

    Cov(B_s, B_t)  = (s^2H + t^2H - |t - s|^2H) / 2                                                      (1)
    Cov(dB_i, dB_j) = f(c + p) + f(c - p) - f(c + q) - f(c - q),    f(t) = |t|^2H / 2                    (2)
                    = c^2H sum_k C(2H, 2k) (p^2k - q^2k) / c^2k,    k = 1, 2, ...                        (3)
    p = (d_i + d_j) / 2,   q = (d_i - d_j) / 2,   p^2k - q^2k = d_i d_j sum_m p^2m q^2(k-1-m)

d are the lengths of two steps and c the distance of their midpoints. Draws factor the covariance of the increments,
which is better conditioned than (1), by Cholesky or, on a uniform grid, by a circulant (Davies and Harte 1987).
The density is Durbin and Levinson's recursion in its lattice form, O(N^2).

What a reader would get wrong: (2) in float32 is off by 40 % at large c, and the maximum in H of a likelihood made
of it is elsewhere. All terms of (3) have one sign, so that it loses nothing; it is used for c >= 4p, on a
uniform grid for all c >= 2p.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Key
from numpy.typing import NDArray

type Number = float | Float[Array, ""]
# increasing; of float64 on the host, or an array of JAX
type Times = NDArray[np.float64] | Float[Array, " M+1"]

# Terms of (3): the first left out is below 4^-24 at c = 2p, and below 16^-12 at c = 4p.
_UNIFORM_TERMS = 24
_IRREGULAR_TERMS = 12
_FAR = 4.0


def fbm_covariance(ts: Times, hurst: Number) -> Float[Array, "M M"]:
    """Covariance of B at `ts`, equation (1).

    Args:
        ts: `[M]`, times since the origin, where B is 0; not below 0.
        hurst: H in (0, 1), may be traced.

    Examples:
        >>> from emberwalk.kernels.fractional import fbm_covariance
        >>> fbm_covariance(np.array([1.0, 2.0]), 0.5).tolist()  # Brownian: the earlier time
        [[1.0, 1.0], [1.0, 2.0]]
    """
    ts = jnp.asarray(ts)
    variance = 2 * _half_power(ts, hurst)
    return (variance[:, None] + variance) / 2 - _half_power(ts[:, None] - ts, hurst)


def increment_covariance(ts: Times, hurst: Number) -> Float[Array, "M M"]:
    """Covariance of the increments of B over the steps of `ts`, equations (2) and (3).

    Args:
        ts: `[M + 1]`, increasing, any spacing. A NumPy array of float64 has its differences taken there.
        hurst: H in (0, 1), may be traced.

    Examples:
        >>> from emberwalk.kernels.fractional import increment_covariance
        >>> increment_covariance(np.array([0.0, 1.0, 3.0]), 0.5).tolist()  # Brownian: independent
        [[1.0, 0.0], [0.0, 2.0]]
    """
    steps, middles = ts[1:] - ts[:-1], (ts[1:] + ts[:-1]) / 2
    d, c = jnp.asarray(steps), jnp.asarray(abs(middles[:, None] - middles))
    p, q = (d[:, None] + d) / 2, (d[:, None] - d) / 2
    is_far = c >= _FAR * p
    return jnp.where(is_far, _far(jnp.where(is_far, c, _FAR * p), p, q, hurst), _near(c, p, q, hurst))


def fgn_autocovariance(n: int, hurst: Number, dt: Number = 1.0) -> Float[Array, " n"]:
    """R(0), ..., R(n-1): covariance of increments l steps apart on a uniform grid, by equation (3).

    Args:
        n: number of lags.
        hurst: H in (0, 1), may be traced; the result has its precision.
        dt: length of a step.

    Examples:
        >>> from emberwalk.kernels.fractional import fgn_autocovariance
        >>> [round(float(R), 4) for R in fgn_autocovariance(3, 0.75)]
        [1.0, 0.4142, 0.2696]
    """
    hurst = jnp.asarray(hurst)
    lag = jnp.maximum(jnp.arange(n, dtype=hurst.dtype), 2)
    binomials = _even_binomials(hurst, _UNIFORM_TERMS, hurst.dtype)
    late = lag ** (2 * hurst - 2) * jnp.polyval(binomials[::-1], lag**-2)
    # R(1) = 2^(2H-1) - 1, without its cancellation at H = 1/2
    first = jnp.stack([jnp.ones_like(hurst), jnp.expm1((2 * hurst - 1) * jnp.log(2.0))])
    return jnp.asarray(dt, hurst.dtype) ** (2 * hurst) * jnp.concatenate([first, late[2:]])[:n]


def cholesky_increments(noise: Float[Array, " M"], ts: Times, hurst: Number) -> Float[Array, " M"]:
    """Increments of B over the steps of `ts` made of independent normals `[M]`; their running sum is B.

    Examples:
        >>> from emberwalk.kernels.fractional import cholesky_increments
        >>> cholesky_increments(jnp.ones(2), np.array([0.0, 1.0, 5.0]), 0.5).tolist()
        [1.0, 2.0]
    """
    return jnp.linalg.cholesky(increment_covariance(ts, hurst)) @ noise


def circulant_increments(noise: Float[Array, " 2n"], hurst: Number, dt: Number = 1.0) -> Float[Array, " n"]:
    """Increments of B on a uniform grid made of 2n independent normals, in O(n log n).

    The covariance on a circle of 2n steps has no negative eigenvalue for any H; rounding is cut off.

    Examples:
        >>> from emberwalk.kernels.fractional import circulant_increments
        >>> circulant_increments(jnp.array([1.0, 2.0, 0.0, 0.0]), 0.5).tolist()  # Brownian: as they are
        [1.0, 2.0]
    """
    n = noise.shape[-1] // 2
    half = fgn_autocovariance(n + 1, hurst, dt)
    eigenvalues = jnp.fft.rfft(jnp.concatenate([half, half[-2:0:-1]])).real
    # the square root has no slope at 0
    root = jnp.sqrt(jnp.maximum(eigenvalues, jnp.finfo(half.dtype).tiny))
    return jnp.fft.irfft(root * jnp.fft.rfft(noise), 2 * n)[..., :n]


def sample_cholesky(key: Key[Array, ""], ts: Times, hurst: Number) -> Float[Array, " M"]:
    """A draw of the increments of B over the steps of `ts`, in O(M^3).

    Examples:
        >>> from emberwalk.kernels.fractional import sample_cholesky
        >>> path = jnp.cumsum(sample_cholesky(random.key(0), np.array([0.0, 0.5, 2.0]), 0.3))
    """
    return cholesky_increments(random.normal(key, (len(ts) - 1,), jnp.asarray(hurst).dtype), ts, hurst)


def sample_davies_harte(key: Key[Array, ""], n: int, hurst: Number, dt: Number = 1.0) -> Float[Array, " n"]:
    """A draw of n increments of B on a uniform grid, in O(n log n).

    Examples:
        >>> from emberwalk.kernels.fractional import sample_davies_harte
        >>> path = jnp.cumsum(sample_davies_harte(random.key(0), 1000, 0.3, dt=1e-3))
    """
    return circulant_increments(random.normal(key, (2 * n,), jnp.asarray(hurst).dtype), hurst, dt)


def fgn_log_density(
    x: Float[Array, " n"], hurst: Number, scale: Number = 1.0, dt: Number = 1.0
) -> Float[Array, ""]:
    """Log density of increments of scale times B on a uniform grid, in O(n^2), with a derivative in all of it.

    Args:
        x: `[n]`, of mean 0.
        hurst: H in (0, 1).
        scale: sd of an increment over one unit of time.
        dt: length of a step.

    Examples:
        >>> from emberwalk.kernels.fractional import fgn_log_density
        >>> round(float(fgn_log_density(jnp.zeros(2), 0.5)), 4)  # two standard normals
        -1.8379
    """
    hurst = jnp.asarray(hurst, x.dtype)
    unit = scale * jnp.asarray(dt, x.dtype) ** hurst
    return stationary_log_density(x / unit, fgn_autocovariance(len(x), hurst)) - len(x) * jnp.log(unit)


def stationary_log_density(x: Float[Array, " n"], autocovariance: Float[Array, " n"]) -> Float[Array, ""]:
    """Log density of any stationary Gaussian series of mean 0, such as a bank's increments, in O(n^2).

    Args:
        x: `[n]`.
        autocovariance: `[n]`, at the lags 0, ..., n - 1.

    Examples:
        >>> from emberwalk.kernels.fractional import stationary_log_density
        >>> round(float(stationary_log_density(jnp.zeros(2), jnp.array([1.0, 0.0]))), 4)
        -1.8379
    """
    errors, variances = _innovations(x, autocovariance)
    return -jnp.sum(errors**2 / variances + jnp.log(2 * jnp.pi * variances)) / 2


def _innovations(
    x: Float[Array, " n"], r: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Errors and variances of predicting each x from all before it.

    With f_t the error of predicting x_t from the n before it and b_t that of x_{t-n} from the n after it,
    f_t - k b_{t-1} and b_{t-1} - k f_t are those of one more; their covariances with x obey the same recursion,
    so that both are rows of one array.
    """

    def lengthen(carry, n):
        forward, backward, variance = carry
        late = jnp.roll(backward, 1, axis=1)
        k = forward[0, n] / variance
        forward, backward = forward - k * late, late - k * forward
        variance = variance * (1 - k**2)
        return (forward, backward, variance), (forward[1, n], variance)

    both = jnp.stack([r, x])
    _, (errors, variances) = lax.scan(lengthen, (both, both, r[0]), jnp.arange(1, len(x)))
    return jnp.append(x[0], errors), jnp.append(r[0], variances)


def _near(c: Array, p: Array, q: Array, hurst: Number) -> Float[Array, "M M"]:
    """Equation (2)."""
    gap = jnp.where(_touching(len(c)), 0.0, c - p)
    outer = _half_power(c + p, hurst) + _half_power(gap, hurst)
    return outer - _half_power(c + q, hurst) - _half_power(c - q, hurst)


def _far(c: Array, p: Array, q: Array, hurst: Number) -> Float[Array, "M M"]:
    """Equation (3); d_i d_j = p^2 - q^2."""
    p2, q2 = (p / c) ** 2, (q / c) ** 2
    sums = [jnp.ones_like(c)]
    for k in range(1, _IRREGULAR_TERMS):
        sums.append(sums[-1] * p2 + q2**k)
    binomials = _even_binomials(hurst, _IRREGULAR_TERMS, c.dtype)
    series = jnp.einsum("k,kij->ij", binomials, jnp.stack(sums))
    return c ** (2 * jnp.asarray(hurst, c.dtype)) * (p - q) * (p + q) / c**2 * series


def _even_binomials(hurst: Number, num: int, dtype: np.dtype) -> Float[Array, " k"]:
    """C(2H, 2), C(2H, 4), ..., C(2H, 2 num)."""
    k, power = jnp.arange(1, num + 1, dtype=dtype), 2 * jnp.asarray(hurst, dtype)
    return jnp.cumprod((power - 2 * k + 2) * (power - 2 * k + 1) / (2 * k * (2 * k - 1)))


def _touching(num: int) -> np.ndarray:
    """Which steps are neighbours: what rounding leaves between them is no distance, (1e-7)^.04 is .5."""
    index = np.arange(num)
    return abs(index[:, None] - index) == 1


def _half_power(t: Float[Array, "*n"], hurst: Number) -> Float[Array, "*n"]:
    """|t|^2H / 2, whose derivative in H at t = 0 is 0 and not NaN."""
    size = jnp.abs(t)
    return jnp.where(size > 0, jnp.where(size > 0, size, 1.0) ** (2 * jnp.asarray(hurst, t.dtype)), 0.0) / 2
