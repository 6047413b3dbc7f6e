"""Long series: memory, and what rounding does

Linear Gaussian model: a sweep that stores every sqrt(T)-th cloud over one that stores all (`checkpoint`),
T = 10 000; PaRIS as a stream (`paris_smoother`), T up to 1 000 000, in processes of its own.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax import lax, random
from measure import TRIAL, Row, alternate, child, median_ms, ratio

from emberwalk.infer import PPG
from emberwalk.kernels.smc import Path as StatePath
from emberwalk.kernels.smc import conditional_sweep
from emberwalk.models import linear_gaussian_scan, linear_gaussian_ssm

from .setting import PEERS, SIZES, linear_gaussian_y
from .sweep import Sweep, chain_of_sweeps, sweep_row

_STORED, _SHORT, _LONG = (500, 1000, 5000) if TRIAL else (10_000, 100_000, 1_000_000)
_NUM_SWEEPS, _NUM_DRAWS = (2, 2) if TRIAL else (20, 5)
_GIB = 2**30


def rows() -> list[Row]:
    """The sweep, then the stream."""
    return [checkpoint_row(), ppg_row(), *stream_rows()]


def checkpoint_row(num: int = 32) -> Row:
    """The same draws in how much more time."""
    y = linear_gaussian_y(_STORED)
    functions = {}
    for checkpoint in (True, False):

        def move(key, path, phi, sx, num, checkpoint=checkpoint):
            ssm = linear_gaussian_ssm(y, phi, sx)
            return conditional_sweep(key, ssm, path, num, checkpoint=checkpoint).path

        functions[checkpoint] = chain_of_sweeps(Sweep(move, StatePath(y[0], y[1:])), num, _NUM_SWEEPS)
    jax.tree.map(np.testing.assert_array_equal, functions[True](), functions[False]())
    times = alternate(functions, min(5, SIZES.repeats))
    name = f"T = {_STORED}, checkpointed / stored whole, the same draws bit for bit"
    return sweep_row(name, num, times[True], times[False], _NUM_SWEEPS)._replace(at_most=2.2)


def ppg_row(num: int = 32) -> Row:
    """Whole draws of `PPG`: path, parameters, and both together."""
    y = linear_gaussian_y(_STORED)

    def draws_with(checkpoint):
        kernel = PPG(linear_gaussian_scan, num, checkpoint=checkpoint)
        state = kernel.init(random.key(0), 0, None, (y,), {})

        @jax.jit
        def run(state):
            def one_draw(state, _):
                return kernel.sample(state, (y,), {}), None

            return lax.scan(one_draw, state, length=_NUM_DRAWS)[0].z

        return lambda: run(state)

    functions = {checkpoint: draws_with(checkpoint) for checkpoint in (True, False)}
    jax.tree.map(np.testing.assert_array_equal, functions[True](), functions[False]())
    times = alternate(functions, min(5, SIZES.repeats))
    cost, wall = ratio(times[True], times[False]), ratio(times[True], times[False], "wall")
    each = [median_ms(times[checkpoint].cpu) / _NUM_DRAWS for checkpoint in (True, False)]
    note = f"CPU, {each[0]:.3g} against {each[1]:.3g} ms; wall {wall.median:.3g}x"
    name = f"PPG draw, N = {num}: T = {_STORED}, checkpointed / stored whole, the same draws bit for bit"
    return Row(name, cost.median, spread=cost, at_most=2.2, note=note)


def stream_rows(num: int = 100) -> list[Row]:
    """Peak memory of a process for two lengths, and float32 beside float64 for the longer."""
    with tempfile.TemporaryDirectory() as folder:
        files = {length: Path(folder) / f"{length}.npy" for length in (_SHORT, _LONG)}
        for length, file in files.items():
            np.save(file, np.asarray(linear_gaussian_y(length)))
        short, long = (smoother(file, "memory", num) for file in files.values())
        errors = smoother(files[_LONG], "sums", num)
    y_bytes = 4 * (_LONG - _SHORT)
    beyond = (long["peak_bytes"] - short["peak_bytes"] - y_bytes) / 2**20
    name, peak = f"stream, T = {_LONG}, N = {num}", "peak memory of the process"
    each = f"{long['cpu']:.3g} s CPU, {long['wall']:.3g} s wall, compilation included"
    same = "against float64 sums over the same particles"
    return [
        Row(f"{name}: {peak}", long["peak_bytes"] / _GIB, "GiB", at_most=2, note=each),
        Row(f"stream, T = {_SHORT}, N = {num}: {peak}", short["peak_bytes"] / _GIB, "GiB"),
        Row(f"{name}: what the longer one needs beyond its data", beyond, "MiB", at_most=32,
            note=f"its data are {y_bytes / 2**20:.3g} MiB longer"),
        Row(f"{name}: error of the functional", errors["functional"], "", at_most=1e-4, note=f"relative, {same}"),
        Row(f"{name}: error of the log-evidence", errors["log_evidence"], "", at_most=0.5, note=same),
    ]  # fmt: skip


def smoother(file: Path, what: str, num: int) -> dict[str, float]:
    """A child process."""
    return child(sys.executable, PEERS / "long_smoother.py", what, str(file), str(num))
