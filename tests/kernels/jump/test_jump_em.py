"""EM by one gradient: it climbs, ends where the gradient is 0, and is EM of explicit integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import lax

from emberwalk.kernels.jump import (
    Expected,
    Parameters,
    counts_likelihood,
    em,
    em_step,
    expectations,
    exponentials,
    forward_backward,
    generator,
    label_log_emission,
    labels_likelihood,
    lag_grid,
    log_prior,
    path_statistics,
    simulate_batch,
    transition_matrices,
)
from emberwalk.kernels.jump.refined import _mean_exit_rate
from tests.kernels.jump.processes import exact_transitions, random_rates

pytestmark = pytest.mark.xdist_group("jump-em")  # what is fitted once serves all

RNG = np.random.default_rng(5)
Q = random_rates(RNG, 3)
TIMES = np.cumsum(np.append(0.0, RNG.choice([0.2, 0.5, 1.1], 14)))
CLEAN = simulate_batch(1, Q, TIMES, 8)
NOISY = simulate_batch(1, Q, TIMES, 8, label_noise=0.1)
SHAPE, RATE = 1.5, 0.7
GRID = lag_grid(TIMES)


def start(noise=0.05):
    q = np.random.default_rng(6).uniform(0.2, 3, (3, 3)) * (1 - np.eye(3))
    return Parameters(jnp.asarray(q), jnp.array([0.3, 0.3, 0.4]), jnp.asarray(noise, float))


def clean():
    return counts_likelihood(path_statistics(TIMES, CLEAN))


def noisy(log_likelihood=labels_likelihood):
    return log_likelihood(jnp.asarray(NOISY), GRID)


PATHS = {"clean": (clean, 0.0), "noisy": (noisy, 0.05)}


def log_posterior(log_likelihood, parameters):
    q, initial, rho = parameters
    E = jnp.where(jnp.eye(3, dtype=bool), 1 - rho, rho / 2)
    return log_likelihood(generator(q), E, initial) + log_prior(parameters, SHAPE, RATE)


@pytest.fixture(scope="module", params=PATHS)
def climbed(request):
    """400 steps: the log posterior before each, the last parameters, what was expected there."""
    make, noise = PATHS[request.param]
    with jax.enable_x64(True):
        log_likelihood = make()

        def step(parameters, _):
            value = log_posterior(log_likelihood, parameters)
            return em_step(log_likelihood, parameters, SHAPE, RATE)[0], value

        last, values = jax.jit(lambda p: lax.scan(step, p, length=400))(start(noise))
        slope = jax.grad(
            lambda log_q: log_posterior(log_likelihood, last._replace(rates=off_diagonal(log_q)))
        )
        return np.asarray(values), last, slope(jnp.log(last.rates + jnp.eye(3))), log_likelihood


def off_diagonal(log_q):
    return jnp.where(jnp.eye(3, dtype=bool), 0, jnp.exp(log_q))


def test_jump_em_never_falls_in_400_steps(climbed):
    values = climbed[0]
    assert np.diff(values).min() > -1e-11 * np.abs(values).max()
    assert values[-1] > values[0] + 1


def test_jump_em_ends_where_the_gradient_in_log_q_is_0(climbed):
    assert np.abs(climbed[2]).max() < 1e-6


def test_jump_em_expected_times_add_up(climbed):
    _, last, _, log_likelihood = climbed
    with jax.enable_x64(True):
        expected = expectations(log_likelihood, last)
        assert float(expected.dwell.sum()) == pytest.approx(8 * (TIMES[-1] - TIMES[0]), rel=1e-12)
        assert float(expected.starts.sum()) == pytest.approx(8, rel=1e-12)


def test_jump_em_label_noise_and_starts_are_at_their_modes(x64):
    """The other two updates, against the gradient of the log posterior in them."""
    log_likelihood = noisy()
    here = start()

    @jax.jit
    def slopes(p):
        of_rho = jax.grad(lambda rho: log_posterior(log_likelihood, p._replace(label_noise=rho)))(
            p.label_noise
        )

        def of_start(a):
            return log_posterior(log_likelihood, p._replace(initial=jax.nn.softmax(a)))

        return of_rho, jax.grad(of_start)(jnp.log(p.initial))

    fit = jax.jit(lambda p: em(log_likelihood, p, SHAPE, RATE, min_steps=600, max_steps=600))(here)
    of_rho, of_start = slopes(fit.parameters)
    assert abs(float(of_rho * fit.parameters.label_noise)) < 1e-6
    npt.assert_allclose(of_start, 0, atol=1e-6)


def integrals(q, lag, nodes=60):
    """I[i, j, k, l] = int_0^t P_ik(s) P_lj(t - s) ds, by Gauss and Legendre."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    before, after = (exact_transitions(q, lag * (1 + s * x) / 2) for s in (1, -1))
    return np.einsum("s,sik,slj->ijkl", w * lag / 2, before, after)


def explicit(q, pair_counts, lags):
    """N and R from expected pairs, each bridged by its integral."""
    N, R = np.zeros((3, 3)), np.zeros(3)
    for C, lag in zip(pair_counts, lags, strict=True):
        bridge = np.einsum("ij,ijkl->kl", C / exact_transitions(q, lag)[0], integrals(q, lag))
        N += q * bridge
        R += np.diag(bridge)
    return N, R


def pairs_of(name, parameters):
    if name == "clean":
        stats = path_statistics(TIMES, CLEAN)
        return stats.counts, stats.lags
    q, initial, rho = parameters
    P = transition_matrices(q, GRID.lags)
    index = np.broadcast_to(GRID.index, (8, 14))
    return forward_backward(label_log_emission(NOISY, rho, 3), P, index, initial).pair_counts, GRID.lags


@pytest.mark.parametrize("name", PATHS)
def test_jump_em_step_is_that_of_explicit_integrals(name, x64):
    make, noise = PATHS[name]
    here = start(noise)
    after, expected = em_step(make(), here, SHAPE, RATE)
    N, R = explicit(np.asarray(here.rates), *pairs_of(name, here))
    npt.assert_allclose(expected.jumps, N, rtol=1e-11, atol=1e-13)
    npt.assert_allclose(expected.dwell, R, rtol=1e-11)
    npt.assert_allclose(after.rates, (N + SHAPE) / (R[:, None] + RATE) * (1 - np.eye(3)), rtol=1e-11)


def test_jump_em_in_float32_expects_what_float64_does():
    here = start()
    found = expectations(noisy(), jax.tree.map(jnp.float32, here))
    with jax.enable_x64(True):
        exact = expectations(noisy(), start())
    npt.assert_allclose(found.jumps, exact.jumps, rtol=2e-4, atol=1e-4)
    npt.assert_allclose(found.dwell, exact.dwell, rtol=2e-4)
    assert float(found.wrong_labels) == pytest.approx(float(exact.wrong_labels), rel=1e-3)


def with_normalised_rows(stats):
    """Planted: P "made safe" inside the differentiated function."""

    def log_likelihood(Q, confusion, initial):
        P = exponentials(Q, stats.lags)
        P = P / P.sum(-1, keepdims=True)
        return jnp.sum(stats.counts * jnp.log(P))

    return log_likelihood


def with_rebuilt_diagonal(stats):
    """Planted: the diagonal of Q made again from its rates."""

    def log_likelihood(Q, confusion, initial):
        P = transition_matrices(Q, stats.lags)
        return jnp.sum(stats.counts * jnp.log(P))

    return log_likelihood


@pytest.mark.parametrize("wrong", [with_normalised_rows, with_rebuilt_diagonal])
def test_jump_em_planted_derivatives_of_another_function_lose_the_time(wrong, x64):
    stats = path_statistics(TIMES, CLEAN)
    found, right = (expectations(make(stats), start(0.0)) for make in (wrong, counts_likelihood))
    assert float(found.dwell.sum()) < 0.9 * float(right.dwell.sum())


def test_jump_em_makes_its_steps_and_stops():
    stats = path_statistics(TIMES, CLEAN)

    def run(**steps):
        return jax.jit(lambda p: em(counts_likelihood(stats), p, SHAPE, RATE, **steps))(start(0.0))

    few = run(min_steps=1, max_steps=2)
    assert int(few.num_steps) == 2
    assert not few.converged
    many = run(min_steps=5, max_steps=500)
    assert 5 < int(many.num_steps) < 500
    assert many.converged
    assert float(many.parameters.label_noise) == 0


def test_jump_scale_of_the_prior_counts_states_alike_and_stays_where_little_was_seen():
    """Exit rates 8 and 1, the slow state eight times as long: the change rate is below 2, the scale 4.5."""
    jumps, zeros = jnp.array([[0.0, 8e4], [8e4, 0.0]]), jnp.zeros(4)
    much = Expected(jumps, jnp.array([1e4, 8e4]), *zeros[:, None])
    assert float(_mean_exit_rate(much, jnp.asarray(1.78))) == pytest.approx(4.5, rel=1e-3)
    little = much._replace(jumps=1e-6 * jumps, dwell=1e-6 * much.dwell)
    assert float(_mean_exit_rate(little, jnp.asarray(1.78))) == pytest.approx(1.78, rel=0.1)
    nothing = much._replace(jumps=0 * jumps, dwell=0 * much.dwell)
    assert float(_mean_exit_rate(nothing, jnp.asarray(1.78))) == pytest.approx(1.78)
