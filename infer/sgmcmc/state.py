"""The state of an `SGMCMC` chain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ...kernels.sgmcmc import SGState
from .noise import Noise
from .target import Anchor, Values


class SGMCMCState(NamedTuple):
    """State of one chain; S sites in the order of their sorted names.

    Attributes:
        i: draws done, warm-up included; one for all vectorized chains.
        inner: state of the algorithm.
        gradient: of U_T at its position, on a batch that did not move it there (the first step of all apart: epochs
            begin with the batch of the start).
        potential_energy: minibatch estimate of NumPyro's own potential (untempered) at the draw.
        step_size: h of the last step.
        temperature: T of the last step, as a schedule has it; what a warm-up or a cycle makes of it aside.
        kinetic_temperature: (S,), mean over the steps of the draw; None for an overdamped algorithm.
        configurational_temperature: (S,), mean over the steps of the draw.
        noise_ratio: (S,), noise of the minibatches over that of the temperature, at the last step; with cycles, at the
            first step of the sampling part.
        num_nonfinite: steps refused so far, because gradient or position were not finite.
        diverging: whether a step of this draw was refused.
        cycle: number of the cycle of the draw, from 0; None without cycles.
        anchor: centre of the control variates; None without them.
        centre: about which the configurational temperature is taken; None where the anchor serves.
        noise: what the gradients' noise is known to be.
        order_key: of the order of the rows within epochs.
        rng_key: key of the next draw.
    """

    i: Int[Array, ""]
    inner: SGState
    gradient: Values
    potential_energy: Float[Array, ""]
    step_size: Float[Array, ""]
    temperature: Float[Array, ""]
    kinetic_temperature: Float[Array, " S"] | None
    configurational_temperature: Float[Array, " S"]
    noise_ratio: Float[Array, " S"]
    num_nonfinite: Int[Array, ""]
    diverging: Bool[Array, ""]
    cycle: Int[Array, ""] | None
    anchor: Anchor | None
    centre: Values | None
    noise: Noise
    order_key: Key[Array, ""]
    rng_key: Key[Array, ""]

    @property
    def z(self) -> Values:
        """The draw, unconstrained."""
        return self.inner.position

    @property
    def reference(self) -> Values:
        """z_c of the configurational temperature."""
        return self.anchor.centre if self.centre is None else self.centre  # type: ignore[union-attr]


def by_site(tree: Values) -> Float[Array, " S"]:
    """A number of each site as one array, in the order of the sorted names."""
    return jnp.stack(jax.tree.leaves(tree))
