"""A user's proposal: particles drawn from q_t(. | c_{t-1}) instead of the transition.

    x_t ~ q_t(. | c_{t-1});   w_t = g_t m_t / q_t                                               (1)

Exact for every q that reaches wherever m g does (Andrieu, Doucet and Holenstein 2010); worth its
cost where the observation says much more than the transition.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints

from ...kernels.smc import SSM, with_proposal
from ...kernels.smc.forward import one_latent
from .capture import OuterModel
from .functionals import pickles
from .path_model import PathModel

type Proposal = Callable[[Any, Array], Mapping[str, Distribution]]


def check_proposal(proposal: Any, model: Callable) -> None:
    """Refuse what is no function; warn of one that keeps a kernel on `model` from being pickled."""
    if proposal is None:
        return
    if not callable(proposal):
        raise ValueError(f"proposal must be a function of (carry, t), got {proposal!r}.")
    if not pickles(proposal) and pickles(model):
        warnings.warn(
            "proposal is a lambda or local function: the kernel cannot be pickled (chains in processes of their "
            "own, copies on disk). Define it at the top of a module.",
            stacklevel=4,
        )


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
        if not _alike(law.support, own[name].support):
            raise ValueError(
                f"proposal(carry, t) gives site {name!r} the support {law.support}, but its law in the model has "
                f"{own[name].support}: states that the proposal never reaches would be lost."
            )


def _alike(one: constraints.Constraint, other: constraints.Constraint) -> bool:
    """Whether two supports are the same, as far as their bounds are known while the model is traced."""
    one, other = (_without_axes(support) for support in (one, other))
    ends = [[getattr(s, end, None) for end in ("lower_bound", "upper_bound")] for s in (one, other)]
    if all(end is None for end in (*ends[0], *ends[1])):
        return type(one) is type(other)
    return one.is_discrete == other.is_discrete and all(map(_may_be_equal, *ends))


def _without_axes(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _may_be_equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return True
    return bool(np.all(np.asarray(one) == np.asarray(other)))
