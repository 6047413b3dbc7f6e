"""The parameters: effective draws a second beside NUTS

The pound's volatility, T = 750, 4 vectorized chains: the smallest ESS of (phi, sigma, mu) a second, ours
over NUTS on the non-centred and on the centred model; the linear Gaussian model, T = 500: the ESS of sx.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, Float
from measure import Row, alternate
from numpyro.infer import NUTS

from emberwalk.infer import PPG
from emberwalk.models import linear_gaussian, stochastic_volatility

from .chains import Chains, gain_rows, min_ess, rate_row, sites
from .setting import SIZES, linear_gaussian_y, pound_y


def rows() -> list[Row]:
    """The pound, then the linear Gaussian series."""
    return [*pound_rows(), *linear_gaussian_rows()]


def non_centred(y: Float[Array, "T"]) -> None:
    """`stochastic_volatility` in standardised noise, written by hand for NUTS."""
    mu = numpyro.sample("mu", dist.Normal(-1, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    phi = 2 * numpyro.sample("b", dist.Beta(20, 1.5)) - 1
    z0 = numpyro.sample("z0", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(y.shape).to_event(1))

    def step(deviation, z_t):
        deviation = phi * deviation + sigma * z_t
        return deviation, deviation

    _, deviations = lax.scan(step, sigma / jnp.sqrt(1 - phi**2) * z0, z)
    numpyro.sample("y", dist.Normal(0, jnp.exp((mu + deviations) / 2)).to_event(1), obs=y)


def pound_rows(num: int = 16) -> list[Row]:
    """ESS a second over that of NUTS, then what each kernel gives for itself."""
    ours, bars = f"PPG, N = {num}", {"NUTS, non-centred": 2.0, "NUTS, centred": 5.0}
    kernels = {
        ours: PPG(stochastic_volatility, num_particles=num),
        "NUTS, non-centred": NUTS(non_centred),
        "NUTS, centred": NUTS(stochastic_volatility),
    }
    collect = sites("b", "sigma", "mu")
    functions = {name: Chains(kernel, (pound_y(),), collect) for name, kernel in kernels.items()}
    times = alternate(functions, SIZES.parameter_repeats, after=min_ess)
    return [*gain_rows(ours, times, bars), *(rate_row(name, timing) for name, timing in times.items())]


def linear_gaussian_rows(num: int = 32) -> list[Row]:
    """ESS of sx, by both clocks."""
    chains = Chains(PPG(linear_gaussian, num_particles=num), (linear_gaussian_y(),), sites("sx"))
    times = alternate({"ours": chains}, SIZES.table_repeats, after=min_ess)["ours"]
    found = []
    for clock in ("cpu", "wall"):
        rates = times.per_second(clock)
        spread = f"{min(rates):.3g} to {max(rates):.3g}"
        name = f"linear Gaussian, ESS of sx per {clock} second: PPG, N = {num}"
        found.append(Row(name, float(np.median(rates)), "1/s", at_least=25, spread=spread))
    return found
