"""Every public name says what it is, and its example runs.

Public is what a module lists in `__all__`, or defines without an underscore. What a front
(`emberwalk.infer`, `emberwalk.models`, a wing of `emberwalk.kernels`) re-exports must have an
example too; a NamedTuple is shown by the function that makes it, so it needs none.
"""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

import emberwalk.infer
import emberwalk.kernels
import emberwalk.models
from tests.house import WINGS

GIVEN = {
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "random": random,
    "numpyro": numpyro,
    "dist": dist,
    "MCMC": MCMC,
    "NUTS": NUTS,
}
FRONTS = {"emberwalk.infer", "emberwalk.models", *(f"emberwalk.kernels.{wing}" for wing in WINGS)}


def modules() -> list[ModuleType]:
    found = []
    for floor in (emberwalk.infer, emberwalk.kernels, emberwalk.models):
        found.append(floor)
        for info in pkgutil.walk_packages(floor.__path__, f"{floor.__name__}."):
            found.append(importlib.import_module(info.name))
    return found


def public_names(module: ModuleType) -> dict[str, Any]:
    """Classes and functions: those in `__all__`, or defined here without an underscore."""
    listed = getattr(module, "__all__", None)
    here = {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    }
    names = here if listed is None else {name: getattr(module, name) for name in listed}
    return {name: thing for name, thing in names.items() if inspect.isclass(thing) or callable(thing)}


def short(module: str, name: str) -> str:
    """The id of a test: without the package's name, which holds the word of a wing."""
    return f"{module}.{name}".removeprefix("emberwalk.")


def all_public() -> dict[str, Any]:
    """Each public object once, under the module that defines it."""
    found = {}
    for module in modules():
        for name, thing in public_names(module).items():
            found[short(getattr(thing, "__module__", module.__name__), name)] = thing
    return found


def re_exported() -> dict[str, Any]:
    return {
        short(module.__name__, name): thing
        for module in modules()
        if module.__name__ in FRONTS
        for name, thing in public_names(module).items()
    }


def docstrings(thing: Any) -> list[tuple[str, str]]:
    """Docstring of the object, and of each public method that a class defines itself."""
    found = [("", thing.__doc__ or "")]
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if not name.startswith("_") and inspect.isfunction(member):
                found.append((f".{name}", member.__doc__ or ""))
    return found


def has_example(thing: Any) -> bool:
    return "Example" in (thing.__doc__ or "") and ">>>" in (thing.__doc__ or "")


def is_record(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields")


def run_examples(thing: Any, name: str) -> tuple[int, str]:
    """Number of examples that failed, and what doctest says of them."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for suffix, text in docstrings(thing):
        test = doctest.DocTestParser().get_doctest(text, dict(GIVEN), name + suffix, name + suffix, 0)
        runner.run(test, out=said.append)
    return runner.failures, "".join(said)


PUBLIC = all_public()
SHOWN = re_exported()
WITH_EXAMPLES = [
    name for name, thing in PUBLIC.items() if any(">>>" in text for _, text in docstrings(thing))
]
# They run the example of `PPG` once more; what they show of it is in `tests/infer/test_smc_estimates.py`, daily.
NIGHTLY = [
    "infer.smc.estimates.ppg_estimates",
    "infer.smc.prediction.forecast",
    "infer.smc.prediction.posterior_predictive",
]


def is_silent(thing: Any) -> bool:
    # Python itself writes "Name(field, ...)" under a NamedTuple or dataclass without words of its own.
    return not thing.__doc__ or thing.__doc__.startswith(f"{thing.__name__}(")


def test_every_public_name_has_a_docstring():
    assert not [name for name, thing in PUBLIC.items() if is_silent(thing)]


def test_every_nightly_example_is_there():
    assert set(NIGHTLY) <= set(WITH_EXAMPLES)


def test_every_re_exported_name_has_an_example():
    assert not [name for name, thing in SHOWN.items() if not is_record(thing) and not has_example(thing)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in WITH_EXAMPLES],
)
def test_example_runs(name):
    failures, said = run_examples(PUBLIC[name], name)
    assert not failures, said


def wrong_example():
    """Adds.

    Examples:
        >>> 1 + 1
        3
    """


def raising_example():
    """Asks for what it was not given.

    Examples:
        >>> nowhere
    """


@pytest.mark.parametrize("thing", [wrong_example, raising_example])
def test_a_planted_wrong_example_fails(thing):
    assert run_examples(thing, "planted")[0] == 1
