"""The bank: K Ornstein-Uhlenbeck processes of one Brownian motion, stepped exactly.

    dy_k = -g_k y_k dt + sqrt(2 g_k) dW,     the same W for all k,     Var y_k = 1                        (1)
    S_ij = 2 sqrt(g_i g_j) / (g_i + g_j)                               stationary covariance              (2)
    Q_ij = S_ij (1 - exp(-(g_i + g_j) D)) = L L'                       noise of one step, L [K, r]        (3)
    dB   = w . (expm1(-g D) y) + (w'L) e,    y+ = exp(-g D) y + L e,   e ~ N(0, I_r)                      (4)

Daems et al. (2024), who step by Euler: y+ = (1 - g D) y + sqrt(2 g D) e, r = 1. The exact step has no limit on
g D, and as modes share one W its noise has few dimensions: 4 for 8 modes.

What a reader would get wrong: the path as sum_k w_k (y_k(t) - y_k(0)) loses 1e-3 of each increment's sd in
float32; (4) loses 3e-5. And y starts from (2), not from 0: a bank started at 0 is another process (kind II).
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from .coefficients import Coefficients
from .path_criterion import Vector

type Integrator = Literal["exact", "euler"]

RTOL = 1e-5
_LARGEST_EULER_STEP = 0.5
_SAME_DT = 1e-9


class BankStep(NamedTuple):
    """What moves the bank by one step, equation (4); a leading axis `[N]` where the steps differ.

    Attributes:
        decay: exp(-g D), `[K]`.
        decay_m1: exp(-g D) - 1, `[K]`.
        noise_factor: L, `[K, r]`.
    """

    decay: Float[Array, "*N K"]
    decay_m1: Float[Array, "*N K"]
    noise_factor: Float[Array, "*N K r"]


class BankState(NamedTuple):
    """Where the bank is.

    Attributes:
        y: `[..., K]`, modes of unit variance.
    """

    y: Float[Array, "*B K"]


def bank_step(
    rates: ArrayLike, dt: ArrayLike, integrator: Integrator = "exact", rtol: float = RTOL
) -> BankStep:
    """The step of equation (4), or of Euler; factored in float64 on the host.

    Args:
        rates: g, `[K]`, per unit of time, as `Coefficients` has them.
        dt: D, a length of time, or `[N]` of them; each distinct length (to 1e-9) is factored once.
        integrator: "exact", or the published "euler" for comparison.
        rtol: eigenvalues of Q below this share of the largest are left out. 1e-6 costs one more noise a step and
            changes the law by less than 5e-6 nats.

    Returns:
        The step, and for `[N]` lengths a leading axis N; ranks that differ are filled up with columns of 0.

    Raises:
        ValueError: for lengths that are not positive, or Euler with a rate times length of .5 and more.

    Examples:
        >>> from emberwalk.kernels.fractional import bank_step, fractional_coefficients
        >>> coef = fractional_coefficients(horizon=1.0, num_steps=200)
        >>> bank_step(coef.rates, 1 / 200).noise_factor.shape
        (8, 4)
    """
    g, dts = np.asarray(rates, np.float64), np.asarray(dt, np.float64)
    _check_step(g, dts, integrator)
    _, first, which = np.unique(np.round(np.log(dts) / _SAME_DT), return_index=True, return_inverse=True)
    lengths = dts.ravel()[first]
    decay_m1 = -g * lengths[:, None] if integrator == "euler" else np.expm1(-g * lengths[:, None])
    factors = _stack([_noise_factor(g, D, integrator, rtol) for D in lengths])
    which = which.reshape(dts.shape)
    return BankStep(*(jnp.asarray(x[which]) for x in (1 + decay_m1, decay_m1, factors)))


def initial_factor(rates: ArrayLike, rtol: float = RTOL) -> Float[Array, "K r0"]:
    """L0 with L0 L0' = S, equation (2), `[K, r0]`.

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients, initial_factor
        >>> initial_factor(fractional_coefficients(horizon=1.0, num_steps=200).rates).shape
        (8, 8)
    """
    return jnp.asarray(_factor(_stationary(np.asarray(rates, np.float64)), rtol))


def init(coef: Coefficients, b: Float[Array, "*B r0"]) -> BankState:
    """The bank at time 0: in equilibrium for kind I, at 0 for kind II.

    Args:
        coef: see `fractional_coefficients`.
        b: independent normals, `[..., r0]`, with r0 the columns of `initial_factor`; ignored by kind II.

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients, init
        >>> init(fractional_coefficients(horizon=1.0, num_steps=64), jnp.zeros(8)).y.shape
        (8,)
    """
    y = b @ initial_factor(coef.rates).T
    return BankState(y if coef.kind == "I" else jnp.zeros_like(y))


def step(
    state: BankState, e: Float[Array, "*B r"], factors: BankStep, weights: Float[Array, "*B K"]
) -> tuple[BankState, Float[Array, "*B"]]:
    """One step, equation (4).

    Args:
        state: before.
        e: independent normals, `[..., r]`.
        factors: of this step.
        weights: w, `[..., K]`, as `weights` returns them.

    Returns:
        The state after, and the increment of B.

    Examples:
        >>> from emberwalk.kernels.fractional import bank_step, fractional_coefficients, init, step, weights
        >>> coef = fractional_coefficients(horizon=1.0, num_steps=64)
        >>> state = init(coef, jnp.ones(8))
        >>> state, dB = step(state, jnp.ones(4), bank_step(coef.rates, 1 / 64), weights(coef, 0.3))
    """
    kick = e @ factors.noise_factor.T
    dB = jnp.sum(weights * (factors.decay_m1 * state.y + kick), -1)
    return BankState(factors.decay * state.y + kick), dB


def bank_path(
    state: BankState,
    e: Float[Array, "N *B r"],
    factors: BankStep,
    weights: Float[Array, "*B K"],
    *,
    parallel: bool = False,
) -> tuple[Float[Array, "N *B K"], Float[Array, "N *B"]]:
    """N steps.

    Args:
        state: at the start.
        e: independent normals, `[N, ..., r]`.
        factors: of one step, for all, or with a leading axis N.
        weights: w, `[..., K]`.
        parallel: by an associative scan, ceil(log2 N) levels deep; for accelerators, or long paths.

    Returns:
        The bank after each step, and the increments of B.

    Examples:
        >>> from emberwalk.kernels.fractional import bank_path, bank_step, fractional_coefficients, init, weights
        >>> coef = fractional_coefficients(horizon=1.0, num_steps=64)
        >>> e, start = random.normal(random.key(0), (64, 4)), init(coef, random.normal(random.key(1), (8,)))
        >>> y, dB = bank_path(start, e, bank_step(coef.rates, 1 / 64), weights(coef, 0.3), parallel=True)
        >>> y.shape, dB.shape
        ((64, 8), (64,))
    """
    factors = BankStep(
        *(jnp.broadcast_to(f, (len(e), *f.shape[-n:])) for f, n in zip(factors, (1, 1, 2), strict=True))
    )
    if parallel:
        return _parallel_path(state, e, factors, weights)

    def advance(state: BankState, inputs: tuple[Array, BankStep]):
        state, dB = step(state, inputs[0], inputs[1], weights)
        return state, (state.y, dB)

    return lax.scan(advance, state, (e, factors))[1]


def _parallel_path(state, e, factors, weights):
    """Steps are affine and diagonal: y -> a y + u, and (a, u) then (a', u') is (a' a, a' u + u')."""
    kicks = jnp.einsum("n...r,nkr->n...k", e, factors.noise_factor)
    middle = (1,) * (e.ndim - 2)
    decay, decay_m1 = (f.reshape(len(e), *middle, -1) for f in factors[:2])

    def after(early, late):
        return late[0] * early[0], late[0] * early[1] + late[1]

    decays, sums = lax.associative_scan(after, (jnp.broadcast_to(decay, kicks.shape), kicks))
    y = decays * state.y + sums
    before = jnp.concatenate([jnp.broadcast_to(state.y, y.shape[1:])[None], y[:-1]])
    return y, jnp.sum(weights * (decay_m1 * before + kicks), -1)


def _stationary(g: Vector) -> Float[np.ndarray, "K K"]:
    return 2 * np.sqrt(np.outer(g, g)) / (g[:, None] + g)


def _noise_factor(g: Vector, dt: float, integrator: Integrator, rtol: float) -> Float[np.ndarray, "K r"]:
    if integrator == "euler":
        return np.sqrt(2 * g * dt)[:, None]
    return _factor(_stationary(g) * -np.expm1(-(g[:, None] + g) * dt), rtol)


def _factor(covariance: Float[np.ndarray, "K K"], rtol: float) -> Float[np.ndarray, "K r"]:
    """Columns of falling size; the sign of each is fixed, so that draws do not depend on the library."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > rtol * values[-1]
    columns = (vectors * np.sqrt(np.maximum(values, 0)))[:, kept][:, ::-1]
    return columns * np.sign(columns[np.abs(columns).argmax(0), np.arange(columns.shape[1])])


def _stack(factors: list[np.ndarray]) -> Float[np.ndarray, "M K r"]:
    rank = max(f.shape[1] for f in factors)
    return np.stack([np.pad(f, ((0, 0), (0, rank - f.shape[1]))) for f in factors])


def _check_step(g: Vector, dts: np.ndarray, integrator: Integrator) -> None:
    if integrator not in ("exact", "euler"):
        raise ValueError(f'integrator must be "exact" or "euler", got {integrator!r}.')
    if dts.ndim > 1 or not np.all((dts > 0) & np.isfinite(dts)):
        raise ValueError(f"dt must be a positive length of time, or [N] of them, got {dts!r}.")
    if integrator == "euler" and g.max() * dts.max() >= _LARGEST_EULER_STEP:
        raise ValueError(
            f"Euler is unstable: the rate {g.max():.4g} times the step {dts.max():.4g} must be below "
            f'{_LARGEST_EULER_STEP}. Take steps below {_LARGEST_EULER_STEP / g.max():.3g}, or integrator="exact".'
        )
