"""How much is run, and on what: shared by the parts."""

import runpy
from typing import NamedTuple

import jax.numpy as jnp
from measure import ROOT, TRIAL

from emberwalk.models import load_gbp_usd

PEERS = ROOT / "benchmarks" / "peers"
PHI, SX = 0.9, 1.0  # of the linear Gaussian model, where they are known
NUM_CHAINS = 4
DATA = runpy.run_path(str(ROOT / "tests" / "smc_data.py"))


class Sizes(NamedTuple):
    """How much is run.

    Attributes:
        repeats: of what runs in this process; odd, as those below.
        parameter_repeats: of `draws` draws a chain.
        table_repeats: of `draws` draws a chain, of kernels without a bar.
        children: of what runs in processes of its own.
        length: T of the linear Gaussian series.
        sweeps: sweeps a repeat, one after another in one program.
        warmup: draws a chain before the clock counts.
        draws: draws a chain and repeat.
    """

    repeats: int
    parameter_repeats: int
    table_repeats: int
    children: int
    length: int
    sweeps: int
    warmup: int
    draws: int


SIZES = Sizes(3, 1, 1, 1, 50, 3, 20, 20) if TRIAL else Sizes(9, 5, 3, 5, 500, 50, 500, 1000)


def linear_gaussian_y(length: int = SIZES.length):
    """The linear Gaussian series of the tests."""
    return jnp.asarray(DATA["linear_gaussian_data"](length), jnp.float32)


def growth_y():
    """The growth series of the tests, T = 50."""
    return jnp.asarray(DATA["growth_data"](), jnp.float32)


def switching_y():
    """The series of two regimes of the tests, T = 80."""
    return jnp.asarray(DATA["switching_data"](), jnp.float32)


def pound_y():
    """Returns of the pound, T = 750; the first 50 of them in a trial."""
    return jnp.asarray(load_gbp_usd()[1], jnp.float32)[: 50 if TRIAL else None]
