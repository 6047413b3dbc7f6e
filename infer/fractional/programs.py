"""Programs of many draws, and what two calls must have in common to share one.

The model's arguments are constants of a program, times among them, which may not be traced; params and keys are its
arguments.
"""

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Key

type Params = dict[str, Any]
type Draw = Callable[[Key[Array, ""], Params], Any]
type Program = Callable[[Key[Array, " S"], Params], Any]

_AT_ONCE = 32  # draws in memory


def over_keys(draw: Draw) -> Program:
    """`draw(key, params)` for each key, in one program."""
    return jax.jit(lambda keys, params: lax.map(lambda key: draw(key, params), keys, batch_size=_AT_ONCE))


def known_by(tree: Any) -> Hashable:
    """The same for trees with the same content; arrays by their bytes, what has no hash by being the same object.

    Examples:
        >>> from emberwalk.infer.fractional.programs import known_by
        >>> known_by({"y": np.arange(3)}) == known_by({"y": np.arange(3)})
        True
        >>> known_by({"y": np.arange(3)}) == known_by({"y": np.arange(3) + 1})
        False
    """
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(_known_leaf(leaf) for leaf in leaves)


def _known_leaf(leaf: Any) -> Hashable:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, np.ndarray | jax.Array):
        array = np.asarray(leaf)
        if array.dtype == object:
            return _Same(leaf)
        return type(leaf), array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).digest()
    return type(leaf), leaf if isinstance(leaf, Hashable) else _Same(leaf)


class _Same:
    """An object that equals only itself, and is kept alive so that no other takes its place."""

    def __init__(self, kept: Any):
        self.kept = kept

    def __hash__(self) -> int:
        return id(self.kept)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.kept is self.kept
