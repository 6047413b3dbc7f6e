"""Time of a refinement, beside maximum likelihood by L-BFGS

The ratchet with V = 1, 300 paths of 100 points, compiled before the clock runs; host work such as counting is in it.
The peer is scipy's L-BFGS-B, which gives no uncertainty: as one writes it with scipy alone, by `scipy.linalg.expm` and
differences; and on this package's own likelihood, with exact compiled gradients.
"""

from functools import partial

import jax
import numpy as np
from measure import TRIAL, Row, alternate, median_ms, ratio

from .setting import (
    REPEATS,
    blocks,
    maximum_likelihood,
    maximum_likelihood_by_scipy,
    paths_of,
    refined,
    rmse,
    with_wrong_labels,
)

_NUM_PATHS = 30 if TRIAL else 300


def rows() -> list[Row]:
    """Clean, clean with the noise level inferred, and 5 % wrong."""
    jax.clear_caches()  # of the parts before, whose programs are the same
    times, _, _ = paths_of(1)
    clean = blocks(1, _NUM_PATHS, 1)[0]
    wrong = with_wrong_labels(clean, 0.05)
    of_clean = alternate(
        {
            "zero_shot": partial(_rates, times, clean, 0.0),
            "inferred": partial(_rates, times, clean, "infer"),
            "scipy": partial(maximum_likelihood_by_scipy, times, clean),
            "compiled": maximum_likelihood(times, clean, noisy=False),
        },
        REPEATS,
        after=_error,
    )
    of_wrong = alternate(
        {
            "zero_shot": partial(_rates, times, wrong, "infer"),
            "compiled": maximum_likelihood(times, wrong, noisy=True),
        },
        1 if TRIAL else 3,
        after=_error,
    )
    found = [
        _time("clean: zero_shot, labels taken as right", of_clean["zero_shot"], 100),
        _time("clean: zero_shot, noise level inferred", of_clean["inferred"], None),
        _faster("clean: L-BFGS of scipy alone / zero_shot", of_clean["scipy"], of_clean["zero_shot"], 5),
        _faster("clean: L-BFGS, compiled gradients / zero_shot", of_clean["compiled"], of_clean["zero_shot"], 5),
        _time("5 % wrong: zero_shot", of_wrong["zero_shot"], 1500),
        _faster("5 % wrong: L-BFGS, compiled gradients / zero_shot", of_wrong["compiled"], of_wrong["zero_shot"], None),
    ]
    # that of wrong labels is the second
    compiled = {"labels taken as right": of_clean["zero_shot"], "noise level inferred": of_clean["inferred"]}
    return found + [
        Row(f"{name}: compilation", timing.compile_wall, "s", note="wall, once a shape")
        for name, timing in compiled.items()
    ]


def _rates(times: np.ndarray, labels: np.ndarray, label_noise: float | str) -> np.ndarray:
    return np.asarray(refined(times, labels, label_noise).mean)


def _error(rates: np.ndarray) -> float:
    return rmse(rates, paths_of(1).rates)


def _time(name: str, timing, bar: float | None) -> Row:
    spread = f"{1e3 * min(timing.wall):.3g} to {1e3 * max(timing.wall):.3g}"
    note = f"wall; CPU {median_ms(timing.cpu):.3g} ms; error {timing.results[0]:.3f}"
    return Row(name, median_ms(timing.wall), "ms", at_most=bar, spread=spread, note=note)


def _faster(name: str, theirs, ours, bar: float | None) -> Row:
    wall, cpu = ratio(theirs, ours, "wall"), ratio(theirs, ours)
    note = (
        f"wall; CPU {cpu.median:.3g}x; {median_ms(theirs.wall):.4g} ms; errors {theirs.results[0]:.3f} and "
        f"{ours.results[0]:.3f}"
    )
    return Row(name, wall.median, "x", at_least=bar, spread=wall, note=note)
