"""Independence Metropolis on a vector, whatever its density: proposals that know nothing of where the chain is.

    y ~ q,   u' = y with probability min(1, w(y) / w(u)),   w = pi / q                                      (1)

Tierney (1994). It leaves pi invariant for any q that covers it; it is as good as w is flat, and a chain that sits where
w is large stays there, so that another move is needed beside it. The proposals of a draw are made and weighed together.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key

from ...kernels.jump import Proposal

type Flat = Float[Array, " d"]
type Potential = Callable[[Flat], Float[Array, ""]]


class Place(NamedTuple):
    """Where a chain is.

    Attributes:
        u: the vector.
        potential: -log pi(u).
    """

    u: Flat
    potential: Float[Array, ""]


class Moved(NamedTuple):
    """What some moves led to.

    Attributes:
        place: the chain's.
        accept_prob: mean over the moves.
        num_nonfinite: proposals without a finite density, none of which was taken.
    """

    place: Place
    accept_prob: Float[Array, ""]
    num_nonfinite: Int[Array, ""]


def independence_moves(
    key: Key[Array, ""], place: Place, proposal: Proposal, potential: Potential, num_moves: int
) -> Moved:
    """Equation (1), several times.

    Args:
        key: of all moves.
        place: where the chain is. From one without a finite density any other is taken.
        proposal: q.
        potential: -log pi, up to a constant.
        num_moves: how often.

    Examples:
        >>> from emberwalk.infer.jump.moves import Place, independence_moves
        >>> from emberwalk.kernels.jump import laplace, newton, tabled
        >>> log_density = lambda t: 3 * t[0] - jnp.exp(t[0])  # the log of Gamma(3, 1), which the proposal has exactly
        >>> proposal = tabled(laplace(log_density, newton(log_density, jnp.zeros(1))))
        >>> potential = lambda t: -log_density(t)
        >>> place = Place(jnp.zeros(1), potential(jnp.zeros(1)))
        >>> bool(independence_moves(random.key(0), place, proposal, potential, 100).accept_prob > 0.85)
        True
    """
    key_draw, key_accept = random.split(key)
    draws = proposal.sample(key_draw, (num_moves,))
    log_q = proposal.log_prob(jnp.concatenate([place.u[None], draws]))
    # vmap would make every squaring of all transition matrices run, and a CPU gains nothing by it
    at_once = None if jax.default_backend() == "cpu" else num_moves
    potentials = lax.map(potential, draws, batch_size=at_once)
    uniforms = random.uniform(key_accept, (num_moves,), place.u.dtype)

    def move(carry: tuple[Place, Array], inputs: tuple) -> tuple[tuple[Place, Array], Array]:
        (here, log_q_here), (there, log_q_there, uniform) = carry, inputs
        log_ratio = (here.potential - there.potential) + (log_q_here - log_q_there)
        probability = jnp.where(jnp.isnan(log_ratio), 0, jnp.exp(jnp.minimum(log_ratio, 0)))
        probability = jnp.where(jnp.isfinite(here.potential), probability, 1)
        probability = jnp.where(jnp.isfinite(there.potential), probability, 0)
        taken = uniform < probability
        kept = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old), (there, log_q_there), (here, log_q_here)
        )
        return kept, probability

    (place, _), probabilities = lax.scan(
        move, (place, log_q[0]), (Place(draws, potentials), log_q[1:], uniforms)
    )
    nonfinite = jnp.sum(~jnp.isfinite(potentials), dtype=jnp.int32)
    return Moved(place, probabilities.mean(), nonfinite)
