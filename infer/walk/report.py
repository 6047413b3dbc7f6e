"""What a walk says after a run: too short, nothing revisited, steps refused."""

import warnings
from typing import Any

import numpy as np

from ...kernels.walk.history import as_int

# Bounds from which the sentences speak.
_REVISITS, _PASSES, _UNTRACKED = 0.9, 10, 0.01
# Steps of a draw below which the progress bar, a round trip to the host a draw, costs more than the walk.
_STEPS_FOR_A_BAR = 100


def walk_warnings(kernel: Any, run: Any) -> list[str]:
    """Sentences on the last state of a `GraphWalk`."""
    state = run.last_state
    sentences = []
    steps = int(np.min(as_int(state.history.steps)))
    if steps < _PASSES * kernel.graph.num_nodes:
        sentences.append(
            f"The chains took {steps} steps on {kernel.graph.num_nodes} nodes: below {_PASSES} steps a node repellence "
            "gains little, and method='hdt' loses. Raise steps_per_draw or num_samples."
        )
    return [*sentences, *of_revisits(state), *of_refusals(state), *of_saturation(state)]


def site_warnings(kernel: Any, run: Any) -> list[str]:
    """Sentences on the last state of an `SRRW`."""
    state = run.last_state
    sentences = [] if not callable(kernel.alpha) and kernel.alpha == 0 else of_revisits(state)
    if sentences and kernel.guard == "adapt":
        sentences = [
            f"{sentences[0]} The guard holds alpha at {float(np.mean(state.alpha)):.2g} until then; at 0 the walk is "
            "its base chain."
        ]
    untracked, steps = (
        np.sum(x) for x in (np.asarray(state.num_untracked, np.int64), as_int(state.history.steps))
    )
    if untracked > _UNTRACKED * steps:
        sentences.append(
            f"{untracked} of {steps} steps were in states that found no place in the table and count as new. Raise "
            "history_size."
        )
    return sentences + of_refusals(state) + of_saturation(state)


def of_revisits(state: Any) -> list[str]:
    """Where few steps hit what was visited before, nothing repels."""
    rate = float(np.min(state.revisit_rate))
    if rate >= _REVISITS:
        return []
    return [
        f"Only {rate:.0%} of the steps hit a state visited before: the closed forms need nearly all. Walk longer, or "
        "use the average over distinct states (method='distinct')."
    ]


def of_saturation(state: Any) -> list[str]:
    """Visits that an int32 could not count any more."""
    lost = int(np.sum(np.asarray(getattr(state.history, "saturated", 0), np.int64)))
    if not lost:
        return []
    return [
        f"{lost} visits were not counted: a state has as many as an int32 holds, and repels no more than that. Run "
        "more chains, not longer ones."
    ]


def of_refusals(state: Any) -> list[str]:
    """Steps without a law to draw from."""
    refused = int(np.sum(np.asarray(state.num_nonfinite, np.int64)))
    if not refused:
        return []
    return [
        f"{refused} steps were refused because alpha or a density was NaN, or alpha negative or infinite: the walker "
        "stayed. Look at the schedule of alpha, or for log(0) in the model."
    ]


def progress_text(state: Any) -> str:
    """For the progress bar."""
    alpha, rate = float(np.ravel(state.alpha)[0]), float(np.mean(state.revisit_rate))
    return f"alpha {alpha:.3g} revisit {rate:.3f}"


def say_what_a_bar_costs(kernel: Any) -> None:
    """Once a kernel: a step of a walk on a graph is cheap, a look at it is not."""
    if kernel.steps_per_draw < _STEPS_FOR_A_BAR and not kernel.bar_was_seen:
        kernel.bar_was_seen = True
        warnings.warn(
            f"The progress bar asks the host at every draw, which costs more than its {kernel.steps_per_draw} steps: "
            f"raise steps_per_draw to {_STEPS_FOR_A_BAR} or more, or pass progress_bar=False.",
            UserWarning,
            stacklevel=2,
        )
