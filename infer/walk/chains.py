"""Several chains in one program without a copy of what they remember."""

from collections.abc import Callable
from functools import partial
from typing import Any

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

    At every step all chains move: steps of different chains wait for nothing of each other, and a processor overlaps
    them. Chain by chain a fifth of the time goes to waiting for memory.

    Args:
        step: (state, x) -> (state, y) of one chain.
        states: of all chains.
        xs: with leading axes [C, length].
    """
    states, ys = lax.scan(partial(chains_together, step), states, _first_axes_swapped(xs))
    return states, _first_axes_swapped(ys)


def _first_axes_swapped(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def _in_turn(walked: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
    def all_chains(states: Any, others: Any) -> tuple[Any, Any]:
        num_chains, num_states = states.history.counts.shape
        fields = [name for name in _LONG if name in states.history._fields]
        shapes = {name: getattr(states.history, name).shape for name in fields}
        flat = {name: getattr(states.history, name).reshape(-1, *shape[2:]) for name, shape in shapes.items()}
        without = _with_history(states, **dict.fromkeys(fields))

        def one_chain(long: dict[str, Any], chain: tuple[Any, Any, Any]) -> tuple[dict[str, Any], Any]:
            c, short, own = chain
            moved, kept = walked(_with_history(short, **long, offset=c * num_states), own)
            long = {name: getattr(moved.history, name) for name in fields}
            return long, (_with_history(moved, **dict.fromkeys(fields), offset=short.history.offset), kept)

        long, (moved, kept) = lax.scan(one_chain, flat, (jnp.arange(num_chains), without, others))
        return _with_history(moved, **{name: long[name].reshape(shapes[name]) for name in fields}), kept

    return all_chains


def _with_history(state: Any, **values: Any) -> Any:
    return state._replace(history=state.history._replace(**values))
