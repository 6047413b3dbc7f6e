"""The potential has the symmetries of a molecule and the derivative of its energy; the data are what they say."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.module import random_eqx_module
from numpyro.handlers import seed, substitute, trace
from scipy.spatial.transform import Rotation

from emberwalk.models import DistancePotential, force_matching, load_ethanol, potentials, scaled_normal
from emberwalk.models.networks import fan_in


@pytest.fixture(scope="module")
def train():
    return load_ethanol().train


def ethanol_potential(train):
    return DistancePotential(train.positions, energy_scale=1.0, key=random.key(0))


def sites_of(model, *args, **kwargs):
    """Shapes are enough: the model is traced, not run."""
    seen = {}

    def run():
        seen.update(trace(seed(model, random.key(0))).get_trace(*args, **kwargs))

    jax.eval_shape(run)
    return seen


def latent(sites):
    return {name for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]}


def test_ethanol_has_2272_parameters_and_its_standardisation_is_no_site(train):
    net = ethanol_potential(train)
    names = latent(sites_of(force_matching, train.positions, train.forces, net=net, force_scale=1.0))
    tensors = {name.removeprefix("net/") for name in names} - {"sigma"}
    layers = {f"mlp.layers[{i}].{part}" for i in range(3) for part in ("weight", "bias")}
    assert tensors == layers - {"mlp.layers[2].bias"}
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array))) == 2272
    assert fan_in("mlp.layers[0].weight", net.mlp.layers[0].weight.shape) == 36


@pytest.mark.parametrize("as_array", [jnp.asarray, np.asarray], ids=["jax", "numpy"])
def test_a_planted_array_of_means_becomes_a_site(as_array):
    """Why mean and sd are tuples: the trap that `DistancePotential` avoids."""

    class Planted(eqx.Module):
        mean: object
        weight: jax.Array

    planted = Planted(as_array(np.zeros(3, np.float32)), jnp.ones((1, 3)))
    names = latent(
        sites_of(lambda: random_eqx_module("net", planted, prior=scaled_normal(), scope_divider="/"))
    )
    assert "net/mean" in names


@pytest.fixture
def molecule(x64, train):
    """A potential in float64, and one geometry."""
    return ethanol_potential(train), jnp.asarray(train.positions[0], jnp.float64)


def test_moved_and_turned_the_energy_stays_and_the_forces_turn(molecule):
    potential, positions = molecule
    turn = jnp.asarray(Rotation.random(rng=np.random.default_rng(0)).as_matrix())
    moved = positions @ turn.T + jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(potential(moved), potential(positions), atol=1e-12)
    np.testing.assert_allclose(potential.forces(moved), potential.forces(positions) @ turn.T, atol=1e-12)


def test_forces_have_no_sum_and_no_torque(molecule):
    potential, positions = molecule
    forces = potential.forces(positions)
    assert jnp.abs(forces).max() > 0.01
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-13)
    np.testing.assert_allclose(jnp.cross(positions, forces).sum(0), 0, atol=1e-13)


def test_forces_are_minus_the_differences_of_the_energy(molecule):
    """Central differences of order 4: the error of a step of 1e-3 is of order 1e-12 times a fifth derivative."""
    potential, positions = molecule
    steps = 1e-3 * jnp.eye(positions.size).reshape(-1, *positions.shape)

    def energies(shift):
        return jax.vmap(potential)(positions + shift * steps)

    slope = (8 * (energies(1) - energies(-1)) - (energies(2) - energies(-2))) / 12e-3
    np.testing.assert_allclose(potential.forces(positions).ravel(), -slope, rtol=0, atol=1e-9)


def test_the_likelihood_is_normal_in_units_of_the_rms(train):
    net, sigma, scale = ethanol_potential(train), 0.2, 0.9
    values = {"sigma": jnp.array(sigma)}
    model = substitute(force_matching, values)
    sites = trace(seed(model, random.key(0))).get_trace(
        train.positions[:2], train.forces[:2], net=net, force_scale=scale
    )
    units = (train.forces[:2] - sites["mean_forces"]["value"]) / scale
    expected = dist.Normal(0.0, sigma).log_prob(units).sum((1, 2)) - 27 * np.log(scale)
    np.testing.assert_allclose(sites["forces"]["fn"].log_prob(sites["forces"]["value"]), expected, rtol=1e-4)


CALLS = {
    "all, whole": (1000, {}, 1000, 1.0),
    "all, subsampled": (1000, {"subsample_size": 20}, 20, 50.0),
    "a batch": (20, {"num_data": 1000}, 20, 50.0),
    "a batch of stated size": (20, {"num_data": 1000, "subsample_size": 20}, 20, 50.0),
}


@pytest.mark.parametrize(("given", "sizes", "seen", "weight"), CALLS.values(), ids=CALLS)
def test_a_batch_stands_for_all_geometries(train, given, sizes, seen, weight):
    site = sites_of(
        force_matching,
        train.positions[:given],
        train.forces[:given],
        net=ethanol_potential(train),
        force_scale=1.0,
        **sizes,
    )["forces"]
    assert site["value"].shape == (seen, 9, 3)
    assert (site["scale"] or 1.0) == weight


def test_neither_all_geometries_nor_a_batch_is_refused(train):
    with pytest.raises(ValueError, match="hold 30 geometries, but num_data is 1000 and subsample_size 20"):
        sites_of(
            force_matching,
            train.positions[:30],
            net=ethanol_potential(train),
            num_data=1000,
            subsample_size=20,
            force_scale=1.0,
        )


RIGHT = np.random.default_rng(0).normal(size=(4, 3, 3))
WRONG = {
    "one geometry": (RIGHT[:1], 1.0, r"at least two geometries, got \(1, 3, 3\)"),
    "no batch": (RIGHT[0], 1.0, r"shape \(geometry, atom, 3\) .* got \(3, 3\)"),
    "scale": (RIGHT, 0.0, "energy_scale must be a positive energy in eV, got 0.0"),
    "frozen distance": (RIGHT[[0, 0]], 1.0, "distance of atoms 0 and 1 must be finite and vary"),
    "atoms in one place": (np.zeros((2, 3, 3)), 1.0, "distance of atoms 0 and 1 must be finite and vary"),
}


@pytest.mark.parametrize(("positions", "scale", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_reference_is_refused(positions, scale, message):
    with pytest.raises(ValueError, match=message):
        DistancePotential(positions, energy_scale=scale, key=random.key(0))


def test_ethanol_is_at_its_temperatures():
    """Equipartition: a force has variance k T H_ii, so that its rms grows as sqrt(T) where bonds are harmonic."""
    data = load_ethanol()
    rms = {name: np.sqrt(np.mean(getattr(data, name).forces ** 2)) for name in ("train", "test", "hot")}
    # harmonic: sqrt(k T tr(H) / 27) with H of the relaxed molecule
    for name, harmonic in {"train": 1.002, "test": 1.002, "hot": 1.417}.items():
        assert rms[name] == pytest.approx(harmonic, rel=0.05)
    assert data.train.energies.min() > 0
    np.testing.assert_allclose(data.train.forces.sum(1), 0, atol=1e-5)


def test_each_part_of_ethanol_is_in_random_order():
    """Neighbours in the file are no nearer than any two: the energies of neighbours do not depend on each other."""
    energies = load_ethanol().train.energies
    assert abs(np.corrcoef(energies[1:], energies[:-1])[0, 1]) < 4.5 / np.sqrt(len(energies))


def test_a_changed_file_is_refused(monkeypatch):
    monkeypatch.setattr(potentials, "_ETHANOL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"SHA-256 .* Install emberwalk anew"):
        load_ethanol()


def test_arrays_of_another_shape_or_dtype_are_refused():
    with pytest.raises(ValueError, match=r"but .* is needed"):
        potentials._check_arrays({"split": np.zeros(3, np.int8)})
