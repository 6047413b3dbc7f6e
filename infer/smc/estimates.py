"""Smoothed functionals from the sweeps of particle Gibbs: the roll-out estimator, with its error.

    H_hat = (1/K) sum_k sum_i W_T^i beta_T^i(k)        over draws k and chains                  (1)

Each term is the PaRIS statistic of one conditional sweep (`kernels/smc/paris.py`); under
stationarity its mean is E[H | y] exactly, and it varies less than H of the drawn path. Cardoso and
others (2023).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size

if TYPE_CHECKING:
    import xarray as xr


class FunctionalEstimate(NamedTuple):
    """One functional; arrays in its shape.

    Attributes:
        mean: equation (1), the estimate of E[H | y].
        mcse: its Monte Carlo standard error, sd / sqrt(ESS) over all chains.
        ess: effective draws behind `mean`.
        path_mean: the mean of H over the drawn paths, another estimate of the same.
        path_mcse: its standard error.
        gain: (path_mcse / mcse)^2, how many times as many draws of paths alone would do as well.
    """

    mean: np.ndarray
    mcse: np.ndarray
    ess: np.ndarray
    path_mean: np.ndarray
    path_mcse: np.ndarray
    gain: np.ndarray


def ppg_estimates(mcmc: Any) -> dict[str, FunctionalEstimate]:
    """Estimates of the functionals that a `PPG` or `ParticleGibbs` was given, equation (1).

    Args:
        mcmc: an `MCMC` or `ResumableRun` that has run with `functionals=`; a hand-made `Gibbs` must
            collect the block's, `extra_fields=("block_states.0.functionals",
            "block_states.0.path_functionals")`.

    Raises:
        ValueError: if no functional was collected.

    Examples:
        >>> from emberwalk.infer import PPG, lag_product, ppg_estimates
        >>> from emberwalk.models import linear_gaussian
        >>> kernel = PPG(linear_gaussian, num_particles=8, functionals={"xx": lag_product("x")})
        >>> mcmc = MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([0.1, -0.4, 0.3, 1.2]))
        >>> ppg_estimates(mcmc)["xx"].mean.shape
        ()
    """
    fields = mcmc.get_extra_fields(group_by_chain=True)
    estimates = _estimates(fields)
    if not estimates:
        raise ValueError(
            f'No functionals were collected, only {sorted(fields)}. Run PPG(model, functionals={{"name": h}}); '
            "with extra_fields of your own, name functionals and path_functionals too."
        )
    return estimates


def _estimates(fields: dict[str, Any]) -> dict[str, Any]:
    """Of the functionals among the fields of a run or of one of its blocks; empty if none were collected."""
    found = next((name for name in fields if name.split(".")[-1] == "functionals"), "functionals")
    of_paths = f"{found.removesuffix('functionals')}path_functionals"
    if of_paths not in fields:
        return {}
    return {
        name: jax.tree.map(_estimate, tree, fields[of_paths][name]) for name, tree in fields[found].items()
    }


def _estimate(statistic: Any, path: Any) -> FunctionalEstimate:
    """Of values with leading axes (chain, draw)."""
    mean, mcse, ess = _mean(statistic)
    path_mean, path_mcse, _ = _mean(path)
    with np.errstate(divide="ignore", invalid="ignore"):
        return FunctionalEstimate(mean, mcse, ess, path_mean, path_mcse, (path_mcse / mcse) ** 2)


def _mean(values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(values, float)
    with np.errstate(divide="ignore", invalid="ignore"):  # what never varies has no ESS: nan
        ess = np.asarray(effective_sample_size(values))
        return values.mean((0, 1)), np.std(values, (0, 1), ddof=1) / np.sqrt(ess), ess


def _is_estimate(node: Any) -> bool:
    return isinstance(node, FunctionalEstimate)


def estimate_groups(mcmc: Any) -> "dict[str, xr.Dataset]":
    """Group `functional_estimates` of `to_datatree`: one variable a functional, axis `estimate` first."""
    import xarray as xr

    estimates = _estimates(mcmc.get_extra_fields(group_by_chain=True))
    data = {}
    for name, tree in estimates.items():
        for path, one in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_estimate):
            leaf = ".".join(filter(None, (name, jax.tree_util.keystr(path, simple=True, separator="."))))
            values = np.stack(one)
            dims = ("estimate", *(f"{leaf}_dim_{k}" for k in range(values.ndim - 1)))
            data[leaf] = (dims, values)
    if not data:
        return {}
    return {"functional_estimates": xr.Dataset(data, coords={"estimate": list(FunctionalEstimate._fields)})}
