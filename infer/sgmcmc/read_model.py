"""What SG-MCMC has to know of a model before it moves: plates, deterministic sites, and what it cannot sample."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.infer.gibbs import prototype_trace, subsample_plate_sizes
from numpyro.infer.util import _transforms_from_trace

from .minibatch import Indices


class ModelSites(NamedTuple):
    """The sites of a model that matter here.

    Attributes:
        latent: names of the latent sites, sorted.
        deterministic: names of the deterministic sites.
        plates: (N, b) of each subsampled plate.
        dynamic_support: whether a support depends on another site.
        trace: of the model on a draw from its prior; it may hold tracers and is not to be kept.
    """

    latent: tuple[str, ...]
    deterministic: tuple[str, ...]
    plates: dict[str, tuple[int, int]]
    dynamic_support: bool
    trace: dict[str, Any]


def read_sites(model: Callable, model_args: tuple, model_kwargs: dict[str, Any]) -> ModelSites:
    """The sites of a model, once.

    Raises:
        ValueError: for a discrete latent site, a latent site in a subsampled plate, or mutable state of a
            network; each with the name.
    """
    trace = prototype_trace(model, random.key(0), model_args, model_kwargs)
    plates = subsample_plate_sizes(trace)
    latent = []
    for name, site in trace.items():
        if site["type"] == "mutable":
            raise ValueError(
                f"The network state {name!r} changes at every call (BatchNorm, Dropout): a posterior needs a network "
                "that is a function of its weights. Take such layers out, or switch them to inference."
            )
        if site["type"] == "sample" and not site["is_observed"]:
            _check_latent(name, site, plates)
            latent.append(name)
    transforms = _transforms_from_trace(trace, raise_warnings=False)
    deterministic = tuple(name for name, site in trace.items() if site["type"] == "deterministic")
    sizes = {name: (int(size), int(rows)) for name, (size, rows) in plates.items()}
    return ModelSites(tuple(sorted(latent)), deterministic, sizes, transforms.dynamic_support, trace)


def _check_latent(name: str, site: dict, plates: Mapping[str, Any]) -> None:
    if site["fn"].support.is_discrete:
        raise ValueError(
            f"The latent site {name!r} is discrete, and a gradient cannot move it: sum it out, or use Gibbs with "
            "DiscreteGibbs for it on full data."
        )
    inside = [frame.name for frame in site["cond_indep_stack"] if frame.name in plates]
    if inside:
        raise ValueError(
            f"The latent site {name!r} lies in the subsampled plate {inside[0]!r}: it has one value for each row "
            "that is drawn, and SG-MCMC cannot keep it. Take it out of the plate, sum it out, or use the full data."
        )


def first_rows(plates: Mapping[str, tuple[int, int]]) -> Indices:
    """Rows 0, ..., b - 1 of each plate; arrays also while something is traced."""
    with jax.ensure_compile_time_eval():
        return {name: jnp.arange(rows) for name, (_, rows) in plates.items()}


def check_center(center: Mapping[str, Any], trace: Mapping[str, Any], argument: str = "center") -> None:
    """Refuses values, given as `argument`, that lack a site of the trace, or lie outside its support.

    Raises:
        ValueError: with the site and the value.
    """
    sites = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    if set(center) != set(sites):
        raise ValueError(
            f"{argument} must have a value for each of the sites {sorted(sites)}, got {sorted(center)}."
        )
    for name, site in sites.items():
        shape, given = jnp.shape(site["value"]), jnp.shape(center[name])
        if shape != given:
            raise ValueError(f"{argument}[{name!r}] must have the shape {shape}, got {given}.")
        with jax.ensure_compile_time_eval():
            inside = site["fn"].support(jnp.asarray(center[name]))
        if not isinstance(inside, jax.core.Tracer) and not np.asarray(inside).all():
            raise ValueError(
                f"{argument}[{name!r}] must be a constrained value in {site['fn'].support}, got {center[name]}."
            )
