"""A user's proposal: particles drawn from q_t(. | c_{t-1}) instead of the transition.

    x_t ~ q_t(. | c_{t-1});   w_t = g_t m_t / q_t                                               (1)

Exact for every q that reaches wherever m g does (Andrieu, Doucet and Holenstein 2010); worth its
cost where the observation says much more than the transition.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints

from ...kernels.smc import SSM, with_proposal
from ...kernels.smc.forward import one_latent
from .capture import OuterModel
from .path_model import PathModel

type Proposal = Callable[[Any, Array], Mapping[str, Distribution]]


def guided(ssm: SSM, proposal: Proposal, model: PathModel, outer: OuterModel) -> SSM:
    """The model with particles from `proposal(carry, t)`, equation (1).

    `t` counts along the time axis of the path site; the first state of a `StateSpace` is not proposed.

    Raises:
        ValueError: where a path site is left out, or its law has another shape or support.
    """
    shapes = model.sites_of(one_latent(ssm))
    structure = jax.tree.structure(one_latent(ssm))

    def laws(carry, t):
        return proposal(carry, t - 1 + model.offset)

    def check(key):
        carry, t = ssm.init_carry(ssm.init(key)), jnp.array(1)
        own = model.transition_laws(outer, carry, t)
        _check(laws(carry, t), own, {name: jnp.shape(x) for name, x in shapes.items()})

    jax.eval_shape(check, random.key(0))

    def sample(key, carry, t):
        given = laws(carry, t)
        keys = random.split(key, len(shapes))
        drawn = [
            jnp.asarray(given[name].sample(own), shapes[name].dtype)
            for name, own in zip(sorted(shapes), keys, strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)

    def log_prob(carry, latents, t):
        given, values = laws(carry, t), model.sites_of(latents)
        return sum(jnp.sum(given[name].log_prob(values[name])) for name in shapes)

    return with_proposal(ssm, sample, log_prob)


def _check(given: Any, own: Mapping[str, Distribution], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not isinstance(given, Mapping) or set(given) != set(own):
        seen = list(given) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"proposal(carry, t) must return a dictionary with a Distribution for each of {list(own)}, got {seen}."
        )
    for name, law in given.items():
        if not isinstance(law, Distribution):
            raise ValueError(
                f"proposal(carry, t) gives site {name!r} a {type(law).__name__}; write a Distribution."
            )
        if law.shape() != shapes[name]:
            raise ValueError(
                f"proposal(carry, t) gives site {name!r} a law of shape {law.shape()}, but the site has {shapes[name]}."
            )
        if _kind(law.support) != _kind(own[name].support):
            raise ValueError(
                f"proposal(carry, t) gives site {name!r} the support {law.support}, but its law in the model has "
                f"{own[name].support}: states that the proposal never reaches would be lost."
            )


def _kind(support: constraints.Constraint) -> type:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return type(support)
