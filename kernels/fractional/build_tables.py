"""Makes `tables.npz`: `python -m emberwalk.kernels.fractional.build_tables`, about ten minutes on one core.

It prints the checksum that `tables.py` compares with. OPENBLAS_NUM_THREADS=1 is faster: the matrices are small.
"""

import hashlib
from pathlib import Path

import numpy as np

from .tables import DESIGN_STEPS, FILE, SHIPPED_MODES, make_table, name_of, wide_grid


def build(file: Path) -> str:
    """Solve all tables, write them, and return the SHA-256 of the file."""
    arrays = {}
    for num_modes in SHIPPED_MODES:
        for num_steps in DESIGN_STEPS:
            table = make_table(wide_grid(num_modes, num_steps), num_steps)
            print(f"K={num_modes} N={num_steps}: KL per increment at most {table.kl.max():.1e}", flush=True)
            for field, array in table._asdict().items():
                arrays[name_of(field, num_modes, num_steps)] = array
    np.savez(file, **arrays)
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    print(build(Path(__file__).with_name(FILE)))
