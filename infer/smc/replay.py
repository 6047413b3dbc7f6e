"""A model run at one draw, for its deterministic sites.

Where none stands in the scan or after it, the model is run without its scan; else with the scan
mapped over time, if the Markov order allows: stock `Gibbs` scans all the data again at every draw.
"""

import jax
from numpyro import handlers

from .capture import OuterModel, Sites
from .path_model import PathModel, SiteValues, assign_from
from .scan_model import ScanModel


def replay(model: PathModel, outer: OuterModel, values: SiteValues) -> Sites:
    """Trace of `outer` at constrained values of all latent sites."""
    if not (isinstance(model, ScanModel) and model.replay):
        return outer.run(assign_from(values)).sites
    given = handlers.substitute(handlers.seed(outer.model, jax.random.key(0)), data=values)
    return handlers.trace(model.over_all_times(given)).get_trace(*outer.args, **outer.kwargs)
