"""Figures of a fractional path: its band, its roughness, and what training gains."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..figures import EMBER, GREY, INK, TEAL, new_axes, note, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INNER, _OUTER = (0.25, 0.75), (0.05, 0.95)


def plot_sde_path(
    ts: ArrayLike,
    x: ArrayLike,
    *,
    data: ArrayLike | None = None,
    data_ts: ArrayLike | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws of a path: their median, the middle half and nine tenths, and the data.

    Args:
        ts: times, `[M]`.
        x: draws of one state, `[S, M]`.
        data: observations, NaN where there is none.
        data_ts: their times; None: ts.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Raises:
        ValueError: for draws that do not fit the times.

    Examples:
        >>> from emberwalk.infer import plot_sde_path
        >>> ts = np.linspace(0, 1, 11)
        >>> plot_sde_path(ts, np.random.default_rng(0).normal(size=(50, 11))).get_xlabel()
        't'
    """
    t, draws = np.asarray(ts), np.asarray(x)
    if draws.ndim != 2 or draws.shape[1] != len(t):
        raise ValueError(f"x must be draws of one state, [S, {len(t)}], got {draws.shape}.")
    ax = new_axes(ax, "plot_sde_path")
    for (low, high), alpha in ((_OUTER, 0.16), (_INNER, 0.28)):
        ax.fill_between(t, *np.quantile(draws, [low, high], axis=0), color=TEAL, alpha=alpha, linewidth=0)
    ax.plot(t, np.median(draws, 0), color=TEAL, linewidth=1.2)
    if data is not None:
        ax.plot(t if data_ts is None else np.asarray(data_ts), np.asarray(data), ".", color=INK, markersize=3)
    width = float(np.mean(np.diff(np.quantile(draws, _OUTER, axis=0), axis=0)))
    ax.set(xlabel="t", ylabel="x")
    title(ax, f"Nine tenths of the draws within {width:.2g} on average", f"{len(draws)} draws; dots are data")
    return ax


def plot_structure_function(
    x: ArrayLike,
    *,
    dt: float = 1.0,
    orders: tuple[float, ...] = (0.5, 1.0, 2.0),
    max_lag: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """E|x(t + l) - x(t)|^q against the lag l, on logarithmic axes: of slope q H where increments scale.

    Noise of observation flattens the short lags, and is read as roughness: fit a model with noise before a claim.

    Args:
        x: a path, `[N]`, or several, `[S, N]`, evenly spaced.
        dt: time between its points.
        orders: q.
        max_lag: largest lag, in points; None: a tenth of the path.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Raises:
        ValueError: for a path too short for three lags.

    Examples:
        >>> from emberwalk.infer import plot_structure_function
        >>> steps = np.random.default_rng(0).normal(size=2000)
        >>> "H" in plot_structure_function(steps.cumsum()).get_title(loc="left")
        True
    """
    paths = np.atleast_2d(np.asarray(x, float))
    longest = paths.shape[1] // 10 if max_lag is None else max_lag
    if longest < 3 or longest >= paths.shape[1]:
        raise ValueError(
            f"A path of {paths.shape[1]} points has no lags from 1 to {longest}; give max_lag from 3 on, below its "
            "length."
        )
    lags = np.unique(np.geomspace(1, longest, 20).astype(int))
    ax = new_axes(ax, "plot_structure_function")
    slopes = []
    for q, colour in zip(orders, (GREY, TEAL, EMBER), strict=False):
        values = np.array([np.mean(np.abs(paths[:, lag:] - paths[:, :-lag]) ** q) for lag in lags])
        slope, level = np.polyfit(np.log(lags * dt), np.log(values), 1)
        slopes.append(slope / q)
        ax.plot(lags * dt, values, "o", color=colour, markersize=3)
        ax.plot(lags * dt, np.exp(level) * (lags * dt) ** slope, color=colour, linewidth=0.8)
        # at the shortest lag, where the orders are furthest apart
        first, offset = (lags[0] * dt, values[0]), (0, 6)
        ax.annotate(f"q = {q:g}", first, offset, textcoords="offset points", color=colour, fontsize="small")
    ax.set(xscale="log", yscale="log", xlabel="lag", ylabel="E|x(t + lag) - x(t)|^q")
    words = ", ".join(f"{slope:.3f}" for slope in slopes)
    title(ax, f"Slopes over q, H where increments scale: {words}", "noise of observation lowers them")
    return ax


def plot_elbo(
    losses: ArrayLike, *, window: int = 50, evidence: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """The ELBO of an SVI run, means of windows with their standard errors.

    Args:
        losses: of `svi.run`, `[num_steps]`.
        window: steps a mean is of.
        evidence: log evidence, where it is known: what no ELBO passes.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Raises:
        ValueError: for fewer steps than two windows.

    Examples:
        >>> from emberwalk.infer import plot_elbo
        >>> plot_elbo(np.exp(-np.arange(500) / 100)).get_ylabel()
        'ELBO, nats'
    """
    elbo = -np.asarray(losses, float)
    num = len(elbo) // window
    if num < 2:
        raise ValueError(f"{len(elbo)} steps are fewer than two windows of {window}; give a smaller window.")
    parts = elbo[-num * window :].reshape(num, window)
    mean, error = parts.mean(1), parts.std(1) / np.sqrt(window)
    steps = len(elbo) - num * window + (np.arange(num) + 0.5) * window
    ax = new_axes(ax, "plot_elbo")
    ax.fill_between(steps, mean - error, mean + error, color=TEAL, alpha=0.25, linewidth=0)
    ax.plot(steps, mean, color=TEAL, linewidth=1.2)
    low = np.quantile(mean, 0.1)
    top = max(mean.max(), -np.inf if evidence is None else evidence)
    ax.set_ylim(low - 0.05 * (top - low), top + 0.08 * max(top - low, 1e-3))
    if evidence is not None:
        ax.axhline(evidence, color=EMBER, linewidth=0.8)
        note(ax, evidence, "log evidence", EMBER, "bottom")
    ax.set(xlabel="step", ylabel="ELBO, nats")
    title(ax, f"ELBO {mean[-1]:.2f} +- {error[-1]:.2g} at the end", f"means of {window} steps")
    return ax
