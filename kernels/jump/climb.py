"""Mode and skewed Laplace density from gradients alone: the density is traced, and compiled, once.

    M_ij  ~  -[g(u + h L_i) - g(u - h L_i)] . L_j / 2h,   M = V D V'                                       (1)
    L <- L V |D|^(-1/2),   u <- u + 2^-k L L' g                                                            (2)

The columns L_i are directions in which the density changes by as much, so that L L' is the covariance in the end; |D|
is kept within 1/256 and 256, and the last step is one for which nothing had to be bounded. Skewness and kurtosis are
by equation (5) of `laplace.py`, from the same gradient: a program then holds it once, where one with second and fourth
derivatives holds it four times over. Through a filter that is most of the time that a start takes.

Latents may have any scale. What a reader would get wrong: differences of half a percent are no loss, since the mode is
where g is 0, whatever L. The standard deviations are right to a thousandth, of which float32 knows a fifth or so.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .laplace import RIDGE_STEP, LogDensity, Point, SkewLaplace, Tell, skewed, third_and_fourth

# of differences of the gradient, in sd
_STEP = 0.1
_LARGEST_CHANGE = 256.0
_AT_ONCE = 8  # on an accelerator
_HALVINGS, _ROUNDING = 30, 8.0
# of a climb: looking for the mode, then the slopes near along its ridges, then those farther away
_LOOKING, _NEAR, _FAR, _DONE = range(4)


class Climbed(NamedTuple):
    """What `climb` returns.

    Attributes:
        fit: the density at its mode; a normal where `skew=False` was asked for.
        half: L `[d, d]`, with L L' the covariance by curvature.
        num_steps: steps made; -1 where the density was finite at neither start.
        converged: whether the last two steps promised less than the tolerance.
        fell_back: whether it began at the second start.
    """

    fit: SkewLaplace
    half: Float[Array, "d d"]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]
    fell_back: Bool[Array, ""]

    @property
    def usable(self) -> Bool[Array, ""]:
        """Whether there is a density at all."""
        return (self.num_steps >= 0) & jnp.isfinite(self.fit.mode).all() & jnp.isfinite(self.fit.cov).all()


class _Seen(NamedTuple):
    """The density at a point, and its gradients on both sides in each direction."""

    log_density: Float[Array, ""]
    gradient: Point
    ahead: Float[Array, "d d"]
    behind: Float[Array, "d d"]


class _State(NamedTuple):
    phase: Int[Array, ""]
    at: Point  # to be looked at next
    directions: Float[Array, "d d"]  # in which; rows, h long
    position: Point  # the best so far
    log_density: Float[Array, ""]
    step: Point  # from there
    half: Float[Array, "d d"]
    num_steps: Int[Array, ""]
    halvings: Int[Array, ""]
    near: Bool[Array, ""]  # whether the step to here promised less than the tolerance
    converged: Bool[Array, ""]
    fell_back: Bool[Array, ""]
    slopes: Float[Array, "5 d"]  # along the ridges, at -2, ..., 2


def gradients_at_once() -> int:
    """`batch_size` of a density that is a filter: a CPU is as fast with one, and has less to compile."""
    return 1 if jax.default_backend() == "cpu" else _AT_ONCE


def climb(
    log_density: LogDensity,
    start: Point,
    *,
    second_start: Point | None = None,
    half: Float[Array, "d d"] | None = None,
    max_steps: int = 20,
    tolerance: float = 1e-3,
    skew: bool = True,
    batch_size: int | None = None,
    tell: Tell | None = None,
) -> Climbed:
    """The mode by damped Newton steps on differences of gradients, and the skewed Laplace density there.

    Args:
        log_density: of a vector `[d]`, differentiable once.
        start: `[d]`.
        second_start: taken where the density is not finite at the first.
        half: a guess of L `[d, d]`; 1 without it.
        max_steps: none after so many.
        tolerance: steps end where two in a row would raise the log density by less, in nats.
        skew: whether skewness and kurtosis are asked for; two more rounds of gradients.
        batch_size: gradients at once; all 2 d + 1 of them without it, and one after the other with 1.
        tell: called on the host before each step with "Newton", the steps made and the nats that it promises.

    Examples:
        >>> from emberwalk.kernels.jump.climb import climb
        >>> found = climb(lambda t: 3 * t[0] - jnp.exp(t[0]), jnp.zeros(1))  # the log of Gamma(3, 1)
        >>> round(float(found.fit.mode[0]), 3), round(float(found.fit.alpha[0]), 1)
        (1.099, 3.0)
    """
    gradients = partial(_gradients, jax.value_and_grad(log_density), batch_size=batch_size)
    dtype, zero = start.dtype, jnp.zeros((), jnp.int32)
    half = jnp.eye(start.shape[0], dtype=dtype) if half is None else half
    begin = _State(
        phase=zero + _LOOKING,
        at=start,
        directions=_STEP * half.T,
        position=start,
        log_density=jnp.full((), -jnp.inf, dtype),
        step=jnp.zeros_like(start),
        half=half,
        num_steps=zero - 1,
        halvings=zero,
        near=zero > 0,
        converged=zero > 0,
        fell_back=zero > 0,
        slopes=jnp.zeros((5, start.shape[0]), dtype),
    )

    def looked(state: _State, seen: _Seen) -> _State:
        slack = jnp.maximum(tolerance, _ROUNDING * jnp.finfo(dtype).eps * jnp.abs(seen.log_density))
        finite = jnp.isfinite(seen.log_density) & jnp.isfinite(seen.gradient).all()
        better = finite & (seen.log_density >= state.log_density - slack)
        return lax.cond(better, stepped, shortened, state, seen)

    def stepped(state: _State, seen: _Seen) -> _State:
        half, known = _half(state.directions, seen)
        step = half @ (half.T @ seen.gradient)
        num_steps = state.num_steps + 1
        promised = seen.gradient @ step / 2
        if tell is not None:
            jax.debug.callback(partial(tell, "Newton"), num_steps, promised)
        near = known & (promised < tolerance)
        # the curvature is that of where the last step but one led: after a first small step there is another
        converged = near & state.near
        onwards = state._replace(
            at=state.at + step,
            directions=_STEP * half.T,
            # the last step is below what rounding does to the density: it is made, and nothing is asked of it
            position=jnp.where(converged, state.at + step, state.at),
            log_density=seen.log_density,
            step=step,
            half=half,
            num_steps=num_steps,
            halvings=zero,
            near=near,
            converged=converged,
        )
        return lax.cond(converged | (num_steps >= max_steps), to_ridges, lambda state: state, onwards)

    def shortened(state: _State, _: _Seen) -> _State:
        nothing_yet = state.num_steps < 0
        halvings = state.halvings + 1
        other = start if second_start is None else second_start
        at = jnp.where(nothing_yet, other, state.position + state.step * 0.5**halvings)
        ended = jnp.where(nothing_yet, state.fell_back, halvings > _HALVINGS)
        onwards = state._replace(at=at, halvings=halvings, fell_back=state.fell_back | nothing_yet)
        return lax.cond(ended, to_ridges, lambda state: state, onwards)

    def to_ridges(state: _State) -> _State:
        phase = jnp.where(skew & (state.num_steps >= 0), zero + _NEAR, zero + _DONE)
        cov = state.half @ state.half.T
        ridges = cov / jnp.sqrt(jnp.diagonal(cov))[:, None]
        return state._replace(phase=phase, at=state.position, directions=RIDGE_STEP * ridges)

    def near(state: _State, seen: _Seen) -> _State:
        slopes = state.slopes.at[1:4].set(_slopes(state.directions / RIDGE_STEP, seen))
        return state._replace(phase=zero + _FAR, directions=2 * state.directions, slopes=slopes)

    def far(state: _State, seen: _Seen) -> _State:
        behind, _, ahead = _slopes(state.directions / (2 * RIDGE_STEP), seen)
        return state._replace(phase=zero + _DONE, slopes=state.slopes.at[0].set(behind).at[4].set(ahead))

    def once(state: _State) -> _State:
        return lax.switch(state.phase, (looked, near, far), state, gradients(state.at, state.directions))

    ended = lax.while_loop(lambda state: state.phase != _DONE, once, begin)
    fit = skewed(ended.position, ended.half @ ended.half.T, *third_and_fourth(ended.slopes))
    return Climbed(fit, ended.half, ended.num_steps, ended.converged, ended.fell_back)


def _gradients(
    value_and_grad: Callable[[Point], tuple[Array, Array]],
    at: Point,
    directions: Float[Array, "d d"],
    batch_size: int | None,
) -> _Seen:
    points = jnp.concatenate([at[None], at + directions, at - directions])
    if batch_size is None:
        values, found = jax.vmap(value_and_grad)(points)
    else:
        values, found = lax.map(value_and_grad, points, batch_size=None if batch_size == 1 else batch_size)
    ahead, behind = jnp.split(found[1:], 2)
    return _Seen(values[0], found[0], ahead, behind)


def _half(directions: Float[Array, "d d"], seen: _Seen) -> tuple[Float[Array, "d d"], Bool[Array, ""]]:
    """Equations (1) and (2), and whether nothing was bounded; a direction that led too far is made shorter."""
    M = (seen.behind - seen.ahead) @ directions.T / (2 * _STEP**2)
    finite = jnp.isfinite(M).all(1)
    M = jnp.where(finite & finite[:, None], (M + M.T) / 2, _LARGEST_CHANGE * jnp.eye(len(M), dtype=M.dtype))
    values, vectors = jnp.linalg.eigh(M)
    size = jnp.clip(jnp.abs(values), 1 / _LARGEST_CHANGE, _LARGEST_CHANGE)
    return directions.T / _STEP @ vectors / jnp.sqrt(size), finite.all() & (values == size).all()


def _slopes(ridges: Float[Array, "d d"], seen: _Seen) -> Float[Array, "3 d"]:
    """Along the ridges: behind, at and ahead of the mode."""
    return jnp.stack([(seen.behind * ridges).sum(1), ridges @ seen.gradient, (seen.ahead * ridges).sum(1)])
