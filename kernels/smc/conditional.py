"""The conditional particle filter and the path drawn from it: the kernel of particle Gibbs.

    (clouds of stages 0, ..., T) ~ filter with x* in slot 0     (`forward.py`)
    x'_{0:T} ~ path out of the clouds                          (`backward.py`)                  (1)

x* -> x' leaves the smoothing law p(x_{0:T} | y) invariant for every N >= 2: Andrieu, Doucet and
Holenstein (2010), theorem 5; with backward sampling, Whiteley (2010). Without the reference the
path is only approximately a draw of that law: a start, not a kernel.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .backward import sample_path, trace_path
from .checkpoint import Checkpoint, Checkpoints, check_checkpoint, checkpointed_sweep, is_checkpointed
from .forward import History, forward_sweep, start_sweep
from .paris import Functional, Paris, Smoother, of_path, smoothed, smoother
from .types import SSM, Path, check_count

type PathMove = Literal["backward", "trace"]
PATH_MOVES = ("backward", "trace")


class SweepResult(NamedTuple):
    """One sweep.

    Attributes:
        path: the new x_{0:T}; the reference itself if some stage had no possible particle.
        indices: b_0, ..., b_T, 0 where the reference particle was kept.
        from_ancestor: whether b_s is the ancestor of b_{s+1} != 0 (see `backward.Choice`).
        ess: 1 / sum W^2 of stages 0, ..., T, each in [1, N].
        log_evidence: sum_t log mean_i w_t^i. Of a conditional sweep under stationarity
            E[Z / Zhat] = 1, so that it lies about half its variance above log Z; of an
            unconditional one E[Zhat] = Z, and it lies as much below.
        num_nonfinite: weights that were NaN or +inf, plus stages without a possible particle.
        impossible: whether a stage had no possible particle, forwards or backwards, stages 0, ..., T.
        statistic: PaRIS estimate of the functional (`paris.py`), that of the reference if some stage
            had no possible particle; None if no functional was asked for.
        path_statistic: the functional of the new path.
    """

    path: Path
    indices: Int[Array, "T+1"]
    from_ancestor: Bool[Array, "T"]
    ess: Float[Array, "T+1"]
    log_evidence: Float[Array, ""]
    num_nonfinite: Int[Array, ""]
    impossible: Bool[Array, "T+1"]
    statistic: PyTree[Array] | None = None
    path_statistic: PyTree[Array] | None = None


def conditional_sweep(
    key: Key[Array, ""],
    ssm: SSM,
    path: Path,
    num_particles: int,
    *,
    path_move: PathMove = "backward",
    functional: Functional | None = None,
    paris: Paris = "auto",
    num_backward: int = 2,
    checkpoint: Checkpoint = "auto",
) -> SweepResult:
    """One conditional sweep, equation (1): the path move of particle Gibbs.

    Args:
        key: of everything drawn here.
        ssm: the model, its parameters closed over.
        path: the reference x*_{0:T}, possible under the model.
        num_particles: N >= 2, the reference included.
        path_move: "backward" draws the path by backward sampling; "trace" follows the genealogy,
            for models whose order is None.
        functional: what is smoothed on the clouds; None computes nothing.
        paris: "imh" or "dense" backward averages; "auto" takes the faster.
        num_backward: backward draws a particle of "imh".
        checkpoint: True keeps every sqrt(T)-th cloud and makes the others again when the path is
            drawn (`checkpoint.py`): the same draws bit for bit (`ess` and `log_evidence` to rounding),
            O(N sqrt(T)) memory, up to twice the time. False stores T N particles. "auto" is True from
            256 MiB on, of this chain alone: with many chains under `vmap` it is for the caller to say
            True.

    Raises:
        ValueError: for an N below 2, an unknown `path_move`, `paris` or `checkpoint`, "backward" without
            `ssm.order`, a functional of a model whose order is not 1, or a `num_backward` below 1.

    Examples:
        >>> from emberwalk.kernels.smc import conditional_sweep, unconditional_sweep
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> start = jax.jit(lambda key: unconditional_sweep(key, ssm, 16).path)(random.key(0))
        >>> sweep = jax.jit(lambda key, path: conditional_sweep(key, ssm, path, 16))
        >>> sweep(random.key(1), start).path.latents.shape
        (2,)
    """
    smooth = None if functional is None else smoother(ssm, functional, num_particles, paris, num_backward)
    result = _sweep(key, ssm, path, num_particles, path_move, smooth, checkpoint)
    # no possible particle at some stage: the clouds mean nothing, and the chain stays where it is
    stuck = result.impossible.any()
    path = jax.tree.map(lambda new, old: jnp.where(stuck, old, new), result.path, path)
    result = result._replace(path=path, indices=jnp.where(stuck, 0, result.indices))
    if functional is None:
        return result
    of_new_path = of_path(functional, path)
    statistic = jax.tree.map(lambda own, new: jnp.where(stuck, own, new), of_new_path, result.statistic)
    return result._replace(statistic=statistic, path_statistic=of_new_path)


def unconditional_sweep(
    key: Key[Array, ""],
    ssm: SSM,
    num_particles: int,
    *,
    path_move: PathMove = "backward",
    functional: Functional | None = None,
    paris: Paris = "auto",
    num_backward: int = 2,
    checkpoint: Checkpoint = "auto",
) -> SweepResult:
    """A bootstrap filter and a path from its clouds: where a chain may start.

    Arguments, errors and result as for `conditional_sweep`, without the reference; an index of 0
    means nothing here. If `impossible` is true anywhere, the path is not possible either. The
    statistic is that of PaRIS proper (Olsson and Westerborn 2017), biased by O(1/N).

    Examples:
        >>> from emberwalk.kernels.smc import unconditional_sweep
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> sweep = jax.jit(lambda key: unconditional_sweep(key, ssm, 16))(random.key(0))
        >>> bool(sweep.impossible.any())
        False
    """
    smooth = None if functional is None else smoother(ssm, functional, num_particles, paris, num_backward)
    result = _sweep(key, ssm, None, num_particles, path_move, smooth, checkpoint)
    if functional is None:
        return result
    return result._replace(path_statistic=of_path(functional, result.path))


def check_sweep(ssm: SSM, num_particles: int, path_move: PathMove) -> None:
    """Refuse an N below 2, an unknown path move, and "backward" without an order."""
    check_count("num_particles", num_particles, 2)
    if path_move not in PATH_MOVES:
        raise ValueError(f"path_move must be one of {PATH_MOVES}, got {path_move!r}.")
    if path_move == "backward" and ssm.order is None:
        raise ValueError('path_move="backward" needs ssm.order; got None. Use path_move="trace".')


def _sweep(
    key: Key[Array, ""],
    ssm: SSM,
    path: Path | None,
    num: int,
    path_move: PathMove,
    smooth: Smoother | None,
    checkpoint: Checkpoint,
) -> SweepResult:
    check_sweep(ssm, num, path_move)
    check_checkpoint(checkpoint)
    key_forward, key_path, key_smooth = random.split(key, 3)
    first = start_sweep(key_forward, ssm, num, path)
    history: History | Checkpoints
    if is_checkpointed(checkpoint, ssm.length, first.cloud):
        history, stats, statistic = checkpointed_sweep(key_forward, key_smooth, ssm, first, path, smooth)
    else:
        history, stats = forward_sweep(key_forward, ssm, first, path)
        statistic = None if smooth is None else smoothed(key_smooth, smooth, first, history)
    backward = path_move == "backward"
    choice = sample_path(key_path, ssm, history) if backward else trace_path(key_path, history)
    # where the filter itself broke down, what comes after it is no news
    broken = choice.impossible & ~stats.impossible.any()
    return SweepResult(
        path=choice.path,
        indices=choice.indices,
        from_ancestor=choice.from_ancestor,
        ess=stats.ess,
        log_evidence=stats.log_mean_weight.sum(),
        num_nonfinite=stats.num_nonfinite.sum(dtype=jnp.int32)
        + choice.num_nonfinite
        + broken.sum(dtype=jnp.int32),
        impossible=stats.impossible | jnp.append(broken, False),
        statistic=statistic,
    )
