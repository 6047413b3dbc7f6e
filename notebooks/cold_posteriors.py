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
# hidden layers of 32.

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


def sample(temperature, b=100, batching="replacement", prior=normal_prior):
    """Four chains; a mass for every tensor is found in warm-up and then frozen."""
    kernel = SGMCMC(
        digit_model,
        baoab(0.003, 15.0, mass="layerwise"),
        temperature=temperature,
        batching=batching,
        steps_per_sample=25,
        init_strategy=init_to_module("net", build),
    )
    num_warmup, num_samples = (4, 4) if SMALL else (40, 40)
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1), X, y, b, prior)
    return mcmc


def probabilities(samples):
    """(chain, draw, image, class)."""
    predicted = predict(
        digit_model, samples, jax.random.key(2), X_test, batch_ndims=2, return_sites=["logits"]
    )
    return np.asarray(jax.nn.softmax(predicted["logits"], -1), float)


def scores(p):
    """Negative log likelihood and accuracy of the mean of all draws."""
    p, rows = p.mean((0, 1)), np.arange(len(y_test))
    return -np.log(p[rows, y_test]).mean(), (p.argmax(-1) == np.asarray(y_test)).mean()


# %% [markdown]
# ## Temperature, and the noise that comes on top
#
# Each chain reports $r$, the variance that minibatches add to its spread over that of its temperature: it samples at
# about $T(1 + r)$. The step stays the same, and so the noise does; only the temperature it is compared with falls.

# %%
temperatures = [1.0, 0.01] if SMALL else [1.0, 0.1, 0.01, 0.001]
found = []
for batching in ("epoch",) if SMALL else ("replacement", "epoch"):
    for temperature in temperatures:
        run = sample(temperature, batching=batching)
        p = probabilities(run.get_samples(group_by_chain=True))
        fields = run.get_extra_fields()
        nll, accuracy = scores(p)
        found.append(
            {
                "batching": batching,
                "T": temperature,
                "r": float(np.asarray(fields["noise_ratio"]).mean(0).max()),
                "kinetic T": float(np.asarray(fields["kinetic_temperature"]).mean(0).max()),
                "test NLL": nll,
                "accuracy": accuracy,
                "median R-hat": float(np.median(predictive_rhat(p))),
                "between chains": float(np.mean(between_chain_share(p))),
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
ensemble_nll, ensemble_accuracy = scores(p_ensemble)
print(f"ensemble of 4: test NLL {ensemble_nll:.3f}, accuracy {ensemble_accuracy:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for batching, rows in table.groupby("batching"):
    colour = {"replacement": EMBER, "epoch": TEAL}[batching]
    left.plot(rows["T"], rows["test NLL"], "o-", color=colour, label=batching)
    right.plot(rows["T"], rows["kinetic T"], "o-", color=colour, label=batching)
left.axhline(ensemble_nll, color=GREY, ls="--", label="ensemble of 4")
right.plot(temperatures, temperatures, color=INK, lw=0.8, label="as told")
left.set(xscale="log", xlabel="temperature T", ylabel="test negative log likelihood [nats]")
right.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="kinetic temperature, worst tensor")
left.set_title("Predictions against T", loc="left", fontsize=10)
right.set_title("A cold chain on minibatches is warmer than told", loc="left", fontsize=10)
for ax in (left, right):
    ax.legend(frameon=False, fontsize="small")
figure.tight_layout()

# %% [markdown]
# The right panel is the warning: below some temperature a chain no longer gets colder, because the noise of its
# minibatches takes the place of the temperature's. What is read off a plot like the left one at $T = 10^{-3}$ is then
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
# normal prior that is wrong, others should need no cooling.

# %%
priors = {"Laplace": laplace_prior(2.0 / 2**0.5), "Student-t(3)": student_t_prior(3.0, 2.0 / 3**0.5)}
two = temperatures[1:2] if SMALL else (1.0, 0.01)
by_prior = {
    name: {
        f"T = {temperature:g}": scores(
            probabilities(sample(temperature, prior=prior).get_samples(group_by_chain=True))
        )[0]
        for temperature in two
    }
    for name, prior in priors.items()
}
by_prior["normal"] = {f"T = {row['T']:g}": row["test NLL"] for row in found if row["T"] in two}
pd.DataFrame(by_prior).T.round(3)

# %% [markdown]
# With these data and priors no cooling is needed. At $T = 0.01$ the heavier-tailed priors answer $\ln 10 = 2.3$ nats,
# the same for every image: their densities peak at weights of zero, and a cold chain that starts at small weights
# falls there and stays. A temperature also decides which mode a chain ends in.
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


rows = []
for temperature in two:
    kernel = SGMCMC(
        progress_model,
        baoab(0.01, 5.0, mass="layerwise"),
        temperature=temperature,
        steps_per_sample=20,
        init_strategy=init_to_module("net", build_small),
    )
    mcmc = MCMC(
        kernel,
        num_warmup=5 if SMALL else 100,
        num_samples=5 if SMALL else 200,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(4), inputs[:300], target[:300])
    samples = mcmc.get_samples(group_by_chain=True)
    predicted = predict(
        progress_model, samples, jax.random.key(5), inputs[300:], batch_ndims=2, return_sites=["mean"]
    )
    means = np.asarray(predicted["mean"], float).reshape(-1, 142)
    sigma = np.asarray(samples["sigma"], float).reshape(-1, 1)
    log_density = dist.Normal(means, sigma).log_prob(np.asarray(target[300:]))
    nll = -np.mean(np.asarray(jax.nn.logsumexp(log_density, 0)) - np.log(len(means)))
    sd = np.sqrt(means.var(0) + (sigma**2).mean())
    inside = np.abs(np.asarray(target[300:]) - means.mean(0)) < 1.645 * sd
    rows.append({"T": temperature, "test NLL": nll, "sigma": sigma.mean(), "in the 90 % band": inside.mean()})
pd.DataFrame(rows).round(3)

# %% [markdown]
# At $T = 0.01$ the same happens here: $\sigma$ near 1, the spread of the standardised target, is that of a network that
# says nothing.
#
# ## What to take from it
#
# - Say what is tempered, and look at $r$ before a result is called an effect of temperature.
# - Whether cold posteriors predict better depends on the prior and on the data, as the two tables show; the literature
#   disputes the cause: wrong priors (Wenzel 2020, Fortuin 2022), data that are curated, so that the likelihood is
#   sharper than the model thinks (Aitchison 2021), data augmentation, which multiplies the data (Izmailov and others
#   2021).
# - An ensemble is the baseline to beat, and costs less.
