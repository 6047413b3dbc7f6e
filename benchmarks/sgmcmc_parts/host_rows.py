"""Rows read from a file, beside rows on the device

Logistic regression, 4 000 000 x 50 float32, 800 MB, b = 500, BAOAB: a step with the rows read by callbacks, in
draws of 1, 10 and 100 steps (1, 10 and 10 batches a callback), over a step with all rows in the memory of the device.
Draws of the kernel in one jitted scan, compiled before the clock runs.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from measure import TRIAL, Row, alternate
from peers.logistic import model, read_data, streamed_model, write_data

from emberwalk.infer import SGMCMC, HostRows
from emberwalk.kernels.sgmcmc import baoab

from .setting import SIZES, from_zeros, step_row

_NUM_ROWS = 5000 if TRIAL else 4_000_000
_NUM_STEPS = 200 if TRIAL else 10_000
_PER_DRAW = (1, 10, 100)
_ALGORITHM = baoab(6e-4, friction=1000.0)


def rows() -> list[Row]:
    """In turn, on files of a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), _NUM_ROWS, SIZES.columns)
        files = read_data(Path(name))
        of_batches = partial(model, b=SIZES.batch)  # a number among the arguments would be traced with them
        on_device = SGMCMC(of_batches, _ALGORITHM, steps_per_sample=_PER_DRAW[-1], init_strategy=from_zeros())
        arrays = tuple(map(jnp.asarray, files))
        functions = {"device": drawn(on_device, arrays)}
        for num in _PER_DRAW:
            data = HostRows(files._asdict(), plate="rows", batch_size=SIZES.batch)
            kernel = SGMCMC(
                streamed_model, _ALGORITHM, steps_per_sample=num, data=data, init_strategy=from_zeros()
            )
            functions[str(num)] = drawn(kernel, n=_NUM_ROWS)
        times = alternate(functions, SIZES.repeats)
    row = partial(step_row, under=times["device"], num_steps=_NUM_STEPS)
    found = [
        row(f"step, {num} steps a draw, rows read / on the device", times[str(num)]) for num in _PER_DRAW
    ]
    return [*found[:-1], found[-1]._replace(at_most=1.5)]


def drawn(kernel: SGMCMC, args: tuple = (), **kwargs: Any) -> Callable[[], Any]:
    """A function that makes `_NUM_STEPS` steps; the rows of `args` are arguments of its program."""
    first = kernel.init(random.key(0), 0, None, model_args=args, model_kwargs=kwargs)

    @jax.jit
    def run(state: Any, args: tuple) -> Any:
        def draw(state, _):
            return kernel.sample(state, args, kwargs), state.z

        return lax.scan(draw, state, None, _NUM_STEPS // kernel.steps_per_sample)[1]

    return lambda: run(first, args)
