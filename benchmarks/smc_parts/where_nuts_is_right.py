"""Where PPG is not the choice: a linear Gaussian model

T = 100, 4 vectorized chains: NUTS on the likelihood of a Kalman filter, NUTS on path and parameters
together, and PPG on the same model.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from measure import TRIAL, Row, alternate
from numpyro.infer import NUTS

from emberwalk.infer import PPG
from emberwalk.models import linear_gaussian

from .chains import Chains, min_ess, rate_row, sites
from .setting import SIZES, linear_gaussian_y


def kalman_marginal(y: Float[Array, "T"]) -> None:
    """`linear_gaussian` with the path summed out."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    sx = numpyro.sample("sx", dist.HalfNormal(1))
    numpyro.factor("y", kalman_log_likelihood(y, phi, sx))


def kalman_log_likelihood(y: Float[Array, "T"], phi: Array, sx: Array) -> Array:
    """log p(y): sum of log N(y_t; m, v + 1) of the predictions x_t ~ N(m, v), v a variance."""

    def step(prediction, y_t):
        mean, variance = prediction
        term = norm.logpdf(y_t, mean, jnp.sqrt(variance + 1))
        gain = variance / (variance + 1)
        mean, variance = mean + gain * (y_t - mean), variance * (1 - gain)
        return (phi * mean, phi**2 * variance + sx**2), term

    return lax.scan(step, (jnp.zeros(()), sx**2 / (1 - phi**2)), y)[1].sum()


def rows(length: int = 20 if TRIAL else 100, num: int = 32) -> list[Row]:
    """The smaller ESS of phi and sx a second."""
    kernels = {
        "NUTS, path summed out": NUTS(kalman_marginal),
        "NUTS, path and parameters": NUTS(linear_gaussian),
        f"PPG, N = {num}": PPG(linear_gaussian, num_particles=num),
    }
    y = linear_gaussian_y(length)
    functions = {name: Chains(kernel, (y,), sites("phi", "sx")) for name, kernel in kernels.items()}
    times = alternate(functions, SIZES.table_repeats, after=min_ess)
    return [rate_row(f"linear Gaussian, T = {length}, {name}", timing) for name, timing in times.items()]
