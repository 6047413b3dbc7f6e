"""States from wrong labels or noisy emissions: filter, smoother, draws, most likely path.

    a_1 = pi_0 * e_1,   a_l = (a_{l-1} P_l) * e_l,   s_l = sum a_l,   a_l <- a_l / s_l                      (1)
    log p(data) = sum_l log s_l                                                                            (2)

e_l is the density of what was seen at l, one number for each state; its largest is taken out first and put back as a
logarithm. A point that was not seen has e = 1, and its lag is 0 (`lag_grid` with the same mask).

The smoother is the derivative of (2), so that there is no second recursion to be wrong in:

    p(state at l | data) = d(2) / d log e_l,    expected pairs at lag u = P_u * d(2) / dP_u                  (3)

Rabiner (1989) has (1). Everything is for K paths at once; memory is that of a few `[K, L, n]`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from .transition import floor_transitions, log_transitions

type Emissions = Float[Array, "K L n"]
type Table = Float[Array, "U n n"]
type Index = Int[ArrayLike, "K L-1"]
type Initial = Float[Array, " n"] | Float[Array, "K n"]
type Mask = Bool[ArrayLike, "K L"] | None


class Filtered(NamedTuple):
    """What is known at each point from all up to it.

    Attributes:
        states: probability of each state, `[K, L, n]`.
        log_scale: log s, `[K, L]`; the log density of what was seen at l given all before.
    """

    states: Float[Array, "K L n"]
    log_scale: Float[Array, "K L"]


class Smoothed(NamedTuple):
    """What is known from all of a path; see `forward_backward`.

    Attributes:
        states: probability of each state at each point, `[K, L, n]`.
        pair_counts: expected number of pairs (state before, state after) at each lag, over all paths, `[U, n, n]`.
        log_likelihood: of each path, `[K]`.
    """

    states: Float[Array, "K L n"]
    pair_counts: Float[Array, "U n n"]
    log_likelihood: Float[Array, " K"]


def confusion_matrix(label_noise: ArrayLike | Array, num_states: int) -> Float[Array, "n n"]:
    """E: row i is the law of the labels of state i.

    Args:
        label_noise: rho, the probability that a label is wrong, uniform over the n - 1 others; or E itself. (Where
            a label is replaced by any of the n, itself among them, with probability p, rho = p (n - 1) / n.)
        num_states: n.

    Examples:
        >>> from emberwalk.kernels.jump import confusion_matrix
        >>> confusion_matrix(0.5, 3).tolist()
        [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
    """
    noise = jnp.asarray(label_noise, float) if not hasattr(label_noise, "dtype") else jnp.asarray(label_noise)
    if noise.ndim == 2:
        return noise
    return jnp.where(jnp.eye(num_states, dtype=bool), 1 - noise, noise / (num_states - 1))


def label_log_emission(
    states: Int[ArrayLike, "*paths L"], label_noise: ArrayLike | Array | None, num_states: int
) -> Float[Array, "*paths L n"]:
    """log e: log probability of each label, for each state that it may come from.

    Args:
        states: labels `[..., L]`; what stands where a mask is False does not matter.
        label_noise: None for labels that are right; rho or E of `confusion_matrix`.
        num_states: n.

    Returns:
        `[..., L, n]`, -inf where a label cannot be.

    Examples:
        >>> from emberwalk.kernels.jump import label_log_emission
        >>> jnp.exp(label_log_emission(jnp.array([0, 1]), 0.25, 2)).tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    confusion = jnp.eye(num_states) if label_noise is None else confusion_matrix(label_noise, num_states)
    return jnp.log(confusion).T[jnp.clip(jnp.asarray(states), 0, num_states - 1)]


def forward(
    log_emission: Emissions, transitions: Table, index: Index, initial: Initial, mask: Mask = None
) -> tuple[Float[Array, " K"], Filtered]:
    """Equations (1) and (2).

    Args:
        log_emission: log e `[K, L, n]`, of any scale.
        transitions: P of each distinct lag `[U, n, n]`, or `[K, U, n, n]` where each path has rates of its own.
        index: which lag leads to the next point, `[K, L - 1]`; see `lag_grid`.
        initial: pi_0 `[n]` or `[K, n]`, the law of the state at the first point.
        mask: True where a point was seen `[K, L]`; the grid must know the same mask.

    Returns:
        The log-likelihood of each path `[K]`, -inf where it cannot be, and what is known at each point.

    Examples:
        >>> from emberwalk.kernels.jump import forward, label_log_emission, lag_grid, transition_matrices
        >>> grid = lag_grid(np.array([[0.0, 1.0, 3.0]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), grid.lags)
        >>> labels = label_log_emission(jnp.array([[0, 1, 1]]), 0.1, 2)
        >>> log_likelihood, filtered = forward(labels, P, grid.index, jnp.ones(2) / 2)
        >>> filtered.states.shape
        (1, 3, 2)
    """
    return _forward(_masked(log_emission, mask), floor_transitions(transitions), jnp.asarray(index), initial)


def _masked(log_emission: Emissions, mask: Mask) -> Emissions:
    return log_emission if mask is None else jnp.where(jnp.asarray(mask)[..., None], log_emission, 0)


@jax.jit
def _forward(
    log_emission: Emissions, transitions: Array, index: Int[Array, "K L-1"], initial: Initial
) -> tuple[Float[Array, " K"], Filtered]:
    largest = lax.stop_gradient(log_emission.max(-1))
    # a point that no state explains, or that some state explains infinitely well, is seen in the likelihood
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    emission = jnp.exp(log_emission - largest[..., None])
    first = jnp.broadcast_to(initial, emission[:, 0].shape).astype(emission.dtype)

    @partial(jax.checkpoint, prevent_cse=False)
    def advance(filtered, inputs):
        # a derivative makes P_u anew: stored, they would be K L n^2 numbers
        e, u = inputs
        filtered, scale = _normalised(_step(filtered, transitions, u) * e)
        return filtered, (filtered, scale)

    start, scale = _normalised(first * emission[:, 0])
    _, (rest, scales) = lax.scan(advance, start, (jnp.moveaxis(emission[:, 1:], 1, 0), index.T))
    states = jnp.moveaxis(jnp.concatenate([start[None], rest]), 0, 1)
    log_scale = jnp.log(jnp.concatenate([scale[None], scales])).T + largest
    return log_scale.sum(1), Filtered(states, log_scale)


def _normalised(a: Float[Array, "K n"]) -> tuple[Float[Array, "K n"], Float[Array, " K"]]:
    scale = a.sum(-1)
    return a / jnp.where(scale > 0, scale, 1)[:, None], scale


def _step(filtered: Float[Array, "K n"], transitions: Array, u: Int[Array, " K"]) -> Float[Array, "K n"]:
    """a P_u; with one lag a product of matrices, whose derivative needs no scattering."""
    if transitions.ndim == 4:
        chosen = transitions[jnp.arange(u.shape[0]), u]
    elif transitions.shape[0] == 1:
        return filtered @ transitions[0]
    else:
        chosen = transitions[u]
    return jnp.einsum("ki,kij->kj", filtered, chosen)


@jax.jit
def forward_backward(
    log_emission: Emissions, transitions: Table, index: Index, initial: Initial, mask: Mask = None
) -> Smoothed:
    """Equation (3): what is known of each state from the whole path.

    Args:
        log_emission: as for `forward`.
        transitions: `[U, n, n]`, or `[K, U, n, n]`, whose pair counts are of that shape.
        index: as for `forward`.
        initial: as for `forward`.
        mask: as for `forward`.

    Examples:
        >>> from emberwalk.kernels.jump import forward_backward, label_log_emission, lag_grid, transition_matrices
        >>> grid = lag_grid(np.array([[0.0, 0.1, 0.2]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), grid.lags)
        >>> labels = label_log_emission(jnp.array([[0, 1, 0]]), 0.1, 2)
        >>> smoothed = forward_backward(labels, P, grid.index, jnp.ones(2) / 2)
        >>> bool(smoothed.states[0, 1, 0] > 0.5), round(float(smoothed.pair_counts.sum()), 3)  # a wrong label, likely
        (True, 2.0)
    """
    transitions, index = floor_transitions(transitions), jnp.asarray(index)

    def total(log_emission, transitions):
        log_likelihood, _ = _forward(log_emission, transitions, index, initial)
        return log_likelihood.sum(), log_likelihood

    slopes, log_likelihood = jax.grad(total, (0, 1), has_aux=True)(_masked(log_emission, mask), transitions)
    return Smoothed(slopes[0], transitions * slopes[1], log_likelihood)


@jax.jit
def sample_states(
    key: Key[Array, ""],
    log_emission: Emissions,
    transitions: Table,
    index: Index,
    initial: Initial,
    mask: Mask = None,
) -> Int[Array, "K L"]:
    """A draw of the states given all that was seen: forward filter, backward draws.

    Args:
        key: of the draw.
        log_emission: as for `forward`.
        transitions: as for `forward`.
        index: as for `forward`.
        initial: as for `forward`.
        mask: as for `forward`.

    Examples:
        >>> from emberwalk.kernels.jump import label_log_emission, lag_grid, sample_states, transition_matrices
        >>> grid = lag_grid(np.array([[0.0, 0.1, 0.2]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), grid.lags)
        >>> labels = label_log_emission(jnp.array([[0, 1, 1]]), None, 2)
        >>> sample_states(random.key(0), labels, P, grid.index, jnp.ones(2) / 2)
        Array([[0, 1, 1]], dtype=int32)
    """
    transitions, index = floor_transitions(transitions), jnp.asarray(index)
    _, filtered = _forward(_masked(log_emission, mask), transitions, index, initial)
    uniforms = random.uniform(key, log_emission.shape[:2], log_emission.dtype)

    def go_back(after, inputs):
        states, u, uniform = inputs
        before = inverse_cdf(uniform, states * _column(transitions, u, after))
        return before, before

    last = inverse_cdf(uniforms[:, -1], filtered.states[:, -1])
    inputs = (jnp.moveaxis(filtered.states[:, :-1], 1, 0), index.T, uniforms[:, :-1].T)
    _, earlier = lax.scan(go_back, last, inputs, reverse=True)
    return jnp.concatenate([earlier, last[None]]).T


def _column(transitions: Array, u: Int[Array, " K"], after: Int[Array, " K"]) -> Float[Array, "K n"]:
    """P_u from each state to that of the later point."""
    if transitions.ndim == 4:
        return transitions[jnp.arange(u.shape[0]), u, :, after]
    return transitions[u, :, after]


def inverse_cdf(uniform: Float[Array, " K"], weights: Float[Array, "K n"]) -> Int[Array, " K"]:
    """For each row an index with probability proportional to its weights, never one of weight 0."""
    cdf = jnp.cumsum(weights, -1)
    index = jnp.sum(cdf <= (uniform * cdf[:, -1])[:, None], -1, dtype=jnp.int32)
    possible = jnp.take_along_axis(weights, jnp.minimum(index, weights.shape[-1] - 1)[:, None], -1)[:, 0] > 0
    return jnp.where(possible, index, jnp.argmax(weights, -1).astype(jnp.int32))


@jax.jit
def most_likely_states(
    log_emission: Emissions, transitions: Table, index: Index, initial: Initial, mask: Mask = None
) -> Int[Array, "K L"]:
    """The path of highest probability (Viterbi 1967), which may be far from the most likely state at each point.

    Args:
        log_emission: as for `forward`.
        transitions: as for `forward`.
        index: as for `forward`.
        initial: as for `forward`.
        mask: as for `forward`.

    Examples:
        >>> from emberwalk.kernels.jump import label_log_emission, lag_grid, most_likely_states, transition_matrices
        >>> grid = lag_grid(np.array([[0.0, 0.1, 0.2]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), grid.lags)
        >>> labels = label_log_emission(jnp.array([[0, 1, 0]]), 0.1, 2)
        >>> most_likely_states(labels, P, grid.index, jnp.ones(2) / 2).tolist()
        [[0, 0, 0]]
    """
    log_emission, index = _masked(log_emission, mask), jnp.asarray(index)
    table = log_transitions(transitions)
    start = jnp.log(jnp.broadcast_to(initial, log_emission[:, 0].shape)) + log_emission[:, 0]

    def advance(best, inputs):
        e, u = inputs
        chosen = table[jnp.arange(u.shape[0]), u] if table.ndim == 4 else table[u]
        through = best[:, :, None] + chosen
        return through.max(1) + e, jnp.argmax(through, 1).astype(jnp.int32)

    def go_back(after, came_from):
        before = jnp.take_along_axis(came_from, after[:, None], -1)[:, 0]
        return before, before

    best, came_from = lax.scan(advance, start, (jnp.moveaxis(log_emission[:, 1:], 1, 0), index.T))
    last = jnp.argmax(best, -1).astype(jnp.int32)
    _, earlier = lax.scan(go_back, last, came_from, reverse=True)
    return jnp.concatenate([earlier, last[None]]).T
