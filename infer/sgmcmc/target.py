"""The tempered potential of a model on a batch, its gradient, and what can be said of both.

    (grad_z U_T, U_prior, U_lik, -J)  from one derivative:  U_T = sum_c w_c U_c  is linear in w        (1)
    g = grad U_{T,B}(z) + [grad U_lik(c) - grad U_{lik,B}(c)]        control variates with centre c      (2)

The derivative in the weights w gives the sums of the classes (`tempering.py`) for nothing. In (2) only the
likelihood is corrected: prior and Jacobian have no noise, and may be tempered by a T that changes while the
gradient at the centre stays.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.util import potential_energy

from .minibatch import Rows, over_all_rows
from .tempering import SiteClass, Tempering, class_weights, only, temper

type Values = dict[str, Array]


class Anchor(NamedTuple):
    """Centre of the control variates.

    Attributes:
        centre: c, unconstrained values of the sites.
        gradient: grad U_lik(c) on all rows.
    """

    centre: Values
    gradient: Values


class Estimate(NamedTuple):
    """What a batch says.

    Attributes:
        gradient: of U_T.
        potential: U_prior + U_lik - J, untempered.
    """

    gradient: Values
    potential: Float[Array, ""]


class Target(NamedTuple):
    """A model with its arguments, as SG-MCMC sees it.

    Attributes:
        model: the NumPyro model.
        classes: of its sites.
        rows: where batches come from.
        tempering: "posterior" or "likelihood".
        model_args: of the model.
        model_kwargs: of the model.
    """

    model: Callable
    classes: Mapping[str, SiteClass]
    rows: Rows
    tempering: Tempering
    model_args: tuple
    model_kwargs: dict[str, Any]

    def derivatives(
        self, z: Values, weights: dict[SiteClass, Array], batch: Any
    ) -> tuple[Values, dict[SiteClass, Array]]:
        """Equation (1) on a batch: the gradient in z, and the sum of each class."""
        indices, kwargs = self.rows.bind(batch, self.model_kwargs)
        model = handlers.substitute(handlers.seed(self.model, random.key(0)), data=indices)

        def potential(z: Values, weights: dict[SiteClass, Array]) -> Array:
            return potential_energy(temper(model, weights, self.classes), self.model_args, kwargs, z)

        with warnings.catch_warnings():  # a block of all rows is longer than a batch, on purpose
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            return jax.grad(potential, argnums=(0, 1))(z, weights)

    def estimate(self, z: Values, batch: Any, temperature: Array, anchor: Anchor | None = None) -> Estimate:
        """Gradient and potential, by equation (2) where there is an anchor."""
        weights = class_weights(self.tempering, temperature)
        if anchor is None:
            gradient, sums = self.derivatives(z, weights, batch)
            return Estimate(gradient, sum(sums.values(), jnp.zeros(())))
        both = jax.tree.map(lambda *two: jnp.stack(two), (z, weights), (anchor.centre, only("likelihood")))
        gradients, sums = jax.vmap(lambda z, w: self.derivatives(z, w, batch))(*both)
        gradient = jax.tree.map(lambda g, full: g[0] - g[1] + full, gradients, anchor.gradient)
        return Estimate(gradient, sum((s[0] for s in sums.values()), jnp.zeros(())))

    def anchor_at(self, z: Values) -> Anchor:
        """The centre z with its gradient on all rows."""
        weights = only("likelihood")
        return Anchor(z, over_all_rows(self.rows, lambda batch: self.derivatives(z, weights, batch)[0]))
