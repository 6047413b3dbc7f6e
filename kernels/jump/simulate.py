"""Markov jump processes at random: every jump, or what is seen of them at given times.

    hold time ~ Exp(sum_j q_ij),   next state ~ q_ij / sum_j q_ij                       (Gillespie 1977)    (1)
    y_l | y_{l-1} ~ P(t_l - t_{l-1})[y_{l-1}, :]                                                            (2)

(2) is exact for any times, and nothing between them is made. Draws are by inverse CDF: Gumbel noise for each state
(`jax.random.categorical`) costs n times the random numbers in a loop that does little else.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from .emission import confusion_matrix
from .filter import inverse_cdf
from .generator import stationary, without_diagonal
from .paths import check_rates, is_traced
from .transition import LagGrid, lag_grid, transition_matrices


class JumpPath(NamedTuple):
    """All jumps of a path; see `gillespie`.

    Attributes:
        times: `[max_jumps + 1]`: 0, the times of the jumps, and t_end for the rest.
        states: `[max_jumps + 1]`: the state from each time on; the last one for the rest.
        num_jumps: jumps before t_end.
        truncated: True where the path needed more than max_jumps: it then ends at its last time.
    """

    times: Float[Array, " J+1"]
    states: Int[Array, " J+1"]
    num_jumps: Int[Array, ""]
    truncated: Bool[Array, ""]


@partial(jax.jit, static_argnames="max_jumps")
def gillespie(
    key: Key[Array, ""],
    rates: Float[ArrayLike, "n n"],
    initial: Float[ArrayLike, " n"],
    t_end: float | Float[Array, ""],
    max_jumps: int,
) -> JumpPath:
    """A path with all its jumps, equation (1).

    Args:
        key: of the path.
        rates: q `[n, n]`, per unit of time.
        initial: law of the first state `[n]`.
        t_end: where the path ends.
        max_jumps: room for so many: twice the largest exit rate times t_end, and ten more, is ample.

    Examples:
        >>> from emberwalk.kernels.jump import gillespie
        >>> path = gillespie(random.key(0), jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([1.0, 0.0]), 5.0, 30)
        >>> path.states[:3].tolist(), bool(path.truncated)
        ([0, 1, 0], False)
    """
    q = without_diagonal(rates)
    exit_rates = q.sum(-1)
    key_first, key_hold, key_next = random.split(key, 3)
    holds = random.exponential(key_hold, (max_jumps,), q.dtype)
    uniforms = random.uniform(key_next, (max_jumps,), q.dtype)
    first = _draw(random.uniform(key_first, dtype=q.dtype), jnp.asarray(initial, q.dtype))

    def jump(carry, inputs):
        time, state = carry
        hold, uniform = inputs
        # a state that is never left holds for ever
        time = time + jnp.where(exit_rates[state] > 0, hold / exit_rates[state], jnp.inf)
        jumped = time < t_end
        state = jnp.where(jumped, _draw(uniform, q[state]), state)
        return (time, state), (jnp.where(jumped, time, t_end), state, jumped)

    start = jnp.zeros((), q.dtype)
    (time, _), (times, states, jumped) = lax.scan(jump, (start, first), (holds, uniforms))
    return JumpPath(
        jnp.concatenate([start[None], times]),
        jnp.concatenate([first[None], states]),
        jumped.sum(dtype=jnp.int32),
        time < t_end,
    )


def _draw(uniform: Float[Array, ""], weights: Float[Array, " n"]) -> Int[Array, ""]:
    return inverse_cdf(uniform[None], weights[None])[0]


def sample_observed(
    key: Key[Array, ""],
    rates: Float[ArrayLike, "n n"],
    times: Float[ArrayLike, "*paths L"],
    initial: Float[ArrayLike, "*paths n"],
    label_noise: float | Array | None = None,
    grid: LagGrid | None = None,
) -> Int[Array, "*paths L"]:
    """Labels at given times, equation (2); differentiates nothing, may be jitted with a grid.

    Args:
        key: of all paths.
        rates: q `[n, n]`, per unit of time.
        times: `[L]` for one path, `[K, L]` for K.
        initial: law of the state at the first time, `[n]` or `[K, n]`.
        label_noise: probability that a label is wrong, or the matrix of `confusion_matrix`; None gives the states.
        grid: `lag_grid(times)`, needed where times are traced.

    Raises:
        ValueError: rates below 0 or NaN; times that fall; traced times without a grid.

    Examples:
        >>> from emberwalk.kernels.jump import sample_observed
        >>> q = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> sample_observed(random.key(0), q, np.tile(np.linspace(0, 2, 5), (3, 1)), jnp.ones(2) / 2).shape
        (3, 5)
    """
    check_rates(rates)
    if grid is None:
        if is_traced(times):
            raise ValueError("times are traced: pass grid=lag_grid(times).")
        grid = lag_grid(times)
    index = jnp.atleast_2d(jnp.asarray(grid.index))
    table = transition_matrices(rates, grid.lags)
    labels = observed_states(key, table, index, initial, label_noise)
    return labels.reshape(*jnp.shape(grid.index)[:-1], -1)


@jax.jit
def observed_states(
    key: Key[Array, ""],
    transitions: Float[Array, "U n n"],
    index: Int[Array, "K L-1"],
    initial: Float[ArrayLike, "*paths n"],
    label_noise: float | Array | None = None,
) -> Int[Array, "K L"]:
    """Equation (2) from a table of transition matrices, `[U, n, n]` or `[K, U, n, n]`."""
    key_states, key_labels = random.split(key)
    uniforms = random.uniform(key_states, (index.shape[1] + 1, index.shape[0]), transitions.dtype)
    weights = jnp.broadcast_to(
        jnp.asarray(initial, transitions.dtype), (index.shape[0], transitions.shape[-1])
    )

    def advance(states, inputs):
        u, uniform = inputs
        paths = jnp.arange(u.shape[0])
        rows = transitions[paths, u, states] if transitions.ndim == 4 else transitions[u, states]
        # Taylor's rounding may leave -1e-8 where nothing is
        states = inverse_cdf(uniform, jnp.maximum(rows, 0))
        return states, states

    first = inverse_cdf(uniforms[0], weights)
    _, rest = lax.scan(advance, first, (index.T, uniforms[1:]))
    states = jnp.concatenate([first[None], rest]).T
    return (
        states
        if label_noise is None
        else noisy_labels(key_labels, states, label_noise, transitions.shape[-1])
    )


def noisy_labels(
    key: Key[Array, ""], states: Int[Array, "..."], label_noise: float | Array, num_states: int
) -> Int[Array, "..."]:
    """Labels of given states: each wrong with probability rho, or by the rows of a matrix."""
    rows = confusion_matrix(label_noise, num_states)[states.ravel()]
    return inverse_cdf(random.uniform(key, (states.size,), rows.dtype), rows).reshape(states.shape)


def simulate_batch(
    seed: int | np.random.Generator,
    rates: Float[ArrayLike, "n n"],
    times: Float[ArrayLike, " L"],
    num_paths: int,
    initial: Float[ArrayLike, " n"] | None = None,
    label_noise: float | None = None,
) -> Int[np.ndarray, "K L"]:
    """Many paths at the same times, with numpy: ten times as fast as JAX's random numbers on a CPU.

    Args:
        seed: a number, or a generator that goes on.
        rates: q `[n, n]`, per unit of time.
        times: `[L]`, shared by all paths.
        num_paths: K.
        initial: law of the first state `[n]`; the stationary one without it.
        label_noise: probability that a label is wrong.

    Raises:
        ValueError: rates below 0 or NaN; times that fall.

    Examples:
        >>> from emberwalk.kernels.jump import simulate_batch
        >>> simulate_batch(0, np.array([[0.0, 1.0], [1.0, 0.0]]), np.linspace(0, 1, 11), 1000).shape
        (1000, 11)
    """
    from scipy.linalg import expm

    check_rates(rates)
    rng = np.random.default_rng(seed)
    grid = lag_grid(times)
    q = np.array(rates, np.float64)
    np.fill_diagonal(q, 0)
    Q = q - np.diag(q.sum(1))
    cdfs = np.cumsum(np.clip([expm(Q * t) for t in grid.lags], 0, None), -1)
    first = np.cumsum(np.asarray(stationary(q) if initial is None else initial, np.float64))
    states = np.empty((len(grid.index) + 1, num_paths), np.int64)
    states[0] = _numpy_draw(rng, np.broadcast_to(first, (num_paths, len(q))))
    for step, u in enumerate(grid.index):
        states[step + 1] = _numpy_draw(rng, cdfs[u, states[step]])
    if label_noise is not None:
        wrong = rng.random(states.shape) < label_noise
        states = np.where(wrong, (states + rng.integers(1, len(q), states.shape)) % len(q), states)
    return states.T


def _numpy_draw(rng: np.random.Generator, cdf: Float[np.ndarray, "K n"]) -> Int[np.ndarray, " K"]:
    """The first state whose CDF is above a uniform."""
    uniform = rng.random(len(cdf)) * cdf[:, -1]
    return np.minimum((cdf <= uniform[:, None]).sum(1), cdf.shape[1] - 1)
