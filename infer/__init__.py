"""Inference for NumPyro models: kernels, diagnostics, plots and long runs."""

if not __name__.startswith("emberwalk."):
    raise ImportError(f"import it as emberwalk.infer: {__name__!r} is the same folder under a wrong name.")

# Public names, one line a module. What costs more to import than NumPyro (arviz, matplotlib,
# networkx, blackjax, equinox) is imported inside the functions that use it.

from ..kernels.jump import RatePrior
from ..kernels.walk import Growth, Ramp
from .diagnostics import diagnose, summary, to_datatree
from .fractional.control import ControlGuide
from .fractional.guide import AutoFractionalSDE
from .fractional.plots import plot_elbo, plot_sde_path, plot_structure_function
from .fractional.report import FractionalDiagnostics
from .jump.derived import DerivedDraws
from .jump.guide import AutoMJP
from .jump.kernel import ZeroShotMJP, ZeroShotMJPState
from .jump.plots import plot_rates
from .jump.posterior import RatePosterior
from .jump.zero_shot import zero_shot
from .resume import read_directory, resumable
from .sgmcmc.control_variates import control_variates
from .sgmcmc.ensemble import DeepEnsemble
from .sgmcmc.function_space import (
    CalibrationCurve,
    ChainsCurve,
    between_chain_share,
    calibration_curve,
    chains_curve,
    predictive_rhat,
    rescale_factor,
)
from .sgmcmc.kernel import SGMCMC
from .sgmcmc.plots import plot_cycles, plot_noise_ratio, plot_temperatures
from .sgmcmc.predict import MeanAndVariance, Reduction, mean_and_variance, predict
from .sgmcmc.prediction_plots import plot_calibration, plot_chains_curve
from .sgmcmc.rows import HostRows
from .sgmcmc.state import SGMCMCState
from .sgmcmc.temperature_table import temperature_table
from .sgmcmc.tuning import StepAdvice, suggest_step_size
from .smc.ascent import ScoreAscentResult, ScoreAscentState
from .smc.estimates import FunctionalEstimate, ppg_estimates
from .smc.functionals import lag_product, moment
from .smc.paris_smoother import PaRISResult, paris_smoother
from .smc.particle_gibbs import ParticleGibbs, ParticleGibbsState
from .smc.plots import plot_particle_ess, plot_states, plot_update_rate
from .smc.ppg import PPG
from .smc.ppg_state import PPGState
from .smc.prediction import forecast, posterior_predictive
from .smc.score_ascent import ScoreAscent
from .smc.score_climbing import MarkovScoreClimbing
from .smc.without_path import without_path
from .walk.control_variate import control_variate, discrete_residual, score_control_variate
from .walk.estimators import Average, node_average
from .walk.graph_walk import GraphWalk, GraphWalkState
from .walk.plots import plot_error_decay, plot_variance_ratio, plot_visits
from .walk.srrw import SRRW, SRRWState
from .walk.support import SupportAverage, streamed, support_average
from .walk.visits import VisitStatistics, visit_statistics

__all__ = [
    "PPG",
    "SGMCMC",
    "SRRW",
    "AutoFractionalSDE",
    "AutoMJP",
    "Average",
    "CalibrationCurve",
    "ChainsCurve",
    "ControlGuide",
    "DeepEnsemble",
    "DerivedDraws",
    "FractionalDiagnostics",
    "FunctionalEstimate",
    "GraphWalk",
    "GraphWalkState",
    "Growth",
    "HostRows",
    "MarkovScoreClimbing",
    "MeanAndVariance",
    "PPGState",
    "PaRISResult",
    "ParticleGibbs",
    "ParticleGibbsState",
    "Ramp",
    "RatePosterior",
    "RatePrior",
    "Reduction",
    "SGMCMCState",
    "SRRWState",
    "ScoreAscent",
    "ScoreAscentResult",
    "ScoreAscentState",
    "StepAdvice",
    "SupportAverage",
    "VisitStatistics",
    "ZeroShotMJP",
    "ZeroShotMJPState",
    "between_chain_share",
    "calibration_curve",
    "chains_curve",
    "control_variate",
    "control_variates",
    "diagnose",
    "discrete_residual",
    "forecast",
    "lag_product",
    "mean_and_variance",
    "moment",
    "node_average",
    "paris_smoother",
    "plot_calibration",
    "plot_chains_curve",
    "plot_cycles",
    "plot_elbo",
    "plot_error_decay",
    "plot_noise_ratio",
    "plot_particle_ess",
    "plot_rates",
    "plot_sde_path",
    "plot_states",
    "plot_structure_function",
    "plot_temperatures",
    "plot_update_rate",
    "plot_variance_ratio",
    "plot_visits",
    "posterior_predictive",
    "ppg_estimates",
    "predict",
    "predictive_rhat",
    "read_directory",
    "rescale_factor",
    "resumable",
    "score_control_variate",
    "streamed",
    "suggest_step_size",
    "summary",
    "support_average",
    "temperature_table",
    "to_datatree",
    "visit_statistics",
    "without_path",
    "zero_shot",
]
