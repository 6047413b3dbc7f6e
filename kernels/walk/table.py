"""Visits of more states than fit in memory: a hash table of those that were met.

    slot = hash(words) mod S, then the next one, at most 32 of them                                     (1)

A state is packed into words of 32 bits, exactly, and kept in its slot: two states are never taken for one, and what
was visited can be read back. A state that finds no slot counts as unseen at every visit, and adds to `untracked`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from .history import MAX_COUNT, plus

PROBES = 32


class HashHistory(NamedTuple):
    """Visits of the states met so far.

    Attributes:
        keys: packed state of each slot.
        counts: its visits; 0 is an empty slot.
        log_mu: its log density.
        prior: kappa > 0, visits every state is taken to have had.
        steps: visits recorded, two words, the higher first.
        revisits: those of a state visited before, two words.
        untracked: those of a state that found no slot.
        saturated: visits not counted because an int32 was full.
        offset: where the slots of this walker begin: 0, but for chains that share the arrays.
        size: S, a power of two.
    """

    keys: UInt[Array, "S W"]
    counts: Int[Array, " S"]
    log_mu: Float[Array, " S"]
    prior: Float[Array, ""]
    steps: UInt[Array, "2"]
    revisits: UInt[Array, "2"]
    untracked: UInt[Array, ""]
    saturated: UInt[Array, ""]
    offset: Int[Array, ""]
    size: UInt[Array, ""]

    def visits(self, words: UInt[Array, " W"]) -> Int[Array, ""]:
        """Visits of a state; 0 of one that is not in the table."""
        slot, found, _ = self.find(words)
        return jnp.where(found, self.counts[slot], 0)

    def find(self, words: UInt[Array, " W"]) -> tuple[Int[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        """The last slot that was looked at, whether the state is there, and whether it is empty."""
        first = hashed(words)

        def place(probe):
            return self.offset + ((first + probe) & (self.size - 1)).astype(jnp.int32)

        def here(slot):
            empty = self.counts[slot] == 0
            return ~empty & (self.keys[slot] == words).all(), empty

        def goes_on(probe):
            found, empty = here(place(probe))
            return ~(found | empty) & (probe < PROBES - 1)

        slot = place(lax.while_loop(goes_on, lambda probe: probe + 1, jnp.uint32(0)))
        return slot, *here(slot)

    def record(self, words: UInt[Array, " W"], log_mu: Float[Array, ""]) -> "HashHistory":
        """With one visit more."""
        slot, *seen_there = self.find(words)
        # every read comes before the first write, else the arrays are copied at every visit
        old = lax.optimization_barrier((self.keys[slot], self.counts[slot], self.log_mu[slot], *seen_there))
        key, seen, density, found, empty = old
        tracked = found | empty
        return self._replace(
            keys=self.keys.at[slot].set(jnp.where(empty, words, key)),
            counts=self.counts.at[slot].set(jnp.where(tracked & (seen < MAX_COUNT), seen + 1, seen)),
            log_mu=self.log_mu.at[slot].set(jnp.where(empty, log_mu, density)),
            steps=plus(self.steps, True),
            revisits=plus(self.revisits, found),
            untracked=self.untracked + ~tracked,
            saturated=self.saturated + (tracked & (seen == MAX_COUNT)),
        )


def hash_history(size: int, num_words: int, prior: float = 1.0) -> HashHistory:
    """An empty table.

    Args:
        size: S, a power of two: at least twice the states you expect to meet.
        num_words: words of 32 bits of a packed state.
        prior: kappa.

    Raises:
        ValueError: a size that is no power of two.

    Examples:
        >>> from emberwalk.kernels.walk import hash_history
        >>> words = jnp.array([3], jnp.uint32)
        >>> int(hash_history(16, 1).record(words, 0.0).record(words, 0.0).visits(words))
        2
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"size of the table must be a power of two, got {size}.")
    none, zero = jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.uint32)
    return HashHistory(
        keys=jnp.zeros((size, num_words), jnp.uint32),
        counts=jnp.zeros(size, jnp.int32),
        log_mu=jnp.zeros(size),
        prior=jnp.asarray(prior, float),
        steps=none,
        revisits=none,
        untracked=zero,
        saturated=zero,
        offset=jnp.zeros((), jnp.int32),
        size=jnp.asarray(size, jnp.uint32),
    )


def hashed(words: UInt[Array, " W"]) -> UInt[Array, ""]:
    """Multiply and xorshift, word after word (the finaliser of MurmurHash3, Appleby 2008)."""

    def mix(h: UInt[Array, ""], word: UInt[Array, ""]) -> UInt[Array, ""]:
        h = (h ^ word) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return h ^ (h >> 16)

    h = jnp.uint32(0x9E3779B9)
    for word in range(words.shape[0]):
        h = mix(h, words[word])
    return h
