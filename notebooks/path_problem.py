# %% [markdown]
# # When the path is the problem
#
# A state-space model may have nothing unknown but its path, and still be out of reach of a gradient.
# The growth model, on which the first particle filter was tried (Gordon, Salmond and Smith 1993), is such
# a one:
#
# $$x_t \sim \mathrm{N}\Big(\frac{x_{t-1}}{2} + \frac{25\,x_{t-1}}{1 + x_{t-1}^2} + 8 \cos(1.2\,t),\ \sqrt{10}\Big),
# \qquad y_t \sim \mathrm{N}\Big(\frac{x_t^2}{20},\ 1\Big),$$
#
# where $\mathrm{N}(a, b)$ has standard deviation $b$ and $x_0 \sim \mathrm{N}(0, \sqrt 5)$. The
# observation sees $x_t^2$, so the sign of a state is known from its neighbours or not at all. The state
# is a single number, so a sum over a grid gives the exact answer, and every sampler can be held to it.

# %%
import os
import time
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import PPG, diagnose, to_datatree
from emberwalk.models import nonlinear_growth

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, TEAL, EMBER, GOLD, VIOLET, GREY = "#22313f", "#1f7a8c", "#d1603d", "#c08a1e", "#6a5a8c", "#8a949c"
plt.rcParams |= {"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}

# %% [markdown]
# ## The data
#
# Fifty steps, drawn from the model itself.

# %%
LENGTH, STATE_SD = 50, 10**0.5


def drift(x, t):
    return x / 2 + 25 * x / (1 + x**2) + 8 * np.cos(1.2 * t)


random = np.random.default_rng(1)
state_noise, noise = random.normal(size=(2, LENGTH))
path = [5**0.5 * state_noise[0]]
for t in range(1, LENGTH):
    path.append(drift(path[-1], t) + STATE_SD * state_noise[t])
path = np.array(path)
y = path**2 / 20 + noise

figure, (above, below) = plt.subplots(2, 1, figsize=(7.2, 4), sharex=True, layout="constrained")
above.plot(y, color=INK, lw=0, marker=".")
above.set(ylabel="observation y [1]")
above.set_title("What is seen is the square of the state, and noise", loc="left", fontsize="medium")
below.axhline(0, color=GREY, lw=0.6)
below.plot(path, color=INK, lw=0.8, marker=".")
below.set(xlabel="time [steps]", ylabel="state x [1]")
title = below.set_title(
    "What is asked for is the state: it often crosses zero", loc="left", fontsize="medium"
)

# %% [markdown]
# ## The exact answer
#
# Forward and backward sums over 1601 points between -30 and 30 give $p(x_t \mid y)$ at every time, all
# observations used:
#
# $$\alpha_t = (\alpha_{t-1} K_t)\, g_t, \qquad \beta_{t-1} = K_t\, (g_t\, \beta_t), \qquad
# p(x_t \mid y) \propto \alpha_t\, \beta_t,$$
#
# with $K_t$ the transition from point to point and $g_t$ the likelihood of $y_t$ at each of them.

# %%
grid = np.linspace(-30, 30, 1601)


def normal(x, mean, sd):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2)  # up to a factor, which cancels


def transition(t):
    return normal(grid, drift(grid, t)[:, None], STATE_SD)


likelihood = normal(y[:, None], grid**2 / 20, 1)
alpha = [normal(grid, 0, 5**0.5) * likelihood[0]]
for t in range(1, LENGTH):
    alpha.append((alpha[-1] / alpha[-1].sum()) @ transition(t) * likelihood[t])
beta = [np.ones_like(grid)]
for t in range(LENGTH - 1, 0, -1):
    beta.append(transition(t) @ (likelihood[t] * beta[-1]))
    beta[-1] /= beta[-1].max()
smoothed = np.array(alpha) * np.array(beta[::-1])
smoothed /= smoothed.sum(1, keepdims=True)

exact_mean = smoothed @ grid
exact_sd = np.sqrt(smoothed @ grid**2 - exact_mean**2)
exact_above = smoothed @ np.heaviside(grid, 0.5)  # P(x_t > 0); the point at 0 counts half
two_modes = np.flatnonzero((exact_above > 0.02) & (exact_above < 0.98))
print(f"the sign is in doubt, between 2 % and 98 %, at {len(two_modes)} times: {two_modes}")

# %% [markdown]
# ## NUTS on the path
#
# `nonlinear_growth` is an ordinary NumPyro model, and NUTS takes it without complaint. Four chains:


# %%
def fit(kernel, num_warmup, num_samples):
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
    mcmc.run(jax.random.key(1), jnp.asarray(y, jnp.float32), STATE_SD)
    return mcmc


nuts = fit(NUTS(nonlinear_growth), num_warmup=1000, num_samples=2000)
nuts_x = to_datatree(nuts, dims={"x": ["time"]})["posterior"]["x"]
r_hat = split_gelman_rubin(nuts_x.values)
alone = [split_gelman_rubin(chain[None]).max() for chain in nuts_x.values]  # first half against second
errors = np.abs(nuts_x.mean("draw") - exact_mean) / exact_sd
print(f"divergences: {int(nuts.get_extra_fields()['diverging'].sum())}")
print(f"R-hat: largest {r_hat.max():.0f}, above 1.05 at {(r_hat > 1.05).sum()} of {LENGTH} times")
print(f"R-hat, each chain alone: largest {', '.join(f'{value:.2f}' for value in alone)}")
print(f"error of a chain's mean: up to {float(errors.max()):.0f} exact posterior sds")

# %% [markdown]
# No trajectory diverged. R-hat is the one that NumPyro prints; it sees the trouble, because there are
# four chains that disagree. Of a single chain it compares the halves, and there it can be close to 1:
# such a chain walks about in one mode and has nothing to complain of. To change a sign it would have
# to cross a region that the model all but forbids, often at several times at once.
#
# ## Particle Gibbs
#
# `PPG` needs no gradient. Each sweep lets $N$ particles run forward by the model, and draws a new path
# backwards out of them, which may change sign wherever particles stand on both sides. The sweep leaves
# $p(x \mid y)$ as it is for every $N \ge 2$. There is no parameter here, so that nothing but the
# sweep moves the path.

# %%
NUMBERS = (8, 32, 128)
runs = {number: fit(PPG(nonlinear_growth, num_particles=number), 200, 2000) for number in NUMBERS}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what `diagnose` says is printed below
    trees = {number: to_datatree(run) for number, run in runs.items()}
ppg_x = trees[32]["posterior"]["x"]
r_hat = split_gelman_rubin(ppg_x.values)
mcse = az.mcse(ppg_x.to_dataset())["x"]
z = np.abs(ppg_x.mean(("chain", "draw")) - exact_mean) / mcse
print(f"R-hat: largest {r_hat.max():.3f}")
print(f"error of the mean: up to {float(z.max()):.1f} Monte Carlo standard errors, over {LENGTH} times")

# %%
figure, (above, below) = plt.subplots(
    2, 1, figsize=(7.2, 5.6), sharex=True, sharey=True, layout="constrained"
)
times = np.arange(LENGTH)
above.plot(times, nuts_x.mean("draw").T, color=EMBER, lw=0.8, alpha=0.8)
above.set_title("NUTS: the means of four chains (lines) are four answers", loc="left", fontsize="medium")
low, high = np.quantile(ppg_x.stack(pooled=("chain", "draw")), (0.05, 0.95), axis=-1)
below.fill_between(times, low, high, color=TEAL, alpha=0.2, lw=0)
below.plot(times, ppg_x.mean("draw").T, color=TEAL, lw=0.8, alpha=0.8)
below.set_title(
    "PPG, N = 32: the means of four chains lie on the exact ones; 90 % band", loc="left", fontsize="medium"
)
for ax in (above, below):
    ax.plot(times, exact_mean, color=INK, lw=0, marker=".", ms=4, zorder=3, label="exact mean")
    ax.set(ylabel="state x [1]")
above.legend(frameon=False, fontsize="small", loc="upper right")
text = below.set_xlabel("time [steps]")

# %% [markdown]
# The band is wide where the state has two modes, and there the mean is the value of neither. The
# question for such a time is how much of the probability is on each side: $P(x_t > 0 \mid y)$.

# %%
indicator = (ppg_x > 0).astype(float)
share = indicator.mean(("chain", "draw"))
share_mcse = az.mcse(indicator.to_dataset(name="share"))["share"]
nuts_share = (nuts_x > 0).mean("draw")

figure, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
place = np.arange(len(two_modes))
ax.bar(place, exact_above[two_modes], width=0.7, color=GREY, alpha=0.35, label="exact")
for chain in range(4):
    ax.plot(
        place + 0.09 * (chain - 1.5), nuts_share[chain, two_modes], color=EMBER, lw=0, marker="x", ms=5,
        label=None if chain else "NUTS, each chain",
    )  # fmt: skip
ax.errorbar(
    place, share[two_modes], 2 * share_mcse[two_modes], color=TEAL, lw=0, elinewidth=1.2, marker="o", ms=4,
    label="PPG, ± 2 standard errors",
)  # fmt: skip
ax.set(xticks=place, xticklabels=two_modes, xlabel="time [steps], where the sign is in doubt")
ax.set(ylabel="P(x > 0 | y) [1]", ylim=(-0.04, 1.04))
ax.set_title(
    "PPG gives each sign its share of the probability; the chains of NUTS disagree",
    loc="left",
    fontsize="medium",
    pad=24,
)
legend = ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower left", bbox_to_anchor=(0, 0.98))

# %%
z = (np.abs(share - exact_above) / share_mcse)[two_modes]
table = {"exact": exact_above, "PPG, N = 32": share.values, "standard error": share_mcse.values}
table = pd.DataFrame(table).rename_axis("t").loc[two_modes].round(4)
table.assign(z=z.values.round(1))

# %% [markdown]
# ## How many particles?
#
# The same runs at three $N$. Left, the share of the sweeps in which the state at $t$ was renewed; right,
# the number of particles that carry weight, $1 / \sum_i (W_t^i)^2$.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.axhspan(0.5, 1.0, color=TEAL, alpha=0.08, lw=0)
left.axhspan(0.0, 0.2, color=EMBER, alpha=0.12, lw=0)
left.text(LENGTH, 0.02, "too few particles", color=EMBER, fontsize="small", ha="right")
for number, colour in zip(NUMBERS, (GOLD, TEAL, VIOLET), strict=True):
    diagnostics = trees[number]["path_diagnostics"].mean("chain")
    left.plot(times, diagnostics["update_rate"], color=colour, lw=1)
    right.plot(times, diagnostics["particle_ess"], color=colour, lw=1, label=f"N = {number}")
left.set(xlabel="time [steps]", ylabel="share of sweeps renewed [1]", ylim=(0, 1))
left.set_title("The lowest point decides: is it above one half?", loc="left", fontsize="medium")
right.set(xlabel="time [steps]", ylabel="effective particles [count]", yscale="log", ylim=(1, 128))
right.set(yticks=(1, 2, 4, 8, 16, 32, 64, 128), yticklabels=(1, 2, 4, 8, 16, 32, 64, 128))
right.minorticks_off()
right.set_title("Few particles count where a state is a surprise", loc="left", fontsize="medium")
legend = figure.legend(*right.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")

# %% [markdown]
# Where the weights fall on few particles, the path is renewed seldom. `diagnose` reads the lowest rate
# for you:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for number, run in runs.items():
        print(f"N = {number}:", " ".join(diagnose(run)) or "nothing to report")

# %% [markdown]
# More particles make a draw better and dearer. What a second buys decides between them: below, the CPU
# time of one draw of one chain after compilation, and the smallest effective sample size, of the 50
# states and of the signs in doubt, per draw and per second.


# %%
def cpu_seconds(mcmc, num_draws=5 if SMALL else 300):
    """CPU time of a draw of one of the 4 chains, which go on from where they are."""
    kernel, args = mcmc.sampler, (jnp.asarray(y, jnp.float32), STATE_SD)

    def draws(state):
        return jax.lax.fori_loop(0, num_draws, lambda _, state: kernel.sample(state, args, {}), state)

    compiled = jax.jit(draws).lower(mcmc.last_state).compile()
    start = time.process_time()
    jax.block_until_ready(compiled(mcmc.last_state))
    return (time.process_time() - start) / (4 * num_draws)


def worst_ess(x: xr.DataArray) -> float:
    """Smallest effective sample size over time, of the states and of their signs, per draw."""
    either = xr.Dataset({"state": x, "sign": (x > 0).astype(float)[..., two_modes]})
    ess = az.ess(either)
    return min(float(ess[name].min()) for name in either) / (x.sizes["chain"] * x.sizes["draw"])


rows = {}
for number, run in runs.items():
    rate = trees[number]["path_diagnostics"]["update_rate"].mean("chain")
    seconds, ess = cpu_seconds(run), worst_ess(trees[number]["posterior"]["x"])
    rows[number] = {
        "lowest update rate": round(float(rate.min()), 2),
        "at t": int(np.argmin(rate.values)),
        "CPU ms a draw": round(1e3 * seconds, 3),
        "least ESS a draw": round(ess, 3),
        "least ESS a CPU second": round(ess / seconds),
    }
pd.DataFrame.from_dict(rows, orient="index").rename_axis("N")

# %% [markdown]
# How to choose $N$, then:
#
# - begin with 32, and look at the lowest update rate, not at the mean over time;
# - below .2, double $N$ until it is at least one half: below that the draws of that stretch are
#   nearly copies of each other, and a short run may miss a mode there;
# - above .9 everywhere, halve it: the rest is paid for nothing;
# - in between, take the $N$ with the most effective draws a second, as in the table.
#
# A low rate makes draws correlated, never wrong. It is the number of draws, not the law they come
# from, that a small $N$ costs.

# %%
for number in NUMBERS:
    shares = (trees[number]["posterior"]["x"] > 0).astype(float)
    errors = np.abs(shares.mean(("chain", "draw")) - exact_above)[two_modes]
    z = errors / az.mcse(shares.to_dataset(name="share"))["share"][two_modes]
    print(
        f"N = {number}: P(x > 0) is off by at most {float(errors.max()):.3f}, "
        f"{float(z.max()):.1f} standard errors, at the {len(two_modes)} times in doubt"
    )
