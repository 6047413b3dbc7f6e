"""What the walks share: where the walker is, what it remembers, and the order of a step.

    1. choose X_{n+1} from the history up to n, which counts the visit at X_n                            (1)
    2. count the visit at X_{n+1}, also where the walker stays                                           (2)

The first node is not counted. A walk that counts its moves alone has another limit; one that counts the old node in
place of the new has another law, which no average shows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from .history import History, Target, as_float, dense_history
from .repellence import Repellence, alpha_at

BLOCK = 512  # random bits are drawn for this many steps at once: one key a step costs four times as much


class WalkState(NamedTuple):
    """Where a walker is.

    Attributes:
        node: row number in the graph.
        history: its visits.
    """

    node: Int[Array, ""]
    history: History


class WalkInfo(NamedTuple):
    """One step.

    Attributes:
        moved: whether the walker left its node.
        alpha: the repellence in force.
        finite: False where a NaN left no law to draw from, or alpha was below 0 or infinite: the walker stayed.
    """

    moved: Bool[Array, ""]
    alpha: Float[Array, ""]
    finite: Bool[Array, ""]


class Walk(ABC):
    """A self-repellent walk on N states; a pytree, so that target and strength are arguments of a program.

    Attributes:
        target: mu.
        alpha: strength of the repellence.
        prior: kappa.
        num_words: random words of 32 bits that a step takes.
    """

    target: Target
    alpha: Repellence
    prior: float
    num_words: ClassVar[int]

    @property
    @abstractmethod
    def num_nodes(self) -> int:
        """N."""

    @abstractmethod
    def choose(
        self, state: WalkState, alpha: Float[Array, ""], bits: UInt[Array, " num_words"]
    ) -> Int[Array, ""]:
        """The next node, by (1); -1 where there is no law to draw from."""

    def init(self, node: int | Int[Array, ""]) -> WalkState:
        """At a node, with no visit counted."""
        return WalkState(jnp.asarray(node, jnp.int32), dense_history(self.num_nodes, self.prior))

    def step(self, key: Key[Array, ""], state: WalkState) -> tuple[WalkState, WalkInfo]:
        """One step."""
        return self.advance(state, random.bits(key, (self.num_words,), jnp.uint32))

    def advance(self, state: WalkState, bits: UInt[Array, " num_words"]) -> tuple[WalkState, WalkInfo]:
        """One step from given random words, in the order (1), (2)."""
        alpha = alpha_at(self.alpha, as_float(state.history.steps), self.target.min_mu)
        # Chosen before it is counted: fused with what follows, XLA would copy all counts.
        chosen = lax.optimization_barrier(self.choose(state, alpha, bits))
        finite = (chosen >= 0) & (alpha >= 0) & (alpha < jnp.inf)
        node = jnp.where(finite, chosen, state.node)
        return WalkState(node, state.history.record(node)), WalkInfo(node != state.node, alpha, finite)

    def run(
        self, key: Key[Array, ""], state: WalkState, length: int
    ) -> tuple[WalkState, Int[Array, " length"]]:
        """Many steps, and the nodes they led to.

        Args:
            key: of them all.
            state: to start from.
            length: number of steps.
        """

        state, nodes, _ = self.travel(key, state, length)
        return state, nodes

    def travel(
        self, key: Key[Array, "*C"], state: WalkState, length: int, scan: Callable | None = None
    ) -> tuple[WalkState, Int[Array, "*C length"], UInt[Array, "*C"]]:
        """What `run` returns, and how many steps were refused.

        Args:
            key: of them all; of each chain where there is a `scan`.
            state: to start from; of all chains.
            length: number of steps.
            scan: like `lax.scan` of a step, for several chains: what `vmap` of it returns.
        """
        follow, split = self.follow, random.split
        if scan is not None:
            follow, split = partial(follow, scan=scan), jax.vmap(split, (0, None))

        def block(carry, key, size):
            state, refused = carry
            words = jnp.vectorize(partial(self.words, length=size), signature="()->(t,w)")(key)
            state, nodes, more = follow(state, words)
            return (state, refused + more), nodes

        carry = state, jnp.zeros(key.shape, jnp.uint32)
        if length <= BLOCK:
            (state, refused), nodes = block(carry, key, length)
            return state, nodes, refused
        size = block_size(length)
        num, rest = divmod(length, size)
        pair = split(key, 2)
        keys = jnp.moveaxis(split(pair[..., 0], num), -1, 0)
        carry, nodes = lax.scan(lambda carry, key: block(carry, key, size), carry, keys)
        nodes = jnp.moveaxis(nodes, 0, -2).reshape(*key.shape, -1)
        if rest:
            carry, tail = block(carry, pair[..., 1], rest)
            nodes = jnp.concatenate([nodes, tail], -1)
        return carry[0], nodes, carry[1]

    def words(self, key: Key[Array, ""], length: int) -> UInt[Array, "length num_words"]:
        """What chance says in some steps; at most `BLOCK` of them, for the memory."""
        words = random.bits(key, (length * self.num_words,), jnp.uint32)  # flat: twice as fast under vmap
        return words.reshape(length, self.num_words)

    def follow(
        self, state: WalkState, words: UInt[Array, "*C length num_words"], scan: Callable = lax.scan
    ) -> tuple[WalkState, Int[Array, "*C length"], UInt[Array, "*C"]]:
        """The steps that given words lead to, their nodes, and how many were refused."""

        def one_step(state, bits):
            state, info = self.advance(state, bits)
            return state, (state.node, ~info.finite)

        state, (nodes, refused) = scan(one_step, state, words)  # unrolled, XLA would copy all counts a step
        return state, nodes, refused.sum(-1, dtype=jnp.uint32)


def block_size(length: int) -> int:
    """Steps whose words are drawn together: a divisor of `length` where one is large enough, so that one loop does."""
    return next((size for size in range(BLOCK, BLOCK // 4, -1) if length % size == 0), BLOCK)
