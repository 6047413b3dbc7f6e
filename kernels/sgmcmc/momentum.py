"""What algorithms with a momentum share: its first draw, its temperature, a mass that changes in warm-up."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .base import SGAlgorithm, SGState, normal_like
from .precondition import Kind, check_kind, mass, ones


@dataclass(frozen=True)
class Underdamped(SGAlgorithm):
    """An algorithm on position and momentum.

    Args:
        step_size: see `SGAlgorithm`.
        friction: per unit of time; what counts is `step_size` times it.
        mass: "identity", "layerwise" or "diagonal" (`precondition.py`).
    """

    friction: float = 1.0
    mass: Kind = "identity"

    underdamped: ClassVar[bool] = True

    @property
    def preconditioned(self):
        """See `SGAlgorithm`."""
        return self.mass != "identity"

    def __post_init__(self):
        super().__post_init__()
        check_kind("mass", self.mass)
        if not 0 < self.friction < float("inf"):
            raise ValueError(f"friction must be positive and finite, got {self.friction!r}.")

    def init(self, rng_key, position, temperature):
        """See `SGAlgorithm`: p ~ N(0, T M)."""
        masses = ones(self.mass, position)
        momentum = jax.tree.map(
            lambda m, xi: jnp.sqrt(temperature * m).astype(xi.dtype) * xi,
            masses,
            normal_like(rng_key, position),
        )
        return SGState(position, momentum, self.extra(), masses, jnp.zeros((), jnp.int32))

    def extra(self) -> Any:
        """What the algorithm carries beside position and momentum, at first."""
        return None

    def adapt(self, state, second_moment):
        """See `SGAlgorithm`; the momentum is scaled with the root of the mass, so that p' M^-1 p stays."""
        masses = mass(self.mass, second_moment)
        momentum = jax.tree.map(
            lambda p, new, old: p * jnp.sqrt(new / old), state.momentum, masses, state.precond
        )
        return state._replace(momentum=momentum, precond=masses)


def kick(momentum: Any, gradient: Any, h: Array) -> Any:
    """p - h g."""
    return jax.tree.map(lambda p, g: (p - h * g).astype(p.dtype), momentum, gradient)


def drift(position: Any, momentum: Any, masses: Any, h: Array) -> Any:
    """q + h p / M."""
    return jax.tree.map(lambda q, p, m: (q + h * p / m).astype(q.dtype), position, momentum, masses)


def ornstein_uhlenbeck(rng_key: Array, momentum: Any, masses: Any, keep: Array, variance: Array) -> Any:
    """c p + sqrt(v M) xi."""
    return jax.tree.map(
        lambda p, m, xi: (keep * p + jnp.sqrt(variance * m) * xi).astype(p.dtype),
        momentum, masses, normal_like(rng_key, momentum),
    )  # fmt: skip
