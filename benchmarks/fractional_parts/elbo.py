"""The ELBO and its gradient: the published control by diffrax, the same by ours, and the guide with learnt variance

dX = -X dt + dB^H seen ten times with noise .1: 128 paths of 200 steps on [0, 2], five modes, networks of two hidden
layers of 64; value and gradient in H (diffrax: in the weights) and the network. The control is that of the paper,
stepped by Euler; the guide has an exact step, three normals each, a filter, and such a network as its residual. In one
process, in turn; the first call compiles.
"""

import importlib.metadata
import subprocess
import sys
from functools import partial

import jax.numpy as jnp
from jax import random
from measure import TRIAL, Row, alternate, peer_python

from emberwalk.infer import AutoFractionalSDE, ControlGuide
from emberwalk.kernels.fractional import initial_factor, weights

from .setting import (
    NUM_SEEN,
    NUM_STEPS,
    PAPERS_HORIZON,
    PAPERS_MODES,
    REPEATS,
    SD,
    WIDTH,
    Compiled,
    Objective,
    compared,
    papers_coefficients,
    pulled,
    seen_path,
)

_NUM_PATHS = 8 if TRIAL else 128
_VERSION = "0.7.0"


def rows() -> list[Row]:
    """Against diffrax where it can be had, ours against ours in any case."""
    functions = {"control": Compiled(_control), "guide": Compiled(_guide)}
    try:
        functions["diffrax"] = Compiled(_diffrax())
    except (subprocess.CalledProcessError, ImportError) as error:
        note = f"diffrax {_VERSION} could not be installed: {error}"
        peer = [Row("control: diffrax / ours", None, note=note)]
        times = alternate(functions, REPEATS)
    else:
        times = alternate(functions, REPEATS)
        peer = [
            *compared("control: diffrax / ours", times["diffrax"], times["control"], at_least=8),
            *compared("diffrax's control / our guide", times["diffrax"], times["guide"], at_least=4),
        ]
    firsts = [
        Row(f"set-up and first call, {name}", timing.first_wall, "s", note="wall, compilation included")
        for name, timing in times.items()
    ]
    return [
        *peer,
        *compared("our guide / our control", times["guide"], times["control"], at_most=2.5),
        *firsts,
    ]


def _control() -> Objective:
    """As published, with our H as a param."""
    model, y = _path(coefficients=papers_coefficients(), integrator="euler")
    return Objective(model, ControlGuide(model, width=WIDTH, initial="prior"), y, _NUM_PATHS)


def _guide() -> Objective:
    model, y = _path(num_modes=PAPERS_MODES)
    return Objective(model, AutoFractionalSDE(model, residual=WIDTH), y, _NUM_PATHS)


def _path(**options):
    return seen_path(horizon=PAPERS_HORIZON, drift=pulled, **options)


def _diffrax():
    """Its program: diffrax from an environment of its own, JAX and equinox from ours."""
    ours = [
        f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "equinox", "jaxtyping", "numpy")
    ]
    python = peer_python("diffrax", f"diffrax=={_VERSION}", *ours)
    # behind ours on the path, so that one process has one JAX
    sys.path += map(str, python.parents[1].glob("lib/python*/site-packages"))
    from peers.diffrax_control import network, value_and_grad

    coefficients = papers_coefficients()
    ts = jnp.linspace(0.0, PAPERS_HORIZON, NUM_STEPS + 1)
    rates, factor = (
        jnp.asarray(x, jnp.float32) for x in (coefficients.rates, initial_factor(coefficients.rates))
    )
    seen = ts[:: NUM_STEPS // NUM_SEEN][1:]
    arguments = (network(2 + 1 + PAPERS_MODES, WIDTH, random.key(0)), weights(coefficients, 0.3))
    return lambda: partial(
        value_and_grad(rates, factor, ts, seen, SD, _NUM_PATHS), arguments, random.key(1), jnp.zeros(NUM_SEEN)
    )
