"""The discrete flashing ratchet: a particle in three places, in a potential that is switched on and off.

    states 0-2: on, 3-5: off;   q_ij = exp(-V (j - i) / 2) while on,  b while off,  r between i and i + 3   (1)

The benchmark of Berghaus et al. (2024, arXiv 2406.06419), whose paths are shipped here. With V = 0 it is reversible;
else it produces entropy, since the potential is switched wherever the particle is.
"""

from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

_I, _J = np.nonzero(~np.eye(3, dtype=bool))


class RatchetPaths(NamedTuple):
    """Paths of a flashing ratchet with V = 0 or 1, r = b = 1; see `load_flashing_ratchet`.

    Attributes:
        times: `[100]`, from 0 to 2.5 in equal steps.
        states: labels, all right, `[10000, 100]`.
        rates: those the paths were made with, `[6, 6]`, zeros on the diagonal.
    """

    times: Float[np.ndarray, "100"]
    states: Int[np.ndarray, "10000 100"]
    rates: Float[np.ndarray, "6 6"]


def flashing_ratchet(
    potential: ArrayLike | Array, switch: ArrayLike | Array, base: ArrayLike | Array
) -> Float[Array, "6 6"]:
    """The 30 rates of a flashing ratchet from three parameters, equation (1).

    Args:
        potential: V, by how much each place is above the one before, in units of the temperature: above 0 the particle
            is pushed towards state 0.
        switch: r, at which the potential is switched on and off, per unit of time.
        base: b, at which the particle moves while it is off, per unit of time.

    Returns:
        q `[6, 6]`, zeros on the diagonal and where there is no link; parameters of a batch need `jax.vmap`.

    Examples:
        >>> from emberwalk.kernels.jump import entropy_production
        >>> from emberwalk.models import flashing_ratchet
        >>> round(float(entropy_production(flashing_ratchet(1.0, 1.0, 1.0))), 4)
        0.1792
    """
    V, r, b = (jnp.asarray(x, jnp.result_type(float)) for x in (potential, switch, base))
    place = np.arange(3)
    q = jnp.zeros((6, 6), V.dtype)
    q = q.at[_I, _J].set(jnp.exp(-V * (_J - _I) / 2))
    q = q.at[_I + 3, _J + 3].set(b)
    return q.at[place, place + 3].set(r).at[place + 3, place].set(r)


def load_flashing_ratchet(potential: int = 1) -> RatchetPaths:
    """10,000 paths of the flashing ratchet, without noise, that methods are compared on.

    From the public project OpenFIM (MIT licence) of Berghaus et al.

    Args:
        potential: V, 0 or 1.

    Raises:
        ValueError: for another V, of which there are no paths: `simulate_batch` makes some.

    Examples:
        >>> from emberwalk.models import load_flashing_ratchet
        >>> times, states, rates = load_flashing_ratchet(1)
        >>> states.shape, round(float(times[-1]), 3), round(float(rates[0, 1]), 4)
        ((10000, 100), 2.5, 0.6065)
    """
    if potential not in (0, 1):
        raise ValueError(
            f"potential must be 0 or 1, got {potential!r}: paths of others are made by "
            "kernels.jump.simulate_batch(seed, flashing_ratchet(V, 1, 1), times, num_paths)."
        )
    file = resources.files(__package__) / "data" / f"flashing_ratchet_{int(potential)}.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        rates = data["rates"] * (1 - np.eye(6))
        return RatchetPaths(
            np.asarray(data["times"], np.float64), np.asarray(data["observations"], np.int64), rates
        )
