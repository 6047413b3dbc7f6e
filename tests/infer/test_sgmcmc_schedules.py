"""T7 of SG-MCMC at a model: which steps become draws, what schedules count, where noise is in warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, init_to_sample, init_to_value

from emberwalk.infer import SGMCMC
from emberwalk.infer.sgmcmc.progress import forgets, is_probed, probe_interval
from emberwalk.kernels.sgmcmc import (
    baoab,
    cyclical,
    leimkuhler_matthews,
    polynomial_decay,
    sghmc,
    sgld,
    sgnht,
    step_weighted_mean,
    temperature_ramp,
    thin_by_step_size,
)
from tests.infer.sgmcmc_models import mean_data, mean_model
from tests.statistics import assert_exact, z_scores

START = init_to_value(values={"x": 0.5})


def gaussian(sd=1.0):
    numpyro.sample("x", dist.Normal(0.0, sd))


def states(kernel, num_warmup, num_draws, key=0, *args):
    """The states of one chain, those of warm-up included."""
    state = kernel.init(random.key(key), num_warmup, None, model_args=args, model_kwargs={})

    def draw(state, _):
        state = kernel.sample(state, args, {})
        return state, state

    return jax.jit(lambda state: jax.lax.scan(draw, state, None, num_warmup + num_draws))(state)[1]


CYCLES = cyclical(sgld(0.1), cycle_length=20, exploration=0.5, draws_per_cycle=3)


def test_sgmcmc_cyclical_counts_of_steps_and_cycles_are_exact():
    """Ends at 13, 16, 20 of each 20 steps; a warm-up draw is a whole cycle; counters start anew after it."""
    seen = states(SGMCMC(gaussian, CYCLES, init_strategy=START), 2, 7)
    np.testing.assert_array_equal(seen.cycle, [0, 0, 0, 0, 0, 1, 1, 1, 2])
    # the clock of a state is that of its last step, done
    ends = np.asarray(seen.inner.step)
    np.testing.assert_array_equal(ends, [20, 20, 13, 16, 20, 33, 36, 40, 53])
    steps = (ends[2:] - 1) % 20
    assert (steps >= 10).all()
    np.testing.assert_allclose(seen.step_size[2:], 0.05 * (1 + np.cos(np.pi * steps / 20)), rtol=1e-5)


def test_sgmcmc_cyclical_explores_without_noise():
    """Two runs of other noise are one path up to their first sampling step, and no draw is of it."""
    alone = cyclical(sgld(0.1), cycle_length=20, exploration=0.95, draws_per_cycle=1)
    one, other = (states(SGMCMC(gaussian, alone, init_strategy=START), 0, 1, key).z["x"][0] for key in (0, 1))
    assert one != other
    # 19 steps of descent, then one with noise
    h = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
    mean, last = 0.5 * np.prod(1 - h), np.sqrt(2 * h[-1])
    assert abs(one - mean) < 5 * last
    assert abs(other - mean) < 5 * last


def test_sgmcmc_cyclical_keeps_one_draw_of_a_linear_course():
    """Wenzel's: the end of each cycle."""
    course = cyclical(sghmc(0.1, 0.5), cycle_length=10, temperature="linear")
    seen = states(SGMCMC(gaussian, course, init_strategy=START), 1, 3)
    np.testing.assert_array_equal(seen.inner.step, [10, 10, 20, 30])
    np.testing.assert_array_equal(seen.cycle, [0, 0, 1, 2])


def test_sgmcmc_cyclical_noise_is_that_of_the_first_sampling_step():
    """h(10) V / 2T, of every draw: at the end of a cycle the step, and its noise, is next to nothing."""
    y = jnp.asarray(mean_data(100), float)
    kernel = SGMCMC(mean_model, cyclical(sgld(1e-3), 20, exploration=0.5, draws_per_cycle=3), temperature=0.1)
    seen = states(kernel, 2, 7, 0, y)
    h = 5e-4 * (1 + np.cos(np.pi / 2))
    variance = np.asarray(seen.noise.variance["m"])
    np.testing.assert_allclose(seen.noise_ratio[:, 0], h * variance / 0.2, rtol=1e-5)
    assert (variance > 0).all()


def test_sgmcmc_cyclical_is_not_said_to_be_rounded_away():
    """Its last step is 1e-5 of the first; what it samples with is that of the sampling part."""
    kernel = SGMCMC(
        gaussian, cyclical(sghmc(1e-3, 0.5, "identity"), 500), temperature=0.01, init_strategy=START
    )
    mcmc = MCMC(kernel, num_warmup=1, num_samples=2, progress_bar=False)
    mcmc.run(random.key(0))
    assert float(mcmc.last_state.step_size) < 1e-7
    assert kernel.warnings(mcmc) == []


def test_sgmcmc_decreasing_steps_and_temperatures_are_recorded_as_of_the_last_step():
    kernel = SGMCMC(
        gaussian, sgld(polynomial_decay(0.5, 1.0, 0.6)), temperature=temperature_ramp(1.0, 0.1, 8),
        steps_per_sample=4, init_strategy=START,
    )  # fmt: skip
    seen = states(kernel, 1, 2)
    at = jnp.array([0, 3, 7])  # schedules stand at 0 in warm-up
    np.testing.assert_allclose(seen.temperature, jax.vmap(temperature_ramp(1.0, 0.1, 8))(at), rtol=1e-6)
    np.testing.assert_allclose(seen.step_size, jax.vmap(polynomial_decay(0.5, 1.0, 0.6))(at), rtol=1e-6)


@pytest.mark.parametrize("num_warmup", [8, 50, 100, 300, 500, 1000, 5000])
@pytest.mark.parametrize("steps", [1, 100])
def test_sgmcmc_schedules_of_probes_forget_at_the_half_of_warmup_and_after_it(num_warmup, steps):
    """Whatever the interval: at the first probe of the second half, and at the first draw."""
    intervals = probe_interval(200, steps, num_warmup)
    i = jnp.arange(num_warmup + 2 * intervals[1])
    probed, forgot = (
        np.asarray(x) for x in (is_probed(i, intervals, num_warmup), forgets(i, intervals, num_warmup))
    )
    probes = np.flatnonzero(probed)
    second_half = probes[(probes >= num_warmup // 2) & (probes < num_warmup)]
    np.testing.assert_array_equal(np.flatnonzero(probed & forgot), [second_half[0], num_warmup])
    assert len(probes[probes < num_warmup]) >= 8


@pytest.mark.parametrize(
    ("warmup", "friction"), [(None, (0.0, 3.0)), ("ramp", (5.0, np.inf))], ids=["full", "planted_ramp"]
)
def test_sgmcmc_schedules_of_noise_keep_the_friction_of_a_thermostat(warmup, friction):
    """From a stationary start it stays near its own; told a T near 0 for a momentum that has T, it leaps up."""
    kernel = SGMCMC(fifty, sgnht(0.1, 1.0), warmup=warmup, init_strategy=init_to_sample)
    assert kernel.warmup == (warmup or "full")
    seen = states(kernel, 200, 1)
    assert friction[0] < np.asarray(seen.inner.extra[:100]).max() < friction[1]


def fifty():
    numpyro.sample("x", dist.Normal(0.0, 1.0).expand([50]).to_event(1))


CENTRES = 6.0 * np.arange(5)


def mixture():
    weights = dist.Categorical(probs=jnp.full(5, 0.2))
    numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(jnp.asarray(CENTRES), 0.7)))


@pytest.mark.nightly
def test_sgmcmc_cyclical_visits_every_mode_of_a_mixture():
    """Five modes 8.6 sds apart: all chains together are within 2 sds of each; without cycles of their own alone."""

    def reached(algorithm, num_draws):
        kernel = SGMCMC(mixture, algorithm, init_strategy=init_to_value(values={"x": 12.0}))
        mcmc = MCMC(
            kernel,
            num_warmup=0,
            num_samples=num_draws,
            num_chains=8,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(random.key(0))
        near = np.abs(np.asarray(mcmc.get_samples()["x"])[:, None] - CENTRES) < 2 * 0.7
        return set(np.flatnonzero(near.any(0)).tolist())

    large = cyclical(baoab(1.35, 0.1), cycle_length=200, exploration=0.2, draws_per_cycle=5)
    assert reached(large, 500) == {0, 1, 2, 3, 4}
    assert reached(leimkuhler_matthews(0.02), 500) == {2}


def test_sgmcmc_decreasing_steps_in_a_run_are_weighed_and_thinned(x64):
    """v_{k+1} = (1 - h_k lam)^2 v_k + 2 h_k T after a warm-up at h_0, from its stationary law."""
    schedule = polynomial_decay(0.5, 1.0, 0.6)
    num, h0 = 100, 0.5
    kernel = SGMCMC(gaussian, sgld(schedule), warmup="full")
    h = np.asarray(schedule(jnp.arange(num)))
    v, weighted = 1 / (1 - h0 / 2), 0.0
    for step in h:
        v = (1 - step) ** 2 * v + 2 * step
        weighted += step * v / h.sum()

    def seen(state):
        return jnp.stack([state.step_size, state.z["x"] ** 2], -1)

    keys = 4000
    state = kernel.init(random.split(random.key(0), keys), 30, None, model_args=(), model_kwargs={})

    def draw(state, _):
        state = kernel.sample(state, (), {})
        return state, seen(state)

    values = np.asarray(jax.jit(lambda s: jax.lax.scan(draw, s, None, 30 + num))(state)[1])[30:]
    sizes, squares = values[:, 0, 0], values[..., 1]
    np.testing.assert_allclose(sizes, h, rtol=1e-12)
    assert_exact(z_scores(np.asarray(jax.vmap(step_weighted_mean, (1, None))(squares, sizes)), weighted))
    thinned = jax.vmap(lambda row, key: thin_by_step_size(row, jnp.asarray(sizes), 10, key).mean(), (1, 0))
    assert_exact(
        z_scores(np.asarray(thinned(jnp.asarray(squares), random.split(random.key(1), keys))), weighted)
    )


def test_sgmcmc_temperature_schedule_counts_steps_after_warmup():
    """A ramp from 1 to .1 over 4 steps; in warm-up it stands at its begin."""
    kernel = SGMCMC(gaussian, sgld(0.1), temperature=temperature_ramp(1.0, 0.1, 4), init_strategy=START)
    seen = states(kernel, 3, 6)
    np.testing.assert_allclose(seen.temperature, [1, 1, 1, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(("warmup", "quiet"), [("full", 0), ("ramp", 1), ("descent", 6)])
def test_sgmcmc_warmup_has_the_noise_it_is_told(warmup, quiet):
    """Draws without noise are those of gradient descent."""
    kernel = SGMCMC(gaussian, sgld(0.1), warmup=warmup, init_strategy=START)
    path = np.asarray(states(kernel, 8, 1).z["x"])
    descent = 0.5 * 0.9 ** np.arange(1, 10)
    np.testing.assert_allclose(path[:quiet], descent[:quiet], rtol=1e-5)
    assert (np.abs(path[quiet:] - descent[quiet:]) > 1e-4).all()


def test_sgmcmc_steps_of_a_draw_are_those_of_its_chain(x64):
    """Five steps a draw: the autocorrelation of SGLD over a draw is (1 - h)^5."""
    kernel = SGMCMC(gaussian, sgld(0.1), steps_per_sample=5, warmup="full")

    def both(state):
        return jnp.stack([state.z["x"] ** 2, state.z["x"]], -1)

    state = kernel.init(random.split(random.key(0), 4000), 20, None, model_args=(), model_kwargs={})

    def draw(state, _):
        state = kernel.sample(state, (), {})
        return state, both(state)

    values = np.asarray(jax.jit(lambda s: jax.lax.scan(draw, s, None, 22))(state)[1])
    variance = 1 / (1 - 0.05)
    assert_exact(z_scores(values[-1, :, 0], variance))
    assert_exact(z_scores(values[-1, :, 1] * values[-2, :, 1], variance * 0.9**5))
