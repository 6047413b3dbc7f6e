"""Makes `models/data/ethanol_gfn2.npz`, or computes some of its labels anew.

    python benchmarks/make_ethanol.py           20 of its geometries, energies to 1e-5 eV
    python benchmarks/make_ethanol.py make      all 2000, some ten minutes

Needs `emberwalk[potentials]`: ase and tblite. Ethanol in GFN2-xTB (Bannwarth, Ehlert and Grimme 2019), moved
by Langevin dynamics of 0.5 fs steps and a friction of 0.01 / fs from the relaxed molecule: 500 steps to reach
the temperature, then every 50th geometry: 25 ps of learning, because in 5 ps the methyl group of one run never
turned, and tests measured forces where nothing was learnt. Energies are counted from the relaxed molecule, because
single precision resolves a total energy of -310 eV to 3e-5 eV only, and every label belongs to the rounded
geometry that stands beside it.
"""

import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nine atoms: threads cost more than they give

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from tblite.ase import TBLite

FILE = Path(__file__).parents[1] / "models" / "data" / "ethanol_gfn2.npz"
TIMESTEP_FS, FRICTION_PER_FS, EQUILIBRATION, EVERY = 0.5, 0.01, 500, 50
NUM_CHECKED, ENERGY_TOLERANCE, FORCE_TOLERANCE = 20, 1e-5, 1e-4  # eV, eV / angstrom


class Trajectory(NamedTuple):
    """One run; its place in the list is its number in the file's `split`."""

    what: str
    num_geometries: int
    kelvin: float
    seed: int


TRAJECTORIES = (
    Trajectory("train", 1000, 500.0, 1),
    Trajectory("test", 500, 500.0, 2),
    Trajectory("hot", 500, 1000.0, 3),
)


def calculator() -> TBLite:
    """Ten thousandths of the default error of self-consistency: labels must not depend on what came before."""
    return TBLite(method="GFN2-xTB", verbosity=0, accuracy=1e-4)


def relaxed() -> Atoms:
    """Ethanol where its forces vanish, centre of mass at the origin."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    atoms.positions -= atoms.get_center_of_mass()
    return atoms


def positions_along(trajectory: Trajectory, start: Atoms) -> np.ndarray:
    """Geometries in single precision, in random order: the first N are spread over the run."""
    rng = np.random.default_rng(trajectory.seed)
    atoms = start.copy()
    atoms.calc = calculator()
    # not `fixcm`, whose temperature is wrong for a molecule as small as this
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, temperature_K=trajectory.kelvin, rng=rng)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=trajectory.kelvin,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(EQUILIBRATION)
    kept = []
    for _ in range(trajectory.num_geometries):
        dynamics.run(EVERY)
        kept.append(atoms.positions.astype(np.float32))
    return rng.permutation(np.stack(kept))


def labels(start: Atoms, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies above the relaxed molecule, and forces."""
    atoms = start.copy()
    atoms.calc = calculator()
    lowest = start.get_potential_energy()
    energies, forces = [], []
    for geometry in positions:
        atoms.positions = geometry
        energies.append(atoms.get_potential_energy() - lowest)
        forces.append(atoms.get_forces())
    return np.array(energies), np.array(forces)


def labelled(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, energies and forces of a trajectory."""
    start = relaxed()
    positions = positions_along(trajectory, start)
    return positions, *labels(start, positions)


def make() -> None:
    """Runs the three trajectories, each in a process of its own, and writes the file."""
    with ProcessPoolExecutor(len(TRAJECTORIES)) as pool:
        found = list(pool.map(labelled, TRAJECTORIES))
    parts = []
    for number, (trajectory, (positions, energies, forces)) in enumerate(
        zip(TRAJECTORIES, found, strict=True)
    ):
        parts.append((positions, energies, forces, np.full(len(positions), number, np.int8)))
        rms = np.sqrt(np.mean(forces**2))
        print(
            f"{trajectory.what}: energy {energies.mean():.3f} eV, force rms {rms:.3f} eV / angstrom",
            flush=True,
        )
    positions, energies, forces, split = map(np.concatenate, zip(*parts, strict=True))
    FILE.parent.mkdir(exist_ok=True)
    np.savez(
        FILE,
        positions=positions,
        energies=energies.astype(np.float32),
        forces=forces.astype(np.float32),
        split=split,
        species=molecule("CH3CH2OH").numbers.astype(np.int8),
    )
    print(f"{FILE.stat().st_size} bytes, SHA-256 {hashlib.sha256(FILE.read_bytes()).hexdigest()}")


def check() -> int:
    """Labels of some geometries, spread over the file, computed anew: the exit status."""
    with np.load(FILE) as kept:
        data = dict(kept)
    chosen = np.linspace(0, len(data["positions"]) - 1, NUM_CHECKED).round().astype(int)
    energies, forces = labels(relaxed(), data["positions"][chosen])
    energy_error = np.abs(energies - data["energies"][chosen]).max()
    force_error = np.abs(forces - data["forces"][chosen]).max()
    print(f"largest difference of {NUM_CHECKED}: {energy_error:.1e} eV, {force_error:.1e} eV / angstrom")
    return int(energy_error > ENERGY_TOLERANCE or force_error > FORCE_TOLERANCE)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["make"]):
        sys.exit(f"python {sys.argv[0]} [make], got {sys.argv[1:]}.")
    sys.exit(make() if sys.argv[1:] else check())
