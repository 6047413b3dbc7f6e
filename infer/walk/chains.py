"""Several chains in one program without a copy of what they remember."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Fields of a history that are as long as there are states, or slots.
_LONG = ("counts", "keys", "log_mu")


def chains_together(walked: Callable[[Any], Any], states: Any) -> Any:
    """The next state of every chain, from one draw of each.

    On a CPU chain after chain, in one array of all counts that is written in place: `vmap` runs both branches of
    every row, `lax.map` copies the counts of a chain at every draw. On other devices `vmap`.

    Args:
        walked: state of one chain -> next; it touches neither `i` nor `warmup_counts`.
        states: of all chains; the long fields of their history have shape [C, N, ...].
    """
    own = states._replace(i=None, warmup_counts=None)  # what walks; the rest stays
    moved = _in_turn(walked, own) if jax.default_backend() == "cpu" else jax.vmap(walked)(own)
    return moved._replace(i=states.i, warmup_counts=states.warmup_counts)


def _in_turn(walked: Callable[[Any], Any], states: Any) -> Any:
    num_chains, num_states = states.history.counts.shape
    fields = [name for name in _LONG if name in states.history._fields]
    shapes = {name: getattr(states.history, name).shape for name in fields}
    flat = {name: getattr(states.history, name).reshape(-1, *shape[2:]) for name, shape in shapes.items()}

    def with_long(state: Any, values: dict[str, Any], offset: Any) -> Any:
        return state._replace(history=state.history._replace(**values, offset=offset))

    def one_chain(c: Any, carry: tuple[dict[str, Any], Any]) -> tuple[dict[str, Any], Any]:
        long, others = carry
        state = jax.tree.map(lambda leaf: leaf[c], others)
        moved = walked(with_long(state, long, c * num_states))
        long = {name: getattr(moved.history, name) for name in fields}
        moved = with_long(moved, without, 0 * c)
        return long, jax.tree.map(lambda all_chains, one: all_chains.at[c].set(one), others, moved)

    without = dict.fromkeys(fields)
    others = states._replace(history=states.history._replace(**without))
    long, others = lax.fori_loop(0, num_chains, one_chain, (flat, others))
    long = {name: values.reshape(shapes[name]) for name, values in long.items()}
    return others._replace(history=others.history._replace(**long))
