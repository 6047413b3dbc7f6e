# %% [markdown]
# # A hundred thousand rows
#
# A logistic regression with 50 coefficients,
#
# $$\beta \sim \mathrm{N}(0, I), \qquad
# y_i \sim \mathrm{Bernoulli}\big(1 / (1 + e^{-x_i \cdot \beta})\big), \qquad i = 1, \dots, 100\,000,$$
#
# sampled from gradients of 500 rows at a time. What such gradients do to the width of the posterior, and how to
# see it *in the run itself*, is the point of this page: plain minibatches make it up to five times too wide, control
# variates do not.

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
import pandas as pd
from numpyro.infer import MCMC, NUTS, init_to_value

from emberwalk.infer import SGMCMC, control_variates, diagnose
from emberwalk.kernels.sgmcmc import leimkuhler_matthews, sgld

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, TEAL, EMBER, GREY = "#22313f", "#1f7a8c", "#d1603d", "#8a949c"
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## Data and model
#
# The rows of a batch are those of the model's own plate. Called with `b=None` it is the model of all rows, which
# NUTS takes.

# %%
num_rows, num_columns = (4_000, 5) if SMALL else (100_000, 50)
rng = np.random.default_rng(0)
rows = rng.standard_normal((num_rows, num_columns))
truth = 0.3 * rng.standard_normal(num_columns)
answers = (rng.random(num_rows) < 1 / (1 + np.exp(-rows @ truth))).astype(float)
X, y = jnp.asarray(rows, jnp.float32), jnp.asarray(answers, jnp.float32)


def model(X, y=None, b=500):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        batch = numpyro.subsample(X, event_dim=1)
        seen = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.BernoulliLogits(batch @ beta), obs=seen)


# %% [markdown]
# ## What is known
#
# With so many rows the posterior is very nearly normal: its mode by Newton's method in double precision, and the
# inverse of the Hessian there, serve as the truth.

# %%
mode = np.zeros(num_columns)
for _ in range(20):
    p = 1 / (1 + np.exp(-rows @ mode))
    hessian = (rows * (p * (1 - p))[:, None]).T @ rows + np.eye(num_columns)
    mode -= np.linalg.solve(hessian, rows.T @ (p - answers) + mode)
exact_sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
curvatures = np.linalg.eigvalsh(hessian)
print(
    f"curvature of U from {curvatures[0]:.0f} to {curvatures[-1]:.0f}; posterior sd about {exact_sd.mean():.4f}"
)


# %%
def timed(kernel, num_warmup, num_samples, *args):
    """Draws of one chain, and the seconds from nothing to them: compilation, warm-up, everything."""
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
    begin = time.perf_counter()
    mcmc.run(jax.random.key(0), *args)
    draws = np.asarray(jax.block_until_ready(mcmc.get_samples()["beta"]), float)
    return mcmc, draws, time.perf_counter() - begin


def errors(draws):
    """Rms over the coefficients of the relative error of the sd, and of the error of the mean in sds."""
    of_sd = np.sqrt(np.mean((draws.std(0) / exact_sd - 1) ** 2))
    of_mean = np.sqrt(np.mean(((draws.mean(0) - mode) / exact_sd) ** 2))
    return of_sd, of_mean


zeros = init_to_value(values={"beta": jnp.zeros(num_columns)})
h = 0.5 / curvatures[-1]

# %% [markdown]
# ## The same model, four ways
#
# `control_variates()` finds its own centre in warm-up. `leimkuhler_matthews` costs what SGLD costs, and has no error
# of the step on a normal posterior; SGLD is too wide by $1/\sqrt{1 - h\lambda/2}$.

# %%
num_draws = 500 if SMALL else 10_000
kernels = {
    "SGLD": SGMCMC(model, sgld(h / 2), init_strategy=zeros),
    "SGLD, control variates": SGMCMC(model, sgld(h / 2), gradient=control_variates(), init_strategy=zeros),
    "Leimkuhler-Matthews, control variates": SGMCMC(
        model, leimkuhler_matthews(h), gradient=control_variates(), init_strategy=zeros
    ),
}
runs = {name: timed(kernel, 200, num_draws, X, y) for name, kernel in kernels.items()}
runs["NUTS, all rows"] = timed(NUTS(model, init_strategy=zeros), 200, 50 if SMALL else 400, X, y, None)

table = pd.DataFrame(
    {
        name: {
            "sd too wide by": f"{(draws.std(0) / exact_sd).mean() - 1:+.1%}",
            "rms error of the sd": f"{errors(draws)[0]:.1%}",
            "rms error of the mean [sd]": f"{errors(draws)[1]:.3f}",
            "seconds, all told": f"{seconds:.1f}",
        }
        for name, (_, draws, seconds) in runs.items()
    }
).T
table

# %% [markdown]
# Plain minibatches fail, and nothing in their trace plot would show it. The run itself knows. A kernel measures the
# variance $V$ of its gradients as it goes, and what that adds to the spread: the ratio
# $r = hV/2T$ for this algorithm. `diagnose` says so in a sentence.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the sentences are also issued as warnings
    for name in kernels:
        print(f"{name}: {diagnose(runs[name][0]) or 'nothing to say'}")

# %% [markdown]
# ## The figure
#
# Too wide by how much, against the step. The line is the theory, $\sqrt{(1 + hV/2T)/(1 - h\lambda/2)}$, with nothing
# fitted: $V$ is the mean of what the runs measured.

# %%
steps = h * np.array([0.05, 0.5] if SMALL else [0.02, 0.05, 0.15, 0.5])
plain, controlled, ratios = [], [], []
for step in steps:
    # a plain chain forgets its start in 1 / (h lam) steps
    run, draws, _ = timed(SGMCMC(model, sgld(step), init_strategy=zeros), 4000, 2 * num_draws, X, y)
    plain.append((draws.std(0) / exact_sd).mean())
    ratios.append(float(run.get_extra_fields()["noise_ratio"][-1, 0]))
    kernel = SGMCMC(model, leimkuhler_matthews(step), gradient=control_variates(), init_strategy=zeros)
    _, draws, _ = timed(kernel, 4000, 2 * num_draws, X, y)
    controlled.append((draws.std(0) / exact_sd).mean())
ratios = np.array(ratios)
middle = np.median(curvatures)

figure, ax = plt.subplots(figsize=(8, 4))
grid = np.geomspace(steps[0], steps[-1], 100)
ax.plot(
    grid, np.sqrt((1 + grid * np.mean(ratios / steps)) / (1 - grid * middle / 2)), color=GREY, label="theory"
)
ax.plot(steps, plain, "o", color=EMBER, label="SGLD, plain minibatches")
ax.plot(steps, controlled, "s", color=TEAL, label="Leimkuhler-Matthews, control variates")
ax.axhline(1, color=INK, lw=0.8)
ax.set(xscale="log", xlabel="step h [1 / curvature of U]", ylabel="sd of the draws / exact sd")
ax.set_title(
    "Minibatch noise widens the posterior as the theory says; control variates take it out",
    loc="left",
    fontsize=10,
)
ax.legend(frameon=False)
figure.tight_layout()

# %%
pd.DataFrame(
    {"h": steps, "noise ratio r": ratios, "predicted sd ratio": np.sqrt(1 + ratios), "seen": plain}
).round(7)

# %% [markdown]
# ## When not
#
# - Below about 10,000 rows, or where the gradient of all data is cheap: `NUTS` is exact, and here too it needs no
#   tuning.
# - In few dimensions with a good Taylor proxy NumPyro's `HMCECS` is exact; its proxy costs $b\,d^2$ a step.
# - Where the tails matter to one percent, or the conditioning is above $10^4$ without a preconditioner.
#
# A latent variable for every row cannot be sampled so at all: `SGMCMC` refuses it and says why.
