"""The main job on real data: `make demo`, or `python -m emberwalk.infer.demo`.

Daily returns of the pound against the dollar, 2014-07 to 2017-06, the referendum in them, and a
stochastic-volatility model as its authors would write it (`emberwalk.models.stochastic_volatility`).
Particle Gibbs draws the whole path of the log-variance and the parameters; tables go to the screen,
figures and draws to a folder.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import random
from numpyro.infer import MCMC

from ..models import load_gbp_usd, stochastic_volatility
from .diagnostics import summary, to_datatree
from .smc.plots import plot_states, plot_update_rate
from .smc.ppg import PPG

REFERENDUM = np.datetime64("2016-06-23")
SOURCE = "Source: European Central Bank"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, report, draw and store; `--help` lists the options."""
    options = _options(arguments)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    dates, returns = load_gbp_usd()
    print(
        f"The pound against the dollar: {len(returns)} daily returns, {dates[0]} to {dates[-1]}. {SOURCE}.\n"
    )
    print("h_t = mu + phi (h_{t-1} - mu) + sigma e_t,   return_t = exp(h_t / 2) w_t,   e, w ~ N(0, 1)")
    print(
        f"4 chains, {options.warmup} draws to warm up and {options.draws} to keep. First the program is compiled ..."
    )
    mcmc, seconds = _fit(returns, options.warmup, options.draws)
    print(
        f"\n{4 * options.draws} draws of all parameters and the whole path in {seconds:.0f} s, compiling included.\n"
    )
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        tree = to_datatree(mcmc, coords={"time": dates})
    print(summary(tree, var_names=["phi", "sigma", "mu", "h"]).to_string(), "\n")
    print(in_plain_words(mcmc, tree, dates))
    for warning in noted:
        print(f"Note: {warning.message}")
    print()
    for path in (*_figures(tree, returns, folder), _store(tree, folder)):
        print(f"wrote {path}")


def in_plain_words(mcmc: MCMC, tree: Any, dates: np.ndarray) -> str:
    """The particle diagnostics as sentences, each with its number."""
    rate = tree["path_diagnostics"]["update_rate"].mean("chain")
    fields = mcmc.get_extra_fields()
    worst = int(np.argmin(rate.values))
    volatility = np.exp(tree["posterior"]["h"] / 2).mean(("chain", "draw"))
    peak = int(np.argmax(volatility.values))
    calm = float(volatility.median())
    few = "" if float(rate[worst]) >= 0.5 else ", where the joint move does the work"
    return (
        f"Each sweep renewed {float(rate.mean()):.0%} of the days of the path; the day renewed least, {dates[worst]}, "
        f"{float(rate[worst]):.0%} of the time{few}.\n"
        f"Of {mcmc.sampler.path_block.num_particles} particles, {float(fields['particle_ess'].mean()):.1f} "
        "carried weight on an average day.\n"
        f"The joint move of path and parameters was accepted {float(fields['interweave_accept_prob'].mean()):.0%} of "
        f"the time; {int(fields['diverging'].sum())} trajectories diverged.\n"
        f"Volatility was highest on {dates[peak]}: {float(volatility[peak]):.1f} % a day, "
        f"{float(volatility[peak]) / calm:.1f} times the median day."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Volatility of the pound, by particle Gibbs.")
    parser.add_argument("--draws", type=int, default=1000, help="draws a chain to keep (default %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=500, help="draws a chain to warm up (default %(default)s)"
    )
    parser.add_argument(
        "--output", default="demo-output", help="folder for figures and draws (default %(default)s)"
    )
    return parser.parse_args(arguments)


def _fit(returns: np.ndarray, num_warmup: int, num_samples: int) -> tuple[MCMC, float]:
    start = time.perf_counter()
    mcmc = MCMC(
        PPG(stochastic_volatility, num_particles=16),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=sys.stderr.isatty() or num_samples >= 100,
    )
    mcmc.run(random.key(20160623), np.asarray(returns, np.float32))
    mcmc.last_state.rng_key.block_until_ready()
    return mcmc, time.perf_counter() - start


def _figures(tree: Any, returns: np.ndarray, folder: Path) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    for name, size, draw in (
        ("volatility", (9, 4.5), lambda ax: draw_volatility(ax, tree, returns)),
        ("update_rate", (9, 3.5), lambda ax: plot_update_rate(tree, ax=ax)),
    ):
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        draw(ax)
        drawn.append(_save(figure, folder / f"{name}.png"))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    draw_parameters(axes, tree)
    return [*drawn, _save(figure, folder / "parameters.png")]


def draw_volatility(ax: Any, tree: Any, returns: np.ndarray) -> None:
    """Daily volatility exp(h / 2), its bands over the sizes of the returns, the referendum marked."""
    posterior = tree["posterior"].to_dataset()
    volatility = np.exp(posterior["h"] / 2).assign_attrs(units="% a day")
    dates = posterior["time"].values
    ax.plot(dates, np.abs(returns), lw=0, marker=".", ms=3, color="#b8bfc4", label="|return|", zorder=1)
    plot_states(posterior[[]].assign(volatility=volatility).pipe(_as_tree), "volatility", ax=ax)
    top = 1.15 * float(np.quantile(volatility, 0.999))
    above = np.abs(returns) > top
    ax.plot(dates[above], np.full(above.sum(), top), lw=0, marker="^", ms=5, color="#b8bfc4", clip_on=False)
    largest = int(np.abs(returns).argmax())
    ax.annotate(
        f"{returns[largest]:.1f} %", (dates[largest], top), (8, -3), textcoords="offset points", fontsize="small",
        color="#8a949c",
    )  # fmt: skip
    ax.axvline(REFERENDUM, color="#22313f", lw=0.8, ls=":")
    ax.annotate(
        "referendum\n2016-06-23",
        (REFERENDUM, 0.72 * top),
        (-6, 0),
        textcoords="offset points",
        ha="right",
        fontsize="small",
    )
    ax.set(ylim=(0, top), ylabel="volatility, |return| [% a day]")
    ax.set_title(
        "Volatility of the pound: median, 50 % and 90 % bands over the sizes of its daily returns", loc="left"
    )
    ax.annotate(
        SOURCE,
        (1, 0),
        (0, -30),
        "axes fraction",
        "offset points",
        ha="right",
        fontsize="x-small",
        color="#8a949c",
    )


def draw_parameters(axes: Any, tree: Any) -> None:
    """Posterior of the parameters, one curve a chain."""
    from arviz_stats.base import array_stats

    meaning = {"phi": "persistence a day [1]", "sigma": "volatility of h [a day]", "mu": "mean of h [log %²]"}
    for ax, (name, words) in zip(axes, meaning.items(), strict=True):
        for chain in tree["posterior"][name].values:
            margin = 0.5 * chain.std()
            limits = (chain.min() - margin, chain.max() + margin)
            grid, density, _ = array_stats.kde(chain, bound_correction=False, custom_lims=limits)
            ax.plot(grid, density, color="#1f7a8c", lw=1, alpha=0.8)
        ax.set(xlabel=f"{name}: {words}", yticks=[])
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_title("Posterior of the parameters: four chains, one curve each", loc="left")


def _as_tree(posterior: Any) -> Any:
    import xarray as xr

    return xr.DataTree.from_dict({"posterior": posterior})


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _store(tree: Any, folder: Path) -> Path:
    path = folder / "posterior.nc"
    tree.to_netcdf(path)
    return path


if __name__ == "__main__":
    main()
