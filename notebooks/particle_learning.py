# %% [markdown]
# # Learning without a posterior
#
# A particle sweep estimates sums over a path, $H = \sum_t h_t(x_{t-1}, x_t)$. With $h$ the gradient
# of the log density it is the score of the parameters, and then maximum likelihood, the posterior mode,
# or a guide that covers the posterior are a few hundred sweeps away. All of it is checked here on a model
# whose answers are known: an autoregression seen through noise,
#
# $$x_t = \varphi\,x_{t-1} + \sigma_x\,\varepsilon_t, \qquad y_t = x_t + \eta_t .$$

# %%
import os
import time
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from scipy.optimize import minimize
from scipy.signal import lfilter

from emberwalk.infer import MarkovScoreClimbing, ScoreAscent, lag_product, paris_smoother, without_path
from emberwalk.kernels.smc import additive, conditional_sweep, unconditional_sweep
from emberwalk.models import StateSpace, emission, linear_gaussian, linear_gaussian_ssm

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
plt.rcParams["figure.dpi"] = 80
TEAL, EMBER, INK = "#1f7a8c", "#d1603d", "#22313f"


def series(length, seed=0):
    g = np.random.default_rng(seed)
    noise = g.normal(size=length)
    noise[0] /= np.sqrt(1 - 0.81)
    return lfilter([1], [1, -0.9], noise) + g.normal(size=length)


def kalman(y, phi, sx):
    """log p(y), and E of the sum of x_t x_{t-1} given y."""
    mean, variance, total, filtered = 0.0, sx**2 / (1 - phi**2), 0.0, []
    for y_t in y:
        total -= 0.5 * (np.log(2 * np.pi * (variance + 1)) + (y_t - mean) ** 2 / (variance + 1))
        gain = variance / (variance + 1)
        mean, variance = mean + gain * (y_t - mean), variance * (1 - gain)
        filtered.append((mean, variance))
        mean, variance = phi * mean, phi**2 * variance + sx**2
    (after_mean, after_variance), lagged = filtered[-1], 0.0
    for mean, variance in filtered[-2::-1]:
        back = variance * phi / (phi**2 * variance + sx**2)
        smoothed = mean + back * (after_mean - phi * mean)
        lagged += back * after_variance + smoothed * after_mean
        after_variance = variance + back**2 * (after_variance - phi**2 * variance - sx**2)
        after_mean = smoothed
    return total, lagged


# %% [markdown]
# ## The first sweep is biased, and the next ones forget it
#
# A particle filter followed by the PaRIS statistic estimates $E[\sum_t x_t x_{t-1} \mid y]$ with a bias
# of order $1/N$. Given its own last path as reference, the same sweep is unbiased as soon as that path is
# a draw of the posterior. Below, many independent chains of sweeps at known parameters, and the mean
# error of each sweep.

# %%
y = jnp.asarray(series(100 if SMALL else 500), jnp.float32)
exact = kalman(np.asarray(y, float), 0.9, 1.0)[1]
num_sweeps, replicas = (4, 4) if SMALL else (12, 200)


def errors(num_particles):
    """Errors of the statistic, shape (replicas, sweeps)."""
    ssm = linear_gaussian_ssm(y, phi=0.9, sx=1.0)
    options = {"functional": additive(lambda previous, current, t: previous * current), "paris": "imh"}

    def chain(key):
        first = unconditional_sweep(key, ssm, num_particles, **options)

        def step(path, key):
            sweep = conditional_sweep(key, ssm, path, num_particles, **options)
            return sweep.path, sweep.statistic

        _, rest = jax.lax.scan(step, first.path, jax.random.split(key, num_sweeps - 1))
        return jnp.append(first.statistic, rest)

    return np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), replicas)), float) - exact


figure, ax = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
for num, colour in ((25, EMBER), (100, TEAL)):
    error = errors(num)
    spread = 2 * error.std(0, ddof=1) / np.sqrt(replicas)
    ax.errorbar(np.arange(num_sweeps), error.mean(0), spread, color=colour, capsize=2, label=f"N = {num}")
ax.axhline(0, color=INK, lw=0.8)
ax.set(xlabel="sweep (0: plain PaRIS, no reference)", ylabel=r"mean error of $\sum_t x_t x_{t-1}$")
ax.legend(frameon=False)
title = ax.set_title("Sweeps with a reference lose the bias of the particle smoother", loc="left")

# %% [markdown]
# ## Maximum likelihood by the score
#
# `ScoreAscent` climbs the score of `numpyro.param` sites (or, with `objective="map"`, of the sample
# sites outside the path). It is used like `SVI`. Far from the optimum the first gradients are large, and
# Adam with its default `b2=0.999` would be held back by them for a thousand steps. The likelihood of
# this model is a Kalman filter's, so that the optimum is known.


# %%
def autoregression(y):
    phi = numpyro.param("phi", 0.5, constraint=dist.constraints.interval(-1, 1))
    sx = numpyro.param("sx", 0.5, constraint=dist.constraints.positive)
    start = dist.Normal(0, sx / jnp.sqrt(1 - phi**2))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


steps = 20 if SMALL else 600
decreasing = optax.adam(optax.exponential_decay(0.05, steps // 6, 0.5), b2=0.97)
ascent = ScoreAscent(autoregression, decreasing, num_particles=32)
result = ascent.run(jax.random.key(1), steps, y, progress_bar=False)
optimum = minimize(
    lambda u: -kalman(np.asarray(y, float), np.tanh(u[0]), np.exp(u[1]))[0], [0.5, 0.0], method="Nelder-Mead"
)
table = pd.DataFrame(
    {
        "score ascent": {name: float(value) for name, value in result.params.items()},
        "Kalman filter": {"phi": np.tanh(optimum.x[0]), "sx": np.exp(optimum.x[1])},
    }
)
table.round(4)

# %%
figure, ax = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
ax.plot(result.losses, color=TEAL, lw=0.7)
ax.axhline(optimum.fun, color=INK, lw=0.8, ls=":")
ax.set(xlabel="step", ylabel="minus log evidence of the sweep")
title = ax.set_title(
    "The loss falls to minus the largest log likelihood (dotted), and is noisy there", loc="left"
)

# %% [markdown]
# It settles below, because the log evidence of a sweep with a reference lies about half its variance
# above the log likelihood: watch it to see that it has settled, and compare models by a particle filter.
#
# Where the likelihood is that of a Kalman filter, maximise that instead: it is exact and takes
# milliseconds. The score is for models that have none.
#
# ## A guide that covers the posterior
#
# `SVI` minimises $\mathrm{KL}(q \,\|\, p)$, and its guides are too narrow. `MarkovScoreClimbing` fits
# the same guide by $\mathrm{KL}(p \,\|\, q)$: one draw of `PPG`, one step along $\nabla \log q$. A
# Gaussian guide then has the mean and the covariance of the posterior. `without_path(model)` hides the
# path, so that the guide is one of the parameters alone; SVI needs a guide on path and parameters. The
# posterior of 20 observations, in unconstrained coordinates:

# %%
y_short = jnp.asarray(series(20), jnp.float32)
steps = 50 if SMALL else 20_000
decreasing = optax.adam(optax.exponential_decay(0.03, steps // 8, 0.5))
climbing = MarkovScoreClimbing(
    linear_gaussian, AutoMultivariateNormal(without_path(linear_gaussian)), decreasing
)
climbed = climbing.run(jax.random.key(2), steps, y_short, progress_bar=False)

whole = AutoMultivariateNormal(linear_gaussian)
svi = SVI(linear_gaussian, whole, optax.adam(0.005), Trace_ELBO(num_particles=8))
narrow = svi.run(jax.random.key(3), 100 if SMALL else 20_000, y_short, progress_bar=False)


# %%
def exact_moments(y):
    """Means and sds of (logit((phi + 1) / 2), log sx) by a grid."""
    u, v = np.linspace(-2, 9, 60 if SMALL else 160), np.linspace(-2.5, 1.5, 60 if SMALL else 160)
    log_p = np.empty((u.size, v.size))
    for i, a in enumerate(u):
        for j, b in enumerate(v):
            phi, sx = 2 / (1 + np.exp(-a)) - 1, np.exp(b)
            log_prior = -0.5 * sx**2 + b + np.log1p(-(phi**2))  # densities times Jacobians
            log_p[i, j] = kalman_log_likelihood(y, phi, sx) + log_prior
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    means = np.array([p.sum(1) @ u, p.sum(0) @ v])
    seconds = np.array([p.sum(1) @ u**2, p.sum(0) @ v**2])
    return means, np.sqrt(seconds - means**2)


def kalman_log_likelihood(y, phi, sx):
    return kalman(y, phi, sx)[0]


mean, sd = exact_moments(np.asarray(y_short, float))
guide = climbing.guide.get_posterior(climbed.params)
inclusive = guide.mean, jnp.sqrt(jnp.diag(guide.covariance_matrix))
full = whole.get_posterior(narrow.params)
exclusive = full.mean[:2], jnp.sqrt(jnp.diag(full.covariance_matrix)[:2])
rows = {"exact": (mean, sd), "score climbing": inclusive, "SVI": exclusive}
names = ["logit((phi+1)/2)", "log sx"]
pd.DataFrame(
    {label: {**dict(zip([f"mean {n}" for n in names], np.asarray(m), strict=True)),
             **dict(zip([f"sd {n}" for n in names], np.asarray(s), strict=True))}
     for label, (m, s) in rows.items()}
).round(3)  # fmt: skip

# %% [markdown]
# ## A million observations
#
# At known parameters `paris_smoother` runs as a stream: $N$ particles are kept and nothing of the path,
# so that memory does not grow with the series beyond the data themselves. What remains is the bias of
# plain PaRIS, one part in $N$: on the first series above, 38 of 2179 at $N = 100$; and the log evidence of
# a filter lies half its variance, which grows with the series, below the log likelihood. More particles
# lessen both.

# %%
length = 2000 if SMALL else 1_000_000
y_long = jnp.asarray(series(length, seed=1), jnp.float32)
begin = time.perf_counter()
stream = paris_smoother(
    jax.random.key(4), linear_gaussian, {"phi": 0.9, "sx": 1.0}, {"xx": lag_product("x")}, y_long,
    num_particles=100,
)  # fmt: skip
jax.block_until_ready(stream)
seconds = time.perf_counter() - begin
log_likelihood, lagged = kalman(np.asarray(y_long, float), 0.9, 1.0)
print(f"{length:,} observations in {seconds:.0f} s, compilation included")
pd.DataFrame(
    {
        "particles": [float(stream.estimates["xx"]), float(stream.log_evidence)],
        "Kalman": [lagged, log_likelihood],
    },
    index=["sum of x_t x_{t-1}", "log evidence"],
).assign(relative_error=lambda t: t["particles"] / t["Kalman"] - 1)
