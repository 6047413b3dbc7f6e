"""What a fitted path says of the future, and of data like those it was fitted to.

    forecast              x_{T+k}, y_{T+k} ~ model(. | c_T, theta),  k = 1, ..., horizon         (1)
    posterior_predictive  y'_t ~ g_t(. | c_{t-1}, x_t, theta),       t as observed               (2)

one draw for each posterior draw of (theta, path).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Key, PyTree
from numpyro import handlers

from ...kernels.smc import SSM
from ...kernels.smc.innovations import carries
from ...kernels.smc.types import check_count
from ..blocks import all_blocks, check_begun
from .capture import OuterModel
from .dataflow import dependence, rows_of
from .particle_gibbs import ParticleGibbs
from .path_model import PathModel, SiteValues, assign_from
from .scan_model import ScanModel


def forecast(
    mcmc: Any,
    key: Key[Array, ""],
    horizon: int,
    *,
    xs: PyTree[Array] = None,
    num_draws: int | None = None,
) -> dict[str, Array]:
    """States and observations of the `horizon` steps after the data, equation (1).

    Args:
        mcmc: an `MCMC` or `ResumableRun` of `PPG`, of `ParticleGibbs`, or of a `Gibbs` that holds one.
        key: of everything drawn here.
        horizon: steps, at least 1.
        xs: inputs of the scan for those steps, in the form of the model's own, leading axis `horizon`;
            needed where the body uses more of them than the observation, whose place may hold None.
            A `StateSpace` takes none: what it indexes by `t` must reach beyond the data, and a warning says
            where it does not.
        num_draws: posterior draws to start from, spread evenly over all; None: every one.

    Returns:
        Path and observed sites, each `(draws, horizon, ...)`; `plot_states(mcmc, site, forecast=...)` shows them.

    Raises:
        ValueError: for a horizon below 1, inputs that are missing or of another form, or if neither the
            path nor `last_carry` was collected.

    Examples:
        >>> from emberwalk.infer import PPG, forecast
        >>> from emberwalk.models import linear_gaussian
        >>> mcmc = MCMC(PPG(linear_gaussian, 8), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([0.1, -0.4, 0.3, 1.2]))
        >>> {site: draws.shape for site, draws in forecast(mcmc, random.key(1), horizon=20).items()}
        {'x': (5, 20), 'y': (5, 20)}
    """
    check_count("horizon", horizon, 1)
    model, outer = _fitted(mcmc)
    draws = _some_draws(mcmc, model, num_draws)
    inputs = _future_inputs(model, outer, draws, horizon, xs)
    _warn_of_arguments_that_end(model, outer, draws, horizon, inputs)
    stages = model.length + 1 + jnp.arange(horizon)

    def one(key: Array, draw: PyTree[Array]) -> SiteValues:
        values, carry = draw
        at_parameters = _given(outer, model, values)
        ssm = model.ssm(at_parameters)
        if carry is None:
            carry = model.last_carry(ssm, model.path_of(values))
        else:  # a run read from a directory holds lists where the carry has tuples
            carry = jax.tree.unflatten(jax.tree.structure(_first_carry(ssm)), jax.tree.leaves(carry))
        simulate = model.simulator(at_parameters)

        def step(carry, stage):
            t, key, inputs = stage
            drawn = simulate(key, carry, t, inputs, {})
            return drawn.carry, {**drawn.latents, **drawn.observed}

        return lax.scan(step, carry, (stages, random.split(key, horizon), inputs))[1]

    return _over_draws(one, key, draws)


def posterior_predictive(mcmc: Any, key: Key[Array, ""], *, num_draws: int | None = None) -> dict[str, Array]:
    """Observations drawn anew at the states and parameters of every posterior draw, equation (2).

    For posterior predictive checks. An observation that the carry hands on stays as it was seen, so
    that draws of a later one are one step ahead of the data.

    Args:
        mcmc: as for `forecast`; the path must have been collected.
        key: of everything drawn here.
        num_draws: posterior draws, spread evenly over all; None: every one.

    Returns:
        Sites observed along the path, each `(draws, T, ...)`.

    Raises:
        ValueError: if the path was not collected.

    Examples:
        >>> from emberwalk.infer import PPG, posterior_predictive
        >>> from emberwalk.models import linear_gaussian
        >>> mcmc = MCMC(PPG(linear_gaussian, 8), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([0.1, -0.4, 0.3, 1.2]))
        >>> posterior_predictive(mcmc, random.key(1))["y"].shape
        (5, 4)
    """
    model, outer = _fitted(mcmc)
    draws = _some_draws(mcmc, model, num_draws, need_path=True)

    def one(key: Array, draw: PyTree[Array]) -> SiteValues:
        values, _ = draw
        at_parameters = _given(outer, model, values)
        path = model.path_of(values)
        before = carries(model.ssm(at_parameters), path)
        simulate = model.simulator(at_parameters)
        xs = outer.run(assign_from(values)).call.xs if isinstance(model, ScanModel) else None

        def stage(key, carry, t, latents, inputs):
            return simulate(key, carry, t, inputs, model.sites_of(latents)).observed

        times = jnp.arange(1, model.length + 1)
        first, rest = random.split(key)
        observed = jax.vmap(stage)(random.split(rest, model.length), before, times, path.latents, xs)
        if not model.offset:
            return observed
        at_start = simulate(first, path.initial, jnp.array(0), None, model.sites_of(path.initial)).observed
        return jax.tree.map(lambda start, later: jnp.concatenate([start[None], later]), at_start, observed)

    return _over_draws(one, key, draws)


def _fitted(mcmc: Any) -> tuple[PathModel, OuterModel]:
    """The path of the kernel that ran, and the model with the arguments of that run."""
    check_begun(mcmc)
    kernels = [mcmc.sampler, *(view.sampler for _, view in all_blocks(mcmc))]
    for kernel in kernels:
        block = getattr(kernel, "path_block", kernel)
        if isinstance(block, ParticleGibbs):
            return block.path, OuterModel(mcmc.sampler.model, mcmc._args, dict(mcmc._kwargs))
    raise ValueError(
        f"The run is of {type(mcmc.sampler).__name__}, which knows no path; it must be of PPG or ParticleGibbs."
    )


def _some_draws(
    mcmc: Any, model: PathModel, num_draws: int | None, *, need_path: bool = False
) -> PyTree[Array]:
    """(values of the latent sites, last carry or None), leading axis the draws asked for."""
    samples = mcmc.get_samples()
    has_path = all(site in samples for site in model.time_sites)
    carry = None if has_path else mcmc.get_extra_fields().get("last_carry")
    if not has_path and (need_path or carry is None):
        raise ValueError(
            f"The path {list(model.time_sites)} is not among the draws. Run without leaving it out "
            '(extra_fields=("~z...",)); a forecast can do with PPG\'s "last_carry" instead.'
        )
    total = len(next(iter(samples.values()))) if samples else len(jax.tree.leaves(carry)[0])
    if num_draws is None:
        return samples, carry
    if isinstance(num_draws, bool) or not isinstance(num_draws, int) or not 1 <= num_draws <= total:
        raise ValueError(
            f"num_draws must be a whole number from 1 to {total}, the draws there are, got {num_draws!r}."
        )
    chosen = np.linspace(0, total - 1, num_draws).round().astype(int)
    return jax.tree.map(lambda leaf: leaf[chosen], (samples, carry))


def _given(outer: OuterModel, model: PathModel, values: SiteValues) -> OuterModel:
    """The model with every latent outside the path at its draw."""
    parameters = {name: value for name, value in values.items() if name not in model.sites}
    return outer._replace(model=handlers.condition(outer.model, parameters))


def _over_draws(one: Callable, key: Array, draws: PyTree[Array]) -> dict[str, Array]:
    num = jax.tree.leaves(draws)[0].shape[0]
    return jax.jit(jax.vmap(one))(random.split(key, num), draws)


def _future_inputs(
    model: PathModel, outer: OuterModel, draws: PyTree[Array], horizon: int, xs: PyTree[Array]
) -> PyTree[Array]:
    """Inputs of the scan beyond its end: those given, zeros where the body does without."""
    if not isinstance(model, ScanModel):
        if xs is not None:
            raise ValueError("xs are inputs of a scan; the model has a StateSpace. Leave xs out.")
        return None
    one_draw = jax.tree.map(partial(jnp.take, indices=0, axis=0), draws[0])
    call = outer.run(assign_from(one_draw)).call
    own, tree = jax.tree.flatten(call.xs)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(call.xs)]
    given = [None] * len(own)
    if xs is not None:
        given, form = jax.tree.flatten(xs, is_leaf=lambda leaf: leaf is None)
        if form != tree:  # type: ignore[operator]
            raise ValueError(f"xs has the form {form}, but the inputs of the model's scan are {tree}.")
    needed = _needed_inputs(model, outer, one_draw)
    missing = [
        f"xs{name}" for name, leaf, use in zip(names, given, needed, strict=True) if use and leaf is None
    ]
    if missing:
        raise ValueError(
            f"The body of the scan uses the inputs {missing} beyond its observation: give them for the {horizon} steps "
            "to come, forecast(..., xs=...)."
        )
    future = []
    for name, leaf, like in zip(names, given, own, strict=True):
        shape = (horizon, *like.shape[1:])
        if leaf is not None and jnp.shape(leaf) != shape:
            raise ValueError(f"xs{name} has shape {jnp.shape(leaf)}, but {shape} is needed.")
        future.append(jnp.zeros(shape, like.dtype) if leaf is None else jnp.asarray(leaf, like.dtype))
    return jax.tree.unflatten(tree, future)


def _first_carry(ssm: SSM) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes of the carry."""
    return jax.eval_shape(lambda key: ssm.init_carry(ssm.init(key)), random.key(0))


def _warn_of_arguments_that_end(
    model: PathModel, outer: OuterModel, draws: PyTree[Array], horizon: int, inputs: PyTree[Array]
) -> None:
    """A step to come that reads `X[t]` beyond the end of X gets its last row again, without a word from JAX."""
    one_draw = jax.tree.map(partial(jnp.take, indices=0, axis=0), draws[0])
    needed = model.length + model.offset + horizon
    leaves, tree = jax.tree.flatten((outer.args, outer.kwargs))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path((outer.args, outer.kwargs))]
    by_time = [k for k, leaf in enumerate(leaves) if np.ndim(leaf) and model.length <= len(leaf) < needed]
    at_end = jax.tree.map(lambda leaf: leaf[0], inputs)
    first = _first_carry(model.ssm(_given(outer, model, one_draw)))
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def step(chosen):
        values = list(leaves)
        for k, leaf in zip(by_time, chosen, strict=True):
            values[k] = leaf
        args, kwargs = jax.tree.unflatten(tree, values)
        at_parameters = _given(outer._replace(args=args, kwargs=kwargs), model, one_draw)
        return model.simulator(at_parameters)(random.key(0), carry, jnp.array(1), at_end, {})

    matrix, _, _ = dependence(step, [jnp.asarray(leaves[k]) for k in by_time])
    for k, read in zip(by_time, matrix.any(0), strict=True):
        if read:
            name = jax.tree_util.keystr(paths[k][1:], simple=True, separator=".")
            warnings.warn(
                f"The steps to come use the argument {name} of the model, which has {len(leaves[k])} rows. If it is "
                f"indexed by time, its last row stands for all that are missing: fit with at least {needed} rows.",
                stacklevel=3,
            )


def _needed_inputs(model: ScanModel, outer: OuterModel, values: SiteValues) -> list[bool]:
    """Which leaves of the inputs of a step reach anything but the value of an observation."""
    call = outer.run(assign_from(values)).call
    simulate = model.simulator(outer)

    def step(inputs, carry):
        return simulate(random.key(0), carry, jnp.array(1), inputs, {})

    first = jax.tree.map(lambda leaf: leaf[0], call.xs)
    matrix, shapes, (columns, _) = dependence(step, first, call.init)
    rows = jax.tree.leaves(rows_of(shapes))
    return [bool(matrix[rows, column].any()) for column in jax.tree.leaves(columns)]
