"""Functionals of a path, as a user writes them and as the particle kernels take them.

    H(x) = sum_t h(x_{t-1}, x_t, t)     over the time axis of the path site, t = 0, 1, ...       (1)

A user's h sees dictionaries, `previous["h"]` and `current["h"]`. At t = 0 there is nothing before:
`previous` holds zeros and, where sites outside a scan start the path, those sites; later it holds
zeros for them.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ...kernels.smc import SSM, Functional, additive
from ...kernels.smc.forward import one_latent
from .path_model import PathModel, SiteValues

type Term = Callable[[SiteValues, SiteValues, Int[Array, ""]], PyTree[Array]]


@cache
def lag_product(site: str) -> Term:
    """h = x_{t-1} x_t of one site; 0 at t = 0. Elementwise where the state is an array.

    Examples:
        >>> from emberwalk.infer import lag_product
        >>> h = lag_product("x")
        >>> float(h({"x": jnp.array(2.0)}, {"x": jnp.array(3.0)}, jnp.array(1)))
        6.0
    """
    return partial(_lag_product, site)


@cache
def moment(site: str, k: int = 1) -> Term:
    """h = x_t^k of one site.

    Examples:
        >>> from emberwalk.infer import moment
        >>> h = moment("x", 2)
        >>> float(h({"x": jnp.array(2.0)}, {"x": jnp.array(3.0)}, jnp.array(1)))
        9.0
    """
    return partial(_moment, site, k)


def _lag_product(site: str, previous: SiteValues, current: SiteValues, t: Array) -> Array:
    return previous[site] * current[site]


def _moment(site: str, k: int, previous: SiteValues, current: SiteValues, t: Array) -> Array:
    return current[site] ** k


def check_functionals(functionals: Any, model: Callable | None = None) -> dict[str, Term]:
    """Refuse what is no dictionary of functions; warn of what keeps a kernel on `model` from being pickled."""
    if functionals is None:
        return {}
    if not isinstance(functionals, Mapping):
        raise ValueError(
            'functionals must be a dictionary, {"name": h} with h(previous, current, t) -> array, got '
            f"{type(functionals).__name__}."
        )
    for name, h in functionals.items():
        if not isinstance(name, str) or not callable(h):
            raise ValueError(
                f"functionals[{name!r}] must be a function h(previous, current, t) -> array under a name, got {h!r}."
            )
    unpicklable = [name for name, h in functionals.items() if not pickles(h)]
    if unpicklable and model is not None and pickles(model):
        warnings.warn(
            f"functionals {unpicklable} are lambdas or local functions: the kernel cannot be pickled (chains in "
            "processes of their own, copies on disk). Define them at the top of a module.",
            stacklevel=4,
        )
    return dict(functionals)


def pickles(fn: Callable) -> bool:
    """Whether a function can be found again by its module and name."""
    try:
        pickle.dumps(fn)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def functional_of(functionals: Mapping[str, Term], model: PathModel, ssm: SSM) -> Functional:
    """All of them as one functional of the kernels, a dictionary of sums, equation (1)."""

    def at(previous: SiteValues, current: SiteValues, t: Int[Array, ""]) -> dict[str, PyTree[Array]]:
        return {name: _floats(h(previous, current, t)) for name, h in functionals.items()}

    if model.offset:  # the path site holds x_0: its time is the kernels' stage
        return additive(lambda before, now, t: at(model.sites_of(before), model.sites_of(now), t))

    def step(initial, before, now, t):
        return at({**model.sites_of(before), **initial}, model.sites_of(now), t - 1)

    def first(initial):
        now = one_latent(ssm)
        shapes = jax.eval_shape(step, initial, now, now, jnp.array(1))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return Functional(first, step)


def _floats(value: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), value)
