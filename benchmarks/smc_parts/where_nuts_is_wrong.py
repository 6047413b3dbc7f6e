"""Where NUTS is wrong: paths of two signs, of regimes, of whole numbers

Growth model of known state_sd, T = 50: only x^2 is seen, and NUTS on the path does not say that its chains
stay where they began. Switching model, T = 80: regimes and states. The exact answers come from a grid.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Array, Float
from measure import TRIAL, Row, Timing, alternate
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


def switching_rows(num: int = 64) -> list[Row]:
    """Regimes one at a time between NUTS moves of the states, against both by PPG."""
    collect = sites("s0", "s", "x0", "x")
    kernels = {
        "DiscreteHMCGibbs(NUTS)": DiscreteHMCGibbs(NUTS(regime_switching), modified=True),
        f"PPG, N = {num}": PPG(regime_switching, num_particles=num),
    }
    functions = {name: Chains(kernel, (switching_y(),), collect) for name, kernel in kernels.items()}
    times = alternate(functions, SIZES.table_repeats, after=ess_of_states)
    found = []
    for name, timing in times.items():
        found += switching_rows_of(name, timing, functions[name].last)
    return [*found, enumeration_row(num)]


def ess_of_states(draws: dict[str, Array]) -> float:
    """The smallest ESS of the continuous states; that of a regime which hardly ever changes means little."""
    return min_ess({"x0": draws["x0"], "x": draws["x"]})


def switching_rows_of(name: str, timing: Timing, draws: dict[str, Array]) -> list[Row]:
    regimes = jnp.concatenate([draws["s0"][..., None], draws["s"]], -1)
    largest = r_hats(regimes)
    note = (
        f"{(largest > 1.05).sum()} of {largest.size} above 1.05, {NUM_CHAINS} chains of {SIZES.draws} draws"
    )
    return [
        Row(f"switching, {name}: largest R-hat of a regime", float(largest.max()), "", note=note),
        rate_row(f"switching, {name}", timing, "ESS of the worst state"),
    ]


def enumeration_row(num: int) -> Row:
    """NumPyro sums the regimes out of its scan where funsor is installed: right, and for few regimes the choice."""
    name = "switching, NUTS with regimes enumerated"
    if importlib.util.find_spec("funsor") is None:
        return Row(name, None, note="not measured: funsor is not installed")
    chains = Chains(NUTS(regime_switching), (switching_y(),), sites("x0", "x"))
    timing = alternate({"enumerated": chains}, SIZES.table_repeats, after=ess_of_states)["enumerated"]
    return rate_row(name, timing, "ESS of the worst state")
