"""Weights that are no numbers are counted and weigh nothing; a stage without particles changes nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc import SSM, conditional_sweep, particle_filter, particle_gibbs, unconditional_sweep
from tests.kernels.smc_models import BASE

KEY, NUM = random.key(3), 8
REFERENCE = BASE.path(jnp.array([0.9, 0.5, 0.8]))


EVERY_STAGE = -1


def with_bad(ssm: SSM, value: float, *, stage: int = EVERY_STAGE, above: float = -jnp.inf) -> SSM:
    """The model with a log-likelihood of `value` where a state is above `above`, at one stage or at every one."""

    def spoilt(log_likelihood, x, t):
        here = (x > above) & ((t == stage) | (stage == EVERY_STAGE))
        return jnp.where(here, value, log_likelihood)

    def evaluate(c, x, t):
        factors = ssm.evaluate(c, x, t)
        return factors._replace(log_likelihood=spoilt(factors.log_likelihood, x, t))

    return ssm._replace(init_loglik=lambda x: spoilt(ssm.init_loglik(x), x, 0), evaluate=evaluate)


# The value, the stage and the bound are arguments, so that one program serves all cases.
@partial(jax.jit, static_argnames="path_move")
def sweep_with_bad(value, path_move, *, stage=EVERY_STAGE, above=-jnp.inf):
    ssm = with_bad(BASE.ssm, value, stage=stage, above=above)
    return conditional_sweep(KEY, ssm, REFERENCE, NUM, path_move=path_move)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("path_move", ["backward", "trace"])
def test_particle_whose_weight_is_no_number_is_an_impossible_particle(path_move, value):
    bad, impossible = (sweep_with_bad(what, path_move, above=1.0) for what in (value, -jnp.inf))
    assert bad.num_nonfinite > 0
    assert impossible.num_nonfinite == 0
    assert jnp.isfinite(bad.log_evidence)
    assert ((bad.ess >= 1) & (bad.ess <= NUM)).all()
    assert_same(bad._replace(num_nonfinite=0), impossible._replace(num_nonfinite=0))


def test_filter_counts_weights_that_are_no_numbers():
    bad = jax.jit(lambda key: particle_filter(key, with_bad(BASE.ssm, jnp.nan, above=1.0), NUM))(KEY)
    assert bad.num_nonfinite > 0
    assert jnp.isfinite(bad.log_evidence)
    assert (bad.cloud.log_weights < jnp.inf).all()  # false for NaN too


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize(("value", "bad_weights"), [(-jnp.inf, 0), (jnp.nan, NUM)], ids=["-inf", "nan"])
@pytest.mark.parametrize("path_move", ["backward", "trace"])
def test_stage_without_a_possible_particle_keeps_the_reference_and_is_counted(
    path_move, value, bad_weights, stage
):
    sweep = sweep_with_bad(value, path_move, stage=stage)
    assert_same(sweep.path, REFERENCE)
    np.testing.assert_array_equal(sweep.impossible, np.arange(3) == stage)
    np.testing.assert_array_equal(sweep.indices, 0)
    assert sweep.log_evidence == -jnp.inf
    # backward sampling meets the weights of stage t once more, in the factor of stage t - 1
    again = bad_weights if path_move == "backward" and stage > 0 else 0
    assert sweep.num_nonfinite == 1 + bad_weights + again


def test_path_move_goes_on_after_a_stuck_sweep():
    @jax.jit
    def step(key, state, impossible_stage):
        return particle_gibbs(with_bad(BASE.ssm, -jnp.inf, stage=impossible_stage), NUM).step(key, state)

    start = particle_gibbs(BASE.ssm, NUM).init(KEY, REFERENCE)
    stuck, info = step(KEY, start, 1)
    assert_same(stuck.path, REFERENCE)
    assert stuck.num_nonfinite == 1
    assert info.update_rate == 0
    free = [step(key, stuck, BASE.ssm.length + 1) for key in random.split(KEY, 10)]
    assert any(info.update_rate > 0 for _, info in free)
    assert all(state.num_nonfinite == 1 for state, _ in free)


def assert_step_keeps_types():
    kernel = particle_gibbs(BASE.ssm, NUM)
    before = jax.eval_shape(kernel.init, KEY)
    after, _ = jax.eval_shape(kernel.step, KEY, before)
    assert after == before
    assert after.num_nonfinite.dtype == jnp.int32


def test_step_keeps_the_types_of_the_state():
    assert_step_keeps_types()


def test_step_keeps_the_types_of_the_state_in_float64(x64):
    # there a sum of 32-bit counts becomes 64-bit, and no loop would carry the state
    assert_step_keeps_types()


def test_impossible_start_is_seen():
    sweep = jax.jit(lambda key: unconditional_sweep(key, with_bad(BASE.ssm, -jnp.inf, stage=1), NUM))(KEY)
    np.testing.assert_array_equal(sweep.impossible, [False, True, False])
    assert sweep.log_evidence == -jnp.inf


@pytest.mark.parametrize("num", [1, 0, 2.0, True, "16"])
def test_number_of_particles_must_be_whole_and_above_one(num):
    with pytest.raises(ValueError, match=r"^num_particles must be a whole number of at least 2"):
        particle_gibbs(BASE.ssm, num)


def sweep_of(ssm, num, **options):
    return conditional_sweep(KEY, ssm, REFERENCE, num, **options)


@pytest.mark.parametrize("build", [particle_gibbs, sweep_of])
def test_sweep_is_checked_early(build):
    with pytest.raises(ValueError, match=r"^num_particles must be a whole number of at least 2, got 1"):
        build(BASE.ssm, 1)
    with pytest.raises(ValueError, match=r"^path_move must be one of .*, got 'forward'\.$"):
        build(BASE.ssm, 8, path_move="forward")
    with pytest.raises(ValueError, match=r'needs ssm.order; got None. Use path_move="trace"'):
        build(BASE.ssm._replace(order=None), 8)


@partial(jax.jit, static_argnames="path_move")
def sweeps_that_lose_states(stage, path_move):
    """50 sweeps of a model whose states above 0.5 at one stage are no numbers; there nothing is observed."""

    def sample(key, c, t):
        x = BASE.ssm.sample(key, c, t)
        return jnp.where((t == stage) & (x > 0.5), jnp.nan, x)

    def evaluate(c, x, t):
        factors = BASE.ssm.evaluate(c, jnp.nan_to_num(x), t)
        return factors._replace(log_likelihood=jnp.where(t == stage, 0.0, factors.log_likelihood))

    def init(key):
        x = BASE.ssm.init(key)
        return jnp.where((stage == 0) & (x > 0.5), jnp.nan, x)

    blind = BASE.ssm._replace(
        init=init, init_loglik=lambda x: jnp.zeros(()), sample=sample, evaluate=evaluate
    )
    sweep = partial(conditional_sweep, ssm=blind, path=REFERENCE, num_particles=NUM, path_move=path_move)
    return jax.vmap(sweep)(random.split(KEY, 50))


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("path_move", ["backward", pytest.param("trace", marks=pytest.mark.nightly)])
def test_state_that_is_no_number_has_no_weight_where_nothing_is_observed(path_move, stage):
    """Log g of a missing observation is 0 whatever the state is."""
    sweeps = sweeps_that_lose_states(stage, path_move)
    assert jnp.isfinite(sweeps.path.initial).all()
    assert jnp.isfinite(sweeps.path.latents).all()
    assert (sweeps.num_nonfinite > 0).mean() > 0.9
    assert not sweeps.impossible.any()


def test_future_that_no_particle_can_have_led_to_keeps_the_path():
    """Forwards every particle is possible; backwards the transition of none is a number."""

    def evaluate(c, x, t):
        factors = BASE.ssm.evaluate(c, x, t)
        return factors._replace(log_transition=jnp.where(t == 2, jnp.nan, factors.log_transition))

    cut = BASE.ssm._replace(evaluate=evaluate)
    sweep = jax.jit(lambda key: conditional_sweep(key, cut, REFERENCE, NUM))(KEY)
    assert sweep.impossible.tolist() == [False, True, False]
    assert sweep.num_nonfinite == NUM + 1
    assert_same(sweep.path, REFERENCE)
    assert not sweep.indices.any()
