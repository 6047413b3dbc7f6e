"""What stands inside a NumPyro model: distributions, primitives, example models, small real data."""

if not __name__.startswith("emberwalk."):
    raise ImportError(f"import it as emberwalk.models: {__name__!r} is the same folder under a wrong name.")

# Public names, one line a module. The potentials are modules of equinox, which costs half a second: they
# are imported when one of them is first asked for.

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .discrete import g_prior_selection, ising
from .fractional import (
    FractionalBrownianMotion,
    FractionalGaussianNoise,
    extend_noise,
    fbm_path,
    fractional_sde,
    hurst_prior,
    load_nile,
)
from .graphs import barabasi_albert, karate_club, read_edge_list
from .jump import MarkovJumpCounts, MarkovJumpProcess, RatchetPaths, flashing_ratchet, load_flashing_ratchet
from .networks import init_to_module, laplace_prior, mlp, scaled_normal, student_t_prior
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

if TYPE_CHECKING:
    from .potentials import DistancePotential, Ethanol, Geometries, force_matching, load_ethanol

__all__ = [
    "DistancePotential",
    "Ethanol",
    "FractionalBrownianMotion",
    "FractionalGaussianNoise",
    "Geometries",
    "MarkovJumpCounts",
    "MarkovJumpProcess",
    "RatchetPaths",
    "StateSpace",
    "barabasi_albert",
    "emission",
    "extend_noise",
    "fbm_path",
    "flashing_ratchet",
    "force_matching",
    "fractional_sde",
    "g_prior_selection",
    "hurst_prior",
    "init_to_module",
    "ising",
    "karate_club",
    "laplace_prior",
    "linear_gaussian",
    "linear_gaussian_scan",
    "linear_gaussian_ssm",
    "load_ethanol",
    "load_flashing_ratchet",
    "load_gbp_usd",
    "load_nile",
    "mlp",
    "nonlinear_growth",
    "poisson_counts",
    "read_edge_list",
    "regime_switching",
    "scaled_normal",
    "stochastic_volatility",
    "student_t_prior",
]

_POTENTIALS = ("DistancePotential", "Ethanol", "Geometries", "force_matching", "load_ethanol")


def __getattr__(name: str) -> Any:
    if name in _POTENTIALS:
        return getattr(import_module(f"{__name__}.potentials"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
