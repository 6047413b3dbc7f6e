"""Estimates from decreasing steps: every draw counts as much as the step that made it.

    E f  =  sum_k h_k f(z_k) / sum_k h_k                                                          (1)

Welling and Teh (2011), equation 5. ArviZ has no weights: `thin_by_step_size` gives draws of equal weight.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree


def step_weighted_mean(draws: PyTree[Float[Array, "draw ..."]], step_size: Float[Array, " draw"]) -> PyTree:
    """Equation (1) for each leaf.

    Args:
        draws: leading axis the draws, as many as steps.
        step_size: h_k of each draw.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import step_weighted_mean
        >>> float(step_weighted_mean(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0])))
        2.0
    """
    weights = step_size / jnp.sum(step_size)
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), draws)


def thin_by_step_size(
    draws: PyTree[Float[Array, "draw ..."]],
    step_size: Float[Array, " draw"],
    num_draws: int,
    key: Key[Array, ""],
) -> PyTree:
    """Draws of equal weight, picked in order with a probability proportional to their step.

    Systematic resampling on the cumulated steps: a draw is taken n h_k / sum h times, rounded up or down.

    Args:
        draws: leading axis the draws.
        step_size: h_k of each draw.
        num_draws: n, of which a draw may come twice.
        key: of the one uniform number.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import thin_by_step_size
        >>> thin_by_step_size(jnp.arange(4.0), jnp.array([1.0, 0.0, 0.0, 1.0]), 4, random.key(0))
        Array([0., 0., 3., 3.], dtype=float32)
    """
    edges = jnp.cumsum(step_size)
    at = (jnp.arange(num_draws) + jax.random.uniform(key)) / num_draws * edges[-1]
    index = jnp.minimum(jnp.searchsorted(edges, at, side="right"), len(step_size) - 1)
    return jax.tree.map(lambda leaf: leaf[index], draws)
