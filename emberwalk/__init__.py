"""emberwalk: inference that NumPyro does not have, for models already written in NumPyro.

Three floors, each importing only what stands below it:

    emberwalk.infer     kernels, guides and learners for NumPyro models; results; long runs
    emberwalk.models    what stands inside a model: distributions, example models, data
    emberwalk.kernels   the algorithms in pure JAX, without NumPyro

A floor is imported when it is first asked for, so that `import emberwalk` costs nothing.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import infer, kernels, models

__all__ = ["__version__", "infer", "kernels", "models"]

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
