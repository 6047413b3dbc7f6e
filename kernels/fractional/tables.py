"""The tables of weights that ship with the package, and their making: kind I, the criterion "kl", 97 knots in H.

    g = geomspace(.01, 100 N, K) for K >= 6,   geomspace(.05, 20 N, K) for fewer,   per horizon          (1)

`tables.npz` holds K in {5, 8} for each N of `DESIGN_STEPS`; `python -m emberwalk.kernels.fractional.build_tables`
makes it anew. A table serves every number of steps from the next smaller N to its own: with more steps than it
was designed for it fails (a KL of .02 per increment at twice N, H = .9), and with far fewer it is worse than the
smaller table.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..shipped import check_arrays, shipped_arrays
from .kl_criterion import kl_per_increment, kl_weights
from .path_criterion import Vector

DESIGN_STEPS = (64, 256, 1024, 4096)
SHIPPED_MODES = (5, 8)
KNOTS = np.arange(2, 99) / 100
FILE = "tables.npz"
_SHA256 = "8d7bff42bb7f5a5212c7fa0c6edc6566382cb907208d7a6c98bc94bb38b63788"


class Table(NamedTuple):
    """Weights at the knots, for a unit horizon.

    Attributes:
        rates: g, `[K]`, per horizon.
        weights: w, `[J, K]`, of modes of unit variance.
        kl: `[J]`, divergence per increment at N steps.
    """

    rates: Float[np.ndarray, " K"]
    weights: Float[np.ndarray, "J K"]
    kl: Float[np.ndarray, " J"]


def wide_grid(num_modes: int, num_steps: int) -> Vector:
    """Rates of equation (1)."""
    slowest, fastest = (0.01, 100.0) if num_modes >= 6 else (0.05, 20.0)
    return np.geomspace(slowest, fastest * num_steps, num_modes)


def make_table(rates: Vector, num_steps: int) -> Table:
    """Solve the criterion "kl" at all knots: half a second for 64 steps, one to two minutes for 4096."""
    weights = kl_weights(rates, KNOTS, num_steps)
    return Table(rates, weights, reached(rates, weights, num_steps))


def reached(rates: Vector, weights: Float[np.ndarray, "J K"], num_steps: int) -> Float[np.ndarray, " J"]:
    """The divergence per increment at each knot."""
    dt = 1 / num_steps
    return np.array(
        [kl_per_increment(rates, w, H, num_steps, dt) for w, H in zip(weights, KNOTS, strict=True)]
    )


def load_table(num_modes: int, num_steps: int) -> Table:
    """A table that ships with the package.

    Raises:
        ValueError: if the file is not the one that emberwalk ships.
    """
    arrays = shipped_arrays(__package__, FILE, _SHA256)
    check_arrays(FILE, arrays, _expected())
    return Table(*(arrays[name_of(field, num_modes, num_steps)] for field in Table._fields))


def name_of(field: str, num_modes: int, num_steps: int) -> str:
    """Name of an array in the file."""
    return f"{field}_k{num_modes}_n{num_steps}"


def _expected() -> dict[str, tuple[NDArray[Any] | np.dtype, tuple[int, ...]]]:
    shapes = {
        name_of(field, K, N): shape
        for K in SHIPPED_MODES
        for N in DESIGN_STEPS
        for field, shape in (("rates", (K,)), ("weights", (len(KNOTS), K)), ("kl", (len(KNOTS),)))
    }
    return {name: (np.dtype(np.float64), shape) for name, shape in shapes.items()}
