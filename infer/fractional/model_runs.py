"""A model with one `fractional_sde`, run for its equation, or for what it says of a given path.

A guide runs the user's model inside its own call. The other latents and the params have the values of the guide; the
equation is taken over (`models/fractional.py`), so that nothing of the path is sampled.

What a reader would get wrong: params must reach the outer handlers. Hidden with the rest they would keep their initial
values without an error, and the guide would be fitted to another model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.util import log_density

from ...models.fractional import FractionalSDE, taken_over

type Model = Callable[..., Any]
type Values = dict[str, Any]

_EXPOSED = ("param", "mutable")


@dataclass(frozen=True)
class NoOtherLatent:
    """Whether a message is of one of these sites, or of a param; a class, so that guides which hold it pickle.

    A guide keeps the trace of its model. A network's param has a function without a name in there, which no pickle
    takes; of the latents the params say nothing that a guide would keep.
    """

    sites: frozenset[str]

    def __call__(self, message: dict[str, Any]) -> bool:
        return message["type"] in _EXPOSED or message.get("name") in self.sites


@dataclass(frozen=True)
class WithoutNoise:
    """The model with its path undisturbed: what a guide of the other latents looks at; a class, as above."""

    model: Model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with taken_over(_undisturbed):
            return self.model(*args, **kwargs)


class Reading(NamedTuple):
    """One run of the model.

    Attributes:
        equation: what its `fractional_sde` is, at these values.
        values: of the other latents, and of the params.
        trace: all sites.
    """

    equation: FractionalSDE
    values: Values
    trace: dict[str, Any]


def path_sites(name: str) -> frozenset[str]:
    """Everything that `fractional_sde` may write."""
    return frozenset({name, *(f"{name}_{part}" for part in ("init", "bank", "noise", "path"))})


def read_model(model: Model, key: Any, others: Values, args: tuple, kwargs: dict[str, Any]) -> Reading:
    """The equation at values of the other latents; without a value a latent is drawn from its prior.

    Raises:
        ValueError: for a model without `fractional_sde`, or with a site of a name that it uses.
        NotImplementedError: for two of them.
    """
    found: list[FractionalSDE] = []

    def hook(equation: FractionalSDE) -> Array:
        found.append(equation)
        return _undisturbed(equation)

    hidden = handlers.block(hide_fn=_is_hidden)
    seeded = handlers.seed(handlers.substitute(model, data=others), key)
    with taken_over(hook), hidden, handlers.trace() as trace:
        seeded(*args, **kwargs)
    equation = _the_one(found, trace)
    params = {name: site["value"] for name, site in trace.items() if site["type"] in _EXPOSED}
    return Reading(equation, {**others, **params}, trace)


def log_density_of_path(
    model: Model, values: Values, args: tuple, kwargs: dict[str, Any]
) -> Callable[[Float[Array, "..."]], Float[Array, ""]]:
    """x at ts, as `fractional_sde` returns it -> log density of all other sites; terms without x are in it."""

    def log_prob(x: Float[Array, "..."]) -> Float[Array, ""]:
        seeded = handlers.seed(handlers.substitute(model, data=values), random.key(0))
        with taken_over(lambda equation: x), handlers.block():
            return jnp.sum(log_density(seeded, args, kwargs, values)[0])

    return log_prob


def no_noise(equation: FractionalSDE) -> tuple[Float[Array, "*B R"], Float[Array, "N *B Pr"]]:
    """(b, e) of zeros."""
    batch, dtype = equation.state.batch, jnp.result_type(float)
    b = jnp.zeros((*batch, equation.num_start_noises), dtype)
    return b, jnp.zeros((len(equation.state.grid.steps), *batch, equation.num_step_noises), dtype)


def _undisturbed(equation: FractionalSDE) -> Array:
    return equation.record(equation.path(*no_noise(equation)))


def _is_hidden(message: dict[str, Any]) -> bool:
    return message["type"] not in _EXPOSED


def _the_one(found: list[FractionalSDE], trace: dict[str, Any]) -> FractionalSDE:
    if not found:
        raise ValueError(
            "The model has no fractional_sde, and a guide of its path has nothing to do. Any AutoGuide will serve, or "
            "NUTS."
        )
    if len(found) > 1:
        raise NotImplementedError(
            f"The model has the fractional_sde {[equation.name for equation in found]}; a guide takes one. One of "
            "several states and noises covers coupled paths; NUTS takes any number."
        )
    equation = found[0]
    taken = sorted(
        name
        for name in path_sites(equation.name)
        if name in trace and trace[name]["type"] not in ("deterministic",)
    )
    if taken:
        raise ValueError(
            f"The site {taken[0]!r} has a name that fractional_sde({equation.name!r}) uses. Rename it."
        )
    return equation


def is_concrete(tree: Any) -> bool:
    """Whether no leaf is traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
