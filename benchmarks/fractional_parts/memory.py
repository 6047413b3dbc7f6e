"""Memory of the ELBO's gradient, against the number of steps

The guide with a residual network, eight draws, ten observations; what the compiled program needs beside its arguments
and results. `checkpoint=True` of the guide and of the path makes anew for the derivative what is not at the ends of
sqrt(N) segments; its time is that of the longest path.
"""

import numpy as np
from measure import TRIAL, Row, alternate, ratio

from emberwalk.infer import AutoFractionalSDE

from .setting import REPEATS, WIDTH, Objective, seen_path

_LENGTHS = (20, 40, 80) if TRIAL else (250, 500, 1000, 2000, 4000)


def rows() -> list[Row]:
    """The slope on logarithmic axes, then what a checkpoint saves and costs."""
    found, longest = [], {}
    for checkpoint in (False, True):
        name = "with checkpoint" if checkpoint else "without checkpoint"
        programs = [_program(num, checkpoint) for num in _LENGTHS]
        megabytes = [program.memory / 1e6 for program in programs]
        slope = float(np.polyfit(np.log(_LENGTHS), np.log(megabytes), 1)[0])
        note = ", ".join(f"{size:.3g} MB at {num}" for num, size in zip(_LENGTHS, megabytes, strict=True))
        bars = (0.9, 1.1) if not checkpoint else (None, None)
        found.append(Row(f"slope of memory, {name}", slope, "", *bars, note=note))
        longest[name] = programs[-1]
    share = longest["with checkpoint"].memory / longest["without checkpoint"].memory
    times = alternate(longest, REPEATS)
    cost = ratio(times["with checkpoint"], times["without checkpoint"], "wall")
    steps = f"{_LENGTHS[-1]} steps"
    return [
        *found,
        Row("memory, with checkpoint / without", share, "x", note=steps),
        Row(
            "time, with checkpoint / without",
            cost.median,
            "x",
            at_most=1.6,
            spread=cost,
            note=f"wall, {steps}",
        ),
    ]


def _program(num_steps: int, checkpoint: bool) -> Objective:
    model, y = seen_path(num_steps, num_modes=5, checkpoint=checkpoint)
    return Objective(model, AutoFractionalSDE(model, residual=WIDTH, checkpoint=checkpoint), y, 8)
