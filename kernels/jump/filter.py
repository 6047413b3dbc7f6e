"""States from wrong labels or noisy emissions: filter, smoother, draws, most likely path.

    a_1 = pi_0 * e_1,   a_l = (a_{l-1} P_l) * e_l,   s_l = sum a_l,   a_l <- a_l / s_l                      (1)
    log p(data) = sum_l log s_l                                                                            (2)

e_l is the density of what was seen at l, one number for each state; its largest is taken out first and put back as a
logarithm. A point that was not seen has e = 1, and its lag is 0 (`lag_grid` with the same mask).

The smoother is the derivative of (2):

    p(state at l | data) = d(2) / d log e_l,    expected pairs at lag u = P_u * d(2) / dP_u                  (3)

and that is one recursion backwards, whose cost is that of (1), and a product for all pairs at once:

    v_L = 1 / s_L,   v_l = P_{l+1} (e_{l+1} * v_{l+1}) / s_l                                               (4)
    d(2) = sum_l v_l . [(a_{l-1} dP_l) * e_l + (a_{l-1} P_l) * de_l]                                        (5)

Rabiner (1989) has (1) and (4). Everything is for K paths at once; memory is that of a few `[K, L, n]`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from .emission import Emissions, Mask, ScaledEmission, by_time, masked, scaled_emission
from .transition import floor_transitions, log_transitions

type Table = Float[Array, "U n n"]
type Index = Int[ArrayLike, "K L-1"]
type Initial = Float[Array, " n"] | Float[Array, "K n"]


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
    return _forward(masked(log_emission, mask), floor_transitions(transitions), jnp.asarray(index), initial)


@jax.jit
def _forward(
    log_emission: Emissions, transitions: Array, index: Int[Array, "K L-1"], initial: Initial
) -> tuple[Float[Array, " K"], Filtered]:
    densities, largest = by_time(log_emission)
    predicted, scales = _recursion(densities, transitions, index, initial)
    filtered = predicted * densities / _safe(scales)
    log_scale = (jnp.log(scales) + largest).T
    return log_scale.sum(1), Filtered(jnp.moveaxis(filtered, 0, 1), log_scale)


@jax.jit
def path_log_likelihood(
    emission: ScaledEmission, transitions: Table, index: Index, initial: Initial
) -> Float[Array, " K"]:
    """Equation (2) alone, with the derivative of (5): a gradient costs some three values.

    Args:
        emission: of `scaled_emission` or `scaled_labels`.
        transitions: as for `forward`.
        index: as for `forward`.
        initial: as for `forward`.

    Examples:
        >>> from emberwalk.kernels.jump import confusion_matrix, lag_grid, path_log_likelihood, scaled_labels
        >>> from emberwalk.kernels.jump import transition_matrices
        >>> grid = lag_grid(np.array([[0.0, 1.0, 3.0]]))
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), grid.lags)
        >>> labels = scaled_labels(jnp.array([[0, 1, 1]]), confusion_matrix(0.1, 2))
        >>> round(float(path_log_likelihood(labels, P, grid.index, jnp.ones(2) / 2)[0]), 3)
        -2.159
    """
    found = _log_likelihood(emission.densities, floor_transitions(transitions), jnp.asarray(index), initial)
    return found + emission.log_scale


@jax.custom_jvp
def _log_likelihood(
    emission: Float[Array, "L K n"], transitions: Array, index: Int[Array, "K L-1"], initial: Initial
) -> Float[Array, " K"]:
    return jnp.log(_recursion(emission, transitions, index, initial)[1]).sum(0)


@_log_likelihood.defjvp
def _log_likelihood_jvp(primals, tangents):
    """Equations (4) and (5)."""
    emission, transitions, index, initial = primals
    d_emission, d_transitions, _, d_initial = tangents
    predicted, scales = _recursion(emission, transitions, index, initial)
    inverse = 1 / _safe(scales)

    def go_back(v, inputs):
        e, u, inverse = inputs
        before = _step_back(e * v, transitions, u) * inverse
        return before, before

    last = jnp.broadcast_to(inverse[-1], predicted[-1].shape)
    _, v = lax.scan(go_back, last, (emission[1:], index.T, inverse[:-1]), reverse=True)
    v = jnp.concatenate([v, last[None]])
    filtered, weights = (predicted * emission * inverse)[:-1], (emission * v)[1:]
    of_emission = jnp.sum(predicted * v * d_emission, (0, 2))
    of_initial = jnp.sum(emission[0] * v[0] * d_initial, -1)
    of_pairs = _pairs(filtered, weights, d_transitions, index)
    return jnp.log(scales).sum(0), of_emission + of_initial + of_pairs


def _pairs(
    filtered: Float[Array, "L-1 K n"],
    weights: Float[Array, "L-1 K n"],
    d_transitions: Array,
    index: Int[Array, "K L-1"],
) -> Float[Array, " K"]:
    """The first term of (5), linear in dP: what is stored of it is no `[K, L, n, n]`."""
    if d_transitions.ndim == 3 and d_transitions.shape[0] == 1:
        n = filtered.shape[-1]
        # flat: the derivative is then one product of matrices, and not one for each time
        moved = (filtered.reshape(-1, n) @ d_transitions[0]).reshape(filtered.shape)
        return jnp.sum(moved * weights, (0, 2))

    def add(total, inputs):
        a, w, u = inputs
        return total + jnp.sum(_step(a, d_transitions, u) * w, -1), None

    none = jnp.zeros(filtered.shape[1], filtered.dtype)
    return lax.scan(add, none, (filtered, weights, index.T))[0]


def _recursion(
    emission: Float[Array, "L K n"], transitions: Array, index: Int[Array, "K L-1"], initial: Initial
) -> tuple[Float[Array, "L K n"], Float[Array, "L K"]]:
    """Equation (1): a_{l-1} P_l, which is pi_0 at the first point, and s_l."""
    first = jnp.broadcast_to(initial, emission[0].shape).astype(emission.dtype)

    def advance(predicted, inputs):
        e, u = inputs
        weighted = predicted * e
        scale = weighted.sum(-1)
        return _step(weighted / _safe(scale), transitions, u), (predicted, scale)

    last, (predicted, scales) = lax.scan(advance, first, (emission[:-1], index.T))
    last_scale = (last * emission[-1]).sum(-1)
    return jnp.concatenate([predicted, last[None]]), jnp.concatenate([scales, last_scale[None]])


def _safe(scales: Float[Array, "*L K"]) -> Float[Array, "*L K 1"]:
    return jnp.where(scales > 0, scales, 1)[..., None]


# a derivative in reverse mode makes P_u anew: stored, they would be K L n^2 numbers
@partial(jax.checkpoint, prevent_cse=False)
def _step(filtered: Float[Array, "K n"], transitions: Array, u: Int[Array, " K"]) -> Float[Array, "K n"]:
    """a P_u; with one lag a product of matrices, whose derivative needs no scattering."""
    if transitions.ndim == 3 and transitions.shape[0] == 1:
        return filtered @ transitions[0]
    return jnp.einsum("ki,kij->kj", filtered, _chosen(transitions, u))


@partial(jax.checkpoint, prevent_cse=False)
def _step_back(weights: Float[Array, "K n"], transitions: Array, u: Int[Array, " K"]) -> Float[Array, "K n"]:
    """P_u w."""
    if transitions.ndim == 3 and transitions.shape[0] == 1:
        return weights @ transitions[0].T
    return jnp.einsum("kj,kij->ki", weights, _chosen(transitions, u))


def _chosen(transitions: Array, u: Int[Array, " K"]) -> Float[Array, "K n n"]:
    return transitions[jnp.arange(u.shape[0]), u] if transitions.ndim == 4 else transitions[u]


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
    transitions = floor_transitions(transitions)

    def total(log_emission, transitions):
        log_likelihood = path_log_likelihood(scaled_emission(log_emission), transitions, index, initial)
        return log_likelihood.sum(), log_likelihood

    slopes, log_likelihood = jax.grad(total, (0, 1), has_aux=True)(masked(log_emission, mask), transitions)
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
    _, filtered = _forward(masked(log_emission, mask), transitions, index, initial)
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
    log_emission, index = masked(log_emission, mask), jnp.asarray(index)
    table = log_transitions(transitions)
    start = jnp.log(jnp.broadcast_to(initial, log_emission[:, 0].shape)) + log_emission[:, 0]

    def advance(best, inputs):
        e, u = inputs
        through = best[:, :, None] + _chosen(table, u)
        return through.max(1) + e, jnp.argmax(through, 1).astype(jnp.int32)

    def go_back(after, came_from):
        before = jnp.take_along_axis(came_from, after[:, None], -1)[:, 0]
        return before, before

    best, came_from = lax.scan(advance, start, (jnp.moveaxis(log_emission[:, 1:], 1, 0), index.T))
    last = jnp.argmax(best, -1).astype(jnp.int32)
    _, earlier = lax.scan(go_back, last, came_from, reverse=True)
    return jnp.concatenate([earlier, last[None]]).T
