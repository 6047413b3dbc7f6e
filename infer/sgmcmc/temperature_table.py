"""`temperature_table`: what a run says of its temperature, site by site, beside what its scheme has exactly.

    exact T_kin at V = 0:    baoab, sgnht   T                                                     (1)
                             sghmc          2 T / ((1 + b) D),    b = 1 - friction h              (2)
    interval: (1) or (2), times the .5 % and 99.5 % quantiles of chi2_d / d                       (3)

for a site of d elements. D = 1 - h^2 lam / (2 (1 + b) M) of (2), the part of the curvature, is not known of a model and
counts as 1: at the step of `suggest_step_size` that is 1.6 % for the stiffest coordinate, and less for all others.

Noise of minibatches raises T_conf of an exact scheme to T (1 + r), and T_kin of baoab to T (1 + 4 r / (1 + c)^2), c =
exp(-friction h) of a momentum kept in a step: nearly the same.

What a reader would get wrong: (3) is for a single step, and a mean over draws is far better known: judge it by its
MCSE. And a temperature that is right says nothing of convergence; one that is wrong says that something is.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernels.sgmcmc import temperature_interval
from ...kernels.sgmcmc.sghmc import Sghmc
from ..blocks import check_begun
from .kernel import SGMCMC
from .report import plain

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]


def temperature_table(mcmc: Any) -> "DataFrame":
    """Temperatures and minibatch noise of each site of a run, equations (1) to (3).

    Read r first: below 0.1 the noise of minibatches is harmless. Then T_kin, if the algorithm has a momentum: with r
    small it lies at T within a few MCSE. T_conf says the same of positions, with more noise, and none at all of a
    run that still drifts.

    Args:
        mcmc: an `MCMC` or `ResumableRun` of `SGMCMC` after its run.

    Returns:
        A DataFrame with a row for each site and the columns

        - `T`: that of the run, a mean over the draws where it is a schedule;
        - `T_kin`, `T_kin_mcse`: kinetic temperature; NaN for an algorithm without a momentum;
        - `low`, `high`: where T_kin of a single step lies with probability 99 %, equation (3); NaN likewise;
        - `T_conf`, `T_conf_mcse`: configurational temperature;
        - `r`: noise ratio at the end, a mean over the elements of the site; with `batching="epoch"` at most that;
        - `share`: r / (1 + r), of the spread that is minibatch noise;
        - `V_max`: the largest variance of an element of the gradient.

        MCSEs are those of arviz-stats for a mean over chains and draws; NaN for fewer than 4 draws.

    Raises:
        TypeError: if the kernel is no `SGMCMC`.
        ValueError: if the run has not begun.

    Examples:
        >>> from emberwalk.infer import SGMCMC, temperature_table
        >>> from emberwalk.kernels.sgmcmc import baoab
        >>> def model():
        ...     numpyro.sample("m", dist.Normal(0.0, 1.0).expand([50]).to_event(1))
        >>> kernel = SGMCMC(model, baoab(0.5, friction=1.0), temperature=0.1)
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=200, progress_bar=False)
        >>> mcmc.run(random.key(0))
        >>> table = temperature_table(mcmc)
        >>> bool(abs(table.T_kin["m"] - 0.1) < 4 * table.T_kin_mcse["m"]), float(table.r["m"])
        (True, 0.0)
    """
    from pandas import DataFrame

    seen = temperatures(mcmc)
    state, sites = mcmc.last_state, mcmc.sampler.site_names
    noise = state.noise.variance
    low, high = seen.interval.T
    r = np.atleast_2d(np.asarray(state.noise_ratio, float)).mean(0)
    columns = {
        "T": np.full(len(sites), seen.temperature.mean()),
        "T_kin": seen.kinetic.mean((0, 1)),
        "T_kin_mcse": mcse_of_mean(seen.kinetic),
        "low": low,
        "high": high,
        "T_conf": seen.configurational.mean((0, 1)),
        "T_conf_mcse": mcse_of_mean(seen.configurational),
        "r": r,
        "share": r / (1 + r),
        "V_max": [float(np.max(noise[site])) for site in sites],
    }
    table = DataFrame(columns, index=list(sites))
    table.index.name = "site"
    return table


class Temperatures(NamedTuple):
    """What a run collected, and what its scheme has; S sites in the order of `kernel.site_names`.

    Attributes:
        temperature: T, (chain, draw).
        kinetic: (chain, draw, S); NaN without a momentum.
        configurational: (chain, draw, S).
        exact: equations (1) and (2), a mean over the draws; NaN without a momentum.
        interval: equation (3), (S, 2).
    """

    temperature: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    configurational: NDArray[np.float64]
    exact: float
    interval: NDArray[np.float64]


def temperatures(mcmc: Any) -> Temperatures:
    """Reads a run; raises as `temperature_table` does."""
    kernel = getattr(mcmc, "sampler", None)
    if not isinstance(kernel, SGMCMC):
        found = type(mcmc if kernel is None else kernel).__name__
        raise TypeError(f"Temperatures are those of a run of SGMCMC: give its MCMC, got {found}.")
    check_begun(mcmc)
    fields = {
        name: np.asarray(values, np.float64)
        for name, values in mcmc.get_extra_fields(group_by_chain=True).items()
        if name in kernel.default_fields
    }
    configurational, level = fields["configurational_temperature"], fields["temperature"]
    kinetic = fields.get("kinetic_temperature", np.full_like(configurational, np.nan))
    exact = _exact_kinetic(kernel, level, fields["step_size"])
    sizes = _sizes(kernel, mcmc.last_state)
    interval = np.array([temperature_interval(exact, size) for size in sizes])
    return Temperatures(level, kinetic, configurational, exact, interval)


def _exact_kinetic(kernel: SGMCMC, level: NDArray, step_size: NDArray) -> float:
    algorithm = plain(kernel.algorithm)
    if not algorithm.underdamped:
        return float("nan")
    if isinstance(algorithm, Sghmc):
        return float(np.mean(2 * level / (2 - algorithm.friction * step_size)))
    return float(np.mean(level))


def _sizes(kernel: SGMCMC, state: Any) -> list[int]:
    """Unconstrained elements of each site, of one chain."""
    num_chains = np.size(state.num_nonfinite)
    return [int(np.size(state.z[name])) // num_chains for name in kernel.site_names]


def mcse_of_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By arviz-stats, of the mean over chains and draws, the two axes in front; NaN for fewer than 4 draws."""
    from arviz_stats.base import array_stats

    if values.shape[1] < 4 or np.isnan(values).any():
        return np.full(values.shape[2:], np.nan)
    return np.asarray(array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean"))
