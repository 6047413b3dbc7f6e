"""Latents as standardised noise: x = loc + scale z, for the laws that allow it.

    x = T(loc + scale z),   log |dx/dz| = log |scale| + log |T'|                                 (1)

scale is a number or the Cholesky factor of a matrix, T the transforms of a
`TransformedDistribution`. z has the standard law of its class whatever loc and scale are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.distributions import biject_to

SCALAR_CLASSES = (
    dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel, dist.SoftLaplace,
)  # fmt: skip
VECTOR_CLASSES = (dist.MultivariateNormal, dist.MultivariateStudentT)
WRAPPERS = ("Independent", "ExpandedDistribution", "MaskedDistribution", "TransformedDistribution")


class NoiseMap(NamedTuple):
    """Equation (1) for one law.

    Attributes:
        to_value: z -> x.
        to_noise: x -> z.
        log_det: z -> log |dx/dz|, one number an element of the batch; 0 where masked.
    """

    to_value: Callable[[Array], Array]
    to_noise: Callable[[Array], Array]
    log_det: Callable[[Array], Float[Array, "..."]]


def noise_map(law: dist.Distribution) -> NoiseMap | None:
    """The map of equation (1), or None where the law has no location and scale."""
    if type(law) in SCALAR_CLASSES:
        return _scalar(law.loc, law.scale, law.batch_shape)
    if type(law) in VECTOR_CLASSES:
        return _vector(law.loc, law.scale_tril, law.batch_shape)
    if isinstance(law, dist.Independent):
        inner = noise_map(law.base_dist)
        return inner and inner._replace(log_det=_summed(inner.log_det, law.reinterpreted_batch_ndims))
    if isinstance(law, dist.ExpandedDistribution):
        inner = noise_map(law.base_dist)
        return inner and inner._replace(log_det=_broadcast(inner.log_det, law.batch_shape))
    if isinstance(law, dist.MaskedDistribution):
        inner = noise_map(law.base_dist)
        return inner and inner._replace(log_det=_masked(inner.log_det, law._mask))
    if isinstance(law, dist.TransformedDistribution):
        inner = noise_map(law.base_dist)
        return inner and _transformed(inner, law)
    return None


def required_noise_map(law: dist.Distribution) -> NoiseMap:
    """`noise_map` of a law that is known to have one."""
    found = noise_map(law)
    assert found is not None
    return found


def unconstrained_map(law: dist.Distribution) -> NoiseMap:
    """x through the bijection of its support, for a law without location and scale; a `Delta` stays put."""
    base = law.base_dist if isinstance(law, dist.Independent) else law
    if isinstance(base, dist.Delta):
        return NoiseMap(lambda z: base.v + 0 * z, jnp.zeros_like, lambda z: jnp.zeros(law.batch_shape))
    bijection = biject_to(law.support)
    return NoiseMap(bijection, bijection._inverse, lambda z: bijection.log_abs_det_jacobian(z, bijection(z)))


def allowed_classes() -> str:
    """The laws that `noise_map` knows, for an error message."""
    names = [cls.__name__ for cls in (*SCALAR_CLASSES, dist.LogNormal, *VECTOR_CLASSES)]
    return f"{', '.join(names)}, also inside {', '.join(WRAPPERS)}"


def _scalar(loc, scale, batch_shape) -> NoiseMap:
    return NoiseMap(
        lambda z: loc + scale * z,
        lambda x: (x - loc) / scale,
        lambda z: jnp.broadcast_to(jnp.log(scale), batch_shape),
    )


def _vector(loc, scale_tril, batch_shape) -> NoiseMap:
    def to_noise(x):
        centred = x - loc
        factor = jnp.broadcast_to(scale_tril, (*centred.shape[:-1], *scale_tril.shape[-2:]))
        return solve_triangular(factor, centred[..., None], lower=True)[..., 0]

    def log_det(z):
        diagonal = jnp.diagonal(scale_tril, axis1=-2, axis2=-1)
        return jnp.broadcast_to(jnp.log(diagonal).sum(-1), batch_shape)

    return NoiseMap(lambda z: loc + (scale_tril @ z[..., None])[..., 0], to_noise, log_det)


def _transformed(inner: NoiseMap, law: dist.TransformedDistribution) -> NoiseMap:
    def to_value(z):
        x = inner.to_value(z)
        for transform in law.transforms:
            x = transform(x)
        return x

    def to_noise(x):
        for transform in reversed(law.transforms):
            x = transform._inverse(x)
        return inner.to_noise(x)

    def log_det(z):
        x, ndim = inner.to_value(z), len(law.batch_shape)
        total = _sum_to(inner.log_det(z), ndim)
        for transform in law.transforms:
            after = transform(x)
            total = total + _sum_to(transform.log_abs_det_jacobian(x, after), ndim)
            x = after
        return jnp.broadcast_to(total, law.batch_shape)

    return NoiseMap(to_value, to_noise, log_det)


def _summed(log_det, ndim: int):
    return lambda z: (values := log_det(z)).sum(tuple(range(values.ndim - ndim, values.ndim)))


def _broadcast(log_det, batch_shape):
    return lambda z: jnp.broadcast_to(log_det(z), batch_shape)


def _masked(log_det, mask):
    # a masked element has no density of its own, so that nothing is to be divided out of it
    return lambda z: jnp.where(mask, log_det(z), 0.0)


def _sum_to(values, ndim: int):
    return values.sum(tuple(range(ndim, values.ndim)))
