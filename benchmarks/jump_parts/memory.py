"""Memory of the filter, and of counts

Value and gradient of the log-likelihood through the filter, six states, 100 points: what the compiled program holds
besides its arguments, in numbers of K L n. And bytes of counts of 100 and 10,000 paths.
"""

import jax
import jax.numpy as jnp
import numpy as np
from measure import TRIAL, Row

from emberwalk.kernels.jump import confusion_matrix, generator, labels_likelihood, lag_grid, path_statistics

from .setting import NUM_STATES, paths_of

_NUM_PATHS = (30, 60) if TRIAL else (300, 3000)


def rows() -> list[Row]:
    """Two sizes of each."""
    times, states, _ = paths_of(1)
    found = []
    for num_paths in _NUM_PATHS:
        floats = num_paths * len(times) * NUM_STATES
        share = _temporaries(times, states[:num_paths]) / (4 * floats)
        name = f"filter, value and gradient, {num_paths} paths: numbers held"
        found.append(Row(name, share, "K L n", note=f"of K L n^2 this is {share / NUM_STATES:.2g}"))
    sizes = [
        _bytes(path_statistics(times, states[:number], num_states=NUM_STATES)) for number in (100, 10_000)
    ]
    note = f"{sizes[0]} and {sizes[1]} bytes"
    return [*found, Row("counts of 10,000 paths / of 100", sizes[1] / sizes[0], "x", at_most=1.0, note=note)]


def _temporaries(times: np.ndarray, states: np.ndarray) -> int:
    grid = lag_grid(times)

    def loss(rates, labels):
        E = confusion_matrix(jnp.float32(0.05), NUM_STATES)
        return labels_likelihood(labels, grid)(generator(rates), E, jnp.ones(NUM_STATES) / NUM_STATES)

    rates = jnp.asarray(paths_of(1).rates, jnp.float32)
    program = jax.jit(jax.value_and_grad(loss)).lower(rates, jnp.asarray(states)).compile()
    return program.memory_analysis().temp_size_in_bytes


def _bytes(tree) -> int:
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))
