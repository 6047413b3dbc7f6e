"""What follows from the rates of a Markov jump process, without one subtraction.

    Q = q - diag(q 1),   q_ij >= 0 the rate from state i (row) to state j                                   (1)
    (diag(sum_j q_ij + e_i) - q) m = b,   e, b >= 0                                                         (2)

The elimination of Grassmann, Taksar and Heyman (1985) solves (2), for k = n - 1, ..., 1:

    s_k = sum_{l<k} q_kl + e_k,   f_i = q_ik / s_k                        (i < k)                           (3)
    q_il += f_i q_kl,   e_i += f_i e_k,   b_i += f_i b_k                  (i, l < k, l != i)                (4)
    m_0 = b_0 / e_0,    m_k = (b_k + sum_{l<k} q_kl m_l) / s_k                                              (5)

Nothing is subtracted, so that each result has the relative precision of the rates: in float32 2e-7 where a plain
solve loses 1e-5 to 1e-2. With e = 0 the same numbers give the stationary law: pi_0 = 1, pi_k = sum_{i<k} pi_i f_i^(k).

What a reader would get wrong: the diagonal of the rates is ignored everywhere, and rows are the state that is left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

type Matrix = Float[Array, "n n"]
type Vector = Float[Array, " n"]

# A closed set of states is left at this rate, over the largest: the stationary law is then that of the set.
_LEAK = 1e-20


class Elimination(NamedTuple):
    """What (3) and (4) leave: row k of q below the diagonal, s, f as columns above the diagonal, and b."""

    q: Matrix
    s: Vector
    f: Matrix
    b: Vector


class RelaxationTimes(NamedTuple):
    """Times in which what is not stationary dies out.

    Attributes:
        times: -1 / Re(lambda) of the eigenvalues of Q but the zero, the longest first; inf where Q has more zeros.
        oscillating: True for both of a complex pair.
    """

    times: Float[Array, "*batch m"]
    oscillating: Bool[Array, "*batch m"]


def generator(rates: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """Q, equation (1).

    Args:
        rates: q `[..., n, n]`, per unit of time; its diagonal is ignored.

    Examples:
        >>> from emberwalk.kernels.jump import generator
        >>> generator(jnp.array([[0.0, 2.0], [1.0, 0.0]])).tolist()
        [[-2.0, 2.0], [1.0, -1.0]]
    """
    q = without_diagonal(rates)
    return q - jnp.eye(q.shape[-1], dtype=q.dtype) * q.sum(-1)[..., None]


def without_diagonal(rates: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """q with zeros on its diagonal, whatever stood there."""
    q = jnp.asarray(rates)
    q = q if jnp.issubdtype(q.dtype, jnp.floating) else q.astype(float)
    return jnp.where(jnp.eye(q.shape[-1], dtype=bool), 0, q)


def rates_from_vector(vector: Float[ArrayLike, "*batch m"], num_states: int) -> Float[Array, "*batch n n"]:
    """The matrix of n (n - 1) rates, row by row without the diagonal.

    Args:
        vector: `[..., n (n - 1)]`.
        num_states: n.

    Raises:
        ValueError: a vector of another length.

    Examples:
        >>> from emberwalk.kernels.jump import rates_from_vector
        >>> rates_from_vector(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 3).tolist()
        [[0.0, 1.0, 2.0], [3.0, 0.0, 4.0], [5.0, 6.0, 0.0]]
    """
    vector = jnp.asarray(vector)
    if vector.shape[-1:] != (num_states * (num_states - 1),):
        raise ValueError(
            f"vector must end in an axis of n (n - 1) = {num_states * (num_states - 1)} rates for "
            f"num_states = {num_states}, got the shape {vector.shape}."
        )
    rows, columns = _off_diagonal(num_states)
    return (
        jnp.zeros((*vector.shape[:-1], num_states, num_states), vector.dtype)
        .at[..., rows, columns]
        .set(vector)
    )


def rates_to_vector(rates: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch m"]:
    """The n (n - 1) rates of a matrix, row by row without the diagonal.

    Args:
        rates: `[..., n, n]`.

    Examples:
        >>> from emberwalk.kernels.jump import rates_to_vector
        >>> rates_to_vector(jnp.arange(9.0).reshape(3, 3)).tolist()
        [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
    """
    rates = jnp.asarray(rates)
    rows, columns = _off_diagonal(rates.shape[-1])
    return rates[..., rows, columns]


def _off_diagonal(num_states: int) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(~np.eye(num_states, dtype=bool))


def gth_solve(
    rates: Float[ArrayLike, "*batch n n"],
    excess: Float[ArrayLike, "*batch n"],
    rhs: Float[ArrayLike, "*batch n"],
) -> Float[Array, "*batch n"]:
    """Solves (2): m is the expected cost of a process that pays b per unit of time and ends at the rate e.

    Args:
        rates: q `[..., n, n]`.
        excess: e `[..., n]`, at least 0, somewhere above it: what the diagonal has beyond the sum of its row.
        rhs: b `[..., n]`, at least 0.

    Returns:
        m `[..., n]`; inf where the process pays for ever with some probability.

    Examples:
        >>> from emberwalk.kernels.jump import gth_solve
        >>> gth_solve(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([1.0, 0.0]), jnp.ones(2)).tolist()
        [2.0, 3.0]
    """
    return _solve(without_diagonal(rates), jnp.asarray(excess), jnp.asarray(rhs))


def _over(x, s):
    """x / s; inf at s = 0, but 0 for 0 / 0, and a derivative that is finite where the value is."""
    safe = jnp.where(s > 0, s, 1)
    return jnp.where(s > 0, x / safe, jnp.where(x > 0, jnp.inf, 0.0))


def _times(x, y):
    """x y with 0 inf = 0: what cannot be reached costs nothing."""
    nothing = ((x == 0) & jnp.isinf(y)) | ((y == 0) & jnp.isinf(x))
    return jnp.where(nothing, 0, jnp.where(nothing, 0, x) * jnp.where(nothing, 0, y))


def _eliminate(q: Matrix, e: Vector, b: Vector, floor: Float[ArrayLike, ""] = 0.0) -> Elimination:
    """Equations (3) and (4); s is at least `floor`."""
    index, size = jnp.arange(len(e)), len(e)

    def take_out(carry, k):
        q, e, b = carry
        below = index < k
        row = jnp.where(below, q[k], 0)
        f = jnp.where(below, _over(q[:, k], jnp.maximum(row.sum() + e[k], floor)), 0)
        q = q + _times(f[:, None], jnp.where(index[:, None] == index, 0, row[None]))
        return (q, e + _times(f, e[k]), b + _times(f, b[k])), f

    (q, e, b), f = lax.scan(take_out, (q, e, b), jnp.arange(size - 1, 0, -1))
    s = jnp.tril(q, -1).sum(-1) + e
    f = jnp.concatenate([jnp.zeros((1, size), q.dtype), f[::-1]]).T
    return Elimination(jnp.tril(q, -1), s, f, b)


def _solve_one(q: Matrix, e: Vector, b: Vector) -> Vector:
    """Equations (3) to (5)."""
    left = _eliminate(q, e, b)

    def put_back(m, k):
        return m.at[k].set(_over(left.b[k] + _times(left.q[k], m).sum(), left.s[k])), None

    return lax.scan(put_back, jnp.zeros_like(b), jnp.arange(len(b)))[0]


def _stationary_one(q: Matrix) -> Vector:
    zero = jnp.zeros_like(q[0])
    f = _eliminate(q, zero, zero, lax.stop_gradient(_LEAK * q.max())).f

    def put_back(pi, k):
        pi = pi.at[k].set(pi @ f[:, k])
        # closed sets make steps of 1e20, of which two would overflow
        return pi / pi.max(), None

    pi, _ = lax.scan(put_back, zero.at[0].set(1), jnp.arange(1, len(zero)))
    return pi / pi.sum()


# programs of loops, which a call outside of jit would compile anew
_solve = jax.jit(jnp.vectorize(_solve_one, signature="(n,n),(n),(n)->(n)"))
_stationary = jax.jit(jnp.vectorize(_stationary_one, signature="(n,n)->(n)"))


def stationary(rates: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch n"]:
    """The stationary law pi, pi Q = 0; each entry has the relative precision of the rates.

    Args:
        rates: q `[..., n, n]`. Where a set of states is never left, the answer is the limit in which it is left
            at a vanishing rate; the law is not unique where there are two such sets.

    Returns:
        pi `[..., n]`, which sums to 1.

    Examples:
        >>> from emberwalk.kernels.jump import stationary
        >>> stationary(jnp.array([[0.0, 3.0], [1.0, 0.0]])).tolist()
        [0.25, 0.75]
    """
    return _stationary(without_diagonal(rates))


def _is_kept(q: Float[Array, "*batch n n"]) -> Bool[Array, "*batch n"]:
    """Whether a state can be reached from all that it leads to: the others are left for good."""
    leads = (q > 0) | jnp.eye(q.shape[-1], dtype=bool)
    for _ in range((q.shape[-1] - 1).bit_length()):
        leads = leads.astype(q.dtype) @ leads.astype(q.dtype) > 0
    return (~leads | jnp.swapaxes(leads, -1, -2)).all(-1)


def first_passage_times(
    rates: Float[ArrayLike, "*batch n n"], targets: int | Sequence[int] | None = None
) -> Float[Array, "*batch n n"] | Float[Array, "*batch n"]:
    """Expected times until the process is first in a state, or in one of several.

    Solves (2) without the targets, e the rate at which they are entered and b = 1.

    Args:
        rates: q `[..., n, n]`.
        targets: a state or several; without it each state is the target once.

    Returns:
        From each state to the targets, `[..., n]`, 0 from the targets themselves; without targets from i to j at
        [..., i, j], `[..., n, n]`. In the unit of time of the rates; inf where the targets may never be reached.

    Raises:
        ValueError: no target, or one that is no state.

    Examples:
        >>> from emberwalk.kernels.jump import first_passage_times
        >>> q = jnp.array([[0.0, 2.0], [1.0, 0.0]])
        >>> first_passage_times(q).tolist(), first_passage_times(q, targets=1).tolist()
        ([[0.0, 0.5], [1.0, 0.0]], [0.5, 0.0])
    """
    q = without_diagonal(rates)
    size = q.shape[-1]
    if targets is not None:
        return _passage(q, jnp.asarray(_target_mask(targets, size)))
    return jnp.swapaxes(_passage(q[..., None, :, :], jnp.eye(size, dtype=bool)), -1, -2)


def _target_mask(targets: int | Sequence[int], num_states: int) -> np.ndarray:
    chosen = np.atleast_1d(np.asarray(targets))
    if chosen.size == 0 or not np.isin(chosen, np.arange(num_states)).all():
        raise ValueError(f"targets must be states from 0 to {num_states - 1}, at least one, got {targets!r}.")
    return np.isin(np.arange(num_states), chosen)


@jax.jit
def _passage(q: Float[Array, "*batch n n"], target: Bool[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Targets stand apart, with m = 0: shapes do not depend on which they are."""
    entered = jnp.where(target[..., None, :], q, 0).sum(-1)
    alone = target[..., None, :] | target[..., :, None]
    return _solve(
        jnp.where(alone, 0, q), jnp.where(target, 1, entered), jnp.where(target, 0, 1).astype(q.dtype)
    )


def relaxation_times(rates: Float[ArrayLike, "*batch n n"]) -> RelaxationTimes:
    """How long the process remembers: -1 / Re(lambda) of the eigenvalues of Q but the zero.

    Eigenvalues have the absolute precision of the fastest rate: in float32 a mode 1e5 times slower has two digits, and
    one below n times that precision is taken for a second 0, its time infinite.

    Args:
        rates: q `[..., n, n]`. Their gradient exists where no two eigenvectors coincide.

    Examples:
        >>> from emberwalk.kernels.jump import relaxation_times
        >>> slow = relaxation_times(jnp.array([[0.0, 3.0], [1.0, 0.0]]))
        >>> slow.times.tolist(), slow.oscillating.tolist()
        ([0.25], [False])
    """
    Q = generator(rates)
    eigenvalues = jnp.linalg.eigvals(Q)
    order = jnp.argsort(-eigenvalues.real, axis=-1)[..., 1:]
    others = jnp.take_along_axis(eigenvalues, order, axis=-1)
    # rounding parts equal eigenvalues by the square root of the precision
    oscillating = jnp.abs(others.imag) > jnp.sqrt(jnp.finfo(others.real.dtype).eps) * jnp.abs(others)
    # a second 0, of a process in two parts, is one up to the rounding of the fastest rate
    fastest = jnp.max(-jnp.diagonal(Q, axis1=-2, axis2=-1), -1, keepdims=True)
    dies_out = others.real < -Q.shape[-1] * jnp.finfo(Q.dtype).eps * fastest
    return RelaxationTimes(
        jnp.where(dies_out, -1 / jnp.where(dies_out, others.real, -1), jnp.inf), oscillating
    )


def entropy_production(
    rates: Float[ArrayLike, "*batch n n"], floor: float | None = None
) -> Float[Array, "*batch"]:
    """Entropy that the stationary process produces, in nats per unit of time; 0 where it is reversible.

        (1/2) sum_{i != j} (pi_i q_ij - pi_j q_ji) log(pi_i q_ij / (pi_j q_ji))                            (6)

    Schnakenberg (1976). An estimate from noisy rates is biased upwards near 0.

    Args:
        rates: q `[..., n, n]`.
        floor: a rate that stands for those that are 0, per unit of time; without it a link that has flux in one
            direction alone gives inf, which is the truth.

    Raises:
        ValueError: a floor that is not positive.

    Examples:
        >>> from emberwalk.kernels.jump import entropy_production
        >>> q = jnp.array([[0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0]])  # round and round
        >>> round(float(entropy_production(q)), 4), round(float(np.log(2)), 4)
        (0.6931, 0.6931)
    """
    if floor is not None and not floor > 0:
        raise ValueError(f"floor must be a positive rate, got {floor!r}.")
    q = without_diagonal(rates)
    if floor is not None:
        q = without_diagonal(jnp.where(q == 0, floor, q))
    # the limit of `stationary` leaves a trace of itself where nothing stays
    flux = jnp.where(_is_kept(q), stationary(q), 0)[..., None] * q
    back = jnp.swapaxes(flux, -1, -2)
    both, one = (flux > 0) & (back > 0), (flux > 0) != (back > 0)
    ratio = jnp.where(both, flux, 1) / jnp.where(both, back, 1)
    produced = jnp.where(both, (flux - back) * jnp.log(ratio), jnp.where(one, jnp.inf, 0.0))
    return produced.sum((-1, -2)) / 2
