"""What stands inside a NumPyro model: distributions, primitives, example models, small real data."""

if not __name__.startswith("emberwalk."):
    raise ImportError(f"import it as emberwalk.models: {__name__!r} is the same folder under a wrong name.")

# Public names, one line a module.

from .ssm_examples import (
    linear_gaussian,
    linear_gaussian_scan,
    linear_gaussian_ssm,
    load_gbp_usd,
    nonlinear_growth,
    poisson_counts,
    regime_switching,
    stochastic_volatility,
)
from .state_space import StateSpace, emission

__all__ = [
    "StateSpace",
    "emission",
    "linear_gaussian",
    "linear_gaussian_scan",
    "linear_gaussian_ssm",
    "load_gbp_usd",
    "nonlinear_growth",
    "poisson_counts",
    "regime_switching",
    "stochastic_volatility",
]
