"""T10 of SG-MCMC: the members of a `DeepEnsemble` are optima, of the density that is meant, on rows of their own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.contrib.module import random_eqx_module
from numpyro.infer import MCMC, Predictive, init_to_value

from emberwalk.infer import SGMCMC, DeepEnsemble, HostRows, predict, to_datatree
from emberwalk.infer.sgmcmc import members, rows
from emberwalk.infer.sgmcmc.bootstrap import stand_ins
from emberwalk.infer.sgmcmc.tempering import class_weights
from emberwalk.kernels.sgmcmc import baoab
from emberwalk.models import init_to_module, mlp, scaled_normal
from tests.infer.sgmcmc_models import as_jax, mean_data, mean_model, streamed_mean_model
from tests.laws.runs import compilations
from tests.statistics import assert_exact, z_scores

N, B = 60, 10


def gamma():
    numpyro.sample("x", dist.Gamma(3.0, 1.0))


def running_mean(num_rows):
    """Steps 1 / (N k) on N (z - mean_B) / 1: z is the mean of all batches so far."""
    return optax.sgd(lambda count: 1 / (num_rows * (count + 1)))


def found(model, optim, num_members, num_steps, *args, key=0, **options):
    ensemble = DeepEnsemble(model, optim, num_members, **options)
    return ensemble.run(random.key(key), num_steps, *args, progress_bar=False)


# What is maximised


def test_sgmcmc_ensemble_members_are_at_the_mode_of_the_constrained_density(x64):
    """Gamma(3, 1) without data: 2; the mode of the density of its logarithm is 3."""
    ensemble = found(gamma, optax.adam(optax.cosine_decay_schedule(0.1, 500)), 4, 500)
    np.testing.assert_allclose(ensemble.get_samples()["x"], 2.0, rtol=1e-4)
    np.testing.assert_allclose(ensemble.losses[:, -1], -dist.Gamma(3.0, 1.0).log_prob(2.0), rtol=1e-6)


def test_sgmcmc_ensemble_planted_jacobian_ends_elsewhere(x64, monkeypatch):
    """At 3: the weight of the Jacobian 1, as NumPyro's own potential has it."""
    monkeypatch.setattr(members, "class_weights", lambda tempering, _: class_weights(tempering, 1.0))
    ensemble = found(gamma, optax.adam(optax.cosine_decay_schedule(0.1, 500)), 4, 500)
    np.testing.assert_allclose(ensemble.get_samples()["x"], 3.0, rtol=1e-4)


@pytest.mark.parametrize("tempering", ["posterior", "likelihood"])
def test_sgmcmc_ensemble_takes_the_prior_in_or_leaves_it_out(tempering, x64):
    """y ~ N(m, 1), m ~ N(0, 1): sum y / (N + 1), or the mean of y."""
    y = jnp.asarray(mean_data(N)) + 1.0
    optim = optax.adam(optax.cosine_decay_schedule(0.1, 400))
    ensemble = found(mean_model, optim, 3, 400, y, N, tempering=tempering)  # all rows: no noise
    exact = y.sum() / (N + (tempering == "posterior"))
    np.testing.assert_allclose(ensemble.get_samples()["m"], exact, rtol=1e-5)


def test_sgmcmc_ensemble_members_of_a_network_differ():
    """Weights, functions between the data, and the course of the loss; each comes down."""
    ensemble = found(
        net_model, optax.adam(0.02), 4, 300, *net_data(), init_strategy=init_to_module("net", build)
    )
    samples = ensemble.get_samples()
    first = samples["net/layers[0].weight"]
    assert first.shape == (4, 8, 1)
    assert (first.std(0) > 0.05).all()
    assert (ensemble.losses[:, -20:].mean(1) < 0.5 * ensemble.losses[:, :5].mean(1)).all()
    outside = predict(net_model, samples, random.key(1), jnp.array([[3.0], [-3.0]]), b=None)["f"]
    assert (outside.std(0) > 0.05).all()


def build(key):
    return mlp(1, 1, width=8, depth=1, key=key)


def net_model(X, y=None, b=16):
    net = random_eqx_module("net", build(random.key(0)), prior=scaled_normal())
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        rows = numpyro.subsample(X, event_dim=1)
        mean = numpyro.deterministic("f", jax.vmap(net)(rows)[:, 0])
        seen = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(mean, 0.1), obs=seen)


def net_data():
    x = jnp.linspace(-1.0, 1.0, 64)[:, None]
    return x, jnp.sin(3 * x[:, 0])


# On which rows


@pytest.mark.parametrize(("batching", "bootstrap"), [("epoch", False), ("replacement", True)])
def test_sgmcmc_ensemble_on_host_rows_is_that_on_rows_in_memory(batching, bootstrap, monkeypatch):
    """Bit for bit; two batches of a member are read at once, a last one alone, as the last block of 61 steps is odd."""
    (y,) = as_jax(mean_data(N))
    options = {"batching": batching, "bootstrap": bootstrap}
    data = HostRows({"y": mean_data(N)}, plate="rows", batch_size=B)
    monkeypatch.setattr(rows, "_READ_BYTES", 6 * data.batch_bytes)
    streamed = DeepEnsemble(streamed_mean_model, optax.adam(0.1), 3, data=data, **options)
    streamed.run(random.key(0), 161, n=N, progress_bar=False)
    in_memory = DeepEnsemble(mean_model, optax.adam(0.1), 3, **options)
    in_memory.run(random.key(0), 161, y, progress_bar=False)
    np.testing.assert_array_equal(streamed.losses, in_memory.losses)
    np.testing.assert_array_equal(streamed.get_samples()["m"], in_memory.get_samples()["m"])


@pytest.mark.parametrize("batching", ["epoch", "replacement"])
def test_sgmcmc_ensemble_of_a_bootstrap_has_n_fixed_rows_a_member(batching, x64):
    """After one epoch of 6 batches a member is at the mean of its rows, and after three at the same; batches with
    replacement, here the planted bug, see other rows. Over members the means vary by var(y) / N."""
    y = jnp.asarray(mean_data(N))
    options = {"tempering": "likelihood", "bootstrap": True, "batching": batching}
    once, thrice = (
        found(mean_model, running_mean(N), 200, epochs * N // B, y, **options).get_samples()["m"]
        for epochs in (1, 3)
    )
    if batching == "replacement":
        assert np.abs(thrice - once).max() > 0.1
    else:
        np.testing.assert_allclose(thrice, once, atol=1e-6)  # schedules of optax are float32
        assert_exact(z_scores((once - y.mean()) ** 2 / (y.var() / N), 1.0))


def test_sgmcmc_ensemble_without_a_bootstrap_sees_every_row_in_an_epoch(x64):
    y = jnp.asarray(mean_data(N))
    once = found(mean_model, running_mean(N), 5, N // B, y, tempering="likelihood").get_samples()["m"]
    np.testing.assert_allclose(once, y.mean(), atol=1e-6)


def test_sgmcmc_ensemble_rows_of_a_bootstrap_are_uniform():
    """And of two keys independent: each row as often as the others, a pair alike once in N."""
    places = jnp.arange(5000)
    one, other = (np.asarray(stand_ins(random.key(k), places, 50)) for k in range(2))
    counts = np.bincount(one, minlength=50)
    assert ((counts - 100) ** 2 / 100).sum() < 49 + 4.5 * np.sqrt(2 * 49)
    assert abs(np.mean(one == other) - 1 / 50) < 4.5 * np.sqrt(1 / 50 / 5000)


# What it is used for


def test_sgmcmc_ensemble_compiles_nothing_in_a_second_run():
    """Of another length and key; with the first key again it finds the same."""
    (y,) = as_jax(mean_data(N))
    ensemble = found(mean_model, optax.adam(0.1), 2, 120, y)
    first = ensemble.get_samples()["m"]
    with compilations() as seen:
        ensemble.run(random.key(1), 70, y, progress_bar=False)
        other = ensemble.get_samples()["m"]
        ensemble.run(random.key(0), 120, y, progress_bar=False)
    assert not seen
    np.testing.assert_array_equal(ensemble.get_samples()["m"], first)
    assert (np.asarray(other) != np.asarray(first)).all()


def test_sgmcmc_ensemble_members_start_chains():
    """Unconstrained, a member a chain; after one tiny step the draws are still there."""
    ensemble = found(gamma, optax.adam(0.1), 4, 5)
    mcmc = MCMC(
        SGMCMC(gamma, baoab(1e-6, 1.0)), num_warmup=0, num_samples=1, num_chains=3,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(random.key(3), init_params=ensemble.init_params(3))
    np.testing.assert_allclose(mcmc.get_samples()["x"], ensemble.get_samples()["x"][:3], rtol=1e-4)
    np.testing.assert_allclose(
        jnp.exp(ensemble.init_params(1)["x"]), ensemble.get_samples()["x"][0], rtol=1e-6
    )


def test_sgmcmc_ensemble_is_read_by_predictive_and_arviz():
    (y,) = as_jax(mean_data(N))
    ensemble = found(mean_model, optax.adam(0.1), 3, 20, y)
    samples, grouped = ensemble.get_samples(), ensemble.get_samples(group_by_chain=True)
    assert samples["m"].shape == (3,)
    assert grouped["m"].shape == (3, 1)
    assert Predictive(mean_model, samples)(random.key(0), y, b=None)["y"].shape == (3, N)
    assert predict(mean_model, grouped, random.key(0), y, b=None, batch_ndims=2, return_sites=["y"])["y"].shape == (
        3, 1, N,
    )  # fmt: skip
    tree = to_datatree(ensemble)
    assert tree["posterior"]["m"].sizes == {"chain": 3, "draw": 1}
    np.testing.assert_array_equal(tree["optimization"]["loss"], ensemble.losses)
    assert int(tree["sample_stats"]["num_nonfinite"].sum()) == 0
    assert tree["observed_data"]["y"].sizes == {"rows": B}  # those of one batch


def test_sgmcmc_ensemble_shows_its_loss_in_one_line(capsys):
    (y,) = as_jax(mean_data(N))
    DeepEnsemble(mean_model, optax.adam(0.1), 2).run(random.key(0), 150, y)
    bar = capsys.readouterr().err
    assert re.search(r"150/150.*avg\. loss \d+\.\d{4} \(\d+\.\d{4} to \d+\.\d{4}\)", bar)
    assert "nonfinite" not in bar


# What goes wrong


def cliff():
    """A log density that is no number beyond 1, where its slope leads."""
    q = numpyro.sample("q", dist.Normal(5.0, 1.0))
    numpyro.factor("cliff", jnp.where(q > 1.0, jnp.nan, 0.0))


def test_sgmcmc_ensemble_refuses_steps_to_what_is_no_number_and_names_the_member():
    ensemble = DeepEnsemble(cliff, optax.sgd(0.1), 2, init_strategy=init_to_value(values={"q": 0.0}))
    with pytest.warns(
        UserWarning, match=r"Of 30 steps .* NaN or infinite: \d+ of member 0, \d+ of member 1\. Take"
    ):
        ensemble.run(random.key(0), 30, progress_bar=False)
    assert np.isfinite(ensemble.get_samples()["q"]).all()


def discrete():
    numpyro.sample("kind", dist.Bernoulli(0.5))


def on(model, *args, num_steps=1, **options):
    return lambda: DeepEnsemble(model, optax.adam(0.1), 2, **options).run(random.key(0), num_steps, *args)


def make(**options):
    return lambda: DeepEnsemble(**{"model": gamma, "optim": optax.adam(0.1), "num_members": 2, **options})


BAD = {
    "model": (make(model=3), TypeError, "model must be callable, got int"),
    "optim": (make(optim=0.1), TypeError, "optim must be an optax optimiser .* got float"),
    "members": (make(num_members=0), ValueError, "num_members must be a whole number from 1 on, got 0"),
    "tempering": (make(tempering="both"), ValueError, "tempering must be one of .* got 'both'"),
    "batching": (make(batching="all"), ValueError, "batching must be one of .* got 'all'"),
    "data": (make(data=np.ones(3)), TypeError, "data must be a HostRows, got ndarray"),
    "steps": (on(gamma, num_steps=0), ValueError, "num_steps must be a whole number from 1 on, got 0"),
    "discrete": (on(discrete), ValueError, "latent site 'kind' is discrete"),
    "bootstrap": (
        on(gamma, bootstrap=True),
        ValueError,
        "this model has none: give its plate .* subsample_size",
    ),
    "before a run": (lambda: make()().get_samples(), RuntimeError, "has not run: call its run method first"),
    "chains": (
        lambda: found(gamma, optax.adam(0.1), 2, 1).init_params(3),
        ValueError,
        "num_chains must be at most the 2 members, got 3",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_sgmcmc_ensemble_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sgmcmc_ensemble_host_rows_that_do_not_fit_are_refused():
    data = HostRows({"y": mean_data(N)}, plate="rows", batch_size=B)
    ensemble = DeepEnsemble(streamed_mean_model, optax.adam(0.1), 2, data=data)
    with pytest.raises(ValueError, match=r"HostRows passes \['y'\] to the model: leave them out of run"):
        ensemble.run(random.key(0), 1, y=jnp.ones(N), n=N)
    with pytest.raises(ValueError, match=r"HostRows holds the rows .*\(60, 10\).* model are .*\(50, 10\)"):
        ensemble.run(random.key(0), 1, n=50)
