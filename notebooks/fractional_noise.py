# %% [markdown]
# # Noise that remembers
#
# Fractional Brownian motion $B^H$ is Brownian motion whose increments are correlated for ever. Its Hurst index $H$
# says how: above 1/2 a trend goes on, below it turns back. `fractional_sde` puts a differential equation driven by it
# into an ordinary NumPyro model, with $H$ learnt like any other number, and `AutoFractionalSDE` is a guide that
# integrates the path out where the model is linear and Gaussian. Here: what $H$ does, what the published method
# loses, the memory of the Nile, and two volatilities, of stocks and of the pound.

# %%
import os
import warnings
from functools import partial

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from arch.data import sp500
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from scipy.linalg import solve_toeplitz, toeplitz

import emberwalk.kernels.fractional as fractional
from emberwalk.infer import (
    AutoFractionalSDE,
    ControlGuide,
    plot_sde_path,
    plot_structure_function,
    to_datatree,
)
from emberwalk.models import (
    FractionalBrownianMotion,
    FractionalGaussianNoise,
    extend_noise,
    fractional_sde,
    hurst_prior,
    load_gbp_usd,
    load_nile,
)
from emberwalk.models.fractional import taken_over

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, GREY = "#22313f", "#8a949c"
TEAL, EMBER = "#1f7a8c", "#d1603d"
HURSTS = {0.1: EMBER, 0.3: "#c08a1e", 0.5: GREY, 0.7: "#5c7f3d", 0.9: TEAL}
plt.rcParams["figure.dpi"] = 80
plt.rcParams["axes.spines.top"] = plt.rcParams["axes.spines.right"] = False

# %% [markdown]
# ## What H does
#
# Five paths of the *same* 500 normals. Each increment has the sd $\Delta^H$, so that a small $H$ is rough; and the
# correlation of two increments falls with the power $2H - 2$ of the lag between them, so that a large one remembers.

# %%
ts = np.linspace(0, 1, 501)
e = random.normal(random.key(2), (500,))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
lags = np.arange(1, 201)
for shift, (H, colour) in enumerate(HURSTS.items()):
    path = np.append(0, np.cumsum(fractional.cholesky_increments(e, ts, jnp.asarray(H))))
    left.plot(ts, path - 3 * shift, color=colour, lw=0.8)
    left.text(1.01, path[-1] - 3 * shift, f"H = {H}", color=colour, va="center")
    covariance = np.asarray(fractional.fgn_autocovariance(201, H))
    if H != 0.5:
        right.plot(lags, np.abs(covariance[1:]) / covariance[0], color=colour, ls="-" if H > 0.5 else "--")
        right.text(210, abs(covariance[200]) / covariance[0], f"H = {H}", color=colour, va="center")
left.set(xlabel="time [horizon]", ylabel="B [sd at time 1], shifted", yticks=[])
left.set_title("The same normals, rough to smooth", loc="left", fontsize="medium")
right.set(xscale="log", yscale="log", xlabel="lag [increments]", ylabel="|correlation|", ylim=(1e-6, 1))
title = right.set_title("Correlation of increments; dashed: negative", loc="left", fontsize="medium")

# %% [markdown]
# ### As a state that a filter can carry
#
# $B^H$ remembers its whole past. `fractional_sde` stands in for it with $K$ Ornstein-Uhlenbeck processes that share
# one Brownian motion, weighted so that the *law of the increments* is right. The figure is the Kullback-Leibler
# divergence from fractional noise per increment, 256 of them on a unit horizon: of the published weights (Daems and
# others 2024), and of ours.

# %%
banks = {
    "published, K = 5": (EMBER, {"num_modes": 5, "criterion": "path", "grid": "paper"}),
    "path error, wide grid, K = 8": ("#c08a1e", {"criterion": "path"}),
    "increments, K = 5": (GREY, {"num_modes": 5}),
    "increments, K = 8 (default)": (TEAL, {}),
}
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
rows = {}
for name, (colour, options) in banks.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the very thing that the figure shows
        bank = fractional.fractional_coefficients(1.0, 256, **options)
    ax.plot(bank.knots, np.maximum(bank.kl, 1e-12), color=colour, label=name)
    at = [int(np.argmin(np.abs(bank.knots - H))) for H in HURSTS]
    rows[name] = {f"H = {H}": f"{kl:.1g}" for H, kl in zip(HURSTS, bank.kl[at], strict=True)}
ax.set(yscale="log", ylim=(1e-6, 10), xlabel="H", ylabel="divergence [nats per increment]")
ax.legend(frameon=False, fontsize="small", ncols=2, loc="upper right")
title = ax.set_title("The bank's error, by how its weights were chosen", loc="left", fontsize="medium")
pd.DataFrame(rows).T

# %% [markdown]
# ## What a control loses
#
# The published guide moves the mean of the noise by a network, and leaves its variance at 1. The posterior of the
# noise has a smaller variance, so that such a guide has a *floor*: a gap to the log evidence that no network closes.
# It is known in closed form (`control_floor`). Below: $B^H$ on $[0, 1]$ in 200 steps, seen once at the end, or ten
# times, with noise of sd .1.

# %%
N, SD = 200, 0.1
grid = np.linspace(0, 1, N + 1)
C = fractional.fractional_coefficients(1.0, N)


def bridge(H, y=None, every=20):
    """The path, seen at every so many steps."""
    x = fractional_sde("x", lambda t, x: 0.0, lambda t, x: 1.0, grid, H, coefficients=C)
    numpyro.sample("y", dist.Normal(x[every::every], SD), obs=y)


@partial(jax.jit, static_argnums=1)
def floor(H, every):
    """What any control loses, nats."""

    def of_equation(equation):
        z, e = jnp.zeros((N + 1, 1 + len(C.rates))), jnp.zeros((N, equation.num_step_noises))
        seen = (np.arange(N + 1) % every == 0) & (np.arange(N + 1) > 0)
        sites = fractional.Sites(jnp.zeros((N + 1, 1)), jnp.asarray(seen[:, None, None] / SD**2, jnp.float32))
        return fractional.control_floor(equation.linear(z, e), sites).path

    with taken_over(of_equation):
        return fractional_sde("x", lambda t, x: 0.0, lambda t, x: 1.0, grid, H, coefficients=C)


hursts = np.linspace(0.05, 0.95, 37)
floors = {num: [float(floor(jnp.asarray(H), N // num)) for H in hursts] for num in (1, 10)}

# %% [markdown]
# Then both guides are asked for the evidence at two of these $H$, with ten observations. `AutoFractionalSDE` is not
# trained at all: it filters backward in time, and for this model the filter is the posterior. `ControlGuide` has 1000
# steps of Adam.

# %%
y = jnp.asarray(np.sin(3 * grid[20::20]), jnp.float32)
steps = 5 if SMALL else 1000
rows, gaps = {}, {}
for H in (0.3, 0.7):
    exact = float(FractionalBrownianMotion(H, 1.0, grid[20::20], SD).log_prob(y))
    guide, control = AutoFractionalSDE(bridge), ControlGuide(bridge)
    samples = guide.sample_posterior(random.key(0), {}, H, y, sample_shape=(1000,))
    ours = guide.diagnostics(random.key(0), {}, H, y)
    svi = SVI(bridge, control, optax.adam(3e-3), Trace_ELBO(num_particles=8))
    params = svi.run(random.key(1), steps, H, y, progress_bar=False).params
    theirs = control.diagnostics(random.key(0), params, H, y)
    gaps[H] = exact - theirs.elbo
    rows[f"H = {H}"] = {
        "exact log evidence": round(exact, 3),
        "guide: ELBO": round(ours.elbo, 3),
        "guide: sd of a draw": f"{ours.elbo_sd:.1g}",
        "control: ELBO": round(theirs.elbo, 2),
        "control: gap": round(gaps[H], 2),
        "its floor": round(float(floor(jnp.asarray(H), 20)), 2),
    }
    if H == 0.3:
        shown = samples["x"]
pd.DataFrame(rows).T

# %%
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
for num, colour in ((1, GREY), (10, TEAL)):
    ax.plot(hursts, floors[num], color=colour)
    label = "one observation" if num == 1 else "ten observations"
    ax.text(0.955, floors[num][-1], f"floor, {label}", color=colour, va="center", fontsize="small")
ax.plot(list(gaps), list(gaps.values()), "o", color=EMBER)
ax.text(0.32, gaps[0.3], "a control after 1000 steps", color=EMBER, va="center", fontsize="small")
ax.set(yscale="log", xlabel="H", ylabel="gap to the log evidence [nats]", xlim=(0.03, 1.2))
ax.set_xticks(np.arange(0.1, 1, 0.2))
title = ax.set_title("What a control loses, whatever its network", loc="left", fontsize="medium")

# %% [markdown]
# Where the guide is the posterior, $\log p - \log q$ is the log evidence for every single draw: its sd over draws is
# rounding. So SVI of a linear model with Gaussian data fits $H$ and the parameters alone, and the path costs nothing.
# The band of the guide, at $H = .3$, under the exact Gaussian process:

# %%
times = grid[1:]
prior = (times[:, None] ** 0.6 + times**0.6 - np.abs(times[:, None] - times) ** 0.6) / 2
at = np.arange(19, N, 20)
gain = np.linalg.solve(prior[np.ix_(at, at)] + SD**2 * np.eye(10), prior[at]).T
mean, sd = gain @ np.asarray(y), np.sqrt(np.diag(prior) - np.einsum("ij,ij->i", gain, prior[:, at]))
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
plot_sde_path(grid, shown, data=y, data_ts=grid[20::20], ax=ax)
for side in (-1, 1):
    label = "exact, nine tenths" if side == 1 else None
    ax.plot(times, mean + side * 1.645 * sd, color=EMBER, lw=0.7, label=label)
ax.set(xlabel="t [horizon]", ylabel="x [sd at time 1]")
ax.legend(frameon=False, fontsize="small")
words = "The guide's band at H = .3, and that of the exact process"
title = ax.set_title(words, loc="left", fontsize="medium", pad=20)

# %% [markdown]
# ## The memory of the Nile
#
# Yearly minima near Cairo, 622 to 1284, the series in which Hurst saw that droughts and floods come in runs. The path
# is seen without noise: no bank and no guide is needed. `FractionalGaussianNoise` has the exact likelihood, and NUTS
# does the rest.

# %%
years, minima = load_nile()


def nile(y):
    H = numpyro.sample("H", hurst_prior(2.0, 2.0))
    s = numpyro.deterministic("sigma", 100.0 * numpyro.sample("s", dist.HalfNormal(2.0)))
    mu = numpyro.deterministic("mu", 1150.0 + 100.0 * numpyro.sample("m", dist.Normal()))
    numpyro.sample("y", FractionalGaussianNoise(H, s, mu, num_steps=len(minima)), obs=y)


draws = {"num_warmup": 5, "num_samples": 5} if SMALL else {"num_warmup": 100, "num_samples": 200}
mcmc = MCMC(NUTS(nile), **draws, num_chains=4, chain_method="sequential", progress_bar=False)
mcmc.run(random.key(0), jnp.asarray(minima, jnp.float32))
post = to_datatree(mcmc)
az.summary(post, var_names=["H", "sigma", "mu"])

# %% [markdown]
# Beside it the maximum of the likelihood, exactly and with the bank in place of the noise: the covariance of its
# increments is known in closed form too.


# %%
def profile(autocovariance):
    """Log likelihood of the minima, the mean and the scale at their own maximum."""
    ones = np.ones(len(minima))
    inverse = solve_toeplitz(autocovariance, np.stack([ones, minima], 1))
    mu = inverse[:, 1].sum() / inverse[:, 0].sum()
    variance = (minima - mu) @ (inverse[:, 1] - mu * inverse[:, 0]) / len(minima)
    logdet = np.linalg.slogdet(toeplitz(autocovariance))[1]
    return -(len(minima) * (np.log(2 * np.pi * variance) + 1) + logdet) / 2


bank = fractional.fractional_coefficients(float(len(minima)), len(minima))
hursts = np.arange(0.75, 0.92, 0.01 if SMALL else 0.005)
with jax.enable_x64(True):
    exact = [np.asarray(fractional.fgn_autocovariance(len(minima), H)) for H in hursts]
    ws = [np.asarray(fractional.weights(bank, H)) for H in hursts]
    banks = [fractional.increment_autocovariance(bank.rates, w, len(minima), 1.0) for w in ws]
curves = {name: np.array([profile(r) for r in rs]) for name, rs in (("exact", exact), ("bank of 8", banks))}


def top(curve):
    """Where a parabola through the three highest points has its maximum, and its height."""
    i = int(np.argmax(curve))
    left, centre, right = curve[i - 1 : i + 2]
    ahead = (left - right) / (2 * (left - 2 * centre + right))
    return hursts[i] + ahead * (hursts[1] - hursts[0]), centre - (left - right) * ahead / 4


for name, curve in curves.items():
    print(f"{name}: largest at H = {top(curve)[0]:.4f}, log likelihood {top(curve)[1]:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(2, 1))
left.plot(years, minima, color=TEAL, lw=0.7)
left.set(xlabel="year", ylabel="yearly minimum [cm at the gauge]")
left.set_title("The Nile near Cairo: runs of low years, and of high", loc="left", fontsize="medium")
draws = mcmc.get_samples()
right.plot(draws["H"], draws["sigma"], ".", color=TEAL, ms=3, alpha=0.5)
right.plot(0.8315, 89.14, "+", color=EMBER, ms=12, mew=2)
right.annotate("maximum of the\nexact likelihood", (0.8315, 89.14), (0.77, 110), color=EMBER, fontsize="small",
               arrowprops={"arrowstyle": "-", "color": EMBER})  # fmt: skip
right.set(xlabel="H", ylabel="sigma [cm]")
title = right.set_title("H and the scale trade off", loc="left", fontsize="medium")

# %% [markdown]
# ## Volatility of stocks
#
# How much the S&P 500 moves within a day, by Parkinson's estimator from its high and low: the log of it, 1500 trading
# days up to the end of 2018 (from the package `arch`). "Volatility is rough" is read off such series, by the
# structure functions $E|x(t + l) - x(t)|^q \propto l^{qH}$.

# %%
table = sp500.load()[-(150 if SMALL else 1500) :]
ranges = np.log(table["High"].to_numpy() / table["Low"].to_numpy())
logvol = 0.5 * np.log(ranges**2 / (4 * np.log(2)))
ax = plot_structure_function(logvol)
text = ax.set(xlabel="lag [trading days]", ylabel="E|x(t + lag) - x(t)|^q [log volatility^q]")

# %% [markdown]
# So small a slope would be a path rougher than any in the first figure. But a range is a noisy measurement: the range
# of a Brownian motion of *constant* volatility has a log with an sd of about .3, and noise of measurement is what
# flattens the short lags. Here is a fractional Ornstein-Uhlenbeck process twice: seen as it is, and seen with a noise
# of unknown size. The last 974 days and the 50 to come fill the 1024 steps that a table of weights is made for.

# %%
num_days, ahead = (150, 10) if SMALL else (974, 50)
days = np.arange(num_days + 1.0)
bank = fractional.fractional_coefficients(float(num_days + ahead), num_days + ahead, num_modes=5)


def volatility(days, y=None, with_noise=True):
    H = numpyro.sample("H", hurst_prior(2.0, 2.0))
    k = numpyro.sample("k", dist.LogNormal(-3.0, 1.5))  # a day
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    m = numpyro.sample("m", dist.Normal(-5.0, 1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5)) if with_noise else 0.02
    first = dist.Normal(-5.0, 1.0)
    x = fractional_sde("x", lambda t, x: k * (m - x), lambda t, x: s, days, H, first, coefficients=bank)
    numpyro.sample("y", dist.Normal(x[1:], noise), obs=y)


def fit(model, *args, steps, num_particles=1, **kwargs):
    """SVI with a guide of the path; the guide and its params."""
    guide = AutoFractionalSDE(model)
    rates = optax.exponential_decay(0.03, steps, 0.02)
    svi = SVI(model, guide, optax.adam(rates), Trace_ELBO(num_particles=num_particles))
    return guide, svi.run(random.key(0), 5 if SMALL else steps, *args, progress_bar=False, **kwargs)


seen = jnp.asarray(logvol[-num_days:], jnp.float32)
rows, runs = {}, {}
for with_noise in (False, True):
    args = (days, seen)
    guide, result = fit(volatility, *args, steps=900, with_noise=with_noise)
    key = random.key(1)
    shape = (20 if SMALL else 500,)
    samples = guide.sample_posterior(key, result.params, *args, sample_shape=shape, with_noise=with_noise)
    few = 20 if SMALL else 200
    told = guide.diagnostics(key, result.params, *args, num_samples=few, with_noise=with_noise)
    runs[with_noise] = samples
    row = {name: f"{samples[name].mean():.3f} ± {samples[name].std():.3f}" for name in ("H", "k", "s")}
    found = f"{samples['noise'].mean():.3f} ± {samples['noise'].std():.3f}" if with_noise else "0.02, fixed"
    row["noise"] = found
    rows["with noise" if with_noise else "as it is"] = row | {
        "log evidence": round(told.log_evidence, 1),
        "Pareto k": round(told.pareto_k, 2),
    }
pd.DataFrame(rows).T

# %% [markdown]
# Taken as it is the path is as rough as is claimed of volatility. With a term for the noise $H$ is three times as
# large, and the noise that is found is about as large as a range's own. The evidence is the same, within half a nat:
# these data do not tell a rough path from a smoother one with noise on it, and a claim of roughness would be one about
# the measurement. (Pareto's $k$ says of the second evidence that it may be too low.)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
draws = runs[True]
units = {"noise": "[log volatility]", "s": "[log volatility at a day]"}
for ax, (name, unit) in zip(axes, units.items(), strict=True):
    ax.plot(draws["H"], draws[name], ".", color=TEAL, ms=3, alpha=0.5)
    ax.set(xlabel="H", ylabel=f"{name} {unit}")
words = "With noise: H trades off with it and with the scale"
title = figure.suptitle(words, x=0.01, ha="left", fontsize="medium")

# %% [markdown]
# ### The days to come
#
# The noise of the path is independent a priori, so that a forecast is a posterior draw with fresh normals behind its
# own: `extend_noise`. The model has its `coefficients` for the longer horizon.

# %%
later = np.arange(num_days + ahead + 1.0)
extended = extend_noise(random.key(2), runs[True], "x", ahead)
fan = Predictive(volatility, extended)(random.key(3), later)
figure, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
last = max(0, num_days - 150)
data = {"data": seen[last:], "data_ts": days[last + 1 :] - num_days}
plot_sde_path(later[last:] - num_days, fan["x"][:, last:], **data, ax=ax)
low, high = np.quantile(fan["y"][:, num_days:], (0.05, 0.95), axis=0)
ax.plot(later[num_days + 1 :] - num_days, low, color=EMBER, lw=0.8)
ax.plot(later[num_days + 1 :] - num_days, high, color=EMBER, lw=0.8)
ax.axvline(0, color=GREY, lw=0.8, ls=":")
ax.set(xlabel="trading days from the end of 2018 [days]", ylabel="log volatility of a day")
words = "Volatility and its forecast; red: nine tenths of what will be measured"
title = ax.set_title(words, loc="left", fontsize="medium", pad=20)

# %% [markdown]
# ## The pound
#
# 750 daily returns against the dollar (source: European Central Bank). Nothing of the volatility is seen here but the
# size of each return: $y_t \sim \mathrm N(0, e^{x_t / 2})$. That likelihood is not Gaussian, so the guide learns its
# *sites*, a Gaussian factor a day, from a first Laplace pass on. Its draws are then weighted: Pareto's $k$ says
# whether they can be.

# %%
dates, returns = load_gbp_usd()
if SMALL:
    dates, returns = dates[:60], returns[:60]
trading_days = np.arange(len(returns) + 1.0)
pounds_bank = fractional.fractional_coefficients(float(len(returns)), len(returns), num_modes=5)


def pound(days, y=None):
    H = numpyro.sample("H", hurst_prior(2.0, 2.0))
    k = numpyro.sample("k", dist.LogNormal(-3.0, 1.5))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    m = numpyro.sample("m", dist.Normal(-1.0, 2.0))
    first = dist.Normal(-1.0, 2.0)
    x = fractional_sde("x", lambda t, x: k * (m - x), lambda t, x: s, days, H, first, coefficients=pounds_bank)
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(x[1:] / 2)), obs=y)


args = (trading_days, jnp.asarray(returns, jnp.float32))
guide, result = fit(pound, *args, steps=600, num_particles=2)
print(guide.diagnostics(random.key(1), result.params, *args, num_samples=20 if SMALL else 1000))
samples = guide.sample_posterior(random.key(2), result.params, *args, sample_shape=(20 if SMALL else 1000,))
tree = az.from_dict({"posterior": guide.paths(samples)}, dims={"x": ["time"]}, sample_dims=["sample"])
az.summary(tree, var_names=["H", "k", "s", "m"], sample_dims=["sample"], kind="stats")

# %%
figure, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
ax.plot(dates, np.abs(returns), ".", color=GREY, ms=3)
volatilities = np.exp(samples["x"][:, 1:] / 2)
low, middle, high = np.quantile(volatilities, (0.05, 0.5, 0.95), axis=0)
ax.fill_between(dates, low, high, color=TEAL, alpha=0.25, lw=0)
ax.plot(dates, middle, color=TEAL, lw=1)
ax.set(yscale="log", ylim=(0.02, 12), xlabel="date (source: European Central Bank)")
ax.set_ylabel("sd of a day's return [%]")
title = ax.set_title("Volatility of the pound; dots: size of the returns", loc="left", fontsize="medium")

# %% [markdown]
# The diagnostics say it plainly: these draws are not the posterior. The sites are the same at all values of the
# parameters, which the posterior's are not, and a thousand draws are worth thirty. They show the path, with the week of
# the referendum in it; for the parameters they are a start. A volatility in discrete time, with a posterior that is
# exact, is in the notebook on the pound.
#
# ## When not to use it
#
# - **The path is seen without noise**, as the Nile: the exact likelihood under NUTS.
# - **A linear equation, Gaussian data, up to some 2000 times and few parameters**: a Gaussian process by Cholesky
#   (`FractionalBrownianMotion`) is exact and has no guide to train. The S&P above would be a case, but for its
#   length.
# - **H = 1/2**: any tool for ordinary stochastic differential equations; the modes are a waste.
# - **Many coupled states**: the filter costs the cube of states and modes at each step.
# - **Noise that depends on the state, H below .25**: change the variable until it does not.
# - **A claim on roughness**: without a term for the noise of measurement it is a claim on that noise.
