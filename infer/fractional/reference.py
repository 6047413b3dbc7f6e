"""The filter's gains for an equation that need not be linear: a path to linearise it about, then its own centre.

    z, e  a reference path;   (M, c, L) = tangent of the solver's step there;   gains by the filter       (1)
    z, e <- the centre of the guide (no noise beyond its mean), and again                                 (2)

The first reference goes straight from one site's mean h / J to the next, where those are data: a site that was made
of another likelihood may say no more than "lower", with a mean far out. There it is the path without noise. A linear
equation with quadratic sites needs no more than one pass, anywhere. A start that is not normal is linearised where it
is most probable given the sites, after each filter (`start.py`). References have no derivative: the parameters have
theirs through the tangent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...kernels.fractional import Gains, Information, Linear, Sites, backward, driven
from ...models.fractional import FractionalSDE
from .model_runs import no_noise
from .sites import Factors
from .start import most_probable_start

type FactorsAt = Callable[[Float[Array, "*B M+1 d"]], Factors]

_SEEN = 1e-12  # less precision than this is none


def gains_of(
    equation: FractionalSDE,
    factors_at: FactorsAt,
    passes: int,
    *,
    through_sites: bool = True,
    checkpoint: bool = False,
) -> tuple[Gains, Factors]:
    """Equations (1) and (2).

    Args:
        equation: of the path.
        factors_at: x at ts, `[*B, M + 1, d]` -> factors there.
        passes: how often (2) is done.
        through_sites: whether the first reference goes through the means of the sites.
        checkpoint: see `backward`.

    Returns:
        Gains, the axes of the plates first in `start` and behind time in `steps`; and the last factors.
    """
    b, e = no_noise(equation)
    x = equation.path(b, e)
    if passes and through_sites:
        x = lax.stop_gradient(between_sites(equation, factors_at(at_outputs(equation, x)), x))
    z = jnp.concatenate(
        [x, jnp.zeros((*x.shape[:-1], equation.start(b).shape[-1] - x.shape[-1]), x.dtype)], -1
    )
    for number in range(passes + 1):
        factors = factors_at(at_outputs(equation, z[..., : x.shape[-1]]))
        gains = _filtered(equation, z, e, factors, checkpoint)
        if number < passes:
            z, e = lax.stop_gradient(centre(equation, gains))
    return gains, factors


def centre(equation: FractionalSDE, gains: Gains) -> tuple[Float[Array, "N+1 *B n"], Float[Array, "N *B Pr"]]:
    """(z, e) of the guide without noise beyond its mean."""
    zeros = jnp.zeros_like(gains.start.m), jnp.zeros_like(gains.steps.m)
    draw = driven(*zeros, gains, equation.start, equation.step, equation.inputs)
    return draw.z, draw.e


def at_outputs(equation: FractionalSDE, x: Float[Array, "N+1 *B d"]) -> Float[Array, "*B M+1 d"]:
    """A path of the solver's grid, at ts."""
    return jnp.moveaxis(x[equation.state.grid.outputs], 0, -2)


def between_sites(
    equation: FractionalSDE, factors: Factors, x: Float[Array, "N+1 *B d"]
) -> Float[Array, "N+1 *B d"]:
    """Straight lines between the means of the sites; `x` where a coordinate has none."""
    grid = equation.state.grid
    mean, seen = site_means(factors)
    ts, fine = jnp.asarray(grid.ts, x.dtype), jnp.asarray(grid.fine, x.dtype)

    def line(mean: Float[Array, " M+1"], seen: Bool[Array, " M+1"], x: Float[Array, " N+1"]):
        before, after = neighbours(seen)
        has_before, has_after = before >= 0, after < len(ts)
        left = jnp.where(has_before, before, jnp.minimum(after, len(ts) - 1))
        right = jnp.where(has_after, after, jnp.maximum(left, 0))
        left = jnp.where(has_before, left, right)
        width = jnp.maximum(ts[right] - ts[left], jnp.finfo(x.dtype).tiny)
        share = jnp.where(right > left, (ts - ts[left]) / width, 0.0)
        at_ts = mean[left] + share * (mean[right] - mean[left])
        return jnp.where(seen.any(), jnp.interp(fine, ts, at_ts), x)

    each = line
    for _ in range(mean.ndim - 2):
        each = jax.vmap(each, (0, 0, 1), 1)
    return jax.vmap(each, (-1, -1, -1), -1)(mean, seen, x)


def site_means(factors: Factors) -> tuple[Float[Array, "*B M+1 d"], Bool[Array, "*B M+1 d"]]:
    """h / J of each coordinate, and where there is one."""
    precision = jnp.diagonal(factors.J, axis1=-2, axis2=-1)
    seen = precision > _SEEN
    return jnp.where(seen, factors.h / jnp.where(seen, precision, 1.0), 0.0), seen


def neighbours(seen: Bool[Array, " M"]) -> tuple[Int[Array, " M"], Int[Array, " M"]]:
    """The last seen index up to each, -1 for none; and the first from it on, M for none."""
    index = jnp.arange(len(seen))
    before = lax.cummax(jnp.where(seen, index, -1))
    after = lax.cummin(jnp.where(seen, index, len(seen)), reverse=True)
    return before, after


def _filtered(equation: FractionalSDE, z: Array, e: Array, factors: Factors, checkpoint: bool) -> Gains:
    def one(linear, sites):
        return backward(linear, sites, checkpoint=checkpoint)

    gains = _mapped(one, equation)(equation.linear(z, e), factors.on(equation))
    return gains if equation.has_linear_start else _with_start(equation, gains)


def _with_start(equation: FractionalSDE, gains: Gains) -> Gains:
    """The law of b linearised where b is most probable: what all sites say of z_0 does not depend on it."""
    b = lax.stop_gradient(most_probable_start(equation, gains.info))
    r = gains.steps.m.shape[-1]
    mean, factor = equation.linear_start(b)

    def one(info: Information, mean: Array, factor: Array) -> Gains:
        # a filter of no step, its one site on all of z_0
        size = len(mean)
        nothing = (jnp.zeros((0, size, size)), jnp.zeros((0, size)), jnp.zeros((0, size, r)))
        return backward(Linear(*nothing, mean, factor), Sites(info.v[None], info.P[None]))

    found = _mapped(one, equation)(gains.info, mean, factor)
    return gains._replace(start=found.start, log_evidence=gains.info.k + found.log_evidence)


def _mapped(one: Callable[..., Gains], equation: FractionalSDE) -> Callable[..., Gains]:
    for _ in equation.state.batch:
        one = jax.vmap(one, out_axes=Gains(0, 1, 0, 0))  # type: ignore[arg-type]
    return one
