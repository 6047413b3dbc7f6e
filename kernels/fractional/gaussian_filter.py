"""The exact posterior of the noises of a linear model with Gaussian sites: information backward, draws forward.

    z_0 = c + L b,   z+ = M z + c + L e,   b, e ~ N(0, I);   a site is exp(h'x - x'J x / 2) at x = z[:d] (1)
    log beta(z) = k + v'z - z'P z / 2, of all sites to come; from P = v = k = 0 at the end, backward:    (2)
        P += E J E',  v += E h                                    (a site; E embeds x in z)
        u = v - P c,  S = I + L'P L = C C',  G = -S^-1 L'P M,  m = S^-1 L'u
        k += v'c - c'P c / 2 - log det C + |C^-1 L'u|^2 / 2
        v <- M'(u - P L m),   P <- (M + L G)' P (M + L G) + G'G
    e | z ~ N(m + G z, S^-1):   e = m + G z + C'^-1 xi,   xi ~ N(0, I)                                   (3)
    log q(e | z) = log det C - (|xi|^2 + r log 2 pi) / 2                                                 (4)

The start is a step with M = 0, and k after it the log evidence. (3) is the exact posterior: log p(sites, e) - log q(e)
is the log evidence for every single draw. Where the model's own step is not linear, (1) is its linearisation, (3)
is run on the step itself, and what the draws of that difference vary by says how good the guide is.

What a reader would get wrong: the site of time n + 1 enters before the step from n to n + 1 is taken back. And a
guide that shifts the noise but leaves its variance at I has a floor on its gap (`girsanov.control_floor`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key, PyTree

type Point = Float[Array, " n"]
type Noise = Float[Array, " r"]
type Start = Callable[[Float[Array, " r0"]], Point]
type Step = Callable[[Point, Noise, PyTree[Array]], Point]
type Shift = Callable[[Point, PyTree[Array]], Noise]


class Sites(NamedTuple):
    """Gaussian factors exp(h'x - x'J x / 2) of the times 0, ..., N; zeros where nothing is seen.

    Attributes:
        h: `[N + 1, d]`; y / s^2 for an observation y with sd s.
        J: `[N + 1, d, d]`, symmetric, no eigenvalue below 0; 1 / s^2.
    """

    h: Float[Array, "N+1 d"]
    J: Float[Array, "N+1 d d"]


class Linear(NamedTuple):
    """The model of equation (1); x is the first d entries of z.

    Attributes:
        M: `[N, n, n]`.
        c: `[N, n]`.
        L: `[N, n, r]`.
        start_mean: c of the start, `[n]`: x_0, or its mean, and 0 for the bank.
        start_factor: L of the start, `[n, r0]`: the bank's `initial_factor`, and the sd of x_0 where it is random.
    """

    M: Float[Array, "N n n"]
    c: Float[Array, "N n"]
    L: Float[Array, "N n r"]
    start_mean: Float[Array, " n"]
    start_factor: Float[Array, "n r0"]


class Gain(NamedTuple):
    """Law of the noise of one step given z, equation (3); of all steps with a leading axis N.

    Attributes:
        m: `[r]`.
        G: `[r, n]`.
        chol: C, `[r, r]`, lower, of the *inverse* covariance S.
    """

    m: Float[Array, "*N r"]
    G: Float[Array, "*N r n"]
    chol: Float[Array, "*N r r"]


class Information(NamedTuple):
    """log beta(z) = k + v'z - z'P z / 2."""

    P: Float[Array, "n n"]
    v: Float[Array, " n"]
    k: Float[Array, ""]


class Gains(NamedTuple):
    """The guide.

    Attributes:
        start: law of b; its G is 0.
        steps: laws of e_0, ..., e_{N-1}.
        info: of all sites, at time 0.
        log_evidence: log of the expected product of all sites; constants of the sites are the caller's.
    """

    start: Gain
    steps: Gain
    info: Information
    log_evidence: Float[Array, ""]


class Draw(NamedTuple):
    """What `simulate` returns; *B where several sequences are drawn at once.

    Attributes:
        b: noise of the start, `[*B, r0]`.
        e: noises of the steps, `[N, *B, r]`.
        z: the path, `[N + 1, *B, n]`.
        log_prob: log q(b, e), `[*B]`.
    """

    b: Float[Array, "*B r0"]
    e: Float[Array, "N *B r"]
    z: Float[Array, "N+1 *B n"]
    log_prob: Float[Array, "*B"]


def backward(linear: Linear, sites: Sites, *, checkpoint: bool = False) -> Gains:
    """Equation (2), in O(N n^3).

    Args:
        linear: the model, or its linearisation.
        sites: what is known of x.
        checkpoint: True stores every sqrt(N)-th information only for a derivative and makes the others anew: a third
            of the memory. It stays O(N), as the matrices and gains of all steps are.

    Examples:
        >>> from emberwalk.kernels.fractional import Linear, Sites, backward
        >>> one = jnp.ones((1, 1, 1))
        >>> walk = Linear(one, jnp.zeros((1, 1)), one, jnp.zeros(1), jnp.zeros((1, 1)))
        >>> y_is_2 = Sites(jnp.array([[0.0], [2.0]]), jnp.array([[[0.0]], [[1.0]]]))
        >>> round(float(backward(walk, y_is_2).steps.m[0, 0]), 4)  # half of what is seen, with unit noise on both
        1.0
    """
    joined, kicks = _homogeneous(linear.M, linear.c), _padded(linear.L)
    seen = _homogeneous_sites(sites, joined.shape[-1])

    def take_back(Q, inputs):
        M, L, site = inputs
        return _take_back(Q + site, M, L)

    Q, laws = _scan_back(take_back, jnp.zeros_like(seen[0]), (joined, kicks, seen[1:]), checkpoint)
    Q = Q + seen[0]
    # of the size of z, as there may be no step
    start_joined = _homogeneous(jnp.zeros_like(sites.J[0], shape=linear.M.shape[1:]), linear.start_mean)
    final, start_law = _take_back(Q, start_joined, _padded(linear.start_factor))
    steps, start = _gain(*laws), _gain(*start_law)
    lost = _half_logdet(steps.chol).sum()
    info = Information(Q[:-1, :-1], -Q[:-1, -1], -Q[-1, -1] / 2 - lost)
    return Gains(start, steps, info, -final[-1, -1] / 2 - lost - _half_logdet(start.chol))


def simulate(
    key: Key[Array, ""],
    gains: Gains,
    start: Start,
    step: Step,
    inputs: PyTree[Array] = None,
    shift: Shift | None = None,
    *,
    checkpoint: bool = False,
) -> Draw:
    """A draw of the noises from the guide, equation (3), and the path that they drive.

    Args:
        key: of the draw.
        gains: from `backward`. Several sequences that `start` and `step` take at once have their axes *B first in
            `start` and behind N in `steps`: `jax.vmap(backward, out_axes=Gains(0, 1, 0, 0))`.
        start: b -> z_0, the model's own.
        step: (z, e, inputs of the step) -> z+, the model's own.
        inputs: of all steps, leading axis N.
        shift: (z, inputs of the step) -> what is added to m + G z, `[*B, r]`: a residual to be learnt.
        checkpoint: True stores the path only for a derivative, and not what is within `step` and `shift`: for networks.

    Examples:
        >>> from emberwalk.kernels.fractional import Linear, Sites, backward, simulate
        >>> one = jnp.ones((1, 1, 1))
        >>> walk = Linear(one, jnp.zeros((1, 1)), one, jnp.zeros(1), jnp.zeros((1, 1)))
        >>> gains = backward(walk, Sites(jnp.zeros((2, 1)), jnp.zeros((2, 1, 1))))
        >>> draw = simulate(random.key(0), gains, lambda b: jnp.zeros(1), lambda z, e, _: z + e)
        >>> draw.z.shape
        (2, 1)
    """
    key_start, key_steps = random.split(key)
    xi0 = random.normal(key_start, gains.start.m.shape, gains.start.m.dtype)
    xi = random.normal(key_steps, gains.steps.m.shape, gains.steps.m.dtype)
    return driven(xi0, xi, gains, start, step, inputs, shift, checkpoint=checkpoint)


def driven(
    xi0: Float[Array, "*B r0"],
    xi: Float[Array, "N *B r"],
    gains: Gains,
    start: Start,
    step: Step,
    inputs: PyTree[Array] = None,
    shift: Shift | None = None,
    *,
    checkpoint: bool = False,
) -> Draw:
    """The draw that given normals make, equation (3): of zeros, the path on which the guide is centred.

    Args:
        xi0: of the start, `[*B, r0]`.
        xi: of the steps, `[N, *B, r]`.
        gains: as for `simulate`.
        start: as for `simulate`.
        step: as for `simulate`.
        inputs: as for `simulate`.
        shift: as for `simulate`.
        checkpoint: as for `simulate`.

    Examples:
        >>> from emberwalk.kernels.fractional import Linear, Sites, backward, driven
        >>> one = jnp.ones((1, 1, 1))
        >>> walk = Linear(one, jnp.zeros((1, 1)), one, jnp.zeros(1), jnp.zeros((1, 1)))
        >>> y_is_2 = Sites(jnp.array([[0.0], [2.0]]), jnp.array([[[0.0]], [[1.0]]]))
        >>> gains, zeros = backward(walk, y_is_2), (jnp.zeros(1), jnp.zeros((1, 1)))
        >>> centre = driven(*zeros, gains, lambda b: jnp.zeros(1), lambda z, e, _: z + e)
        >>> round(float(centre.z[1, 0]), 4)
        1.0
    """
    b = gains.start.m + _whiten_back(gains.start.chol, xi0)
    # all that does not need z is done for all steps at once
    base = gains.steps.m + _whiten_back(gains.steps.chol, xi)
    z0 = start(b)

    def advance(z: Point, step_inputs):
        base, G, inputs = step_inputs
        e = base + _times(G, z) + (0.0 if shift is None else shift(z, inputs))
        z = step(z, e, inputs)
        return z, (z, e)

    body = jax.checkpoint(advance) if checkpoint else advance
    _, (z, e) = lax.scan(body, z0, (base, gains.steps.G, inputs))
    log_prob = _log_prob(gains.start.chol, xi0) + _log_prob(gains.steps.chol, xi).sum(0)
    return Draw(b, e, jnp.concatenate([z0[None], z]), log_prob)


def log_prob(
    gains: Gains,
    start: Start,
    step: Step,
    b: Float[Array, "*B r0"],
    e: Float[Array, "N *B r"],
    inputs: PyTree[Array] = None,
    shift: Shift | None = None,
) -> Float[Array, "*B"]:
    """log q(b, e), equation (4): what `simulate` gives with its draw, for noises from anywhere.

    Args:
        gains: from `backward`.
        start: as for `simulate`.
        step: as for `simulate`.
        b: noise of the start, `[*B, r0]`.
        e: noises of the steps, `[N, *B, r]`.
        inputs: as for `simulate`.
        shift: as for `simulate`.

    Examples:
        >>> from emberwalk.kernels.fractional import Linear, Sites, backward, log_prob
        >>> one = jnp.ones((1, 1, 1))
        >>> walk = Linear(one, jnp.zeros((1, 1)), one, jnp.zeros(1), jnp.zeros((1, 1)))
        >>> gains = backward(walk, Sites(jnp.zeros((2, 1)), jnp.zeros((2, 1, 1))))
        >>> z0, add = (lambda b: jnp.zeros(1)), (lambda z, e, _: z + e)
        >>> round(float(log_prob(gains, z0, add, jnp.zeros(1), jnp.zeros((1, 1)))), 4)  # two standard normals
        -1.8379
    """

    def advance(z: Point, step_inputs):
        m, G, e, inputs = step_inputs
        mean = m + _times(G, z) + (0.0 if shift is None else shift(z, inputs))
        return step(z, e, inputs), mean

    _, means = lax.scan(advance, start(b), (gains.steps.m, gains.steps.G, e, inputs))
    xi0 = _whiten(gains.start.chol, b - gains.start.m)
    xi = _whiten(gains.steps.chol, e - means)
    return _log_prob(gains.start.chol, xi0) + _log_prob(gains.steps.chol, xi).sum(0)


def _take_back(Q: Array, M: Array, L: Array) -> tuple[Array, tuple[Array, Array]]:
    """One step of equation (2), from after the step to before it, in homogeneous coordinates (z, 1).

    With Q = [[P, -v], [-v', -2 k]] log beta is -(z, 1)'Q (z, 1) / 2, and (2) is one square to be completed; what log
    det S adds to k is left to the caller. Returns Q before the step, and [G, m] and S.
    """
    QL = Q @ L
    S = jnp.eye(L.shape[1], dtype=Q.dtype) + L.T @ QL
    G = -_inverse(S) @ (QL.T @ M)
    closed = M + L @ G
    Q = closed.T @ Q @ closed + G.T @ G
    return (Q + Q.T) / 2, (G, S)


@jax.custom_jvp
def _inverse(S: Float[Array, "r r"]) -> Float[Array, "r r"]:
    """Of a small symmetric matrix without eigenvalues below 1, by its Cholesky factor.

    Its derivative is two products. Through the factor and triangular solves it would be most of what a gradient of
    the filter costs.
    """
    root = solve_triangular(jnp.linalg.cholesky(S), jnp.eye(len(S), dtype=S.dtype), lower=True)
    return root.T @ root


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    (S,), (dS,) = primals, tangents
    inverse = _inverse(S)
    return inverse, -inverse @ dS @ inverse


def _gain(G: Float[Array, "*N r n+1"], S: Float[Array, "*N r r"]) -> Gain:
    """Of all steps at once: nothing in the recursion needs C."""
    return Gain(G[..., -1], G[..., :-1], jnp.linalg.cholesky(S))


def _homogeneous(M: Float[Array, "*N n n"], c: Float[Array, "*N n"]) -> Float[Array, "*N n+1 n+1"]:
    """(z, 1) -> (M z + c, 1)."""
    last = jnp.zeros((*M.shape[:-2], 1, M.shape[-1] + 1), M.dtype).at[..., -1].set(1.0)
    return jnp.concatenate([jnp.concatenate([M, c[..., None]], -1), last], -2)


def _padded(L: Float[Array, "*N n r"]) -> Float[Array, "*N n+1 r"]:
    """e -> (L e, 0)."""
    return jnp.concatenate([L, jnp.zeros_like(L[..., :1, :])], -2)


def _homogeneous_sites(sites: Sites, size: int) -> Float[Array, "N+1 n+1 n+1"]:
    """What each adds to Q."""
    (num, d), dtype = sites.h.shape, sites.h.dtype
    Q = jnp.zeros((num, size, size), dtype).at[:, :d, :d].set(sites.J)
    return Q.at[:, :d, -1].set(-sites.h).at[:, -1, :d].set(-sites.h)


def _half_logdet(chol: Float[Array, "*N r r"]) -> Float[Array, "*N"]:
    """log det S / 2."""
    return jnp.sum(jnp.log(jnp.diagonal(chol, axis1=-2, axis2=-1)), -1)


def _scan_back(body: Callable, carry: Array, inputs: PyTree[Array], checkpoint: bool):
    """A reverse scan; checkpointed, one of sqrt(N) scans, of which a derivative stores the ends."""
    num = jax.tree.leaves(inputs)[0].shape[0]
    size = math.isqrt(num)
    if not checkpoint or size < 2:
        return lax.scan(body, carry, inputs, reverse=True)
    rest = num % size
    early = jax.tree.map(lambda x: x[:rest], inputs)
    late = jax.tree.map(lambda x: x[rest:].reshape(-1, size, *x.shape[1:]), inputs)

    @jax.checkpoint
    def segment(carry, inputs):
        return lax.scan(body, carry, inputs, reverse=True)

    carry, late_out = lax.scan(segment, carry, late, reverse=True)
    carry, early_out = segment(carry, early)
    join = lambda a, b: jnp.concatenate([a, b.reshape(-1, *b.shape[2:])])  # noqa: E731
    return carry, jax.tree.map(join, early_out, late_out)


def _times(matrix: Float[Array, "*B m n"], vector: Float[Array, "*B n"]) -> Float[Array, "*B m"]:
    return jnp.einsum("...mn,...n->...m", matrix, vector)


def _whiten(chol: Float[Array, "*B r r"], e: Float[Array, "*B r"]) -> Float[Array, "*B r"]:
    """xi = C'e."""
    return jnp.einsum("...ij,...i->...j", chol, e)


def _whiten_back(chol: Float[Array, "*B r r"], xi: Float[Array, "*B r"]) -> Float[Array, "*B r"]:
    """e = C'^-1 xi."""
    return solve_triangular(chol, xi[..., None], lower=True, trans=1)[..., 0]


def _log_prob(chol: Float[Array, "*B r r"], xi: Float[Array, "*B r"]) -> Float[Array, "*B"]:
    """Equation (4)."""
    return _half_logdet(chol) - (jnp.sum(xi**2, -1) + xi.shape[-1] * math.log(2 * math.pi)) / 2
