"""Compilation: the first run in a new process, and the second

Over those of NUTS on the same model, the pound's volatility.
"""

import sys
from functools import partial

from measure import Clocked, Row, Timing, alternate, child, median_ms, paired, ratio

from .setting import PEERS, SIZES


def rows(num_draws: int = 20, num: int = 16) -> list[Row]:
    """New processes that keep no programs: the first run of PPG over that of NUTS, and the second run."""

    def first_run(kernel: str) -> Clocked:
        program = PEERS / "first_run.py"
        return Clocked(**child(sys.executable, program, kernel, str(num_draws), str(num)))

    functions = {name: partial(first_run, name) for name in ("ppg", "nuts")}
    times = alternate(functions, SIZES.children, after=lambda second: second)
    ours, nuts = times["ppg"], times["nuts"]
    first, apart = ratio(ours, nuts), paired(less_second(ours), less_second(nuts))
    each = f"{median_ms(ours.cpu) / 1e3:.3g} against {median_ms(nuts.cpu) / 1e3:.3g} s"
    how = f"CPU, one chain, {num_draws} + {num_draws} draws, progress bar on, N = {num}"
    compiled = [max(second["compilations"] for second in timing.results) for timing in (ours, nuts)]
    return [
        Row("first run: PPG / NUTS, centred", first.median, at_most=3, spread=first, note=f"{how}; {each}"),
        Row("first less second run: PPG / NUTS, centred", apart.median, spread=apart, note=how),
        Row("second run of PPG", compiled[0], "programs compiled", at_most=0, note=f"NUTS {compiled[1]}"),
    ]


def less_second(timing: Timing) -> list[float]:
    """CPU seconds that the first run took beyond the second: tracing and compilation."""
    return [first - second["cpu"] for first, second in zip(timing.cpu, timing.results, strict=True)]
