"""`AutoFractionalSDE` as users meet it: plates, masks, several states, encoders, prediction, pickles, ArviZ."""

import pickle
from functools import cache, partial

import arviz_base as azb
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.module import eqx_module
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from emberwalk.infer import AutoFractionalSDE, ControlGuide, to_datatree
from emberwalk.models import extend_noise, fractional_sde, hurst_prior
from tests.infer.fractional.guided import SD, bridge, coefficients, exact_gp, fbm_prior, log_weights, set_up
from tests.laws.runs import compilations
from tests.statistics import assert_exact, z_scores

pytestmark = pytest.mark.xdist_group("fractional-guide")  # what is fitted once serves all

TS = np.concatenate([np.arange(0, 0.5, 0.05), np.linspace(0.5, 1.0, 3), [1.3]])
C = coefficients(1.3, 30)
B, D = 7, 2


def constant(t, x):
    return 0.7 * jnp.ones_like(x)


def noisy(y=None):
    """A model with H and scale."""
    H = numpyro.sample("H", hurst_prior(2.0, 2.0))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    x = fractional_sde("x", lambda t, x: -x, lambda t, x: s, TS, H, coefficients=C)
    numpyro.sample("y", dist.Normal(x[1:], SD), obs=y)


Y = jnp.sin(4 * TS[1:])
DRIFT = eqx.nn.MLP("scalar", "scalar", 4, 1, key=random.key(0))


def with_network(y=None):
    """A model with H, and a drift to be learnt."""
    H = numpyro.sample("H", hurst_prior(2.0, 2.0))
    drift = eqx_module("drift", DRIFT)
    x = fractional_sde("x", lambda t, x: drift(x), constant, TS, H, coefficients=C)
    numpyro.sample("y", dist.Normal(x[1:], SD), obs=y)


def fitted(guide, *args, steps=30, key=0):
    svi = SVI(guide.model, guide, optax.adam(0.01), Trace_ELBO())
    return svi.run(random.key(key), steps, *args, progress_bar=False).params


@cache
def noisy_fit():
    """A guide of `noisy`, its SVI, and how that ended."""
    guide = AutoFractionalSDE(noisy)
    svi = SVI(noisy, guide, optax.adam(0.01), Trace_ELBO())
    return guide, svi, svi.run(random.key(0), 30, Y, progress_bar=False)


def test_fractional_guide_of_a_plate_is_one_for_each_sequence():
    """The evidence of the batch is the sum of those of its sequences, linear drift."""
    y = random.normal(random.key(3), (B, len(TS) - 1, D))
    keys = random.split(random.key(0), 4)

    def weights_of(size):
        def model(y):
            with numpyro.plate("seq", size):
                start = jnp.zeros((size, D))
                x = fractional_sde("x", lambda t, x: -x, constant, TS, 0.3, start, coefficients=C)
                numpyro.sample("y", dist.Normal(x[:, 1:], SD).to_event(2), obs=y)

        return log_weights(model, set_up(AutoFractionalSDE(model), y[:size]))

    batch, one = np.asarray(weights_of(B)(keys, y)), weights_of(1)
    assert batch.std() <= 2e-3
    alone = sum(np.asarray(one(keys, y[i : i + 1])).mean() for i in range(B))
    assert abs(batch.mean() - alone) <= 0.02


def test_fractional_guide_does_not_see_what_is_masked():
    def model(y, seen):
        x = fractional_sde("x", lambda t, x: -x, constant, TS, 0.3, jnp.zeros(D), coefficients=C)
        with handlers.mask(mask=seen[:, None]):
            numpyro.sample("y", dist.Normal(x[1:], SD), obs=y)

    seen = jnp.arange(len(TS) - 1) % 2 == 0
    y = random.normal(random.key(3), (len(TS) - 1, D))
    guide = set_up(AutoFractionalSDE(model), y, seen)
    draws = [
        guide.sample_posterior(random.key(5), {}, jnp.where(seen[:, None], y, fill), seen)["x"]
        for fill in (0.0, 1e3)
    ]
    np.testing.assert_array_equal(*draws)


def test_fractional_guide_has_the_same_draws_for_the_same_key_and_when_pickled():
    guide, _, result = noisy_fit()
    one, again, other = (
        g.sample_posterior(random.key(k), result.params, Y, sample_shape=(5,))
        for g, k in ((guide, 1), (pickle.loads(pickle.dumps(guide)), 1), (guide, 2))
    )
    assert {"H", "s", "x", "x_bank", "x_noise"} == set(one)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one["x"], other["x"])


@pytest.mark.nightly
@pytest.mark.parametrize(
    "kind", [partial(AutoFractionalSDE, residual=4), ControlGuide], ids=["residual", "control"]
)
def test_fractional_guide_of_a_model_with_a_network_and_latents_pickles(kind):
    """A param that is a network has a function without a name in every trace; those of the guide are kept."""
    guide = kind(with_network)
    params = fitted(guide, Y, steps=2)
    one, again = (
        g.sample_posterior(random.key(1), params, Y) for g in (guide, pickle.loads(pickle.dumps(guide)))
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)


@pytest.mark.parametrize("kind", [AutoFractionalSDE, ControlGuide])
def test_fractional_guide_compiles_its_step_once(kind):
    if kind is AutoFractionalSDE:
        _, svi, result = noisy_fit()
        state = result.state
    else:
        svi = SVI(noisy, kind(noisy), optax.adam(0.01), Trace_ELBO())
        state = svi.init(random.key(0), Y)
    update = jax.jit(svi.update)
    for _ in range(3):
        state, loss = update(state, Y)
    assert update._cache_size() == 1
    assert np.isfinite(loss)


def short(y=None):
    """A model with a scale, quick to compile."""
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    ts = np.linspace(0, 1, 6)
    x = fractional_sde("x", lambda t, x: -x, lambda t, x: s, ts, 0.3, coefficients=coefficients(1.0, 5, 5))
    numpyro.sample("y", dist.Normal(x[1:], SD), obs=y)


def test_fractional_guide_draws_and_is_diagnosed_again_without_compiling():
    """Other keys, other params, equal data: params are arguments, and the guide keeps its programs."""
    y, again = jnp.linspace(0.0, 1.0, 5), jnp.linspace(0.0, 1.0, 5)
    guide = AutoFractionalSDE(short, inner=AutoNormal)
    svi = SVI(short, guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(0), y))
    other = params | {"s_auto_loc": params["s_auto_loc"] + 1.0}

    def used(key, params, y):
        draws = guide.sample_posterior(key, params, y, sample_shape=(40,))
        return draws["s"], guide.diagnostics(key, params, y, num_samples=40)

    s, found = used(random.key(1), params, y)
    with compilations() as seen:
        again_s, again_found = used(random.key(2), other, again)
    assert seen == []
    assert len(guide._programs) == 2
    assert np.log(again_s).mean() - np.log(s).mean() == pytest.approx(1.0, abs=0.2)
    assert again_found.elbo != found.elbo
    assert pickle.loads(pickle.dumps(guide))._programs == {}


def test_fractional_guide_is_read_by_arviz():
    guide, svi, result = noisy_fit()
    tree = to_datatree(svi, svi_result=result, model_args=(Y,), num_samples=6)
    assert {"H", "s", "x"} <= set(tree["posterior"].data_vars)
    assert not [name for name in tree["posterior"].data_vars if "latent" in str(name)]
    draws = guide.paths(guide.sample_posterior(random.key(1), result.params, Y, sample_shape=(6,)))
    tree = azb.from_dict({"posterior": draws}, dims={"x": ["time"]}, sample_dims=["sample"])
    assert tree["posterior"]["x"].dims == ("sample", "time")


# Prediction


def test_fractional_predictive_mean_is_that_of_the_exact_process():
    """`Predictive` makes the path again from the noise that came with it."""
    at = np.arange(10, 51, 10)
    model, y = bridge(50, at), np.cos(np.arange(5.0))
    guide = set_up(AutoFractionalSDE(model), 0.3, jnp.asarray(y))
    samples = guide.sample_posterior(random.key(1), {}, 0.3, jnp.asarray(y), sample_shape=(3000,))
    again = Predictive(model, samples)(random.key(2), 0.3)
    np.testing.assert_allclose(again["x"], samples["x"], atol=2e-5)
    _, mean, _ = exact_gp(fbm_prior(np.linspace(0, 1, 51), 0.3), at, y)
    assert_exact(z_scores(again["y"], mean[at]))
    without = Predictive(model, {"x": samples["x"]})(random.key(2), 0.3)  # planted: the noise left out
    assert np.abs(z_scores(without["y"], mean[at])).max() > 8


def test_fractional_predictive_forecast_goes_on_from_where_the_data_end():
    def model(ts, y=None):
        x = fractional_sde(
            "x", lambda t, x: -x, lambda t, x: 0.5, ts, 0.7, coefficients=coefficients(3.0, 60)
        )
        numpyro.sample("y", dist.Normal(x[1 : 1 + (len(ts) if y is None else len(y))], SD), obs=y)

    ts, longer = np.linspace(0, 2, 41), np.linspace(0, 3, 61)
    y = jnp.sin(ts[1:])
    guide = set_up(AutoFractionalSDE(model), ts, y)
    samples = guide.sample_posterior(random.key(1), {}, ts, y, sample_shape=(50,))
    fan = Predictive(model, extend_noise(random.key(2), samples, "x", 20))(random.key(3), longer)
    np.testing.assert_allclose(fan["x"][:, :41], samples["x"], atol=2e-5)
    assert fan["x"][:, -1].std() > 2 * fan["x"][:, 40].std()


def test_fractional_predictive_guide_without_data_is_refused():
    guide, _, result = noisy_fit()
    with pytest.raises(
        ValueError, match=r"Pass them: samples = guide.sample_posterior\(key, params, ts, y\)"
    ):
        guide.sample_posterior(random.key(0), result.params)
