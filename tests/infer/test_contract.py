"""The parents of our kernels in `infer/contract.py`, with random-walk Metropolis as their smallest child."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Gibbs
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned
from numpyro.infer.util import potential_energy

from emberwalk.infer.contract import ChainKernel, Start, chain_axes, start_again
from tests.laws.runs import compilations
from tests.metropolis import Metropolis, location_scale

KEY, Y = random.key(4), jnp.array([0.5, 1.2, -0.3])
KEYS = random.split(KEY, 3)


def begin(kernel, key=KEY, init_params=None, args=(Y,), kwargs=None, num_warmup=0):
    return kernel.init(key, num_warmup, init_params, model_args=args, model_kwargs=kwargs or {})


def check_close(one, other):
    one, other = (state._replace(rng_key=random.key_data(state.rng_key)) for state in (one, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


# Chains.


@pytest.fixture(scope="module")
def kernel():
    """A kernel that has started with one key."""
    kernel = Metropolis(location_scale)
    begin(kernel)
    return kernel


def test_a_batch_of_keys_is_the_chains_of_its_keys_and_shares_the_counter():
    one, batch = Metropolis(location_scale), Metropolis(location_scale)
    alone, together = [begin(one, key) for key in KEYS], begin(batch, KEYS)
    move_one, move_all = (jax.jit(lambda state, k=k: k.sample(state, (Y,), {})) for k in (one, batch))
    for moves in range(3):
        assert together.i.shape == ()
        assert together.i == moves
        every_i = together._replace(i=jnp.broadcast_to(together.i, 3))
        for chain, state in enumerate(alone):
            check_close(state, jax.tree.map(lambda leaf, chain=chain: leaf[chain], every_i))
        alone, together = [move_one(state) for state in alone], move_all(together)


def test_axes_name_the_shared_fields():
    class State(NamedTuple):
        i: Any
        z: Any

    assert chain_axes(State, ("i",)) == State(None, 0)
    assert chain_axes(State, ()) == State(0, 0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"init_params": {"m": jnp.zeros(2), "s": jnp.zeros(())}}, r"z\.m has shape \(2,\), .* makes \(\)"),
        ({"init_params": {"mean": jnp.zeros(())}}, r"z\.m has shape nothing, .* makes \(\)"),
        ({"key": KEYS}, r"accept_prob has shape \(3,\), .* makes \(\)"),
    ],
    ids=["another shape", "another model", "another number of chains"],
)
def test_a_state_that_another_start_made_is_refused(kernel, given, field):
    state = begin(kernel, given.get("key", KEY))
    if "init_params" in given:
        state = state._replace(z=given["init_params"])
    begin(kernel)
    with pytest.raises(ValueError, match=rf"post_warmup_state.*field {field}.*warm up again"):
        kernel.sample(state, (Y,), {})


# A model.


def test_start_at_given_values_which_gibbs_gives_constrained():
    kernel = Metropolis(location_scale).wrap_model(conditioned)
    given = {"m": jnp.array(0.3), "s": jnp.array(2.0)}
    assert begin(kernel, init_params=given).z == given
    z = begin(kernel, init_params=given, kwargs={GIBBS_SITES_KWARG: {}}).z
    np.testing.assert_allclose([z["m"], z["s"]], [0.3, jnp.log(2.0)], rtol=1e-6)


def test_potential_and_its_refresh_follow_what_the_model_is_conditioned_on():
    kernel = Metropolis(location_scale).wrap_model(conditioned)
    state = begin(
        kernel, init_params={"m": jnp.array(0.3)}, kwargs={GIBBS_SITES_KWARG: {"s": jnp.array(2.0)}}
    )
    assert set(state.z) == {"m"}
    for s in (2.0, 0.5):
        model = handlers.condition(location_scale, {"s": jnp.array(s)})
        exact = potential_energy(model, (Y,), {}, {"m": jnp.array(0.3)})
        fresh = kernel.refresh(state, (Y,), {GIBBS_SITES_KWARG: {"s": jnp.array(s)}})
        np.testing.assert_allclose(fresh.potential_energy, exact, rtol=1e-6)
        if s == 2.0:
            np.testing.assert_allclose(state.potential_energy, exact, rtol=1e-6)


def test_constrained_values_with_and_without_deterministic_sites():
    def model(y):
        location_scale(y)
        numpyro.deterministic("twice", 2.0)

    kernel = Metropolis(model)
    begin(kernel)
    z = {"m": jnp.array(0.3), "s": jnp.array(0.0)}
    assert kernel.get_constrain_fn((Y,), {})(z) == {"m": 0.3, "s": 1.0}
    assert kernel.postprocess_fn((Y,), {})(z) == {"m": 0.3, "s": 1.0, "twice": 2.0}


def test_a_block_of_gibbs_moves_beside_nuts():
    kernel = Gibbs([(Metropolis(location_scale), ["s"]), (NUTS(location_scale), None)])
    mcmc = MCMC(kernel, num_warmup=5, num_samples=20, progress_bar=False)
    mcmc.run(KEY, Y)
    draws = mcmc.get_samples()
    assert np.all(draws["s"] > 0)
    assert all(len(np.unique(draws[site])) > 3 for site in ("m", "s"))


def test_wrap_model_gives_a_copy_that_has_not_started(kernel):
    wrapped = kernel.wrap_model(conditioned)
    assert wrapped.model is not kernel.model
    assert kernel.model is location_scale
    assert wrapped.step_size == kernel.step_size
    assert {name: getattr(wrapped, name) for name in kernel.fresh} == kernel.fresh
    assert kernel._start is not None


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model must be callable, got int"):
        Metropolis(3)


def test_pickles_without_what_a_start_made(kernel):
    state = begin(kernel)
    copy = pickle.loads(pickle.dumps(kernel))
    assert {name: getattr(copy, name) for name in kernel.fresh} == kernel.fresh
    check_close(begin(copy), state)


# A start is compiled once.


def test_a_second_start_compiles_nothing_and_other_data_do(kernel):
    begin(kernel, random.key(6))  # the eager operations around it
    with compilations() as seen:
        begin(kernel, random.key(5))
    assert seen == []
    start = kernel._start
    begin(kernel, args=(Y + 1,))
    assert kernel._start is not start
    begin(kernel)  # what a start noted is of the last data, so that the first are started anew
    begin(kernel, num_warmup=7)
    assert kernel._num_warmup == 7
    assert not kernel._start.is_for((0, (Y,), {}))
    assert kernel._start.is_for((7, (Y,), {}))


def test_values_of_gibbs_are_arguments_of_a_start():
    def init_one(key, init_params, model_args, model_kwargs):
        return model_kwargs[GIBBS_SITES_KWARG]["a"] + model_kwargs["b"] + model_args[0]

    b = jnp.array(10.0)
    arguments = [(0, (Y,), {"b": b, GIBBS_SITES_KWARG: {"a": jnp.array(a)}}) for a in (1.0, 2.0)]
    start = Start(init_one, None, arguments[0])
    np.testing.assert_array_equal(start(KEY, None, arguments[0][2]), Y + 11)
    with compilations() as seen:
        np.testing.assert_array_equal(np.asarray(start(KEY, None, arguments[1][2])), np.asarray(Y) + 12)
    assert seen == []
    assert start.is_for(arguments[1])
    for other in [
        (1, (Y,), arguments[0][2]),
        (0, (Y + 0,), arguments[0][2]),
        (0, (Y,), {"b": b}),
        (0, (Y,), {**arguments[0][2], "b": jnp.array(10.0)}),
        (0, (Y, None), {**arguments[0][2], "c": 1}),
    ]:
        assert not start.is_for(other)


def box(y):
    x = numpyro.sample("x", dist.Uniform(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)


@pytest.mark.parametrize("chains", [1, 3])
def test_a_support_with_an_array_in_it_leaves_no_tracer_behind(chains):
    kernel = Metropolis(box)
    state = begin(kernel, KEY if chains == 1 else KEYS, args=(1.0,))
    x = jax.vmap(kernel.postprocess_fn((1.0,), {}))({"x": jnp.reshape(state.z["x"], (-1, 3))})["x"]
    assert np.all((x > 0) & (x < 1))
    noted = jax.tree.leaves(kernel._inv_transforms)
    assert noted
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in noted)
    assert kernel.get_constrain_fn((1.0,), {})({"x": jnp.zeros(3)})["x"].tolist() == [0.5] * 3


# A start that failed is made again in the open.


class LuckState(NamedTuple):
    i: Any
    z: Any
    luck: Any
    rng_key: Any


class Luck(ChainKernel):
    """Its start fails where the luck that its key draws is below .6; again, it is 1 + luck."""

    state_class = LuckState
    worst = 0.0

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        z = jnp.zeros(2) if init_params is None else init_params["z"]
        return LuckState(jnp.array(0), {"z": z}, random.uniform(rng_key), rng_key)

    def sample_one(self, state, model_args, model_kwargs):
        return state._replace(i=state.i + 1)

    def failed(self, state):
        return state.luck < 0.6

    def init_again(self, rng_key, init_params, model_args, model_kwargs):
        assert not isinstance(rng_key, jax.core.Tracer)
        state = self.init_one(rng_key, init_params, model_args, model_kwargs)
        if state.luck < self.worst:
            raise RuntimeError("no luck at all")
        return state._replace(luck=1 + state.luck)


LUCK = jax.vmap(random.uniform)(KEYS)
STARTS = {"z": jnp.arange(6.0).reshape(3, 2)}


def test_only_the_chains_that_failed_start_again():
    assert 0 < np.sum(LUCK < 0.6) < 3  # the key has both
    state = begin(Luck(), KEYS, STARTS)
    np.testing.assert_allclose(state.luck, np.where(LUCK < 0.6, 1 + LUCK, LUCK), rtol=1e-6)
    np.testing.assert_array_equal(state.z["z"], STARTS["z"])
    np.testing.assert_array_equal(random.key_data(state.rng_key), random.key_data(KEYS))
    assert state.i.shape == ()
    for key, luck in zip(KEYS, LUCK, strict=True):
        np.testing.assert_allclose(begin(Luck(), key).luck, luck + (luck < 0.6), rtol=1e-6)


def test_a_start_that_fails_again_raises_unless_it_is_traced():
    kernel = Luck()
    kernel.worst = 0.55
    with pytest.raises(RuntimeError, match="no luck at all"):
        begin(kernel, KEYS)
    np.testing.assert_allclose(jax.vmap(lambda key: begin(kernel, key).luck)(KEYS), LUCK, rtol=1e-6)


def test_a_start_that_did_not_fail_is_the_state_itself():
    state = LuckState(jnp.array(0), {}, LUCK, KEYS)
    assert start_again(state, jnp.zeros(3, bool), None, KEYS, None, ("i",)) is state


# Types.


class Loose(Luck):
    """It hands on a Python number, as HMC does with `num_steps`."""

    def sample_one(self, state, model_args, model_kwargs):
        return state._replace(i=state.i + 1, luck=0.75)


@pytest.mark.parametrize("key", [*KEYS, KEYS], ids=["one", "two", "three", "batch"])
def test_a_state_has_the_same_types_before_and_after_a_move(key):
    kernel = Loose()
    state = begin(kernel, key)
    moved = kernel.sample(state, (Y,), {})
    assert [jax.typeof(leaf) for leaf in jax.tree.leaves(moved)] == [
        jax.typeof(leaf) for leaf in jax.tree.leaves(state)
    ]
    assert np.all(moved.luck == 0.75)
