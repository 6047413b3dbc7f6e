"""One transition of NUTS at a time, with a mass matrix that is given and a step size that is learnt.

NumPyro's own NUTS (Hoffman and Gelman 2014); its warm-up is left out, since it begins the step size anew at each window
of the mass matrix, of which there is none here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.hmc_util import dual_averaging
from numpyro.infer.util import ParamInfo

from .moves import Flat, Place, Potential


class NutsMove(NamedTuple):
    """What a transition led to.

    Attributes:
        place: the chain's.
        gradient: of the potential there.
        num_steps: leapfrogs.
        accept_prob: mean over the trajectory.
        diverging: whether it diverged.
        adapt_state: NumPyro's, with the next step size.
    """

    place: Place
    gradient: Flat
    num_steps: Int[Array, ""]
    accept_prob: Float[Array, ""]
    diverging: Bool[Array, ""]
    adapt_state: Any

    @classmethod
    def none(cls, place: Place, gradient: Flat, adapt_state: Any) -> "NutsMove":
        """No transition was made."""
        nothing = jnp.zeros((), jnp.int32)
        return cls(place, gradient, nothing, jnp.zeros_like(place.potential), nothing > 0, adapt_state)


class Nuts(NamedTuple):
    """How transitions are made.

    Attributes:
        target_accept_prob: to which the step size is adapted.
        max_tree_depth: at most 2^this - 1 leapfrogs.
    """

    target_accept_prob: float
    max_tree_depth: int

    def start(self, key: Key[Array, ""], place: Place, covariance: Float[Array, "d d"]) -> Any:
        """The first adapt_state: a step of d^(-1/4) in units of the covariance."""
        init, _ = hmc(lambda u: place.potential, algo="NUTS")
        state = init(
            ParamInfo(place.u, place.potential, jnp.zeros_like(place.u)),
            num_warmup=0,
            step_size=float(place.u.size) ** -0.25,
            inverse_mass_matrix=covariance,
            dense_mass=True,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            rng_key=key,
        )
        return state.adapt_state

    def move(
        self,
        key: Key[Array, ""],
        place: Place,
        potential: Potential,
        adapt_state: Any,
        phase: tuple[Bool[Array, ""], Bool[Array, ""]],
    ) -> NutsMove:
        """One transition.

        Args:
            key: of the trajectory.
            place: where the chain is.
            potential: -log pi.
            adapt_state: of `start` or of the transition before.
            phase: whether the step size is adapted, and whether for the last time: then it is its average.
        """
        energy, gradient = jax.value_and_grad(potential)(place.u)
        nothing, zero = jnp.zeros((), jnp.result_type(int)), jnp.zeros_like(energy)
        state = HMCState(
            nothing, place.u, gradient, energy, zero, None, None, nothing, zero, zero, nothing > 0, adapt_state, key
        )
        after = self._kernel(potential, place, gradient)(state)
        place = Place(after.z, after.potential_energy)
        adapted = self._adapted(adapt_state, after.accept_prob, *phase)
        steps = after.num_steps.astype(jnp.int32)
        return NutsMove(place, after.z_grad, steps, after.accept_prob, after.diverging, adapted)

    def _kernel(self, potential: Potential, place: Place, gradient: Flat) -> Callable[[HMCState], HMCState]:
        """NumPyro's kernel learns its options when it is begun; no warm-up is among them."""
        init, sample = hmc(potential, algo="NUTS")
        init(
            ParamInfo(place.u, place.potential, gradient),
            num_warmup=0,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=self.max_tree_depth,
        )
        return sample

    def _adapted(
        self, adapt_state: Any, accept_prob: Array, adapting: Bool[Array, ""], last: Bool[Array, ""]
    ) -> Any:
        _, update = dual_averaging()
        accept_prob = jnp.where(jnp.isnan(accept_prob), 0, accept_prob)
        ss_state = update(self.target_accept_prob - accept_prob, adapt_state.ss_state)
        step_size = jnp.exp(jnp.where(last, ss_state[1], ss_state[0]))
        now = (adapt_state.step_size, adapt_state.ss_state)
        step_size, ss_state = jax.tree.map(
            lambda new, old: jnp.where(adapting, new, old), (step_size, ss_state), now
        )
        return adapt_state._replace(step_size=step_size, ss_state=ss_state)
