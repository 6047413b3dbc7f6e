"""Means of simulated numbers against exact answers: replicas, their errors, z-scores.

    z = (mean of R independent values - exact) / (sd / sqrt(R))                                 (1)

A right kernel has |z| < 4.5 (once in 150,000 for one Gaussian z); a planted bug must exceed
`CAUGHT`. Values within a chain depend on each other: only chains, or replicas, count as
independent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

LIMIT = 4.5
CAUGHT = 8.0


def replicas(fn: Callable, key: jax.Array, num: int, *args, optimise: bool = True) -> NDArray[np.float64]:
    """`fn(key, *args)` for `num` keys in one compiled program; float64, leading axis `num`.

    Args:
        fn: returns one array. It is traced and compiled at each call.
        key: split into one key a replica.
        num: of replicas.
        args: what all replicas share.
        optimise: False compiles in half the time and runs six times as long; a program of little
            work, such as a planted bug on few replicas, gains by it.
    """
    program = jax.jit(jax.vmap(fn, in_axes=(0, *[None] * len(args))))
    with optimised() if optimise else nullcontext():
        return np.asarray(program(jax.random.split(key, num), *args), np.float64)


@contextmanager
def optimised() -> Iterator[None]:
    """Compiles nearly as users do; the other tests leave most optimisations out: compiling is what they cost."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def mcse(values: ArrayLike) -> NDArray[np.float64]:
    """Standard error of the mean of independent values; the leading axis is averaged."""
    values = np.asarray(values, np.float64)
    return values.std(0, ddof=1) / np.sqrt(values.shape[0])


def z_scores(values: ArrayLike, exact: ArrayLike) -> NDArray[np.float64]:
    """Equation (1) for independent values along the leading axis.

    Values that do not vary have z = 0 where they are right and infinity where they are not. A NaN
    stays one, and fails every comparison.
    """
    values = np.asarray(values, np.float64)
    error, scale = values.mean(0) - np.asarray(exact, np.float64), mcse(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((scale == 0) & (error == 0), 0.0, error / scale)


def assert_exact(z: ArrayLike) -> None:
    """Every |z| below `LIMIT`."""
    assert np.abs(z).max() < LIMIT, f"z = {np.round(z, 1)}"


def assert_caught(z: ArrayLike, at_least: float = CAUGHT) -> None:
    """Some |z| above `at_least`: the bug shows."""
    assert np.abs(z).max() > at_least, f"not caught: z = {np.round(z, 1)}"


def moments(x: jax.Array) -> jax.Array:
    """All first and second moments of a vector: x_i, then x_i x_j for i <= j."""
    rows, columns = np.triu_indices(x.shape[0])
    return jax.numpy.concatenate([x, x[rows] * x[columns]])
