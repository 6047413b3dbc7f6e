"""Settings and fixtures that every test shares."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
# Two workers on two cores: threads of BLAS, which xdist's workers would start, only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The processes that the tests start, xdist's workers too: without bytecode each parses all of JAX anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import pytest

ROOT = Path(__file__).parents[1]

# Compilation is most of what the tests cost: programs are kept between runs, and between the
# workers of one run, however small they are.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Half the time of compilation; programs of much work ask for the rest (`tests.statistics.optimised`).
jax.config.update("jax_disable_most_optimizations", True)
# More than half of what XLA does with loops within loops whose bodies hold much that is constant (the
# normaliser of a Beta): it hoists, level by level, until nothing moves. The results are the same.
HOISTING = "--xla_disable_hlo_passes=while-loop-invariant-code-motion"
# Programs that ask for optimisation: of LLVM's levels the first compiles in two thirds of the time of the
# third, and loops over small arrays run no slower.
FIRST_LEVEL = "--xla_backend_optimization_level=1"
for flag in (HOISTING, FIRST_LEVEL):
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
# A fifteenth of it: of which line each operation comes, which only XLA's own messages say.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tracing makes millions of objects that die by themselves; modules need not be searched for garbage.
gc.set_threshold(50_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    """JAX writes a program in place: a worker that reads it half-written warns, and compiles its own."""
    half_written = "ignore:Error reading persistent compilation cache entry:UserWarning"
    config.addinivalue_line("filterwarnings", half_written)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the collector need not look at it."""
    gc.freeze()


@pytest.fixture
def x64() -> Iterator[None]:
    """The test runs in float64; take it first, before a fixture that makes arrays."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the data that may not be shipped; the test says in its own skip which and from where."""
    folder = os.environ.get("EMBERWALK_DATA")
    if not folder:
        pytest.skip("EMBERWALK_DATA is not set: it names the folder of the data that may not be shipped.")
    if not Path(folder).is_dir():
        pytest.fail(f"EMBERWALK_DATA is set to {folder!r}, which is no folder.")
    return Path(folder)
