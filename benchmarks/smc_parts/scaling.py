"""How a sweep grows: with the times, the particles, the chains

Linear Gaussian model as a scan; T = 1000, N = 64, 1 chain where nothing else is said. Memory is what the
compiled program of one sweep needs beside its arguments and results.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from measure import TRIAL, Row, Timing, alternate, median_ms, ratio

from .setting import PHI, SIZES, SX, linear_gaussian_y
from .sweep import from_scan

_REPEATS = min(5, SIZES.repeats)
_NUM_SWEEPS = 2 if TRIAL else 5
_SHORTER = 20 if TRIAL else 1


class Size(NamedTuple):
    """Of one sweep, in the words of the table."""

    T: int = 1000 // _SHORTER
    N: int = 64
    chains: int = 1


AXES = {
    "T": [Size(T=length // _SHORTER) for length in (250, 1000, 4000)],
    "N": [Size(N=num) for num in (16, 64, 256)],
    "chains": [Size(chains=num) for num in (1, 4, 16)],
}


def rows() -> list[Row]:
    """Along each axis, taken in turn."""
    found = []
    for axis, sizes in AXES.items():
        programs = {getattr(size, axis): Program(size) for size in sizes}
        times = alternate(programs, _REPEATS)
        smallest = times[getattr(sizes[0], axis)]
        found += [row_of(axis, at, programs[at], times[at], smallest) for at in programs]
    return found


class Program:
    """`_NUM_SWEEPS` sweeps of every chain.

    Attributes:
        memory: MiB that it needs for a sweep.
    """

    def __init__(self, size: Size):
        sweep = from_scan(linear_gaussian_y(size.T))
        start = jax.tree.map(lambda leaf: jnp.stack([leaf] * size.chains), sweep.start)

        def one_sweep(paths, key, phi, sx):
            def of_chain(path, key):
                return sweep.move(key, path, phi, sx, size.N)

            return jax.vmap(of_chain)(paths, random.split(key, size.chains))

        self._arguments = (start, random.key(0), jnp.float32(PHI), jnp.float32(SX))
        self._run: Callable[..., Any] = jax.jit(sweeps_of(one_sweep)).lower(*self._arguments).compile()
        self.memory = self._run.memory_analysis().temp_size_in_bytes / 2**20

    def __call__(self) -> Any:
        return self._run(*self._arguments)


def sweeps_of(one_sweep: Callable) -> Callable:
    """One after another."""

    def run(paths, key, phi, sx):
        def step(paths, key):
            return one_sweep(paths, key, phi, sx), None

        return lax.scan(step, paths, random.split(key, _NUM_SWEEPS))[0]

    return run


def row_of(axis: str, at: int, program: Program, timing: Timing, smallest: Timing) -> Row:
    growth = ratio(timing, smallest)
    times = [seconds / _NUM_SWEEPS for seconds in (median_ms(timing.cpu), median_ms(timing.wall))]
    note = f"CPU; {times[1]:.3g} ms wall; {growth.median:.3g}x the time of the smallest; {program.memory:.3g} MiB"
    spread = f"{growth}" if growth.median != 1 else ""
    return Row(f"sweep, {axis} = {at}", times[0], "ms", spread=spread, note=note)
