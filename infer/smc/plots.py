"""Figures of a path: where it lies, how often each of its states was renewed, how many particles carried it.

    plot_states         median, 50 % and 90 % bands of a path site over time
    plot_update_rate    share of the draws in which the state at t was renewed, with the advised bands
    plot_particle_ess   1 / sum_i W_t^i^2, the particles that count at t

Each takes a run (`MCMC`, `ResumableRun`) or the DataTree that `to_datatree` made of it, draws into the
given matplotlib Axes or a new one, and returns it. Each title says what the figure shows, with the
number that decides. matplotlib is the extra `emberwalk[plots]`, imported when a figure is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..figures import COMPONENTS, EMBER, GREY, INK, TEAL, as_tree, new_axes, note, title

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["plot_particle_ess", "plot_states", "plot_update_rate"]

GOOD, POOR, PLENTY = 0.5, 0.2, 0.9  # smallest update rate: advised, too low, more than needed


def plot_states(
    x: Any,
    site: str,
    *,
    truth: Any = None,
    forecast: Any = None,
    dates: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Where a path lies given all data: median, 50 % and 90 % bands over time, all chains together.

    Args:
        x: an `MCMC` or `ResumableRun` after its run, or the DataTree that `to_datatree` made of it.
        site: a variable of the posterior with an axis `time`: `(chain, draw, time)`, or with one more axis
            of at most 4 components, each in its colour.
        truth: the true path where it is known (simulated data), `(time,)` or `(time, component)`; the
            title then says how much of it lies in the 90 % band.
        forecast: draws of the steps after the last, `(draws, horizon)` or `(draws, horizon, component)`,
            or a mapping that holds them under `site`, as `forecast` returns it.
        dates: what to write below the axis in place of the time steps, `(time,)`: datetime64, date
            objects, ISO strings, or numbers. Not needed where `to_datatree` had `coords={"time": dates}`.
            With a `forecast` also `(time + horizon,)`, its own dates at the end (trading days, say);
            without them it goes on in the median step, every calendar day where that is a day.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: if the site is not there, has no axis `time` or more than 4 components, or if `truth`,
            `forecast` or `dates` have another shape than the path.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> from arviz_base import from_dict
        >>> from emberwalk.infer import plot_states
        >>> h = random.normal(random.key(0), (2, 50, 30)).cumsum(-1)
        >>> tree = from_dict({"posterior": {"h": np.asarray(h)}}, dims={"h": ["time"]})
        >>> plot_states(tree, "h").get_title(loc="left")
        'h given all data: median, 50 % and 90 % bands'
    """
    path = _path(as_tree(x)["posterior"].to_dataset(), site)
    draws = _components(path.values, site)
    ahead = None if forecast is None else _ahead(forecast, site, draws.shape[-1])
    times, later = _times(path["time"].values, dates, 0 if ahead is None else ahead.shape[1])
    truth = None if truth is None else _as_path(truth, draws.shape[1:], "truth")
    ax = new_axes(ax, "plot_states")
    for k in range(draws.shape[-1]):
        colour = COMPONENTS[k]
        _band(ax, times, draws[..., k], colour, label=_component_name(path, k))
        if truth is not None:
            ax.plot(times, truth[:, k], color=INK, lw=0, marker=".", ms=3, zorder=3)
    if ahead is not None:
        _draw_forecast(ax, times[-1], later, ahead)
    if draws.shape[-1] > 1:
        ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.98), fontsize="small")
    title(ax, f"{site} given all data: median, 50 % and 90 % bands", _coverage(draws, truth))
    _label_times(ax, times)
    ax.set(ylabel=f"{site} [{path.attrs.get('units', 'units of the model')}]")
    return ax


def plot_update_rate(x: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Share of the draws in which the state at t was renewed: does the path move everywhere?

    Read the lowest point. At .5 or more there are enough particles; below .2 too few, and the draws of
    that stretch of the path are nearly copies of each other; at .9 or more fewer would do.

    Args:
        x: an `MCMC` or `ResumableRun` of `PPG` (or of a `Gibbs` with `ParticleGibbs`) after its run, or
            the DataTree that `to_datatree` made of it.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes, one thin line a chain.

    Raises:
        ValueError: if there is no `path_diagnostics`, which only the particle kernels write.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> import xarray as xr
        >>> from emberwalk.infer import plot_update_rate
        >>> rate = xr.DataArray(np.full((2, 30), 0.7), dims=("chain", "time"), coords={"time": np.arange(30)})
        >>> tree = xr.DataTree.from_dict({"path_diagnostics": xr.Dataset({"update_rate": rate})})
        >>> plot_update_rate(tree).get_title(loc="left")
        'Enough particles: every state was renewed in at least 70 % of the draws'
    """
    rate = _diagnostic(x, "update_rate")
    times = rate["time"].values
    ax = new_axes(ax, "plot_update_rate")
    ax.axhspan(GOOD, 1.0, color=TEAL, alpha=0.08, lw=0)
    ax.axhspan(0.0, POOR, color=EMBER, alpha=0.12, lw=0)
    note(ax, GOOD + 0.015, "enough particles", TEAL, "bottom")
    note(ax, 0.02, "too few particles", EMBER, "bottom")
    _chains(ax, times, rate.values)
    at, low = _lowest(rate)
    title(ax, _verdict(low, _time_name(times[at])))
    _label_times(ax, times)
    ax.set(ylabel="share of draws renewed [1]", ylim=(0, 1), yticks=(0, POOR, GOOD, 1))
    return ax


def plot_particle_ess(x: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Particles that carry weight at each time, 1 / sum_i (W_t^i)^2, a mean over the draws.

    A dip is a surprising observation: there more particles help most. It judges the
    weights; whether the path moves is in `plot_update_rate`.

    Args:
        x: as for `plot_update_rate`. Where `path_diagnostics` has an attribute `num_particles`, the
            line of that height, which equal weights would reach, is drawn.
        ax: where to draw; None makes a figure.

    Returns:
        The Axes, one thin line a chain.

    Raises:
        ValueError: if there is no `path_diagnostics`, which only the particle kernels write.
        ImportError: if matplotlib is not installed.

    Examples:
        >>> import xarray as xr
        >>> from emberwalk.infer import plot_particle_ess
        >>> ess = xr.DataArray(np.full((2, 30), 9.5), dims=("chain", "time"), coords={"time": np.arange(30)})
        >>> group = xr.Dataset({"particle_ess": ess}, attrs={"num_particles": 16})
        >>> plot_particle_ess(xr.DataTree.from_dict({"path_diagnostics": group})).get_title(loc="left")
        'At least 9.5 of 16 particles carry the path'
    """
    ess = _diagnostic(x, "particle_ess")
    number = ess.attrs.get("num_particles")
    times = ess["time"].values
    ax = new_axes(ax, "plot_particle_ess")
    _chains(ax, times, ess.values)
    if number is not None:
        ax.axhline(number, color=GREY, lw=0.8, ls=(0, (4, 3)))
        note(ax, number, f"all {number}", GREY, "bottom")
    at, low = _lowest(ess)
    of = "" if number is None else f" of {number}"
    where = "" if np.ptp(ess.mean("chain").values) == 0 else f", fewest {_time_name(times[at])}"
    title(ax, f"At least {low:.2g}{of} particles carry the path{where}")
    _label_times(ax, times)
    ax.set(ylabel="effective particles [count]", ylim=(0, 1.1 * (number or ess.max().item())))
    return ax


def _path(posterior: "xr.Dataset", site: str) -> "xr.DataArray":
    """The draws of a site, all chains together: (pooled, time, ...)."""
    axes = {
        str(name): [d for d in v.dims if str(d).split(".")[-1] == "time"] for name, v in posterior.items()
    }
    if not axes.get(site):
        raise ValueError(
            f"{site!r} is no path of the posterior; with an axis time are {[n for n in axes if axes[n]]}. "
            f"A kernel of emberwalk names that axis, else give to_datatree dims={{{site!r}: ['time']}}."
        )
    path = posterior[site].swap_dims({axes[site][0]: "time"}) if axes[site] != ["time"] else posterior[site]
    return path.stack(pooled=["chain", "draw"]).transpose("pooled", "time", ...)


def _diagnostic(x: Any, name: str) -> "xr.DataArray":
    """(chain, time), with the attributes of its group."""
    tree = as_tree(x)
    if "path_diagnostics" not in tree.children:
        raise ValueError(
            f"There is no group path_diagnostics, only {list(tree.children)}. PPG and ParticleGibbs write "
            "it; a directory alone holds no kernel: pass the run."
        )
    group = tree["path_diagnostics"].to_dataset()
    return group[name].assign_attrs(group.attrs).transpose("chain", "time")


def _components(values: np.ndarray, site: str) -> np.ndarray:
    """(draws, time, component)."""
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim > 3 or values.shape[-1] > len(COMPONENTS):
        raise ValueError(
            f"{site!r} has the shape {values.shape[1:]} over (time, ...), and plot_states draws at most "
            f"{len(COMPONENTS)} components on one more axis: select some, as by tree.isel(axis=slice(2))."
        )
    return values


def _component_name(path: "xr.DataArray", k: int) -> str | None:
    if path.ndim < 3:
        return None
    axis = path.dims[-1]
    return f"{path.name}[{path[axis].values[k]}]"


def _as_path(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    values = np.asarray(values)
    values = values[..., None] if values.ndim == len(shape) - 1 else values
    if values.shape != shape:
        raise ValueError(f"{name} has the shape {values.shape}, the path {shape} over (time, component).")
    return values


def _times(times: np.ndarray, dates: Any, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the path and those of a forecast, which goes on in the median step unless `dates` has them."""
    length = len(times)
    if dates is not None and len(dates) not in (length, length + horizon):
        more = f" and the forecast {horizon}" if horizon else ""
        raise ValueError(f"dates has {len(dates)} entries, the path {length} times{more}.")
    times = times if dates is None else np.asarray(dates)
    times = times.astype("datetime64[s]") if times.dtype.kind in "OU" else times  # date objects, ISO strings
    if horizon and len(times) == length:
        # Not the last step, which is three days where the data end on a Monday.
        step = np.sort(np.diff(times))[(length - 1) // 2]
        times = np.concatenate([times, times[-1] + step * np.arange(1, horizon + 1)])
    return times[:length], times[length:]


def _time_name(time: Any) -> str:
    return f"on {str(time)[:10]}" if np.asarray(time).dtype.kind == "M" else f"at t = {time}"


def _band(ax: "Axes", times: np.ndarray, draws: np.ndarray, colour: str, label: str | None = None) -> None:
    low, quarter, middle, three_quarters, high = np.quantile(draws, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
    step: Literal["mid"] | None = None if draws.dtype.kind == "f" else "mid"  # regimes and counts jump
    ax.fill_between(times, low, high, color=colour, alpha=0.16, lw=0, step=step)
    ax.fill_between(times, quarter, three_quarters, color=colour, alpha=0.30, lw=0, step=step)
    ax.plot(times, middle, color=colour, lw=1.3, label=label, drawstyle=step and f"steps-{step}")


def _ahead(forecast: Any, site: str, num_components: int) -> np.ndarray:
    """(draws, horizon, component)."""
    ahead = np.asarray(forecast[site] if isinstance(forecast, Mapping) else forecast)
    ahead = ahead[..., None] if ahead.ndim == 2 else ahead
    if ahead.ndim != 3 or ahead.shape[-1] != num_components:
        raise ValueError(f"forecast has the shape {ahead.shape}; (draws, horizon, {num_components}) goes on.")
    return ahead


def _draw_forecast(ax: "Axes", last: Any, later: np.ndarray, ahead: np.ndarray) -> None:
    """Goes on from the last time, behind a thin line that says where."""
    for k in range(ahead.shape[-1]):
        _band(ax, later, ahead[..., k], GREY if ahead.shape[-1] == 1 else COMPONENTS[k])
    ax.axvline(last, color=INK, lw=0.6)
    above = ax.get_xaxis_transform()  # time across, fraction of the axes up
    ax.text(last, 0.99, " forecast", transform=above, va="top", color=GREY, fontsize="small")


def _coverage(draws: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None:
        return ""
    low, high = np.quantile(draws, (0.05, 0.95), axis=0)
    inside = ((low <= truth) & (truth <= high))[np.isfinite(truth)]
    return f"The truth (dots) lies in the 90 % band at {100 * inside.mean():.0f} % of the times."


def _lowest(values: "xr.DataArray") -> tuple[int, float]:
    """Where the mean over chains is lowest, and how low."""
    mean = values.mean("chain").values
    return int(mean.argmin()), float(mean.min())


def _verdict(low: float, where: str) -> str:
    if low >= GOOD:
        enough = "More than enough" if low >= PLENTY else "Enough"
        return f"{enough} particles: every state was renewed in at least {100 * low:.0f} % of the draws"
    if low >= POOR:
        return f"More particles would help: the state {where} was renewed in {100 * low:.0f} % of the draws"
    return f"Too few particles reach the state {where}: they renewed it in {100 * low:.0f} % of the draws"


def _label_times(ax: "Axes", times: np.ndarray) -> None:
    if times.dtype.kind == "M":
        from matplotlib.dates import ConciseDateFormatter

        ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))
        ax.xaxis.get_offset_text().set(color=INK, size="small")
    ax.set_xlabel("date" if times.dtype.kind == "M" else "time [steps]")


def _chains(ax: "Axes", times: np.ndarray, values: np.ndarray) -> None:
    for chain in values:
        ax.plot(times, chain, color=TEAL, lw=0.8, alpha=0.75)
