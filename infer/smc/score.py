"""The score of the parameters, by particles.

    S(theta) = grad log p(y; theta) = E[grad log p(x_{0:T}, y; theta) | y]                        (1)
    grad log p(x_{0:T}, y; theta) = h_0(x_0) + sum_{t=1}^{T} h_t(x_{t-1}, x_t)
    h_t = grad log (m_t g_t)(c_{t-1}(theta), x_t),   c_{t-1}(theta) = F_{t-1}(c_{t-2}(theta), x_{t-1})   (2)

(1) is Fisher's identity. `score_of_sweeps` takes the mean in it by the PaRIS statistic of h or by
the drawn path (Poyiadjis, Doucet and Singh 2011; Cardoso and others 2023). With a prior of theta,
log p(x, y; theta) has its log density, in constrained space.

What is easily forgotten is the gradient through the carry, which may hold x_{t-1} - mu, or a decay
that theta drives. In a model of order 1 the leaves of c_{t-1} that a latent reaches forget c_{t-2}, so
that any value will do there; the others ("clocks") are a trajectory in theta alone, and are followed
to first order.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ...kernels.smc import SSM, Functional, Path, PathMove, SweepResult, conditional_sweep
from ...kernels.smc.paris import Paris
from ...kernels.smc.types import Carry, take
from .parameters import ParametricModel
from .path_model import SiteValues

type Score = Literal["paris", "path"]
SCORES = ("paris", "path")


class SweepOptions(NamedTuple):
    """How the score is had from sweeps.

    Attributes:
        num_particles: N.
        score: "paris" smooths h on the clouds; "path" takes one gradient at the drawn path.
        num_sweeps: sweeps a score.
        burn_in: how many of them only move the path.
        path_move: "backward" or "trace".
        paris: see `kernels.smc.conditional_sweep`.
        num_backward: see there.
    """

    num_particles: int
    score: Score = "paris"
    num_sweeps: int = 1
    burn_in: int = 0
    path_move: PathMove = "backward"
    paris: Paris = "auto"
    num_backward: int = 2


class ScoreEstimate(NamedTuple):
    """What the sweeps gave.

    Attributes:
        score: S(theta), the mean over the sweeps after burn-in, a value each site of theta; NaN if in one of
            them some stage had no possible particle.
        path: the last path.
        log_evidence: mean over the same sweeps, see `SweepResult`.
        num_nonfinite: of all sweeps.
    """

    score: SiteValues
    path: Path
    log_evidence: Float[Array, ""]
    num_nonfinite: Int[Array, ""]


def score_of_sweeps(
    key: Array, model: ParametricModel, theta: SiteValues, path: Path, options: SweepOptions
) -> ScoreEstimate:
    """S(theta), equation (1), from conditional sweeps that begin at `path`.

    If `path` is a draw of p(x_{0:T} | y; theta), the estimate has the mean S(theta) for every N.
    """
    _, unravel = ravel_pytree(theta)
    ssm = model.ssm(theta)
    functional = score_functional(model, theta, path) if options.score == "paris" else None

    def sweep(key, path: Path, functional: Functional | None) -> SweepResult:
        return conditional_sweep(
            key, ssm, path, options.num_particles, path_move=options.path_move,
            functional=functional, paris=options.paris, num_backward=options.num_backward,
        )  # fmt: skip

    def move(path: Path, key):
        moved = sweep(key, path, None)
        return moved.path, moved.num_nonfinite

    def measure(path: Path, key):
        moved = sweep(key, path, functional)
        score: Any = path_score(model, theta, moved.path) if functional is None else moved.statistic
        # a path that theta has made impossible stays, and its score means nothing
        score = jnp.where(moved.impossible.any(), jnp.nan, jnp.asarray(score))
        return moved.path, (score, moved.log_evidence, moved.num_nonfinite)

    keys = random.split(key, options.num_sweeps)
    path, bad = _repeat(move, path, keys[: options.burn_in]) if options.burn_in else (path, jnp.zeros(1, int))
    path, (scores, evidences, more) = _repeat(measure, path, keys[options.burn_in :])
    num_nonfinite = bad.sum(dtype=jnp.int32) + more.sum(dtype=jnp.int32)
    return ScoreEstimate(unravel(scores.mean(0)), path, evidences.mean(), num_nonfinite)


def _repeat(move: Callable, path: Path, keys: Array) -> tuple[Path, PyTree[Array]]:
    """`move` for each key in turn; a loop of one would compile what it wraps for nothing."""
    if keys.shape[0] > 1:
        return lax.scan(move, path, keys)
    path, made = move(path, keys[0])
    return path, jax.tree.map(lambda leaf: leaf[None], made)


def path_score(model: ParametricModel, theta: SiteValues, path: Path) -> Float[Array, "P"]:
    """grad log p(x_{0:T}, y; theta) of one path, the values of theta in one row."""
    flat, unravel = ravel_pytree(theta)
    return jax.grad(lambda flat: model.log_joint(unravel(flat), path))(flat)


def score_functional(model: ParametricModel, theta: SiteValues, reference: Path) -> Functional:
    """h of equation (2), the values of theta in one row; the model must have order 1.

    `reference` is any possible path: its states stand where a stage has none of its own.
    """
    flat, unravel = ravel_pytree(theta)
    clocks = _Clocks(model, flat, unravel, reference)

    def first(initial):
        def log_start(flat):
            return model.path.log_start(model.at(unravel(flat)), initial)

        return _gradient(log_start, flat)

    def step(initial, previous, current, t):
        # a state that a stage does not have is zeros there, where a density may have no derivative
        is_first = t == 1
        start = _choose(is_first, initial, reference.initial)
        previous = _choose(is_first, take(reference.latents, 0), previous)

        def log_factors(flat):
            ssm = model.ssm(unravel(flat))
            later = ssm.evaluate(clocks.carry(flat, t - 2), previous, jnp.maximum(t - 1, 1)).carry
            carry = _choose(is_first, ssm.init_carry(start), later)
            factors = ssm.evaluate(carry, current, t)
            return factors.log_transition + factors.log_likelihood

        return _gradient(log_factors, flat)

    return Functional(first, step)


def _choose(condition: Array, yes: PyTree[Array], no: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _gradient(log_density: Callable, flat: Float[Array, "P"]) -> Float[Array, "P"]:
    """The gradient; 0 where the density is 0 or no number: such a state has weight 0, and 0 times NaN is NaN."""
    value, gradient = jax.value_and_grad(log_density)(flat)
    return jnp.where(jnp.isfinite(value), gradient, 0.0)


class _Clocks:
    """c_0, ..., c_{T-1} of the leaves that no latent reaches, to first order in theta."""

    def __init__(self, model: ParametricModel, flat: Array, unravel: Callable, reference: Path):
        self.base, self.stochastic = flat, model.path.stochastic
        self.some = jax.tree.map(lax.stop_gradient, model.ssm(unravel(flat)).init_carry(reference.initial))

        def trajectory(flat: Array) -> list[Array]:
            return self._trajectory(model.ssm(unravel(flat)), reference)

        self.leaves, self.slopes = trajectory(flat), [None] * self.stochastic.count(False)
        moving = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in self.leaves]
        if any(moving):

            def moving_leaves(flat: Array) -> list[Array]:
                return [leaf for leaf, moves in zip(trajectory(flat), moving, strict=True) if moves]

            slopes = iter(jax.jacfwd(moving_leaves)(flat))
            self.slopes = [next(slopes) if moves else None for moves in moving]

    def _trajectory(self, ssm: SSM, reference: Path) -> list[Array]:
        if all(self.stochastic):
            return []

        def advance(clock: list[Array], stage):
            t, latents = stage
            return self._split(ssm.evaluate(self._fill(clock), latents, t).carry), clock

        times = jnp.arange(1, ssm.length + 1)
        start = self._split(ssm.init_carry(reference.initial))
        return lax.scan(advance, start, (times, reference.latents))[1]

    def carry(self, flat: Array, index: Int[Array, ""]) -> Carry:
        """c_index at theta + d theta, an arbitrary value in the leaves that a latent reaches."""
        index = jnp.maximum(index, 0)

        def leaf_at(leaf: Array, slope: Array | None) -> Array:
            return leaf[index] if slope is None else leaf[index] + slope[index] @ (flat - self.base)

        return self._fill([leaf_at(*one) for one in zip(self.leaves, self.slopes, strict=True)])

    def _split(self, carry: Carry) -> list[Array]:
        return [leaf for leaf, s in zip(jax.tree.leaves(carry), self.stochastic, strict=True) if not s]

    def _fill(self, clock: list[Array]) -> Carry:
        leaves, tree = jax.tree.flatten(self.some)
        ticking = iter(clock)
        filled = [leaf if s else next(ticking) for leaf, s in zip(leaves, self.stochastic, strict=True)]
        return jax.tree.unflatten(tree, filled)
