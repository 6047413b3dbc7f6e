"""Priors that are no longer proper once they are raised to 1 / T.

    Gamma(a), Beta(a, b), Dirichlet(a):    (a - 1) / T + 1 > 0,   that is T > 1 - a               (1)
    Student-t(nu) at T > 1:                (nu + 1) / T > 1                                       (2)

The data may repair it, which is the user's to know: a warning. Where no datum depends on the site, nothing can.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax import random
from numpyro.infer.gibbs import prototype_trace
from numpyro.infer.inspect import get_dependencies

# The parameter of each class that (1) or (2) asks about.
_SHAPES = {dist.Gamma: ("concentration",), dist.Dirichlet: ("concentration",), dist.StudentT: ("df",)}
_SHAPES |= {dist.Beta: ("concentration1", "concentration0"), dist.Chi2: ("concentration",)}


def check_tempered_prior(
    model: Callable, model_args: tuple, model_kwargs: dict[str, Any], temperatures: tuple[float, float]
) -> None:
    """Warns of equations (1) and (2), or raises where no observed site depends on the one in question.

    Args:
        model: the NumPyro model.
        model_args: of it.
        model_kwargs: of it.
        temperatures: the lowest and the highest of the run.

    Raises:
        ValueError: naming the site.
    """
    coldest, hottest = temperatures
    if coldest == hottest == 1:
        return
    shapes = _constant_shapes(model, model_args, model_kwargs)
    for name, (family, values) in shapes.items():
        least = min(float(np.min(value)) for value in values)
        if family is dist.StudentT:
            improper, bound = least + 1 <= hottest, f"needs df > T - 1 = {hottest - 1:.3g}"
        else:
            improper, bound = least <= 1 - coldest, f"needs a concentration > 1 - T = {1 - coldest:.3g}"
        if not improper:
            continue
        sentence = (
            f"The prior of {name!r}, {family.__name__} with {least:.3g}, is improper once it is tempered: "
            f'tempering="posterior" {bound}. Use tempering="likelihood", which leaves the prior as it is'
        )
        if _is_seen(name, model, model_args, model_kwargs):
            warnings.warn(f"{sentence}, or make sure that the data bound it.", UserWarning, stacklevel=2)
        else:
            raise ValueError(f"{sentence}; no observed site depends on it.")


def _constant_shapes(model: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, tuple[type, list]]:
    """Class and shape parameters of each latent site in question, where no latent site decides them."""
    families: dict[str, type] = {}

    def parameters(key: Any) -> dict[str, list]:
        found = {}
        for name, site in prototype_trace(model, key, args, kwargs).items():
            law = _base(site["fn"]) if site["type"] == "sample" and not site["is_observed"] else None
            family = next((f for f in _SHAPES if type(law) is f), None)
            if family is not None:
                families[name] = family
                found[name] = [getattr(law, field) for field in _SHAPES[family]]
        return found

    key = random.key(0)
    jax.eval_shape(parameters, key)
    if not families:
        return {}
    with jax.ensure_compile_time_eval():  # `init` may itself be traced
        values = jax.jit(parameters)(key)
    parents: Any = get_dependencies(model, args, kwargs)["prior_dependencies"]
    constant = [
        name
        for name in families
        if set(parents.get(name, {name})) <= {name}
        and not any(isinstance(value, jax.core.Tracer) for value in values[name])
    ]
    return {name: (families[name], values[name]) for name in constant}


def _base(law: Any) -> Any:
    """The law under masks, expansions and events."""
    while isinstance(law, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        law = law.base_dist
    return law


def _is_seen(name: str, model: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether an observed site depends on it, directly or through other latent sites."""
    dependencies: Any = get_dependencies(model, args, kwargs)
    parents, latent = dependencies["prior_dependencies"], set(dependencies["posterior_dependencies"])
    reached, found = {name}, {name}
    while found:
        found = {site for site, upstream in parents.items() if found & set(upstream)} - reached
        reached |= found
    return bool(reached - latent)
