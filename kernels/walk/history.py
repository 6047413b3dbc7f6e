"""What a walk remembers: its visits, and how strongly it keeps away from them.

    z_i = (c_i + kappa_i) / mu_i,   kappa_i = kappa N mu_i / sum(mu)                                     (1)
    log tilt from i to j = -alpha (log z_j - log z_i)                                                    (2)

c_i counts the visits; with no visit at all every z is kappa, and the walk its base chain. Tokens may forget instead
(Hu, Doshi, Eun 2024): with gamma_n = (n + 1)^-a, a < 1,

    x <- x + gamma_n (delta_j - x),   x = e^L v,   L = sum log(1 - gamma),   v_j <- v_j + gamma_n e^-L   (3)

so that a visit touches one number, and log z = log v - log mu up to the scalar L, which no tilt sees.

Counts are integers: a float32 stops counting at 2^24. For a uniform target (2) is taken from the difference of the
counts, exact however large they are; a difference of two logarithms of 1e9 is off by 3 %. z^-alpha is never formed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt
from numpy.typing import ArrayLike

MAX_COUNT = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Target:
    """mu on the device, and what equation (1) needs of it.

    Attributes:
        log_mu: normalised to a sum of N, so that kappa_i = kappa mu_i; None where mu is uniform.
        min_mu: smallest mu of those that sum to 1, for `Growth`.
    """

    log_mu: Float[Array, " N"] | None
    min_mu: Float[Array, ""]


def target_of(log_mu: ArrayLike | None, num_nodes: int) -> Target:
    """`Target` of an unnormalised log mu; None is uniform. Float64 on the host."""
    if log_mu is None:
        return Target(None, jnp.asarray(1 / num_nodes, float))
    log_mu = np.asarray(log_mu, np.float64)
    centred = log_mu - log_mu.max()
    centred = centred - np.log(np.mean(np.exp(centred)))
    return Target(jnp.asarray(centred, float), jnp.asarray(np.exp(centred.min()) / num_nodes, float))


class DenseHistory(NamedTuple):
    """Equation (1): counts of all N states.

    Attributes:
        counts: visits.
        prior: kappa > 0: visits each state is taken to have had; the start is exactly the base chain's.
        steps: how many were recorded, two words, the higher first.
        revisits: how many of them hit a state visited before, two words.
        saturated: visits not counted because an int32 was full.
        offset: where the counts of this walker begin in `counts`: 0, but for chains that share one array.
    """

    counts: Int[Array, " N"]
    prior: Float[Array, ""]
    steps: UInt[Array, "2"]
    revisits: UInt[Array, "2"]
    saturated: UInt[Array, ""]
    offset: Int[Array, ""]

    def record(self, node: Int[Array, ""]) -> "DenseHistory":
        """With one visit more."""
        place = self.offset + node
        # One read, and before the write: fused twice, XLA would copy all counts at every step.
        seen = lax.optimization_barrier(self.counts[place])
        full = seen == MAX_COUNT
        return self._replace(
            counts=self.counts.at[place].add(jnp.where(full, 0, 1)),
            steps=plus(self.steps, True),
            revisits=plus(self.revisits, seen > 0),
            saturated=self.saturated + full,
        )

    def visits(self, node: Int[Array, ""]) -> Int[Array, ""]:
        """Visits of a state."""
        return self.counts[self.offset + node]

    def log_ratio(self, target: Target, i: Int[Array, ""], ids: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """log z_j - log z_i for some nodes j."""
        here, there = self.counts[self.offset + i], self.counts[self.offset + ids]
        if target.log_mu is None:
            size = jnp.abs(there - here) / (
                jnp.minimum(there, here) + self.prior
            )  # never near -1, where log1p ends
            return jnp.sign(there - here) * jnp.log1p(size)
        log_z = partial(_log_z, prior=self.prior)
        return log_z(there, target.log_mu[ids]) - log_z(here, target.log_mu[i])


def _log_z(
    count: Int[Array, "*n"], log_mu: Float[Array, "*n"], prior: Float[Array, ""]
) -> Float[Array, "*n"]:
    """log(c / mu + kappa), whose c may be 0 and whose 1 / mu no float32."""
    return jnp.logaddexp(jnp.log(count.astype(float)) - log_mu, jnp.log(prior))  # of an int32: a float32


def dense_history(num_states: int, prior: float = 1.0) -> DenseHistory:
    """A history without visits.

    Examples:
        >>> from emberwalk.kernels.walk import dense_history
        >>> dense_history(3).record(1).counts.tolist()
        [0, 1, 0]
    """
    none, zero = jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.int32)
    counts = jnp.zeros(num_states, jnp.int32)
    return DenseHistory(counts, jnp.asarray(prior, float), none, none, zero.astype(jnp.uint32), zero)


def emptied[H: NamedTuple](history: H) -> H:
    """Without visits, the prior and the size kept; of one walker or a batch."""
    kept = {name: getattr(history, name) for name in ("prior", "offset", "size") if hasattr(history, name)}
    return jax.tree.map(jnp.zeros_like, history)._replace(**kept)


class Tally(NamedTuple):
    """What a history had counted by some step, to be taken off what it counts later.

    Attributes:
        counts: visits of all states or slots.
        steps: how many were recorded, two words, the higher first.
        revisits: how many of them hit a state visited before, two words.
    """

    counts: Int[Array, " N"]
    steps: UInt[Array, "2"]
    revisits: UInt[Array, "2"]


def tally_of(history: Any) -> Tally:
    """The tally of a `DenseHistory` or a `HashHistory` now."""
    return Tally(history.counts, history.steps, history.revisits)


class WeightedHistory(NamedTuple):
    """Equation (3): a histogram that forgets, in log form.

    Attributes:
        log_v: log v of all states.
        log_scale: L, and what its float32 has lost (Kahan): it grows over millions of steps.
        steps: how many were recorded, two words, the higher first.
        exponent: a, in (1/2, 1).
    """

    log_v: Float[Array, " N"]
    log_scale: Float[Array, "2"]
    steps: UInt[Array, "2"]
    exponent: Float[Array, ""]

    def record(self, node: Int[Array, ""]) -> "WeightedHistory":
        """With one visit more; the n-th has weight (n + 1)^-a, so that none is 1."""
        steps = plus(self.steps, True)
        log_gamma = -self.exponent * jnp.log1p(as_float(steps))
        log_scale = _kahan(self.log_scale, jnp.log1p(-jnp.exp(log_gamma)))
        added = jnp.logaddexp(self.log_v[node], log_gamma - log_scale[0] + log_scale[1])
        return self._replace(log_v=self.log_v.at[node].set(added), log_scale=log_scale, steps=steps)

    def log_ratio(self, target: Target, i: Int[Array, ""], ids: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """log z_j - log z_i for some nodes j."""
        ratio = self.log_v[ids] - self.log_v[i]
        return ratio if target.log_mu is None else ratio - (target.log_mu[ids] - target.log_mu[i])


def weighted_history(target: Target, num_states: int, exponent: float) -> WeightedHistory:
    """A history that starts at the target itself, equation (3).

    Args:
        target: of the walk.
        num_states: N.
        exponent: a, in (1/2, 1).

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, srrw, weighted_history
        >>> history = weighted_history(srrw(from_edges([(0, 1)])).target, 2, 0.75).record(1)
        >>> x = jnp.exp(history.log_v + history.log_scale[0])
        >>> bool(abs(x[0] - (1 - 2**-0.75) / 2) < 1e-6), bool(abs(x.sum() - 1) < 1e-6)
        (True, True)
    """
    log_x = jnp.zeros(num_states) if target.log_mu is None else target.log_mu
    return WeightedHistory(
        log_x - jnp.log(num_states), jnp.zeros(2), jnp.zeros(2, jnp.uint32), jnp.asarray(exponent, float)
    )


type History = DenseHistory | WeightedHistory


def as_float(words: UInt[Array, "2"]) -> Float[Array, ""]:
    """A count in two words, rounded."""
    return words[0].astype(float) * 2.0**32 + words[1].astype(float)


def as_int(words: np.ndarray) -> np.ndarray:
    """Counts in two words `[..., 2]`, exactly, on the host."""
    high, low = np.moveaxis(np.asarray(words, np.uint64), -1, 0)
    return (high << np.uint64(32)) + low


def plus(words: UInt[Array, "2"], one: bool | Array) -> UInt[Array, "2"]:
    """A count in two words, one higher where `one`."""
    low = words[1] + jnp.asarray(one, jnp.uint32)
    return jnp.stack([words[0] + (low < words[1]), low])


def _kahan(total: Float[Array, "2"], term: Float[Array, ""]) -> Float[Array, "2"]:
    """(sum, compensation) with one term more; sum - compensation is the better sum."""
    corrected = term - total[1]
    new = total[0] + corrected
    return jnp.stack([new, (new - total[0]) - corrected])
