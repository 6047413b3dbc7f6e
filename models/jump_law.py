"""What every law of a jump process has: rates, and the law of the first state."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from numpyro.distributions import constraints

from ..kernels.jump import check_rates, stationary
from ..kernels.jump.generator import without_diagonal
from .jump_inputs import Initial, Shape, check_initial


class JumpLaw(dist.Distribution):
    """Parent of the distributions of a jump process.

    Attributes:
        rates: q `[..., n, n]`, as they were given.
        initial: pi_0 `[..., n]` where it was given as numbers, else None.
        is_stationary: whether pi_0 is that of the rates; uniform where neither.
    """

    # the diagonal may hold anything: which numbers are rates is seen by `check_rates`
    arg_constraints = {"rates": constraints.dependent(is_discrete=False, event_dim=2)}  # noqa: RUF012
    pytree_data_fields: tuple[str, ...] = ("rates", "initial")
    pytree_aux_fields: tuple[str, ...] = ("is_stationary",)
    rates: Any
    initial: Any

    def take_process(self, rates: ArrayLike | Array, initial: Initial) -> dict[str, Shape]:
        """Keep rates and initial law, and say their batch shapes.

        Raises:
            ValueError: rates that are none, an initial that is no law.
        """
        check_rates(rates)
        check_initial(initial, np.shape(rates)[-1])
        self.rates, self.is_stationary = rates, isinstance(initial, str)
        self.initial = None if self.is_stationary else initial
        of_initial = () if self.initial is None else np.shape(self.initial)[:-1]
        return {"rates": np.shape(rates)[:-2], "initial": of_initial}

    @property
    def num_states(self) -> int:
        """n."""
        return np.shape(self.rates)[-1]

    @property
    def initial_law(self) -> Float[Array, "*batch n"]:
        """pi_0."""
        if self.is_stationary:
            return stationary(self.rates)
        if self.initial is None:
            return jnp.full(self.num_states, 1 / self.num_states)
        return jnp.asarray(self.initial, jnp.result_type(float))

    @property
    def has_rates(self) -> Bool[Array, "*batch"]:
        """Whether all entries off the diagonal are rates: at least 0, and finite."""
        q = without_diagonal(self.rates)
        return jnp.all((q >= 0) & jnp.isfinite(q), (-1, -2))
