"""Mean and variance of a path at every time, kept while sampling: what is left of a path too long to store.

    n' = n + 1;   mean' = mean + (x - mean) / n';   m2' = m2 + (x - mean) (x - mean')          (1)

Welford (1962): numerically stable, one pass.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .path_model import SiteValues


class PathMoments(NamedTuple):
    """Running moments of every path site.

    Attributes:
        num_draws: n, draws after warm-up.
        mean: of each site, in its shape.
        m2: sums of squared deviations; m2 / (n - 1) is the variance.
    """

    num_draws: Int[Array, ""]
    mean: SiteValues
    m2: SiteValues


def no_moments(path: SiteValues) -> PathMoments:
    """Moments of no draw."""

    def zeros(leaf: Array) -> Float[Array, "..."]:
        return jnp.zeros(leaf.shape, jnp.result_type(leaf, float))

    nothing = jax.tree.map(zeros, path)
    return PathMoments(jnp.zeros((), jnp.int32), nothing, nothing)


def add_draw(moments: PathMoments, path: SiteValues, counted: Bool[Array, ""]) -> PathMoments:
    """Equation (1), where `counted` is true."""
    num = moments.num_draws + counted
    mean = jax.tree.map(lambda m, x: m + counted * (x - m) / jnp.maximum(num, 1), moments.mean, path)
    m2 = jax.tree.map(
        lambda s, x, before, after: s + counted * (x - before) * (x - after),
        moments.m2, path, moments.mean, mean,
    )  # fmt: skip
    return PathMoments(num, mean, m2)
