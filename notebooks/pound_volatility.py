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
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC

from emberwalk.infer import PPG, diagnose, plot_particle_ess, plot_update_rate, summary, to_datatree
from emberwalk.infer.demo import REFERENDUM, SOURCE, draw_volatility
from emberwalk.models import load_gbp_usd

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
plt.rcParams["figure.dpi"] = 80
dates, returns = load_gbp_usd()

# %% [markdown]
# ## The data
#
# Returns in percent, $y_t = 100\,(\log r_t - \log r_{t-1})$, with $r_t$ the dollars for a pound. The
# vote was on a Thursday; its result is in the return of Friday, 24 June.

# %%
figure, ax = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
ax.plot(dates, returns, color="#1f7a8c", lw=0.7)
ax.axvline(REFERENDUM, color="#22313f", lw=0.8, ls=":")
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
def fit(num_particles, num_warmup, num_samples):
    if SMALL:
        num_warmup = num_samples = 30
    mcmc = MCMC(
        PPG(volatility, num_particles=num_particles),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(20160623), np.asarray(returns, np.float32))
    return mcmc


mcmc = fit(num_particles=16, num_warmup=500, num_samples=1000)

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
more = fit(num_particles=64, num_warmup=200, num_samples=300)
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
