"""The history-driven target on a product of finite sets, one coordinate at a time.

    pi[x] prop. to mu(x) z(x)^-alpha,   z(x) = (c(x) + kappa) / mu(x)                                    (1)
    gibbs   a coordinate drawn uniformly, its new value from (1) given the others                        (2)
    mh      another of its values drawn uniformly, accepted with min(1, ratio of (1))                    (3)

Hu, Ma, Eun (2025). kappa is the same for every state here, not in proportion to mu as on graphs: states that were
never visited would all look alike, however improbable, and the walk would run off through them. The walk starts
colder than mu for that, which is safe.

Below a revisit rate of .98 most states are new, and the tilt adds noise. The guard takes alpha down to 0 at .8:
any bounded sequence of alphas has mu for its limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from .history import DenseHistory, as_float
from .product_space import ProductSpace
from .repellence import Repellence, alpha_at
from .rows import drawn, uniform_of
from .table import HashHistory

type SiteBase = Literal["gibbs", "mh"]
type SiteHistory = DenseHistory | HashHistory

GUARD_FROM, GUARD_WIDTH = 0.8, 0.18
NUM_WORDS = 3  # of 32 random bits that a step takes


class SiteState(NamedTuple):
    """Where the walk is.

    Attributes:
        x: value number of each coordinate.
        log_mu: log density there.
        history: visits.
    """

    x: Int[Array, " D"]
    log_mu: Float[Array, ""]
    history: SiteHistory


class SiteInfo(NamedTuple):
    """One step.

    Attributes:
        moved: whether the state changed.
        alpha: the repellence in force.
        finite: False where a NaN, or a density of zero everywhere, left no law: the step was refused.
    """

    moved: Bool[Array, ""]
    alpha: Float[Array, ""]
    finite: Bool[Array, ""]


@dataclass(frozen=True)
class SiteWalk:
    """The walk on one density, equations (1) to (3).

    Args:
        space: of the states.
        log_density: x -> log mu(x), up to a constant; -inf where it is zero.
        alpha: strength of the repellence.
        base: "gibbs" or "mh".
        guarded: whether few revisits take alpha down.

    Examples:
        >>> from emberwalk.kernels.walk import ProductSpace, SiteWalk, dense_history
        >>> walk = SiteWalk(ProductSpace((2, 2)), lambda x: 0.5 * x.sum(), alpha=5.0)
        >>> state = walk.init(jnp.zeros(2, jnp.int32), dense_history(4))
        >>> state, info, _ = walk.run(random.key(0), state, 1000)
        >>> int(state.history.counts.sum())
        1000
    """

    space: ProductSpace
    log_density: Callable[[Int[Array, " D"]], Float[Array, ""]]
    alpha: Repellence
    base: SiteBase = "gibbs"
    guarded: bool = True

    def init(self, x: Int[Array, " D"], history: SiteHistory) -> SiteState:
        """At a state, none of its visits counted."""
        return SiteState(x, jnp.asarray(self.log_density(x), float), history)

    def step(self, key: Key[Array, ""], state: SiteState) -> tuple[SiteState, SiteInfo]:
        """One step: a coordinate by (2) or (3), then the visit is counted."""
        return self.advance(state, random.bits(key, (NUM_WORDS,), jnp.uint32))

    def advance(self, state: SiteState, bits: UInt[Array, "3"]) -> tuple[SiteState, SiteInfo]:
        """One step from given random words."""
        alpha = self.strength(state.history)
        d = (bits[0] % len(self.space.num_values)).astype(jnp.int32)
        move = self.heat_bath if self.base == "gibbs" else self.metropolis
        x, log_mu, finite = move(state, alpha, d, bits)
        history = self._record(state.history, x, log_mu)
        return SiteState(x, log_mu, history), SiteInfo((x != state.x).any(), alpha, finite)

    def strength(self, history: SiteHistory) -> Float[Array, ""]:
        """alpha in force, the guard applied."""
        steps = as_float(history.steps)
        alpha = alpha_at(self.alpha, steps, jnp.zeros(()))
        if not self.guarded:
            return alpha
        revisits = as_float(history.revisits) / jnp.maximum(steps, 1)
        return alpha * jnp.clip((revisits - GUARD_FROM) / GUARD_WIDTH, 0, 1)

    def heat_bath(self, state, alpha, d, bits) -> tuple[Array, Array, Array]:
        """Equation (2)."""
        num = jnp.asarray(self.space.num_values)[d]
        values = jnp.arange(max(self.space.num_values))
        candidates = jax.vmap(lambda v: state.x.at[d].set(jnp.minimum(v, num - 1)))(values)
        log_mu = jax.vmap(self.log_density)(candidates)
        log_w = log_mu - alpha * self._log_z(state.history, candidates, log_mu)
        inside = values < num
        refused = (inside & jnp.isnan(log_w)).any()
        log_w = jnp.where(inside, log_w, -jnp.inf)
        entry = drawn(values, jnp.exp(log_w - log_w.max()), uniform_of(bits[1]))
        finite = (entry >= 0) & ~refused
        v = jnp.where(finite, entry, 0)
        x = jnp.where(finite, candidates[v], state.x)
        return x, jnp.where(finite, log_mu[v], state.log_mu), finite

    def metropolis(self, state, alpha, d, bits) -> tuple[Array, Array, Array]:
        """Equation (3); a coordinate of one value stays."""
        num = jnp.asarray(self.space.num_values)[d]
        others = jnp.maximum(num - 1, 1).astype(jnp.uint32)
        step = 1 + (bits[2] % others).astype(jnp.int32)
        proposed = state.x.at[d].set((state.x[d] + step) % num)
        both = jnp.stack([state.x, proposed])
        log_mu = jnp.stack([state.log_mu, self.log_density(proposed)])
        log_pi = log_mu - alpha * self._log_z(state.history, both, log_mu)
        log_ratio = log_pi[1] - log_pi[0]
        accept = uniform_of(bits[1]) < jnp.exp(log_ratio)
        x = jnp.where(accept, proposed, state.x)
        return x, jnp.where(accept, log_mu[1], state.log_mu), ~jnp.isnan(log_ratio)

    def _log_z(self, history: SiteHistory, states: Int[Array, "n D"], log_mu: Float[Array, " n"]) -> Array:
        """log z of several states; 0 where the density is zero, so that -inf stays -inf at every alpha."""
        counts = jax.vmap(lambda x: history.visits(self._code(history, x)))(states)
        log_z = jnp.log(counts + history.prior) - log_mu
        return jnp.where(log_mu == -jnp.inf, 0.0, log_z)

    def _code(self, history: SiteHistory, x: Int[Array, " D"]) -> Int[Array, ""] | UInt[Array, " W"]:
        return self.space.number(x) if isinstance(history, DenseHistory) else self.space.words(x)

    def _record(self, history: SiteHistory, x: Int[Array, " D"], log_mu: Float[Array, ""]) -> SiteHistory:
        if isinstance(history, DenseHistory):
            return history.record(self.space.number(x))
        return history.record(self.space.words(x), log_mu)

    def run(
        self,
        key: Key[Array, ""],
        state: SiteState,
        length: int,
        visit: Callable | None = None,
        seen: Any = None,
    ) -> tuple[SiteState, SiteInfo, Any]:
        """Many steps.

        Args:
            key: of them all.
            state: to start from.
            length: number of steps.
            visit: (seen, x) -> seen, called at every state; what a stream gathers.
            seen: before the first.

        Returns:
            The last state; `SiteInfo` with the share of moves, the last alpha, and the number of refused steps in
            place of `finite`; and what was gathered.
        """

        def one_step(carry, bits):
            state, seen = carry
            state, info = self.advance(state, bits)
            return (state, seen if visit is None else visit(seen, state.x)), info

        words = random.bits(key, (length * NUM_WORDS,), jnp.uint32).reshape(length, NUM_WORDS)
        (state, seen), info = lax.scan(one_step, (state, seen), words)
        return state, SiteInfo(info.moved.mean(dtype=float), info.alpha[-1], (~info.finite).sum()), seen
