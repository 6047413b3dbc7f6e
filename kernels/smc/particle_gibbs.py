"""Particle Gibbs on the path of a state-space model, in the manner of blackjax.

    x' ~ K_N(x, .),   K_N the conditional sweep of `conditional.py`                             (1)

Invariant for p(x_{0:T} | y, theta) for every N >= 2; N decides only how much of the path a step
renews. Andrieu, Doucet and Holenstein (2010).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from .checkpoint import Checkpoint
from .conditional import PathMove, SweepResult, check_sweep, conditional_sweep, unconditional_sweep
from .paris import Functional, Paris
from .types import SSM, Path


class PathState(NamedTuple):
    """Where the chain is.

    Attributes:
        path: x_{0:T}.
        num_nonfinite: weights that were NaN or +inf, plus stages without a possible particle,
            since `init`.
    """

    path: Path
    num_nonfinite: Int[Array, ""]


class PathInfo(NamedTuple):
    """What a step did.

    Attributes:
        sweep: everything the sweep returned.
        update_rate: share of the stages 1, ..., T whose reference particle was left.
    """

    sweep: SweepResult
    update_rate: Float[Array, ""]


class ParticleGibbsKernel(NamedTuple):
    """`init(key, path=None) -> PathState` and `step(key, state) -> (PathState, PathInfo)`."""

    init: Callable[..., PathState]
    step: Callable[[Key[Array, ""], PathState], tuple[PathState, PathInfo]]


def particle_gibbs(
    ssm: SSM,
    num_particles: int,
    *,
    path_move: PathMove = "backward",
    functional: Functional | None = None,
    paris: Paris = "auto",
    num_backward: int = 2,
    checkpoint: Checkpoint = "auto",
) -> ParticleGibbsKernel:
    """Particle Gibbs with fixed parameters, equation (1).

    Args:
        ssm: the model, its parameters closed over.
        num_particles: N >= 2. Enough is when `update_rate` stays above one half at every stage;
            8 to 64 where the state has one or two dimensions.
        path_move: "backward" (needs `ssm.order`) or "trace".
        functional: smoothed by every sweep, `info.sweep.statistic`.
        paris: see `conditional_sweep`.
        num_backward: see `conditional_sweep`.
        checkpoint: see `conditional_sweep`.

    Raises:
        ValueError: for an N below 2, an unknown path move, or "backward" without an order.

    Examples:
        >>> from emberwalk.kernels.smc import particle_gibbs
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> kernel = particle_gibbs(linear_gaussian_ssm(jnp.ones(5), phi=0.9, sx=1.0), 16)
        >>> state = jax.jit(kernel.init)(random.key(0))
        >>> state, info = jax.jit(kernel.step)(random.key(1), state)
    """
    check_sweep(ssm, num_particles, path_move)
    how: dict[str, Any] = {
        "path_move": path_move, "functional": functional, "paris": paris, "num_backward": num_backward,
        "checkpoint": checkpoint,
    }  # fmt: skip

    def init(key: Key[Array, ""], path: Path | None = None) -> PathState:
        if path is not None:
            return PathState(path, jnp.zeros((), jnp.int32))
        sweep = unconditional_sweep(key, ssm, num_particles, **how)
        return PathState(sweep.path, sweep.num_nonfinite)

    def step(key: Key[Array, ""], state: PathState) -> tuple[PathState, PathInfo]:
        sweep = conditional_sweep(key, ssm, state.path, num_particles, **how)
        rate = jnp.mean(sweep.indices[1:] != 0)
        return PathState(sweep.path, state.num_nonfinite + sweep.num_nonfinite), PathInfo(sweep, rate)

    return ParticleGibbsKernel(init, step)
