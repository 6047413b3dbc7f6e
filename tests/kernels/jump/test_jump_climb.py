"""A climb by gradients alone ends where Newton's steps do, with the same skewed density, in any unit of its latents."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import climb as module
from emberwalk.kernels.jump import laplace, newton
from emberwalk.kernels.jump.climb import climb

SHAPE = jnp.array([1.0, 3.0, 30.0, 300.0])


def log_gammas(t):
    """Logarithms of independent Gamma variables: exact for both."""
    return (SHAPE * t - jnp.exp(t)).sum()


def coupled(t):
    """No mode that is known: two rates through their sum, as lags that are long show them."""
    q = jnp.exp(t)
    return log_gammas(t) - 40 * (jnp.log(q[0] + q[1]) - 1.5) ** 2 - 0.3 * (t[2] - t[3] / 2) ** 2


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("log_density", [log_gammas, coupled])
def test_jump_climb_ends_where_newton_does(log_density, unit):
    found = jax.jit(lambda u: climb(lambda u: log_density(u * unit), u))(jnp.zeros(4))
    mode = newton(log_density, jnp.zeros(4), tolerance=1e-5)
    exact = laplace(log_density, mode, nested=True)
    assert found.converged
    assert found.usable
    sd = np.sqrt(np.diagonal(exact.cov))
    assert np.abs((found.fit.mode * unit - exact.mode) / sd).max() < 0.01
    curvature = np.linalg.inv(np.asarray(mode.precision, np.float64))
    npt.assert_allclose(found.half @ found.half.T * unit**2, curvature, rtol=0.03, atol=0.01 * sd.min() ** 2)
    # sd of each latent, and by how much its mean is off its mode
    npt.assert_allclose(unit * found.fit.sd, exact.sd, rtol=0.03)
    npt.assert_allclose((unit * found.fit.mean - exact.mode) / sd, (exact.mean - exact.mode) / sd, atol=0.03)



def test_jump_climb_has_the_shapes_of_gamma_variables():
    fit = climb(log_gammas, jnp.zeros(4)).fit
    npt.assert_allclose(fit.mode, np.log(SHAPE), atol=2e-3)
    npt.assert_allclose(fit.alpha[:2], SHAPE[:2], rtol=0.05)
    # a skewness of .06 sd is at the edge of what single precision tells
    npt.assert_allclose(fit.alpha[2:] ** -0.5, np.asarray(SHAPE[2:]) ** -0.5, atol=0.02)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_jump_climb_is_the_same_however_many_gradients_at_once(batch_size):
    one = climb(coupled, jnp.zeros(4), batch_size=batch_size)
    npt.assert_allclose(one.fit.mode, climb(coupled, jnp.zeros(4)).fit.mode, atol=1e-3)


def test_jump_climb_begins_at_the_second_start_where_the_first_has_no_density():
    def log_density(t):
        return jnp.where(t[0] > -1, log_gammas(t), jnp.nan)

    first = climb(log_density, jnp.full(4, -2.0), second_start=jnp.zeros(4))
    assert first.fell_back
    assert first.converged
    assert not climb(log_density, jnp.zeros(4)).fell_back
    npt.assert_allclose(first.fit.mode, np.log(SHAPE), atol=2e-3)


def test_jump_climb_says_that_there_is_no_density():
    found = climb(lambda t: jnp.nan * t.sum(), jnp.zeros(2), second_start=jnp.ones(2))
    assert not found.usable
    assert not found.converged
    assert int(found.num_steps) == -1


def test_jump_climb_halves_steps_that_lead_down():
    """log cosh: Newton's step from 3 overshoots beyond -100."""
    found = climb(lambda t: -10 * jnp.logaddexp(t[0], -t[0]), jnp.array([3.0]))
    assert found.converged
    assert abs(float(found.fit.mode[0])) < 0.05


def test_jump_climb_that_is_stuck_says_so():
    """Uphill to where there is no density."""
    found = climb(lambda t: jnp.where(t[0] < 1, 100 * t[0], jnp.nan), jnp.zeros(1), max_steps=60)
    assert not found.converged
    assert 0.5 < float(found.fit.mode[0]) < 1


def test_jump_climb_does_not_begin_where_the_slope_is_not_finite():
    found = climb(lambda t: -jnp.sqrt(jnp.abs(t)).sum() - (t**2).sum(), jnp.zeros(2), second_start=jnp.ones(2))
    assert found.fell_back


def test_jump_climb_leaves_a_saddle():
    """Curved upwards along t_1 at the start: Newton's own step would lead to the saddle."""

    def log_density(t):
        return -(t[0] ** 2) / 2 - (t[1] ** 2 - 4) ** 2 / 8

    found = climb(log_density, jnp.array([1.0, 0.1]))
    assert found.converged
    npt.assert_allclose(found.fit.mode, [0, 2], atol=0.02)


def test_jump_climb_without_skewness_is_a_normal():
    fit = climb(coupled, jnp.zeros(4), skew=False).fit
    assert fit.normal.all()


def test_jump_climb_does_not_say_converged_after_too_few_steps():
    found = climb(log_gammas, jnp.full(4, -8.0), max_steps=1)
    assert not found.converged


def test_jump_climb_holds_the_density_once():
    """A program with the density at several places takes several times as long to compile."""
    calls = []

    def log_density(t):
        calls.append(1)
        return log_gammas(t)

    jax.jit(lambda u: climb(log_density, u)).lower(jnp.zeros(4))
    assert len(calls) == 1
    # planted: looked at once more
    jax.jit(lambda u: (climb(log_density, u), log_density(u))).lower(jnp.zeros(4))
    assert len(calls) > 2


# What a reader would get wrong.
def test_jump_climb_planted_step_too_long_is_caught(monkeypatch):
    """Differences over 2 sd: another curvature."""
    exact = climb(log_gammas, jnp.zeros(4)).fit
    monkeypatch.setattr(module, "_STEP", 2.0)
    wrong = climb(log_gammas, jnp.zeros(4)).fit
    assert abs(float(wrong.sd[0] / exact.sd[0]) - 1) > 0.1


def test_jump_climb_planted_slopes_of_the_wrong_ridge_are_caught(monkeypatch):
    """Along the axes instead: skewness has another size, and for correlated rates another sign."""

    def of_axes(ridges, seen):
        return jnp.stack([jnp.diagonal(seen.behind), seen.gradient, jnp.diagonal(seen.ahead)])

    monkeypatch.setattr(module, "_slopes", of_axes)
    wrong = climb(coupled, jnp.zeros(4)).fit
    exact = laplace(coupled, newton(coupled, jnp.zeros(4), tolerance=1e-5), nested=True)
    sd = np.sqrt(np.diagonal(exact.cov))
    assert np.abs((wrong.mean - wrong.mode) / sd - (exact.mean - exact.mode) / sd).max() > 0.05


def test_jump_climb_tells_of_each_step_and_what_it_promises():
    told = []
    found = climb(coupled, jnp.zeros(4), tell=lambda *step: told.append(step))
    jax.effects_barrier()
    names, steps, nats = zip(*sorted(told, key=lambda step: int(step[1])), strict=True)
    assert set(names) == {"Newton"}
    assert [int(step) for step in steps] == list(range(int(found.num_steps) + 1))
    assert float(nats[0]) > 1e-3
    assert max(float(x) for x in nats[-2:]) < 1e-3  # two small ones, and it ends
