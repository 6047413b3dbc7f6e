"""Observed values that are no numbers are refused before anything is sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from jaxtyping import Array, Bool

from .capture import OuterModel, run_body
from .path_model import PathModel
from .scan_model import ScanModel
from .state_space_model import unwrap_emission


def check_observed(outer: OuterModel, model: PathModel) -> None:
    """Refuse NaN and infinite values of the observed path sites that no mask leaves out.

    Values that are being traced are not looked at.

    Raises:
        ValueError: naming the site, the number of such values and the first of them.
    """
    bad = _bad_in_scan(outer, model) if isinstance(model, ScanModel) else _bad_in_emissions(outer, model)
    for name, at_time in bad.items():
        if isinstance(at_time, jax.core.Tracer):
            continue
        times = np.flatnonzero(np.asarray(at_time))
        if times.size:
            raise ValueError(
                f"Observed site {name!r} is NaN or infinite at {times.size} of its {np.size(at_time)} times, first at "
                f"{times[0]}. Put any number there and leave it out with handlers.mask, inside the scan body or "
                "around the emission."
            )


def _bad_in_scan(outer: OuterModel, model: ScanModel) -> dict[str, Bool[Array, "..."]]:
    run = outer.run(lambda msg: None)
    call = run.call

    def one_time(index):
        sites = run_body(call, call.init, index, lambda msg: None, random.key(0)).sites
        return {name: _is_bad(sites[name]["fn"], sites[name]["value"]) for name in model.observed}

    at_start = {name: run.sites[name] for name in model.likelihood_sites}
    return {
        **{
            name: _is_bad(site["fn"], site["value"]) for name, site in at_start.items() if site["is_observed"]
        },
        **jax.vmap(one_time)(jnp.arange(call.length)),
    }


def _bad_in_emissions(outer: OuterModel, model: PathModel) -> dict[str, Bool[Array, "T"]]:
    sites = outer.run(lambda msg: None).sites
    bad = {}
    for name in model.observed:
        law, value = sites[name]["fn"], sites[name]["value"]
        _, mask = unwrap_emission(law)
        bad[name] = _any_rightmost(~jnp.isfinite(value), len(law.event_shape)) & mask
    return bad


def _is_bad(law: dist.Distribution, value: Array) -> Bool[Array, ""]:
    mask = True
    inner = law
    while isinstance(inner, dist.MaskedDistribution):
        mask, inner = mask & inner._mask, inner.base_dist
    return jnp.any(_any_rightmost(~jnp.isfinite(value), law.event_dim) & mask)


def _any_rightmost(values: Bool[Array, "..."], ndim: int) -> Bool[Array, "..."]:
    return values.any(tuple(range(values.ndim - ndim, values.ndim)))
