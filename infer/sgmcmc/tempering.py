"""What a temperature is applied to: the sites of a model in three classes, each with a weight.

    U_prior = -sum log p(latent sites),   U_lik = -sum log p(observed sites),   J = sum log |dt/dz|
    "posterior"    U_T(z) = U_prior + U_lik - T J,      so that x has the density p(x, y)^(1/T)      (1)
    "likelihood"   U_T(z) = T (U_prior - J) + U_lik,    so that x has p(x) p(y | x)^(1/T)            (2)

A sampler whose noise has a variance proportional to T follows grad U_T and nothing else divides by T. The
constrained density is what is tempered, and the Jacobian J of its transforms never: raised to 1/T with
the rest, the answer would depend on how a support is mapped to the line. Wenzel and others (2020) for (1);
(2) is the tempered likelihood of Bayesian practice.

What a reader would get wrong: NumPyro adds the Jacobian as an *observed factor*, under a name that depends on
the scopes around it. It is told apart by not being there when the model is run on constrained values.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jax import random
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro import handlers
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import _transforms_from_trace, _unconstrain_params, transform_fn
from numpyro.primitives import Messenger

type SiteClass = Literal["prior", "likelihood", "jacobian"]
type Tempering = Literal["posterior", "likelihood"]
type Factors = Literal["likelihood", "prior"]

CLASSES: tuple[SiteClass, ...] = ("prior", "likelihood", "jacobian")


class temper(Messenger):
    """A model each of whose log densities is multiplied by the weight of its class.

    Args:
        fn: the model.
        weights: of each class, scalars.
        classes: of each sample site, as `site_classes` finds them.
    """

    def __init__(
        self, fn: Callable, weights: Mapping[SiteClass, ArrayLike], classes: Mapping[str, SiteClass]
    ):
        super().__init__(fn)
        self.weights, self.classes = weights, classes

    def process_message(self, msg: dict) -> None:
        """Scales a sample site."""
        if msg["type"] != "sample":
            return
        if msg["name"] not in self.classes:
            raise ValueError(
                f"The site {msg['name']!r} was not there when the model was first run; a model must have the same "
                "sites at every call."
            )
        weight = self.weights[self.classes[msg["name"]]]
        msg["scale"] = weight if msg["scale"] is None else msg["scale"] * weight


def class_weights(tempering: Tempering, temperature: ArrayLike) -> dict[SiteClass, Array]:
    """Weights of equations (1) and (2)."""
    dtype = jnp.result_type(float)
    one, temperature = jnp.ones((), dtype), jnp.asarray(temperature, dtype)
    prior = one if tempering == "posterior" else temperature
    return {"prior": prior, "likelihood": one, "jacobian": temperature}


def only(site_class: SiteClass) -> dict[SiteClass, Array]:
    """Weight 1 for one class and 0 for the others."""
    return {name: jnp.asarray(name == site_class, jnp.result_type(float)) for name in CLASSES}


def site_classes(
    model: Callable,
    trace: Mapping[str, Any],
    model_args: tuple,
    model_kwargs: dict[str, Any],
    *,
    factors: Factors = "likelihood",
) -> dict[str, SiteClass]:
    """Class of every sample site of a model that is run on unconstrained values.

    Args:
        model: whose latent sites are continuous.
        trace: of it, on constrained values (NumPyro's `prototype_trace`).
        model_args: of it.
        model_kwargs: of it. The sites that an enclosing `Gibbs` conditions on are prior.
        factors: class of `numpyro.factor` sites.
    """
    transforms = _transforms_from_trace(trace, raise_warnings=False).inv_transforms
    latent = {name: trace[name]["value"] for name in transforms if trace[name]["type"] == "sample"}
    z = transform_fn(transforms, latent, invert=True)
    unconstrained = _unconstrain_params(handlers.seed(model, random.key(0)), z)
    sites = handlers.trace(unconstrained).get_trace(*model_args, **model_kwargs)
    given = model_kwargs.get(GIBBS_SITES_KWARG, {})

    def class_of(name: str) -> SiteClass:
        if name not in trace:
            return "jacobian"
        if name in z or name in given:
            return "prior"
        return factors if trace[name]["infer"].get("is_auxiliary", False) else "likelihood"

    return {name: class_of(name) for name, site in sites.items() if site["type"] == "sample"}
