"""The bar of a refinement: which iteration, its step, and what that changed."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import tqdm
from jaxtyping import Array

from ...kernels.jump.laplace import Tell

_BARS: list[tqdm.tqdm] = []
_CHANGES = {"EM": "largest change of a rate", "Newton": "nats to gain"}


@contextmanager
def refining(shown: bool) -> Iterator[Tell | None]:
    """What `em` and `newton` call at each step, or None where no bar is shown.

    It is one function for all bars: the compiled program keeps it.
    """
    if not shown:
        yield None
        return
    with tqdm.tqdm(desc="refining", unit="step") as bar:
        _BARS.append(bar)
        try:
            yield _tell
        finally:
            jax.effects_barrier()  # steps that are still on their way
            _BARS.remove(bar)


def _tell(iteration: str, step: Array, change: Array) -> None:
    if _BARS:
        _BARS[-1].set_postfix_str(progress_text(iteration, int(step), float(change)), refresh=False)
        _BARS[-1].update()


def progress_text(iteration: str, step: int, change: float) -> str:
    """For the bar.

    Args:
        iteration: "EM" or "Newton".
        step: its number.
        change: the largest relative change of a rate; of Newton the nats that the next step promises.

    Examples:
        >>> from emberwalk.infer.jump.progress import progress_text
        >>> progress_text("EM", 7, 0.0123)
        'EM step 7, largest change of a rate 0.012'
    """
    return f"{iteration} step {step}, {_CHANGES[iteration]} {change:.2g}"
