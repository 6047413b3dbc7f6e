"""Several chains in one program without a copy of what they remember."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Fields of a history that are as long as there are states, or slots.
_LONG = ("counts", "keys", "log_mu")


def chains_together[S](walked: Callable[[S, Any], tuple[S, Any]], states: S, others: Any) -> tuple[S, Any]:
    """What each chain's steps lead to.

    On a CPU chain after chain, in one array of all counts that is written in place: `vmap` runs both branches of
    every row, `lax.map` copies the counts of a chain at every draw. On other devices `vmap`.

    Args:
        walked: state and others of one chain -> its next state, and what else is kept.
        states: of all chains; the long fields of their `history` have shape [C, N, ...].
        others: of all chains.
    """
    together = _in_turn if jax.default_backend() == "cpu" else jax.vmap
    return together(walked)(states, others)


def scan_together[S](step: Callable[[S, Any], tuple[S, Any]], states: S, xs: Any) -> tuple[S, Any]:
    """What `vmap` of `lax.scan(step, state, x)` returns; see `chains_together`.

    On a CPU one loop, a step of one chain after that of another. Steps of different chains wait for nothing of each
    other, and a processor overlaps them: chain by chain a fifth of the time goes to waiting for memory. A loop over
    chains within one over steps would cost a third more, for starting it.

    Args:
        step: (state, x) -> (state, y) of one chain.
        states: of all chains.
        xs: with leading axes [C, length].
    """
    if jax.default_backend() != "cpu":
        states, ys = lax.scan(lambda states, x: jax.vmap(step)(states, x), states, _first_axes_swapped(xs))
        return states, _first_axes_swapped(ys)
    shared = _Shared.of(states)
    length = jax.tree.leaves(xs)[0].shape[1]
    chains = jnp.tile(jnp.arange(shared.num_chains), length)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), _first_axes_swapped(xs))

    def one_step(carry: tuple[dict[str, Any], Any], inputs: tuple[Any, Any]) -> tuple[tuple, Any]:
        long, short = carry
        chain, x = inputs
        own = jax.tree.map(partial(lax.dynamic_index_in_dim, index=chain, keepdims=False), short)
        # read before anything is written, else XLA would copy
        own = lax.optimization_barrier(own)
        long, moved, y = shared.walked(step, long, own, chain, x)
        short = jax.tree.map(partial(_written, chain=chain), short, moved)
        return (long, short), y

    (long, short), ys = lax.scan(one_step, (shared.long, shared.short), (chains, flat))
    ys = jax.tree.map(lambda leaf: leaf.reshape(length, -1, *leaf.shape[1:]), ys)
    return shared.put_back(long, short), _first_axes_swapped(ys)


def _first_axes_swapped(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def _in_turn(walked: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
    def all_chains(states: Any, others: Any) -> tuple[Any, Any]:
        shared = _Shared.of(states)

        def one_chain(long: dict[str, Any], inputs: tuple[Any, Any, Any]) -> tuple[dict[str, Any], Any]:
            chain, own, other = inputs
            long, moved, kept = shared.walked(walked, long, own, chain, other)
            return long, (moved, kept)

        chains = jnp.arange(shared.num_chains)
        long, (short, kept) = lax.scan(one_chain, shared.long, (chains, shared.short, others))
        return shared.put_back(long, short), kept

    return all_chains


class _Shared(NamedTuple):
    """States of all chains, their long fields end to end in one array each.

    Attributes:
        long: the arrays, [C * N, ...].
        short: the states without them.
        shapes: of the long fields as they came.
        num_chains: C.
        num_states: N.
    """

    long: dict[str, Any]
    short: Any
    shapes: dict[str, tuple[int, ...]]
    num_chains: int
    num_states: int

    @classmethod
    def of(cls, states: Any) -> "_Shared":
        history = states.history
        shapes = {name: getattr(history, name).shape for name in _LONG if name in history._fields}
        long = {name: getattr(history, name).reshape(-1, *shape[2:]) for name, shape in shapes.items()}
        return cls(long, _with_history(states, **dict.fromkeys(shapes)), shapes, *history.counts.shape)

    def walked(self, walked: Callable, long: dict[str, Any], own: Any, chain: Any, other: Any) -> tuple:
        """(long, short, what else) after the step of one chain."""
        moved, kept = walked(_with_history(own, **long, offset=chain * self.num_states), other)
        long = {name: getattr(moved.history, name) for name in long}
        return long, _with_history(moved, **dict.fromkeys(long), offset=own.history.offset), kept

    def put_back(self, long: dict[str, Any], short: Any) -> Any:
        """All states again."""
        return _with_history(
            short, **{name: long[name].reshape(shape) for name, shape in self.shapes.items()}
        )


def _written(values: Any, value: Any, chain: Any) -> Any:
    return lax.dynamic_update_index_in_dim(values, value, chain, 0)


def _with_history(state: Any, **values: Any) -> Any:
    return state._replace(history=state.history._replace(**values))
