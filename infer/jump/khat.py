"""How far importance weights may be trusted: the shape of their tail, while a start is traced.

    the M largest of S weights, less the largest below them, ~ generalised Pareto(k, sigma)                 (1)

k by Zhang and Stephens (2009) with the prior of Vehtari et al. (2024), as arviz-stats has it, to which the tests
compare it; there it is numpy, and a kernel's start may be compiled. Below .5 the weights have a variance, from .7 on
they say nothing. An independence sampler needs less: it stays right with any k, and gets stuck with a large one.
"""

import math

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

_PRIOR_SCALE, _PRIOR_SIZE, _PRIOR_MEAN = 3.0, 10.0, 0.5


def pareto_khat(log_weights: Float[Array, " S"]) -> Float[Array, ""]:
    """k of equation (1).

    Args:
        log_weights: of draws, unnormalised; what is not finite counts as weight 0.

    Returns:
        k; 0 where the largest weights do not differ, infinite where there are none.

    Examples:
        >>> from emberwalk.infer.jump.khat import pareto_khat
        >>> light, heavy = (shape * random.exponential(random.key(0), (1000,)) for shape in (0.1, 0.9))
        >>> bool(pareto_khat(light) < 0.3), bool(pareto_khat(heavy) > 0.7)
        (True, True)
    """
    size = log_weights.shape[0]
    num = int(3 * math.sqrt(size)) if size > 225 else size // 5
    finite = jnp.isfinite(log_weights)
    ordered = jnp.sort(jnp.where(finite, log_weights, -jnp.inf))
    largest = jnp.where(jnp.isfinite(ordered[-1]), ordered[-1], 0)
    weights = jnp.exp(ordered - largest)
    x = weights[-num:] - weights[-num - 1]
    k = _zhang_stephens(x)
    flat = x[_quartile(num)] <= x[0]
    return jnp.where(finite.any(), jnp.where(flat, 0, k), jnp.inf)


def _quartile(num: int) -> int:
    return int(num / 4 + 0.5) - 1


def _zhang_stephens(x: Float[Array, " M"]) -> Float[Array, ""]:
    """k of excesses in rising order, by the mean of a profile likelihood in b = -k / sigma."""
    num = x.shape[0]
    size = 30 + int(math.sqrt(num))
    quartile, most = (jnp.where(value > 0, value, 1) for value in (x[_quartile(num)], x[-1]))
    b = 1 - jnp.sqrt(size / (jnp.arange(1, size + 1) - 0.5))
    b = b / (_PRIOR_SCALE * quartile) + 1 / most
    k = jnp.log1p(-b[:, None] * x).mean(1)
    log_likelihood = num * (jnp.log(-b / k) - k - 1)
    share = jnp.exp(log_likelihood - logsumexp(log_likelihood))
    share = jnp.where(share >= 10 * jnp.finfo(x.dtype).eps, share, 0)
    mean = jnp.sum(b * share / share.sum())
    found = jnp.log1p(-mean * x).mean()
    return (num * found + _PRIOR_SIZE * _PRIOR_MEAN) / (num + _PRIOR_SIZE)
