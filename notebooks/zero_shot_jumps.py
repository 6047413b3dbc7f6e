# %% [markdown]
# # Rates from a few looks
#
# A molecule, a channel or a patient jumps between a handful of states, and is looked at now and then. How fast does it
# jump from each state to each other one, which jumps never happen, and how sure is that? `zero_shot` answers from the
# exact likelihood of a Markov jump process, in one call and without training anything. The data are those on which a
# neural network that was trained for the task was published (Berghaus and others 2024): paths of a *flashing ratchet*.

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
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.infer import MCMC

from emberwalk.infer import ZeroShotMJP, plot_rates, to_datatree, zero_shot
from emberwalk.kernels.jump import (
    entropy_production,
    first_passage_times,
    forward_backward,
    lag_grid,
    path_statistics,
    rates_from_vector,
    simulate_batch,
    stationary,
    transition_matrices,
)
from emberwalk.models import MarkovJumpProcess, flashing_ratchet, load_flashing_ratchet

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
plt.rcParams["figure.dpi"] = 80
INK, TEAL, EMBER, GREY = "#22313f", "#1f7a8c", "#d1603d", "#8a949c"
LINKS = ~np.eye(6, dtype=bool)

# %% [markdown]
# ## Three hundred paths
#
# A particle sits in one of three places, in a potential that is switched on (states 0 to 2) and off (3 to 5). Thirty
# rates could be there; eighteen are. Each path is 100 labels in 2.5 units of time.

# %%
times, states, truth = load_flashing_ratchet(1)
post = zero_shot(times, states[:300], label_noise=0.0)
print(post)

# %%
ax = plot_rates(post, truth)

# %% [markdown]
# The same through ArviZ, which reads the draws as it reads those of a chain.

# %%
tree = post.to_datatree()
plot = az.plot_forest(
    tree, var_names=["rates"], coords={"from_state": [1], "to_state": [0, 2, 4]}, combined=True
)
print("true rates from state 1 to 0, 2, 4:", truth[1, [0, 2, 4]].round(3))

# %% [markdown]
# ## Error against the number of paths
#
# Root mean square error over the thirty rates, averaged over disjoint blocks of the file. The count ratio (jumps over
# dwell time) misses what happens between two looks. The dashed line is what watching every jump would allow: beyond a
# hundred paths nothing can be better by much. The network's errors are those printed by its authors on the same file;
# with more paths than it was trained on they grow again.


# %%
def rmse(found):
    return float(np.sqrt(np.mean((np.asarray(found) - truth)[LINKS] ** 2)))


def count_ratio(labels):
    stats = path_statistics(times, labels, num_states=6)
    counts = stats.counts.sum(0).astype(float)
    dwell = (stats.counts * stats.lags[:, None, None]).sum((0, 2))
    return np.where(LINKS, counts, 0) / np.where(dwell > 0, dwell, 1)[:, None]


num_blocks = {1: 60, 3: 40, 10: 40, 30: 30, 100: 20, 300: 10, 1000: 10, 5000: 2}
num_blocks = {1: 2, 30: 2} if SMALL else num_blocks
errors = {"count ratio": [], "zero_shot": [], "all jumps watched": []}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # one path does not visit all states
    for num_paths, blocks in num_blocks.items():
        parts = [states[b * num_paths : (b + 1) * num_paths] for b in range(blocks)]
        errors["count ratio"].append(np.mean([rmse(count_ratio(part)) for part in parts]))
        found = [zero_shot(times, part, num_states=6, label_noise=0.0).mean for part in parts]
        errors["zero_shot"].append(np.mean([rmse(mean) for mean in found]))
        watched = num_paths * times[-1] * np.asarray(stationary(truth))
        errors["all jumps watched"].append(np.sqrt(np.mean((truth / watched[:, None])[LINKS])))
network = {1: 0.648, 30: 0.330, 100: 0.212, 300: 0.162, 1000: 0.230, 5000: 0.723}

figure, ax = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
for (name, values), colour, style in zip(errors.items(), (GREY, TEAL, INK), ("o-", "o-", "--"), strict=True):
    ax.loglog(list(num_blocks), values, style, color=colour, markersize=3, label=name)
ax.loglog(
    list(network),
    list(network.values()),
    "s:",
    color=EMBER,
    markersize=4,
    label="FIM, printed by its authors",
)
ax.set(xlabel="paths", ylabel="error of a rate", title="At the bound from a hundred paths on")
_ = ax.legend(frameon=False, fontsize="small")

# %% [markdown]
# ## What follows from the rates
#
# The stationary law and the mean first-passage times, draw by draw, so that their intervals know how the rates depend
# on each other.

# %%
law, passage = post.stationary(), post.first_passage_times()
low, high = law.interval(0.9)
pd.DataFrame({"mean": law.mean, "5 %": low, "95 %": high, "true": np.asarray(stationary(truth))}).round(4)

# %%
low, high = passage.interval(0.9)
exact = np.asarray(first_passage_times(truth))
rows = {
    f"{i} to {j}": {"mean": passage.mean[i, j], "5 %": low[i, j], "95 %": high[i, j], "true": exact[i, j]}
    for i, j in [(0, 2), (2, 0), (0, 5), (5, 0)]
}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## Does it produce entropy?
#
# With the potential off, or flat, the ratchet is reversible. The more it is tilted, the more entropy the switching
# produces. Entropy production cannot be negative, so that an estimate from noisy rates lies above 0 where the truth is
# 0: the lowest interval does not hold it.

# %%
tilts = [0.0, 1.0] if SMALL else [0.0, 0.25, 0.5, 0.75, 1.0]
produced = []
for V in tilts:
    paths = simulate_batch(round(100 * V), np.asarray(flashing_ratchet(V, 1.0, 1.0), np.float64), times, 1000)
    draws = zero_shot(times, paths, num_states=6, label_noise=0.0).entropy_production(floor=1e-6)
    produced.append([draws.mean, *draws.interval(0.9)])
mean, low, high = np.array(produced).T

figure, ax = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
fine = np.linspace(0, 1, 41)
ax.plot(
    fine, [float(entropy_production(flashing_ratchet(V, 1.0, 1.0))) for V in fine], color=EMBER, label="exact"
)
ax.errorbar(
    tilts, mean, [mean - low, high - mean], fmt="o", color=TEAL, markersize=4, label="1000 paths, 90 %"
)
ax.set(
    xlabel="potential V", ylabel="entropy production [nats / unit of time]", title="Biased upwards at V = 0"
)
_ = ax.legend(frameon=False, fontsize="small")

# %% [markdown]
# ## One label in twenty is wrong
#
# A wrong label looks like two fast jumps, forth and back. The count ratio takes them for such; `zero_shot` finds the
# share of wrong labels with the rates.

# %%
rng = np.random.default_rng(0)
num_paths = 30 if SMALL else 300
wrong = rng.random((num_paths, 100)) < 0.05
noisy = np.where(wrong, (states[:num_paths] + rng.integers(1, 6, wrong.shape)) % 6, states[:num_paths])
found = zero_shot(times, noisy)
level = found.label_noise
print(f"count ratio: error {rmse(count_ratio(noisy)):.3f}; zero_shot: error {rmse(found.mean):.3f}")
print(f"label noise {float(level.mean):.4f} (sd {float(level.sd):.4f}); truth 0.05")

# %% [markdown]
# ## Three parameters, not thirty rates
#
# If the mechanism is known, write it down. `MarkovJumpProcess` is a distribution, and its rates may be any function of
# what the model samples. `ZeroShotMJP` starts each chain at the answer and proposes from it; nothing is tuned.


# %%
def ratchet(times, states=None):
    V = numpyro.sample("V", dist.Normal(0, 2))
    rho = numpyro.sample("rho", dist.Beta(1.5, 10.5))
    r = numpyro.sample("r", dist.LogNormal(0, 1))
    b = numpyro.sample("b", dist.LogNormal(0, 1))
    with numpyro.plate("paths", times.shape[0]):
        process = MarkovJumpProcess(flashing_ratchet(V, r, b), times, initial="stationary", label_noise=rho)
        numpyro.sample("y", process, obs=states)


few = slice(0, 10 if SMALL else 100)
every = np.broadcast_to(times, noisy[few].shape)
mcmc = MCMC(
    ZeroShotMJP(ratchet),
    num_warmup=20 if SMALL else 100,
    num_samples=50 if SMALL else 1000,
    num_chains=2 if SMALL else 4,
    chain_method="sequential",
    progress_bar=False,
)
mcmc.run(jax.random.key(0), every, noisy[few], extra_fields=("independence_accept_prob", "pareto_khat"))
tree = to_datatree(mcmc, log_likelihood=True)
stats = tree["sample_stats"]
print(f"acceptance of the proposals {float(stats['independence_accept_prob'].mean()):.2f}")
print(f"Pareto k of the proposal {float(stats['pareto_khat'].max()):.2f}")
az.summary(tree, var_names=["V", "r", "b", "rho"])

# %%
plot = az.plot_trace_dist(tree, var_names=["V", "rho"])
plot = az.plot_rank(tree, var_names=["V", "rho"])

# %%
print(az.loo(tree))  # path by path

# %% [markdown]
# ## An ion channel
#
# Here the state is not seen at all: a current is, with noise of half a unit about 0, 1 and 3. The channel is like one
# whose rates were published (three states, 5 kHz); a second of it holds some twenty jumps, and no method can know the
# rates better than that allows.

# %%
channel = np.array([[0, 18.68, 11.25], [23.96, 0, 45.55], [2.839, 10.13, 0]])  # per second
levels, length = np.array([0.0, 1.0, 3.0]), 200 if SMALL else 5000
seconds = np.arange(length) / 5000
hidden = simulate_batch(3, channel, seconds, 2 if SMALL else 4)
current = levels[hidden] + 0.5 * rng.normal(size=hidden.shape)


def ion_channel(seconds, current=None):
    log_rates = numpyro.sample("log_rates", dist.Normal(3.0, 1.5).expand([6]).to_event(1))
    means = numpyro.sample("means", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    rates = numpyro.deterministic("rates", rates_from_vector(jnp.exp(log_rates), 3))
    with numpyro.plate("paths", seconds.shape[0]):
        process = MarkovJumpProcess(rates, seconds, initial="stationary", emission=dist.Normal(means, spread))
        numpyro.sample("current", process, obs=current)


every = np.broadcast_to(seconds, current.shape)
mcmc = MCMC(ZeroShotMJP(ion_channel), num_warmup=50, num_samples=50 if SMALL else 300, progress_bar=False)
mcmc.run(jax.random.key(1), every, current)
draws = mcmc.get_samples()
at = {name: np.asarray(values.mean(0)) for name, values in draws.items()}
log_emission = dist.Normal(at["means"], at["spread"]).log_prob(current[:1, :, None])
grid = lag_grid(every[:1])
table = transition_matrices(at["rates"], grid.lags)
smoothed = forward_backward(log_emission, table, grid.index, stationary(at["rates"])).states[0]

figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
ax.plot(seconds, current[0], color=GREY, linewidth=0.4)
ax.plot(seconds, np.asarray(smoothed @ at["means"]), color=TEAL, linewidth=1.2)
_ = ax.set(xlabel="time [s]", ylabel="current", title="The current, and its mean given all that was seen")

# %%
low, middle, high = np.quantile(np.asarray(draws["rates"]), [0.05, 0.5, 0.95], axis=0)
rows = {
    f"{i} -> {j}": {"5 %": low[i, j], "median": middle[i, j], "95 %": high[i, j], "true": channel[i, j]}
    for i in range(3)
    for j in range(3)
    if i != j
}
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# ## Hundreds of data sets, or a single path
#
# A network that was trained once, on a prior of processes that is written down, answers in one pass over counts, under
# `jax.vmap` for as many data sets as there are. With wrong labels it saves the filter: milliseconds where the
# refinement takes a second. Below, data sets of thirty paths with one label in twenty wrong, and data sets of one path.

# %%
num_sets = 4 if SMALL else 200
sets = states[: 30 * num_sets].reshape(num_sets, 30, 100)
wrong = rng.random(sets.shape) < 0.05
noisy_sets = np.where(wrong, (sets + rng.integers(1, 6, sets.shape)) % 6, sets)
by_network = jax.jit(jax.vmap(lambda y: zero_shot(times, y, num_states=6, method="network").mean))
cases = {
    "30 paths, one label in twenty wrong": (noisy_sets, {}),
    "1 path": (states[:num_sets, None], {"label_noise": 0.0}),
}
rows = {}
for name, (data, options) in cases.items():
    np.asarray(by_network(data))  # compiled once for all
    begin = time.perf_counter()
    answers = np.asarray(by_network(data))
    rows[name, "network"] = [np.mean([rmse(q) for q in answers]), (time.perf_counter() - begin) / num_sets]
    some = data[: 2 if SMALL else 20]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a path does not visit all states
        zero_shot(times, some[0], num_states=6, **options)
        begin = time.perf_counter()
        refined = [rmse(zero_shot(times, y, num_states=6, **options).mean) for y in some]
    rows[name, "refined"] = [np.mean(refined), (time.perf_counter() - begin) / len(some)]
    rows[name, "count ratio"] = [np.mean([rmse(count_ratio(y)) for y in data]), np.nan]
pd.DataFrame(rows, index=["error", "seconds a data set"]).T.round(4)

# %% [markdown]
# ## When a plain maximum likelihood is enough
#
# With clean labels, a hundred paths or more and no use for intervals, maximising the likelihood is as good: at 300
# paths both are at the bound. What `zero_shot` adds there is the presence of links, and its speed. With one dense
# regular lag and hundreds of states take a tool for transition matrices; with dwell times that are not exponential a
# Markov jump process is the wrong model, whatever fits it.

# %%
if not SMALL:
    from emberwalk.kernels.jump import Parameters, counts_likelihood, em

    stats = path_statistics(times, states[:300], num_states=6)
    start = Parameters(jnp.asarray(LINKS * 1.0), jnp.ones(6) / 6, jnp.zeros(()))
    mle = jax.jit(
        lambda s: em(counts_likelihood(s), start, 0.0, 1e-6, min_steps=100, max_steps=100).parameters.rates
    )
    print(f"maximum likelihood: error {rmse(mle(stats)):.4f}; zero_shot: error {rmse(post.mean):.4f}")
