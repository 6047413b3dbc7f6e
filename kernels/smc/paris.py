"""The PaRIS statistic: smoothed additive functionals from the clouds of one sweep.

    beta_t^i = (1/M) sum_{j<=M} [beta_{t-1}^{J_ij} + h_t(x_{t-1}^{J_ij}, x_t^i)],   J_ij ~ B_t(i, .)   (1)
    B_t(i, l) ∝ w_{t-1}^l (m_t g_t)(c_{t-1}^l, x_t^i)
    statistic = sum_i W_T^i beta_T^i

Olsson and Westerborn (2017); on the clouds of a conditional sweep Cardoso and others (2023): if the
reference is a draw of p(x_{0:T} | y), the statistic has the mean E[sum_t h_t | y] exactly, for every N
and M, because given the clouds W and B are the law of the path that backward sampling draws. It varies
less than the functional of that one path. With an unconditional sweep it is biased by O(1/N).
The ancestor of a particle is a draw of B_t where particles come from m and g depends on x alone. With a
proposal q it is drawn with density w q; the particle's own weight, m g / q, then makes of it a draw of B_t
under the W that the statistic is a mean over.

Two ways to draw from, or average over, B_t:

    imh    J_i1 is the ancestor; each further one is a step of independence Metropolis
           from the last: propose l' ~ W_{t-1}, accept with (m g)(l') / (m g)(l).  O(N M), no bound on m
    dense  M = infinity: the average itself.  O(N^2), no random numbers

Rejection sampling runs as long as its slowest particle under vmap, and draws by a table of N x N
are the slowest of all. Sums over many stages are compensated (Kahan): in float32 a plain sum over 1e5
stages is off by .5.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key, PyTree

from .forward import History, Stages, Start
from .resampling import inverse_cdf, relative_weights, safe_log_weights
from .types import SSM, Carry, Cloud, Latents, Path, check_count, take

type Paris = Literal["auto", "imh", "dense"]
PARIS = ("auto", "imh", "dense")

# Up to this many particles the average over all pairs is the faster one, by kind of device (measured on a CPU:
# 8 particles .8 of the time of imh, 16 particles 1.8).
_DENSE_MAX = {"cpu": 8}
_DENSE_MAX_ELSEWHERE = 1024
# From here on asking for "dense" on a CPU is likely a mistake.
_DENSE_WARN = 4096
# Rows of the table of pairs are made in blocks of at most this many entries.
_MAX_PAIRS = 16 * 2**20


class Functional(NamedTuple):
    """An additive functional of a path, h_0(x_0) + sum_{t>=1} h_t, each an array or a pytree of them.

    Attributes:
        first: x_0 -> h_0(x_0).
        step: (x_0, x_{t-1}, x_t, t) -> h_t for t = 1, ..., T. x_0 is what it says at t = 1 and zeros
            later; x_{t-1} is zeros at t = 1: x_0 may be another pytree than the later states.
    """

    first: Callable[[Latents], PyTree[Array]]
    step: Callable[[Latents, Latents, Latents, Int[Array, ""]], PyTree[Array]]


def additive(h: Callable[[Latents, Latents, Int[Array, ""]], PyTree[Array]]) -> Functional:
    """sum_{t=0}^{T} h(x_{t-1}, x_t, t) where x_0 is of the same kind as the later states.

    Args:
        h: `(previous, current, t) -> array` or a pytree; at t = 0 `previous` is zeros.

    Examples:
        >>> from emberwalk.kernels.smc import Path, additive, of_path
        >>> lag_product = additive(lambda previous, current, t: previous * current)
        >>> float(of_path(lag_product, Path(jnp.array(1.0), jnp.array([2.0, 3.0]))))
        8.0
    """

    def first(initial):
        return h(jax.tree.map(jnp.zeros_like, initial), initial, jnp.array(0))

    def step(initial, previous, current, t):
        before = jax.tree.map(lambda start, later: jnp.where(t == 1, start, later), initial, previous)
        return h(before, current, t)

    return Functional(first, step)


def of_path(functional: Functional, path: Path) -> PyTree[Array]:
    """The functional of one path, all stages at once.

    Args:
        functional: see `Functional`.
        path: x_{0:T}.

    Examples:
        >>> from emberwalk.kernels.smc import Path, additive, of_path
        >>> total = additive(lambda previous, current, t: current)
        >>> float(of_path(total, Path(jnp.array(1.0), jnp.array([2.0, 3.0]))))
        6.0
    """
    length = jax.tree.leaves(path.latents)[0].shape[0]
    times = jnp.arange(1, length + 1)

    def stage(previous, current, t):
        initial = jax.tree.map(lambda leaf: jnp.where(t == 1, leaf, jnp.zeros_like(leaf)), path.initial)
        return functional.step(initial, previous, current, t)

    previous = jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]]), path.latents)
    terms = jax.vmap(stage)(previous, path.latents, times)
    return jax.tree.map(lambda first, rest: first + rest.sum(0), functional.first(path.initial), terms)


class Compensated(NamedTuple):
    """A sum over stages and what rounding has added to it (Kahan); of beta_t^i, with a leading axis N.

    Attributes:
        sum: as rounded.
        lost: to be taken off the next term.
    """

    sum: PyTree[Float[Array, "..."]]
    lost: PyTree[Float[Array, "..."]]


def check_paris(paris: str, num_backward: int) -> None:
    """Refuse values that mean nothing."""
    if paris not in PARIS:
        raise ValueError(f"paris must be one of {PARIS}, got {paris!r}.")
    check_count("num_backward", num_backward, 1)


def check_smoothable(ssm: SSM) -> None:
    """Refuse a model whose functionals cannot be smoothed."""
    if ssm.order != 1:
        raise ValueError(
            f"A functional needs a model of Markov order 1, got order {ssm.order}: with more lags the backward "
            "kernel is degenerate. Take the mean of the functional over paths drawn by MCMC instead."
        )


def choose_paris(paris: Paris, num_particles: int) -> Paris:
    """ "imh" or "dense": for "auto" the faster of them on this kind of device."""
    backend = jax.default_backend()
    if paris == "auto":
        return "dense" if num_particles <= _DENSE_MAX.get(backend, _DENSE_MAX_ELSEWHERE) else "imh"
    if paris == "dense" and backend == "cpu" and num_particles > _DENSE_WARN:
        warnings.warn(
            f'paris="dense" with num_particles={num_particles} evaluates N^2 = {num_particles**2:.2g} densities a '
            f'stage, {4e-9 * min(num_particles**2, _MAX_PAIRS):.2g} GB of them at a time. On a CPU take paris="imh", '
            "which is O(N).",
            stacklevel=2,
        )
    return paris


class Smoother(NamedTuple):
    """Equation (1) of one functional, stage by stage.

    Attributes:
        first: x_0^i -> beta_0^i, for the N of the sweep.
        next: `next_beta` without what stays the same from stage to stage.
    """

    first: Callable[[Latents], Compensated]
    next: Callable[..., Compensated]


def smoother(ssm: SSM, functional: Functional, num: int, paris: Paris, num_backward: int) -> Smoother:
    """The statistic of `functional` with N = `num`.

    Args:
        ssm: the model; its order must be 1.
        functional: what is smoothed.
        num: number of particles.
        paris: "imh", "dense", or "auto".
        num_backward: M, of "imh"; 2 is enough (Olsson and Westerborn 2017), 1 is the genealogy.
    """
    check_paris(paris, num_backward)
    check_smoothable(ssm)
    which = choose_paris(paris, num)
    return Smoother(
        partial(first_beta, functional, num=num),
        partial(next_beta, ssm, functional, which, num_backward),
    )


def smoothed(key: Key[Array, ""], smooth: Smoother, first: Start, history: History) -> PyTree[Array]:
    """sum_i W_T^i beta_T^i, equation (1), of the clouds of a sweep."""
    times = jnp.arange(1, history.stages.log_weights.shape[0] + 1)
    beta = smooth_stages(
        key, smooth, smooth.first(history.initial), history.initial, first.cloud, times, history.stages
    )
    return estimate(beta, history.last.log_weights)


def smooth_stages(
    key: Key[Array, ""],
    smooth: Smoother,
    beta: Compensated,
    initial: Latents,
    cloud: Cloud,
    times: Int[Array, "S"],
    stages: Stages,
) -> Compensated:
    """beta of the last of the stages `times`; `beta` and `cloud` are of the stage before them."""

    def step(state, stage):
        beta, previous = state
        t, (carry, log_weights, latents, ancestors) = stage
        before = Cloud(previous, carry, log_weights)
        beta = smooth.next(random.fold_in(key, t), beta, initial, before, latents, ancestors, t)
        return (beta, latents), None

    (beta, _), _ = lax.scan(step, (beta, cloud.latents), (times, stages))
    return beta


def estimate(beta: Compensated, log_weights: Float[Array, "N"]) -> PyTree[Array]:
    """sum_i W^i beta^i; NaN if no weight is positive."""
    weights, _ = relative_weights(log_weights)
    weights = weights / weights.sum()
    return jax.tree.map(lambda s, lost: jnp.tensordot(weights, s - lost, 1), *beta)


def first_beta(functional: Functional, initial: Latents, num: int) -> Compensated:
    """beta_0^i = h_0(x_0^i)."""
    in_slots = 0 if jax.tree.leaves(initial) else None
    total = jax.vmap(functional.first, in_axes=(in_slots,), axis_size=num)(initial)
    total = jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.result_type(float))), total
    )
    return Compensated(total, jax.tree.map(jnp.zeros_like, total))


def next_beta(
    ssm: SSM,
    functional: Functional,
    paris: Paris,
    num_backward: int,
    key: Key[Array, ""],
    beta: Compensated,
    initial: Latents,
    before: Cloud,
    latents: Latents,
    ancestors: Int[Array, "N"],
    t: Int[Array, ""],
) -> Compensated:
    """beta_t^i of all particles, equation (1); `before` is the cloud of stage t - 1."""
    initial = jax.tree.map(lambda leaf: jnp.where(t == 1, leaf, jnp.zeros_like(leaf)), initial)

    def term(one_initial, previous, current):
        return functional.step(one_initial, previous, current, t)

    if paris == "dense":
        return _average(ssm, term, beta, initial, before, latents, ancestors, t)
    indices = imh_indices(key, ssm, before, latents, ancestors, num_backward, t)
    by_draw = jax.vmap(jax.vmap(term, in_axes=(0, 0, None)))
    terms = by_draw(take(initial, indices), take(before.latents, indices), latents)
    base, lost = take(beta.sum, ancestors), jax.tree.map(lambda leaf: leaf[indices].mean(1), beta.lost)
    others = jax.tree.map(lambda leaf, own: (leaf[indices] - own[:, None]).mean(1), beta.sum, base)
    return _add(Compensated(base, lost), others, jax.tree.map(lambda leaf: leaf.mean(1), terms))


def _add(beta: Compensated, others: PyTree[Array], terms: PyTree[Array]) -> Compensated:
    """beta + h, where beta is one of the sums that are averaged and `others` the mean distance to them.

    An average of the sums themselves would be rounded to their size at every stage.
    """
    return plus(beta, jax.tree.map(jnp.add, others, terms))


def plus(total: Compensated, terms: PyTree[Array]) -> Compensated:
    """total + terms (Kahan)."""
    corrected = jax.tree.map(jnp.subtract, terms, total.lost)
    new = jax.tree.map(jnp.add, total.sum, corrected)
    lost = jax.tree.map(lambda after, before, term: (after - before) - term, new, total.sum, corrected)
    return Compensated(new, lost)


def _log_factors(ssm: SSM, carry: Carry, latents: Latents, t, *, pairwise: bool) -> Float[Array, "N"]:
    """log (m_t g_t)(c_{t-1}, x_t): of N pairs, or of N carries and one x_t."""
    evaluate = jax.vmap(ssm.evaluate, in_axes=(0, 0 if pairwise else None, None))
    factors = evaluate(carry, latents, t)
    return safe_log_weights(factors.log_transition + factors.log_likelihood)[0]


# Independence Metropolis


def imh_indices(
    key: Key[Array, ""],
    ssm: SSM,
    before: Cloud,
    latents: Latents,
    ancestors: Int[Array, "N"],
    num_backward: int,
    t: Int[Array, ""],
) -> Int[Array, "N M"]:
    """J_i1, ..., J_iM: the ancestor, then steps of independence Metropolis that leave B_t(i, .) invariant."""
    num = ancestors.shape[0]

    def log_factor(indices):
        return _log_factors(ssm, take(before.carry, indices), latents, t, pairwise=True)

    def step(state, key):
        indices, current = state
        # fresh draws: proposals that made the cloud would not be independent of it
        key_propose, key_accept = random.split(key)
        proposed = inverse_cdf(key_propose, before.log_weights, num)
        there = log_factor(proposed)
        accepted = accept(key_accept, there, current)
        state = jnp.where(accepted, proposed, indices), jnp.where(accepted, there, current)
        return state, state[0]

    if num_backward == 1:
        return ancestors[:, None]
    start = (ancestors, log_factor(ancestors))
    _, further = lax.scan(step, start, random.split(key, num_backward - 1))
    return jnp.concatenate([ancestors[None], further]).T


def accept(key: Key[Array, ""], there: Float[Array, "N"], here: Float[Array, "N"]) -> Array:
    """Accept with probability min(1, exp(there - here)); never where the proposal is impossible."""
    log_uniform = jnp.log(random.uniform(key, there.shape, there.dtype))
    ratio = jnp.where(jnp.isfinite(here), there - here, jnp.where(jnp.isfinite(there), jnp.inf, -jnp.inf))
    return log_uniform < ratio


# The average


def _average(ssm, term, beta: Compensated, initial, before: Cloud, latents, ancestors, t) -> Compensated:
    """beta_t^i with M = infinity: rows of B_t times beta_{t-1} and h_t, in blocks of rows."""
    num = ancestors.shape[0]
    in_slots = 0 if jax.tree.leaves(initial) else None

    def row(particle):
        current, ancestor = particle
        weights = _backward_weights(ssm, before, current, ancestor, t)
        terms = jax.vmap(term, in_axes=(in_slots, 0, None), axis_size=num)(initial, before.latents, current)

        def average(leaf):
            return jnp.tensordot(weights, leaf, 1)

        base, lost = take(beta.sum, ancestor), jax.tree.map(average, beta.lost)
        others = jax.tree.map(lambda leaf, own: average(leaf - own), beta.sum, base)
        return Compensated(base, lost), others, jax.tree.map(average, terms)

    particles = (latents, ancestors)
    rows = max(1, _MAX_PAIRS // num)
    return _add(*(jax.vmap(row)(particles) if rows >= num else lax.map(row, particles, batch_size=rows)))


def _backward_weights(ssm: SSM, before: Cloud, current: Latents, ancestor, t) -> Float[Array, "N"]:
    """B_t(i, .) of one particle; its ancestor alone where no particle is possible."""
    factors = _log_factors(ssm, before.carry, current, t, pairwise=False)
    weights, _ = relative_weights(before.log_weights + factors)
    total = weights.sum()
    alone = jnp.arange(weights.shape[0]) == ancestor
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), alone.astype(weights.dtype))
