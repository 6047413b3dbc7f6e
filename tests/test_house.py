"""The house keeps its shape: floors, wings, guards, short modules."""

import importlib
import sys

import pytest

from tests.house import FLOORS, ROOT, module_files, wrong_imports

MAX_LINES = 450


@pytest.mark.parametrize("module", module_files(), ids=lambda name: name.removeprefix("emberwalk."))
def test_no_arrow_points_upwards_and_no_wing_imports_another(module):
    file = module_files()[module]
    assert not wrong_imports(file.read_text(), module, file.name == "__init__.py")


PLANTED = {
    "kernel imports infer": ("emberwalk.kernels.smc.bad", "from ...infer.contract import ModelKernel"),
    "kernel imports models": ("emberwalk.kernels.smc.bad", "import emberwalk.models.state_space"),
    "kernel imports the front": ("emberwalk.kernels.smc.bad", "import emberwalk"),
    "kernel imports models from the front": ("emberwalk.kernels.smc.bad", "from emberwalk import models"),
    "kernel imports NumPyro": ("emberwalk.kernels.smc.bad", "import numpyro.distributions as dist"),
    "kernel imports numpyro.infer lazily": (
        "emberwalk.kernels.smc.bad",
        "def f():\n    from numpyro.infer import MCMC",
    ),
    "model imports infer": ("emberwalk.models.bad", "from ..infer import smc"),
    "model imports infer through the machinery": (
        "emberwalk.models.bad",
        "import importlib\nimportlib.import_module('emberwalk.infer.smc')",
    ),
    "infer wing imports another": ("emberwalk.infer.smc.bad", "from ..walk.graph import GraphWalk"),
    "infer wing imports the kernels of another": ("emberwalk.infer.smc.bad", "from ...kernels import jump"),
    "kernel wing imports another": ("emberwalk.kernels.smc.bad", "from .. import sgmcmc"),
    "shared module imports a wing": ("emberwalk.infer.diagnostics", "def f():\n    from .smc import PPG"),
    "floor under a wrong name": ("emberwalk.infer.smc.bad", "import kernels.smc"),
}

ALLOWED = {
    "infer imports both floors below": (
        "emberwalk.infer.smc.good",
        "from ...kernels.smc import SSM\nfrom ...models import StateSpace\nfrom ..contract import Kernel",
    ),
    "models import kernels": ("emberwalk.models.good", "import numpyro\nfrom ..kernels.smc import SSM"),
    "kernels import themselves": (
        "emberwalk.kernels.smc.good",
        "import jax\nfrom .types import SSM\nfrom . import types",
    ),
    "what is no wing knows several": (
        "emberwalk.infer.demo",
        "from .smc import PPG\nfrom .walk import SRRW",
    ),
    "a name that begins alike": ("emberwalk.kernels.smc.good", "import numpyrocks\nimport inference"),
}


@pytest.mark.parametrize(("module", "source"), PLANTED.values(), ids=PLANTED)
def test_a_planted_import_is_found(module, source):
    assert len(wrong_imports(source, module)) == 1


@pytest.mark.parametrize(("module", "source"), ALLOWED.values(), ids=ALLOWED)
def test_an_allowed_import_is_let_through(module, source):
    assert wrong_imports(source, module) == []


def test_relative_imports_of_a_package_start_at_itself():
    assert wrong_imports("from . import walk", "emberwalk.kernels.smc", is_package=True) == []
    assert wrong_imports("from .. import walk", "emberwalk.kernels.smc", is_package=True)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_is_not_imported_under_its_folder_name(floor, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=rf"^import it as emberwalk\.{floor}: .*\.$"):
        importlib.import_module(floor)
    assert floor not in sys.modules


SOURCES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("emberwalk", *FLOORS, "tests", "benchmarks", "notebooks")
    for file in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("source", SOURCES)
def test_a_module_has_at_most_450_lines(source):
    lines = len((ROOT / source).read_text().splitlines())
    assert lines <= MAX_LINES, f"{source} has {lines} lines: split it"


def test_the_front_shows_three_floors_and_the_version():
    import emberwalk

    assert emberwalk.__version__
    assert {emberwalk.infer.__name__, emberwalk.kernels.__name__, emberwalk.models.__name__} == {
        f"emberwalk.{floor}" for floor in FLOORS
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        emberwalk.nothing  # noqa: B018
