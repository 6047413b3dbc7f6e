"""A model with its arguments, read once: for what follows its gradient and is no kernel of NumPyro's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import random
from jaxtyping import Array, Key
from numpyro import handlers
from numpyro.infer.util import constrain_fn, initialize_model, unconstrain_fn

from .minibatch import Batching
from .read_model import first_rows, read_sites
from .rows import HostRows, check_not_given, rows_of
from .target import Target, Values
from .tempering import SiteClass, Tempering, site_classes


class BoundModel(NamedTuple):
    """What `bind` found.

    Attributes:
        target: the tempered potential on batches.
        on_first_rows: the model, its plates at their first rows.
    """

    target: Target
    on_first_rows: Callable

    def first_value(self, rng_key: Key[Array, ""], init_strategy: Callable) -> Values:
        """Where NumPyro would start, unconstrained."""
        target = self.target
        info, *_ = initialize_model(
            rng_key, self.on_first_rows, dynamic_args=True, init_strategy=init_strategy,
            model_args=target.model_args, model_kwargs=target.model_kwargs,
        )  # fmt: skip
        return info.z

    def unconstrained(self, values: Values) -> Values:
        """z of constrained values of the latent sites."""
        model = handlers.seed(self.on_first_rows, random.key(0))
        return unconstrain_fn(model, self.target.model_args, self.target.model_kwargs, values)

    def constrained(self, z: Values) -> Values:
        """Values of the latent sites; the model is run, for supports that depend on other sites."""
        model = handlers.seed(self.on_first_rows, random.key(0))
        return constrain_fn(model, self.target.model_args, self.target.model_kwargs, z)


def bind(
    model: Callable,
    model_args: tuple,
    model_kwargs: dict[str, Any],
    *,
    tempering: Tempering = "posterior",
    batching: Batching = "replacement",
    data: HostRows | None = None,
) -> BoundModel:
    """Reads a model, without running it: all that is static about its sites and rows.

    Args:
        model: the NumPyro model, bound to the first rows of `data` where there are such.
        model_args: of it.
        model_kwargs: of it.
        tempering: "posterior" or "likelihood".
        batching: "replacement" or "epoch".
        data: rows of the host.

    Raises:
        ValueError: as `read_sites` and `rows_of` do.
    """
    check_not_given(data, model_kwargs)
    plates: dict[str, tuple[int, int]] = {}
    classes: dict[str, SiteClass] = {}

    def read() -> None:
        sites = read_sites(model, model_args, model_kwargs)
        plates.update(sites.plates)
        classes.update(site_classes(model, sites.trace, model_args, model_kwargs))

    jax.eval_shape(read)  # op by op it would compile a hundred small programs
    rows = rows_of(plates, batching, data)
    target = Target(model, classes, rows, tempering, model_args, model_kwargs)
    return BoundModel(target, handlers.substitute(model, data=first_rows(plates)))
