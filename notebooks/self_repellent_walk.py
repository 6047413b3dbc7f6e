# %% [markdown]
# # A walker that remembers
#
# A walk on a graph visits its nodes in proportion to a target, and averages over its steps are averages over the nodes.
# Where the graph has bottlenecks a Markov chain takes long to get from one part to the other. A *self-repellent* walk
# (Doshi, Hu and Eun 2023) keeps away from where it has been more often than the target asks for. Its averages have the
# same limit and a smaller variance, known in closed form. Here it is looked at on Zachary's karate club, where
# everything can be computed, and then on a graph of 4039 nodes.

# %%
import os
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpyro.infer import MCMC

from emberwalk.infer import (
    GraphWalk,
    node_average,
    plot_error_decay,
    plot_variance_ratio,
    plot_visits,
    to_datatree,
    visit_statistics,
)
from emberwalk.kernels.walk import Growth, asymptotic_covariance, dense_transition
from emberwalk.models import barabasi_albert, karate_club, read_edge_list

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
plt.rcParams["figure.dpi"] = 80
karate = karate_club()


def walk(graph, steps, num_chains=64, key=0, **options):
    """A run whose draws are twenty, each of a twentieth of the steps; all steps count."""
    kernel = GraphWalk(graph, steps_per_draw=steps // 20, **options)
    mcmc = MCMC(
        kernel,
        num_warmup=1,
        num_samples=20,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(key))
    return mcmc


# %% [markdown]
# ## Visits against the target
#
# The target is uniform: every member of the club should be visited equally often. The band is what the base chain,
# Metropolis, would vary by. With $\alpha = 5$ one chain of 4000 steps lies well inside it; with `Growth()`, an $\alpha$
# that grows with the run, the visits can hardly be told from the target.

# %%
steps = 400 if SMALL else 4000
figure, axes = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
for ax, alpha in zip(axes, (0.0, 5.0, Growth()), strict=True):
    plot_visits(walk(karate, steps, num_chains=1, alpha=alpha), ax=ax)
    ax.set_ylim(0, 2)
    ax.set_ylabel(f"alpha = {alpha:g}" if isinstance(alpha, float) else "Growth()")

# %% [markdown]
# ## Variance against alpha
#
# With $\lambda_i$ the eigenvalues of the base chain, the part of the variance in mode $i$ falls by
# $1/(2\alpha(1+\lambda_i)+1)$. The dots are 200 chains each: $n$ times the squared distance of the visits from the
# target, over its value for the base chain.

# %%
P, mu = dense_transition(karate), np.ones(34) / 34
base = np.trace(asymptotic_covariance(P, mu, 0.0))
alphas, long = [1.0, 2.0, 5.0, 10.0], 2000 if SMALL else 40_000
measured = []
for alpha in alphas:
    mcmc = walk(karate, long, num_chains=20 if SMALL else 200, alpha=alpha)
    counts = np.asarray(mcmc.last_state.history.counts, float)
    measured.append(long * ((counts / long - mu) ** 2).sum(1).mean() / base)
ax = plot_variance_ratio(P, mu, alphas, measured)

# %% [markdown]
# ## A graph of 4039 nodes
#
# Facebook friendships of ten people's circles (McAuley and Leskovec 2012, from SNAP), found through the environment
# variable `EMBERWALK_DATA`; without it a random graph stands in. The question is of the kind that walks are for: how
# many friends has a person on average, and what share of them has a hidden attribute that only a visit shows?

# %%
folder = os.environ.get("EMBERWALK_DATA")
if folder and not SMALL:
    graph = read_edge_list(Path(folder) / "graphs" / "facebook_combined.txt.gz")
else:
    print("EMBERWALK_DATA is not set, or this is a short run: a random graph of 1000 nodes stands in.")
    graph = barabasi_albert(1000, 5, seed=0)
rng = np.random.default_rng(0)
# people who know each other tend to share it: it spreads from a few
hidden = rng.random(graph.num_nodes) < 0.1
adjacency = graph.adjacency().astype(float)
for _ in range(3):
    hidden = (adjacency @ hidden / graph.degree + 0.3 * rng.normal(size=graph.num_nodes)) > 0.45
print(f"{graph.num_nodes} nodes, {graph.num_edges} edges")
print(f"mean degree {graph.degree.mean():.2f}, hidden attribute {hidden.mean():.3f}")

# %%
lengths = [2000, 4000, 8000] if SMALL else [20_000, 60_000, 200_000, 600_000]
walks = {"Metropolis": 0.0, "alpha 5": 5.0, "Growth()": Growth()}
num_chains = 4 if SMALL else 32
truth = np.array([graph.degree.mean(), hidden.mean()])
f = np.stack([graph.degree, hidden], -1)
errors, distances, last = {}, {}, {}
for name, alpha in walks.items():
    runs = [walk(graph, length, num_chains, alpha=alpha) for length in lengths]
    averages = [node_average(run, f) for run in runs]
    errors[name] = [float(np.sqrt(np.mean((a.per_chain[:, 1] - truth[1]) ** 2))) for a in averages]
    distances[name] = [float(visit_statistics(run).tvd.mean()) for run in runs]
    last[name] = runs[-1]

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
plot_error_decay(lengths, distances, ax=left)
_ = left.set_ylabel("distance of the visits")
plot_error_decay(lengths, errors, ax=right)
_ = right.set_ylabel("error of the hidden share")

# %% [markdown]
# ## What an effective sample size does not see
#
# The draws of a walk with a memory are no Markov chain. ArviZ takes them for one, and its standard error does not
# change with $\alpha$; what is true is the spread between chains, which `node_average` uses.

# %%
rows = {}
for name, alpha in {"alpha 0": 0.0, "alpha 10": 10.0}.items():
    kernel = GraphWalk(karate, alpha=alpha)
    mcmc = MCMC(
        kernel,
        num_warmup=100,
        num_samples=400 if SMALL else 8000,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(3))
    nodes = to_datatree(mcmc)["posterior"]["node"]
    degree = nodes.copy(data=karate.degree[nodes.values].astype(float))
    average = node_average(mcmc, karate.degree)
    rows[name] = {
        "MCSE by ArviZ": float(az.mcse(degree.values)),
        "MCSE between chains": float(average.mcse),
        "error": float(average.mean - karate.degree.mean()),
    }
pd.DataFrame(rows).T.round(4)

# %% [markdown]
# ## When something simpler is better
#
# The attribute has no noise here: a node visited twice says nothing new. Then the average over the *distinct* nodes
# visited is better than any average over visits, and exact once all were visited. If the list of nodes were at hand,
# its plain mean would need no walk at all. Visits are what counts where each one brings new information: an answer
# with noise, a step of an optimiser, a load to be balanced.

# %%
pd.DataFrame(
    {
        name: {
            "visits": float(np.sqrt(np.mean((node_average(run, f).per_chain[:, 1] - truth[1]) ** 2))),
            "distinct": float(
                np.sqrt(np.mean((node_average(run, f, method="distinct").per_chain[:, 1] - truth[1]) ** 2))
            ),
            "nodes visited": float(visit_statistics(run).coverage.mean()),
        }
        for name, run in last.items()
    }
).T.round(5)
