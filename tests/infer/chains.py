"""Many short chains of a kernel in one program."""

from collections.abc import Callable
from contextlib import nullcontext

import jax
import numpy as np
from jax import random
from numpy.typing import NDArray
from numpyro.infer import Gibbs

from tests.statistics import optimised


def chain_means(
    kernel,
    collect: Callable,
    num_chains: int,
    num_warmup: int,
    num_sweeps: int,
    *args,
    optimise: bool = True,
    init_params: dict | None = None,
) -> NDArray[np.float64]:
    """Means over the sweeps after warm-up of what `collect(state)` gives, one row a chain.

    `init_params` are one start, for all chains.
    """
    keys = random.split(random.key(0), num_chains)
    sample, init = kernel.sample, kernel.init
    if type(kernel) is Gibbs:  # ours vectorize themselves, NumPyro's is for one chain
        init = jax.vmap(kernel.init, in_axes=(0, None, None, None, None))
        sample = jax.vmap(kernel.sample, in_axes=(0, None, None))
    start = jax.tree.map(lambda leaf: jax.numpy.broadcast_to(leaf, (num_chains, *leaf.shape)), init_params)
    state = init(keys, num_warmup, start, args, {})

    def sweep(state, _):
        state = sample(state, args, {})
        return state, collect(state)

    with optimised() if optimise else nullcontext():
        _, seen = jax.jit(lambda state: jax.lax.scan(sweep, state, None, num_warmup + num_sweeps))(state)
    return np.asarray(seen[num_warmup:], np.float64).mean(0)
