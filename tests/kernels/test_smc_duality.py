"""The PaRIS statistic on the clouds of a conditional sweep has the smoothed mean, for every N and M.

    x* ~ p(x | y), clouds given x*:   E[sum_i W^i beta^i] = E[sum_t h_t | y]                       (1)

Exact references are given to one sweep each; a wrong sweep or a wrong backward draw is off at once.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc import (
    additive,
    conditional_sweep,
    of_path,
    paris,
    particle_gibbs,
    unconditional_sweep,
)
from tests.kernels.smc_models import (
    EVENTFUL,
    ORDER_TWO,
    GaussianCase,
    autoregression,
    with_wide_proposal,
)
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

CASE = autoregression((1.5, -0.5, 2.0, 0.3))
COUNT, KEY = 100_000, random.key(1)


def products(previous, current, t):
    """x_{t-1} x_t, which is the same in both directions, and an innovation, which is not."""
    return jnp.stack([previous * current, (current - 0.9 * previous) ** 2])


def exact(case: GaussianCase) -> np.ndarray:
    """E of `products`, summed over t, where x_{-1} = 0."""
    second = case.covariance + np.outer(case.mean, case.mean)
    squares, lagged = np.diag(second), np.diag(second, -1)
    return np.array([lagged.sum(), squares.sum() - 1.8 * lagged.sum() + 0.81 * squares[:-1].sum()])


class Bugs(NamedTuple):
    """Planted bugs, which are arguments: right and wrong are one program, compiled once and kept on disk.

    Attributes:
        swapped: the functional has its two states in the wrong places.
        always_accepts: the chain of "imh" moves to whatever is proposed.
    """

    swapped: bool = False
    always_accepts: bool = False


NO_BUG = Bugs()


def z_of_statistic(num, how, num_backward=2, *, case=CASE, count=COUNT, sweep=conditional_sweep, bugs=NO_BUG):
    """z of the statistic of one sweep."""
    accept = paris.accept

    def replica(key, bugs):
        def h(previous, current, t):
            right, swapped = products(previous, current, t), products(current, previous, t)
            return jnp.where(bugs.swapped, swapped, right)

        options = {"functional": additive(h), "paris": how, "num_backward": num_backward}
        key_draw, key_sweep = random.split(key)
        reference = (case.exact_draw(key_draw),) if sweep is conditional_sweep else ()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(paris, "accept", lambda *args: accept(*args) | bugs.always_accepts)
            return sweep(key_sweep, case.ssm, *reference, num, **options).statistic

    # one sweep each is little work: compiling it is what costs
    planted = jax.tree.map(jnp.asarray, bugs)
    return z_scores(replicas(replica, random.key(num), count, planted, optimise=False), exact(case))


def test_exact_answer():
    assert exact(CASE)[0] == pytest.approx(2.2391309, abs=5e-8)


NIGHTLY = pytest.mark.nightly
EVERY = [
    pytest.param(num, how, m, marks=() if num < 16 and m == 2 else NIGHTLY, id=f"N={num} {how} M={m}")
    for num in (2, 4, 16)
    for how, m in (("imh", 1), ("imh", 2), ("dense", 2))
]


@pytest.mark.parametrize(("num", "how", "num_backward"), EVERY)
def test_smc_duality(num, how, num_backward):
    assert_exact(z_of_statistic(num, how, num_backward))


@NIGHTLY
@pytest.mark.parametrize("how", ["imh", "dense"])
def test_smc_duality_where_the_model_depends_on_time_and_an_observation_is_missing(how):
    assert_exact(z_of_statistic(2, how, case=EVENTFUL))


@NIGHTLY
@pytest.mark.parametrize("how", ["imh", "dense"])
@pytest.mark.parametrize("num", [2, 4])
def test_smc_duality_with_a_proposal(num, how):
    """The ancestor is drawn with the density of the proposal, and weighed to be one of the backward kernel."""
    guided = CASE._replace(ssm=with_wide_proposal(CASE.ssm))
    assert_exact(z_of_statistic(num, how, case=guided))


def test_smc_duality_dense_with_many_particles_is_warned_of(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.warns(UserWarning, match=r'num_particles=5000 evaluates N\^2 = 2.5e\+07.*paris="imh"'):
        assert paris.choose_paris("dense", 5000) == "dense"


@NIGHTLY
def test_smc_duality_average_in_blocks_of_rows_is_the_average(monkeypatch):
    reference = CASE.exact_draw(random.key(0))

    def value(key):
        options = {"functional": additive(products), "paris": "dense"}
        return conditional_sweep(key, CASE.ssm, reference, 8, **options).statistic

    whole = jax.jit(value)(KEY)
    monkeypatch.setattr(paris, "_MAX_PAIRS", 24)
    np.testing.assert_allclose(jax.jit(lambda key: value(key))(KEY), whole, rtol=1e-6)


def test_smc_duality_path_statistic_is_the_functional_of_the_path_and_changes_no_draw():
    reference, functional = CASE.exact_draw(random.key(0)), additive(products)

    @jax.jit
    def both(key):
        plain = conditional_sweep(key, CASE.ssm, reference, 4)
        kernel = particle_gibbs(CASE.ssm, 4, functional=functional)
        _, info = kernel.step(key, kernel.init(key, reference))
        return plain, info.sweep

    plain, sweep = both(KEY)
    assert plain.statistic is None
    jax.tree.map(np.testing.assert_array_equal, sweep.path, plain.path)
    np.testing.assert_allclose(sweep.path_statistic, of_path(functional, plain.path), rtol=1e-6)
    x = np.asarray(CASE.vector(plain.path), float)
    lagged = np.append(0.0, x[:-1])
    np.testing.assert_allclose(
        sweep.path_statistic, [(x * lagged).sum(), ((x - 0.9 * lagged) ** 2).sum()], rtol=1e-5
    )


def test_smc_duality_of_an_impossible_sweep_is_the_reference():
    nowhere = CASE.ssm._replace(
        evaluate=lambda c, x, t: CASE.ssm.evaluate(c, x, t)._replace(log_likelihood=jnp.array(-jnp.inf))
    )
    reference, functional = CASE.exact_draw(random.key(0)), additive(products)
    sweep = jax.jit(lambda key: conditional_sweep(key, nowhere, reference, 4, functional=functional))(KEY)
    np.testing.assert_array_equal(sweep.statistic, of_path(functional, reference))


@NIGHTLY
def test_smc_duality_long_sums_are_compensated():
    """1e5 stages of 0.1 each, in float32: a plain sum is off by 1.7."""
    long = autoregression((0.0, 0.0, 0.0)).ssm._replace(length=100_000)
    long = long._replace(evaluate=lambda c, x, t: CASE.ssm.evaluate(c, x, jnp.minimum(t, 1)))
    options = {"functional": additive(lambda previous, current, t: jnp.float32(0.1))}
    for how in ("imh", "dense"):
        sweep = partial(unconditional_sweep, ssm=long, num_particles=2, paris=how, **options)
        value = jax.jit(lambda key, sweep=sweep: sweep(key).statistic)(KEY)
        assert float(value) == pytest.approx(10_000.1, abs=0.01)


def test_smc_duality_needs_order_one():
    with pytest.raises(ValueError, match=r"A functional needs a model of Markov order 1, got order 2"):
        unconditional_sweep(random.key(0), ORDER_TWO.ssm, 4, functional=additive(products))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"paris": "exact"}, r"paris must be one of \('auto', 'imh', 'dense'\), got 'exact'"),
        ({"num_backward": 0}, "num_backward must be a whole number of at least 1, got 0"),
        ({"num_backward": 1.5}, "num_backward must be a whole number of at least 1, got 1.5"),
    ],
)
def test_smc_duality_bad_input(bad, message):
    with pytest.raises(ValueError, match=message):
        unconditional_sweep(random.key(0), CASE.ssm, 4, functional=additive(products), **bad)


# Planted bugs


@pytest.mark.parametrize(("num", "how"), [(2, "imh"), pytest.param(4, "dense", marks=NIGHTLY)])
def test_smc_duality_planted_unconditional_sweep(num, how):
    assert_caught(z_of_statistic(num, how, sweep=unconditional_sweep, count=20_000))


@pytest.mark.parametrize("num", [2, pytest.param(4, marks=NIGHTLY)])
def test_smc_duality_planted_always_accepting(num):
    assert_caught(z_of_statistic(num, "imh", bugs=Bugs(always_accepts=True)))


@pytest.mark.parametrize("how", [pytest.param("imh", marks=NIGHTLY), "dense"])
def test_smc_duality_planted_swapped_arguments(how):
    assert_caught(z_of_statistic(2, how, bugs=Bugs(swapped=True)))
