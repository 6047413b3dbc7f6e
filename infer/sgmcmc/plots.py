"""Figures of SG-MCMC: its temperatures and its noise along a run, and its cycles.

    plot_temperatures     T_kin of each site over the draws, in the interval where a step has it
    plot_noise_ratio      r of each site over the draws: how much of the spread is minibatch noise
    plot_cycles           where the draws of each cycle lie

Each takes a run, the last two also the DataTree that `to_datatree` made of it. Style and axes: `infer/figures.py`;
figures of predictions: `prediction_plots.py`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike, Float
from numpy.typing import NDArray

from ..figures import (
    COMPONENTS,
    EMBER,
    GREY,
    INK,
    TEAL,
    as_tree,
    new_axes,
    note,
    outside,
    title,
    whole_numbers,
)
from .temperature_table import mcse_of_mean, temperatures

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["plot_cycles", "plot_noise_ratio", "plot_temperatures"]

QUIET, LOUD = 0.1, 1.0  # noise ratios: harmless below, most of the spread above
NAMED = 4  # sites that have a colour and a name; the others are grey
HALF = 0.42  # of a strip, whose neighbours are 1 apart


def plot_temperatures(mcmc: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Kinetic temperature of each site over the draws: does the scheme keep the temperature?

    Each site has a strip in a scale of its own, which holds all its draws. The line in its middle is what the scheme
    has exactly without noise, the band about it the interval in which a single step lies with probability 99 %. A
    trace that runs above its band says that noise, or too large a step, heats the site; on the right is its mean. Of
    an algorithm without a momentum the configurational temperature is drawn, with the band of its own draws.

    Args:
        mcmc: an `MCMC` or `ResumableRun` of `SGMCMC` after its run.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes, one thin line a chain in each strip.

    Raises:
        TypeError: if the kernel is no `SGMCMC`.
        ValueError: if the run has not begun.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from emberwalk.infer import SGMCMC, plot_temperatures
        >>> from emberwalk.kernels.sgmcmc import baoab
        >>> def model():
        ...     numpyro.sample("m", dist.Normal(0.0, 1.0).expand([1000]).to_event(1))
        >>> kernel = SGMCMC(model, baoab(0.5, friction=1.0), temperature=0.1)
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=200, progress_bar=False)
        >>> mcmc.run(random.key(0))
        >>> plot_temperatures(mcmc).get_title(loc="left")
        'Every site has its temperature as far as the draws tell, to 1 %'
    """
    seen, sites = temperatures(mcmc), mcmc.sampler.site_names
    kinetic = bool(np.isfinite(seen.exact))
    values = seen.kinetic if kinetic else seen.configurational
    exact = seen.exact if kinetic else float(seen.temperature.mean())
    means = values.mean((0, 1))
    ax = new_axes(ax, "plot_temperatures")
    for row in range(len(sites)):
        trace = values[:, :, row]
        low, high = seen.interval[row] if kinetic else np.quantile(trace, (0.005, 0.995))
        farthest = max(high - exact, exact - low, np.abs(trace - exact).max())
        scale = HALF / max(farthest, np.finfo(float).tiny)
        _strip(ax, row, (trace - exact) * scale, ((low - exact) * scale, (high - exact) * scale))
        outside(ax, row, f"{means[row]:.3g}", INK)
    word = "kinetic" if kinetic else "configurational"
    title(
        ax,
        _temperature_verdict(sites, means, mcse_of_mean(values), exact),
        f"Line: {exact:.3g}, {_what(kinetic)}; right: mean of a site",
    )
    ax.set(xlabel="draw [count]", ylabel=f"{word} temperature [units of U], by site")
    ax.set(yticks=range(len(sites)), yticklabels=sites, ylim=(len(sites) - 0.5, -0.5))
    return ax


def plot_noise_ratio(x: Any, *, ax: "Axes | None" = None) -> "Axes":
    """How much of the spread of each site is minibatch noise, over the draws: r, a mean over chains.

    r / (1 + r) of the spread is noise, and the effective temperature is T (1 + r). Below 0.1 it is harmless; above 1
    most of the spread is not the posterior's. `batching="epoch"` has at most that.

    Args:
        x: an `MCMC` or `ResumableRun` of `SGMCMC` after its run, or the DataTree that `to_datatree` made of it.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes, a line for each site; the four with the largest ratios have a name.

    Raises:
        ValueError: if there is no `noise_ratio` in `sample_stats`, or it is 0 because gradients have no noise.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from arviz_base import from_dict
        >>> from emberwalk.infer import plot_noise_ratio
        >>> r = np.full((2, 50, 1), 0.25)
        >>> tree = from_dict({"posterior": {"m": np.zeros((2, 50))}, "sample_stats": {"noise_ratio": r}},
        ...                  dims={"noise_ratio": ["site"]}, coords={"site": ["m"]})
        >>> plot_noise_ratio(tree).get_title(loc="left")
        'Cut the step: 20 % of the spread of m is minibatch noise'
    """
    ratios = _stat(x, "noise_ratio").mean("chain").transpose("site", "draw")
    sites, values = ratios["site"].values, ratios.values
    last = values[:, -1]
    if not (values > 0).any():
        raise ValueError(
            "The noise ratio is 0 throughout: gradients of all data have no noise, and no figure."
        )
    ax = new_axes(ax, "plot_noise_ratio")
    ax.set_yscale("log")
    ranked = np.argsort(-last)
    for rank, row in enumerate(ranked):
        named = rank < NAMED
        positive = np.where(values[row] > 0, values[row], np.nan)
        colour = COMPONENTS[rank] if named else GREY
        ax.plot(
            ratios["draw"].values, positive, color=colour, lw=1.1 if named else 0.6, zorder=3 - 0.1 * rank
        )
    lowest = np.nanmin(np.where(values > 0, values, np.nan))
    ax.set_ylim(min(lowest / 2, QUIET / 4), max(values.max() * 2, QUIET * 4))
    _noise_bands(ax)
    _name_lines(ax, [str(sites[row]) for row in ranked[:NAMED]], last[ranked[:NAMED]])
    worst = int(np.argmax(last))
    title(ax, _noise_verdict(str(sites[worst]), float(last[worst])))
    ax.set(xlabel="draw [count]", ylabel="noise ratio r [1]")
    return ax


def plot_cycles(
    x: Any, values: Float[ArrayLike, "chain draw"] | None = None, *, label: str = "", ax: "Axes | None" = None
) -> "Axes":
    """Where the draws of each cycle lie: do cycles find different modes?

    Cycles whose draws lie apart by more than the draws of one are in different modes; those that lie on each other
    need not be in one, and other `values` may tell them apart: a parameter, the prediction at a point.

    Args:
        x: an `MCMC` or `ResumableRun` of `SGMCMC` with `cyclical(...)`, or the DataTree of it.
        values: a number for each draw, `(chain, draw)`; None: the minibatch estimate of the potential energy.
        label: what `values` are, with their unit.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes: a dot for each draw at the number of its cycle, each chain beside the other.

    Raises:
        ValueError: if there is no `cycle` in `sample_stats`, or `values` have another shape.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from arviz_base import from_dict
        >>> from emberwalk.infer import plot_cycles
        >>> cycle = np.repeat(np.arange(10), 5)[None]
        >>> tree = from_dict({"posterior": {"m": cycle % 2.0}, "sample_stats": {"cycle": cycle}})
        >>> plot_cycles(tree, cycle % 2 + 0.05 * (np.arange(50) % 5)[None], label="m [1]").get_title(loc="left")
        '10 cycles of 5 draws: 98 % of the variance lies between cycles'
    """
    cycle = _stat(x, "cycle").values
    if values is None:
        values, label = -_stat(x, "lp").values, "potential energy [nats]"
    values = np.asarray(values, float)
    if values.shape != cycle.shape:
        raise ValueError(f"values have the shape {values.shape}, the draws {cycle.shape} over (chain, draw).")
    ax = new_axes(ax, "plot_cycles")
    num_chains = len(cycle)
    for chain in range(num_chains):
        beside = 0.5 * ((chain + 0.5) / num_chains - 0.5)
        colour = COMPONENTS[chain] if num_chains <= len(COMPONENTS) else TEAL
        ax.plot(cycle[chain] + beside, values[chain], ".", color=colour, ms=6, alpha=0.7, mew=0)
    num_cycles = int(cycle.max()) + 1
    each = f"{num_cycles} cycles of {np.bincount(cycle[0].astype(int)).max()} draws"
    share = _between_cycles(cycle, values)
    chains = "" if num_chains == 1 else f"{num_chains} chains, beside each other"
    title(ax, f"{each}: {100 * share:.0f} % of the variance lies between cycles", chains)
    ax.set(xlabel="cycle [count]", ylabel=label or "values [units of the model]")
    whole_numbers(ax)
    return ax


def _strip(ax: "Axes", row: int, trace: NDArray, band: tuple[float, float]) -> None:
    """A site: its interval, its middle, a line for each chain; the y axis points down."""
    ax.axhspan(row - band[1], row - band[0], color=TEAL, alpha=0.08, lw=0)
    for chain in trace:
        ax.plot(np.arange(len(chain)), row - chain, color=TEAL, lw=0.6, alpha=0.75)
    ax.axhline(row, color=EMBER, lw=0.9)


def _what(kinetic: bool) -> str:
    return "what the scheme has without noise" if kinetic else "T"


def _temperature_verdict(sites: tuple[str, ...], means: NDArray, errors: NDArray, exact: float) -> str:
    """The site that is farthest off, if it is so by 5 % and by 3 MCSE, which few draws have not."""
    off, z = means / exact - 1, np.abs(means - exact) / errors
    away = np.where((z < 3) | (np.abs(off) < 0.05), 0.0, off)
    if not away.any():
        largest = np.ceil(100 * np.abs(off).max())
        return f"Every site has its temperature as far as the draws tell, to {largest:.0f} %"
    worst = int(np.argmax(np.abs(away)))
    if away[worst] < -1:
        return f"The temperature of {sites[worst]} is {means[worst]:.2g}, below 0: the run still drifts"
    if away[worst] > 1:
        return f"The temperature of {sites[worst]} is {1 + away[worst]:.2g} times its own"
    side = "above" if away[worst] > 0 else "below"
    return f"The temperature of {sites[worst]} is {100 * abs(away[worst]):.0f} % {side} its own"


def _stat(x: Any, name: str) -> "xr.DataArray":
    tree = as_tree(x)
    stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else {}
    if name not in stats:
        needs = " with cyclical(...)" if name == "cycle" else ""
        raise ValueError(f"There is no {name} in sample_stats: a run of SGMCMC{needs} writes it.")
    return stats[name]


def _name_lines(ax: "Axes", names: list[str], heights: NDArray) -> None:
    """Beside the ends of lines, the highest first, each a line of text below the one before at least."""
    bottom, top = np.log(ax.get_ylim())
    below = np.inf
    for name, height, colour in zip(names, heights, COMPONENTS, strict=False):
        below = min(np.log(max(height, np.exp(bottom))), below - 0.07 * (top - bottom))
        outside(ax, float(np.exp(below)), name, colour)


def _noise_bands(ax: "Axes") -> None:
    """Their words at the far edges, where lines seldom are."""
    bottom, top = ax.get_ylim()
    ax.axhspan(bottom, QUIET, color=TEAL, alpha=0.08, lw=0)
    note(ax, bottom * 1.06, "harmless", TEAL, "bottom")
    if top > LOUD:
        ax.axhspan(LOUD, top, color=EMBER, alpha=0.12, lw=0)
        note(ax, top / 1.06, "mostly noise", EMBER, "top")


def _noise_verdict(site: str, r: float) -> str:
    share = f"{100 * r / (1 + r):.2g} % of the spread of {site} is minibatch noise"
    return f"At most {share}" if r <= QUIET else f"Cut the step: {share}"


def _between_cycles(cycle: NDArray, values: NDArray) -> float:
    """Share of the variance of draws that lies between the means of cycles, of each chain its own."""
    residual = values.astype(float).copy()
    for chain, number in {(c, n) for c, row in enumerate(cycle) for n in row}:
        of_cycle = cycle[chain] == number
        residual[chain, of_cycle] -= values[chain, of_cycle].mean()
    total = values.var()
    return float(1 - residual.var() / total) if total > 0 else 0.0
