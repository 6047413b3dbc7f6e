"""Tables of P against scipy's expm: values, gradients, lag 0, Q = 0, long lags, and lags that are one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from scipy.linalg import expm

from emberwalk.kernels.jump import exponentials, lag_grid, num_clipped_lags, transition_matrices
from emberwalk.kernels.jump.transition import _uniformise, log_transitions
from tests.kernels.jump.processes import (
    ALANINE,
    exact_transitions,
    full_generator,
    metastable,
    random_rates,
    ratchet,
)


@pytest.mark.parametrize("small", [1e-3, 1e-24])
def test_transition_logarithms_have_second_derivatives_however_small_p_is(small):
    """log (small e^t) = log small + t; and at P = 0, as at lag 0, all are 0: by JAX's own rules they are NaN."""

    def log_p(t):
        return log_transitions(jnp.stack([jnp.float32(small) * jnp.exp(t), 0 * t]))

    value, first, second = log_p(0.0), jax.jacfwd(log_p)(0.0), jax.jacfwd(jax.jacrev(log_p))(0.0)
    npt.assert_allclose(value, np.log([small, 1e-30]), rtol=1e-6)
    npt.assert_allclose(first, [1, 0], atol=1e-6)
    npt.assert_allclose(second, [0, 0], atol=1e-6)
    plain = jax.hessian(lambda t: jnp.log(jnp.maximum(jnp.float32(1e-24) * jnp.exp(t), 1e-30)))(0.0)
    assert not np.isfinite(plain)


PROCESSES = {"ratchet": ratchet(), "alanine": ALANINE, "metastable": metastable(1e-4)}
# Lam t, and the largest error that float32 may have there
FLOAT32_ERRORS = {34.0: 6e-7, 370.0: 1.5e-5, 1e4: 1.2e-4}


def lag_at(q, lam_t):
    """Just below: at the cap rounding decides."""
    return 0.9999 * lam_t / (1.02 * q.sum(1).max())


uniformise = jax.jit(lambda q, lags: transition_matrices(q, lags, method="uniformisation"))
taylor = jax.jit(lambda q, lags: transition_matrices(q, lags, method="taylor"))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("lam_t", FLOAT32_ERRORS)
def test_transition_by_uniformisation_in_float32_is_expm(lam_t, name):
    q = np.float32(PROCESSES[name]).astype(np.float64)
    lags = np.float32([0.0, lag_at(q, lam_t), lag_at(q, lam_t) / 3, lag_at(q, lam_t) / 50, 1e-4])
    found = uniformise(jnp.float32(q), lags)
    assert np.abs(found - exact_transitions(q, lags.astype(np.float64))).max() < FLOAT32_ERRORS[lam_t]
    assert (found >= 0).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_transition_by_taylor_in_float32_is_expm(name):
    q = np.float32(PROCESSES[name]).astype(np.float64)
    lags = np.float32([lag_at(q, x) for x in (0.05, 0.9, 1.1, 3.0, 34.0, 370.0, 1e4)])
    errors = np.abs(taylor(jnp.float32(q), lags) - exact_transitions(q, lags.astype(np.float64))).max((1, 2))
    assert errors[:5].max() < 2.1e-5
    # 14 squarings of what is slower than all else by 1e4: what its rows lose, P loses as a whole
    assert errors[5:].max() < (2.1e-5 if name == "ratchet" else 1e-3)


def test_transition_of_a_process_that_is_seen_often_keeps_the_digits_of_its_log_likelihood():
    """5000 ratchet paths of 100 points: 495,000 transitions, in float32, by Taylor's series of order 10."""
    q = np.float32(ratchet()).astype(np.float64)
    lag = np.float32(2.5 / 99)
    exact = exact_transitions(q, float(lag))[0]
    expected_counts = 495_000 * np.full(6, 1 / 6)[:, None] * exact
    errors = np.log(np.asarray(taylor(jnp.float32(q), lag[None])[0], np.float64)) - np.log(exact)
    assert abs(np.sum(expected_counts * errors)) < 0.05
    assert np.abs(errors[expected_counts > 1]).max() < 1e-6


def by_expm(Q, lags):
    return jax.lax.map(lambda t: jax.scipy.linalg.expm(Q * t), lags)


def pulled(table):
    """The gradient in all of Q of a weighted sum of P, and the curvature of that sum along a direction."""

    @jax.jit
    def derivatives(Q, direction, lags, weights):
        gradient = jax.grad(lambda Q: jnp.sum(weights * table(Q, lags)))
        slope, change = jax.jvp(gradient, (Q,), (direction,))
        return slope, jnp.sum(change * direction)

    return derivatives


derivatives, exact_derivatives = pulled(exponentials), pulled(by_expm)


@pytest.mark.parametrize("longest", [20.0, 3e4])
@pytest.mark.parametrize("name", ["ratchet", "alanine"])
def test_transition_in_float64_is_expm_with_its_derivatives(name, longest, x64):
    q = PROCESSES[name]
    lags = longest * np.array([1e-4, 0.03, 1.0]) / (1.02 * q.sum(1).max())
    rng = np.random.default_rng(0)
    weights, direction = rng.normal(size=(3, 6, 6)), full_generator(random_rates(rng, 6))
    rounding = 5e-15 if longest < 21 else 1e-15 * longest
    npt.assert_allclose(uniformise(q, lags), exact_transitions(q, lags), rtol=0, atol=rounding)
    arguments = (jnp.asarray(full_generator(q)), direction, lags, weights)
    for found, exact in zip(derivatives(*arguments), exact_derivatives(*arguments), strict=True):
        npt.assert_allclose(found, exact, rtol=1e-9, atol=1e-12 * longest * np.abs(exact).max())


def test_transition_is_a_function_of_all_entries_of_q(x64):
    """Rows that do not sum to 0: the derivative that EM takes."""
    Q = full_generator(random_rates(np.random.default_rng(4), 4)) + np.diag([0.3, -0.2, 0.1, 0.0])
    lags = np.array([0.1, 1.0, 7.0])
    for method in ("uniformisation", "taylor"):
        tolerance = 1e-12 if method == "uniformisation" else 1e-4
        found = exponentials(jnp.asarray(Q), lags, method=method)
        npt.assert_allclose(found, [expm(Q * t) for t in lags], rtol=tolerance)


METHODS = {"uniformisation": uniformise, "taylor": taylor}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_transition_at_lag_0_and_at_rate_0_is_the_identity_with_a_finite_gradient(method, double):
    with jax.enable_x64(double):
        table, lags = METHODS[method], jnp.array([0.0, 0.0, 1.0])
        none, some = jnp.zeros((3, 3)), jnp.asarray(random_rates(np.random.default_rng(0), 3), float)
        rounding = 1e-15 if double else 1e-7
        npt.assert_allclose(table(none, lags), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=rounding)
        npt.assert_array_equal(table(some, lags)[:2], np.broadcast_to(np.eye(3), (2, 3, 3)))
        npt.assert_array_equal(table(some, jnp.zeros(3)), np.broadcast_to(np.eye(3), (3, 3, 3)))
        slope = jax.grad(lambda q: jnp.sum(table(q, lags)[:, 0, 1]))(none)
        npt.assert_allclose(slope[0], [0, 1, 0], atol=1e-5)  # dP_01 / dq_01 = t
        assert jnp.isfinite(jax.grad(lambda q: jnp.sum(table(q, lags) ** 2))(some)).all()
        at_zero = jax.jacobian(lambda t: table(some, t[None]))(jnp.zeros(()))[0]
        npt.assert_allclose(at_zero, full_generator(np.asarray(some, np.float64)), rtol=1e-5)


def test_transition_of_many_and_of_few_lags_agree():
    q = jnp.asarray(ratchet(), jnp.float32)
    lags = jnp.geomspace(0.01, 10, 4)
    npt.assert_allclose(
        transition_matrices(q, lags), transition_matrices(q, jnp.append(lags, 3.0))[:4], atol=1e-5
    )


def test_transition_batches_are_one_by_one(x64):
    q = jnp.stack([jnp.asarray(random_rates(np.random.default_rng(s), 3)) for s in range(4)])
    lags = jnp.geomspace(0.01, 100, 7)
    batched = transition_matrices(q.reshape(2, 2, 3, 3), lags)
    assert batched.shape == (2, 2, 7, 3, 3)
    npt.assert_allclose(batched[1, 0], transition_matrices(q[2], lags), atol=1e-12)


def test_transition_beyond_the_cap_is_shortened_and_counted():
    q, lags = jnp.asarray(ratchet(), jnp.float32), jnp.array([1.0, 1e3, 1e5, 1e9])
    assert int(num_clipped_lags(q, lags)) == 2
    table = transition_matrices(q, lags)
    assert jnp.isfinite(table).all()
    npt.assert_allclose(table[2], table[3], atol=1e-6)
    npt.assert_allclose(table[3][0], exact_transitions(ratchet(), 100.0)[0][0], atol=2e-4)


def statically_squared(q, lags, squarings):
    """Planted: the same number of squarings for every lag, as a fixed loop has them."""
    scaled = full_generator(q)[None] * (lags / 2**squarings)[:, None, None]
    scaled = jnp.asarray(scaled, jnp.float32)
    eye = jnp.eye(len(q), dtype=jnp.float32)
    P = eye
    for k in range(10, 0, -1):
        P = eye + scaled @ P / k
    for _ in range(squarings):
        P = P @ P
    return P


def test_transition_planted_static_squarings_are_caught():
    """14 squarings of what needs none: log-likelihoods of 495,000 transitions are off by nats, not by .05."""
    q = np.float32(ratchet()).astype(np.float64)
    lag = np.float32([2.5 / 99])
    exact = exact_transitions(q, float(lag[0]))[0]
    errors = np.log(np.asarray(statically_squared(q, lag, 14)[0], np.float64)) - np.log(exact)
    assert np.abs(495_000 / 6 * exact * errors).sum() > 1.0
    assert not np.abs(errors).max() < 1e-6


def test_transition_planted_no_squarings_are_caught():
    q = ratchet()
    found = statically_squared(q, np.float32([lag_at(q, 34.0)]), 0)
    assert not np.abs(found[0] - exact_transitions(q, lag_at(q, 34.0))[0]).max() < 2.1e-5


def test_transition_squarings_that_no_lag_needs_are_not_done():
    """The program of the longest lag is inside a condition, which the short lags do not enter."""
    text = str(jax.make_jaxpr(_uniformise)(jnp.eye(3), jnp.ones(9)))
    assert "cond[" in text


# Lags


def test_transition_grid_merges_what_rounding_parts():
    times = np.linspace(0, 2.5, 100)
    for dtype in (np.float64, np.float32):
        grid = lag_grid(times.astype(dtype))
        assert grid.lags.shape == (1,)
        assert grid.lags[0] == pytest.approx(2.5 / 99, rel=1e-6)
    assert lag_grid(np.tile(times, (3, 1))).index.shape == (3, 99)


def test_transition_grid_keeps_apart_what_is_different():
    lags = np.concatenate([[0.0], 1 + 2.2e-5 * np.arange(5), [1e-9]])
    grid = lag_grid(np.append(0.0, np.cumsum(lags)))
    assert len(grid.lags) == 7
    npt.assert_allclose(grid.lags[grid.index], lags, rtol=1e-6)
    # a chain of neighbours is not one lag: each group is as wide as the tolerance, not as the chain
    close = 1 + 5e-6 * np.arange(1000)
    grid = lag_grid(np.append(0.0, np.cumsum(close)))
    assert 300 < len(grid.lags) < 501
    npt.assert_allclose(grid.lags[grid.index], close, rtol=1.1e-5)


def test_transition_grid_takes_some_paths():
    times = np.cumsum(np.random.default_rng(0).integers(1, 4, (5, 6)), 1)
    grid = lag_grid(times)
    some = jax.jit(lambda i: grid.take(i).index)(jnp.array([3, 1]))
    npt.assert_array_equal(some, grid.index[[3, 1]])
    npt.assert_array_equal(grid.lags, [1, 2, 3])


def test_transition_grid_gives_points_that_were_not_seen_lag_0():
    times = np.array([[np.nan, 1.0, 2.0, -5.0, 4.0, np.inf]])
    mask = np.array([[False, True, True, False, True, False]])
    grid = lag_grid(times, mask)
    npt.assert_array_equal(grid.lags[grid.index], [[0, 1, 0, 2, 0]])
