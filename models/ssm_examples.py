"""State-space models to learn from and to test with, and the pound against the dollar.

    stochastic_volatility  h_t ~ N(mu + phi (h_{t-1} - mu), sigma),    y_t ~ N(0, exp(h_t / 2))         (1)
    linear_gaussian        x_t ~ N(phi x_{t-1}, sx),                   y_t ~ N(x_t, 1)                  (2)
    nonlinear_growth       x_t ~ N(f_t(x_{t-1}), s),                   y_t ~ N(x_t^2 / 20, 1)           (3)
                           f_t(x) = x / 2 + 25 x / (1 + x^2) + 8 cos(1.2 t)
    poisson_counts         x_t ~ Poisson(lam + rho x_{t-1}),           y_t ~ Binomial(x_t, .5)          (4)
    regime_switching       s_t ~ P[s_{t-1}],  x_t ~ N(.9 x_{t-1}, sigma_{s_t}),  y_t ~ N(x_t, .5)       (5)

N(a, b) has standard deviation b. Observations stand at t = 0, 1, ..., T - 1, except in (1), whose
h_0 comes before the first return. The models are NumPyro's: (2), (3) and (4) are one `StateSpace`
site each, (1) and (5) scans, and (2) is written both ways, with one density.
"""

import csv
from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray
from numpyro.contrib.control_flow import scan

from ..kernels.smc import SSM, Evaluation
from .state_space import StateSpace, emission

_STAY_OR_SWITCH = ((0.95, 0.05), (0.1, 0.9))
_FIRST_REGIME = (2 / 3, 1 / 3)  # stationary under the transitions above
_REGIME_SDS = (0.2, 1.5)


def stochastic_volatility(y: Float[Array, "T"]) -> None:
    """Log-volatility as an autoregression, equation (1): a NumPyro scan.

    mu ~ N(-1, 2), sigma ~ HalfNormal(1), phi = 2 b - 1 with b ~ Beta(20, 1.5);
    h_0 ~ N(mu, sigma / sqrt(1 - phi^2)). Kim, Shephard and Chib (1998).

    Args:
        y: returns, in percent; mu = -1 is a standard deviation of .6 a step.

    Sites: `mu`, `sigma`, `b`, `phi` (deterministic), `h0`, and `h` and `y` of shape (T,).

    Examples:
        >>> from emberwalk.models.ssm_examples import stochastic_volatility
        >>> seeded = numpyro.handlers.seed(stochastic_volatility, random.key(0))
        >>> numpyro.handlers.trace(seeded).get_trace(jnp.array([0.1, -0.4, 0.2]))["h"]["value"].shape
        (3,)
    """
    mu = numpyro.sample("mu", dist.Normal(-1, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    phi = numpyro.deterministic("phi", 2 * numpyro.sample("b", dist.Beta(20, 1.5)) - 1)
    h0 = numpyro.sample("h0", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)))

    def step(h, y_t):
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y_t)
        return h, None

    scan(step, h0, y)


class _Autoregression(NamedTuple):
    phi: Array
    sx: Array
    start: dist.Distribution


def _sample_autoregression() -> _Autoregression:
    """The parameters of (2), and the stationary law of x_0."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    sx = numpyro.sample("sx", dist.HalfNormal(1))
    return _Autoregression(phi, sx, dist.Normal(0, sx / jnp.sqrt(1 - phi**2)))


def linear_gaussian(y: Float[Array, "T"]) -> None:
    """An autoregression seen through noise of sd 1, equation (2): one `StateSpace` site.

    phi ~ U(-1, 1), sx ~ HalfNormal(1), x_0 stationary. Its likelihood is a Kalman filter's
    (Kalman 1960), so that every sampler can be compared with the truth.

    Args:
        y: observations, in the units of their noise.

    Sites: `phi`, `sx`, and `x` and `y` of shape (T,).

    Examples:
        >>> from emberwalk.models.ssm_examples import linear_gaussian
        >>> mcmc = MCMC(NUTS(linear_gaussian), num_warmup=10, num_samples=10, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([1.5, -0.5, 2.0]))
        >>> mcmc.get_samples()["x"].shape
        (10, 3)
    """
    phi, sx, start = _sample_autoregression()
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def linear_gaussian_scan(y: Float[Array, "T"]) -> None:
    """The same density as `linear_gaussian`, equation (2), as a NumPyro scan over t = 1, ..., T - 1.

    Kalman (1960). The first state and its observation stand before the scan.

    Args:
        y: observations, in the units of their noise.

    Sites: `phi`, `sx`, `x0` and `y0`, then `x` and `y` of shape (T - 1,).

    Examples:
        >>> from emberwalk.models.ssm_examples import linear_gaussian_scan
        >>> seeded = numpyro.handlers.seed(linear_gaussian_scan, random.key(0))
        >>> numpyro.handlers.trace(seeded).get_trace(jnp.array([1.5, -0.5, 2.0]))["x"]["value"].shape
        (2,)
    """
    phi, sx, start = _sample_autoregression()
    x0 = numpyro.sample("x0", start)
    numpyro.sample("y0", dist.Normal(x0, 1.0), obs=y[0])

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(phi * x, sx))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, x0, y[1:])


def nonlinear_growth(y: Float[Array, "T"], state_sd: float | None = None) -> None:
    """The growth model, equation (3): only x^2 is seen, so that the path has two signs at many times.

    x_0 ~ N(0, sqrt(5)). Netto, Gimeno and Mendes (1978); Gordon, Salmond and Smith (1993).

    Args:
        y: observations; the noise has sd 1.
        state_sd: s, the sd of a transition, sqrt(10) in the literature. None: unknown,
            s ~ HalfNormal(5).

    Sites: `state_sd` where it is unknown, and `x` and `y` of shape (T,).

    Examples:
        >>> from emberwalk.models.ssm_examples import nonlinear_growth
        >>> seeded = numpyro.handlers.seed(nonlinear_growth, random.key(0))
        >>> numpyro.handlers.trace(seeded).get_trace(jnp.array([0.4, 15.3]), 10**0.5)["x"]["value"].shape
        (2,)
    """
    sd = numpyro.sample("state_sd", dist.HalfNormal(5.0)) if state_sd is None else state_sd

    def transition(prev, t):
        return dist.Normal(prev / 2 + 25 * prev / (1 + prev**2) + 8 * jnp.cos(1.2 * t), sd)

    x = numpyro.sample("x", StateSpace(dist.Normal(0.0, 5**0.5), transition, y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t**2 / 20, 1.0), x), obs=y)


def poisson_counts(y: Int[Array, "T"]) -> None:
    """A population of whole individuals, each seen with probability one half, equation (4).

    lam ~ HalfNormal(5), rho ~ U(0, 1), x_0 ~ Poisson(20): arrivals, and what the last generation
    leaves behind. An integer-valued autoregression seen in part, after Dail and Madsen (2011), whose
    survivors are binomial instead.

    Args:
        y: counts.

    Sites: `lam`, `rho`, and `x` and `y` of shape (T,), `x` of whole numbers.

    Examples:
        >>> from emberwalk.models.ssm_examples import poisson_counts
        >>> seeded = numpyro.handlers.seed(poisson_counts, random.key(0))
        >>> numpyro.handlers.trace(seeded).get_trace(jnp.array([9, 10]))["x"]["value"].shape
        (2,)
    """
    lam = numpyro.sample("lam", dist.HalfNormal(5.0))
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

    def transition(prev, t):
        return dist.Poisson(lam + rho * prev)

    x = numpyro.sample("x", StateSpace(dist.Poisson(20.0), transition, y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Binomial(x_t, 0.5), x), obs=y)


def regime_switching(y: Float[Array, "T"]) -> None:
    """An autoregression whose noise is calm or stormy, equation (5): two latents a step, one discrete.

    P = ((.95, .05), (.1, .9)), sigma = (.2, 1.5), s_0 ~ (2/3, 1/3), x_0 ~ N(0, sigma_{s_0}); nothing
    is unknown but the path. A switching state-space model in the sense of Kim (1994).

    Args:
        y: observations; the noise has sd .5.

    Sites: `s0`, `x0` and `y0`, then `s`, `x` and `y` of shape (T - 1,).

    Examples:
        >>> from emberwalk.models.ssm_examples import regime_switching
        >>> seeded = numpyro.handlers.seed(regime_switching, random.key(0))
        >>> numpyro.handlers.trace(seeded).get_trace(jnp.array([0.2, 1.3, -2.0]))["s"]["value"].shape
        (2,)
    """
    transitions, sds = jnp.array(_STAY_OR_SWITCH), jnp.array(_REGIME_SDS)
    s0 = numpyro.sample("s0", dist.Categorical(jnp.array(_FIRST_REGIME)))
    x0 = numpyro.sample("x0", dist.Normal(0.0, sds[s0]))
    numpyro.sample("y0", dist.Normal(x0, 0.5), obs=y[0])

    def step(state, y_t):
        s, x = state
        s = numpyro.sample("s", dist.Categorical(transitions[s]))
        x = numpyro.sample("x", dist.Normal(0.9 * x, sds[s]))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return (s, x), None

    scan(step, (s0, x0), y[1:])


def linear_gaussian_ssm(
    y: Float[Array, "T"], phi: float | Array, sx: float | Array, sy: float | Array = 1.0
) -> SSM:
    """The model of `linear_gaussian`, equation (2), written by hand for `emberwalk.kernels.smc`.

    Kalman (1960).

    Args:
        y: observations at t = 0, ..., T - 1, so that the model has T - 1 transitions.
        phi: of the autoregression, in (-1, 1).
        sx: sd of a transition.
        sy: sd of an observation.

    Returns:
        The model with stationary x_0; the carry is x itself.

    Examples:
        >>> from emberwalk.kernels.smc import particle_filter
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> bool(jnp.isfinite(particle_filter(random.key(0), ssm, 100).log_evidence))
        True
    """
    y, phi, sx = jnp.asarray(y), jnp.asarray(phi), jnp.asarray(sx)
    start = dist.Normal(0.0, sx / jnp.sqrt(1 - phi**2))

    def evaluate(c, x, t):
        return Evaluation(dist.Normal(phi * c, sx).log_prob(x), dist.Normal(x, sy).log_prob(y[t]), x)

    def from_noise(c, z, t):
        x = phi * c + sx * z
        return x, x, jnp.log(sx)

    return SSM(
        init=start.sample,
        init_logpdf=start.log_prob,
        init_carry=lambda x: x,
        init_loglik=lambda x: dist.Normal(x, sy).log_prob(y[0]),
        sample=lambda key, c, t: dist.Normal(phi * c, sx).sample(key),
        evaluate=evaluate,
        length=y.shape[0] - 1,
        to_noise=lambda c, x, t: (x - phi * c) / sx,
        from_noise=from_noise,
    )


def load_gbp_usd() -> tuple[NDArray[np.datetime64], NDArray[np.float64]]:
    """Daily returns of the pound against the dollar, July 2014 to June 2017.

    y_t = 100 (log r_t - log r_{t-1}), r = (dollars per euro) / (pounds per euro), both the euro
    foreign exchange reference rates. Source: European Central Bank.

    Returns:
        The days (`datetime64[D]`) and the returns in percent, 750 each; a return stands at the day
        on which it ends.

    Examples:
        >>> from emberwalk.models.ssm_examples import load_gbp_usd
        >>> dates, returns = load_gbp_usd()
        >>> str(dates[returns.argmin()]), round(float(returns.min()), 4)
        ('2016-06-24', -8.1597)
    """
    file = resources.files(__package__) / "data" / "gbp_usd.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    dates = np.array([row["date"] for row in rows], "datetime64[D]")
    dollars = np.array([float(row["usd_per_eur"]) for row in rows])
    pounds = np.array([float(row["gbp_per_eur"]) for row in rows])
    return dates[1:], 100 * np.diff(np.log(dollars / pounds))
