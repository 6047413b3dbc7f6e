"""`without_path`: a model of its parameters alone, for guides that are to know nothing of the path.

    p(theta, x, y)   ->   p(theta)                                                                (1)

Sites of the path, what is observed of it, and all that depends on them are hidden; the scan is not run.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
from jax import random
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample
from numpyro.primitives import Messenger

from .ascent import check_model
from .capture import CaptureScan, OuterModel, latent_sites
from .dataflow import dependence, rows_of
from .path_model import assign_from
from .scan_model import ScanModel
from .structure import find_path_model


def without_path(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with its path and its observed sites hidden: `param`, plates and latent parameters are left.

    For guides: `AutoMultivariateNormal(without_path(model))` is one on the parameters alone, which
    `MarkovScoreClimbing` fits to their posterior (Naesseth, Lindsten and Blei 2020). The density of
    what is left is the prior.

    Args:
        model: a NumPyro model with one `scan` or one `StateSpace` site.

    Returns:
        A model with the same arguments. It pickles where `model` does.

    Raises:
        TypeError: for what is no function, at once.
        ValueError: when it is called, for a model without a path.

    Examples:
        >>> from emberwalk.infer import without_path
        >>> from emberwalk.models import stochastic_volatility
        >>> parameters = numpyro.handlers.seed(without_path(stochastic_volatility), random.key(0))
        >>> trace = numpyro.handlers.trace(parameters).get_trace(jnp.array([0.1, -0.4]))
        >>> [name for name, site in trace.items() if site["type"] == "sample"]
        ['mu', 'sigma', 'b']
    """
    return partial(_run_without_path, check_model(model))


def _run_without_path(model: Callable[..., Any], *args, **kwargs) -> None:
    outer = OuterModel(model, args, kwargs)
    shown: set[str] = set()
    with handlers.block():  # who asks for the parameters is not to see how the path is found
        jax.eval_shape(lambda: shown.update(_shown(outer)))
    CaptureScan(_Hide(model, shown), None)(*args, **kwargs)


def _shown(outer: OuterModel) -> Iterable[str]:
    """Latent sites that are no part of the path and none of its likelihood, and what is computed from them alone."""
    path, run = find_path_model(outer), outer.run(init_to_sample)
    others = {*path.sites, *(path.likelihood_sites if isinstance(path, ScanModel) else ())}
    latents = (name for name in latent_sites(run.sites) if name not in others)
    given = {name: site["value"] for name, site in run.sites.items() if name in others}

    def computed(given, outputs):
        sites = outer.run(assign_from(given), outputs=outputs).sites
        return {name: site["value"] for name, site in sites.items() if site["type"] == "deterministic"}

    matrix, shapes, _ = dependence(computed, given, run.outputs)
    rows = rows_of(shapes).items()
    return {*latents, *(name for name, row in rows if not matrix[jax.tree.leaves(row)].any())}


class _Hide(Messenger):
    """Keeps sample and deterministic sites that are not `shown` to itself; innermost."""

    def __init__(self, fn: Callable, shown: set[str]):
        self.shown = shown
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] == "control_flow":
            msg["kwargs"]["rng_key"] = random.key(0)  # for the shapes of what the scan returns
        elif msg["type"] in ("sample", "deterministic") and msg["name"] not in self.shown:
            msg["stop"] = True
            if msg["type"] == "sample" and msg["value"] is None:
                msg["kwargs"]["rng_key"] = random.key(0)
