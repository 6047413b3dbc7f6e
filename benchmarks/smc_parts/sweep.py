"""A sweep beside a bare scan, `particles` and cuthbert

Conditional filter and backward sampling on the linear Gaussian model, T = 500, one chain: both front-ends
and the model written by hand over the least that can be done, then the peers over ours.
"""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float
from measure import Clocked, Row, Timing, alternate, child, median_ms, peer_python, ratio
from numpyro import handlers
from peers.bare_scan import bare_sweep

from emberwalk.infer.smc.capture import OuterModel
from emberwalk.infer.smc.structure import find_path_model
from emberwalk.kernels.smc import SSM, conditional_sweep
from emberwalk.kernels.smc import Path as StatePath
from emberwalk.models import linear_gaussian, linear_gaussian_scan, linear_gaussian_ssm

from .setting import PEERS, PHI, SIZES, SX, linear_gaussian_y

_CUTHBERT_SWEEPS = 2 if SIZES.sweeps < 10 else 10  # each takes half a second


def rows() -> list[Row]:
    """Over the bare scan for each N; then the peers over ours from the scan."""
    found = []
    for num in (16, 100, 1000):
        functions = {name: chain_of_sweeps(sweep, num) for name, sweep in all_sweeps().items()}
        times = alternate(functions, SIZES.repeats)
        for name in ("scan", "StateSpace", "by hand"):
            row = sweep_row(f"{name} / bare scan", num, times[name], times["bare scan"])
            found.append(row._replace(at_most=2.5))
        found.append(sweep_row("scan / by hand", num, times["scan"], times["by hand"])._replace(at_most=1.6))
    return [*found, particles_row(), *cuthbert_rows()]


class Sweep(NamedTuple):
    """A path move.

    Attributes:
        move: (key, path, phi, sx, num_particles) -> path.
        start: a possible path.
    """

    move: Callable[..., Any]
    start: Any


def all_sweeps() -> dict[str, Sweep]:
    """The same move on the same densities, by four ways to write them."""
    y = linear_gaussian_y()

    def bare(key, path, phi, sx, num):
        return bare_sweep(key, y, path, phi, sx, num)

    return {
        "bare scan": Sweep(bare, y),
        "by hand": Sweep(partial(sweep_of, partial(linear_gaussian_ssm, y)), StatePath(y[0], y[1:])),
        "StateSpace": read_from(linear_gaussian, y, {"x": y}),
        "scan": from_scan(y),
    }


def from_scan(y: Float[Array, "T"]) -> Sweep:
    """What users write most."""
    return read_from(linear_gaussian_scan, y, {"x0": y[0], "x": y[1:]})


def sweep_of(make_ssm: Callable[..., SSM], key, path, phi, sx, num: int) -> StatePath:
    """`conditional_sweep` with the model made inside the program, as `PPG` does it."""
    return conditional_sweep(key, make_ssm(phi, sx), path, num).path


def read_from(model: Callable, y: Float[Array, "T"], start: Mapping[str, Array]) -> Sweep:
    """What a front-end reads off a NumPyro model."""

    def given(phi, sx) -> OuterModel:
        return OuterModel(handlers.condition(model, {"phi": phi, "sx": sx}), (y,), {})

    found = find_path_model(given(PHI, SX))
    return Sweep(partial(sweep_of, lambda phi, sx: found.ssm(given(phi, sx))), found.path_of(dict(start)))


def chain_of_sweeps(sweep: Sweep, num: int, num_sweeps: int = SIZES.sweeps) -> Callable[[], Any]:
    """Sweeps in one program, each from the path of the last; the parameters are inputs."""

    @jax.jit
    def run(key, phi, sx):
        def one_sweep(path, key):
            return sweep.move(key, path, phi, sx, num), None

        return lax.scan(one_sweep, sweep.start, random.split(key, num_sweeps))[0]

    return lambda: run(random.key(0), jnp.float32(PHI), jnp.float32(SX))


def sweep_row(name: str, num: int, over: Timing, under: Timing, num_sweeps: int = SIZES.sweeps) -> Row:
    """A ratio of CPU times, the ratio of wall times beside it."""
    cost, wall = ratio(over, under), ratio(over, under, "wall")
    times = [median_ms(timing.cpu) / num_sweeps for timing in (over, under)]
    note = f"CPU, {times[0]:.3g} against {times[1]:.3g} ms; wall {wall.median:.3g}x"
    return Row(f"sweep, N = {num}: {name}", cost.median, spread=cost, note=note)


def particles_row(num: int = 100) -> Row:
    """As many sweeps of `particles` over ours."""
    python = peer_python("particles", "particles==0.4", "numpy<2")
    times = beside(python, PEERS / "particles_sweep.py", num, SIZES.sweeps)
    return sweep_row("particles 0.4 / scan", num, times["peer"], times["ours"])._replace(at_least=20)


def cuthbert_rows() -> list[Row]:
    """As many sweeps of cuthbert, whose filter is unconditional, over ours; with our JAX."""
    python = peer_python("cuthbert", "cuthbert==0.1.1", f"jax=={importlib.metadata.version('jax')}")
    found = []
    for num, bar in {32: None, 100: 10, 1000: None}.items():
        repeats = SIZES.children if bar else SIZES.table_repeats
        times = beside(python, PEERS / "cuthbert_sweep.py", num, _CUTHBERT_SWEEPS, repeats)
        row = sweep_row("cuthbert 0.1.1 / scan", num, times["peer"], times["ours"], _CUTHBERT_SWEEPS)
        found.append(row._replace(at_least=bar))
    return found


def beside(
    python: Path, program: Path, num: int, num_sweeps: int, repeats: int = SIZES.children
) -> dict[str, Timing]:
    """A peer in a process of its own and ours, in turn."""
    arguments = (str(num), str(num_sweeps), str(PHI), json.dumps(linear_gaussian_y().tolist()))
    functions = {
        "ours": chain_of_sweeps(all_sweeps()["scan"], num, num_sweeps),
        "peer": lambda: Clocked(**child(python, program, *arguments)),
    }
    return alternate(functions, repeats)
