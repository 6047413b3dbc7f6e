"""Gradients of few rows: which rows, with how much noise, and with less of it.

    g(z) = grad U(c) + grad U_B(z) - grad U_B(c)                                                  (1)
    V    = Var g, estimated from K independent gradients at one z                                 (2)

(1) are control variates (Baker and others 2019): B is the same batch twice, and g has no noise at z = c.
Batches are drawn with replacement, or without it in epochs: by a keyed permutation of 0, ..., N - 1 that
is computed one index at a time, a Feistel network of four rounds on the smallest even number of bits that
hold N, walked along its cycle until it comes below N. It needs no memory of size N.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Int, Key, PyTree

_ROUNDS = 4
# Odd constants of murmur3's finaliser.
_MIX = (0x85EBCA6B, 0xC2B2AE35)


def control_variates(
    grad_fn: Callable[[Any, PyTree], PyTree], centre: PyTree, full_gradient: PyTree
) -> Callable[[Any, PyTree], PyTree]:
    """Equation (1): `grad_fn` with the noise of its batch at the centre taken out.

    Args:
        grad_fn: (batch, position) -> gradient of U estimated on that batch, prior included.
        centre: c, near the mode; within a posterior sd of it the noise all but goes.
        full_gradient: grad U(c) on all rows.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import control_variates
        >>> y = jnp.array([1.0, 2.0, 6.0])
        >>> noisy = lambda rows, z: 3 * (z - y[rows])
        >>> control_variates(noisy, jnp.array(3.0), jnp.array(0.0))(0, jnp.array(4.0))
        Array(3., dtype=float32)
    """

    def gradient(batch: Any, position: PyTree) -> PyTree:
        here, there = grad_fn(batch, position), grad_fn(batch, centre)
        return jax.tree.map(lambda full, a, b: full + a - b, full_gradient, here, there)

    return gradient


def gradient_variance(gradients: PyTree) -> PyTree:
    """Equation (2): unbiased variance of each element over the leading axis.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import gradient_variance
        >>> float(gradient_variance(jnp.array([1.0, 3.0])))
        2.0
    """
    return jax.tree.map(lambda g: jnp.var(g, axis=0, ddof=1), gradients)


def randint_indices(key: Key[Array, ""], num_rows: int, batch_size: int) -> Int[Array, " batch"]:
    """Rows of a batch, drawn with replacement.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import randint_indices
        >>> randint_indices(random.key(0), num_rows=1000, batch_size=4).shape
        (4,)
    """
    return random.randint(key, (batch_size,), 0, num_rows)


def epoch_indices(
    key: Key[Array, ""], step: Int[Array, ""], num_rows: int, batch_size: int
) -> Int[Array, " batch"]:
    """Rows of the batch of a step, without replacement within an epoch of N // b steps.

    Args:
        key: of the chain, the same at every step; each epoch folds its number in.
        step: steps done.
        num_rows: N.
        batch_size: b; the N mod b rows that come last in an epoch are left out of it.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import epoch_indices
        >>> batches = [epoch_indices(random.key(0), step, 6, 2) for step in range(3)]
        >>> sorted(int(row) for batch in batches for row in batch)
        [0, 1, 2, 3, 4, 5]
    """
    per_epoch = num_rows // batch_size
    epoch, place = jnp.divmod(step, per_epoch)
    positions = place * batch_size + jnp.arange(batch_size)
    return permuted(random.fold_in(key, epoch), positions, num_rows)


def permuted(key: Key[Array, ""], positions: Int[Array, "..."], num_rows: int) -> Int[Array, "..."]:
    """Where a keyed permutation of 0, ..., N - 1 sends each position."""
    half_bits = max(1, -(-(num_rows - 1).bit_length() // 2))
    return walked(random.bits(key, (_ROUNDS,), jnp.uint32), positions, num_rows, half_bits)


def walked(
    round_keys: Array, positions: Int[Array, "..."], num_rows: int | Array, half_bits: int
) -> Int[Array, "..."]:
    """Each position under the cipher of 2 `half_bits` bits, again and again until it is below N."""
    num_rows = jnp.asarray(num_rows, jnp.uint32)

    def walk(x: Array) -> Array:
        return jnp.where(x >= num_rows, _feistel(round_keys, x, half_bits), x)

    x = _feistel(round_keys, positions.astype(jnp.uint32), half_bits)
    x = lax.while_loop(lambda x: jnp.any(x >= num_rows), walk, x)
    return x.astype(positions.dtype)


def _feistel(round_keys: Array, x: Array, half_bits: int) -> Array:
    """A bijection of the numbers of 2 `half_bits` bits."""
    mask = jnp.uint32((1 << half_bits) - 1)
    left, right = x >> half_bits, x & mask
    for n in range(_ROUNDS):
        left, right = right, left ^ (_mixed(right ^ round_keys[n]) & mask)
    return (left << half_bits) | right


def _mixed(x: Array) -> Array:
    """Every bit of the result depends on every bit of x."""
    for constant, shift in zip(_MIX, (13, 16), strict=True):
        x = (x ^ (x >> 16)) * jnp.uint32(constant)
        x = x ^ (x >> shift)
    return x
