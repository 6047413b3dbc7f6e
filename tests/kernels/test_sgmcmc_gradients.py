"""Gradients of few rows: their noise widens the law as the formulas say, and the rows of an epoch are a permutation.

    U = sum_i (z - y_i)^2 / 2 + z^2 / 2,   g = (N / b) sum_{i in B} (z - y_i) + z                 (1)
    lam = N + 1,   V = N^2 var(y) / b      with replacement

The noise of g does not depend on z, so that the exact formulas hold whatever its law.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from emberwalk.kernels.sgmcmc import (
    baoab,
    build,
    control_variates,
    epoch_indices,
    gradient_variance,
    leimkuhler_matthews,
    randint_indices,
    sghmc,
    sgld,
    stationary_variance,
)
from emberwalk.kernels.sgmcmc.gradients import _ROUNDS, walked
from tests.statistics import assert_caught, assert_exact, optimised, z_scores


def mean_gradient(y, rows, z):
    """g of equation (1)."""
    return len(y) / len(rows) * jnp.sum(z - y[rows]) + z


# T2


SMALL = np.random.default_rng(0).normal(size=60)
N, B = 1000, 10
DATA = np.random.default_rng(0).normal(size=N)
V = N**2 * DATA.var() / B
H_OVERDAMPED, H = 0.2 / (N + 1), 0.2 / np.sqrt(N + 1)
NOISY = {
    "sgld": sgld(H_OVERDAMPED),
    "leimkuhler_matthews": leimkuhler_matthews(H_OVERDAMPED),
    "sghmc": sghmc(H, 0.5 / H, mass="identity"),
    "baoab": baoab(H, 0.7 / H),
}


def squares(algorithm, temperature, gradient, num_chains=8000, num_steps=200):
    """(q - E q)^2 at the end of many chains from the mode."""
    mode = DATA.sum() / (N + 1)
    kernel = build(algorithm, gradient, temperature)

    def chain(key):
        state = kernel.init(key, jnp.asarray(mode))
        state, _ = lax.scan(lambda s, k: (kernel.step(k, s)[0], None), state, random.split(key, num_steps))
        return (state.position - mode) ** 2

    with optimised():
        return np.asarray(jax.jit(jax.vmap(chain))(random.split(random.key(0), num_chains)))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("name", NOISY)
def test_sgmcmc_gradient_noise_widens_the_law_as_the_formulas_say(name, temperature, x64):
    y = jnp.asarray(DATA)
    seen = squares(NOISY[name], temperature, lambda key, z: mean_gradient(y, randint_indices(key, N, B), z))
    exact = stationary_variance(NOISY[name], N + 1.0, temperature, V)
    assert_exact(z_scores(seen, exact))
    assert exact > 1.5 * stationary_variance(NOISY[name], N + 1.0, temperature)
    # the noise ratio is what is left of it as the step goes to 0
    factor = NOISY[name].noise_factor(NOISY[name].init(random.key(0), jnp.zeros(()), 1.0))
    ratio = float(factor) * V / temperature
    without = stationary_variance(NOISY[name], N + 1.0, temperature)
    assert (exact - without) * (N + 1) / temperature == pytest.approx(ratio, rel=0.12)


def test_sgmcmc_gradient_noise_is_estimated_without_bias(x64):
    y = jnp.asarray(DATA)

    def estimate(key):
        gradients = jax.vmap(lambda k: mean_gradient(y, randint_indices(k, N, B), 0.3))(random.split(key, 8))
        return gradient_variance(gradients)

    estimates = jax.jit(jax.vmap(estimate))(random.split(random.key(0), 20_000))
    assert_exact(z_scores(estimates, V))
    assert_caught(z_scores(np.asarray(estimates) * 7 / 8, V))  # a divisor of 8 in place of 7


def test_sgmcmc_gradient_noise_of_rows_drawn_once_has_the_correction_of_a_finite_population(x64):
    """V (N - b) / (N - 1) of a batch of an epoch, and none of a batch of all."""
    y = jnp.asarray(SMALL)

    def gradients(b):
        keys = random.split(random.key(0), 20_000)
        draw = jax.vmap(lambda key: mean_gradient(y, epoch_indices(key, 0, 60, b), 0.3))
        return np.asarray(jax.jit(draw)(keys))

    of_ten, of_all = gradients(10), gradients(60)
    with_replacement = 60**2 * SMALL.var() / 10
    squares = (of_ten - float(mean_gradient(y, jnp.arange(60), 0.3))) ** 2
    assert_exact(z_scores(squares, with_replacement * 50 / 59))
    assert_caught(z_scores(squares, with_replacement))
    np.testing.assert_allclose(of_all, mean_gradient(y, jnp.arange(60), 0.3), rtol=1e-12)


def test_sgmcmc_gradient_noise_planted_scale_left_out(x64):
    """Without N / b, or with its square, the mode is another."""
    y = jnp.asarray(DATA)
    for scale in (B / N, N / B):
        wrong = partial(
            lambda scale, key, z: scale * (mean_gradient(y, randint_indices(key, N, B), z) - z) + z, scale
        )
        seen = squares(NOISY["sgld"], 1.0, wrong, num_chains=2000)
        seen = np.nan_to_num(seen, nan=1e100, posinf=1e100)
        assert_caught(z_scores(seen, stationary_variance(NOISY["sgld"], N + 1.0, 1.0, V)))


# T3


def test_sgmcmc_epochs_are_permutations():
    positions = jnp.arange(300)
    round_keys = random.bits(random.key(0), (300, _ROUNDS), jnp.uint32)
    for half_bits in range(1, 6):
        sizes = [n for n in range(2, 301) if max(1, -(-(n - 1).bit_length() // 2)) == half_bits]
        keys = round_keys[: len(sizes)]

        def sent(key, n, half_bits=half_bits):
            return walked(key, jnp.minimum(positions, n - 1), n, half_bits)

        table = np.asarray(jax.jit(jax.vmap(sent))(keys, jnp.array(sizes)))
        for n, row in zip(sizes, table, strict=True):
            np.testing.assert_array_equal(np.sort(row[:n]), np.arange(n))


@pytest.mark.parametrize("num_rows", [1797, 100_000, 131_072])
def test_sgmcmc_epochs_of_many_rows_hold_each_once(num_rows):
    batch = 97
    steps = jnp.arange(num_rows // batch)
    rows = jax.jit(jax.vmap(lambda step: epoch_indices(random.key(3), step, num_rows, batch)))(steps)
    assert np.unique(rows).size == rows.size  # those of the remainder are left out
    again = jax.jit(lambda step: epoch_indices(random.key(3), step, num_rows, batch))(len(steps))
    assert np.any(np.asarray(again) != np.asarray(rows[0]))  # another epoch, another order


def test_sgmcmc_epochs_end_with_the_exact_variance(x64):
    n, b, T, h = 60, 10, 0.1, 0.002
    epoch, a, y = n // b, 1 - h * (n + 1), jnp.asarray(SMALL)
    noise = n**2 * SMALL.var() / b
    weights = a ** np.arange(epoch - 1, -1, -1)
    without = noise * (n - b) / (n - 1)
    of_rows = h**2 * without * epoch / (epoch - 1) * ((weights - weights.mean()) ** 2).sum()
    exact = (2 * h * T * (a ** (2 * np.arange(epoch))).sum() + of_rows) / (1 - a ** (2 * epoch))
    assert exact == pytest.approx(0.00198536, abs=5e-9)
    assert stationary_variance(sgld(h), n + 1.0, T, noise) == pytest.approx(0.00680796, abs=5e-9)
    assert stationary_variance(sgld(h), n + 1.0, T, without) == pytest.approx(0.00603577, abs=5e-9)

    def squares_of(rows_of, num_chains):
        algorithm, mode = sgld(h), SMALL.sum() / (n + 1)

        def chain(key):
            def step(state, t):
                gradient = mean_gradient(y, rows_of(key, t), state.position)
                return algorithm.update(random.fold_in(key, t), state, gradient, T)[0], None

            state, _ = lax.scan(step, algorithm.init(key, jnp.asarray(mode), T), jnp.arange(20 * epoch))
            return (state.position - mode) ** 2

        with optimised():
            return np.asarray(jax.jit(jax.vmap(chain))(random.split(random.key(0), num_chains)))

    seen = squares_of(lambda key, t: epoch_indices(random.fold_in(key, 10**6), t, n, b), 20_000)
    assert_exact(z_scores(seen, exact))
    replaced = squares_of(
        lambda key, t: randint_indices(random.fold_in(random.fold_in(key, 10**6), t), n, b), 20_000
    )
    assert_exact(z_scores(replaced, 0.00680796))
    assert_caught(z_scores(replaced, exact))


# T5 and control variates


FEW = np.array([1.0, 2.0, 6.0, -0.5])


def curved(rows, z):
    """A gradient that is not linear in z, on rows of `FEW`."""
    y = jnp.asarray(FEW)
    return len(FEW) / len(rows) * jnp.sum(jnp.tanh(z - y[rows]), axis=0) + z


def test_sgmcmc_control_variates_have_the_mean_of_the_full_gradient_and_no_noise_at_their_centre(x64):
    every_batch = jnp.array(list(product(range(4), repeat=2)))
    centre, z, rows = jnp.asarray(0.7), jnp.asarray(1.9), jnp.arange(4)
    gradient = control_variates(curved, centre, curved(rows, centre))
    for fn in (curved, gradient):
        mean = jnp.mean(jax.vmap(lambda batch, fn=fn: fn(batch, z))(every_batch))
        np.testing.assert_allclose(mean, curved(rows, z), rtol=1e-12)
    at_centre = jax.vmap(lambda batch: gradient(batch, centre))(every_batch)
    np.testing.assert_allclose(at_centre, curved(rows, centre), rtol=1e-12)


def test_sgmcmc_control_variates_are_those_of_blackjax(x64):
    centre, rows = jnp.asarray(0.7), jnp.arange(4)
    full = curved(rows, centre)
    from blackjax.sgmcmc.gradients import control_variates as theirs

    estimator = theirs(lambda position, batch: -curved(batch, position), centre, rows)
    for batch in (jnp.array([0, 3]), jnp.array([1, 1])):
        ours = control_variates(curved, centre, full)(batch, jnp.asarray(1.9))
        np.testing.assert_allclose(-estimator(jnp.asarray(1.9), batch), ours, rtol=1e-12)


def test_sgmcmc_invariance_of_the_path_under_a_change_of_units(x64):
    """(U, T, h) -> (c U, c T, h / c) is the same path of SGLD."""
    paths = []
    for c in (1.0, 7.0):
        kernel = build(sgld(0.1 / c), lambda key, z, c=c: c * (z + z**3), temperature=0.3 * c)
        state = kernel.init(random.key(0), jnp.asarray(0.5))
        _, path = lax.scan(
            lambda s, k, kernel=kernel: (kernel.step(k, s)[0],) * 2, state, random.split(random.key(1), 50)
        )
        paths.append(path.position)
    np.testing.assert_allclose(paths[1], paths[0], rtol=1e-12)
