"""PaRIS as a stream is PaRIS on stored clouds, agrees with the exact answer, and its sums lose nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from jax.scipy.stats import norm

from emberwalk.kernels.smc import SSM, Evaluation, additive, online_paris, paris, unconditional_sweep
from emberwalk.kernels.smc.forward import start_sweep, with_first
from tests.kernels.smc_models import ORDER_TWO, autoregression
from tests.kernels.test_smc_duality import CASE, exact, products
from tests.smc_data import linear_gaussian_data
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

PRODUCTS = additive(products)


def streamed(key, ssm: SSM, num: int, functional=PRODUCTS, **options):
    """Estimate and state after all stages, the keys those of a sweep; statistics of stages 0, ..., T."""
    key_forward, _, _ = random.split(key, 3)
    smoother = online_paris(ssm, functional, num, **options)

    def step(state, t):
        return smoother.step(random.fold_in(key_forward, t), state)

    state, stats = lax.scan(step, smoother.init(key_forward), jnp.arange(1, ssm.length + 1))
    return smoother.estimate(state), state, with_first(start_sweep(key_forward, ssm, num, None).stats, stats)


@pytest.mark.parametrize(
    "options",
    [pytest.param({"paris": "dense"}, id="dense", marks=pytest.mark.nightly),
     pytest.param({"num_backward": 1}, id="imh M=1")],
)  # fmt: skip
def test_stream_is_the_sweep_where_the_backward_kernel_draws_nothing(options):
    ssm, key = autoregression(linear_gaussian_data(20)).ssm, random.key(0)
    estimate, state, _ = jax.jit(lambda key: streamed(key, ssm, 8, **options))(key)
    options = {"paris": "imh", **options, "functional": PRODUCTS}
    sweep = jax.jit(lambda key: unconditional_sweep(key, ssm, 8, **options))(key)
    np.testing.assert_allclose(estimate, sweep.statistic, rtol=1e-5)
    np.testing.assert_allclose(state.log_evidence, sweep.log_evidence, rtol=1e-6)
    np.testing.assert_allclose(state.min_ess, sweep.ess.min(), rtol=1e-5)
    assert state.t == ssm.length
    assert state.num_nonfinite == sweep.num_nonfinite == 0


def z_of_stream(count=1000):
    """z with so many particles that the bias, O(1/N), does not show."""
    estimates = replicas(lambda key: streamed(key, CASE.ssm, 500)[0], random.key(0), count)
    return z_scores(estimates, exact(CASE))


def test_stream_estimates_the_smoothed_mean():
    assert_exact(z_of_stream())


@pytest.mark.nightly
def test_planted_stream_always_accepting(monkeypatch):
    monkeypatch.setattr(paris, "accept", lambda key, there, here: jnp.ones(there.shape, bool))
    assert_caught(z_of_stream(count=200))


def in_float32(length: int) -> SSM:
    """x_t = .9 x_{t-1} + e_t, y = x + v, the same numbers and the same draws whether x64 is on or not."""
    y = jnp.asarray(linear_gaussian_data(length + 1), jnp.float32)

    def normal(key):
        return random.normal(key, dtype=jnp.float32)

    return SSM(
        init=normal,
        init_logpdf=norm.logpdf,
        init_carry=lambda x: x,
        init_loglik=lambda x: norm.logpdf(y[0], x),
        sample=lambda key, c, t: 0.9 * c + normal(key),
        evaluate=lambda c, x, t: Evaluation(norm.logpdf(x, 0.9 * c), norm.logpdf(y[t], x), x),
        length=length,
    )


def sums_in_float32_and_float64(length: int, num: int, how="imh"):
    """The functional and log Zhat, each summed in float32 as the stream does it, and in float64."""

    def run():
        ssm = in_float32(length)
        estimate, state, stats = jax.jit(lambda key: streamed(key, ssm, num, paris=how))(random.key(0))
        assert state.log_evidence.dtype == jnp.float32
        return np.asarray(estimate), float(state.log_evidence), stats

    estimate, log_evidence, stats = run()
    with jax.enable_x64(True):
        in_double, _, same = run()
    assert in_double.dtype == np.float64
    np.testing.assert_array_equal(stats.ess, same.ess)
    return estimate, in_double, log_evidence, np.asarray(stats.log_mean_weight, np.float64).sum()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("length", "how"),
    [(20_000, "imh"), (200_000, "imh"), (200_000, "dense")],
)
def test_sums_in_float32_are_those_in_float64(length, how):
    estimate, in_double, log_evidence, evidence_in_double = sums_in_float32_and_float64(length, 8, how)
    np.testing.assert_allclose(estimate, in_double, rtol=1e-6)
    assert abs(log_evidence - evidence_in_double) < np.spacing(np.float32(abs(log_evidence)))


def plain_sum(total, terms):
    return paris.Compensated(jax.tree.map(jnp.add, total.sum, terms), total.lost)


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["imh", "dense"])
def test_planted_plain_sum_is_off_where_the_compensated_one_is_not(how, monkeypatch):
    """1e5 stages of 0.1 each."""
    still = CASE.ssm._replace(length=100_000)
    still = still._replace(evaluate=lambda c, x, t: CASE.ssm.evaluate(c, x, jnp.minimum(t, 1)))
    tenth = additive(lambda previous, current, t: jnp.float32(0.1))

    def error():
        total = jax.jit(lambda key: streamed(key, still, 2, tenth, paris=how)[0])(random.key(0))
        return abs(float(total) - 10_000.1)

    assert error() < 0.01
    monkeypatch.setattr(paris, "plus", plain_sum)
    assert error() > 0.5


def test_stage_without_a_possible_particle_is_counted_and_log_evidence_is_minus_infinity():
    def evaluate(c, x, t):
        factors = CASE.ssm.evaluate(c, x, t)
        return factors._replace(log_likelihood=jnp.where(t == 2, -jnp.inf, factors.log_likelihood))

    impossible = CASE.ssm._replace(evaluate=evaluate)
    _, state, stats = jax.jit(lambda key: streamed(key, impossible, 4))(random.key(0))
    assert state.log_evidence == -jnp.inf
    assert state.num_nonfinite == 1
    assert state.min_ess == 0
    np.testing.assert_array_equal(stats.impossible, np.arange(4) == 2)


def assert_step_keeps_types():
    smoother = online_paris(CASE.ssm, PRODUCTS, 4)
    before = jax.eval_shape(smoother.init, random.key(0))
    after, _ = jax.eval_shape(smoother.step, random.key(0), before)
    assert after == before


def test_step_keeps_the_types_of_the_state():
    assert_step_keeps_types()


def test_step_keeps_the_types_of_the_state_in_float64(x64):
    assert_step_keeps_types()


def test_online_paris_bad_input():
    with pytest.raises(ValueError, match="num_particles must be a whole number of at least 2, got 1"):
        online_paris(CASE.ssm, PRODUCTS, 1)
    with pytest.raises(ValueError, match="A functional needs a model of Markov order 1, got order 2"):
        online_paris(ORDER_TWO.ssm, PRODUCTS, 4)
    with pytest.raises(ValueError, match=r"paris must be one of .*, got 'exact'"):
        online_paris(CASE.ssm, PRODUCTS, 4, paris="exact")
