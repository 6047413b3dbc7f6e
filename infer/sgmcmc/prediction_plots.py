"""Figures of predictions: whether they can be trusted, and whether more chains make them better.

    plot_calibration      how often what is predicted happens
    plot_chains_curve     NLL of m chains together

Both take predictions as `predict(..., batch_ndims=2)` gives them, `(chain, draw, ...)`, and draw the curves of
`function_space.py`. Style and axes: `infer/figures.py`.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike, Float
from numpy.typing import NDArray

from ..figures import EMBER, GREY, TEAL, new_axes, title, whole_numbers
from .function_space import calibration_curve, chains_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_calibration", "plot_chains_curve"]


def plot_calibration(
    pred: Float[ArrayLike, "chain draw ..."],
    y: ArrayLike,
    *,
    noise_sd: float | ArrayLike = 0.0,
    probabilities: bool = False,
    num_points: int = 10,
    ax: "Axes | None" = None,
) -> "Axes":
    """How often what all chains together predict happens: on the diagonal for honest predictions.

    Below the diagonal they are overconfident. The grey band is where honest predictions lie with probability 99 %
    at each point, if the elements of y are independent.

    Args:
        pred: as for `calibration_curve`.
        y: as for `calibration_curve`.
        noise_sd: as for `calibration_curve`.
        probabilities: as for `calibration_curve`.
        num_points: as for `calibration_curve`.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: as `calibration_curve` does.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from emberwalk.infer import plot_calibration
        >>> rng = np.random.default_rng(0)
        >>> draws, y = rng.normal(size=(4, 100, 1000)), 2 * rng.normal(size=1000)  # half as wide as what comes
        >>> plot_calibration(draws, y).get_title(loc="left")
        'Overconfident: what is predicted comes less often, by up to 0.33'
    """
    curve = calibration_curve(pred, y, noise_sd=noise_sd, probabilities=probabilities, num_points=num_points)
    from scipy.stats import binom

    ax = new_axes(ax, "plot_calibration")
    order = np.argsort(curve.expected)
    expected, observed, num = curve.expected[order], curve.observed[order], curve.num[order]
    low, high = (binom(num, expected).ppf(q) / num for q in (0.005, 0.995))
    ax.fill_between(expected, low, high, color=GREY, alpha=0.25, lw=0)
    ax.plot((0, 1), (0, 1), color=GREY, lw=0.8, ls=(0, (4, 3)))
    ax.plot(expected, observed, color=TEAL, lw=1.3, marker="o", ms=4)
    outside = (observed < low) | (observed > high)
    ax.plot(expected[outside], observed[outside], color=EMBER, lw=0, marker="o", ms=4)
    title(
        ax, _calibration_verdict(observed - expected, outside), "Grey: where 99 % of honest predictions lie"
    )
    ax.set(xlabel="predicted probability [1]", ylabel="share that came [1]", xlim=(0, 1), ylim=(0, 1))
    return ax


def plot_chains_curve(
    pred: Float[ArrayLike, "chain draw ..."],
    y: ArrayLike,
    *,
    noise_sd: float | ArrayLike = 0.0,
    probabilities: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Do more chains predict better? NLL of m chains together against m, a mean over which m are taken.

    A curve that still falls at its end asks for more chains; below the title is what becomes of the calibration.

    Args:
        pred: as for `chains_curve`.
        y: as for `chains_curve`.
        noise_sd: as for `chains_curve`.
        probabilities: as for `chains_curve`.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: as `chains_curve` does.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from emberwalk.infer import plot_chains_curve
        >>> rng = np.random.default_rng(0)
        >>> chains = rng.normal(size=(8, 1, 500)) + 0.5 * rng.normal(size=(8, 50, 500))  # each sure of itself
        >>> plot_chains_curve(chains, rng.normal(size=500)).get_title(loc="left")
        '8 chains predict better than one by 2.8 nats; the last one adds 0.02'
    """
    curve = chains_curve(pred, y, noise_sd=noise_sd, probabilities=probabilities)
    ax = new_axes(ax, "plot_chains_curve")
    ax.plot(curve.num_chains, curve.nll, color=TEAL, lw=1.3, marker="o", ms=4)
    z2 = curve.mean_z2
    calibration = (
        f"Mean z² {z2[0]:.3g} with one chain, {z2[-1]:.3g} with all; 1 is calibrated, more overconfident"
    )
    title(ax, _chains_verdict(curve.nll), calibration)
    ax.set(xlabel="chains together [count]", ylabel="NLL of a datum [nats]")
    whole_numbers(ax)
    return ax


def _calibration_verdict(excess: NDArray, outside: NDArray) -> str:
    if not outside.any():
        return "Calibrated, as far as these data can tell"
    worst = float(excess[outside][np.argmax(np.abs(excess[outside]))])
    if worst < 0:
        return f"Overconfident: what is predicted comes less often, by up to {-worst:.2f}"
    return f"Too cautious: what is predicted comes more often, by up to {worst:.2f}"


def _chains_verdict(nll: NDArray) -> str:
    if len(nll) == 1:
        return f"One chain: {nll[0]:.3g} nats; more chains would show more"
    gain = nll[0] - nll[-1]
    better = "better than one by" if gain >= 0 else "worse than one by"
    return (
        f"{len(nll)} chains predict {better} {abs(gain):.2g} nats; the last one adds {nll[-2] - nll[-1]:.1g}"
    )
