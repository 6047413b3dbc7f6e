"""SG-MCMC as pure JAX: Langevin algorithms for gradients of few rows, at a temperature.

Take `sgld` apart. It is a step of gradient descent, and noise:

    q' = q - h g + sqrt(2 h T) xi                                                                 (1)

Everything else here changes one of its parts. **The noise**: `leimkuhler_matthews` shares it between two
steps, and the error of the step is gone. **The position alone**: `sghmc`, `baoab` and `sgnht` carry a momentum,
whose friction is a thermostat, fixed or (`sgnht`) steered by the temperature that is seen. **One step for
all coordinates**: `psgld` and the masses of the others, from the second moment of the gradient
(`precondition.py`), frozen once known. **The step itself**: an optax schedule, `polynomial_decay`, or
`cyclical`. **The gradient**: `control_variates` and epochs (`gradients.py`).

Two things a reader would get wrong. T stands in front of the noise and nowhere else: U is not divided by
it, so that a step keeps its meaning when T changes. And V, the variance of the gradient, is that of U; what
it adds to the spread is `noise_factor * V / T` of it, which grows when T falls at the same step.

All algorithms share `base.SGAlgorithm`; `theory.py` says what each samples at a finite step, and
`temperatures.py` how to see it in a run.
"""

from .averaging import step_weighted_mean, thin_by_step_size
from .baoab import baoab
from .base import SGAlgorithm, SGInfo, SGKernel, SGState, build
from .cyclical import cyclical
from .gradients import control_variates, epoch_indices, gradient_variance, randint_indices
from .psgld import psgld
from .schedules import polynomial_decay, temperature_ramp
from .sghmc import sghmc, sghmc_from_sgd
from .sgld import leimkuhler_matthews, sgld
from .sgnht import sgnht
from .temperatures import (
    configurational_temperature,
    kinetic_temperature,
    noise_ratio,
    temperature_interval,
)
from .theory import stationary_variance

__all__ = [
    "SGAlgorithm",
    "SGInfo",
    "SGKernel",
    "SGState",
    "baoab",
    "build",
    "configurational_temperature",
    "control_variates",
    "cyclical",
    "epoch_indices",
    "gradient_variance",
    "kinetic_temperature",
    "leimkuhler_matthews",
    "noise_ratio",
    "polynomial_decay",
    "psgld",
    "randint_indices",
    "sghmc",
    "sghmc_from_sgd",
    "sgld",
    "sgnht",
    "stationary_variance",
    "step_weighted_mean",
    "temperature_interval",
    "temperature_ramp",
    "thin_by_step_size",
]
