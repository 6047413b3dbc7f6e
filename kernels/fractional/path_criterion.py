"""Weights of the bank by the error of the path (Daems et al. 2024), solved in float64 on the host.

    E int_0^T (B(t) - sum_k w_k Y_k(t))^2 dt = w'A w - 2 b'w + c,    A w = b                              (1)
    I:   A_ij = [2T + expm1(-g_i T)/g_i + expm1(-g_j T)/g_j] / (g_i + g_j)
         b_k  = 2T g^-a - T^a / (g Gamma(a+1)) + [e^(-gT) - e^(gT) Q(a, gT)] g^(-a-1)
         c    = T^(2H+1) / (2H+1) / [Gamma(2H+1) sin(pi H)]                                              (2)
    II:  A_ij = [T + expm1(-(g_i+g_j) T) / (g_i+g_j)] / (g_i+g_j)
         b_k  = T g^-a P(a, gT) - a g^(-a-1) P(a+1, gT)
         c    = T^(2H+1) / [2H (2H+1) Gamma(a)^2]                                                        (3)

g are the rates, a = H + 1/2, P and Q the regularised incomplete gamma functions. Kind I is Mandelbrot and Van
Ness's process, with Y_k(t) - Y_k(0) of a stationary bank in place of Y_k(t); kind II is Riemann and Liouville's,
and starts fresh at 0.

What a reader would get wrong: neither process has variance t^(2H) as published. `variance_scale` brings it there;
without it the error of the scale is a factor 3.5 of the variance at H = .1, and of none at H = .5.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import linalg, special

type Kind = Literal["I", "II"]
type Vector = Float[np.ndarray, " K"]

KINDS = ("I", "II")
_ASYMPTOTIC_FROM = 30.0
_ASYMPTOTIC_TERMS = 24


class PathSystem(NamedTuple):
    """The quadratic form of equation (1).

    Attributes:
        A: `[K, K]`, covariances of the modes, integrated over time.
        b: `[K]`, covariances of the modes with B, integrated over time.
        c: variance of B, integrated over time.
    """

    A: Float[np.ndarray, "K K"]
    b: Vector
    c: float


def path_system(rates: ArrayLike, hurst: float, horizon: float, kind: Kind = "I") -> PathSystem:
    """A, b and c of the path criterion, equations (2) and (3), float64.

    Args:
        rates: g, `[K]`, above 0, per unit of time.
        hurst: H in (0, 1).
        horizon: T, over which the error is integrated.
        kind: "I" has stationary increments; "II" starts fresh at 0.

    Raises:
        ValueError: for another kind.

    Examples:
        >>> from emberwalk.kernels.fractional import path_system
        >>> A, b, c = path_system([1.0], hurst=0.5, horizon=1.0)
        >>> bool(np.isclose(A[0, 0], b[0])), c  # at H = 1/2, g = 1: E Y B = E Y^2 / 2 + E Y^2 / 2
        (True, 0.5)
    """
    if kind not in KINDS:
        raise ValueError(f'kind must be "I" or "II", got {kind!r}.')
    g, T, a = np.asarray(rates, np.float64), float(horizon), hurst + 0.5
    return (_stationary if kind == "I" else _fresh)(g, hurst, T, a)


def solve_weights(A: ArrayLike, b: ArrayLike, rcond: float = 1e-13) -> Vector:
    """The w of A w = b, where A is ill-conditioned: scaled to a unit diagonal, small eigenvalues left out.

    Args:
        A: `[K, K]`, symmetric and positive semidefinite; its condition reaches 4e12 for 20 modes of kind I.
        b: `[K]`.
        rcond: eigenvalues of the scaled A below this share of the largest are taken to be 0.

    Examples:
        >>> from emberwalk.kernels.fractional import solve_weights
        >>> solve_weights([[2.0, 0.0], [0.0, 4.0]], [2.0, 2.0]).round(6).tolist()
        [1.0, 0.5]
    """
    A, b = np.asarray(A, np.float64), np.asarray(b, np.float64)
    scale = np.diag(A) ** -0.5
    values, vectors = linalg.eigh(A * np.outer(scale, scale))
    kept = values > rcond * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return scale * (vectors @ ((vectors.T @ (scale * b)) / values))


def path_weights(
    rates: ArrayLike, hurst: float, horizon: float, kind: Kind = "I", normalise: bool = True
) -> Vector:
    """Weights w of modes of unit variance that minimise equation (1).

    Args:
        rates: g, `[K]`.
        hurst: H.
        horizon: T.
        kind: "I" or "II".
        normalise: for Var B(t) = t^(2H); False is as published.
    """
    system = path_system(rates, hurst, horizon, kind)
    scale = variance_scale(hurst, kind) if normalise else 1.0
    return scale * solve_weights(system.A, system.b) / np.sqrt(2 * np.asarray(rates, np.float64))


def variance_scale(hurst: float, kind: Kind = "I") -> float:
    """What the published process is multiplied by for Var B(1) = 1."""
    if kind == "I":
        return float(np.sqrt(special.gamma(2 * hurst + 1) * np.sin(np.pi * hurst)))
    return float(np.sqrt(2 * hurst) * special.gamma(hurst + 0.5))


def _stationary(g: Vector, hurst: float, T: float, a: float) -> PathSystem:
    x = g * T
    fallen = np.expm1(-x) / g
    A = (2 * T + (fallen[:, None] + fallen)) / (g[:, None] + g)
    b = 2 * T * g**-a - T**a / (g * special.gamma(a + 1)) + (np.exp(-x) - _scaled_upper(a, x)) * g ** (-a - 1)
    c = T ** (2 * hurst + 1) / (2 * hurst + 1) / variance_scale(hurst) ** 2
    return PathSystem(A, b, c)


def _fresh(g: Vector, hurst: float, T: float, a: float) -> PathSystem:
    both = g[:, None] + g
    A = (T + np.expm1(-both * T) / both) / both
    b = T * g**-a * special.gammainc(a, g * T) - a * g ** (-a - 1) * special.gammainc(a + 1, g * T)
    c = T ** (2 * hurst + 1) / (2 * hurst + 1) / variance_scale(hurst, "II") ** 2
    return PathSystem(A, b, c)


def _scaled_upper(a: float, x: Vector) -> Vector:
    """e^x Q(a, x); where e^x would overflow, x^(a-1) / Gamma(a) sum_n (a-1)...(a-n) / x^n."""
    near = np.minimum(x, _ASYMPTOTIC_FROM)
    far = np.maximum(x, _ASYMPTOTIC_FROM)
    factors = (a - np.arange(1, _ASYMPTOTIC_TERMS)) / far[:, None]
    series = 1 + np.cumprod(factors, axis=1).sum(1)
    asymptotic = far ** (a - 1) / special.gamma(a) * series
    return np.where(x < _ASYMPTOTIC_FROM, np.exp(near) * special.gammaincc(a, near), asymptotic)
