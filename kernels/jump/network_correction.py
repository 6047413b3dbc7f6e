"""What a trained network says, corrected on fresh processes: spreads, and presence of links.

    log s <- log s + a' x,   o <- o + c_0' x + c_1' x o + c_2' x max(o, 0)                                 (1)
    x = (1, log J, its bends, 1 / n, rho, log J / n, rho log J, its bends / n)                             (2)

s is the sd of the root of a rate or of the noise level, o the log odds that a link is there. The a make |z| lie below
50 % and 90 % of a normal as often (`fit_log_scale`); the c make the links that are there likeliest (`fit_log_odds`),
and so of all links that are said to be there with .4, four of ten are.

What a reader would get wrong: training alone makes both right on average over its processes, not where there are most
paths or fewest states, which are few of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float

__all__ = ["NUM_BASIS", "NUM_ODDS", "correction_basis", "fit_log_odds", "fit_log_scale", "odds_basis"]

# Where the correction may bend in log J.
_BENDS = (4.0, 7.0, 10.0, 13.0)
NUM_BASIS = 6 + 2 * len(_BENDS)
NUM_ODDS = 3
_LEVELS = (0.5, 0.9)
_STEPS, _STEP_SIZE = 600, 0.05
# Of coefficients in units of their column's spread: what few links leave open stays near no correction.
_RIDGE = 1e-6
_SLOPE_LEFT, _SLOPE_TOLERATED = 1e-7, 1e-5


def correction_basis(
    log_changes: Float[Array, ""], num_states: int, label_noise: Float[Array, ""]
) -> Float[Array, " basis"]:
    """Equation (2): 1, log J and its bends, 1 / n, rho, the products of these two with log J, and bends / n.

    Args:
        log_changes: log (J + 1/2).
        num_states: n.
        label_noise: rho, as found.
    """
    bends = [jnp.maximum(log_changes - at, 0) for at in _BENDS]
    others = [jnp.asarray(1 / num_states), label_noise]
    products = [*(log_changes * x for x in others), *(bend / num_states for bend in bends)]
    return jnp.stack([jnp.ones(()), log_changes, *bends, *others, *products])


def odds_basis(log_odds: Float[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    """What log odds are corrected by: 1, o and max(o, 0), so that of likely and unlikely links each has its slope.

    Args:
        log_odds: o, as the network says.
    """
    return jnp.ones_like(log_odds), log_odds, jnp.maximum(log_odds, 0)


def fit_log_scale(
    z: Float[np.ndarray, " m"], known: Float[np.ndarray, "m d"], weights: Float[np.ndarray, " m"]
) -> Float[Array, " d"]:
    """Coefficients of a log scale, such that |z| lies below 50 % and 90 % of a normal of that scale as often.

    By the quantile loss of log |z|, which is convex, and does not see how far outliers lie.

    Args:
        z: `[m]`.
        known: `[m, d]`, the first column of ones.
        weights: `[m]`, how much each counts.

    Examples:
        >>> from emberwalk.kernels.jump.network_correction import fit_log_scale
        >>> z = 3 * np.random.default_rng(0).normal(size=4000)
        >>> round(float(jnp.exp(fit_log_scale(z, np.ones((4000, 1)), np.ones(4000))[0])), 1)
        3.0
    """
    levels = jnp.array(_LEVELS)
    spread, centre = _spread_and_centre(known)
    x, log_z = jnp.asarray((known - centre) / spread), jnp.log(jnp.maximum(jnp.abs(jnp.asarray(z)), 1e-6))

    def quantile_loss(coefficients: Array) -> Array:
        left = (log_z - x @ coefficients)[:, None] - jnp.log(norm.ppf((1 + levels) / 2))
        return jnp.average(jnp.maximum(levels * left, (levels - 1) * left).sum(-1), weights=weights)

    descent = optax.adam(optax.cosine_decay_schedule(_STEP_SIZE, _STEPS))

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        coefficients, state = carry
        updates, state = descent.update(jax.grad(quantile_loss)(coefficients), state)
        return (coefficients + updates, state), None

    zero = jnp.zeros(x.shape[1], x.dtype)
    (scaled, _), _ = lax.scan(step, (zero, descent.init(zero)), length=_STEPS)
    return jnp.asarray(_unscaled(scaled, spread, centre))


def fit_log_odds(
    log_odds: Float[np.ndarray, " m"],
    there: Bool[np.ndarray, " m"],
    known: Float[np.ndarray, "m d"],
    weights: Float[np.ndarray, " m"],
) -> Float[Array, "3 d"]:
    """Coefficients c_0, c_1 and c_2 of equation (1), those of a logistic regression.

    Args:
        log_odds: `[m]`, as said.
        there: `[m]`, as is.
        known: `[m, d]`, the first column of ones.
        weights: `[m]`, how much each counts.

    Raises:
        RuntimeError: the search did not end where the slope is nearly 0, as with log odds that are not finite.

    Examples:
        >>> from emberwalk.kernels.jump.network_correction import fit_log_odds
        >>> rng, ones = np.random.default_rng(0), np.ones(40_000)
        >>> said = 2 * rng.normal(size=40_000)
        >>> there = rng.random(40_000) < 1 / (1 + np.exp(-said / 2))  # half as sure would be right
        >>> (fit_log_odds(said, there, ones[:, None], ones)[:, 0] + 0).round(1).tolist()
        [0.0, -0.5, 0.0]
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    spread, centre = _spread_and_centre(known)
    basis = ((known - centre) / spread).astype(np.float64)
    said, sign = np.asarray(log_odds, np.float64), np.where(there, 1.0, -1.0)
    parts = [np.asarray(part, np.float64) for part in odds_basis(jnp.asarray(log_odds))]
    share = np.asarray(weights, np.float64) / np.sum(weights)

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        by_part = coefficients.reshape(NUM_ODDS, -1)
        right = said + sum(part * (basis @ c) for part, c in zip(parts, by_part, strict=True))
        pull = -share * sign * expit(-sign * right)
        gradient = np.concatenate([(pull * part) @ basis for part in parts])
        value = share @ np.logaddexp(0, -sign * right) + _RIDGE * coefficients @ coefficients
        return float(value), gradient + 2 * _RIDGE * coefficients

    start = np.zeros(NUM_ODDS * basis.shape[1])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": _SLOPE_LEFT})
    # the search may end short of its aim for want of digits, not here
    if not np.abs(found.jac).max() < _SLOPE_TOLERATED:
        raise RuntimeError(
            f"the log odds of {len(said)} links were not fitted, slope {np.abs(found.jac).max():.2g}: {found.message}"
        )
    return jnp.asarray(_unscaled(found.x.reshape(NUM_ODDS, -1), spread, centre), jnp.float32)


def _spread_and_centre(known: Float[np.ndarray, "m d"]) -> tuple[np.ndarray, np.ndarray]:
    """Of columns, the first of which is 1 and stays so."""
    spread = np.maximum(known.std(0), 1e-6)
    spread[0] = 1
    return spread, np.where(np.arange(known.shape[1]) > 0, known.mean(0), 0)


def _unscaled(scaled: Any, spread: np.ndarray, centre: np.ndarray) -> Any:
    """Coefficients of the columns themselves."""
    slopes = np.asarray(scaled) / spread
    slopes[..., 0] -= (slopes * centre).sum(-1)
    return slopes
