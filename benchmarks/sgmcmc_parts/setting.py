"""How much is run, on what, and how the time of a step is told from that of compilation: shared by the parts."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jax.experimental.compilation_cache import compilation_cache
from measure import ROOT, TRIAL, Clocked, Row, Timing, median_ms, once, ratio
from numpyro.infer import MCMC, init_to_value
from numpyro.infer.mcmc import MCMCKernel

PEERS = ROOT / "benchmarks" / "peers"


class Sizes(NamedTuple):
    """How much is run.

    Attributes:
        repeats: of what runs in this process; odd, as the next.
        children: of what runs in processes of its own.
        rows: N of the logistic regression.
        columns: d.
        batch: b.
    """

    repeats: int
    children: int
    rows: int
    columns: int
    batch: int


SIZES = Sizes(1, 1, 2000, 5, 50) if TRIAL else Sizes(5, 3, 100_000, 50, 500)


@contextmanager
def kept_programs() -> Iterator[None]:
    """`MCMC.run` compiles its loop at every call: kept, a program costs each run of a slope alike."""
    with tempfile.TemporaryDirectory() as folder:
        before = jax.config.jax_persistent_cache_min_compile_time_secs
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
            compilation_cache.reset_cache()


def from_zeros(num_columns: int = SIZES.columns) -> Callable:
    """Init strategy of the logistic regression."""
    return init_to_value(values={"beta": jnp.zeros(num_columns)})


class Slope:
    """Seconds of `long - short` steps: of the longer run less those of the shorter, so that compilation is not in it.

    Args:
        run: number of steps -> arrays; it may compile anew at every call.
        short: steps.
        long: steps.
    """

    def __init__(self, run: Callable[[int], Any], short: int, long: int):
        self.run, self.short, self.long = run, short, long

    def __call__(self) -> Clocked:
        short, long = (once(lambda num=num: self.run(num)) for num in (self.short, self.long))
        return Clocked(long.wall - short.wall, long.cpu - short.cpu)


def sampled(kernel: MCMCKernel, args: tuple = (), *, num_chains: int = 1) -> Callable[[int], Any]:
    """Number of steps -> what `MCMC` collects; no warm-up.

    Args:
        kernel: to be sampled.
        args: arrays, the arguments of the model and of the program: one that closed over them would keep them.
        num_chains: vectorized.
    """

    @cache
    def prepared(num_steps: int) -> MCMC:
        return MCMC(
            kernel,
            num_warmup=0,
            num_samples=num_steps,
            num_chains=num_chains,
            chain_method="vectorized",
            progress_bar=False,
            jit_model_args=True,
        )

    def run(num_steps: int) -> Any:
        mcmc = prepared(num_steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The deterministic sites")
            mcmc.run(random.key(0), *args)
        return jax.block_until_ready(mcmc.get_samples())

    return run


def step_row(name: str, over: Timing, under: Timing, num_steps: int) -> Row:
    """A ratio of CPU times of a step, the ratio of wall times beside it.

    Args:
        name: of the row.
        over: of the numerator.
        under: of the denominator.
        num_steps: of each, the steps of all chains counted.
    """
    cost, wall = ratio(over, under), ratio(over, under, "wall")
    times = [1e3 * median_ms(t.cpu) / num_steps for t in (over, under)]
    note = f"CPU, {times[0]:.3g} against {times[1]:.3g} us a step; wall {wall.median:.3g}x"
    return Row(name, cost.median, spread=cost, note=note)
