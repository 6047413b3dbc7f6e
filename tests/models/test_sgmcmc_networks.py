"""Networks in a model: the fan-in of every layer, priors that pickle, and starts at what the module draws."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from jax import random
from numpyro.contrib.module import random_eqx_module, random_nnx_module
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import NUTS, init_to_uniform
from numpyro.infer.util import initialize_model

from emberwalk.models import init_to_module, laplace_prior, mlp, scaled_normal, student_t_prior
from emberwalk.models.networks import fan_in

ROWS = jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)


def build_eqx(key):
    return mlp(2, 1, width=4, depth=1, key=key)


class TwoLayers(nnx.Module):
    """What `build_eqx` makes, with a layer in a list, in flax."""

    def __init__(self, rngs):
        self.hidden = nnx.List([nnx.Linear(2, 4, rngs=rngs)])
        self.last = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jax.nn.silu(self.hidden[0](x)))


def build_nnx(key):
    return TwoLayers(nnx.Rngs(params=key))


def eqx_model(x, y=None, prior=scaled_normal()):  # noqa: B008
    net = random_eqx_module("net", build_eqx(random.key(0)), prior=prior)
    sd = numpyro.sample("sd", dist.Exponential(1.0))
    numpyro.sample("y", dist.Normal(jax.vmap(net)(x)[:, 0], sd), obs=y)


def nnx_model(x, y=None, prior=scaled_normal()):  # noqa: B008
    net = random_nnx_module("net", build_nnx(random.key(0)), prior=prior)
    sd = numpyro.sample("sd", dist.Exponential(1.0))
    numpyro.sample("y", dist.Normal(net(x)[:, 0], sd), obs=y)


FAN_INS = {
    "equinox matrix": ("layers[0].weight", (32, 36), 36),
    "equinox convolution": ("conv.weight", (8, 3, 5, 5), 75),
    "equinox convolution's bias": ("conv.bias", (8, 1, 1), 1),
    "equinox layer norm": ("norm.weight", (32,), 1),
    "flax matrix": ("layers.0.kernel", (36, 32), 36),
    "flax convolution": ("conv.kernel", (5, 5, 3, 8), 75),
    "flax bias": ("l1.bias", (32,), 1),
    "scalar": ("log_scale", (), 1),
}


@pytest.mark.parametrize(("name", "shape", "expected"), FAN_INS.values(), ids=FAN_INS)
def test_fan_in_counts_the_inputs_that_a_unit_adds(name, shape, expected):
    assert fan_in(name, shape) == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [("embedding", (50, 8)), ("query.kernel", (8, 2, 4))],
    ids=["other name", "convolution or attention"],
)
def test_an_unknown_fan_in_asks_for_a_prior(name, shape):
    with pytest.raises(ValueError, match=rf"fan-in of the tensor '{name}' .* prior of its own"):
        scaled_normal()(name, shape)


LAWS = {
    "normal": (scaled_normal(0.5), dist.Normal(0.0, 0.25)),
    "laplace": (laplace_prior(0.5), dist.Laplace(0.0, 0.25)),
    "student": (student_t_prior(3.0, 0.5), dist.StudentT(3.0, 0.0, 0.25)),
}


@pytest.mark.parametrize(("prior", "law"), LAWS.values(), ids=LAWS)
def test_priors_scale_with_the_fan_in_and_pickle(prior, law):
    prior = pickle.loads(pickle.dumps(prior))
    np.testing.assert_allclose(prior("layers[0].weight", (8, 4)).log_prob(0.3), law.log_prob(0.3), rtol=1e-6)


@pytest.mark.parametrize("made", [scaled_normal, laplace_prior, student_t_prior])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_priors_refuse_a_scale_that_is_not_positive(made, value):
    with pytest.raises(ValueError, match=r"must be a positive number, got"):
        made(value)


def test_the_scale_of_a_prior_may_be_a_site():
    def model():
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))
        random_eqx_module("net", build_eqx(random.key(0)), prior=scaled_normal(sd))

    sites = trace(seed(model, random.key(1))).get_trace()
    expected = dist.Normal(0.0, sites["sd"]["value"] / 2).expand([1, 4]).to_event(2)
    at_one = sites["net/layers[1].weight"]["fn"].log_prob(jnp.ones((1, 4)))
    np.testing.assert_allclose(at_one, expected.log_prob(jnp.ones((1, 4))), rtol=1e-6)


def started(model, strategy, key):
    """Sites of the model where the strategy starts them, and the keys that they were given."""
    sites = trace(substitute(seed(model, key), substitute_fn=strategy)).get_trace(ROWS, jnp.zeros(3))
    latent = {
        name: site for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]
    }
    keys = {name: site["kwargs"]["rng_key"] for name, site in latent.items()}
    return {name: site["value"] for name, site in latent.items()}, keys


def eqx_tensors(key):
    net = build_eqx(key)
    return {
        f"net/layers[{i}].{part}": getattr(net.layers[i], part) for i in (0, 1) for part in ("weight", "bias")
    }


def nnx_tensors(key):
    net = build_nnx(key)
    layers = {"hidden.0": net.hidden[0], "last": net.last}
    return {
        f"net/{name}.{part}": getattr(layer, part)[...]
        for name, layer in layers.items()
        for part in ("kernel", "bias")
    }


KINDS = {"equinox": (eqx_model, build_eqx, eqx_tensors), "nnx": (nnx_model, build_nnx, nnx_tensors)}


@pytest.mark.parametrize(("model", "build", "tensors"), KINDS.values(), ids=KINDS)
def test_each_site_starts_at_its_tensor_of_the_module_of_its_key(model, build, tensors):
    values, keys = started(model, init_to_module("net", build), random.key(3))
    assert values.keys() == {*tensors(random.key(0)), "sd"}
    for name in values.keys() - {"sd"}:
        np.testing.assert_array_equal(values[name], tensors(keys[name])[name])


def test_other_sites_start_as_by_init_to_uniform():
    values, _ = started(eqx_model, init_to_module("net", build_eqx), random.key(3))
    uniform, _ = started(eqx_model, init_to_uniform(), random.key(3))
    np.testing.assert_array_equal(values["sd"], uniform["sd"])
    assert (
        np.abs(uniform["net/layers[0].weight"]).max()
        > 1 / np.sqrt(2)
        > np.abs(values["net/layers[0].weight"]).max()
    )


def test_float32_modules_start_in_the_dtype_of_the_chain(x64):
    values, _ = started(nnx_model, init_to_module("net", build_nnx), random.key(3))
    assert {value.dtype for value in values.values()} == {np.dtype(np.float64)}


def test_nested_dicts_of_tensors_are_modules_too():
    def build(key):
        return {"hidden": {"0": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}}, "last": nnx_last(key)}

    def nnx_last(key):
        return {"kernel": random.normal(key, (4, 1)), "bias": jnp.ones(1)}

    values, keys = started(nnx_model, init_to_module("net", build), random.key(3))
    np.testing.assert_array_equal(values["net/hidden.0.bias"], jnp.ones(4))
    np.testing.assert_array_equal(values["net/last.kernel"], nnx_last(keys["net/last.kernel"])["kernel"])


def test_initialize_model_takes_the_strategy():
    """Of several chains at once, whose keys are traced."""
    strategy = pickle.loads(pickle.dumps(init_to_module("net", build_eqx)))
    keys = random.split(random.key(0), 2)
    info = initialize_model(keys, eqx_model, init_strategy=strategy, model_args=(ROWS, jnp.zeros(3)))
    weights = info.param_info.z["net/layers[1].weight"]
    assert weights.shape == (2, 1, 4)
    assert np.abs(weights).max() <= 0.5  # equinox: U(-1, 1) / sqrt(4)
    assert not np.array_equal(weights[0], weights[1])


def test_nuts_takes_the_strategy():
    kernel = NUTS(nnx_model, init_strategy=init_to_module("net", build_nnx))
    state = kernel.init(random.key(0), 0, None, (ROWS, jnp.zeros(3)), {})
    np.testing.assert_array_equal(state.z["net/hidden.0.bias"], jnp.zeros(4))


WRONG_BUILDS = {
    "other names": (
        lambda key: build_nnx(key),
        ValueError,
        r"no tensor 'layers\[0\].weight' for the site 'net/lay",
    ),
    "other shape": (
        lambda key: mlp(3, 1, width=4, depth=1, key=key),
        ValueError,
        r"site 'net/layers\[0\].weight' has shape \(4, 2\), but the tensor from build has \(4, 3\)",
    ),
    "no module": (lambda key: jnp.zeros(3), TypeError, "must return a module of equinox or flax.nnx"),
}


@pytest.mark.parametrize(("build", "error", "message"), WRONG_BUILDS.values(), ids=WRONG_BUILDS)
def test_a_build_of_another_network_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        started(eqx_model, init_to_module("net", build), random.key(0))


def test_a_module_in_place_of_a_build_is_refused():
    with pytest.raises(TypeError, match="build must be a function key -> module, got int"):
        init_to_module("net", 3)


def test_mlp_has_the_layers_asked_for():
    net = mlp(5, 3, width=4, depth=2, final_bias=False, key=random.key(0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_array))]
    assert shapes == [(4, 5), (4,), (4, 4), (4,), (3, 4)]
    assert net(jnp.zeros(5)).shape == (3,)
