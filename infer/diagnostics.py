"""What a run has to say: `to_datatree`, `summary` and `diagnose`, three words for every kernel.

A kernel speaks through three methods, each optional (NumPyro's own kernels have none of them):

    warnings(run) -> list[str]                   what went wrong: one sentence each, number and way out
    groups(run)   -> dict[str, xarray.Dataset]   further groups of the DataTree
    dims(run)     -> (coords, dims)              names of the axes of sites and of sample_stats

`run` is an `MCMC`, or anything that has its `sampler`, `last_state`, `get_samples` and
`get_extra_fields`: a `ResumableRun`, or one block of a hand-made `Gibbs` (`blocks.BlockView`). Nothing
is registered, and no kernel is known here by name. How draws become a tree is in `datatree`; ArviZ
and xarray are imported where they are used, because they cost more than NumPyro itself.
"""

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .blocks import ask, check_begun
from .datatree import build_tree, kind_of

if TYPE_CHECKING:
    import xarray as xr
    from pandas import DataFrame  # type: ignore[import-untyped]

__all__ = ["diagnose", "summary", "to_datatree"]

LONG_PATH, PATH_TIMES = 8, 5  # `summary` shows a path of more than 8 times at 5 of them


def to_datatree(x: Any, **kwargs: Any) -> "xr.DataTree":
    """The draws as an `xarray.DataTree`, the form that every function of ArviZ reads.

    It is `arviz_base.from_numpyro` (for an SVI `from_numpyro_svi`) and what that lacks: axes that a
    kernel names (the time of a path), kernels without a model, groups of a kernel's own, and the
    extra fields of every block of a `Gibbs`. `diagnose(x)` is called once.

    Extra fields come as variables of `sample_stats` under ArviZ's names (`potential_energy` is
    `lp` with its sign changed). A field that is a dictionary or a tuple comes as one variable a leaf,
    `field.leaf`. `block_states.0.accept_prob` comes as `acceptance_rate`; where two blocks bear the
    same field, each name begins with the first site of its block: `x.acceptance_rate`. A site
    `net/w` comes as `net.w`, because a DataTree reads a slash as a path.

    Args:
        x: an `MCMC` after `run`, a `ResumableRun` (all its segments, also while it goes on), the
            directory of one (draws and fields alone: no kernel, so no warnings, no named axes, no
            observed data), an `SVI`, or an object with a `to_datatree` of its own, which is called.
        **kwargs: go on to `arviz_base.from_numpyro`: `log_likelihood=True` (for `arviz.loo`),
            `coords=`, `dims=` (added to the plates' and the kernel's; on equal names yours wins),
            `posterior_predictive=`, `constant_data=`, ... For an SVI also `svi_result=` (needed),
            `model_args=`, `model_kwargs=`, `num_samples=` (default 1000).

    Returns:
        A tree with the groups `posterior` (each variable `(chain, draw, ...)`; for an SVI
        `(sample, ...)`), `sample_stats`, `observed_data` and those asked for. Store it by
        `tree.to_netcdf(path)` or `tree.to_zarr(path, consolidated=False)`.

    Raises:
        TypeError: if `x` is none of these, or an SVI comes without `svi_result`.
        ValueError: if the run has not begun, or `log_likelihood=True` and there is no model.

    Examples:
        >>> from emberwalk.infer import to_datatree
        >>> def model(y):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
        >>> mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=30, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.ones(4))
        >>> tree = to_datatree(mcmc, dims={"y": ["day"]})
        >>> list(tree.children), tree["posterior"]["m"].dims, tree["observed_data"]["y"].dims
        (['posterior', 'sample_stats', 'observed_data'], ('chain', 'draw'), ('day',))
    """
    diagnose(x)
    return build_tree(x, **kwargs)


def summary(
    x: Any,
    *,
    var_names: list[str] | None = None,
    kind: str | None = None,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    round_to: int | str | None = "auto",
    **kwargs: Any,
) -> "DataFrame":
    """ArviZ's table of the posterior: parameters in full, a long path at five of its times.

    ESS and R-hat are those of arviz-stats. A path is what has an axis `time` longer than 8; for all
    its times call `arviz.summary(to_datatree(x))`. `diagnose(x)` is called once.

    Args:
        x: what `to_datatree` takes, or the DataTree that it gave (then nothing is diagnosed again).
        var_names: sites to show; None shows all.
        kind: ArviZ's choice of columns, such as "stats", "diagnostics" or "all_median". None: "all"
            for chains, "stats" for the independent draws of an SVI, which have no ESS.
        ci_prob: probability of the credible interval; None: ArviZ's default.
        ci_kind: "eti" or "hdi"; None: ArviZ's default.
        round_to: digits; "auto" rounds by the Monte Carlo error, "none" not at all.
        **kwargs: go on to `to_datatree`, such as `svi_result=`.

    Returns:
        A DataFrame, one row a scalar, labelled `name[coordinate]`.

    Raises:
        TypeError, ValueError: as `to_datatree`.

    Examples:
        >>> from emberwalk.infer import summary
        >>> def model(y):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
        >>> mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=30, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.ones(4))
        >>> table = summary(mcmc)
        >>> list(table.index), "r_hat" in table.columns
        (['m'], True)
    """
    import arviz_stats
    import xarray as xr

    tree = x if isinstance(x, xr.DataTree) else to_datatree(x, **kwargs)
    posterior = _at_few_times(tree["posterior"].to_dataset())
    posterior = posterior.map(lambda v: v.astype("int8") if v.dtype == bool else v)  # quantiles subtract
    chains = "chain" in posterior.dims
    with np.errstate(divide="ignore", invalid="ignore"):  # a site that never moves has no R-hat: nan
        return arviz_stats.summary(
            posterior,
            var_names=var_names,
            sample_dims=["chain", "draw"] if chains else ["sample"],
            kind=kind or ("all" if chains else "stats"),
            ci_prob=ci_prob,
            ci_kind=ci_kind,
            round_to=round_to,
        )


def diagnose(x: Any) -> list[str]:
    """Says what went wrong in a run, as far as its kernel can tell: one sentence each.

    NumPyro has no hook after a run, so call this (or `to_datatree` or `summary`, which do) before
    you trust draws. The blocks of a hand-made `Gibbs` are asked one by one. ESS, R-hat and
    divergences are in `summary` and in `sample_stats`, not here.

    Args:
        x: what `to_datatree` takes. Only an `MCMC` and a `ResumableRun` hold a kernel to ask.

    Returns:
        The sentences, each of which was also issued as a `UserWarning`; empty if all is well.

    Raises:
        TypeError: if `x` is not what `to_datatree` takes.
        ValueError: if the run has not begun.

    Examples:
        >>> from emberwalk.infer import diagnose
        >>> def model():
        ...     numpyro.sample("m", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=30, progress_bar=False)
        >>> mcmc.run(random.key(0))
        >>> diagnose(mcmc)  # a kernel of NumPyro's says nothing
        []
    """
    if kind_of(x) != "run":
        return []
    check_begun(x)
    sentences = [sentence for *_, answer in ask(x, "warnings") for sentence in answer]
    for sentence in sentences:  # shown at the user's line, whichever of the three words was called
        warnings.warn(sentence, UserWarning, skip_file_prefixes=(os.path.dirname(__file__),))
    return sentences


def _at_few_times(posterior: "xr.Dataset") -> "xr.Dataset":
    """Cuts each axis `time` to a few of its values, spread over it; whole days lose their hours."""
    for dim in [str(d) for d in posterior.dims if str(d).split(".")[-1] == "time"]:
        length = posterior.sizes[dim]
        if length > LONG_PATH:
            posterior = posterior.isel({dim: np.linspace(0, length - 1, PATH_TIMES).round().astype(int)})
        times = posterior[dim].values
        if times.dtype.kind == "M" and (times == times.astype("datetime64[D]")).all():
            posterior = posterior.assign_coords({dim: times.astype("datetime64[D]").astype(str)})
    return posterior
