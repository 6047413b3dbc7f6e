"""The innovations move on a NumPyro model: parameters and path together, by their noise.

    (theta, x) -> (theta, z) -> HMC -> (theta', z') -> (theta', x' = x(theta', z'))             (1)

The target is that of `kernels/smc/innovations.py`; theta is in NumPyro's unconstrained coordinates,
with the log-determinant of their transforms. Everything outside the scan enters it, what depends on
the start of the path included. Discrete latents stay where they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree
from numpyro.distributions import biject_to

from ...kernels.smc import Path, from_noise, to_noise
from ...kernels.smc.innovations import InnovationsKernel, InnovationsState, path_log_density
from .capture import OuterModel
from .path_model import Opened, PathModel, SiteValues


class InterweaveResult(NamedTuple):
    """One innovations move.

    Attributes:
        theta: unconstrained parameters after it.
        path: path sites after it.
        potential_energy: -log of the joint density at both, as the inner kernel counts it.
        state: of the HMC kernel.
        accept_prob: of the trajectory.
    """

    theta: SiteValues
    path: SiteValues
    potential_energy: Array
    state: InnovationsState
    accept_prob: Array


def interweave(
    key: Array,
    kernel: InnovationsKernel,
    state: InnovationsState,
    num_steps: Int[Array, ""],
    model: PathModel,
    outer: OuterModel,
    theta: SiteValues,
    path: SiteValues,
    *,
    hold_noise: bool = False,
) -> InterweaveResult:
    """Equation (1): `theta` holds the unconstrained parameters, `path` the values of the path sites.

    `num_steps` must not depend on either. With `hold_noise`, theta alone moves (z' = z): ancillarity of
    the noise alone, as Yu and Meng (2011) have it.
    """
    start = model.path_of(path)
    initial_noise = model.initial_noise(outer, _assign(theta)[0], start.initial)
    noise = (initial_noise, to_noise(_open(model, outer, theta, initial_noise).ssm, start))
    moving, put_back = ([], lambda moving: noise) if hold_noise else _split_float(noise)

    def log_density(theta: SiteValues, moving: list[Array]) -> Array:
        made = _make_path(model, outer, theta, put_back(moving))
        return made.log_density + made.log_scale

    theta, moving, state, info = kernel.step(key, state, theta, moving, log_density, num_steps)
    made = _make_path(model, outer, theta, put_back(moving))
    # a refused move must return the path bit for bit, and x(z(x)) is x only up to rounding
    path_after = jax.tree.map(
        lambda new, old: jnp.where(info.accepted, new, old), model.values_of(made.path), path
    )
    return InterweaveResult(theta, path_after, -made.log_density, state, info.accept_prob)


class _Made(NamedTuple):
    """A path made of noise: its log-density in x, and log |dx/dz|."""

    path: Path
    log_density: Array
    log_scale: Array


def _make_path(model: PathModel, outer: OuterModel, theta: SiteValues, noise: PyTree[Array]) -> _Made:
    initial_noise, step_noise = noise
    opened = _open(model, outer, theta, initial_noise)
    path, before, log_scale = from_noise(opened.ssm, opened.initial, step_noise)
    log_density = opened.log_density + path_log_density(opened.ssm, path, before)
    return _Made(path, log_density, opened.log_scale + log_scale)


def _open(model: PathModel, outer: OuterModel, theta: SiteValues, initial_noise) -> Opened:
    assign, log_dets = _assign(theta)
    opened = model.open(outer, assign, initial_noise)
    return opened._replace(log_density=sum(log_dets, start=opened.log_density))


def _assign(theta: SiteValues) -> tuple[Callable[[dict[str, Any]], Array | None], list[Array]]:
    """`assign` for unconstrained parameters, and the list that its log-determinants go to."""
    log_dets: list[Array] = []

    def assign(msg):
        if msg["name"] not in theta:
            return None
        bijection = biject_to(msg["fn"].support)
        unconstrained = theta[msg["name"]]
        value = bijection(unconstrained)
        log_dets.append(jnp.sum(bijection.log_abs_det_jacobian(unconstrained, value)))
        return value

    return assign, log_dets


def _split_float(tree: PyTree[Array]) -> tuple[list[Array], Callable[[list[Array]], PyTree[Array]]]:
    """The float leaves of a tree, and how to put them back among the others."""
    leaves, structure = jax.tree.flatten(tree)
    moves = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def put_back(moving: list[Array]) -> PyTree[Array]:
        new = iter(moving)
        return jax.tree.unflatten(
            structure, [next(new) if m else leaf for m, leaf in zip(moves, leaves, strict=True)]
        )

    return [leaf for leaf, m in zip(leaves, moves, strict=True) if m], put_back
