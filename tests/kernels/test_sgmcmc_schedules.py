"""Steps that decrease or go in cycles, what is averaged over them, and what cannot be meant."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, random

from emberwalk.kernels.sgmcmc import (
    baoab,
    build,
    configurational_temperature,
    cyclical,
    leimkuhler_matthews,
    noise_ratio,
    polynomial_decay,
    psgld,
    sghmc,
    sghmc_from_sgd,
    sgld,
    sgnht,
    stationary_variance,
    step_weighted_mean,
    temperature_interval,
    temperature_ramp,
    thin_by_step_size,
)
from emberwalk.kernels.sgmcmc.baoab import Baoab
from emberwalk.kernels.sgmcmc.precondition import mass, preconditioner
from tests.statistics import assert_caught, assert_exact, z_scores

ALGORITHMS = {
    "sgld": sgld(0.1),
    "psgld": psgld(0.1),
    "leimkuhler_matthews": leimkuhler_matthews(0.1),
    "sghmc": sghmc(0.1, 0.5),
    "baoab": baoab(0.1, 0.5, mass="diagonal"),
    "sgnht": sgnht(0.1, 0.5),
    "cyclical": cyclical(baoab(0.1, 0.5), 20),
    "decreasing": sgld(polynomial_decay(0.1, 1.0, 0.6)),
}


def walk(algorithm, key, num_steps, start, temperature=1.0, gradient=lambda key, z: z):
    """All states of a chain."""
    kernel = build(algorithm, gradient, temperature)
    state = kernel.init(key, start)
    return lax.scan(lambda s, k: (kernel.step(k, s)[0],) * 2, state, random.split(key, num_steps))[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_sgmcmc_algorithm_pickles_repeats_itself_and_refuses_a_step_that_is_no_number(algorithm):
    same = pickle.loads(pickle.dumps(algorithm))
    assert same == algorithm

    @jax.jit
    def run(key):
        kernel = build(algorithm, lambda key, z: jnp.where(z > 0.3, jnp.nan, z), 0.5)
        state = kernel.init(key, jnp.zeros(3))
        return lax.scan(lambda s, k: kernel.step(k, s), state, random.split(key, 60))

    (state, info), (again, _) = run(random.key(0)), run(random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.position, again.position)
    assert np.isfinite(state.position).all()
    assert np.sum(~np.asarray(info.finite)) > 0
    assert int(state.step) == 60


def test_sgmcmc_decreasing_steps_weigh_every_draw_by_its_step(x64):
    """v_{k+1} = (1 - h_k lam)^2 v_k + 2 h_k T;   E of the weighted mean is sum h_k v_{k+1} / sum h_k."""
    lam, T, num = 2.0, 0.5, 200
    schedule = polynomial_decay(0.3, 1.0, 0.7)
    h, v = np.array([float(schedule(k)) for k in range(num)]), [1.0]
    for step in h:
        v.append((1 - step * lam) ** 2 * v[-1] + 2 * step * T)
    exact = (h * v[1:]).sum() / h.sum()

    def chain(key):
        start = random.normal(key)
        states = walk(sgld(schedule), key, num, start, T, lambda key, z: lam * z)
        thinned = thin_by_step_size(states.position, jnp.asarray(h), 50, random.fold_in(key, 1))
        return jnp.stack([
            step_weighted_mean(states.position**2, jnp.asarray(h)), jnp.mean(thinned**2), jnp.mean(states.position**2)
        ])  # fmt: skip

    weighted, thinned, plain = np.asarray(jax.jit(jax.vmap(chain))(random.split(random.key(0), 4000))).T
    assert_exact(z_scores(weighted, exact))
    assert_exact(z_scores(thinned, exact))
    assert_caught(z_scores(plain, exact), 4.5)


def test_sgmcmc_cyclical_draws_come_from_the_sampling_part_alone():
    algorithm = cyclical(baoab(0.2, 1.0), 37, exploration=0.7, draws_per_cycle=4)
    ends = np.cumsum([int(algorithm.steps_to_draw(jnp.array(draw))) for draw in range(12)])
    assert algorithm.steps_of_exploration == 26
    within = (ends - 1) % 37 + 1
    assert np.all(within > 26)
    np.testing.assert_array_equal(ends[3::4], 37 * np.arange(1, 4))  # the last of each is the cycle's end
    np.testing.assert_array_equal(np.diff(ends.reshape(3, 4), axis=0), 37)


def test_sgmcmc_cyclical_explores_without_noise_and_then_samples(x64):
    algorithm = cyclical(leimkuhler_matthews(0.3), 20, exploration=0.5)
    steps = jnp.arange(40)
    np.testing.assert_allclose(algorithm.h(steps), 0.15 * (1 + np.cos(np.pi * (np.arange(40) % 20) / 20)))
    np.testing.assert_array_equal(jax.vmap(algorithm.course)(steps), np.tile(np.repeat([0.0, 1.0], 10), 2))
    linear = cyclical(leimkuhler_matthews(0.3), 20, temperature="linear")
    np.testing.assert_allclose(jax.vmap(linear.course)(steps[:20]), np.arange(20) / 19)
    start = jnp.array([1.0, -2.0, 0.5])
    one, other = (walk(algorithm, random.key(seed), 40, start).position for seed in (0, 1))
    np.testing.assert_array_equal(one[:10], other[:10])
    assert np.all(one[10] != other[10])


def test_sgmcmc_mass_and_preconditioner_are_scaled_to_the_softest_and_the_stiffest():
    second = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([100.0, 100.0, 1e-10])}
    diagonal = mass("diagonal", second, eps=0.0)
    np.testing.assert_allclose(diagonal["b"][2], 1.0)
    np.testing.assert_allclose(diagonal["b"][0] / diagonal["a"][0], 10.0, rtol=1e-6)
    layers = mass("layerwise", second, eps=0.0)
    np.testing.assert_allclose(layers["b"] / layers["a"], np.sqrt(200 / 3 / 2.5), rtol=1e-6)
    gains = preconditioner("diagonal", second, eps=0.0)
    np.testing.assert_allclose(gains["b"], [1.0, 1.0, 1000.0], rtol=1e-6)
    np.testing.assert_allclose(gains["a"], [10.0, 5.0], rtol=1e-6)
    for kind in ("identity", "layerwise", "diagonal"):
        algorithm = baoab(0.1, 1.0, mass=kind)
        state = algorithm.init(random.key(0), second, 1.0)
        adapted = algorithm.adapt(state, second)
        assert jax.tree.map(jnp.shape, adapted) == jax.tree.map(jnp.shape, state)
        # p' M^-1 p is what it was
        energies = [
            sum(
                jnp.sum(p**2 / m) for p, m in zip(*map(jax.tree.leaves, (s.momentum, s.precond)), strict=True)
            )
            for s in (state, adapted)
        ]
        np.testing.assert_allclose(*energies, rtol=1e-5)


def test_sgmcmc_diagnostics_of_the_temperature_are_centred_and_have_its_mean(x64):
    """(z - z_c) g / d has the mean T for any z_c, and least noise at the mean of z."""
    T, lam, mean = 0.1, 3.0, 5.0
    z = mean + np.sqrt(T / lam) * random.normal(random.key(0), (20_000, 10))
    gradient = lam * (z - mean)
    at = [jax.vmap(lambda z, g, c=c: configurational_temperature(z, c, g))(z, gradient) for c in (mean, 0.0)]
    for temperatures in at:
        assert_exact(z_scores(temperatures, T))
    sd = np.sqrt(T / lam)
    assert np.std(at[1]) / np.std(at[0]) == pytest.approx(
        np.sqrt(2 + (mean / sd) ** 2) / np.sqrt(2), rel=0.05
    )
    assert np.isinf(noise_ratio(1.0, jnp.ones(2), jnp.array(0.0)))
    low, high = temperature_interval(T, 1000)
    assert low < T < high


def test_sgmcmc_sghmc_from_sgd_is_sgd_with_momentum_at_temperature_0():
    """v' = mu v - lr g / n, q' = q + v', with v = h p."""
    lr, mu, n = 0.1, 0.9, 50
    algorithm = sghmc_from_sgd(lr, mu, n, mass="identity")
    states = walk(algorithm, random.key(0), 20, jnp.array(1.0), 1e-30, lambda k, z: n * z)
    q, v, path = 1.0, 0.0, []
    for _ in range(20):
        v = mu * v - lr * q
        q = q + v
        path.append(q)
    np.testing.assert_allclose(states.position, path, rtol=1e-4, atol=1e-6)
    ramped = sghmc_from_sgd(lr, mu, n, schedule=optax.linear_schedule(1.0, 0.5, 10))
    assert float(ramped.h(10)) == pytest.approx(algorithm.step_size / 2)
    assert ramped.friction == algorithm.friction


def decreasing_below_zero(count):
    return 1.0 - count / 50


E = ValueError
BAD = {
    "step": (lambda: sgld(0.0), E, "step_size must be positive and finite, got 0.0"),
    "negative step": (lambda: baoab(-1.0, 1.0), E, "step_size must be positive and finite, got -1.0"),
    "schedule": (lambda: sgld(decreasing_below_zero), E, r"step_size must be positive.*got -1.0 at count 100"),
    "temperature": (lambda: build(sgld(0.1), lambda k, z: z, -0.1), E, "temperature must be positive.*got -0.1"),
    "temperature schedule": (
        lambda: build(sgld(0.1), lambda k, z: z, decreasing_below_zero), E, "temperature must be at least 0.*count 100",
    ),
    "friction": (lambda: baoab(0.1, 0.0), E, "friction must be positive and finite, got 0.0"),
    "friction of sghmc": (lambda: sghmc(0.5, 2.0), E, r"friction \* step_size must be below 1 for sghmc, got 1 at"),
    "mass": (lambda: baoab(0.1, 1.0, mass="dense"), E, r"mass must be one of \('identity', .*got 'dense'"),
    "precond": (lambda: psgld(0.1, "dense"), E, "precond must be one of.*got 'dense'"),
    "thermal mass": (lambda: sgnht(0.1, 1.0, thermal_mass=-1.0), E, "thermal_mass must be positive.*got -1.0"),
    "course": (lambda: cyclical(sgld(0.1), 10, temperature="cosine"), E, r"one of \('step', 'linear'\), got 'cosine'"),
    "cycle of a schedule": (lambda: cyclical(sgld(polynomial_decay(1, 1, 1)), 10), E, "constant step_size"),
    "cycle of cycles": (lambda: cyclical(cyclical(sgld(0.1), 10), 10), E, "constant step_size"),
    "exploration": (lambda: cyclical(sgld(0.1), 10, exploration=1.0), E, r"exploration must lie in \[0, 1\), got 1.0"),
    "draws of linear": (
        lambda: cyclical(sgld(0.1), 10, temperature="linear", draws_per_cycle=2), E, "one draw a cycle.*=2",
    ),
    "draws per cycle": (lambda: cyclical(sgld(0.1), 10, draws_per_cycle=3), E, "from 1 to 2, the sampling.*got 3"),
    "gamma": (lambda: polynomial_decay(1.0, 1.0, 0.3), E, r"gamma must lie in \(0.5, 1\], got 0.3"),
    "a": (lambda: polynomial_decay(0.0, 1.0, 1.0), E, "a and b must be positive, got 0.0 and 1.0"),
    "momentum": (lambda: sghmc_from_sgd(0.1, 1.0, 10), E, r"momentum must lie in \[0, 1\), got 1.0"),
    "rows": (lambda: sghmc_from_sgd(0.1, 0.9, 0), E, "learning_rate and num_data must be positive, got 0.1 and 0"),
    "not stable": (lambda: stationary_variance(sgld(1.0), 2.5, 1.0), E, "h lam must be below 2, got 2.5"),
    "formula of a schedule": (lambda: stationary_variance(sgld(temperature_ramp(1, 2, 3)), 1.0, 1.0), E, "a schedule"),
    "formula of a noisy thermostat": (lambda: stationary_variance(sgnht(0.1, 1.0), 1.0, 1.0, 1.0), E, "sgnht has no"),
    "formula of cycles": (lambda: stationary_variance(cyclical(sgld(0.1), 10), 1.0, 1.0), E, "a schedule"),
}  # fmt: skip


@pytest.mark.parametrize(("do", "error", "words"), BAD.values(), ids=BAD)
def test_sgmcmc_bad_input_of_an_algorithm_says_what_to_do(do, error, words):
    with pytest.raises(error, match=words):
        do()


def test_sgmcmc_algorithms_are_dataclasses():
    assert isinstance(ALGORITHMS["baoab"], Baoab)
    assert ALGORITHMS["cyclical"].underdamped
    assert not ALGORITHMS["sgld"].underdamped
