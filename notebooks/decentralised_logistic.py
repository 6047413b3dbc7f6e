# %% [markdown]
# # A token that walks to the data
#
# Every agent of a network keeps one row of data. Nothing may be gathered in one place: a *token* with the parameters
# walks from agent to agent over the edges of the network, and takes one gradient step at each. A Markov chain is a slow
# way to walk; one that keeps away from the agents it has visited (SA-SRRW: Hu, Doshi and Eun 2024) needs far fewer
# steps for the same error. Here a logistic regression is learnt that way, beside what reads the rows in any order.

# %%
import os
import warnings
from functools import partial
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from jax import lax, random
from scipy.optimize import minimize

from emberwalk.kernels.walk import (
    Growth,
    dense_transition,
    from_edges,
    power_schedule,
    regime,
    sa_covariance,
    token_walk,
)
from emberwalk.models import barabasi_albert, read_edge_list

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
plt.rcParams["figure.dpi"] = 80

folder = os.environ.get("EMBERWALK_DATA")
if folder and not SMALL:
    graph = read_edge_list(Path(folder) / "graphs" / "soc-wiki-Vote.txt.gz")
    print("Who voted on whom: soc-wiki-Vote, of the Network Repository (Rossi and Ahmed 2015).")
else:
    print("EMBERWALK_DATA is not set, or this is a short run: a random graph of 200 nodes stands in.")
    graph = barabasi_albert(200, 3, seed=0)
num = graph.num_nodes
print(f"{num} agents, {graph.num_edges} edges")

# %% [markdown]
# ## One row an agent
#
# Five coefficients with a ridge penalty. The optimum of the mean loss is what every token should end at.

# %%
rng = np.random.default_rng(0)
X = rng.normal(size=(num, 5))
y = (rng.random(num) < 1 / (1 + np.exp(-X @ rng.normal(size=5)))).astype(float)
best = minimize(
    lambda theta: np.mean(np.logaddexp(0, X @ theta) - y * (X @ theta)) + theta @ theta / 2, np.zeros(5)
).x
rows, answers = jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32)


def loss(theta, agent):
    z = rows[agent] @ theta
    return jnp.logaddexp(0.0, z) - answers[agent] * z + theta @ theta / 2


# %% [markdown]
# ## The token and its optimiser
#
# The token takes a step, then the optimiser does, with steps $\beta_n = (n+1)^{-0.9}$. Any optimiser of optax can stand
# there; the theory is that of plain gradient steps. The history of the walk forgets with weights $\gamma_n =
# (n+1)^{-a}$: with $a = .75 < .9$ it is faster than the steps, and the covariance of what is learnt falls as
# $1/\alpha^2$.

# %%
b = 0.9
optimiser = optax.sgd(power_schedule(b))


def learn(walk, key, length):
    """The parameters after every step of one token."""

    def step(carry, key):
        theta, memory, token = carry
        token, agent = walk.step(key, token)
        updates, memory = optimiser.update(jax.grad(loss)(theta, agent), memory)
        theta = optax.apply_updates(theta, updates)
        return (theta, memory, token), theta

    theta = jnp.zeros(5)
    start = theta, optimiser.init(theta), walk.init(key)
    return lax.scan(step, start, random.split(key, length))[1]


walk = token_walk(graph, alpha=10.0, gamma_exponent=0.75)
thetas = np.asarray(jax.jit(learn, static_argnames="length")(walk, random.key(0), 200 if SMALL else 20_000))
print("learnt ", thetas[-1].round(3))
print("optimum", best.round(3))

# %% [markdown]
# ## How far off, and after how many steps
#
# The path of a token does not depend on what it learns, so that the agents may be listed first and read afterwards:
# tokens, rows drawn independently and rows reshuffled go through one function. Errors are times $n^{.9}$, which makes
# the first four of them level off; 48 runs each. The dashed lines are `sa_covariance`, the covariance after $n$ steps
# of the linearised recursion, which knows the graph, $\alpha$ and the gradients at the optimum.

# %%
readings = [1, 2, 4] if SMALL else [1, 4, 14, 45, 112]
lengths = [
    epochs * num for epochs in readings
]  # whole readings of the data: reshuffling is at its best there
num_runs = 4 if SMALL else 48


def token(walk, key):
    return walk.run(key, walk.init(key), lengths[-1])[1]


def independent(key):
    return random.randint(key, (lengths[-1],), 0, num)


def reshuffled(key):
    return jax.vmap(partial(random.permutation, x=num))(random.split(key, readings[-1])).ravel()


@partial(jax.jit, static_argnames="order")
def squared_errors(order, keys):
    """Of every run, at each of the lengths."""

    def one_run(key):
        def step(theta, agent_and_count):
            agent, count = agent_and_count
            return theta - power_schedule(b)(count) * jax.grad(loss)(theta, agent), theta

        agents = order(key)
        counts = jnp.arange(len(agents))
        last, thetas = lax.scan(step, jnp.asarray(best, jnp.float32), (agents, counts))
        thetas = jnp.concatenate([thetas, last[None]])[np.array(lengths)]
        return jnp.sum((thetas - best) ** 2, 1)

    return lax.map(one_run, keys)


orders = {
    "Metropolis": partial(token, token_walk(graph, alpha=0.0)),
    "independent": independent,
    "alpha 10": partial(token, token_walk(graph, alpha=10.0, gamma_exponent=0.75)),
    "Growth(2)": partial(token, token_walk(graph, alpha=Growth(2.0), gamma_exponent=1.0)),
    "reshuffled": reshuffled,
}
scale = np.array(lengths) ** b
squares = {
    name: scale * np.asarray(squared_errors(order, random.split(random.key(1), num_runs)))
    for name, order in orders.items()
}

# %%
p = 1 / (1 + np.exp(-X @ best))
gradients = (y - p)[:, None] * X - best
hessian = (X * (p * (1 - p))[:, None]).T @ X / num + np.eye(5)
P, uniform = dense_transition(graph), np.ones(num)
exact = {
    name: [
        np.trace(sa_covariance(P, uniform, alpha, gradients, hessian, 0.75, b, n=length))
        for length in lengths
    ]
    for name, alpha in {"Metropolis": 0.0, "alpha 10": 10.0}.items()
}

figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
for (name, values), colour in zip(
    squares.items(), ("#1f7a8c", "0.5", "#d1603d", "#c08a1e", "#6a5a8c"), strict=True
):
    error = values.std(0, ddof=1) / num_runs**0.5
    ax.errorbar(lengths, values.mean(0), error, fmt="o-", color=colour, markersize=3, label=name)
    if name in exact:
        ax.plot(lengths, exact[name], "--", color=colour, linewidth=1)
ax.set(xscale="log", yscale="log", xlabel="steps n", ylabel="n^.9 x mean square error")
ax.set_title("Reshuffled rows win by far; a token with a memory beats even independent rows", loc="left")
_ = ax.legend(frameon=False, loc="lower left")

# %%
table = pd.DataFrame(
    {
        "n^.9 mse": [values[:, -1].mean() for values in squares.values()],
        "+-": [values[:, -1].std(ddof=1) / num_runs**0.5 for values in squares.values()],
        "by sa_covariance": [exact[name][-1] if name in exact else np.nan for name in squares],
    },
    index=list(squares),
)
table.map(lambda value: f"{value:.2g}")

# %% [markdown]
# At $\alpha = 10$ the token stays above its dashed line for long: linear theory holds once $n$ is far above $\alpha^2
# N$, here 88,900 steps, and before that there is a bias of order $\gamma_n$. `Growth`, whose history counts, overtakes
# it.
#
# ## Three regimes
#
# Which of the two is faster, the history or the steps, decides what $\alpha$ is worth: $1/\alpha^2$, $1/\alpha$, or
# nothing. The limits are far away, so the curves are those of `sa_covariance` after $n$ steps; dots are 1000 runs each
# of a token that estimates a mean over five nodes.

# %%
house = from_edges([(0, 1), (1, 2), (2, 3), (3, 0), (2, 4), (3, 4)])
centred = np.arange(5.0) - 2
P_house, one = dense_transition(house), np.eye(1)
alphas = [0.5, 1.0, 2.0, 4.0]
steps, runs = (500, 8) if SMALL else (20_000, 1000)


@jax.jit
def squared_last(walk, keys):
    """Of theta_n, from steps on H = f(X) - theta."""

    def one_run(key):
        agents = walk.run(key, walk.init(key), steps)[1]
        f = jnp.asarray(centred, jnp.float32)[agents]
        betas = power_schedule(b)(jnp.arange(steps))
        return lax.scan(lambda t, fb: (t + fb[1] * (fb[0] - t), None), jnp.float32(0), (f, betas))[0] ** 2

    return lax.map(one_run, keys)


figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
for a, colour in {0.75: "#1f7a8c", 0.9: "#d1603d", 1.0: "#6a5a8c"}.items():
    curve = [
        sa_covariance(P_house, np.ones(5), alpha, centred[:, None], one, a, b, n=steps)[0, 0]
        for alpha in alphas
    ]
    seen = []
    for alpha in alphas:
        walk = token_walk(house, alpha, gamma_exponent=a, prior=1 / 5 if a == 1 else 1.0)
        seen.append(steps**b * float(squared_last(walk, random.split(random.key(2), runs)).mean()))
    name, gain = regime(a, b)
    ax.plot(alphas, curve, "-", color=colour, label=f"a = {a}: {name}, limit {gain}")
    ax.plot(alphas, seen, "o", color=colour, markersize=4)
base = sa_covariance(P_house, np.ones(5), 0.0, centred[:, None], one, 0.75, b, n=steps)[0, 0]
ax.axhline(base, color="0.5", linestyle=":", label="alpha = 0")
ax.set(xscale="log", yscale="log", xlabel="repellence alpha", ylabel="n^.9 x mean square error")
ax.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas], minor=False)
ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"], minor=False)
ax.minorticks_off()
ax.set_title(f"The faster the history, the more alpha is worth (b = {b}, n = {steps:,})", loc="left")
_ = ax.legend(frameon=False)

# %% [markdown]
# ## When not to send a token
#
# Where the rows can be read in any order, reshuffle them: at the end of a reading the mean square error is a
# thousandth of the best token's, and no graph is needed. `method="hdt"` makes cheaper steps, but its bias costs more
# than it gains. The token is for data that must be walked to; there a memory is worth a factor of 50 to 150 over a
# Markov chain, and it beats rows drawn independently, which a walk could never draw.
