"""The density of a scan whose path is given, all times at once.

Given x_{1:T}, the carries of a Markov model of order 1 are known without a loop,

    c_t = F_t(., x_t)        (leaves that depend on a latent: F_t forgets c_{t-1})               (1)

so that the body can be mapped over t instead of scanned: half the time of a gradient at T = 1000,
and the sum over t becomes a tree, which keeps float32 from drifting. Leaves that no latent reaches
(a clock) are scanned alone. NumPyro's scan is put back wherever a latent is not given: run
generatively, the map would draw from wrong carries.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree
from numpyro import handlers
from numpyro.contrib.control_flow.scan import _promote_scanned_value_shapes, _subs_wrapper, scan_wrapper
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger


class TimeParallel(Messenger):
    """A model whose scan is mapped over time; a drop-in wrapper for `MCMCKernel.wrap_model`.

    Args:
        fn: the model, its path conditioned.
        latents: names of the latent sites of the scan body.
        stochastic: which leaves of the carry depend on a latent, in order.
    """

    def __init__(self, fn: Callable, *, latents: tuple[str, ...], stochastic: tuple[bool, ...]):
        self.latents = latents
        self.stochastic = stochastic
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] != "control_flow" or msg["fn"] is not scan_wrapper or msg["kwargs"].get("enum"):
            return
        given = [values for _, values in msg["kwargs"]["substitute_stack"] if isinstance(values, dict)]
        if all(any(name in values for values in given) for name in self.latents):
            msg["fn"] = partial(map_over_time, stochastic=self.stochastic)


def map_over_time(
    body,
    init,
    xs,
    length,
    reverse,
    rng_key=None,
    substitute_stack=(),
    history=1,
    *,
    stochastic: tuple[bool, ...],
) -> Any:
    """Same arguments and result as NumPyro's `scan_wrapper`, for a path that is given."""
    del reverse, history
    if length is None:
        length = jnp.shape(jax.tree.leaves(xs)[0])[0]
    step = partial(_one_step, body, jax.tree.map(jnp.asarray, xs), length, substitute_stack)
    scanned = partial(
        scan_wrapper, length=length, reverse=False, rng_key=rng_key, substitute_stack=substitute_stack
    )
    # only a scan knows what a weakly typed carry, such as the 0 of scan(step, 0, y), becomes
    shapes = jax.eval_shape(lambda init, xs: scanned(body, init, xs)[0][2], init, xs)
    init = jax.tree.map(lambda leaf, shape: jnp.asarray(leaf, shape.dtype), init, shapes)
    times = jnp.arange(length)
    known = _clock_leaves(step, init, times, stochastic)
    after = jax.vmap(lambda index, carry: step(index, carry)[0])(
        times, _fill(init, known, stochastic, length)
    )
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), init, after)
    last, (trace, ys) = jax.vmap(step)(times, before)
    for site in trace.trace.values():
        if site["type"] == "sample":
            site["fn"] = promote_batch_shape(site["fn"])
            site["value"] = _promote_scanned_value_shapes(site["value"], site["fn"])
    return (length, rng_key, jax.tree.map(lambda leaf: leaf[-1], last)), (trace, ys)


def _one_step(body, xs, length, substitute_stack, index: Array, carry: PyTree[Array]):
    """One step as NumPyro's scan makes it, at time `index`."""
    inputs = jax.tree.map(lambda leaf: leaf[index], xs)
    with handlers.block():
        step = handlers.infer_config(body, config_fn=lambda msg: {"_scan_current_index": index})
        for kind, values in substitute_stack:
            substitution = partial(_subs_wrapper, values, index, length)
            if kind == "condition":
                step = handlers.condition(step, condition_fn=substitution)
            elif kind == "substitute":
                step = handlers.substitute(step, substitute_fn=substitution)
        with handlers.trace() as sites:
            carry_after, output = step(carry, inputs)
    carry_after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), carry_after, carry)
    return carry_after, (PytreeTrace(sites), output)


def _clock_leaves(step, init, times, stochastic: tuple[bool, ...]) -> list[Array]:
    """c_{t-1} of the leaves that no latent reaches, scanned without the rest of the step."""
    leaves, tree = jax.tree.flatten(init)
    if all(stochastic):
        return []

    def advance(clock: list[Array], index):
        every = iter(clock)
        carry = [leaf if random else next(every) for leaf, random in zip(leaves, stochastic, strict=True)]
        after = jax.tree.leaves(step(index, jax.tree.unflatten(tree, carry))[0])
        return [leaf for leaf, random in zip(after, stochastic, strict=True) if not random], clock

    return lax.scan(advance, [leaf for leaf, r in zip(leaves, stochastic, strict=True) if not r], times)[1]


def _fill(init, known: list[Array], stochastic: tuple[bool, ...], length: int):
    """Carries before every step: the known leaves, and for the others any value of their shape."""
    leaves, tree = jax.tree.flatten(init)
    clock = iter(known)
    rows = [
        jnp.broadcast_to(leaf, (length, *leaf.shape)) if random else next(clock)
        for leaf, random in zip(leaves, stochastic, strict=True)
    ]
    return jax.tree.unflatten(tree, rows)
