# %% [markdown]
# # How sure is a neural network potential?
#
# A network learns the forces on the atoms of ethanol from a few hundred geometries. Thaler, Doehner and Zavadlav
# (2022) sample the weights of such potentials by SG-MCMC and claim, in their abstract, that cold posteriors need
# less training data, that several Markov chains are needed, and that the result is on a par with deep ensembles. Here
# the three are looked at again on a small potential, and each is answered by numbers: yes, no, or *not mixed*, where
# the chains themselves are too short to tell.
#
# The data: 2000 geometries from molecular dynamics with the semi-empirical method GFN2-xTB, 1000 to learn from and 500
# to test at 500 K, and 500 at 1000 K, where no geometry was learnt from.

# %%
import os
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress not found")  # no progress bar is shown here
warnings.filterwarnings("ignore", "The deterministic sites")  # `predict` computes them for the draws we keep
warnings.formatwarning = lambda message, *_: f"{message}\n"  # the words, not the file

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from numpyro.infer import MCMC

from emberwalk.infer import (
    SGMCMC,
    DeepEnsemble,
    between_chain_share,
    calibration_curve,
    chains_curve,
    predict,
    predictive_rhat,
    rescale_factor,
    resumable,
    suggest_step_size,
)
from emberwalk.kernels.sgmcmc import baoab
from emberwalk.models import DistancePotential, force_matching, init_to_module, load_ethanol

SMALL = os.environ.get("EMBERWALK_SMALL") == "1"  # a short run that shows no more than that the code runs
INK, TEAL, EMBER, GREY, OCHRE = "#22313f", "#1f7a8c", "#d1603d", "#8a949c", "#c08a1e"
plt.rcParams["figure.dpi"] = 80
# Name a folder here, and a run that was cut goes on where it was.
RUNS = Path(os.environ.get("EMBERWALK_RUNS") or tempfile.mkdtemp())

ethanol = load_ethanol()
pd.DataFrame(
    {
        name: {"geometries": len(part.forces), "rms force [eV/Å]": np.sqrt(np.mean(part.forces**2))}
        for name, part in zip(("learn, 500 K", "test, 500 K", "test, 1000 K"), ethanol[1:], strict=True)
    }
).T.round(3)

# %% [markdown]
# ## The potential
#
# A multilayer perceptron on the inverse distances of all 36 pairs of atoms, 2272 weights. It does not change when the
# molecule is moved or turned, and its forces are exact derivatives. `force_matching` is the model around it: a normal
# likelihood of the force components, whose error size is learnt too.


# %%
def problem(num_data):
    """Model, network, arrays, and a start for `num_data` geometries."""
    part = ethanol.train
    positions, forces = part.positions[:num_data], part.forces[:num_data]

    def build(key):
        return DistancePotential(positions, energy_scale=1.0, key=key)

    net = build(jax.random.key(0))
    model = partial(
        force_matching,
        net=net,
        num_data=None,
        subsample_size=20,
        force_scale=float(np.sqrt(np.mean(forces**2))),
    )
    everywhere = partial(model.func, **{**model.keywords, "subsample_size": None})
    return model, everywhere, (jnp.asarray(positions), jnp.asarray(forces)), init_to_module("net", build)


sizes, temperatures = ((50,), (1.0,)) if SMALL else ((50, 200, 1000), (1.0, 0.1, 0.01))
num_members = 4 if SMALL else 8
num_adam, steps_a_draw, num_warmup, num_draws = (40, 5, 4, 8) if SMALL else (10_000, 200, 20, 200)
num_tests = 20 if SMALL else 200
tests = {
    name: (jnp.asarray(part.positions[:num_tests]), np.asarray(part.forces[:num_tests], float))
    for name, part in (("500 K", ethanol.test), ("1000 K", ethanol.hot))
}


def forces_of(model, samples):
    """(chain, draw, geometry, atom, 3) for each set of test geometries."""
    site, found = "mean_forces", {}
    for name, (positions, _) in tests.items():
        predicted = predict(model, samples, jax.random.key(9), positions, batch_ndims=2, return_sites=[site])
        found[name] = np.asarray(predicted[site], float)
    return found


# %% [markdown]
# ## Ensembles, and four chains from four of their members
#
# The step is a quarter of $1/\sqrt{\lambda}$, with $\lambda$ the largest curvature at a trained member; 40,000 steps
# after a warm-up of 4,000, of which 200 draws a chain are kept and 50 predict. The friction is high, half a momentum
# lost every 1.4 steps: a momentum that is kept for long adds up the noise of the minibatches.

# %%
ensembles, runs, advice = {}, {}, {}
for num_data in sizes:
    model, everywhere, args, start = problem(num_data)
    begin = time.perf_counter()
    ensemble = DeepEnsemble(
        model, optax.adam(optax.cosine_decay_schedule(1e-2, num_adam)), num_members, init_strategy=start
    )
    ensemble.run(jax.random.key(1), num_adam, *args, progress_bar=False)
    samples = ensemble.get_samples(group_by_chain=True)
    ensembles[num_data] = {"forces": forces_of(everywhere, samples), "sigma": float(samples["sigma"].mean())}
    first = jax.tree.map(lambda leaf: leaf[0], ensemble.get_samples())
    h = suggest_step_size(
        model, baoab(1.0, 50.0), jax.random.key(2), *args, params=first, noise_ratio=np.inf
    ).step_size
    advice[num_data] = h
    for temperature in temperatures:
        kernel = SGMCMC(
            model,
            baoab(h, 0.5 / h),
            temperature=temperature,
            batching="epoch",
            steps_per_sample=steps_a_draw,
            init_strategy=start,
        )
        mcmc = MCMC(
            kernel,
            num_warmup=num_warmup,
            num_samples=num_draws,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        run = resumable(mcmc, RUNS / f"{num_data}_{temperature:g}", every=num_draws)
        run.run(jax.random.key(3), *args, init_params=ensemble.init_params(4))
        draws = run.get_samples(group_by_chain=True)
        kept = jax.tree.map(lambda leaf: leaf[:, :: max(1, num_draws // 50)], draws)
        fields = run.get_extra_fields(group_by_chain=True)
        runs[num_data, temperature] = {
            "forces": forces_of(everywhere, kept),
            "sigma": float(kept["sigma"].mean()),
            "r": np.asarray(fields["noise_ratio"])[:, -1].mean(0),
            "kinetic": np.asarray(fields["kinetic_temperature"]).mean((0, 1)),
        }
    print(f"{num_data} geometries: step {h:.1e}, {time.perf_counter() - begin:.0f} s")


# %%
def spreads(forces):
    """Rms over force components of what chains differ by, what one covers, and its drift from half to half."""
    halves = np.array_split(forces, 2, axis=1)
    rms = lambda values: float(np.sqrt(np.mean(values)))  # noqa: E731
    return {
        "between chains": rms(forces.mean(1).var(0, ddof=1)),
        "within a chain": rms(forces.var(1, ddof=1)),
        "drift": rms((halves[0].mean(1) - halves[1].mean(1)) ** 2),
    }


def scores(result, name, num_data):
    """Error of the mean force, mean negative log likelihood, and mean squared z, on one set of geometries."""
    scale = float(np.sqrt(np.mean(ethanol.train.forces[:num_data] ** 2)))
    forces, truth = result["forces"][name], tests[name][1]
    curve = chains_curve(forces, truth, noise_sd=result["sigma"] * scale)
    return {
        "RMSE [eV/Å]": float(np.sqrt(np.mean((forces.mean((0, 1)) - truth) ** 2))),
        "NLL": float(curve.nll[-1]),
        "mean z²": float(curve.mean_z2[-1]),
    }


rows = {}
for num_data in sizes:
    rows[num_data, f"ensemble of {num_members}"] = scores(ensembles[num_data], "500 K", num_data)
    for temperature in temperatures:
        result = runs[num_data, temperature]
        spread = spreads(result["forces"]["500 K"])
        rows[num_data, f"T = {temperature:g}"] = {
            **scores(result, "500 K", num_data),
            **spread,
            "noise ratio r": float(result["r"].max()),
            "T (1 + r)": temperature * (1 + float(result["r"].max())),
            # a chain that only drifts has a drift of 1.7 times what it covers
            "mixed": "no" if spread["drift"] > spread["within a chain"] / 2 else "yes",
        }
table = pd.DataFrame(rows).T
table.index.names = ["geometries", "sampler"]
table.infer_objects().round(3)

# %% [markdown]
# `noise ratio r` is that of the worst site, and $T(1+r)$ the temperature that it really has; both are upper bounds,
# because the batches go through all rows in turn. Where $r$ is above 0.1, chains told to be at different temperatures
# differ less than they say, and no claim about temperatures is answered by them. `mixed` asks that the drift from the
# first half of a chain to the second be below half of what the chain covers.
#
# ## (a) Do cold posteriors need less data?
#
# If they did, the coldest chains would have the error of the warm ones with fewer geometries.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
colours = dict(zip(temperatures, (TEAL, OCHRE, EMBER), strict=False))
for ax, measure in zip(axes, ("RMSE [eV/Å]", "NLL"), strict=True):
    for temperature in temperatures:
        values = [rows[num_data, f"T = {temperature:g}"][measure] for num_data in sizes]
        ax.plot(sizes, values, "o-", color=colours[temperature], label=f"T = {temperature:g}")
    values = [rows[num_data, f"ensemble of {num_members}"][measure] for num_data in sizes]
    ax.plot(sizes, values, "s--", color=GREY, label=f"ensemble of {num_members}")
    ax.set(xscale="log", xlabel="training geometries", ylabel=f"test {measure}")
axes[0].set_title("Error of the mean force at 500 K", loc="left", fontsize=10)
axes[1].set_title("Negative log likelihood of a force component", loc="left", fontsize=10)
axes[0].legend(frameon=False, fontsize="small")
figure.tight_layout()


# %%
def verdict(claim, holds, chains):
    """A claim is answered only by chains that have mixed, at temperatures that are theirs."""
    drifting = [name for name in chains if rows[name]["mixed"] == "no"]
    noisy = [name for name in chains if rows[name]["noise ratio r"] > 0.1]
    for reason, names in (("not mixed", drifting), ("minibatch noise", noisy)):
        if names:
            found = ", ".join(f"{num} geometries at {name}" for num, name in names)
            return f"{claim}: {reason} ({found})"
    return f"{claim}: {'yes' if holds else 'no'}"


coldest, warmest = f"T = {temperatures[-1]:g}", f"T = {temperatures[0]:g}"
few = sizes[0]
print(
    verdict(
        f"at {few} geometries {coldest} has a lower error than {warmest}",
        rows[few, coldest]["RMSE [eV/Å]"] < rows[few, warmest]["RMSE [eV/Å]"],
        [(few, coldest), (few, warmest)],
    )
)

# %% [markdown]
# ## (b) Are several chains needed?
#
# `chains_curve` scores the mean of 1, 2, ... chains; `between_chain_share` is the part of the spread that one chain
# does not see. Where it is near 1, one chain understates the uncertainty by far. But read the drift beside it: chains
# that have not had the time to leave the neighbourhood of the member they began at look apart for that reason alone.

# %%
middle = sizes[min(1, len(sizes) - 1)]
scale = float(np.sqrt(np.mean(ethanol.train.forces[:middle] ** 2)))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for temperature in temperatures:
    result = runs[middle, temperature]
    curve = chains_curve(result["forces"]["500 K"], tests["500 K"][1], noise_sd=result["sigma"] * scale)
    left.plot(curve.num_chains, curve.nll, "o-", color=colours[temperature], label=f"T = {temperature:g}")
    right.plot(curve.num_chains, curve.mean_z2, "o-", color=colours[temperature])
right.axhline(1, color=INK, lw=0.8)
left.set(xlabel="chains", ylabel="test negative log likelihood", xticks=[1, 2, 3, 4])
right.set(xlabel="chains", ylabel="mean squared z; 1 is honest", xticks=[1, 2, 3, 4], yscale="log")
left.set_title(f"More chains, {middle} geometries", loc="left", fontsize=10)
right.set_title("How overconfident", loc="left", fontsize=10)
left.legend(frameon=False, fontsize="small")
figure.tight_layout()

# %%
pd.DataFrame(
    {
        (num_data, f"T = {temperature:g}"): {
            "share between chains": float(np.mean(between_chain_share(result["forces"]["500 K"]))),
            "median R-hat of forces": float(np.median(predictive_rhat(result["forces"]["500 K"]))),
        }
        for (num_data, temperature), result in runs.items()
    }
).T.round(3)

# %%
shares = {key: float(np.mean(between_chain_share(result["forces"]["500 K"]))) for key, result in runs.items()}
for temperature in temperatures:
    key = (middle, f"T = {temperature:g}")
    print(
        verdict(
            f"one chain sees less than half of the spread at {key[1]}",
            shares[middle, temperature] > 0.5,
            [key],
        )
    )

# %% [markdown]
# ## (c) Against the ensemble
#
# `rescale_factor` says by what factor the spread of an ensemble is to be multiplied to cover its errors; it takes the
# small number of members into account, of which the mean squared z does not know. The chains were started from four of
# the eight members; the errors of the best and the worst member stand beside. A member whose error is the rms of the
# forces has learnt nothing: it fell where no force at all and a large $\sigma$ explain the data, and it makes its
# ensemble too wide. The best temperature is chosen on the test set, in the chains' favour.


# %%
def member_errors(num_data):
    """RMSE of each member alone, at 500 K."""
    off = ensembles[num_data]["forces"]["500 K"][:, 0] - tests["500 K"][1]
    return np.sqrt(np.mean(off**2, axis=(1, 2, 3)))


comparison = {
    num_data: {
        f"RMSE, ensemble of {num_members}": rows[num_data, f"ensemble of {num_members}"]["RMSE [eV/Å]"],
        "RMSE, best temperature": min(rows[num_data, f"T = {t:g}"]["RMSE [eV/Å]"] for t in temperatures),
        "RMSE, best member": member_errors(num_data).min(),
        "RMSE, worst member": member_errors(num_data).max(),
        "factor on the ensemble's spread": float(
            rescale_factor(ensembles[num_data]["forces"]["500 K"][:, 0], tests["500 K"][1])
        ),
    }
    for num_data in sizes
}
print(
    verdict(
        f"chains within 10 % of the ensemble's error at {middle} geometries",
        comparison[middle]["RMSE, best temperature"]
        < 1.1 * comparison[middle][f"RMSE, ensemble of {num_members}"],
        [(middle, f"T = {t:g}") for t in temperatures],
    )
)
pd.DataFrame(comparison).T.round(3)

# %% [markdown]
# ## (d) Beyond what was learnt
#
# At 1000 K the molecule goes where no training geometry was. A calibrated model would have half of the errors in its
# 50 % band, there too. What is in no posterior is the difference between the reference method and nature, nor what
# the form of the network cannot express.

# %%
figure, ax = plt.subplots(figsize=(4.8, 4.2))
for name, style in (("500 K", "-"), ("1000 K", "--")):
    for label, result, colour in (
        (f"T = {temperatures[0]:g}", runs[middle, temperatures[0]], TEAL),
        (f"T = {temperatures[-1]:g}", runs[middle, temperatures[-1]], EMBER),
        (f"ensemble of {num_members}", ensembles[middle], GREY),
    ):
        curve = calibration_curve(result["forces"][name], tests[name][1], noise_sd=result["sigma"] * scale)
        ax.plot(curve.expected, curve.observed, style, color=colour, label=f"{label}, {name}")
ax.plot([0, 1], [0, 1], color=INK, lw=0.8)
ax.set(xlabel="expected share", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
ax.set_title(f"Calibration of force components, {middle} geometries", loc="left", fontsize=10)
ax.legend(frameon=False, fontsize="x-small")
figure.tight_layout()

# %%
pd.DataFrame(
    {
        (num_data, f"T = {temperature:g}"): scores(result, "1000 K", num_data)
        for (num_data, temperature), result in runs.items()
    }
    | {(n, f"ensemble of {num_members}"): scores(ensembles[n], "1000 K", n) for n in sizes}
).T.round(3)
