"""The start of a path, as a function of standard normals, so that a filter finds it like any other noise.

x_0 = m + C z   for a normal;   x_0 = F^-1(Phi(z))   for what has a quantile function F^-1;   z ~ N(0, I)    (1)
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpyro.distributions.transforms import AffineTransform

from .fractional_inputs import Number

type Start = Number | dist.Distribution


def from_normal(law: dist.Distribution, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Equation (1): standard normals of the shape of a draw to a draw; affine where the law is normal.

    Args:
        law: a normal, a multivariate normal, what transforms make of them, or independent laws with `icdf`.
        z: `law.shape()`, or with more before it.

    Raises:
        NotImplementedError: for any other law.

    Examples:
        >>> from emberwalk.models.fractional_start import from_normal
        >>> float(from_normal(dist.Normal(3.0, 2.0), jnp.array(-1.0)))
        1.0
    """
    if isinstance(law, dist.Independent | dist.ExpandedDistribution):
        return from_normal(law.base_dist, z)
    if isinstance(law, dist.Normal):
        return law.loc + law.scale * z
    if isinstance(law, dist.MultivariateNormal):
        return law.loc + jnp.einsum("...ij,...j->...i", law.scale_tril, z)
    if isinstance(law, dist.TransformedDistribution):
        x = from_normal(law.base_dist, z)
        for transform in law.transforms:
            x = transform(x)
        return x
    if law.event_dim or law.is_discrete:
        raise NotImplementedError(
            f"{type(law).__name__} is no function of standard normals that is known here."
        )
    # Phi is 1 from 5.4 on in float32, where a quantile may be infinite
    eps = jnp.finfo(z.dtype).eps
    return law.icdf(jnp.clip(ndtr(z), eps, 1 - eps))


def is_affine(law: dist.Distribution) -> bool:
    """Whether equation (1) is known to be a linear one: of normals, and what is affine in them."""
    if isinstance(law, dist.Independent | dist.ExpandedDistribution):
        return is_affine(law.base_dist)
    if isinstance(law, dist.TransformedDistribution):
        affine = all(isinstance(transform, AffineTransform) for transform in law.transforms)
        return affine and is_affine(law.base_dist)
    return isinstance(law, dist.Normal | dist.MultivariateNormal)


def state_shape(name: str, y0: Start, batch: tuple[int, ...]) -> tuple[int, ...]:
    """() for a scalar state, (d,) for several, whatever the plate.

    Raises:
        ValueError: for a start of another shape, or a law that equation (1) does not reach.
    """
    if isinstance(y0, dist.Distribution):
        shape = y0.shape()
        lead, state = (y0.batch_shape, y0.event_shape) if batch else ((), shape)
        fits = _broadcasts(lead, batch)
    else:
        shape = jnp.shape(y0)
        lead, state = (shape[: len(batch)], shape[len(batch) :]) if shape else ((), ())
        fits = not shape or lead == batch
    if not fits or len(state) > 1:
        raise ValueError(
            f"{name}: y0 has shape {shape}, expected {batch} for a scalar state or {(*batch, 'd')} for d of them"
            + (", or () for all of the plate alike." if batch else ".")
        )
    if isinstance(y0, dist.Distribution):
        _check_law(name, y0, batch + state)
    return state


def _broadcasts(lead: tuple[int, ...], batch: tuple[int, ...]) -> bool:
    try:
        return jnp.broadcast_shapes(lead, batch) == batch
    except ValueError:
        return False


def _check_law(name: str, law: dist.Distribution, shape: tuple[int, ...]) -> None:
    z = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    try:
        found = jax.eval_shape(lambda z: jnp.asarray(from_normal(law, z)), z).shape
    except NotImplementedError:
        found = None
    if found != shape:
        raise ValueError(
            f"{name}: y0 is a {type(law).__name__}, which is no function of standard normals that is known here. "
            "Take a Normal, a MultivariateNormal, transforms of them, or laws with an icdf; or sample y0 before "
            "and pass the value."
        )
