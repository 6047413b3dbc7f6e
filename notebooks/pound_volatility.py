# %% [markdown]
# # Volatility of the pound
#
# How much the pound moves against the dollar on a given day is never seen; only the returns are. A
# stochastic-volatility model makes the log-variance a path of its own,
#
# $$h_t \sim \mathrm{N}(\mu + \varphi\,(h_{t-1} - \mu),\ \sigma), \qquad y_t \sim \mathrm{N}(0,\ e^{h_t/2}),$$
#
# where $\mathrm{N}(a, b)$ has standard deviation $b$. `PPG` draws the whole path $h$ and the parameters
# from a model written in plain NumPyro. The data are 750 daily returns, July 2014 to June 2017, with
# the referendum of 23 June 2016 among them.

# %%
import os
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, MCMC, NUTS

from emberwalk.infer import (
    PPG,
    diagnose,
    forecast,
    lag_product,
    plot_particle_ess,
    plot_states,
    plot_update_rate,
    ppg_estimates,
    summary,
    to_datatree,
)
from emberwalk.infer.demo import REFERENDUM, SOURCE, draw_volatility
from emberwalk.models import load_gbp_usd

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, TEAL, EMBER, GREY = "#22313f", "#1f7a8c", "#d1603d", "#8a949c"
plt.rcParams["figure.dpi"] = 80
dates, returns = load_gbp_usd()
y = jnp.asarray(returns, jnp.float32)

# %% [markdown]
# ## The data
#
# Returns in percent, $y_t = 100\,(\log r_t - \log r_{t-1})$, with $r_t$ the dollars for a pound. The
# vote was on a Thursday; its result is in the return of Friday, 24 June.

# %%
figure, ax = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
ax.plot(dates, returns, color=TEAL, lw=0.7)
ax.axvline(REFERENDUM, color=INK, lw=0.8, ls=":")
ax.set(xlabel=f"date ({SOURCE})", ylabel="return [%]")
title = ax.set_title("Daily returns of the pound: quiet years around one day", loc="left")

# %% [markdown]
# ## The model
#
# An ordinary NumPyro model: the scan is written as for NUTS, centred, and nothing in it knows of
# particles. `h0` is the state before the first return.


# %%
def volatility(y):
    mu = numpyro.sample("mu", dist.Normal(-1, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    phi = numpyro.deterministic("phi", 2 * numpyro.sample("b", dist.Beta(20, 1.5)) - 1)
    h0 = numpyro.sample("h0", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)))

    def step(h, y_t):
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y_t)
        return h, None

    scan(step, h0, y)


# %% [markdown]
# ## The fit
#
# `PPG` finds the path in the model by itself. One draw is three moves: the path given the parameters, by
# a conditional particle filter with $N$ particles; the parameters given the path, by NUTS; and both
# together, by HMC on the parameters and the noise that makes the path.


# %%
def fit(kernel, num_warmup=500, num_samples=1000):
    if SMALL:
        num_warmup = num_samples = 30
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(20160623), y)
    return mcmc


mcmc = fit(PPG(volatility, num_particles=16))

# %% [markdown]
# `diagnose` asks the kernel what went wrong, as far as it can tell. Its sentences are warnings too, which
# `to_datatree` repeats; here they are printed once.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sentences = diagnose(mcmc)
    post = to_datatree(mcmc, coords={"time": dates})
print("\n".join(sentences) or "nothing to report")

# %% [markdown]
# One time of 750 is named; what that means is below. First the answer: the parameters, and the path at
# five of its days. Look at `r_hat` near 1 and at `ess_bulk` before you look at a mean.

# %%
summary(post, var_names=["phi", "sigma", "mu", "h"])

# %% [markdown]
# ## The volatility
#
# $e^{h_t/2}$ is the standard deviation of a day's return. The bands are the posterior of the path given
# *all* returns, those after the day included.

# %%
figure, ax = plt.subplots(figsize=(9, 4.5), layout="constrained")
draw_volatility(ax, post, returns)

# %% [markdown]
# ## Did the path move?
#
# `plot_update_rate` shows, for each day, the share of the sweeps that put a new state there. Read its
# lowest point.

# %%
ax = plot_update_rate(post)

# %% [markdown]
# Almost every day is renewed in most sweeps, but not the day after the referendum. The same figure for the
# weights says why: `plot_particle_ess` is the number of particles that count,
# $1 / \sum_i (W_t^i)^2$.

# %%
ax = plot_particle_ess(post)

# %% [markdown]
# The particles move by the model, which on 23 June expects a quiet Friday. A return of -8 % is
# possible only for the few that happen to go up far enough. In most sweeps the best of them is the
# one that carries the path of the last draw, so that this path is kept there.
#
# A low rate makes draws correlated, never wrong: the sweep leaves the posterior of the path as it is
# for every $N \ge 2$. Nor is the sweep alone: the joint move shifts the path at every time, this day
# included, whenever it is accepted. So the question is not the rate but the effective sample size of
# $h$ on that day.

# %%
rate = post["path_diagnostics"]["update_rate"].mean("chain")
day = rate["time"].values[int(np.argmin(rate.values))]
h_ess = az.ess(post["posterior"].to_dataset()[["h"]])["h"]
joint = float(post["sample_stats"]["interweave_accept_prob"].mean())
print(f"renewed least: {str(day)[:10]}, in {float(rate.min()):.0%} of the sweeps")
print(f"joint move accepted: {joint:.0%} of the time")
print(
    f"ESS of h on that day: {float(h_ess.sel(time=day)):.0f} of {post['posterior']['h'][..., 0].size} draws"
)
print(f"ESS of h over all days: median {float(h_ess.median()):.0f}, smallest {float(h_ess.min()):.0f}")

# %% [markdown]
# ## How many particles?
#
# More particles reach further: with $N = 64$ the same day is renewed more often, at four times the price
# of a sweep. A shorter run is enough to see it.

# %%
more = fit(PPG(volatility, num_particles=64), num_warmup=200, num_samples=300)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    more = to_datatree(more, coords={"time": dates})
ax = plot_update_rate(more)
for tree in (post, more):
    rate = tree["path_diagnostics"]["update_rate"].mean("chain")
    print(
        f"N = {tree['path_diagnostics'].attrs['num_particles']}: {str(day)[:10]} renewed in "
        f"{float(rate.sel(time=day)):.0%} of the sweeps, the median day in {float(rate.median()):.0%}"
    )

# %% [markdown]
# The rate of that day rises, and one half is still far away: only many more particles would reach so rare
# a jump. A sweep costs $O(N)$, so the rule is:
#
# - where nothing else moves the path (`interweave=None`, discrete states), raise $N$ until the lowest rate is
#   one half;
# - where every day is renewed in nine sweeps of ten, lower $N$;
# - where the joint move runs and single days are low, as here, look at the ESS of those days first, and
#   keep $N$ small if it is good.
#
# ## Which move does the work?
#
# `interweave=` says what is moved beside the path given the parameters and the parameters given the
# path: nothing (`None`), the parameters with the noise held (`"theta"`), or parameters and noise
# together (`"joint"`, what `PPG` chose above). Four chains each, one shade a chain.

# %%
others = {str(move): fit(PPG(volatility, num_particles=16, interweave=move)) for move in (None, "theta")}
runs = {**others, "joint": mcmc}


# %%
def draws_of(run):
    """The parameters, (chain, draw)."""
    samples = run.get_samples(group_by_chain=True)
    return {name: np.asarray(samples[name]) for name in ("sigma", "phi", "mu")}


def least_ess(run):
    """Smallest bulk effective sample size of the three parameters, per draw of a chain."""
    draws = draws_of(run)
    return min(float(az.ess(values)) for values in draws.values()) / draws["mu"].size


figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), sharex=True, sharey="row", layout="constrained")
shades = ("#14505c", "#1f7a8c", "#5aa3b0", "#9ccbd3")
for column, (move, run) in zip(axes.T, runs.items(), strict=True):
    for ax, name in zip(column, ("sigma", "phi"), strict=True):
        for values, shade in zip(draws_of(run)[name], shades, strict=True):
            ax.plot(values, color=shade, lw=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    column[0].set_title(f"interweave={move}", loc="left", fontsize="medium")
    column[1].set_xlabel("draw after warm-up [count]")
axes[0, 0].set_ylabel("sigma [a day]")
axes[1, 0].set_ylabel("phi [a day]")
title = figure.suptitle(
    "Given the path, sigma and phi creep; with the noise held they walk; moved together they jump",
    x=0.01, ha="left", fontsize="medium",
)  # fmt: skip

# %% [markdown]
# A path of 750 days says to a few percent how large its own steps are, and so pins sigma: given the path,
# sigma can go no further than the path lets it, and the next path is drawn for that sigma. The noise
# alone says nothing of sigma, which is why holding the noise in place of the path frees it.
#
# ## Against NUTS
#
# The honest comparison has two rivals. NUTS takes the model as it is, *centred*, as `PPG` does. And
# who sees the trouble can rewrite it by hand in standardised noise, *non-centred*, where NUTS is good:


# %%
def volatility_in_noise(y):
    mu = numpyro.sample("mu", dist.Normal(-1, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    phi = numpyro.deterministic("phi", 2 * numpyro.sample("b", dist.Beta(20, 1.5)) - 1)
    z0 = numpyro.sample("z0", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(y.shape).to_event(1))

    def step(deviation, z_t):
        deviation = phi * deviation + sigma * z_t
        return deviation, deviation

    _, deviations = jax.lax.scan(step, sigma / jnp.sqrt(1 - phi**2) * z0, z)
    numpyro.sample("y", dist.Normal(0, jnp.exp((mu + deviations) / 2)).to_event(1), obs=y)


# %% [markdown]
# The last row of the table is HMC of 32 steps on the model in noise, what public NumPyro has nearest to
# the joint move without a sweep; `"joint"` also varies its step size from draw to draw. A
# second is one of CPU time, after compilation, for a draw of one of the four chains, the median of
# three repeats that take turns; compilation is that of the loop over draws alone. The table was made
# on a busy machine, so read its times as rough.

# %%
runs = {f"PPG, {move}": run for move, run in runs.items()}
runs["NUTS, centred"] = fit(NUTS(volatility))
runs["NUTS, non-centred"] = fit(NUTS(volatility_in_noise))
runs["HMC, non-centred"] = fit(
    HMC(volatility_in_noise, num_steps=32, trajectory_length=None, target_accept_prob=0.9)
)


# %%
def compiled_draws(run, num_draws=2 if SMALL else 100):
    """A program that makes draws from where the run ended, and the CPU seconds to compile it."""
    kernel = run.sampler

    def draws(state):
        return jax.lax.fori_loop(0, num_draws, lambda _, state: kernel.sample(state, (y,), {}), state)

    start = time.process_time()
    program = jax.jit(draws).lower(run.last_state).compile()
    return lambda: jax.block_until_ready(program(run.last_state)), time.process_time() - start, 4 * num_draws


def table_of(runs, repeats=3):
    programs = {name: compiled_draws(run) for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (program, _, num_draws) in programs.items():
            start = time.process_time()
            program()
            seconds[name].append((time.process_time() - start) / num_draws)
    rows = {}
    for name, run in runs.items():
        ess, cost = least_ess(run), float(np.median(seconds[name]))
        rows[name] = {
            "sigma": round(float(run.get_samples()["sigma"].mean()), 2),
            "least ESS a draw": round(ess, 4),
            "ms a draw": round(1e3 * cost, 2),
            "least ESS a second": round(ess / cost, 1),
            "seconds to compile": round(programs[name][1], 1),
        }
    return pd.DataFrame(rows).T


table_of(runs)

# %% [markdown]
# Read it row by row. On the model as written, NUTS and the sweep without an innovations move are both
# poor, for the same reason: the path pins the parameters. The joint move is what makes `PPG` quick, and
# it costs less than the rest of the draw: more than half of the time is already there with `None`.
# That half buys little here, because this posterior has one mode and no gradient fails on it. For a
# path like this, whoever rewrites the model by hand is served by NUTS, without particles, within a factor
# of three of `PPG` here, and compiles sooner. The joint move alone, without a sweep, is the quickest: in the
# benchmark, 593 effective draws a CPU second of a chain, against 317 with all three moves. But it cannot tell
# that a path has other modes, and on the growth model it ends with an R-hat of 4.5, so `PPG` does not offer it.
# What `PPG` gives is that the model stays as it is, and that the sweeps are there for paths that no gradient
# can cross (the notebook "When the path is the problem"). Repeated timings are on the page "Benchmarks".
#
# ## The next 20 days
#
# `forecast` goes on from the last state of every draw, at the parameters of that draw.

# %%
ahead = forecast(mcmc, jax.random.key(1), horizon=20)
later = np.busday_offset(dates[-1], np.arange(1, 21))  # trading days
figure, ax = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
plot_states(post, "h", forecast=ahead, dates=np.concatenate([dates, later]), ax=ax)
ax.set(xlim=(dates[-100], later[-1]), ylim=(-4.5, 2), ylabel="log-variance h [log %²]")
title = ax.set_title(
    "The last 100 days of h, and the 20 to come: the band opens within days", loc="left", fontsize="medium"
)

# %%
total = np.asarray(ahead["y"]).sum(1)  # log-returns add up
low, high = np.quantile(total, (0.05, 0.95))
width = np.diff(np.quantile(np.asarray(ahead["h"]), (0.05, 0.95), axis=0), axis=0)[0]
print(f"return over the 20 days: between {low:.1f} % and {high:.1f} % with probability .9")
print(
    f"90 % band of h: {width[0]:.1f} wide on the first day, {width[4]:.1f} on the fifth, {width[-1]:.1f} on the last"
)

# %% [markdown]
# ## A smoothed functional
#
# Sums over the path, $\sum_t h_{t-1} h_t$ for one, can be read off the drawn paths. But each sweep holds
# $N$ particles at every time, and averages over all ways back through them (the PaRIS statistic): with
# `functionals=` the sweep returns that average, and `ppg_estimates` puts them together.

# %%
rolled = fit(PPG(volatility, num_particles=16, functionals={"lag product": lag_product("h")}))
estimate = ppg_estimates(rolled)["lag product"]
print(f"by the sweeps: {estimate.mean:.1f} ± {estimate.mcse:.1f}")
print(f"by the paths:  {estimate.path_mean:.1f} ± {estimate.path_mcse:.1f}")
print(f"gain: {estimate.gain:.2f}")

# %% [markdown]
# The gain is the number of draws of paths that one sweep is worth for this sum: the square of the
# ratio of the two standard errors. Here it is small. Averaging over paths takes away only what varies from
# path to path at given parameters; the sum also moves with $\mu$ and $\sigma$, which a sweep holds
# fixed. So look at the gain before you count on it.
#
# ## ArviZ
#
# `post` is an `xarray.DataTree` with the dates on the axis of the path, and ArviZ takes it as it is. In
# the rank plot each chain is a curve, the share of its draws among the lowest ranks less the share
# expected: curves that stay near zero come from chains that explore the same distribution.

# %%
ranks = az.plot_rank(post, var_names=["phi", "sigma", "mu"])

# %%
for name, ess in az.ess(post["posterior"].to_dataset()[["phi", "sigma", "mu"]]).items():
    print(f"ESS of {name}: {float(ess):.0f}")

# %% [markdown]
# ## Keep it
#
# The tree is one netCDF file, with the particle diagnostics in it; the figures can be drawn from the
# file alone.

# %%
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "pound_volatility.nc"
    post.to_netcdf(file)
    again = az.from_netcdf(file).load()
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, groups {', '.join(again.children)}")
assert (again["posterior"]["h"] == post["posterior"]["h"]).all()
