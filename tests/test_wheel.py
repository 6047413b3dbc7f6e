"""The wheel holds what the links point to, and every module imports where only the wheel is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house import ROOT, module_files

IMPORT_ALL = """
import emberwalk, importlib, pkgutil, pathlib, sys
assert pathlib.Path(emberwalk.__file__).is_relative_to(sys.prefix), emberwalk.__file__
for floor in (emberwalk.infer, emberwalk.kernels, emberwalk.models):
    for info in pkgutil.walk_packages(floor.__path__, floor.__name__ + "."):
        importlib.import_module(info.name)
        print(info.name)
"""


@pytest.fixture(scope="module")
def uv():
    """Calls uv in a folder of its own; first without the network, because the cache is usually enough."""
    own = ROOT / ".uv" / "bin" / "uv"
    program = str(own) if own.exists() else shutil.which("uv")
    if program is None:
        pytest.skip("uv was not found: `make test` puts it into .uv/, or `pip install uv`.")
    # Neither the environment that runs the tests nor its settings may shine through.
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH")
    clean = {name: value for name, value in os.environ.items() if name not in ours}

    def call(*args: str | Path) -> str:
        for offline in (["--offline"], []):
            done = subprocess.run([program, *args, *offline], capture_output=True, text=True, env=clean)
            if done.returncode == 0:
                return done.stdout
        pytest.fail(f"uv {args[0]} {args[1]}: {done.stderr[-2000:]}")

    return call


@pytest.fixture(scope="module")
def wheel(uv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "-q", "--wheel", "-p", sys.executable, "-o", folder, ROOT)
    (built,) = folder.glob("emberwalk-*.whl")
    return built


@pytest.mark.xdist_group("wheel")
def test_the_wheel_holds_every_module_the_data_and_the_marker_of_types(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    front = {"emberwalk/__init__.py", "emberwalk/py.typed"}
    modules = [file for name, file in module_files().items() if name != "emberwalk"]
    kernels = ROOT / "kernels"
    arrays = [kernels / "fractional" / "tables.npz", kernels / "jump" / "weights" / "jump-1.npz"]
    data = [*(ROOT / "models" / "data").glob("*.*"), *arrays]
    assert front | {f"emberwalk/{file.relative_to(ROOT)}" for file in (*modules, *data)} <= held
    assert not [name for name in held if not name.startswith("emberwalk")]


@pytest.mark.xdist_group("wheel")
def test_every_module_imports_from_the_wheel_with_the_declared_dependencies_alone(uv, wheel, tmp_path):
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    # The versions of the environment that runs the tests: no surprise from a release of today,
    # and all of them are in the cache.
    versions = tmp_path / "versions.txt"
    frozen = uv("pip", "freeze", "-q", "-p", sys.executable).splitlines()
    versions.write_text("\n".join(line for line in frozen if "==" in line))
    uv("venv", "-q", "-p", sys.executable, environment)
    uv("pip", "install", "-q", "-p", python, "-c", versions, wheel)
    done = subprocess.run([python, "-I", "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    floors = {"emberwalk", "emberwalk.infer", "emberwalk.kernels", "emberwalk.models"}
    assert set(done.stdout.split()) == set(module_files()) - floors
