"""Figures of a `RatePosterior`."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ...kernels.jump import check_rates
from ..figures import EMBER, GREY, INK, TEAL, new_axes, outside, title
from .report import shown_links

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .posterior import RatePosterior

_INNER, _OUTER = (0.25, 0.75), (0.05, 0.95)
_DECADES_FROM = 30.0  # ratio of rates from which the axis is logarithmic
_FAINT = 0.12  # of a link that is not there
_HEIGHT = 0.19  # of a link, inches


def plot_rates(
    posterior: "RatePosterior",
    truth: ArrayLike | None = None,
    *,
    state_names: list[str] | None = None,
    unit: str = "unit of time",
    ax: "Axes | None" = None,
) -> "Axes":
    """The rate matrix, row after row: each rate with its intervals, as strong as the link is likely there.

    The bar of a link is what its rate is if the link is there: thick the middle half, thin nine tenths, a dot at the
    median. The number on the right is the probability that the link is there, and the colour fades with it. Of more
    than 7 states links are drawn that are likely there, at most 60. The axis is logarithmic where rates differ by more
    than a factor of 30.

    Args:
        posterior: of `zero_shot`.
        truth: true rates `[n, n]`, where they are known; the diagonal is ignored.
        state_names: one for each state; numbers without it.
        unit: of the times, such as "s": for the label of the axis.
        ax: matplotlib Axes to draw in; None makes new ones, as high as there are links.

    Returns:
        The Axes.

    Raises:
        ValueError: a truth or names of another number of states.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from emberwalk.infer import plot_rates, zero_shot
        >>> from emberwalk.kernels.jump import simulate_batch
        >>> q, times = np.array([[0.0, 1.0], [0.5, 0.0]]), np.linspace(0, 5, 51)
        >>> post = zero_shot(times, simulate_batch(0, q, times, 100), label_noise=0.0)
        >>> plot_rates(post, q, unit="s").get_xlabel()
        'rate [1 / s]'
    """
    presence = np.asarray(posterior.presence, float)
    n = len(presence)
    names = [str(name) for name in (range(n) if state_names is None else state_names)]
    if len(names) != n:
        raise ValueError(f"state_names must be {n}, one for each state, got {len(names)}.")
    known = None if truth is None else _known(truth, n)
    links = shown_links(presence)
    is_new = ax is None
    ax = new_axes(ax, "plot_rates")
    if is_new:
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.set_size_inches(7.2, 1.3 + _HEIGHT * len(links))
    bars = _Bars(posterior, links)
    log = bars.ratio > _DECADES_FROM
    _draw(ax, bars, presence, links, log)
    if known is not None:
        rows = [row for row, link in enumerate(links) if known[link] > 0]
        ax.plot([known[links[row]] for row in rows], rows, "|", color=EMBER, ms=9, mew=1.6, zorder=4)
    for row, (i, _) in enumerate(links):
        if row and i != links[row - 1][0]:
            ax.axhline(row - 0.5, color=GREY, linewidth=0.4, alpha=0.6)
    ax.set(
        xlabel=f"rate [1 / {unit}]",
        ylabel="link, from state -> to state",
        yticks=range(len(links)),
        yticklabels=[f"{names[i]} -> {names[j]}" for i, j in links],
        ylim=(len(links) - 0.4, -0.6),
    )
    if log:
        ax.set_xscale("log")
    else:
        ax.set_xlim(left=0)
    outside(ax, -1.1, "there", GREY)
    title(ax, _said(posterior, presence, known), _legend(known))
    return ax


class _Bars:
    """Ends of the bars of the links, `[links]` each, were each link there."""

    def __init__(self, posterior: "RatePosterior", links: list[tuple[int, int]]):
        def at(p: float) -> Float[np.ndarray, " links"]:
            values = np.asarray(posterior.quantile_if_present(p), float)
            return np.array([values[link] for link in links])

        self.median, self.inner, self.outer = at(0.5), [at(p) for p in _INNER], [at(p) for p in _OUTER]
        likely = np.array([np.asarray(posterior.presence)[link] > 0.5 for link in links])
        of_likely = self.median[likely] if likely.any() else self.median
        self.ratio = float(of_likely.max() / of_likely.min())


def _draw(
    ax: "Axes", bars: _Bars, presence: Float[np.ndarray, "n n"], links: list[tuple[int, int]], log: bool
) -> None:
    for row, link in enumerate(links):
        alpha = max(_FAINT, float(presence[link]))
        for ends, width in ((bars.outer, 1.0), (bars.inner, 3.0)):
            ax.plot([ends[0][row], ends[1][row]], [row, row], "-", color=TEAL, linewidth=width, alpha=alpha)
        ax.plot(bars.median[row], row, "o", color=TEAL, markersize=3.5, alpha=alpha)
        outside(ax, row, f"{presence[link]:.2f}", INK if presence[link] > 0.5 else GREY)
    if log:  # what is not there may have bars of many decades
        likely = [presence[link] > 0.5 for link in links]
        low = bars.outer[0][likely] if any(likely) else bars.outer[0]
        ax.set_xlim(0.3 * low.min(), 2 * bars.outer[1].max())


def _known(truth: ArrayLike, n: int) -> Float[np.ndarray, "n n"]:
    known = np.array(truth, float)
    check_rates(known)
    if known.shape != (n, n):
        raise ValueError(f"truth must have the shape {(n, n)} of the posterior's rates, got {known.shape}.")
    np.fill_diagonal(known, 0)
    return known


def _said(
    posterior: "RatePosterior", presence: Float[np.ndarray, "n n"], known: Float[np.ndarray, "n n"] | None
) -> str:
    links = ~np.eye(len(presence), dtype=bool)
    there = f"{int((presence[links] > 0.5).sum())} of {links.sum()} links are likely there"
    if known is None:
        return there
    low, high = (np.asarray(posterior.quantile(p)) for p in _OUTER)
    held = ((low <= known) & (known <= high))[links].sum()
    return f"{there}; {held} of {links.sum()} intervals of 90 % hold the true rate"


def _legend(known: Float[np.ndarray, "n n"] | None) -> str:
    words = "thick the middle half, thin nine tenths, if the link is there"
    return words if known is None else f"{words}; upright the true rate"
