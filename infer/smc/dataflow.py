"""Which outputs of a function depend on which inputs, and the Markov order that follows.

Dependence is read off the jaxpr: an input that dead-code elimination for one output leaves unused
cannot change that output. What looks like dependence may be none (x - x); then the order is read
too high, which costs time and nothing else.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# semi-internal to JAX: this module alone uses it, and tests/infer/test_smc_dataflow.py names it
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, PyTree

MAX_ORDER = 8


def dependence(fn: Callable, *args: PyTree[Array]) -> tuple[np.ndarray, PyTree, tuple[PyTree, ...]]:
    """Dependence of every output leaf of `fn(*args)` on every leaf of `args`.

    Returns:
        Boolean matrix (output leaves, input leaves), the tree of output shapes and, for each
        argument, its tree filled with column numbers of the matrix.
    """
    closed, out_shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    num_out = len(closed.jaxpr.outvars)
    rows = [dce_jaxpr(closed.jaxpr, [i == j for j in range(num_out)])[1] for i in range(num_out)]
    matrix = np.asarray(rows, bool).reshape(num_out, len(closed.jaxpr.invars))
    leaves, tree = jax.tree.flatten(args)
    return matrix, out_shapes, jax.tree.unflatten(tree, range(len(leaves)))


def rows_of(out_shapes: PyTree) -> Any:
    """The tree of outputs filled with row numbers of the matrix of `dependence`."""
    leaves, tree = jax.tree.flatten(out_shapes)
    return jax.tree.unflatten(tree, range(len(leaves)))


def stochastic_leaves(carry_on_carry: np.ndarray, on_latents: np.ndarray) -> np.ndarray:
    """Which leaves of the carry depend on a latent, at once or through other leaves.

    Args:
        carry_on_carry: (leaf after, leaf before).
        on_latents: whether the leaf after a step depends on a latent of that step, or the first
            one on an initial site.
    """
    stochastic = on_latents.copy()
    for _ in range(len(on_latents)):
        stochastic = stochastic | (carry_on_carry & stochastic[None, :]).any(axis=1)
    return stochastic


def markov_order(carry_on_carry: np.ndarray, stochastic: np.ndarray) -> int | None:
    """Steps after which the stochastic leaves have forgotten the carry: at least 1, None if never.

    The smallest p with A^p = 0 for A the dependence of stochastic leaves on stochastic leaves. A
    leaf that holds several lags in one array depends on itself, and the order is None.
    """
    step = carry_on_carry[np.ix_(stochastic, stochastic)].astype(int)
    power, order = step, 1
    while power.any():
        if order > len(step):
            return None
        power, order = np.minimum(power @ step, 1), order + 1
    return order


def never_forgotten(carry_on_carry: np.ndarray, stochastic: np.ndarray) -> list[int]:
    """Leaves that still depend on the carry after any number of steps, where `markov_order` is None."""
    (leaves,) = np.nonzero(stochastic)
    step = carry_on_carry[np.ix_(leaves, leaves)].astype(int)
    power = step
    for _ in leaves:
        power = np.minimum(power @ step, 1)
    return [int(leaf) for leaf, row in zip(leaves, power, strict=True) if row.any()]
