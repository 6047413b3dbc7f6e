"""Smoothed functionals: the average over all pairs beside independence Metropolis

A conditional sweep with the statistic of x_{t-1} x_t (`kernels/smc/paris.py`), linear Gaussian model,
T = 500, one chain.
"""

from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Array, Float, PyTree
from measure import NOTICEABLE, TRIAL, Row, Timing, alternate

from emberwalk.kernels.smc import Path, additive, conditional_sweep
from emberwalk.kernels.smc.paris import choose_paris
from emberwalk.models import linear_gaussian_ssm

from .setting import SIZES, linear_gaussian_y
from .sweep import Sweep, chain_of_sweeps, sweep_row

_LAG_PRODUCT = additive(lambda previous, current, t: previous * current)
_REPEATS = min(5, SIZES.repeats)
_NUMS = (4, 16) if TRIAL else (4, 8, 16, 64, 256, 1024)


class Smoothed(NamedTuple):
    """What goes from sweep to sweep: the statistic too, or it would not be computed."""

    path: Path
    statistic: PyTree[Float[Array, "..."]]


def rows() -> list[Row]:
    """dense over imh for each N, and whether "auto" takes the faster; imh over no statistic."""
    found = []
    for num in _NUMS:
        times = timed(num, "dense", "imh")
        row = sweep_row("dense / imh", num, times["dense"], times["imh"], num_sweeps(num))
        found += [row, auto_row(num, row.value)]
    times = timed(100, "imh", "none")
    row = sweep_row("imh / no statistic", 100, times["imh"], times["none"], num_sweeps(100))
    return [*found, row._replace(at_most=3)]


def timed(num: int, *ways: str) -> dict[str, Timing]:
    """Sweeps with the statistic made in each of these ways."""
    return alternate({way: chain_of_sweeps(smoothing(way), num, num_sweeps(num)) for way in ways}, _REPEATS)


def num_sweeps(num: int) -> int:
    """So few that a repeat of the average over all pairs takes seconds."""
    return max(1, min(SIZES.sweeps, 800 // num))


def smoothing(way: str) -> Sweep:
    """A sweep with the statistic, or without it for "none"."""
    y = linear_gaussian_y()
    options = {} if way == "none" else {"functional": _LAG_PRODUCT, "paris": way}

    def move(key, state, phi, sx, num):
        swept = conditional_sweep(key, linear_gaussian_ssm(y, phi, sx), state.path, num, **options)
        return Smoothed(swept.path, state.statistic if way == "none" else swept.statistic)

    return Sweep(move, Smoothed(Path(y[0], y[1:]), jnp.float32(0.0)))


def auto_row(num: int, cost: float) -> Row:
    """1 where "auto" takes the faster one, or there is nothing between them."""
    picked = choose_paris("auto", num)
    faster = "dense" if cost < 1 else "imh"
    right = picked == faster or abs(cost - 1) < NOTICEABLE
    note = f"1 = yes; it takes {picked}, and a difference of less than {NOTICEABLE:.0%} is none"
    return Row(f'"auto" takes the faster, N = {num}', float(right), unit="", at_least=1, note=note)
