"""Coefficients of the bank: rates, and weights that are smooth in H.

    B(t) ~ sum_k w_k(H) y_k,   w_k(H) = T^H s_k(H),   s_k a not-a-knot cubic spline through the table    (1)

Weights are solved once, in float64 on the host, at 97 knots in H (`kl_criterion.py`, `path_criterion.py`); (1) is
evaluated in the precision of H, which may be traced and differentiated: no linear solve and no incomplete gamma
function is in the graph, where float32 would make them NaN or 90 % wrong.

Rates are per unit of the user's time, weights multiply modes of unit variance: a change of the unit of time
changes T^H and nothing else.
"""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from .path_criterion import KINDS, Kind, Vector, path_weights
from .tables import DESIGN_STEPS, KNOTS, SHIPPED_MODES, Table, load_table, make_table, reached, wide_grid

type Criterion = Literal["kl", "path"]
type Grid = Literal["wide", "paper"] | ArrayLike

HURST_RANGE = (float(KNOTS[0]), float(KNOTS[-1]))
_PAPER_FASTEST = 20.0
_WARN_ABOVE = 0.01


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Coefficients:
    """Rates of the bank and the table of its weights; see `fractional_coefficients`, and `weights`.

    Attributes:
        rates: g, `[K]`, per unit of time.
        knots: H, `[J]`.
        spline: s of equation (1), `[4, J - 1, K]`: coefficients of (H - knot)^3, ..., (H - knot)^0.
        kl: `[J]`, divergence from fractional noise per increment at `design_steps`, nats; NaN for kind II.
        horizon: T, up to which the bank was fitted.
        design_steps: steps that the horizon may be divided into.
        kind: "I" or "II".
        criterion: "kl" or "path".

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients
        >>> coef = fractional_coefficients(horizon=10.0, num_steps=200)
        >>> coef.rates.shape, coef.knots.shape, coef.spline.shape, coef.horizon
        ((8,), (97,), (4, 96, 8), 10.0)
    """

    rates: Float[np.ndarray, " K"]
    knots: Float[np.ndarray, " J"]
    spline: Float[np.ndarray, "4 J-1 K"]
    kl: Float[np.ndarray, " J"]
    horizon: float
    design_steps: int = field(metadata={"static": True})
    kind: Kind = field(metadata={"static": True})
    criterion: Criterion = field(metadata={"static": True})


def fractional_coefficients(
    horizon: float,
    num_steps: int,
    *,
    num_modes: int = 8,
    kind: Kind = "I",
    criterion: Criterion = "kl",
    grid: Grid = "wide",
    normalise: bool = True,
) -> Coefficients:
    """Coefficients of a bank that stands for fractional Brownian motion, for every H in [.02, .98].

    Args:
        horizon: T, the longest time that will be looked at, forecasts included.
        num_steps: T over the smallest step, at most 4096; the table is that of the next of 64, 256, 1024, 4096.
        num_modes: K. 8 has a KL per increment below 1e-3 in all shipped tables; 5 recovers H as well at less
            cost, and suits NUTS; 3 is poor.
        kind: "I" has stationary increments; "II" starts fresh at 0, is the limit of another process
            (Riemann and Liouville's), and has the criterion "path" only.
        criterion: "kl" fits the law of the increments; "path" the path itself, as published, which loses H = .1.
        grid: "wide" suits `num_steps`; "paper" has rates from 1/20 to 20 per unit of time, whatever the horizon;
            or rates of your own `[K]`, per unit of time.
        normalise: False leaves the published weights as they are, off by a factor 1.9 of the sd at H = .1.

    Returns:
        The coefficients. Other than 5 or 8 modes on the wide grid take seconds to minutes, once a process.

    Raises:
        ValueError: for a horizon that is not positive, a number of steps outside 1 to 4096, an unknown option,
            or kind II with the criterion "kl".

    Warns:
        UserWarning: where the KL per increment is above .01 at some H.

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients, weights
        >>> coef = fractional_coefficients(horizon=10.0, num_steps=200)
        >>> coef.design_steps, bool(coef.kl.max() < 2e-4), weights(coef, 0.3).shape
        (256, True, (8,))
    """
    _check(horizon, num_steps, kind, criterion, normalise)
    design_steps = next(N for N in DESIGN_STEPS if num_steps <= N)
    rates = _unit_rates(grid, num_modes, design_steps, horizon)
    table = _table(tuple(rates.tolist()), design_steps, kind, criterion, normalise)
    _warn(table)
    return Coefficients(
        table.rates / horizon,
        KNOTS,
        _spline(table.weights),
        table.kl,
        float(horizon),
        design_steps,
        kind,
        criterion,
    )


def weights(coef: Coefficients, hurst: ArrayLike | Array) -> Float[Array, "... K"]:
    """w of equation (1) at H, of modes of unit variance; T^H is in them.

    Args:
        coef: see `fractional_coefficients`.
        hurst: H, any shape, may be traced; what is outside the knots is moved to the nearest.

    Returns:
        w, `[..., K]`, in the precision of H.

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients, weights
        >>> coef = fractional_coefficients(horizon=1.0, num_steps=64)
        >>> slope = jax.jacobian(lambda H: weights(coef, H))(0.3)
        >>> bool(jnp.isfinite(slope).all())
        True
    """
    hurst = jnp.clip(jnp.asarray(hurst), *HURST_RANGE)
    knots, spline, horizon = (jnp.asarray(x, hurst.dtype) for x in (coef.knots, coef.spline, coef.horizon))
    piece = jnp.clip(jnp.searchsorted(knots, hurst, side="right") - 1, 0, len(coef.knots) - 2)
    ahead = (hurst - knots[piece])[..., None]
    cubic, square, slope, value = spline[:, piece]
    return horizon ** hurst[..., None] * (((cubic * ahead + square) * ahead + slope) * ahead + value)


def _check(horizon: float, num_steps: int, kind: str, criterion: str, normalise: bool) -> None:
    if not 0 < horizon < np.inf:
        raise ValueError(f"horizon must be a positive time, got {horizon!r}.")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps!r}.")
    if num_steps > DESIGN_STEPS[-1]:
        raise ValueError(
            f"num_steps must be at most {DESIGN_STEPS[-1]}, got {num_steps}: the smallest gap, "
            f"{horizon / num_steps:.3g}, is too small for the horizon {horizon:g}. Merge times, or rescale."
        )
    if kind not in KINDS or criterion not in ("kl", "path"):
        raise ValueError(
            f'kind must be "I" or "II" and criterion "kl" or "path", got {kind!r} and {criterion!r}.'
        )
    if criterion == "kl" and kind == "II":
        raise ValueError('kind "II" has no stationary increments to fit: take criterion="path".')
    if criterion == "kl" and not normalise:
        raise ValueError(
            'normalise=False is for criterion="path": the criterion "kl" fits the variance itself.'
        )


def _unit_rates(grid: Grid, num_modes: int, design_steps: int, horizon: float) -> Vector:
    """Rates per horizon."""
    if isinstance(grid, str):
        if num_modes < 1 or (grid == "paper" and num_modes < 2):
            raise ValueError(f"num_modes must be at least 1, for the paper's grid 2, got {num_modes!r}.")
        if grid == "wide":
            return wide_grid(num_modes, design_steps)
        if grid != "paper":
            raise ValueError(f'grid must be "wide", "paper" or an array of rates, got {grid!r}.')
        return np.geomspace(1 / _PAPER_FASTEST, _PAPER_FASTEST, num_modes) * horizon
    rates = np.asarray(grid, np.float64)
    if rates.ndim != 1 or not (rates.size and np.all((rates > 0) & np.isfinite(rates))):
        raise ValueError(f"grid must hold positive rates [K], got {grid!r}.")
    return rates * horizon


@lru_cache(maxsize=16)
def _table(
    rates: tuple[float, ...], num_steps: int, kind: Kind, criterion: Criterion, normalise: bool
) -> Table:
    g = np.array(rates)
    if criterion == "kl":
        shipped = len(g) in SHIPPED_MODES and np.array_equal(g, wide_grid(len(g), num_steps))
        return load_table(len(g), num_steps) if shipped else make_table(g, num_steps)
    w = np.array([path_weights(g, H, 1.0, kind, normalise) for H in KNOTS])
    return Table(g, w, reached(g, w, num_steps) if kind == "I" else np.full(len(KNOTS), np.nan))


def _spline(values: Float[np.ndarray, "J K"]) -> Float[np.ndarray, "4 J-1 K"]:
    # scipy.interpolate is half of what importing this module would cost
    from scipy.interpolate import CubicSpline

    return CubicSpline(KNOTS, values, bc_type="not-a-knot").c


def _warn(table: Table) -> None:
    worst = int(np.argmax(table.kl))
    if table.kl[worst] > _WARN_ABOVE:
        warnings.warn(
            f"{len(table.rates)} modes are {table.kl[worst]:.2g} nats per increment away from fractional noise at "
            f'H = {KNOTS[worst]:.2f}. Take num_modes=8 and criterion="kl" on the wide grid.',
            UserWarning,
            stacklevel=3,
        )
