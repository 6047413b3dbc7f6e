"""Energies of molecules by a network on interatomic distances, forces by its derivative; ethanol to learn from.

    E(r) = e MLP( (1 / |r_i - r_j| - m_ij) / s_ij ),  i < j,      F = - dE / dr                      (1)
    F_data = F(r) + f sigma xi,    sigma ~ Exponential(10),    xi ~ N(0, I)                          (2)

m and s are mean and sd of the inverse distances over reference geometries, e a scale of energy and f the rms of
the forces. Energies of (1) are defined up to a constant, do not change when the molecule is moved or turned, and
so the forces have no sum and no torque. They are not symmetric in equal atoms, and serve one molecule.

What a reader would get wrong: m and s are part of the model, not of what is learnt. As array fields of the
module they would become latent sites, `net/mean` with a prior of its own; as tuples they are static.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key
from numpy.typing import NDArray
from numpyro.contrib.module import random_eqx_module

from ..kernels.shipped import check_arrays, shipped_arrays
from .networks import Prior, mlp, scaled_normal

__all__ = ["DistancePotential", "Ethanol", "Geometries", "force_matching", "load_ethanol"]

_ETHANOL_SHA256 = "7a38765a82bf2b966432f67cd3bbdd008b2cf44639f275f2047b0fb8b2dca4cf"
_NUM_ATOMS = 9
_SPLITS = ("train", "test", "hot")


class DistancePotential(eqx.Module):
    """Energy of one molecule, equation (1), with forces by `forces`.

    Made outside the model and placed there by `random_eqx_module`, as `force_matching` does. The last layer has no
    bias, which forces would not see.

    Args:
        reference_positions: the training set, `(geometry, atom, 3)`, in angstrom. At least two geometries.
        width: units of a hidden layer.
        depth: hidden layers.
        energy_scale: e, in eV. Forces are in proportion to it: under the prior `scaled_normal()` an e of 1 eV
            gives ethanol at 500 K forces of rms 1.8 eV / angstrom before it has seen any (they have 0.98), and
            a prior should be about as wide as the data, or wider.
        key: of the weights it begins with.

    Raises:
        ValueError: for positions of another shape, a distance that does not vary over them, or a scale that is
            not above 0.

    Examples:
        >>> from emberwalk.models import DistancePotential, load_ethanol
        >>> positions = load_ethanol().train.positions
        >>> potential = DistancePotential(positions, energy_scale=1.0, key=random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(potential) if isinstance(leaf, jax.Array))
        2272
        >>> potential.forces(jnp.asarray(positions[0])).shape
        (9, 3)
    """

    mlp: eqx.nn.MLP
    mean: tuple[float, ...] = eqx.field(static=True)
    sd: tuple[float, ...] = eqx.field(static=True)
    energy_scale: float = eqx.field(static=True)

    def __init__(
        self,
        reference_positions: Float[Array, "geometry atom 3"] | NDArray[np.floating],
        *,
        width: int = 32,
        depth: int = 2,
        energy_scale: float,
        key: Key[Array, ""],
    ):
        _check_reference(reference_positions, energy_scale)
        inverse = _reference_distances(np.asarray(reference_positions, np.float64))
        self.mlp = mlp(inverse.shape[1], 1, width=width, depth=depth, final_bias=False, key=key)
        self.mean = tuple(inverse.mean(0).tolist())
        self.sd = tuple(inverse.std(0).tolist())
        self.energy_scale = float(energy_scale)

    def __call__(self, positions: Float[Array, "atom 3"]) -> Float[Array, ""]:
        """Energy in eV, up to a constant, of positions in angstrom."""
        inverse = _inverse_distances(positions, jnp)
        mean, sd = (jnp.asarray(constant, inverse.dtype) for constant in (self.mean, self.sd))
        return self.energy_scale * self.mlp((inverse - mean) / sd)[0]

    def forces(self, positions: Float[Array, "atom 3"]) -> Float[Array, "atom 3"]:
        """Forces in eV / angstrom: minus the gradient of the energy."""
        return -jax.grad(self.__call__)(positions)


def _inverse_distances(positions, xp):
    """1 / |r_i - r_j| of the pairs i < j, `(..., pair)`, with numpy or jax.numpy as `xp`."""
    first, second = np.triu_indices(positions.shape[-2], 1)
    difference = positions[..., first, :] - positions[..., second, :]
    return 1 / xp.sqrt(xp.sum(difference**2, -1))


def _reference_distances(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse distances that can be standardised."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = _inverse_distances(positions, np)
        constant = np.flatnonzero(~(inverse.std(0) > 0))
    if constant.size:
        first, second = (int(atoms[constant[0]]) for atoms in np.triu_indices(positions.shape[1], 1))
        raise ValueError(
            f"The distance of atoms {first} and {second} must be finite and vary over reference_positions: it is "
            "counted from its mean in units of its sd. Give geometries that differ."
        )
    return inverse


def force_matching(
    positions: Float[Array, "geometry atom 3"],
    forces: Float[Array, "geometry atom 3"] | None = None,
    *,
    net: DistancePotential,
    num_data: int | None = None,
    subsample_size: int | None = None,
    force_scale: float,
    prior: Prior | None = None,
) -> None:
    """A NumPyro model of forces by a potential, equation (2): one error size for all components.

    sigma is in units of `force_scale`; its prior has mean 0.1, a force learnt to a tenth of its size.

    Args:
        positions: in angstrom: all `num_data` geometries, or, as `HostRows` gives them, those of the batch alone.
        forces: in eV / angstrom, at these positions; None for prediction.
        net: the potential, made outside the model.
        num_data: geometries there are; None: as many as `positions`.
        subsample_size: geometries a gradient sees; None: all of `positions`, which prediction needs.
        force_scale: f, the rms of a component of the training forces, `np.sqrt(np.mean(forces**2))`.
        prior: (name, shape) -> Distribution of each tensor; None: `scaled_normal()`.

    Sites: `net/mlp.layers[0].weight` and so on, `sigma`, `mean_forces` (deterministic) and `forces`, both
    `(geometry, atom, 3)` in eV / angstrom.

    Raises:
        ValueError: if `positions` are neither all geometries nor one batch of them.

    Examples:
        >>> from emberwalk.models import DistancePotential, force_matching, load_ethanol
        >>> train = load_ethanol().train
        >>> net = DistancePotential(train.positions, energy_scale=1.0, key=random.key(0))
        >>> seeded = numpyro.handlers.seed(force_matching, random.key(1))
        >>> trace = numpyro.handlers.trace(seeded).get_trace(
        ...     train.positions, train.forces, net=net, subsample_size=20, force_scale=1.0)
        >>> trace["mean_forces"]["value"].shape
        (20, 9, 3)
    """
    given = positions.shape[0]
    num_data = given if num_data is None else num_data
    is_batch = given != num_data
    if is_batch and subsample_size not in (None, given):
        raise ValueError(
            f"positions hold {given} geometries, but num_data is {num_data} and subsample_size {subsample_size}: give "
            "all geometries, or a batch of subsample_size of them."
        )
    potential = random_eqx_module("net", net, prior=prior or scaled_normal())
    sigma = numpyro.sample("sigma", dist.Exponential(10.0))
    with numpyro.plate("geometries", num_data, subsample_size=given if is_batch else subsample_size):
        if not is_batch:
            positions = numpyro.subsample(positions, event_dim=2)
            forces = None if forces is None else numpyro.subsample(forces, event_dim=2)
        mean = numpyro.deterministic("mean_forces", jax.vmap(potential.forces)(positions))
        numpyro.sample("forces", dist.Normal(mean, force_scale * sigma).to_event(2), obs=forces)


class Geometries(NamedTuple):
    """Geometries of one molecule with the labels of a reference method, in single precision.

    Attributes:
        positions: `(geometry, atom, 3)`, in angstrom.
        energies: `(geometry,)`, in eV above the relaxed molecule.
        forces: `(geometry, atom, 3)`, in eV / angstrom.
    """

    positions: NDArray[np.float32]
    energies: NDArray[np.float32]
    forces: NDArray[np.float32]


class Ethanol(NamedTuple):
    """What `load_ethanol` returns.

    Attributes:
        species: atomic numbers, `(9,)`.
        train: 1000 geometries at 500 K.
        test: 500 of another run at 500 K.
        hot: 500 at 1000 K, beyond what was learnt.
    """

    species: NDArray[np.int8]
    train: Geometries
    test: Geometries
    hot: Geometries


def load_ethanol() -> Ethanol:
    """2000 geometries of ethanol in molecular dynamics at 500 K and 1000 K, with energies and forces.

    GFN2-xTB (Bannwarth, Ehlert and Grimme 2019), every 25 fs of Langevin dynamics; `benchmarks/make_ethanol.py` made
    them. Neighbours in time stand apart: each part is in random order, and its first N are a sample of it.

    Raises:
        ValueError: if the file is not the one that emberwalk ships.

    Examples:
        >>> from emberwalk.models import load_ethanol
        >>> data = load_ethanol()
        >>> data.train.forces.shape, data.hot.energies.shape, data.species.tolist()
        ((1000, 9, 3), (500,), [6, 6, 8, 1, 1, 1, 1, 1, 1])
    """
    arrays = shipped_arrays(__package__, "data/ethanol_gfn2.npz", _ETHANOL_SHA256)
    _check_arrays(arrays)
    parts = {
        name: Geometries(*(arrays[field][arrays["split"] == number] for field in Geometries._fields))
        for number, name in enumerate(_SPLITS)
    }
    return Ethanol(arrays["species"], **parts)


def _check_reference(positions: Array | NDArray, energy_scale: float) -> None:
    shape = np.shape(positions)
    if len(shape) != 3 or shape[0] < 2 or shape[1] < 2 or shape[2] != 3:
        raise ValueError(
            f"reference_positions must have shape (geometry, atom, 3) with at least two geometries, got {shape}."
        )
    if not 0 < energy_scale < np.inf:
        raise ValueError(f"energy_scale must be a positive energy in eV, got {energy_scale}.")


def _check_arrays(arrays: dict[str, NDArray]) -> None:
    num = len(arrays["split"])
    single, byte = np.dtype(np.float32), np.dtype(np.int8)
    expected = {
        "positions": (single, (num, _NUM_ATOMS, 3)),
        "energies": (single, (num,)),
        "forces": (single, (num, _NUM_ATOMS, 3)),
        "split": (byte, (num,)),
        "species": (byte, (_NUM_ATOMS,)),
    }
    check_arrays("ethanol_gfn2.npz", arrays, expected)
