"""Weights of the bank by the law of its increments, solved in float64 on the host.

    r(0) = sum_ij w_i w_j S_ij (x_i + x_j),   S_ij = 2 sqrt(g_i g_j) / (g_i + g_j),   x = -expm1(-g D)
    r(l) = - sum_ij w_i w_j S_ij x_j^2 exp(-g_j (l-1) D),   l >= 1                                       (1)
    R(l) = D^(2H) / 2 (|l+1|^(2H) + |l-1|^(2H) - 2 |l|^(2H))                                             (2)
    KL   = [tr(C^-1 R) - N + logdet C - logdet R] / (2N),   C, R Toeplitz, of r and of R                 (3)
    dKL  = tr((C^-1 - C^-1 R C^-1) dC) / (2N),   F_ij = tr(C^-1 dC_i C^-1 dC_j) / (2N)                   (4)

w multiplies modes of unit variance (`ou_bank.py`); (3) is the divergence of the bank from fractional noise per
increment. It is minimised in u_k = w_k sqrt(2 x_k), w in units of each mode's increment, by Gauss and Newton's steps
with the Fisher matrix F, damped as by Levenberg.

What a reader would get wrong: the divergence does not see the slow modes. A proximal term PROXIMITY/2 |u - u_ref|^2
makes the table smooth in H: u_ref continues the two knots before, outward from H = 1/2. There, and there only, the
path solution is start and reference; elsewhere it lies on another branch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import linalg

from .path_criterion import Vector, path_weights

type Series = Float[np.ndarray, " N"]

PROXIMITY = 1e-6
_SMALLEST_GAIN = 1e-11
_MAX_ITERATIONS = 100
_DAMPING = 1e-3, 1e9
# Above so many steps: increments of D, of 8 D and of 32 D, as many as fit, in place of all of them.
_WHOLE_UP_TO = 256
_WINDOWS = ((160, 1), (128, 8), (128, 32))


class Window(NamedTuple):
    """Increments of one width.

    Attributes:
        forms: `[n, K, K]`, symmetric; r(l) = u' forms[l] u.
        width: of an increment, in horizons.
    """

    forms: Float[np.ndarray, "n K K"]
    width: float


class Slope(NamedTuple):
    """Gradient and Fisher matrix of the divergence in u, equation (4)."""

    gradient: Vector
    fisher: Float[np.ndarray, "K K"]


def increment_autocovariance(rates: ArrayLike, weights: ArrayLike, num_steps: int, dt: float) -> Series:
    """r(0), ..., r(N-1) of the bank's increments, equation (1), float64.

    Args:
        rates: g, `[K]`.
        weights: w, `[K]`, of modes of unit variance, as `weights` returns them.
        num_steps: N.
        dt: D, in the unit of 1 / rates.

    Examples:
        >>> from emberwalk.kernels.fractional import increment_autocovariance
        >>> increment_autocovariance([1.0], [1.0], 2, np.log(2.0)).round(6).tolist()  # halved in a step
        [1.0, -0.25]
    """
    w = np.asarray(weights, np.float64)
    return _forms(np.asarray(rates, np.float64), num_steps, dt) @ w @ w


def kl_per_increment(rates: ArrayLike, weights: ArrayLike, hurst: float, num_steps: int, dt: float) -> float:
    """Divergence of the bank's increments from fractional noise, equation (3), in nats; O(N^2), float64.

    Args:
        rates: g, `[K]`.
        weights: w, `[K]`, as `weights` returns them.
        hurst: H.
        num_steps: N.
        dt: D, in the unit of 1 / rates.

    Returns:
        The divergence; infinite where the bank's covariance is not positive definite.

    Examples:
        >>> from emberwalk.kernels.fractional import kl_per_increment
        >>> kl_per_increment([1e-6], [(2e-6) ** -0.5], hurst=0.5, num_steps=50, dt=0.02) < 1e-9  # Brownian motion
        True
    """
    r = increment_autocovariance(rates, weights, num_steps, dt)
    R = fractional_noise(hurst, num_steps, dt)
    (sums, logdet), (_, logdet_R) = _inverse_diagonals(r), _inverse_diagonals(R)
    return float((sums @ R - num_steps + logdet - logdet_R) / (2 * num_steps))


def fractional_noise(hurst: float, num_steps: int, dt: float = 1.0) -> Series:
    """R(0), ..., R(N-1), equation (2); the second difference is exact enough in float64 only."""
    lag, power = np.arange(num_steps, dtype=np.float64), 2 * hurst
    return dt**power / 2 * ((lag + 1) ** power + np.abs(lag - 1) ** power - 2 * lag**power)


def kl_weights(rates: Vector, knots: Vector, num_steps: int) -> Float[np.ndarray, "J K"]:
    """w at each knot for a unit horizon, by continuation outward from H = 1/2.

    Args:
        rates: g, `[K]`, per horizon.
        knots: H, `[J]`, increasing, 1/2 among them; .02 apart or less.
        num_steps: N.
    """
    units = np.sqrt(-2 * np.expm1(-rates / num_steps))
    windows = _windows(rates, units, num_steps)
    middle = int(np.abs(knots - 0.5).argmin())
    path = path_weights(rates, 0.5, 1.0) * units
    centre = _fit(windows, 0.5, path, path)
    down = _continue(windows, centre, knots[middle::-1])
    up = _continue(windows, centre, knots[middle:])
    return np.array(down[:0:-1] + up) / units


def _continue(windows: list[Window], centre: Vector, knots: Vector) -> list[Vector]:
    """One fit a knot after the first, each from the line through the two before it."""
    fits = [centre]
    for i, hurst in enumerate(knots[1:], start=1):
        reference = fits[-1]
        if i > 1:
            ahead = (hurst - knots[i - 1]) / (knots[i - 1] - knots[i - 2])
            reference = fits[-1] + ahead * (fits[-1] - fits[-2])
        start = reference if np.isfinite(_value(windows, hurst, reference)) else fits[-1]
        fits.append(_fit(windows, hurst, start, reference))
    return fits


def _fit(windows: list[Window], hurst: float, start: Vector, reference: Vector) -> Vector:
    """The minimum of divergence and proximal term near `start`."""

    def objective(u: Vector) -> float:
        return _value(windows, hurst, u) + PROXIMITY / 2 * float((u - reference) @ (u - reference))

    u, value, damping = start, objective(start), _DAMPING[0]
    for _ in range(_MAX_ITERATIONS):
        slopes = [_slope(window, hurst, u) for window in windows]
        gradient = sum(s.gradient for s in slopes) + PROXIMITY * (u - reference)
        fisher = sum(s.fisher for s in slopes) + PROXIMITY * np.eye(len(u))
        u, gain, damping = _descend(objective, u, value, Slope(gradient, fisher), damping)
        value -= gain
        if gain < _SMALLEST_GAIN:
            break
    return u


def _descend(
    objective: Callable[[Vector], float], u: Vector, value: float, slope: Slope, damping: float
) -> tuple[Vector, float, float]:
    """The longest damped step that gains, what it gains, and the damping to try next; no step gains nothing."""
    while damping < _DAMPING[1]:
        damped = slope.fisher + damping * np.diag(np.diag(slope.fisher))
        moved = u - np.linalg.solve(damped, slope.gradient)
        gain = value - objective(moved)
        if gain > 0:
            return moved, gain, damping / 8
        damping *= 4
    return u, 0.0, damping


def _windows(rates: Vector, units: Vector, num_steps: int) -> list[Window]:
    shapes = [(n, d) for n, d in _WINDOWS if n * d <= num_steps]
    if num_steps <= _WHOLE_UP_TO:
        shapes = [(num_steps, 1)]
    scale = np.outer(units, units)
    return [Window(_forms(rates, n, d / num_steps) / scale, d / num_steps) for n, d in shapes]


def _forms(g: Vector, num_steps: int, dt: float) -> Float[np.ndarray, "N K K"]:
    """Symmetric forms of equation (1)."""
    x = -np.expm1(-g * dt)
    stationary = 2 * np.sqrt(np.outer(g, g)) / (g[:, None] + g)
    late = -(x**2) * np.exp(-g * dt * np.arange(num_steps - 1)[:, None])
    sums = np.concatenate([x[None], late / 2])
    return stationary * (sums[:, :, None] + sums[:, None, :])


def _value(windows: list[Window], hurst: float, u: Vector) -> float:
    """Equation (3), summed over the windows; infinite where C is not positive definite."""
    try:
        return sum(_window_value(window, hurst, u) for window in windows)
    except linalg.LinAlgError:
        return np.inf


def _window_value(window: Window, hurst: float, u: Vector) -> float:
    n = len(window.forms)
    R = linalg.toeplitz(fractional_noise(hurst, n, window.width))
    C = linalg.toeplitz(window.forms @ u @ u)
    root = linalg.solve_triangular(linalg.cholesky(C, lower=True), linalg.cholesky(R, lower=True), lower=True)
    # root root' is C^-1 R but for a change of basis
    return float((root**2).sum() - n - 2 * np.log(np.diag(root)).sum()) / (2 * n)


def _slope(window: Window, hurst: float, u: Vector) -> Slope:
    n = len(window.forms)
    lags = linalg.toeplitz(np.arange(n))
    bent = window.forms @ u
    S = np.linalg.inv((bent @ u)[lags])
    moves = S @ (2 * bent.T[:, lags])
    SR = S @ fractional_noise(hurst, n, window.width)[lags]
    gradient = np.einsum("kii->k", moves) - np.einsum("ij,kji->k", SR, moves)
    flat = moves.reshape(len(u), -1)
    fisher = flat @ moves.transpose(0, 2, 1).reshape(len(u), -1).T
    return Slope(gradient / (2 * n), fisher / (2 * n))


def _inverse_diagonals(r: Series) -> tuple[Series, float]:
    """Sums along the diagonals of the inverse of Toeplitz(r), of both sides together, and its log determinant.

    Levinson's recursion gives the first column x of the inverse, Gohberg and Semencul's formula the sums.
    """
    if not r[0] > 0:
        return np.zeros_like(r), np.inf
    phi, variances = np.empty(0), [r[0]]
    for n in range(1, len(r)):
        k = (r[n] - phi @ r[n - 1 : 0 : -1]) / variances[-1]
        if not abs(k) < 1:
            return np.zeros_like(r), np.inf
        phi = np.append(phi - k * phi[::-1], k)
        variances.append(variances[-1] * (1 - k * k))
    N, lag, x = len(r), np.arange(len(r)), np.append(1.0, -phi) / variances[-1]
    plain, rising = (np.correlate(x, a, "full")[N - 1 :] for a in (x, lag * x))
    sums = variances[-1] * ((N - lag) * plain - 2 * rising)
    return np.where(lag > 0, 2, 1) * sums, float(np.log(variances).sum())
