"""How the members of a `DeepEnsemble` come down, all together.

    z' = optimiser(z, grad U_{0,B}(z)),    B the batch of the step, each member its own             (1)

A compiled call makes a block of steps: their number is an argument of it, so that the last block, which is shorter,
is the same program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax import random
from jaxtyping import Array, Float, Int, Key
from numpyro.optim import _NumPyroOptim

from ...kernels.sgmcmc.base import is_finite
from .bound import BoundModel
from .rows import over_batches
from .target import Values
from .tempering import class_weights

# Steps of a block, after which the bar moves.
_BLOCK = 100


class Members(NamedTuple):
    """What goes from step to step; each with a leading axis over members outside of `vmap`.

    Attributes:
        optim_state: of the optimiser, z in it.
        key: of the batches.
        order_key: of the order of the rows within epochs, and of a bootstrap.
        num_nonfinite: steps that were refused.
    """

    optim_state: Any
    key: Key[Array, ""]
    order_key: Key[Array, ""]
    num_nonfinite: Int[Array, ""]


class MemberPrograms:
    """What is compiled for the arguments of a model.

    Args:
        bound: the model with its arguments.
        optim: of NumPyro's kind.
        init_strategy: as in NumPyro.
        num_members: M.

    Attributes:
        bound: as given.
        block: most steps of a call of `advance`.
        start: (M keys) -> Members.
        advance: (Members, first step, count) -> Members, and the losses (M, block) of `count` steps.
        values: Members -> their unconstrained, and their constrained values.
    """

    def __init__(self, bound: BoundModel, optim: _NumPyroOptim, init_strategy: Callable, num_members: int):
        self.bound, self._optim, self._init_strategy = bound, optim, init_strategy
        self.block, self._at_once = _BLOCK, max(1, bound.target.rows.at_once // num_members)
        self.start = jax.jit(jax.vmap(self._start))
        self.advance = jax.jit(jax.vmap(self._advance, in_axes=(0, None, None)))
        self.values = jax.jit(jax.vmap(self._values))

    def _start(self, rng_key: Key[Array, ""]) -> Members:
        key_start, key_batches, order_key = random.split(rng_key, 3)
        z = self.bound.first_value(key_start, self._init_strategy)
        return Members(self._optim.init(z), key_batches, order_key, jnp.zeros((), jnp.int32))

    def _advance(
        self, member: Members, first: Int[Array, ""], count: Int[Array, ""]
    ) -> tuple[Members, Float[Array, " block"]]:
        key_of = partial(random.fold_in, random.fold_in(member.key, first))
        rows, order_key = self.bound.target.rows, member.order_key

        def drawn(j: Int[Array, ""]) -> tuple[None, Any]:
            return None, rows.indices(key_of(j), order_key, first + j)

        def step(
            j: Int[Array, ""], _: None, batch: Any, carry: tuple[Members, Array]
        ) -> tuple[Members, Array]:
            member, losses = carry
            member, loss = self._step(member, batch)
            return member, losses.at[j].set(loss)

        return over_batches(step, (member, jnp.zeros(self.block)), drawn, rows, count, self._at_once)

    def _step(self, member: Members, batch: Any) -> tuple[Members, Float[Array, ""]]:
        """Equation (1), refused where it comes from, or leads to, what is no number."""
        target, z = self.bound.target, self._optim.get_params(member.optim_state)
        weights = class_weights(target.tempering, 0.0)
        gradient, sums = target.derivatives(z, weights, batch)
        loss = sum((weights[name] * value for name, value in sums.items()), jnp.zeros(()))
        stepped = self._optim.update(gradient, member.optim_state, value=loss)
        # one gradient that is no number would stay in an optimiser's moments for good
        good = is_finite((gradient, loss, self._optim.get_params(stepped)))
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), stepped, member.optim_state)
        return member._replace(optim_state=kept, num_nonfinite=member.num_nonfinite + ~good), loss

    def _values(self, member: Members) -> tuple[Values, Values]:
        z = self._optim.get_params(member.optim_state)
        return z, self.bound.constrained(z)


def optimised(
    programs: MemberPrograms, members: Members, num_steps: int, progress_bar: bool
) -> tuple[Members, Float[np.ndarray, "member step"]]:
    """The members after `num_steps` steps, and their losses."""
    losses = []
    with tqdm.tqdm(total=num_steps, disable=not progress_bar) as bar:
        for first in range(0, num_steps, programs.block):
            count = min(programs.block, num_steps - first)
            members, of_block = programs.advance(members, first, count)
            losses.append(of_block)
            if progress_bar:  # without it nothing waits for a block before the next is on its way
                bar.set_postfix_str(progress_text(np.asarray(of_block)[:, :count], members), refresh=False)
                bar.update(count)
    return members, np.concatenate([np.asarray(block) for block in losses], axis=1)[:, :num_steps]


def progress_text(losses: Float[np.ndarray, "member step"], members: Members) -> str:
    """For the bar: the loss of a member in the last block, on average and from the best to the worst; refusals."""
    of_members = losses.mean(1)
    text = f"avg. loss {of_members.mean():.4f} ({of_members.min():.4f} to {of_members.max():.4f})"
    refused = int(np.sum(members.num_nonfinite))
    return f"{text}, nonfinite {refused}" if refused else text
