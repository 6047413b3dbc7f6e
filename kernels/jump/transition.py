"""Transition matrices P(t) = expm(Q t), one for each distinct lag of the data.

    A = I + Q / Lam,   P(t) = [sum_{k<64} w_k(x) A^k]^(2^s),   x = Lam t / 2^s <= 21,  w = Poisson(x)       (1)
    P(t) = [sum_{k<=10} (Q t / 2^s)^k / k!]^(2^s),             Lam t / 2^s <= 1                             (2)

(1) is uniformisation (Jensen 1953) with powers that all lags share, (2) scaling and squaring. P does not depend on
Lam, here 1.02 times the largest exit rate. Both are functions of all n^2 entries of Q, as EM needs them: no row is
ever normalised, since dP/dQ would then be another one.

Rounding grows with each squaring, so none is done that is not needed: the number s is that of each lag. (2) is for
few lags in float32, where it is the more precise; (1) costs nearly nothing per further lag, and its terms are all
positive. What a reader would get wrong: under `vmap` over rates a condition becomes a selection, and all squarings
of (1) run; take `lax.map` over chains where there are many lags.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .generator import generator
from .paths import check_times, effective_times, is_traced, with_mask

type Method = Literal["auto", "taylor", "uniformisation"]

_MOST_TERMS, _LARGEST_X = 64, 21.0
_TAYLOR_ORDER, _TAYLOR_LAGS = 10, 4
# Sizes of padded tables have so many bits that are not 0.
_SIZE_BITS = 4
# of Lam t
_CAP = {"float32": 1e4, "float64": 1e8}
_SMALLEST = {"float32": 1e-30, "float64": 1e-300}


class LagGrid(NamedTuple):
    """The distinct lags of paths, and which of them is where; see `lag_grid`.

    Attributes:
        lags: `[U]`, rising.
        index: into `lags`, `[..., L - 1]`: entry l is the lag from point l to point l + 1.
    """

    lags: Float[Array | np.ndarray, " U"]
    index: Int[Array | np.ndarray, "*paths L-1"]  # type: ignore[assignment]  # tuples have a method of this name

    def take(self, paths: Int[ArrayLike, "..."]) -> "LagGrid":
        """The grid of some paths, with all the lags: shapes do not depend on which. The numbers may be traced."""
        return self._replace(index=jnp.asarray(self.index)[paths])


def lag_grid(
    times: Float[ArrayLike, "*paths L"],
    mask: Bool[ArrayLike, "*paths L"] | None = None,
    rtol: float = 1e-5,
) -> LagGrid:
    """Distinct lags of the times at which paths were seen, on the host.

    A point that was not seen has the time of the last one that was, so that the lag to it is 0 and the next lag
    is whole; whatever stands at such a point is not looked at.

    Args:
        times: `[L]` for all paths, or `[K, L]`, not falling.
        mask: True where a point was seen, `[L]` or `[K, L]`.
        rtol: lags that differ by less, relatively, are one; so are those that the precision of `times` cannot tell
            apart. Irregular times have a lag for each pair: round them where tables become large.

    Raises:
        ValueError: times that fall or are NaN, with the path and the position; shapes that do not fit; traced times.

    Examples:
        >>> from emberwalk.kernels.jump import lag_grid
        >>> grid = lag_grid(np.array([0.0, 0.5, 1.0, 3.0]))
        >>> grid.lags.tolist(), grid.index.tolist()
        ([0.5, 2.0], [0, 0, 1])
    """
    if is_traced(times, mask):
        raise ValueError("times are traced, and distinct lags need their values: pass grid=lag_grid(times).")
    times = np.asarray(times)
    at, seen = with_mask(times, mask)
    if at.shape[-1] < 2:
        raise ValueError(f"times must hold at least 2 points of a path, got the shape {times.shape}.")
    check_times(at, seen)
    lags, index = distinct_lags(np.diff(effective_times(at, seen), axis=-1), rtol, resolution(times, seen))
    return LagGrid(lags, index)


def resolution(times: np.ndarray, seen: Bool[np.ndarray, "..."]) -> float:
    """By how much two lags may differ that were equal before their times were rounded."""
    if not np.issubdtype(times.dtype, np.floating):
        return 0.0
    largest = np.abs(np.where(seen, times, 0)).max(initial=0)
    return 2 * float(np.spacing(largest.astype(times.dtype)))


def distinct_lags(
    lags: Float[np.ndarray, "..."], rtol: float = 1e-5, atol: float = 0.0
) -> tuple[Float[np.ndarray, " U"], Int[np.ndarray, "..."]]:
    """Groups of lags, each within the tolerances of its smallest, as their means; and the group of each lag.

    A lag of 0 is a group of its own.
    """
    values, where, counts = np.unique(lags.astype(np.float64), return_inverse=True, return_counts=True)
    starts, at = [], 0
    while at < len(values):
        starts.append(at)
        reach = values[at] * (1 + rtol) + (atol if values[at] > 0 else 0)
        at = int(np.searchsorted(values, reach, side="right"))
    if not starts:
        return values, where.reshape(lags.shape).astype(np.int32)
    means = np.add.reduceat(values * counts, starts) / np.add.reduceat(counts, starts)
    groups = np.searchsorted(starts, np.arange(len(values)), side="right") - 1
    return means, groups[where].reshape(lags.shape).astype(np.int32)


def padded_lags(lags: Float[ArrayLike, " U"]) -> Float[np.ndarray, " V"]:
    """The lags and some of 0, on the host: irregular times of one shape then meet few shapes of tables, and programs.

    At most an eighth more, and none where there are up to 16.
    """
    lags = np.asarray(lags)
    unit = 1 << max(len(lags).bit_length() - _SIZE_BITS, 0)
    return np.pad(lags, (0, -len(lags) % unit))


def transition_matrices(
    rates: Float[ArrayLike, "*batch n n"], lags: Float[ArrayLike, " U"], *, method: Method = "auto"
) -> Float[Array, "*batch U n n"]:
    """P(t) for each lag, equation (1) or (2); rows are the state at the earlier time.

    Args:
        rates: q `[..., n, n]`, per unit of time; the diagonal is ignored.
        lags: `[U]`, at least 0. Those above 1e4 / Lam (float64: 1e8) are taken as so much; see `num_clipped_lags`.
        method: "auto" takes "taylor" for up to 4 lags in float32, else "uniformisation".

    Returns:
        P `[..., U, n, n]`. In float32 errors grow with Lam t, to 1e-4 at 1e4.

    Raises:
        ValueError: an unknown method.

    Examples:
        >>> from emberwalk.kernels.jump import transition_matrices
        >>> P = transition_matrices(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0.0, 0.5]))
        >>> np.asarray(P, np.float64).round(4).tolist()
        [[[1.0, 0.0], [0.0, 1.0]], [[0.6839, 0.3161], [0.3161, 0.6839]]]
    """
    return exponentials(generator(rates), lags, method=method)


def exponentials(
    Q: Float[Array, "*batch n n"], lags: Float[ArrayLike, " U"], *, method: Method = "auto"
) -> Float[Array, "*batch U n n"]:
    """expm(Q t) as a function of all n^2 entries of Q, which need not be a generator's.

    Args:
        Q: `[..., n, n]`, with entries at least 0 off the diagonal.
        lags: t `[U]`.
        method: as for `transition_matrices`.

    Raises:
        ValueError: an unknown method.

    Examples:
        >>> from emberwalk.kernels.jump import exponentials
        >>> P = exponentials(jnp.diag(jnp.array([-1.0, 0.0])), jnp.array([1.0]))
        >>> np.asarray(P[0], np.float64).round(4).tolist()
        [[0.3679, 0.0], [0.0, 1.0]]
    """
    if method not in ("auto", "taylor", "uniformisation"):
        raise ValueError(f'method must be "auto", "taylor" or "uniformisation", got {method!r}.')
    lags = jnp.asarray(lags, Q.dtype)
    few = Q.dtype != jnp.float64 and lags.shape[0] <= _TAYLOR_LAGS
    taylor = method == "taylor" or (method == "auto" and few)
    return (_taylor if taylor else _uniformise)(Q, lags)


def uniformisation_rate(Q: Float[Array, "n n"], lags: Float[Array, " U"]) -> Float[Array, ""]:
    """Lam. P does not depend on it; its floor keeps Q / Lam and its derivative finite at Q = 0."""
    longest = lags.max()
    floor = 1e-3 / jnp.where(longest > 0, longest, 1)
    return lax.stop_gradient(jnp.maximum(1.02 * jnp.max(-jnp.diagonal(Q)), floor))


def num_clipped_lags(
    rates: Float[ArrayLike, "*batch n n"], lags: Float[ArrayLike, " U"]
) -> Int[Array, "*batch"]:
    """How many lags are so long that `transition_matrices` shortens them: Lam t above 1e4 (float64: 1e8).

    The process has forgotten everything by then, unless its slowest rate is 1e-4 of its fastest.

    Args:
        rates: q `[..., n, n]`.
        lags: `[U]`.

    Examples:
        >>> from emberwalk.kernels.jump import num_clipped_lags
        >>> int(num_clipped_lags(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([1.0, 1e9])))
        1
    """
    Q = generator(rates)
    fastest = 1.02 * jnp.max(-jnp.diagonal(Q, axis1=-2, axis2=-1), -1)
    cap = _CAP[str(Q.dtype)]
    return jnp.sum(fastest[..., None] * jnp.asarray(lags, Q.dtype) > cap, -1)


@jax.jit
def floor_transitions(transitions: Float[Array, "..."]) -> Float[Array, "..."]:
    """P, at least 1e-30 (float64: 1e-300): what cannot happen is -69 nats (-691), not -inf."""
    return jnp.maximum(transitions, _SMALLEST[str(transitions.dtype)])


@jax.jit
def log_transitions(transitions: Float[Array, "..."]) -> Float[Array, "..."]:
    """log P, at least that of `floor_transitions`, with derivatives of every order, which are 0 at that floor."""
    smallest = _SMALLEST[str(transitions.dtype)]
    above = transitions > smallest
    return jnp.where(above, _log(jnp.where(above, transitions, 1)), math.log(smallest))


# By JAX's own rules 1 / P^2 stands alone in second derivatives: infinite in float32 from P = 1e-19 on.
@jax.custom_jvp
def _log(P: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.log(P)


@_log.defjvp
def _log_jvp(primals, tangents):
    (P,), (dP,) = primals, tangents
    return _log(P), dP * _inverse(P)


@jax.custom_jvp
def _inverse(P: Float[Array, "..."]) -> Float[Array, "..."]:
    return 1 / P


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    (P,), (dP,) = primals, tangents
    inverse = _inverse(P)
    return inverse, -(inverse * dP) * inverse


class _Scaled(NamedTuple):
    """Lags within the cap and over 2^s, s of each lag, and Lam."""

    lags: Float[Array, " U"]
    squarings: Int[Array, " U"]
    lam: Float[Array, ""]


def _scaled(Q: Float[Array, "n n"], lags: Float[Array, " U"], largest: float, most: int) -> _Scaled:
    """The fewest squarings that bring Lam t down to `largest`."""
    lam = uniformisation_rate(Q, lags)
    lags = jnp.minimum(lags, _CAP[str(Q.dtype)] / lam)
    halves = jnp.asarray(2.0 ** -np.arange(most + 1), Q.dtype)
    x = lax.stop_gradient(lam * lags)
    squarings = jnp.sum(x[:, None] * halves > largest, 1)
    return _Scaled(lags * halves[jnp.minimum(squarings, most)], squarings, lam)


# programs of loops, which a call outside of jit would compile anew
def _for_any_batch(table: Callable[..., Array]) -> Callable[..., Array]:
    return jax.jit(jnp.vectorize(table, signature="(n,n),(u)->(u,n,n)"))


@_for_any_batch
def _taylor(Q: Float[Array, "n n"], lags: Float[Array, " U"]) -> Float[Array, "U n n"]:
    """Equation (2), by Horner's rule."""
    most = math.ceil(math.log2(_CAP[str(Q.dtype)]))
    short, squarings, _ = _scaled(Q, lags, 1.0, most)
    scaled = Q * short[:, None, None]
    eye = jnp.broadcast_to(jnp.eye(Q.shape[0], dtype=Q.dtype), scaled.shape)

    def term(P, k):
        return eye + scaled @ P / k, None

    # a loop: written out, three derivatives of it are a hundred products to compile
    P, _ = lax.scan(term, eye, jnp.arange(_TAYLOR_ORDER, 0, -1, dtype=Q.dtype))

    def square(P, i):
        return jnp.where((squarings > i)[:, None, None], P @ P, P), None

    return lax.scan(square, P, jnp.arange(most))[0]


@_for_any_batch
def _uniformise(Q: Float[Array, "n n"], lags: Float[Array, " U"]) -> Float[Array, "U n n"]:
    """Equation (1). At lag 0 the weights are (1, 0, ...) and their derivative is Q: nothing is special there."""
    most = math.ceil(math.log2(_CAP[str(Q.dtype)] / _LARGEST_X))
    short, squarings, lam = _scaled(Q, lags, _LARGEST_X, most)
    eye = jnp.eye(Q.shape[0], dtype=Q.dtype)
    A = eye + Q / lam

    def power(A_k, _):
        return A_k @ A, A_k

    _, powers = lax.scan(power, eye, length=_MOST_TERMS)
    P = jnp.tensordot(_poisson(lam * short), powers, 1)
    needed = squarings.max(initial=0)

    def square(P, i):
        def once_more(P):
            return jnp.where((squarings > i)[:, None, None], P @ P, P)

        return lax.cond(i < needed, once_more, lambda P: P, P), None

    return lax.scan(square, P, jnp.arange(most))[0]


def _poisson(x: Float[Array, " U"]) -> Float[Array, "U 64"]:
    """x^k / k!, normalised. As products: k log x - lgamma(k + 1) loses five digits of float32."""
    ratios = x[:, None] / jnp.arange(1, _MOST_TERMS, dtype=x.dtype)
    terms = jnp.concatenate([jnp.ones_like(x)[:, None], jnp.cumprod(ratios, 1)], 1)
    return terms / terms.sum(1, keepdims=True)
