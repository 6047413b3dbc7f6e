"""Tall data from nothing, beside NUTS and HMCECS: errors and wall time

Logistic regression, N = 100 000 rows, d = 50, one chain from zeros in a new process, in turn; everything is counted
but imports: compilation, warm-up, the search for a centre (the mode that HMCECS expands about is not). Errors are
root mean squares over the coefficients against the Laplace posterior in float64; ours with control variates.
"""

import sys
from typing import NamedTuple

import numpy as np
from measure import TRIAL, Clocked, Row, alternate, child, ratio

from .setting import PEERS, SIZES

_NUM_KEYS = 2 if TRIAL else 5
_FEWER = 100 if TRIAL else 1


class Contender(NamedTuple):
    """What is run.

    Attributes:
        name: in the table.
        kernel: in `peers/tall_data.py`.
        warmup: draws.
        draws: kept.
    """

    name: str
    kernel: str
    warmup: int
    draws: int


OURS = Contender("Leimkuhler-Matthews, h = 2e-5", "leimkuhler_matthews", 200, 10_000)
BESIDE = (
    Contender("BAOAB, h = 5e-3, friction 150", "baoab", 200, 5000),
    Contender("SGLD, h = 1e-5", "sgld", 200, 10_000),
)
SHORT_NUTS = Contender("NUTS", "nuts", 200, 400)
NUTS = Contender("NUTS", "nuts", 200, 2400)
HMCECS = Contender("HMCECS", "hmcecs", 500, 2000)
BARS = {NUTS: 1 / 8, SHORT_NUTS: 1 / 3, HMCECS: 1 / 6}


class Runs:
    """Runs of a contender, each in a new process and with the next key; `results` keeps their (sd, mean) errors."""

    def __init__(self, contender: Contender):
        self.contender = contender
        self.results: list[tuple[float, float]] = []

    def __call__(self) -> Clocked:
        _, kernel, *lengths = self.contender
        numbers = (*(max(5, length // _FEWER) for length in lengths), len(self.results))
        sizes = (SIZES.rows, SIZES.columns, SIZES.batch)
        run = Clocked(**child(sys.executable, PEERS / "tall_data.py", kernel, *map(str, (*numbers, *sizes))))
        self.results.append(run.result)
        return run


def rows() -> list[Row]:
    """Ours and the peers in turn, then ours with as many keys as its errors are the medians of."""
    runs = {contender: Runs(contender) for contender in (OURS, *BARS)}
    times = alternate(runs, SIZES.children)
    alone = {contender: Runs(contender) for contender in BESIDE}
    for run in (runs[OURS], *alone.values()):
        while len(run.results) < _NUM_KEYS:
            run()
    found = error_rows(runs[OURS], bars=(0.025, 0.05))
    for peer, bar in BARS.items():
        time = ratio(times[OURS], times[peer], "wall")
        seconds = [float(np.median(times[contender].wall)) for contender in (OURS, peer)]
        note = f"wall, {seconds[0]:.3g} against {seconds[1]:.3g} s"
        name = f"{label(OURS)} / {label(peer)}"
        found.append(Row(name, time.median, at_most=round(bar, 3), spread=time, note=note))
    for run in (*alone.values(), *(runs[peer] for peer in BARS)):
        found += error_rows(run)
    return found


def label(contender: Contender) -> str:
    """Name and numbers of draws."""
    return f"{contender.name}, {contender.warmup} + {contender.draws}"


def error_rows(runs: Runs, bars: tuple[float | None, float | None] = (None, None)) -> list[Row]:
    """Medians over the keys."""
    sd, mean = np.transpose(runs.results)
    note = f"median of {len(sd)} keys"
    return [
        Row(f"{label(runs.contender)}: error of the {what}", float(np.median(errors)), unit, at_most=bar,
            spread=f"{errors.min():.3g} to {errors.max():.3g}", note=note)
        for what, errors, unit, bar in zip(("sd", "mean"), (sd, mean), ("", "sd"), bars, strict=True)
    ]  # fmt: skip
