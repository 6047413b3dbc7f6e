"""Multinomial resampling by inverse CDF, and the weights that go into it.

    A^j = min{i : W^1 + ... + W^i > U_j},   U_j ~ U(0, 1) iid                               (1)

Gordon, Salmond and Smith (1993). Multinomial because the conditional particle filter is only
invariant with iid draws (or with a conditional version of another scheme): systematic draws with
A^0 = 0 forced are biased, by 51 standard errors at N = 2. Not `jax.random.categorical`, which
makes N x N Gumbels and answers 0, the reference particle, when every weight is zero.
"""

import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int, Key

# Above this many particles a binary search beats comparing each uniform with the whole CDF.
_COMPARE_ALL_MAX = 64


def safe_log_weights(log_weights: Float[Array, "N"]) -> tuple[Float[Array, "N"], Int[Array, ""]]:
    """Log-weights with NaN and +inf replaced by -inf, and how many there were."""
    bad = jnp.isnan(log_weights) | jnp.isposinf(log_weights)
    return jnp.where(bad, -jnp.inf, log_weights), bad.sum(dtype=jnp.int32)


def relative_weights(log_weights: Float[Array, "N"]) -> tuple[Float[Array, "N"], Float[Array, ""]]:
    """exp(log w - max log w), all zero if every weight is zero, and the maximum (0 in that case)."""
    largest = log_weights.max()
    # -inf minus -inf is NaN: the guard keeps "every weight is zero" a row of zeros
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.exp(log_weights - largest), largest


def effective_sample_size(weights: Float[Array, "N"]) -> Float[Array, ""]:
    """1 / sum W^2 of unnormalised weights, between 1 and N; 0 if every weight is zero."""
    squares = jnp.sum(weights**2)
    return jnp.where(squares > 0, jnp.sum(weights) ** 2 / jnp.where(squares > 0, squares, 1.0), 0.0)


def inverse_cdf(key: Key[Array, ""], log_weights: Float[Array, "N"], num: int) -> Int[Array, "num"]:
    """Indices drawn iid with probability proportional to the weights, equation (1).

    Args:
        key: of the `num` uniforms.
        log_weights: unnormalised, at least one finite; NaN is not allowed (`safe_log_weights`).
        num: how many indices.

    Returns:
        Indices into `log_weights`. Where every weight is zero, all are 0: look at the weights.

    Examples:
        >>> from emberwalk.kernels.smc import inverse_cdf
        >>> inverse_cdf(random.key(0), jnp.log(jnp.array([0.0, 1.0, 0.0])), 4).tolist()
        [1, 1, 1, 1]
    """
    weights, _ = relative_weights(log_weights)
    return select(random.uniform(key, (num,), weights.dtype), weights)


def select(uniforms: Float[Array, "num"], weights: Float[Array, "N"]) -> Int[Array, "num"]:
    """The indices of equation (1) for given uniforms and unnormalised weights."""
    cdf = jnp.cumsum(weights)
    # side="right": the first i with CDF_i > u; "left" would draw a particle of weight zero at u = 0
    method = "compare_all" if weights.shape[0] <= _COMPARE_ALL_MAX else "scan"
    index = jnp.searchsorted(cdf, uniforms * cdf[-1], side="right", method=method).astype(jnp.int32)
    index = jnp.minimum(index, weights.shape[0] - 1)
    # cumsum is a tree of sums: over hundreds of particles its rounding goes up (and down) by 1e-7 of
    # the total where a weight is zero, and such a particle is drawn once in 1e7
    return jnp.where(weights[index] > 0, index, jnp.argmax(weights).astype(jnp.int32))
