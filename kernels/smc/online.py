"""PaRIS as a stream: sums over a series of any length, smoothed in O(N) memory.

    beta_t^i = (1/M) sum_{j<=M} [beta_{t-1}^{J_ij} + h_t(x_{t-1}^{J_ij}, x_t^i)],   J_ij ~ B_t(i, .)   (1)
    estimate at t:   sum_i W_t^i beta_t^i  ->  E[sum_{s<=t} h_s | y_{0:t}]   as N grows

Olsson and Westerborn (2017). A stage needs the cloud before it and nothing older; a genealogy that is
followed back instead (M = 1) has one ancestor left after O(N) stages. The estimate is biased by O(1/N),
on a long series by as much in every stage; average sweeps of particle Gibbs (`conditional.py`) where
that matters. Everything that is summed over t is compensated, so that float32 serves for 1e6 stages.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, Key, PyTree

from .forward import StageStats, next_stage, start_sweep
from .paris import Compensated, Functional, Paris, estimate, plus, smoother
from .types import SSM, Cloud, Latents, check_count

_BACKWARD = 2**31 - 1  # no counter of a draw: the key of the backward draws, apart from those of the stage


class OnlineState(NamedTuple):
    """All that the next stage needs.

    Attributes:
        t: stages done after the first one.
        initial: x_0^i, leading axis N.
        cloud: of stage t.
        beta: beta_t^i.
        evidence: log Zhat of y_{0:t}.
        min_ess: smallest 1 / sum W^2 of stages 0, ..., t.
        num_nonfinite: weights that were NaN or +inf, plus stages without a possible particle.
    """

    t: Int[Array, ""]
    initial: Latents
    cloud: Cloud
    beta: Compensated
    evidence: Compensated
    min_ess: Float[Array, ""]
    num_nonfinite: Int[Array, ""]

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """log Zhat; E[Zhat] = p(y_{0:t}). -inf once a stage had no possible particle."""
        return self.evidence.sum - self.evidence.lost


class OnlineParis(NamedTuple):
    """PaRIS of one functional on one model.

    Attributes:
        init: key -> OnlineState of stage 0.
        step: (key, state) -> (state, StageStats), the next stage; at most T = `ssm.length` of them.
        estimate: state -> the functional's smoothed sum so far, equation (1); NaN if no particle of the
            last stage is possible.
    """

    init: Callable[[Key[Array, ""]], OnlineState]
    step: Callable[[Key[Array, ""], OnlineState], tuple[OnlineState, StageStats]]
    estimate: Callable[[OnlineState], PyTree[Array]]


def online_paris(
    ssm: SSM, functional: Functional, num_particles: int, *, paris: Paris = "imh", num_backward: int = 2
) -> OnlineParis:
    """Smooths an additive functional stage by stage, equation (1).

    Args:
        ssm: the model, its parameters closed over; its order must be 1.
        functional: what is smoothed (`additive`).
        num_particles: N >= 2; bias and variance of the estimate fall as 1 / N.
        paris: "imh", O(N M) a stage; "dense", the average over all pairs, O(N^2); "auto", the faster.
            With a proposal "dense" alone.
        num_backward: M, of "imh"; 2 is enough, 1 is the genealogy.

    Raises:
        ValueError: for an N below 2, an order that is not 1, an unknown `paris`, or a `num_backward`
            below 1.

    Examples:
        >>> from emberwalk.kernels.smc import additive, online_paris
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> smoother = online_paris(ssm, additive(lambda previous, current, t: previous * current), 100)
        >>> state, step = jax.jit(smoother.init)(random.key(0)), jax.jit(smoother.step)
        >>> for t in range(ssm.length):
        ...     state, stats = step(random.key(1 + t), state)
        >>> smoother.estimate(state).shape
        ()
    """
    check_count("num_particles", num_particles, 2)
    smooth = smoother(ssm, functional, num_particles, paris, num_backward)

    def init(key: Key[Array, ""]) -> OnlineState:
        first = start_sweep(key, ssm, num_particles, None)
        log_mean = first.stats.log_mean_weight
        return OnlineState(
            jnp.zeros((), jnp.int32),
            first.initial,
            first.cloud,
            smooth.first(first.initial),
            Compensated(log_mean, jnp.zeros_like(log_mean)),
            first.stats.ess,
            first.stats.num_nonfinite,
        )

    def step(key: Key[Array, ""], state: OnlineState) -> tuple[OnlineState, StageStats]:
        t = state.t + 1
        cloud, ancestors, stats = next_stage(key, ssm, state.cloud, t, None)
        beta = smooth.next(
            random.fold_in(key, _BACKWARD),
            state.beta,
            state.initial,
            state.cloud,
            cloud.latents,
            ancestors,
            t,
        )
        evidence = plus(state.evidence, stats.log_mean_weight)
        return OnlineState(
            t,
            state.initial,
            cloud,
            beta,
            # -inf has lost nothing; -inf minus -inf would be NaN from here on
            evidence._replace(lost=jnp.nan_to_num(evidence.lost)),
            jnp.minimum(state.min_ess, stats.ess),
            state.num_nonfinite + stats.num_nonfinite,
        ), stats

    return OnlineParis(init, step, lambda state: estimate(state.beta, state.cloud.log_weights))
