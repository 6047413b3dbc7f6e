"""Every law fails on a kernel that breaks it. The bad kernels are the good one of `tests/metropolis.py`, spoilt."""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.experimental import io_callback
from numpyro.infer import BarkerMH, Gibbs
from numpyro.util import is_prng_key

from emberwalk.infer.smc import ppg
from tests.laws import test_laws as laws
from tests.metropolis import Metropolis, MetropolisState, location_scale
from tests.statistics import assert_caught, z_scores

from .registry import CASES, LOCATION_SCALE, Case, Sampler, nuts, with_log
from .runs import move_exact_draws


class Careless(Metropolis):
    """Accepts too often, NaN always, and counts no NaN."""

    def accept_prob(self, log_ratio):
        return jnp.where(jnp.isnan(log_ratio), 1.0, jnp.minimum(1.0, jnp.exp(0.8 * log_ratio)))


class Silent(Metropolis):
    """Refuses NaN and tells nobody."""

    def move(self, state, potential_fn):
        return super().move(state, potential_fn)._replace(num_nonfinite=state.num_nonfinite)


class BoundToTheFirst(Metropolis):
    """As a block, goes on under what it was first conditioned on."""

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        self.first = model_kwargs
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def sample_one(self, state, model_args, model_kwargs):
        return super().sample_one(state, model_args, self.first)


class Unconstrained(Metropolis):
    """As a block, hands its logarithm on as the scale."""

    def get_constrain_fn(self, model_args, model_kwargs):
        return dict


class OwnKeyState(NamedTuple):
    i: Any
    z: Any
    potential_energy: Any
    accept_prob: Any
    num_nonfinite: Any
    rng_key: Any
    own_key: Any


class OwnKey(Metropolis):
    """Moves by a key of its own, which `post_warmup_state` keeps; compiles and counts at every start."""

    state_class = OwnKeyState
    counter = itertools.count()

    def init(self, rng_key, *args, **kwargs):
        fold = jax.jit(lambda key: random.fold_in(key, next(self.counter)))
        return super().init(fold(rng_key), *args, **kwargs)

    def start(self, rng_key, z, potential_fn):
        return OwnKeyState(*super().start(rng_key, z, potential_fn), rng_key)

    def move(self, state, potential_fn):
        inner = MetropolisState(*state[:-1])._replace(rng_key=state.own_key)
        moved = super().move(inner, potential_fn)
        return OwnKeyState(*moved._replace(rng_key=state.rng_key), moved.rng_key)


class OneKeyForAll(Metropolis):
    """Gives all vectorized chains the first key, and others to chains that are traced."""

    def init(self, rng_key, *args, **kwargs):
        if not is_prng_key(rng_key):
            rng_key = jnp.broadcast_to(rng_key[0], rng_key.shape)
        elif isinstance(rng_key, jax.core.Tracer):
            rng_key = random.fold_in(rng_key, 1)
        return super().init(rng_key, *args, **kwargs)


class CountsOnTheHost(Metropolis):
    """Its draws depend on a number that no state holds."""

    def init(self, *args, **kwargs):
        self.count = 0
        return super().init(*args, **kwargs)

    def next_count(self):
        self.count += 1
        return np.asarray(self.count, np.int32)

    def move(self, state, potential_fn):
        count = io_callback(self.next_count, jax.ShapeDtypeStruct((), jnp.int32))
        moved = super().move(state._replace(rng_key=random.fold_in(state.rng_key, count)), potential_fn)
        return moved


class PairState(NamedTuple):
    i: Any
    z: Any
    potential_energy: Any
    accept_prob: Any
    num_nonfinite: Any
    rng_key: Any
    pair: Any


class IllMannered(Metropolis):
    """Holds a lambda, collects a pair without a name, leaves a field out, and computes in half precision."""

    default_fields = ("z", "pair")
    state_class = PairState

    def __init__(self, model):
        super().__init__(model)
        self.identity = lambda x: x

    def start(self, rng_key, z, potential_fn):
        return PairState(*self.halved(super().start(rng_key, z, potential_fn)), jnp.zeros(2))

    def move(self, state, potential_fn):
        return PairState(*self.halved(super().move(MetropolisState(*state[:-1]), potential_fn)), state.pair)

    def halved(self, state):
        return state._replace(accept_prob=state.accept_prob.astype(jnp.float16))


def bad(kernel: type[Metropolis], **options: Any) -> Case:
    def alone():
        return kernel(location_scale)

    def in_gibbs():
        return Gibbs([(kernel(location_scale), ["s"]), (nuts(), None)])

    return Case(
        kernel.__name__,
        Sampler(alone, LOCATION_SCALE, with_log("s")),
        Sampler(in_gibbs, LOCATION_SCALE),
        fields=("z", "accept_prob", "num_nonfinite"),
        **options,
    )


BAD = {kernel.__name__: bad(kernel) for kernel in (Silent, BoundToTheFirst, Unconstrained, OwnKey)}
BAD |= {kernel.__name__: bad(kernel) for kernel in (OneKeyForAll, CountsOnTheHost, IllMannered)}
BAD["Careless"] = bad(Careless, moves=20, replicas=20_000)
CAUGHT = [
    (laws.test_leaves_exact_draws_exact, "Careless"),
    (laws.test_no_silent_nan, "Careless"),
    (laws.test_no_silent_nan, "Silent"),
    (laws.test_is_a_block_of_gibbs_or_says_why_not, "BoundToTheFirst"),
    (laws.test_is_a_block_of_gibbs_or_says_why_not, "Unconstrained"),
    (laws.test_same_key_same_draws, "OwnKey"),
    (laws.test_another_key_other_draws, "OwnKey"),
    (laws.test_no_second_compilation, "OwnKey"),
    (laws.test_chains_differ, "OneKeyForAll"),
    (laws.test_chain_methods_agree, "OneKeyForAll"),
    (laws.test_callable_chain_method_agrees, "OneKeyForAll"),
    (laws.test_resumed_is_uninterrupted, "CountsOnTheHost"),
    (laws.test_pickles_before_init_after_init_and_after_a_run, "IllMannered"),
    (laws.test_tree_goes_through_netcdf_without_a_warning, "IllMannered"),
    (laws.test_default_fields_are_collected, "IllMannered"),
    (laws.test_floats_keep_their_precision, "IllMannered"),
]


@pytest.mark.parametrize(
    ("law", "name"),
    [
        pytest.param(law, name, id=f"{name}-{law.__name__}", marks=pytest.mark.xdist_group(f"bad-{name}"))
        for law, name in CAUGHT
    ],
)
def test_a_law_catches(law, name):
    with pytest.raises(AssertionError):
        law(BAD[name])


@pytest.mark.xdist_group("bad-IllMannered")
def test_a_law_catches_half_precision_in_x64(x64):
    with pytest.raises(AssertionError):
        laws.test_is_double_in_x64(BAD["IllMannered"], x64)


def no_refresh():
    return Gibbs([(BarkerMH(location_scale), ["m"]), (nuts(), None)])


def test_a_law_asks_for_a_clear_refusal():
    refusing = {"fields": (), "refusal": no_refresh}
    alone = Sampler(lambda: BarkerMH(location_scale), LOCATION_SCALE)
    law = laws.test_is_a_block_of_gibbs_or_says_why_not
    law(Case("refuses", alone, None, refused_with="BarkerMH does not implement `refresh`", **refusing))
    with pytest.raises(AssertionError):
        law(Case("says something else", alone, None, refused_with="has no model", **refusing))
    with pytest.raises(AssertionError):
        law(Case("says nothing", alone, None, fields=()))


@pytest.mark.nightly
@pytest.mark.xdist_group("laws-smc-ppg")
def test_smc_ppg_planted_path_that_is_not_made_anew_moves_exact_draws(monkeypatch):
    """The innovations move keeps the path of before: theta is then that of another noise."""
    right = ppg.interweave

    def path_of_before(*args, **options):
        return right(*args, **options)._replace(path=args[-1])

    monkeypatch.setattr(ppg, "interweave", path_of_before)
    (case,) = (case for case in CASES if case.name == "smc-ppg")
    exact = move_exact_draws(replace(case, replicas=2 * case.replicas), replace(case.alone))
    assert_caught(z_scores(np.asarray(exact.after, np.float64) - np.asarray(exact.before), 0.0))
