"""The state of a `PPG` chain: those of its blocks, and what the draw as a whole has.

Its properties are the fields of the blocks under the names that ArviZ knows.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ...kernels.smc import InnovationsState
from .path_model import SiteValues
from .path_moments import PathMoments


class Interweaving(NamedTuple):
    """State of the innovations move.

    Attributes:
        adaptation: step size and mass, see `InnovationsState`.
        accept_prob: of the last trajectory, in [0, 1].
    """

    adaptation: InnovationsState
    accept_prob: Array


class PPGState(NamedTuple):
    """State of one chain.

    Attributes:
        z: every latent site: the path as it is, parameters unconstrained.
        block_states: of the path block (`ParticleGibbsState`) and of the inner kernel.
        rng_key: key of the next step.
        i: iterations done, warm-up included.
        last_carry: c_T, what a forecast starts from.
        interweave: state of the innovations move, None where it is off.
        moments: of the path at every time, None unless asked for.
    """

    z: SiteValues
    block_states: tuple[Any, ...]
    rng_key: Array
    i: Any = None
    last_carry: Any = None
    interweave: Interweaving | None = None
    moments: PathMoments | None = None

    @property
    def particle_ess(self):
        """Mean over time of 1 / sum W^2."""
        return self.block_states[0].particle_ess

    @property
    def particle_ess_min(self):
        """The smallest over time of 1 / sum W^2."""
        return self.block_states[0].particle_ess_min

    @property
    def path_update_rate(self):
        """Share of times at which the sweep left its reference path."""
        return self.block_states[0].path_update_rate

    @property
    def log_evidence(self):
        """log Zhat of the conditional sweep: E[Z / Zhat] = 1 under stationarity."""
        return self.block_states[0].log_evidence

    @property
    def num_nonfinite(self):
        """Weights that were NaN or +inf, plus times without a possible particle, so far."""
        return self.block_states[0].num_nonfinite

    @property
    def functionals(self):
        """PaRIS estimates by the last sweep."""
        return self.block_states[0].functionals

    @property
    def path_functionals(self):
        """The functionals of the path that the last sweep drew."""
        return self.block_states[0].path_functionals

    @property
    def interweave_accept_prob(self):
        """Acceptance of the last innovations move; 0 where none is made."""
        return jnp.zeros_like(self.particle_ess) if self.interweave is None else self.interweave.accept_prob

    @property
    def potential_energy(self):
        """Of the inner HMC kernel."""
        return self.block_states[1].potential_energy

    @property
    def accept_prob(self):
        """Of the inner HMC kernel."""
        return self.block_states[1].accept_prob

    @property
    def num_steps(self):
        """Leapfrog steps of the inner HMC kernel."""
        return self.block_states[1].num_steps

    @property
    def adapt_state(self):
        """Of the inner HMC kernel."""
        return self.block_states[1].adapt_state

    @property
    def diverging(self):
        """Of the inner HMC kernel."""
        return self.block_states[1].diverging

    @property
    def energy(self):
        """Of the inner HMC kernel."""
        return self.block_states[1].energy
