"""T2, T5 and T6 of SG-MCMC at a model: noise as measured, invariances of the path, control variates.

mean model: lam = N + 1,  V = N^2 var(y) / b,  r = h V / (2 T)                                 (1)
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC, init_to_value

from emberwalk.infer import SGMCMC, control_variates, diagnose
from emberwalk.infer.sgmcmc.bound import bind
from emberwalk.infer.sgmcmc.minibatch import DeviceRows, blocks, over_all_rows
from emberwalk.infer.sgmcmc.target import Anchor, Target
from emberwalk.infer.sgmcmc.tempering import class_weights, only
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews, sgld
from tests.infer.chains import chain_means
from tests.infer.sgmcmc_models import (
    as_jax,
    logistic_data,
    logistic_mode,
    logistic_model,
    mean_data,
    mean_model,
)
from tests.statistics import assert_exact, optimised, z_scores

# Noise as a run measures it

N, B, T = 1000, 10, 0.1
LAM = N + 1
V = N**2 * mean_data(N).var() / B


@pytest.mark.parametrize(
    "algorithm", [sgld(0.2 / LAM), baoab((0.04 / LAM) ** 0.5, LAM**0.5)], ids=["sgld", "baoab"]
)
def test_sgmcmc_gradient_noise_of_a_run_is_that_of_its_batches(algorithm, x64):
    """V of the probes, and the ratio that follows, in 64 chains with probes at every third draw."""
    (y,) = as_jax(mean_data(N))
    kernel = SGMCMC(
        mean_model, algorithm, temperature=T, noise_every=3, init_strategy=init_to_value(values={"m": 0.0})
    )

    def seen(state):
        return jnp.stack([state.noise.variance["m"], state.noise_ratio[:, 0]], -1)

    means = chain_means(kernel, seen, 64, 20, 400, y)
    factor = float(
        jnp.asarray(algorithm.noise_factor(algorithm.init(random.key(0), {"m": jnp.zeros(())}, T))["m"])
    )
    assert_exact(z_scores(means, [V, factor * V / T]))


def test_sgmcmc_gradient_noise_widens_a_run_as_its_ratio_says(x64):
    """Var m of SGLD: (T + h V / 2) / (lam (1 - h lam / 2))."""
    (y,) = as_jax(mean_data(N))
    h = 0.2 / LAM
    kernel = SGMCMC(mean_model, sgld(h), temperature=T, noise_every=10_000)
    mode = float(y.sum() / LAM)
    means = chain_means(kernel, lambda state: (state.z["m"] - mode)[:, None] ** 2, 64, 100, 1000, y)
    assert_exact(z_scores(means, (T + h * V / 2) / (LAM * (1 - h * LAM / 2))))


# Invariances

FEW = mean_data(4) + 1


def target_of(rows, tempering="posterior"):
    (y,) = as_jax(FEW)
    classes = bind(lopsided, (y,), {}).target.classes
    return Target(lopsided, classes, rows, tempering, (y,), {})


def lopsided(y, b=2):
    """A gradient that is linear in nothing."""
    import numpyro
    import numpyro.distributions as dist

    s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=b):
        numpyro.sample("y", dist.StudentT(3.0, 0.0, s), obs=numpyro.subsample(y, event_dim=0))


TWO_OF_FOUR = DeviceRows({"rows": (4, 2)}, "replacement")
Z = {"s": jnp.asarray(0.4)}


def run_of(kernel, *args, draws=20):
    state = kernel.init(random.key(1), 0, None, model_args=args, model_kwargs={})

    def step(state, _):
        state = kernel.sample(state, args, {})
        return state, state.z

    return jax.jit(lambda state: jax.lax.scan(step, state, None, draws))(state)[1]


def test_sgmcmc_invariance_at_temperature_one_both_temperings_are_one_path():
    (y,) = as_jax(FEW)
    start = init_to_value(values={"s": 1.0})
    paths = [
        run_of(SGMCMC(lopsided, sgld(0.01), tempering=tempering, init_strategy=start), y)["s"]
        for tempering in ("posterior", "likelihood")
    ]
    np.testing.assert_array_equal(*paths)


def test_sgmcmc_invariance_full_batch_is_the_plate_of_all_rows():
    """`subsample_size = N`, and no subsampling, are one path and have no noise."""
    (y,) = as_jax(mean_data(40))
    start = init_to_value(values={"m": 0.0})
    kernels = [SGMCMC(mean_model, sgld(0.001), init_strategy=start) for _ in range(2)]
    whole, plain = run_of(kernels[0], y, 40)["m"], run_of(kernels[1], y, None)["m"]
    np.testing.assert_array_equal(whole, plain)


def test_sgmcmc_invariance_mean_over_all_batches_is_the_full_gradient(x64):
    """N = 4, b = 2, with replacement, to 1e-12; control variates have no noise at their centre."""
    target, weights = target_of(TWO_OF_FOUR), class_weights("posterior", 0.3)
    z, centre = ({"s": jnp.asarray(value)} for value in (0.4, -0.2))
    full = over_all_rows(TWO_OF_FOUR, lambda batch: target.derivatives(z, weights, batch)[0])["s"]
    anchor = target.anchor_at(centre)
    tuples = [{"rows": jnp.array(pair)} for pair in itertools.product(range(4), repeat=2)]
    for at in (None, anchor):
        gradients = [target.estimate(z, batch, jnp.asarray(0.3), at).gradient["s"] for batch in tuples]
        np.testing.assert_allclose(np.mean(gradients), full, rtol=1e-12)
    at_centre = over_all_rows(TWO_OF_FOUR, lambda batch: target.derivatives(centre, weights, batch)[0])["s"]
    for batch in tuples:
        gradient = target.estimate(centre, batch, jnp.asarray(0.3), anchor).gradient["s"]
        np.testing.assert_allclose(gradient, at_centre, rtol=1e-12)


def test_sgmcmc_planted_prior_counted_twice(x64):
    """With the prior in the full gradient at the centre too, the mean is off."""
    target, weights = target_of(TWO_OF_FOUR), class_weights("posterior", 0.3)
    z = {"s": jnp.asarray(0.4)}
    full = over_all_rows(TWO_OF_FOUR, lambda batch: target.derivatives(z, weights, batch)[0])["s"]
    wrong = Anchor(z, over_all_rows(TWO_OF_FOUR, lambda batch: target.derivatives(z, weights, batch)[0]))
    gradient = target.estimate(z, {"rows": jnp.array([0, 1])}, jnp.asarray(0.3), wrong).gradient["s"]
    assert abs(float(gradient - full)) > 0.01


def test_sgmcmc_invariance_blocks_of_rows_are_one_pass(x64):
    """N = 10 in blocks of 4, and in equal ones, is all rows at once; each row is in one block."""
    (y,) = as_jax(mean_data(10))
    rows = DeviceRows({"rows": (10, 4)}, "replacement")
    target = bind(mean_model, (y,), {"b": 4}).target._replace(rows=rows)
    z, weights = {"m": jnp.asarray(0.7)}, only("likelihood")
    exact = 10 * 0.7 - float(y.sum())
    np.testing.assert_allclose(target.anchor_at(z).gradient["m"], exact, rtol=1e-12)
    parts = [
        (length / 10)
        * target.derivatives(z, weights, {"rows": start + k * length + jnp.arange(length)})[0]["m"]
        for start, length, count in blocks(10, 4)
        for k in range(count)
    ]
    np.testing.assert_allclose(sum(parts), exact, rtol=1e-12)
    for num_rows in (1, 7, 10, 8192, 8193, 100_003, 4_000_000):
        covered = [(s, length * count) for s, length, count in blocks(num_rows)]
        assert sum(size for _, size in covered) == num_rows
        assert [s for s, _ in covered] == np.cumsum([0, *(size for _, size in covered)])[:-1].tolist()
        assert all(0 < length <= 8192 for _, length, _ in blocks(num_rows))


# Control variates, N = 4000, d = 5

ROWS, COLUMNS, WARMUP = 4000, 5, 400


@pytest.fixture(scope="module")
def logistic():
    X, y = logistic_data(ROWS, COLUMNS)
    mode, hessian = logistic_mode(X, y)
    return X, y, mode, np.sqrt(np.diag(np.linalg.inv(hessian))), 0.3 / np.linalg.eigvalsh(hessian).max()


# Posterior sds by NUTS in float64, random.key(7): 4 chains of 500 + 10,000 draws; MCSEs by arviz-stats.
NUTS_SD = np.array([0.03721635, 0.04376942, 0.03709588, 0.03869144, 0.03718226])
NUTS_SD_MCSE = np.array([0.00017783, 0.00020166, 0.00017873, 0.00018664, 0.00017839])


@pytest.fixture(scope="module")
def controlled(logistic):
    """8 chains of 10,000 draws from zeros, with the centre that their warm-up found."""
    X, y, _, _, h = logistic
    kernel = SGMCMC(
        logistic_model,
        leimkuhler_matthews(h),
        gradient=control_variates(),
        init_strategy=init_to_value(values={"beta": jnp.zeros(COLUMNS)}),
    )
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=10_000,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
    )
    with optimised():
        mcmc.run(random.key(0), *as_jax(X, y))
    return mcmc


def test_sgmcmc_control_variates_find_their_centre_in_warmup(controlled, logistic):
    """Within half a posterior sd of the mode, every chain and coordinate."""
    _, _, mode, sd, _ = logistic
    centres = np.asarray(controlled.last_state.anchor.centre["beta"], float)
    assert np.abs((centres - mode) / sd).max() < 0.5
    assert diagnose(controlled) == []


def test_sgmcmc_control_variates_have_the_width_of_the_posterior(controlled):
    """sd against NUTS: within 4.5 z of both errors, and 1 % for a scheme that is exact on Gaussians alone."""
    draws = np.asarray(controlled.get_samples(group_by_chain=True)["beta"], float)
    sds = np.sqrt(((draws - draws.mean((0, 1))) ** 2).mean(1))
    error = np.hypot(sds.std(0, ddof=1) / np.sqrt(8), NUTS_SD_MCSE)
    off = np.abs(sds.mean(0) - NUTS_SD)
    assert (off < 4.5 * error + 0.01 * NUTS_SD).all(), off / error


def test_sgmcmc_control_variates_warn_of_a_centre_far_away(logistic):
    X, y, mode, sd, h = logistic
    kernel = SGMCMC(
        logistic_model,
        leimkuhler_matthews(h),
        gradient=control_variates(center={"beta": mode + 9 * sd}),
        init_strategy=init_to_value(values={"beta": mode}),
    )
    mcmc = MCMC(kernel, num_warmup=0, num_samples=500, num_chains=1, progress_bar=False)
    mcmc.run(random.key(0), *as_jax(X, y))
    assert any("posterior sds from the centre of the control variates" in s for s in kernel.warnings(mcmc))
