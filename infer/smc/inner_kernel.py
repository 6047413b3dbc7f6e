"""The kernel of the parameters: the default, or the one asked for, checked."""

from collections.abc import Callable
from typing import Any

from numpyro.infer import NUTS
from numpyro.infer.mcmc import MCMCKernel


def inner_kernel(inner: Any, model: Callable) -> MCMCKernel:
    """The default, a factory's, or the one given; refuses what cannot follow a path."""
    if inner is None:
        return NUTS(model, max_tree_depth=3)
    kernel = inner if isinstance(inner, MCMCKernel) else inner(model) if callable(inner) else None
    if not isinstance(kernel, MCMCKernel):
        raise TypeError(
            f"inner_kernel must be a kernel, or a class or function that makes one, got {inner!r}."
        )
    name = type(kernel).__name__
    if type(kernel).refresh is MCMCKernel.refresh:
        raise ValueError(
            f"inner_kernel {name} does not implement refresh, so that it cannot follow the path. Use NUTS."
        )
    if getattr(kernel, "model", None) is not model:
        raise ValueError(f"inner_kernel {name} is on another model than PPG. Build it on the same function.")
    if getattr(kernel, "_find_heuristic_step_size", False):
        raise ValueError(
            f"inner_kernel {name} has find_heuristic_step_size=True, which is bound to the first path it is "
            "conditioned on. Leave it False and let warm-up find the step size."
        )
    return kernel
