"""Where NUTS is wrong: paths of two signs, of regimes, of whole numbers

Growth model of known state_sd, T = 50: only x^2 is seen, and NUTS on the path does not say that its chains
stay where they began. Switching model, T = 80: regimes and states. The exact answers come from a grid.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax import lax
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm as jax_norm
from jaxtyping import Array, Float
from measure import TRIAL, Row, alternate
from numpyro.infer import NUTS, DiscreteHMCGibbs
from numpyro.infer.mcmc import MCMCKernel
from scipy.stats import norm

from emberwalk.infer import PPG
from emberwalk.models import nonlinear_growth, regime_switching

from .chains import Chains, min_ess, r_hats, rate_row, sites
from .setting import NUM_CHAINS, SIZES, growth_y, switching_y

_STATE_SD = 10**0.5
_WARMUP, _DRAWS = (20, 20) if TRIAL else (1000, 2000)


def rows() -> list[Row]:
    """Growth, whole numbers, regimes."""
    return [*growth_rows(), counts_row(), *switching_rows()]


# Growth


class Exact(NamedTuple):
    """Mean and sd of every state."""

    mean: Float[np.ndarray, "T"]
    sd: Float[np.ndarray, "T"]


def growth_on_a_grid(y: Float[np.ndarray, "T"], size: int = 801) -> Exact:
    """p(x_t | y) ∝ alpha_t beta_t, alpha_t = (alpha_{t-1} K_t) g_t, beta_{t-1} = K_t (g_t beta_t)."""
    x = np.linspace(-40, 40, size)
    likelihood = norm.pdf(y[:, None], x**2 / 20)
    drift = x / 2 + 25 * x / (1 + x**2)
    moves = [norm.pdf(x, drift[:, None] + 8 * np.cos(1.2 * t), _STATE_SD) for t in range(len(y))]
    alpha, beta = [norm.pdf(x, 0, 5**0.5) * likelihood[0]], [np.ones(size)]
    for t in range(1, len(y)):
        alpha.append(normalised(alpha[-1] @ moves[t] * likelihood[t]))
    for t in range(len(y) - 1, 0, -1):
        beta.append(normalised(moves[t] @ (likelihood[t] * beta[-1])))
    law = np.array(alpha) * np.array(beta[::-1])
    law /= law.sum(1, keepdims=True)
    mean = law @ x
    return Exact(mean, np.sqrt(law @ x**2 - mean**2))


def normalised(weights: Float[np.ndarray, "grid"]) -> Float[np.ndarray, "grid"]:
    return weights / weights.sum()


def growth_rows(num: int = 32) -> list[Row]:
    """What NUTS says of the path, then what PPG says, both after 1000 draws and with 2000."""
    exact = growth_on_a_grid(np.asarray(growth_y(), float))
    nuts = growth_draws(NUTS(nonlinear_growth), lambda state: {"diverging": state.diverging})
    ours = growth_draws(PPG(nonlinear_growth, num_particles=num), lambda state: {})
    bars = {"R-hat": 1.05, "above": 0, "error": 0.15}
    return [
        *path_rows("NUTS", nuts["x"], exact, {}),
        Row("growth, NUTS: divergences", int(nuts["diverging"].sum()), unit=""),
        *path_rows(f"PPG, N = {num}", ours["x"], exact, bars),
    ]


def growth_draws(kernel: MCMCKernel, more: Callable[[Any], dict[str, Array]]) -> dict[str, Array]:
    """Draws of the path, and what else is asked for."""

    def collect(state: Any) -> dict[str, Array]:
        return {"x": state.z["x"], **more(state)}

    return dict(Chains(kernel, (growth_y(), _STATE_SD), collect, _WARMUP, _DRAWS)())


def path_rows(
    name: str, x: Float[Array, "draws chains T"], exact: Exact, bars: Mapping[str, float]
) -> list[Row]:
    """R-hat of the states, and how far their means are off."""
    largest, x = r_hats(x), np.asarray(x, float)
    error = np.abs(x.mean((0, 1)) - exact.mean)
    standard_errors = error / exact.sd * np.sqrt(array_stats.ess(x, method="mean", chain_axis=1, draw_axis=0))
    run = f"{NUM_CHAINS} chains, {_WARMUP} + {_DRAWS} draws"
    how = f"exact by forward-backward on a grid; {standard_errors.max():.3g} standard errors as the draws have it"
    found = {
        "R-hat": Row("largest R-hat of a state", float(largest.max()), "", note=run),
        "above": Row("states with R-hat > 1.05", int((largest > 1.05).sum()), f"of {largest.size}"),
        "error": Row("largest error of a mean", float((error / exact.sd).max()), "posterior sds", note=how),
    }
    return [
        row._replace(name=f"growth, {name}: {row.name}", at_most=bars.get(which))
        for which, row in found.items()
    ]


# Whole numbers


def counts_row() -> Row:
    note = (
        "no kernel of NumPyro moves a path of whole numbers without a largest one (`poisson_counts`): NUTS needs "
        "densities, DiscreteHMCGibbs and MixedHMC a finite support; PPG samples it as it stands"
    )
    return Row("counts", None, note=note)


# Regimes


def regimes_summed_out(y: Float[Array, "T"]) -> None:
    """`regime_switching` with p(x) by the forward algorithm, alpha_t(s) = sum_r alpha_{t-1}(r) P_rs p(x_t | s)."""
    log_moves, sds = jnp.log(jnp.array([[0.95, 0.05], [0.1, 0.9]])), jnp.array([0.2, 1.5])
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), y.shape))
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    def step(log_alpha, states):
        before, now = states
        log_alpha = logsumexp(log_alpha[:, None] + log_moves, 0) + jax_norm.logpdf(now, 0.9 * before, sds)
        return log_alpha, None

    first = jnp.log(jnp.array([2 / 3, 1 / 3])) + jax_norm.logpdf(x[0], 0.0, sds)
    numpyro.factor("regimes", logsumexp(lax.scan(step, first, (x[:-1], x[1:]))[0]))


def switching_rows(num: int = 64) -> list[Row]:
    """Regimes one at a time between NUTS moves of the states, against both by PPG, and states alone."""
    gibbs, ours, summed = "DiscreteHMCGibbs(NUTS)", f"PPG, N = {num}", "NUTS, regimes summed out by hand"
    both = sites("s0", "s", "x0", "x")
    y = switching_y()
    functions = {
        gibbs: Chains(DiscreteHMCGibbs(NUTS(regime_switching), modified=True), (y,), both),
        ours: Chains(PPG(regime_switching, num_particles=num), (y,), both),
        summed: Chains(NUTS(regimes_summed_out), (y,), sites("x")),
    }
    times = alternate(functions, SIZES.table_repeats, after=ess_of_states)
    found = [regimes_row(name, functions[name].last) for name in (gibbs, ours)]
    found += [
        rate_row(f"switching, {name}", timing, "ESS of the worst state") for name, timing in times.items()
    ]
    return [*found, enumeration_row()]


def ess_of_states(draws: Mapping[str, Array]) -> float:
    """The smallest ESS of the continuous states; that of a regime which hardly ever changes means little."""
    return min_ess({name: values for name, values in draws.items() if name in ("x0", "x")})


def regimes_row(name: str, draws: Mapping[str, Array]) -> Row:
    largest = r_hats(jnp.concatenate([draws["s0"][..., None], draws["s"]], -1))
    note = (
        f"{(largest > 1.05).sum()} of {largest.size} above 1.05, {NUM_CHAINS} chains of {SIZES.draws} draws"
    )
    return Row(f"switching, {name}: largest R-hat of a regime", float(largest.max()), "", note=note)


def enumeration_row() -> Row:
    note = (
        "NumPyro's own enumeration needs funsor, and refuses this scan, where a continuous latent depends on the "
        "regime; summed out by hand, few regimes leave particles nothing to do"
    )
    return Row("switching, NUTS with regimes enumerated", None, note=note)
