"""Mass and preconditioner from the second moment of the gradient.

    s = (eps + E g^2)^power                                                                       (1)
    M = s / min s,        so that min M = 1                                                       (2)
    G = max s / max(s, 1e-3 max s),   so that the stiffest coordinate keeps the step h            (3)

Of "layerwise" each site has one scalar: s of the root of its mean second moment; of "diagonal" each
element its own. Wenzel and others (2020) take (2) layerwise with power 1/2; Li and others (2016) an
inverse of (1) that goes on adapting, which is biased without its correction term: here it is estimated
in warm-up and then frozen.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

type Kind = Literal["identity", "layerwise", "diagonal"]

KINDS = ("identity", "layerwise", "diagonal")
# No coordinate gets more than this times the step of the stiffest.
_LARGEST_GAIN = 1e3


def check_kind(argument: str, kind: str) -> None:
    """Refuses what is none of the three."""
    if kind not in KINDS:
        raise ValueError(f"{argument} must be one of {KINDS}, got {kind!r}.")


def ones(kind: Kind, position: Any) -> Any:
    """M or G before anything is known: 1 for each leaf, or for each element."""
    shape = jnp.shape if kind == "diagonal" else (lambda leaf: ())
    return jax.tree.map(lambda leaf: jnp.ones(shape(leaf), leaf.dtype), position)


def scale(kind: Kind, second_moment: Any, eps: float, power: float) -> Any:
    """s of equation (1)."""
    of = (lambda m: m) if kind == "diagonal" else jnp.mean
    return jax.tree.map(lambda m: (eps + of(m)) ** power, second_moment)


def mass(kind: Kind, second_moment: Any, *, eps: float = 1e-7, power: float = 0.5) -> Any:
    """M of equation (2), a scalar or an array for each leaf."""
    if kind == "identity":
        return ones(kind, second_moment)
    s = scale(kind, second_moment, eps, power)
    least = _over_leaves(jnp.min, s)
    return jax.tree.map(lambda leaf: leaf / least, s)


def preconditioner(kind: Kind, second_moment: Any, *, eps: float = 1e-7, power: float = 0.5) -> Any:
    """G of equation (3), a scalar or an array for each leaf."""
    if kind == "identity":
        return ones(kind, second_moment)
    s = scale(kind, second_moment, eps, power)
    largest = _over_leaves(jnp.max, s)
    return jax.tree.map(lambda leaf: largest / jnp.maximum(leaf, largest / _LARGEST_GAIN), s)


def _over_leaves(reduce: Callable, tree: Any) -> jax.Array:
    return reduce(jnp.stack([reduce(leaf) for leaf in jax.tree.leaves(tree)]))
