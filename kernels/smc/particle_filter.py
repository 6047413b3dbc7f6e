"""The bootstrap particle filter: the evidence, without bias, in O(N) memory.

    Zhat = prod_{t=0}^{T} (1/N) sum_i w_t^i,   E[Zhat] = p(y | theta)                          (1)

Gordon, Salmond and Smith (1993); unbiasedness: Del Moral (2004), proposition 7.4.1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key

from .forward import first_stage, next_stage, with_stage_latents
from .types import SSM, Cloud


class FilterResult(NamedTuple):
    """What the filter saw.

    Attributes:
        log_evidence: log Zhat; E[exp(log_evidence)] = p(y | theta).
        cloud: particles of the last stage, weighted for p(x_T | y_{0:T}).
        ess: 1 / sum W^2 of stages 0, ..., T.
        num_nonfinite: weights that were NaN or +inf, plus stages without a possible particle.
    """

    log_evidence: Float[Array, ""]
    cloud: Cloud
    ess: Float[Array, "T+1"]
    num_nonfinite: Int[Array, ""]


def particle_filter(key: Key[Array, ""], ssm: SSM, num_particles: int) -> FilterResult:
    """Run the bootstrap filter, equation (1).

    Args:
        key: of everything drawn here.
        ssm: the model, its parameters closed over.
        num_particles: N; the variance of `log_evidence` falls as T / N.

    Examples:
        >>> from emberwalk.kernels.smc import particle_filter
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> particle_filter(random.key(0), ssm, 100).ess.shape
        (3,)
    """
    cloud, first_stats = first_stage(random.fold_in(key, 0), ssm, num_particles, None)

    def step(cloud: Cloud, t: Int[Array, ""]):
        cloud, _, stats = next_stage(random.fold_in(key, t), ssm, cloud, t, None)
        return cloud, stats

    times = jnp.arange(1, ssm.length + 1)
    cloud, stats = lax.scan(step, with_stage_latents(ssm, cloud), times)
    return FilterResult(
        first_stats.log_mean_weight + stats.log_mean_weight.sum(),
        cloud,
        jnp.concatenate([first_stats.ess[None], stats.ess]),
        first_stats.num_nonfinite + stats.num_nonfinite.sum(dtype=jnp.int32),
    )
