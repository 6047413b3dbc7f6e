"""`predict` gives the numbers of NumPyro's `Predictive`, in blocks, reduced or not, in one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.module import random_eqx_module
from numpyro.infer import Predictive

from emberwalk.infer import Reduction, mean_and_variance, predict
from emberwalk.models import mlp, scaled_normal

X = jnp.linspace(-1.0, 1.0, 7)
DRAWS = {"slope": random.normal(random.key(1), (10, 2)), "shift": random.normal(random.key(2), (10,))}
KEY = random.key(3)
runs = []  # one entry each time that the model is run, by whatever


def model(x, y=None, b=None, power=1, scale=None):
    runs.append(x)
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0], subsample_size=b):
        rows = numpyro.subsample(x, event_dim=0)
        mean = numpyro.deterministic("mean", shift + sum(slope[k] * rows ** (k + power) for k in range(2)))
        numpyro.sample("y", dist.Normal(mean, scale or 1.0), obs=y)


def grouped(draws):
    return {name: leaf.reshape(2, 5, *leaf.shape[1:]) for name, leaf in draws.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].shape == theirs[name].shape
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("batch_draws", [1, 4, 16])
def test_predict_is_predictive(batch_draws):
    """Deterministic sites and, with the same keys, those drawn; 4 divides no 10 draws."""
    theirs = Predictive(model, DRAWS)(KEY, X)
    assert set(theirs) == {"mean", "y"}
    assert_same(predict(model, DRAWS, KEY, X, b=None, batch_draws=batch_draws), theirs)


def test_samples_by_chain_give_predictions_by_chain():
    theirs = Predictive(model, grouped(DRAWS), batch_ndims=2)(KEY, X)
    ours = predict(model, grouped(DRAWS), KEY, X, batch_ndims=2, batch_draws=3)
    assert ours["mean"].shape == (2, 5, 7)
    assert_same(ours, theirs)


def test_one_draw_is_predicted_with_the_key_itself():
    one = {name: leaf[:1] for name, leaf in DRAWS.items()}
    assert_same(predict(model, one, KEY, X), Predictive(model, one)(KEY, X))


def test_draws_on_the_host_and_old_keys_will_do():
    host = {name: np.asarray(leaf) for name, leaf in DRAWS.items()}
    old = random.PRNGKey(3)
    assert_same(predict(model, host, old, X), Predictive(model, DRAWS)(old, X))


def test_arguments_stay_what_they_are():
    """Numbers and None are static; numpy can look at an array, as it can inside the loop of `MCMC`."""

    def looking(x, power):
        assert np.asarray(x).max() == 1.0
        model(x, power=power, scale=None)

    ours = predict(looking, DRAWS, KEY, X, power=2)
    assert_same(ours, Predictive(model, DRAWS)(KEY, X, power=2))


@pytest.mark.parametrize("reduce", [None, mean_and_variance()], ids=["all draws", "reduced"])
def test_the_model_is_run_no_oftener_for_many_blocks(reduce):
    counts = []
    for batch_draws in (10, 3):
        runs.clear()
        predict(model, DRAWS, KEY, X, batch_draws=batch_draws, reduce=reduce)
        counts.append(len(runs))
    assert counts[0] == counts[1] <= 2


def test_arguments_are_no_constants_of_the_program(monkeypatch):
    """XLA takes seconds over constants of some megabytes."""
    from emberwalk.infer.sgmcmc import predict as module

    big = jnp.arange(1e6)
    run = module._compiled(lambda scale: jnp.sum(big * scale), 1.0)
    (jitted,) = [cell.cell_contents for cell in run.__closure__ if hasattr(cell.cell_contents, "lower")]
    (constants,) = [cell.cell_contents for cell in run.__closure__ if isinstance(cell.cell_contents, list)]
    assert len(jitted.lower(constants, [jnp.array(1.0)]).as_text()) < 10_000
    np.testing.assert_allclose(run(2.0), 1e12, rtol=1e-5)


@pytest.mark.parametrize("batch_draws", [1, 4, 16])
def test_mean_and_variance_are_those_of_all_draws(batch_draws):
    theirs = Predictive(model, DRAWS)(KEY, X)
    ours = predict(model, DRAWS, KEY, X, batch_draws=batch_draws, reduce=mean_and_variance())
    assert_same(ours.mean, {name: leaf.mean(0) for name, leaf in theirs.items()})
    assert_same(ours.variance, {name: leaf.var(0, ddof=1) for name, leaf in theirs.items()})


def test_each_chain_is_reduced_apart():
    theirs = Predictive(model, grouped(DRAWS), batch_ndims=2)(KEY, X)
    ours = predict(model, grouped(DRAWS), KEY, X, batch_ndims=2, batch_draws=3, reduce=mean_and_variance())
    assert_same(ours.mean, {name: leaf.mean(1) for name, leaf in theirs.items()})
    assert_same(ours.variance, {name: leaf.var(1, ddof=1) for name, leaf in theirs.items()})


def test_any_fold_is_a_reduction():
    largest = Reduction(
        init=lambda zero: -jnp.inf * jnp.ones_like(zero["mean"]),
        update=lambda carry, prediction: jnp.maximum(carry, prediction["mean"]),
        result=lambda carry: carry,
    )
    theirs = Predictive(model, DRAWS)(KEY, X)["mean"].max(0)
    ours = predict(model, DRAWS, KEY, X, batch_draws=4, reduce=largest)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


def test_a_planted_fold_over_the_padding_is_seen():
    """A count of what is folded: the copies that fill the last block must not be in it."""
    count = Reduction(lambda zero: jnp.array(0), lambda carry, prediction: carry + 1, lambda carry: carry)
    assert predict(model, DRAWS, KEY, X, batch_draws=4, reduce=count) == 10


def test_whole_numbers_are_averaged_as_reals_and_one_draw_has_variance_0():
    def coin():
        numpyro.sample("y", dist.Bernoulli(numpyro.sample("p", dist.Beta(1.0, 1.0))))

    samples = {"p": jnp.array([0.0, 0.0, 0.0, 1.0])}
    moments = predict(coin, samples, KEY, reduce=mean_and_variance())
    assert (float(moments.mean["y"]), float(moments.variance["y"])) == (0.25, 0.25)
    one = predict(coin, {"p": jnp.array([1.0])}, KEY, reduce=mean_and_variance())
    assert (float(one.mean["y"]), float(one.variance["y"])) == (1.0, 0.0)


def test_a_large_mean_does_not_hide_the_variance():
    """Sums of squares in float32 would lose 1 beside 1e8."""
    init, update, result = mean_and_variance()
    draws = 1e4 + np.random.default_rng(0).normal(size=1000).astype(np.float32)
    carry, _ = jax.lax.scan(
        lambda carry, draw: (update(carry, draw), None), init(jnp.zeros(())), jnp.asarray(draws)
    )
    np.testing.assert_allclose(result(carry).variance, draws.astype(np.float64).var(ddof=1), rtol=1e-3)


def test_a_network_is_predicted():
    net = mlp(1, 1, width=3, depth=1, key=random.key(0))

    def network(x):
        f = random_eqx_module("net", net, prior=scaled_normal())
        numpyro.deterministic("out", jax.vmap(f)(x[:, None])[:, 0])

    samples = Predictive(network, num_samples=6)(random.key(1), X)
    theirs = samples.pop("out")
    np.testing.assert_allclose(predict(network, samples, KEY, X, batch_draws=4)["out"], theirs, atol=1e-6)


def test_only_the_sites_asked_for_come_back():
    assert predict(model, DRAWS, KEY, X, return_sites=["mean"]).keys() == {"mean"}


WRONG = {
    "no samples": ({"samples": {}}, "samples hold no site"),
    "other lengths": (
        {"samples": {"slope": DRAWS["slope"], "shift": DRAWS["shift"][:3]}},
        r"'slope' has \(10,\) and 'shift' has \(3,\)",
    ),
    "too few axes": ({"batch_ndims": 2}, r"same 2 leading axes .* 'shift' has \(10,\)"),
    "no draws": ({"samples": {"slope": jnp.zeros((0, 2))}}, "none empty"),
    "batch_ndims": ({"batch_ndims": 0}, "batch_ndims must be a whole number of at least 1, got 0"),
    "batch_draws": ({"batch_draws": 2.5}, "batch_draws must be a whole number of at least 1, got 2.5"),
    "one name": ({"return_sites": "mean"}, r"got the string 'mean': write \['mean'\]"),
    "unknown site": ({"return_sites": ["mean", "logits"]}, r"return_sites names \['logits'\]"),
    "subsampled plate": ({"b": 3}, "plate 'rows' has 3 of 7 rows: .* subsample size None"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_bad_input_is_refused(given, message):
    arguments = {"samples": DRAWS, **given}
    with pytest.raises(ValueError, match=message):
        predict(model, arguments.pop("samples"), KEY, X, **arguments)
