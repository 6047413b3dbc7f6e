"""What a walk's averages vary by: closed forms for long runs, and the finite recursion of the token method.

With lam_i, w_i the eigenpairs of D^(1/2) P D^(-1/2), D = diag(mu), without lam = 1, and u_i = D^(1/2) w_i,

    sqrt(n) (x_n - mu) -> N(0, V),   V = sum_i c_i u_i u_i^T,   b_i = (1 + lam_i) / (1 - lam_i)           (1)
    s_i = 0 (base), alpha (1 + lam_i) (srrw), alpha (hdt)                                                (2)
    c_i = b_i / (2 s_i + 1)     counts, gamma_n = 1/n                                                    (3)
    c_i = b_i / (s_i + 1)^2     average of the draws, gamma_n = n^-a, a < 1                              (4)
    c_i = b_i / (2 s_i + 2)     the weighted histogram itself, over gamma_n^(1/2)                         (5)

Doshi, Hu, Eun (2023); Hu, Doshi, Eun (2024). A base chain that is not reversible has V = D Z + Z^T D - D - mu mu^T with
Z = (I - P + 1 mu^T)^-1. All of it is linear theory: true once n is far above alpha^2 N.

For theta_{n+1} = theta_n + beta_{n+1} H(theta_n, X_{n+1}), beta_n = (n + 1)^-b, gamma_n = (n + 1)^-a, the limit of
Cov(theta_n) / beta_n is reached slowly; its finite n is the covariance of

    e <- e + beta (-A e - sum_i g_i s_i y_i + sum_i g_i xi_i),   y_i <- y_i + gamma (xi_i - (s_i + 1) y_i) (6)

with g_i = sum_k (u_i)_k H(theta*, k), A = -d/dtheta of the mean of H, and Var xi_i = b_i, all independent.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

type Method = Literal["base", "srrw", "hdt"]
type Matrix = Float[np.ndarray, "N N"]

REVERSIBLE = 1e-8


class Modes(NamedTuple):
    """A reversible chain taken apart: eigenvalues below 1, and u_i as columns."""

    lam: Float[np.ndarray, " M"]
    u: Float[np.ndarray, "N M"]

    @property
    def b(self) -> Float[np.ndarray, " M"]:
        """Equation (1)."""
        return (1 + self.lam) / (1 - self.lam)


def asymptotic_covariance(
    P: ArrayLike,
    mu: ArrayLike,
    alpha: float,
    method: Method = "base",
    *,
    gamma_exponent: float = 1.0,
    estimator: Literal["visits", "history"] = "visits",
) -> Matrix:
    """The covariance V of sqrt(n) times the error of the visits, equations (1) to (5); float64.

    Args:
        P: base chain `[N, N]`, reversible with respect to mu (for "base" at gamma_exponent = 1, any ergodic one).
        mu: target `[N]`, up to a factor.
        alpha: repellence, not looked at for "base".
        method: the walk.
        gamma_exponent: a: 1 for counts, below for a history that forgets.
        estimator: "visits" averages the draws; "history" is the weighted histogram, in units of its gamma_n.

    Raises:
        ValueError: rows that do not sum to 1; a chain that is not reversible; an alpha below 0; a gamma_exponent
            outside (1/2, 1]; an unknown method or estimator.

    Examples:
        >>> from emberwalk.kernels.walk import asymptotic_covariance
        >>> P = np.full((2, 2), 0.5)
        >>> asymptotic_covariance(P, np.ones(2), 2.0, "hdt").tolist()
        [[0.05, -0.05], [-0.05, 0.05]]
    """
    P, mu = _chain(P, mu)
    if estimator not in ("visits", "history"):
        raise ValueError(f'estimator must be "visits" or "history", got {estimator!r}.')
    if not 0.5 < gamma_exponent <= 1:
        raise ValueError(f"gamma_exponent must be above 1/2 and at most 1, got {gamma_exponent}.")
    if method == "base" and gamma_exponent == 1:
        D, Z = np.diag(mu), np.linalg.inv(np.eye(len(mu)) - P + mu)
        V = D @ Z + Z.T @ D - D - np.outer(mu, mu)
        return (V + V.T) / 2
    modes = modes_of(P, mu)
    s = strength(modes, alpha, method)
    forgetting = (s + 1.0) ** -2 if estimator == "visits" else 1 / (2 * s + 2)
    share = 1 / (2 * s + 1) if gamma_exponent == 1 else forgetting
    return (modes.u * (modes.b * share)) @ modes.u.T


def variance_ratio(
    P: ArrayLike, mu: ArrayLike, alpha: float, method: Method, f: ArrayLike | None = None
) -> float:
    """The variance of an average over that of the base chain, n large: of f, or of all visits (the trace).

    Args:
        P: base chain `[N, N]`, reversible.
        mu: target `[N]`, up to a factor.
        alpha: repellence.
        method: the walk.
        f: `[N]`; the sum over all nodes without it.

    Examples:
        >>> from emberwalk.kernels.walk import variance_ratio
        >>> round(variance_ratio(np.array([[0.9, 0.1], [0.1, 0.9]]), np.ones(2), 10.0, "hdt"), 6)
        0.047619
    """
    walk, base = (asymptotic_covariance(P, mu, alpha, m) for m in (method, "base"))
    if f is None:
        return float(np.trace(walk) / np.trace(base))
    f = np.asarray(f, np.float64)
    return float((f @ walk @ f) / (f @ base @ f))


def sa_covariance(
    P: ArrayLike,
    mu: ArrayLike,
    alpha: float,
    h: ArrayLike,
    hessian: ArrayLike,
    a: float,
    b: float,
    n: int | None = None,
    method: Method = "srrw",
) -> Float[np.ndarray, "D D"]:
    """Cov(theta_n) / beta_n of stochastic approximation driven by a walk, by (6) or in the limit.

    Args:
        P: base chain `[N, N]`, reversible.
        mu: target `[N]`, up to a factor.
        alpha: repellence.
        h: H(theta*, k) at the solution, `[N, D]`, with mean 0 under mu.
        hessian: A, `[D, D]`: minus the derivative of the mean of H.
        a: exponent of the history, gamma_n = (n + 1)^-a.
        b: exponent of the step, beta_n = (n + 1)^-b.
        n: after so many steps; the limit without it, which runs of 1e5 steps are not near.
        method: the walk.

    Examples:
        >>> from emberwalk.kernels.walk import sa_covariance
        >>> P, f = np.full((2, 2), 0.5), np.array([[-1.0], [1.0]])
        >>> sa_covariance(P, np.ones(2), 1.0, f, np.eye(1), 0.75, 0.9).round(4).tolist()
        [[0.125]]
    """
    modes = modes_of(*_chain(P, mu))
    A, G = np.atleast_2d(np.asarray(hessian, np.float64)), modes.u.T @ np.asarray(h, np.float64)
    s = strength(modes, alpha, method)
    if n is not None:
        return _finite(A, G, s, modes.b, a, b, n)
    if a == b:
        return _joint_limit(A, G, s, modes.b, b)
    share = (s + 1) ** -2 if a < b else np.ones_like(s)  # a history slower than the step repels from nothing
    return _lyapunov(A - _shift(b) * np.eye(len(A)), (G.T * (modes.b * share)) @ G)


def modes_of(P: Matrix, mu: Float[np.ndarray, " N"]) -> Modes:
    """Eigenpairs of a reversible chain without the constant one; mu sums to 1."""
    flow = mu[:, None] * P
    if not np.allclose(flow, flow.T, atol=REVERSIBLE * flow.max()):
        i, j = np.unravel_index(np.abs(flow - flow.T).argmax(), flow.shape)
        raise ValueError(
            f"P is not reversible for mu: from state {i} to {j} it flows with {flow[i, j]:.6g}, back with "
            f"{flow[j, i]:.6g}."
        )
    root = np.sqrt(mu)
    lam, w = np.linalg.eigh((flow + flow.T) / 2 / np.outer(root, root))
    return Modes(lam[:-1], root[:, None] * w[:, :-1])


def strength(modes: Modes, alpha: float, method: Method) -> Float[np.ndarray, " M"]:
    """s_i, equation (2)."""
    if method not in ("base", "srrw", "hdt"):
        raise ValueError(f'method must be "base", "srrw" or "hdt", got {method!r}.')
    if method == "base":
        return np.zeros_like(modes.lam)
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha must be 0 or more, got {alpha}.")
    return alpha * (1 + modes.lam) if method == "srrw" else np.full_like(modes.lam, alpha)


def _chain(P: ArrayLike, mu: ArrayLike) -> tuple[Matrix, Float[np.ndarray, " N"]]:
    P, mu = np.asarray(P, np.float64), np.asarray(mu, np.float64)
    if P.shape != (len(mu), len(mu)):
        raise ValueError(f"P must be [N, N] for the N = {len(mu)} of mu, got {P.shape}.")
    if not (mu > 0).all():
        raise ValueError(f"mu must be above 0: state {np.flatnonzero(~(mu > 0))[0]} has {mu[~(mu > 0)][0]}.")
    off = np.abs(P.sum(1) - 1)
    if not (off <= REVERSIBLE).all():
        raise ValueError(f"P: the row of state {off.argmax()} sums to {P[off.argmax()].sum():.6g}, not 1.")
    return P, mu / mu.sum()


def _finite(A, G, s, var, a, b, n):
    """The covariance of (6), by its blocks: the y_i stay independent of each other."""
    D, M = len(A), len(s)
    C, cross, v = np.zeros((D, D)), np.zeros((D, M)), np.zeros(M)
    for step in range(1, n + 1):
        beta, gamma = (step + 1.0) ** -b, (step + 1.0) ** -a
        F, keep = np.eye(D) - beta * A, 1 - gamma * (s + 1)
        mixed = beta * (F @ (cross * s) @ G)
        C = F @ C @ F.T - mixed - mixed.T + beta**2 * (G.T * (s**2 * v + var)) @ G
        cross = (F @ cross - beta * G.T * (s * v)) * keep + beta * gamma * G.T * var
        v = keep**2 * v + gamma**2 * var
    return C / (n + 1.0) ** -b


def _joint_limit(A, G, s, var, b):
    """Both on one scale: the stationary covariance of (e, y), its block of e."""
    D, M = len(A), len(s)
    drift = np.block([[-A, -G.T * s], [np.zeros((M, D)), -np.diag(s + 1)]]) + _shift(b) * np.eye(D + M)
    noise = np.concatenate([G.T, np.eye(M)]) * np.sqrt(var)
    return _lyapunov(-drift, noise @ noise.T)[:D, :D]


def _lyapunov(A, U):
    """V with A V + V A^T = U."""
    from scipy.linalg import solve_continuous_lyapunov

    return solve_continuous_lyapunov(A, U)


def _shift(b: float) -> float:
    return 0.5 if b == 1 else 0.0
