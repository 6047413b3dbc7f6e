"""A path between two wells, seen ten times, and what a long run of NUTS says of it (`make_double_well.py`).

dX = 4 (X - X^3) dt + dB^H,   X(0) = 0,   y_i ~ N(X(i / 10), .1),   i = 1, ..., 10                           (1)
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax import random
from numpyro.infer import Predictive

from tests.infer.fractional.guided import bridge, unit

STORED = Path(__file__).with_name("double_well.json")
EVERY = 10  # of 200 steps: at which of them the stored means are


class Stored(NamedTuple):
    """Of the path at every tenth of 200 steps, given the data.

    Attributes:
        y: the data.
        mean: posterior means.
        sd: posterior sds.
        mcse: of the means.
    """

    y: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    mcse: np.ndarray


def wells(t, x):
    return 4 * (x - x**3)


def double_well(num_steps=200):
    """A model of (H, y)."""
    return bridge(num_steps, np.arange(num_steps // 10, num_steps + 1, num_steps // 10), wells, unit)


def drawn(model, H):
    """Data from the model."""
    return Predictive(model, num_samples=1)(random.key(4), H)["y"][0]


def stored(H):
    """What NUTS found at .3 or .7."""
    return Stored(*(np.array(x) for x in json.loads(STORED.read_text())[str(H)].values()))
