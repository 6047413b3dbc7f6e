"""Inference for NumPyro models: kernels, diagnostics, plots and long runs."""

if not __name__.startswith("emberwalk."):
    raise ImportError(f"import it as emberwalk.infer: {__name__!r} is the same folder under a wrong name.")

# Public names, one line a module. What costs more to import than NumPyro (arviz, matplotlib,
# networkx, blackjax, equinox) is imported inside the functions that use it.

from .diagnostics import diagnose, summary, to_datatree
from .resume import read_directory, resumable
from .smc.functionals import lag_product, moment
from .smc.paris_smoother import PaRISResult, paris_smoother
from .smc.particle_gibbs import ParticleGibbs, ParticleGibbsState
from .smc.plots import plot_particle_ess, plot_states, plot_update_rate
from .smc.ppg import PPG, PPGState

__all__ = [
    "PPG",
    "PPGState",
    "PaRISResult",
    "ParticleGibbs",
    "ParticleGibbsState",
    "diagnose",
    "lag_product",
    "moment",
    "paris_smoother",
    "plot_particle_ess",
    "plot_states",
    "plot_update_rate",
    "read_directory",
    "resumable",
    "summary",
    "to_datatree",
]
