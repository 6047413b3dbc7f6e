"""Fractional Brownian motion as a state that a filter can carry, pure JAX: no NumPyro.

B^H remembers its whole past, so no finite state is exact. Take `ou_bank` apart: K Ornstein-Uhlenbeck processes with
rates from slow to fast, all driven by the same Brownian motion, and a weighted sum of what they do in a step:

    dB = w(H) . dy,      (x, y_1, ..., y_K) is Markov                                                     (1)

**The weights** decide how good that is. `coefficients` solves them once, in float64 on the host, for 97 values of H,
and gives a spline that may be traced: H is learnt like any other number. The criterion is the law of the increments
(`kl_criterion`), below 2e-4 nats each at 8 modes; the published one, the error of the path (`path_criterion`), is
there for comparison. **The step** is exact, and its noise has few dimensions, since all modes share one. **The
posterior**: with (1) inside a linear model and Gaussian sites, `gaussian_filter` gives the exact law of the noises
given the data; elsewhere that of a linearisation, as the guide of a variational fit. `girsanov` has the published
guide, a control, and the gap that it cannot close. **Without a bank**: `exact`, for noise that is itself observed,
and for every test.

Two things a reader would get wrong. H and the scale are confounded unless B(1) has variance 1, which the published
weights do not give. And nothing is checked at H = 1/2 alone, where everything is Brownian and most errors are 0.
"""

from .coefficients import Coefficients, fractional_coefficients, weights
from .exact import (
    cholesky_increments,
    circulant_increments,
    fbm_covariance,
    fgn_autocovariance,
    fgn_log_density,
    increment_covariance,
    sample_cholesky,
    sample_davies_harte,
    stationary_log_density,
)
from .gaussian_filter import (
    Draw,
    Gain,
    Gains,
    Information,
    Linear,
    Sites,
    backward,
    driven,
    log_prob,
    simulate,
)
from .girsanov import Controlled, Floor, control_floor, control_kl, simulate_control
from .kl_criterion import increment_autocovariance, kl_per_increment
from .ou_bank import BankState, BankStep, bank_path, bank_step, init, initial_factor, step
from .path_criterion import PathSystem, path_system, solve_weights

__all__ = [
    "BankState",
    "BankStep",
    "Coefficients",
    "Controlled",
    "Draw",
    "Floor",
    "Gain",
    "Gains",
    "Information",
    "Linear",
    "PathSystem",
    "Sites",
    "backward",
    "bank_path",
    "bank_step",
    "cholesky_increments",
    "circulant_increments",
    "control_floor",
    "control_kl",
    "driven",
    "fbm_covariance",
    "fgn_autocovariance",
    "fgn_log_density",
    "fractional_coefficients",
    "increment_autocovariance",
    "increment_covariance",
    "init",
    "initial_factor",
    "kl_per_increment",
    "log_prob",
    "path_system",
    "sample_cholesky",
    "sample_davies_harte",
    "simulate",
    "simulate_control",
    "solve_weights",
    "stationary_log_density",
    "step",
    "weights",
]
