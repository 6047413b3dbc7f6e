"""The law of what is seen, for each state it may come from: labels that may be wrong, or any log densities.

    E_iy = p(label y | state i),   e_l = E_.y_l of the label y_l at l,   or exp(log e_l)                   (1)

A likelihood takes e over its largest at each point, so that nothing underflows; the logarithms of these are added in
the end. A point that was not seen has e = 1.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

type Emissions = Float[Array, "K L n"]
type Mask = Bool[ArrayLike, "K L"] | None


class ScaledEmission(NamedTuple):
    """e of all paths, time first, each point's on a scale at which nothing underflows; see `scaled_emission`.

    Attributes:
        densities: e over its largest, `[L, K, n]`; 1 where nothing was seen.
        log_scale: the logarithms of what was taken out, summed over each path, `[K]`.
    """

    densities: Float[Array, "L K n"]
    log_scale: Float[Array, " K"]


def confusion_matrix(label_noise: ArrayLike | Array, num_states: int) -> Float[Array, "n n"]:
    """E: row i is the law of the labels of state i.

    Args:
        label_noise: rho, the probability that a label is wrong, uniform over the n - 1 others; or E itself. (Where
            a label is replaced by any of the n, itself among them, with probability p, rho = p (n - 1) / n.)
        num_states: n.

    Examples:
        >>> from emberwalk.kernels.jump import confusion_matrix
        >>> confusion_matrix(0.5, 3).tolist()
        [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
    """
    noise = jnp.asarray(label_noise, float) if not hasattr(label_noise, "dtype") else jnp.asarray(label_noise)
    return noise if noise.ndim == 2 else _uniform(noise, num_states)


@partial(jax.jit, static_argnames="num_states")
def _uniform(noise: Float[Array, ""], num_states: int) -> Float[Array, "n n"]:
    return jnp.where(jnp.eye(num_states, dtype=bool), 1 - noise, noise / (num_states - 1))


def label_log_emission(
    states: Int[ArrayLike, "*paths L"], label_noise: ArrayLike | Array | None, num_states: int
) -> Float[Array, "*paths L n"]:
    """log e: log probability of each label, for each state that it may come from.

    Args:
        states: labels `[..., L]`; what stands where a mask is False does not matter.
        label_noise: None for labels that are right; rho or E of `confusion_matrix`.
        num_states: n.

    Returns:
        `[..., L, n]`, -inf where a label cannot be.

    Examples:
        >>> from emberwalk.kernels.jump import label_log_emission
        >>> jnp.exp(label_log_emission(jnp.array([0, 1]), 0.25, 2)).tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    confusion = jnp.eye(num_states) if label_noise is None else confusion_matrix(label_noise, num_states)
    return _look_up(confusion, jnp.asarray(states))


@jax.jit
def _look_up(confusion: Float[Array, "n n"], states: Int[Array, "*paths L"]) -> Float[Array, "*paths L n"]:
    return jnp.log(confusion).T[jnp.clip(states, 0, confusion.shape[-1] - 1)]


def masked(log_emission: Emissions, mask: Mask) -> Emissions:
    """1 where nothing was seen."""
    return log_emission if mask is None else jnp.where(jnp.asarray(mask)[..., None], log_emission, 0)


def by_time(log_emission: Emissions) -> tuple[Float[Array, "L K n"], Float[Array, "L K"]]:
    """Time first: e of each point over its largest, and the logarithm of that."""
    log_emission = jnp.moveaxis(log_emission, 1, 0)
    largest = lax.stop_gradient(log_emission.max(-1))
    # a point that no state explains, or that some state explains infinitely well, is seen in the likelihood
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return jnp.exp(log_emission - largest[..., None]), largest


@jax.jit
def scaled_emission(log_emission: Emissions, mask: Mask = None) -> ScaledEmission:
    """What `path_log_likelihood` takes, of any emission.

    Args:
        log_emission: log e `[K, L, n]`, of any scale.
        mask: True where a point was seen `[K, L]`.

    Examples:
        >>> from emberwalk.kernels.jump import scaled_emission
        >>> scaled_emission(jnp.log(jnp.array([[[0.5, 0.25]]]))).densities.tolist()
        [[[1.0, 0.5]]]
    """
    densities, largest = by_time(masked(log_emission, mask))
    return ScaledEmission(densities, largest.sum(0))


@jax.jit
def scaled_labels(
    states: Int[ArrayLike, "K L"], confusion: Float[Array, "*K n n"], mask: Mask = None
) -> ScaledEmission:
    """The same of labels, without a logarithm and an exponential of each point.

    Args:
        states: labels `[K, L]`.
        confusion: E of `confusion_matrix`, `[n, n]`, or `[K, n, n]` where each path has its own.
        mask: True where a label was seen `[K, L]`.

    Examples:
        >>> from emberwalk.kernels.jump import confusion_matrix, scaled_labels
        >>> scaled_labels(jnp.array([[0, 1]]), confusion_matrix(0.2, 2)).densities.tolist()
        [[[1.0, 0.25]], [[0.25, 1.0]]]
    """
    law = jnp.swapaxes(confusion, -1, -2)
    law = jnp.maximum(law, jnp.finfo(law.dtype).tiny)
    largest = lax.stop_gradient(law.max(-1, keepdims=True))
    # a product, whose derivative in E is one as well: that of a look-up scatters
    seen = jax.nn.one_hot(jnp.asarray(states).T, law.shape[-1], dtype=law.dtype)
    if mask is not None:
        seen = jnp.where(jnp.asarray(mask).T[..., None], seen, 0)
    of_label = "lky,yi->lki" if law.ndim == 2 else "lky,kyi->lki"
    densities = jnp.einsum(of_label, seen, law / largest)
    if mask is not None:
        densities = jnp.where(jnp.asarray(mask).T[..., None], densities, 1)
    return ScaledEmission(densities, (seen.sum(0) * jnp.log(largest[..., 0])).sum(-1))
