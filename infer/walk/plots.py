"""Figures of a walk: visits beside the target, variance beside the closed form, error beside its slopes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ...kernels.walk import asymptotic_covariance, dense_transition, variance_ratio
from ...kernels.walk.theory import Method
from ..figures import EMBER, GREY, INK, TEAL, new_axes, note, title
from .estimators import target_of, visits_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAND_NODES = 2000  # above it the eigenvalues of the base chain take minutes


def plot_visits(mcmc: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Visits of every node over those the target asks for, nodes in the order of their target.

    The band is two standard deviations of the base chain's closed form for as many steps, of one chain; drawn for at
    most 2000 nodes.

    Args:
        mcmc: an `MCMC` or `ResumableRun` of `GraphWalk` after its run.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Examples:
        >>> from emberwalk.infer import GraphWalk, plot_visits
        >>> from emberwalk.models import karate_club
        >>> mcmc = MCMC(GraphWalk(karate_club(), steps_per_draw=100), num_warmup=1, num_samples=50, progress_bar=False)
        >>> mcmc.run(random.key(0))
        >>> plot_visits(mcmc).get_ylabel()
        'visits / visits asked for'
    """
    kernel, counts = visits_of(mcmc)
    mu = target_of(kernel)
    mu = mu / mu.sum()
    order, steps = np.argsort(-mu, kind="stable"), counts.sum(1, keepdims=True)
    ratio = counts / (steps * mu)
    ax = new_axes(ax, "plot_visits")
    rank = np.arange(1, len(mu) + 1)
    if len(mu) <= _BAND_NODES:
        P = dense_transition(kernel.graph, kernel.log_mu, kernel.base, kernel.lazy)
        sd = np.sqrt(np.diag(asymptotic_covariance(P, mu, 0.0)) / steps.mean()) / mu
        ax.fill_between(rank, 1 - 2 * sd[order], 1 + 2 * sd[order], color=GREY, alpha=0.18, linewidth=0)
        note(ax, 1 + 2 * sd[order][-1], "base chain, 2 sd", GREY, "bottom")
    ax.axhline(1, color=INK, linewidth=0.8)
    for chain in ratio:
        ax.plot(rank, chain[order], ".", color=TEAL, markersize=3, alpha=0.7)
    distance = np.abs(counts / steps - mu).sum(1).mean() / 2
    ax.set(xlabel="node, in the order of the target", ylabel="visits / visits asked for")
    title(
        ax,
        f"Visits are {distance:.2g} from the target in total variation",
        f"{steps.mean():,.0f} steps a chain",
    )
    return ax


def plot_variance_ratio(
    P: ArrayLike,
    mu: ArrayLike,
    alphas: ArrayLike,
    measured: ArrayLike | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Variance of the visits over that of the base chain against alpha: the closed forms, and what was seen.

    Args:
        P: base chain `[N, N]`, reversible.
        mu: target `[N]`, up to a factor.
        alphas: repellences to draw at.
        measured: ratios of `srrw` seen at them, for instance from between-chain variances; none without it.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Examples:
        >>> from emberwalk.infer import plot_variance_ratio
        >>> from emberwalk.kernels.walk import dense_transition
        >>> from emberwalk.models import karate_club
        >>> ax = plot_variance_ratio(dense_transition(karate_club()), np.ones(34), [0, 1, 5, 10])
        >>> ax.get_xlabel()
        'repellence alpha'
    """
    alphas = np.asarray(alphas, float)
    ax = new_axes(ax, "plot_variance_ratio")
    methods: dict[Method, str] = {"srrw": TEAL, "hdt": EMBER}
    between = np.linspace(alphas.min(), alphas.max(), 50)
    for method, colour in methods.items():
        curve = [variance_ratio(P, mu, alpha, method) for alpha in between]
        ax.plot(between, curve, "-", color=colour, linewidth=1.4)
        note(ax, curve[-1], method, colour, "bottom")
    if measured is not None:
        ax.plot(alphas, np.asarray(measured, float), "o", color=INK, markersize=4)
    ax.set(xlabel="repellence alpha", ylabel="variance / base chain", yscale="log")
    _decades_alone(ax.yaxis)
    last = variance_ratio(P, mu, float(alphas[-1]), "srrw")
    title(ax, f"At alpha = {alphas[-1]:g} the variance of the visits is {last:.2g} of the base chain's")
    return ax


def plot_error_decay(steps: ArrayLike, errors: dict[str, ArrayLike], *, ax: "Axes | None" = None) -> "Axes":
    """Error against the number of steps, both logarithmic, with the slopes -1/2 and -1.

    Args:
        steps: `[n]`.
        errors: name of a walk -> its errors `[n]`, such as root mean squares over chains.
        ax: matplotlib Axes to draw in; None makes new ones.

    Returns:
        The Axes.

    Examples:
        >>> from emberwalk.infer import plot_error_decay
        >>> ax = plot_error_decay([100, 1000], {"base": [0.1, 0.03], "growth": [0.1, 0.01]})
        >>> ax.get_xscale(), ax.get_yscale()
        ('log', 'log')
    """
    steps = np.asarray(steps, float)
    ax = new_axes(ax, "plot_error_decay")
    ax.set(xlabel="steps", ylabel="error", xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        _decades_alone(axis)
    first = max(float(np.asarray(values)[0]) for values in errors.values())
    for slope, style in ((-0.5, "--"), (-1.0, ":")):
        ax.plot(steps, first * (steps / steps[0]) ** slope, style, color=GREY, linewidth=0.8)
    colours = dict(zip(errors, (TEAL, EMBER, "#c08a1e", "#6a5a8c", "#5c7f3d"), strict=False))
    for name, values in errors.items():
        ax.plot(
            steps, np.asarray(values, float), "o-", color=colours.get(name, INK), linewidth=1.4, markersize=3
        )
        note(ax, float(np.asarray(values)[-1]), name, colours.get(name, INK), "bottom")
    fits = {
        name: np.polyfit(np.log(steps), np.log(np.asarray(values, float)), 1)[0]
        for name, values in errors.items()
    }
    best = min(fits, key=lambda name: fits[name])
    title(ax, f"The error of {best} falls as n^{fits[best]:.2f}", "dashed n^-1/2, dotted n^-1")
    return ax


def _decades_alone(axis: Any) -> None:
    """Numbers at whole powers of ten: those between run into each other."""
    from matplotlib.ticker import NullFormatter

    axis.set_minor_formatter(NullFormatter())
