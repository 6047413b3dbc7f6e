# %% [markdown]
# # Cold posteriors, and what makes them cold
#
# A posterior raised to the power $1/T$ with $T < 1$ is called cold. Bayesian networks are often reported to predict
# best there (Wenzel and others 2020). This page asks three things of two small data sets: *what* is raised to that
# power, at which temperature predictions are best, and how much of the effect is the noise of minibatches, which
# makes a chain warmer than it was told to be.

# %%
import os
import warnings

# Most of the time of this page is compilation.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here
warnings.filterwarnings("ignore", "The deterministic sites")  # `predict` computes them for the draws we keep

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from numpyro.contrib.module import random_eqx_module
from numpyro.infer import MCMC
from sklearn.datasets import load_diabetes, load_digits

from emberwalk.infer import (
    SGMCMC,
    DeepEnsemble,
    between_chain_share,
    calibration_curve,
    predict,
    predictive_rhat,
)
from emberwalk.kernels.sgmcmc import baoab
from emberwalk.models import init_to_module, laplace_prior, mlp, scaled_normal, student_t_prior

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, TEAL, EMBER, GREY = "#22313f", "#1f7a8c", "#d1603d", "#8a949c"
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## What is tempered
#
# $T$ stands in front of the noise, and in the weights of three classes of sites: prior, likelihood, and the Jacobian
# of the support transforms, which is never tempered.
#
# | `tempering=` | density of the constrained sites |
# |---|---|
# | `"posterior"` | $p(x, y)^{1/T}$ |
# | `"likelihood"` | $p(x)\,p(y \mid x)^{1/T}$ |
#
# An Exponential(1) without data shows the difference that the Jacobian makes. Raised to the power 10 it is
# Exponential(10). Where $U(z)$ of $z = \log x$ is divided by $T$ as a whole, as many samplers do, it is Gamma(10, 10).


# %%
def waiting_time():
    numpyro.sample("x", dist.Exponential(1.0))


kernel = SGMCMC(waiting_time, baoab(0.05, 1.0), temperature=0.1, steps_per_sample=20)
mcmc = MCMC(
    kernel,
    num_warmup=50,
    num_samples=50 if SMALL else 2000,
    num_chains=4,
    chain_method="vectorized",
    progress_bar=False,
)
mcmc.run(jax.random.key(0))
x = np.asarray(mcmc.get_samples()["x"])
pd.DataFrame(
    {"mean": [x.mean(), 0.1, 1.0], "variance": [x.var(), 0.01, 0.1]},
    index=["drawn, T = 0.1", "Exponential(10)", "U(z) / T: Gamma(10, 10)"],
).round(4)

# %% [markdown]
# ## Digits
#
# 1000 images of 8 by 8 pixels, 797 to test. The prior of a weight is normal with sd $2/\sqrt{\text{inputs}}$, for two
# hidden layers of 32. A temperature may be a schedule: each chain goes down a staircase from $T = 1$ to $10^{-4}$ in
# one run, which is compiled once. At each temperature the first 20 draws are left to settle, and 40 are kept.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
num_train = 200 if SMALL else 1000
pixels, labels = jnp.asarray(digits.data[order] / 16 - 0.3, jnp.float32), jnp.asarray(digits.target[order])
X, y, X_test, y_test = pixels[:num_train], labels[:num_train], pixels[1000:], labels[1000:]


def build(key):
    return mlp(64, 10, width=32, depth=2, key=key)


template, normal_prior = build(jax.random.key(0)), scaled_normal(2.0)


def digit_model(X, y=None, b=None, prior=normal_prior):
    net = random_eqx_module("net", template, prior=prior)
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        batch = numpyro.subsample(X, event_dim=1)
        seen = None if y is None else numpyro.subsample(y, event_dim=0)
        logits = numpyro.deterministic("logits", jax.vmap(net)(batch))
        numpyro.sample("y", dist.Categorical(logits=logits), obs=seen)


TEMPERATURES = np.array([1.0, 0.1, 0.01, 0.001, 0.0001])
SETTLE, KEPT = (1, 4) if SMALL else (20, 40)


def staircase(count, steps_per_sample=25):
    """T of step `count` after warm-up: from one temperature to the next, as many draws at each."""
    level = count // (steps_per_sample * (SETTLE + KEPT))
    return jnp.asarray(TEMPERATURES)[jnp.minimum(level, len(TEMPERATURES) - 1)]


def by_temperature(values):
    """(temperature, chain, draw, ...) from (chain, draw, ...), without the draws left to settle."""
    levels = np.split(np.asarray(values), len(TEMPERATURES), axis=1)
    return np.stack([level[:, SETTLE:] for level in levels])


def sample(
    model, *args, temperature=staircase, step_size=0.003, friction=15.0, build=build, batching="replacement"
):
    """Four chains; a mass for every tensor is found in warm-up and then frozen."""
    kernel = SGMCMC(
        model,
        baoab(step_size, friction, mass="layerwise"),
        temperature=temperature,
        batching=batching,
        steps_per_sample=25,
        init_strategy=init_to_module("net", build),
    )
    mcmc = MCMC(
        kernel,
        num_warmup=4 if SMALL else 40,
        num_samples=len(TEMPERATURES) * (SETTLE + KEPT),
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1), *args)
    samples = mcmc.get_samples(group_by_chain=True)
    fields = mcmc.get_extra_fields(group_by_chain=True)
    return jax.tree.map(by_temperature, (samples, fields))


def probabilities(samples):
    """(chain, draw, image, class)."""
    predicted = predict(
        digit_model, samples, jax.random.key(2), X_test, batch_ndims=2, return_sites=["logits"]
    )
    return np.asarray(jax.nn.softmax(predicted["logits"], -1), float)


def losses(p):
    """Negative log likelihood of the mean of all draws, image by image."""
    return -np.log(p.mean((0, 1))[np.arange(len(y_test)), y_test])


def accuracy(p):
    return (p.mean((0, 1)).argmax(-1) == np.asarray(y_test)).mean()


# %% [markdown]
# ## Temperature, and the noise that comes on top
#
# Each chain reports $r$, the variance that minibatches add to its spread over that of its temperature: it samples at
# about $T(1 + r)$. The step stays the same, and so the noise does; only the temperature it is compared with falls.

# %%
found = []
for batching in ("epoch",) if SMALL else ("replacement", "epoch"):
    samples, fields = sample(digit_model, X, y, 100, batching=batching)
    for level, temperature in enumerate(TEMPERATURES):
        p = probabilities({site: draws[level] for site, draws in samples.items()})
        found.append(
            {
                "batching": batching,
                "T": temperature,
                "r": fields["noise_ratio"][level].mean((0, 1)).max(),
                "kinetic T": fields["kinetic_temperature"][level].mean((0, 1)).max(),
                "test NLL": losses(p).mean(),
                "accuracy": accuracy(p),
                "median R-hat": np.median(predictive_rhat(p[:, :, :50])),  # of 50 images: 1 ms a number
                "between chains": np.mean(between_chain_share(p)),
                "p": p,
            }
        )
table = pd.DataFrame(found).drop(columns="p")
table.round(4)

# %%
optim = optax.adam(optax.cosine_decay_schedule(3e-3, 2000))
ensemble = DeepEnsemble(digit_model, optim, 4, init_strategy=init_to_module("net", build))
ensemble.run(jax.random.key(3), 50 if SMALL else 2000, X, y, 100, progress_bar=False)
p_ensemble = probabilities(ensemble.get_samples(group_by_chain=True))
ensemble_nll = losses(p_ensemble).mean()
print(f"ensemble of 4: test NLL {ensemble_nll:.3f}, accuracy {accuracy(p_ensemble):.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for batching, rows in table.groupby("batching"):
    colour = {"replacement": EMBER, "epoch": TEAL}[batching]
    left.plot(rows["T"], rows["test NLL"], "o-", color=colour, label=batching)
    right.plot(rows["T"], rows["kinetic T"], "o-", color=colour, label=batching)
left.axhline(ensemble_nll, color=GREY, ls="--", label="ensemble of 4")
right.plot(TEMPERATURES, TEMPERATURES, color=INK, lw=0.8, label="as told")
left.set(xscale="log", xlabel="temperature T", ylabel="test negative log likelihood [nats]")
right.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="kinetic temperature, worst tensor")
left.set_title("Predictions against T", loc="left", fontsize=10)
right.set_title("A cold chain on minibatches is warmer than told", loc="left", fontsize=10)
for ax in (left, right):
    ax.legend(frameon=False, fontsize="small")
figure.tight_layout()

# %% [markdown]
# The right panel is the warning: below some temperature a chain no longer gets colder, because the noise of its
# minibatches takes the place of the temperature's. What is read off a plot like the left one at $T = 10^{-4}$ is then
# a statement about the step and the batch.
#
# ## Are the probabilities honest?
#
# Of the predictions made with probability $q$, a share $q$ should be right.

# %%
figure, ax = plt.subplots(figsize=(4.6, 4.2))
shown = [row for row in found if row["batching"] == "epoch"]
curves = [
    (f"T = {row['T']:g}", row["p"], colour)
    for row, colour in zip((shown[0], shown[-1]), (TEAL, EMBER), strict=True)
]
for name, p, colour in [*curves, ("ensemble of 4", p_ensemble, GREY)]:
    curve = calibration_curve(p, np.asarray(y_test), probabilities=True)
    ax.plot(curve.expected, curve.observed, "o-", color=colour, ms=4, label=name)
ax.plot([0, 1], [0, 1], color=INK, lw=0.8)
ax.set(xlabel="probability of the prediction", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
ax.set_title("Calibration on 797 digits", loc="left", fontsize=10)
ax.legend(frameon=False, fontsize="small")
figure.tight_layout()

# %% [markdown]
# ## The prior
#
# Heavier tails are one explanation that has been given for the cold effect (Fortuin and others 2022): if it is the
# normal prior that is wrong, others should need no cooling. Down a staircase a colder draw is also a later one: the
# last row is a chain that stays at $T = 1$ for as long.

# %%
priors = {"Laplace": laplace_prior(2.0 / 2**0.5), "Student-t(3)": student_t_prior(3.0, 2.0 / 3**0.5)}
by_prior = {"normal": np.array([losses(row["p"]) for row in found if row["batching"] == "epoch"])}
runs = {name: (prior, staircase) for name, prior in priors.items()}
runs["Student-t(3), T = 1 throughout"] = (priors["Student-t(3)"], 1.0)
for name, (prior, temperature) in runs.items():
    samples, _ = sample(digit_model, X, y, 100, prior, temperature=temperature, batching="epoch")
    levels = [{site: draws[k] for site, draws in samples.items()} for k in range(len(TEMPERATURES))]
    by_prior[name] = np.array([losses(probabilities(level)) for level in levels])
rows = {}
for name, each in by_prior.items():
    change = each[-1] - each[0]
    rows[name] = {
        f"T = {temperature:g}": nll for temperature, nll in zip(TEMPERATURES, each.mean(1), strict=True)
    }
    rows[name] |= {"last - first": change.mean(), "its error": change.std(ddof=1) / len(change) ** 0.5}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# The normal prior gains little by cooling. The heavier tails seem to gain more, but the control takes most of it away:
# at $T = 1$ throughout, the later draws of Student-t(3) are nearly as good as the cold ones. What improves is a chain
# that had not arrived, and R-hat above said so. A plot of the loss against $T$ needs a chain at $T = 1$ that is as old.
#
# ## Diabetes
#
# 442 patients, ten measurements, the progress of their disease a year later; the size of the noise is a parameter.
# Full batches: the whole gradient costs next to nothing, and $r = 0$.

# %%
diabetes = load_diabetes()
order = np.random.default_rng(1).permutation(442)
inputs = jnp.asarray(diabetes.data[order] / diabetes.data.std(0), jnp.float32)
target = jnp.asarray((diabetes.target[order] - diabetes.target.mean()) / diabetes.target.std(), jnp.float32)


def build_small(key):
    return mlp(10, 1, width=20, depth=1, key=key)


small = build_small(jax.random.key(0))


def progress_model(X, y=None):
    net = random_eqx_module("net", small, prior=scaled_normal())
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("patients", X.shape[0]):
        mean = numpyro.deterministic("mean", jax.vmap(net)(X)[:, 0])
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


samples, _ = sample(
    progress_model, inputs[:300], target[:300], step_size=0.01, friction=5.0, build=build_small
)
rows = []
for level, temperature in enumerate(TEMPERATURES):
    draws = {site: values[level] for site, values in samples.items()}
    predicted = predict(
        progress_model, draws, jax.random.key(5), inputs[300:], batch_ndims=2, return_sites=["mean"]
    )
    means = np.asarray(predicted["mean"], float).reshape(-1, 142)
    sigma = np.asarray(draws["sigma"], float).reshape(-1, 1)
    log_density = dist.Normal(means, sigma).log_prob(np.asarray(target[300:]))
    nll = -np.mean(np.asarray(jax.nn.logsumexp(log_density, 0)) - np.log(len(means)))
    sd = np.sqrt(means.var(0) + (sigma**2).mean())
    inside = np.abs(np.asarray(target[300:]) - means.mean(0)) < 1.645 * sd
    rows.append({"T": temperature, "test NLL": nll, "sigma": sigma.mean(), "in the 90 % band": inside.mean()})
pd.DataFrame(rows).round(4)

# %% [markdown]
# Nothing to be had by cooling: the loss changes in the third digit, and $\sigma$, the size of the noise, is found at
# every temperature.
#
# ## What to take from it
#
# - Say what is tempered, and look at $r$ before a result is called an effect of temperature. Give the warm chain as
#   much time as the cold one.
# - Whether cold posteriors predict better depends on the prior and on the data, as the tables show; the literature
#   disputes the cause: wrong priors (Wenzel 2020, Fortuin 2022), data that are curated, so that the likelihood is
#   sharper than the model thinks (Aitchison 2021), data augmentation, which multiplies the data (Izmailov and others
#   2021).
# - An ensemble is the baseline to beat.
