"""`RatePosterior`: what `zero_shot` knows of the rates, as a density that is drawn from and integrated.

    graph      reciprocal with probability kappa: pairs of links together; else each by itself               (1)
    rate       q_ij from the density of rates where the link is there; else 0                                (2)
    mean       w m_1,   variance   w m_2 - (w m_1)^2,   m_k = E q^k where the link is there                  (3)
    quantile   0 for p <= 1 - w, else the quantile of the density at (p - (1 - w)) / w                       (4)

with w the presence of a link. The density is the skewed Laplace density of log q, of all links together; or, from the
network, a normal of sqrt(q) for each link by itself, and then kappa = 0. What follows from rates (stationary law,
passage times, ...) is computed for each draw, so that its intervals know how rates depend on each other and which links
may not be there.

What a reader would get wrong: an absent link has the rate 0, so that some draws may have states that are not reached;
such draws are infinite, are counted, and are never left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Bool, Float, Int, Key
from numpy.typing import ArrayLike

from ...kernels.jump import (
    Presence,
    SkewLaplace,
    entropy_production,
    first_passage_times,
    rates_from_vector,
    rates_to_vector,
    relaxation_times,
    stationary,
)
from ...kernels.jump.sqrt_normal import SqrtNormal
from .derived import DerivedDraws, RelaxationDraws
from .report import table

if TYPE_CHECKING:
    import xarray as xr

_CHAINS = 4  # into which draws are cut for ArviZ, whose diagnostics want more than one


class NoiseLevel(NamedTuple):
    """The probability of a wrong label; both 0 where labels are taken to be right.

    Attributes:
        mean: its posterior mean.
        sd: its posterior standard deviation; 0 where it was given.
    """

    mean: Float[Array, ""]
    sd: Float[Array, ""]


class RootPosterior(NamedTuple):
    """What the network says: of the root of each rate, of whether labels may be wrong, and how often.

    Attributes:
        rates: of links that are there `[n, n]`.
        label_noise: of the probability of a wrong label, if labels may be wrong at all.
        label_noise_presence: the probability that they may.
    """

    rates: SqrtNormal
    label_noise: SqrtNormal
    label_noise_presence: Float[Array, ""]


class RateDraws(NamedTuple):
    """Joint draws of everything, with leading axes of one's choice.

    Attributes:
        rates: `[..., n, n]`, zeros on the diagonal and where a link is not there.
        presence: which links are there.
        label_noise: the probability of a wrong label.
    """

    rates: Float[Array, "*shape n n"]
    presence: Bool[Array, "*shape n n"]
    label_noise: Float[Array, "*shape"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class RatePosterior:
    """Rates with uncertainty, as `zero_shot` finds them; printed, it is a table. A pytree.

    Attributes:
        mean: posterior mean of each rate `[n, n]`, per unit of time, from row to column; a link that is likely absent
            counts as much less than its rate if it were there.
        sd: posterior standard deviation `[n, n]`.
        presence: probability that a link is there `[n, n]`.
        mode: rates `[n, n]` where the density of their logarithms is largest if all links are there (with wrong labels:
            where EM ended; from the network: the squares of the means of their roots). Take it where slow links stand
            beside links a hundred times as fast, which `RatePrior` thinks unlikely and `presence` takes for none.
        initial: probability of each state at the first point of a path `[n]`.
        no_data: `[n]`, True for a state that no pair of points begins in: its row has only the prior.
        label_noise: mean and sd of the probability that a label is wrong.
        converged: whether the mode was found to within rounding; True from the network, which looks for none.
        log_evidence: of the data under the prior, within a nat or two; None from the network.
        reciprocal: probability that links are there in both directions or in none; None from the network.
        num_clipped_lags: lags so long that they were shortened; see `kernels.jump.num_clipped_lags`.
        log_rates: posterior of the logarithms of the rates of links that are there, in the order of
            `kernels.jump.rates_to_vector`; then, where it was inferred, of logit label noise. None from the network.
        links: what `presence` comes from: single links and pairs.
        by_roots: what the network says, in place of `log_rates`; else None.

    Examples:
        >>> from emberwalk.infer import zero_shot
        >>> from emberwalk.kernels.jump import simulate_batch
        >>> q, times = np.array([[0.0, 1.0], [0.5, 0.0]]), np.linspace(0, 5, 51)
        >>> post = zero_shot(times, simulate_batch(0, q, times, 100), label_noise=0.0)
        >>> low, high = post.quantile(0.05), post.quantile(0.95)
        >>> bool((low <= post.mean).all() & (post.mean <= high).all())
        True
        >>> post.sample(random.key(0), (10,)).shape
        (10, 2, 2)
        >>> bool(post.entropy_production().mean < 1e-6)  # two states are reversible
        True
        >>> post.to_datatree()["posterior"]["rates"].dims
        ('chain', 'draw', 'from_state', 'to_state')
    """

    mean: Float[Array, "n n"]
    sd: Float[Array, "n n"]
    presence: Float[Array, "n n"]
    mode: Float[Array, "n n"]
    initial: Float[Array, " n"]
    no_data: Bool[Array, " n"]
    label_noise: NoiseLevel
    converged: Bool[Array, ""]
    log_evidence: Float[Array, ""] | None
    reciprocal: Float[Array, ""] | None
    num_clipped_lags: Int[Array, ""]
    log_rates: SkewLaplace | None
    links: Presence
    by_roots: RootPosterior | None = None

    @property
    def method(self) -> Literal["refined", "network"]:
        """What found it."""
        return "refined" if self.by_roots is None else "network"

    @property
    def num_states(self) -> int:
        """n."""
        return self.mean.shape[-1]

    def _check_alone(self) -> None:
        if self.mean.ndim != 2:
            raise ValueError(
                f"this is a batch of {self.mean.shape[0]} posteriors, as vmap makes it: take one of them, "
                "jax.tree.map(lambda x: x[0], posterior)."
            )

    def quantile(self, p: float | ArrayLike) -> Float[Array, "*shape n n"]:
        """Quantiles of each rate, equation (4): 0 where the link is absent with more probability than p.

        Args:
            p: a probability, or several `[...]`.

        Raises:
            ValueError: no probability.
        """
        return self._at(p, 0)

    def quantile_if_present(self, p: float | ArrayLike) -> Float[Array, "*shape n n"]:
        """Quantiles of each rate, were its link there.

        Args:
            p: a probability, or several `[...]`.

        Raises:
            ValueError: no probability.
        """
        return self._at(p, 1)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape n n"]:
        """Draws of all rates together, `[*shape, n, n]`; a link that is not there is 0.

        Args:
            key: of the draws.
            shape: of the draws.
        """
        self._check_alone()
        return _draw(self, key, tuple(shape)).rates

    def stationary(self, num_draws: int = 1000, *, rng_key: Key[Array, ""] | None = None) -> DerivedDraws:
        """Draws of the stationary law `[num_draws, n]`.

        Args:
            num_draws: their number.
            rng_key: of the rates; None: always the same, so that quantities belong to the same draws.
        """
        return DerivedDraws(self._follows(_stationary, num_draws, rng_key))

    def first_passage_times(
        self,
        targets: int | Sequence[int] | None = None,
        num_draws: int = 1000,
        *,
        rng_key: Key[Array, ""] | None = None,
    ) -> DerivedDraws:
        """Draws of expected times until a state is first reached, `[num_draws, n, n]` from row to column.

        Args:
            targets: a state or several; then `[num_draws, n]`, the time until the first of them.
            num_draws: their number.
            rng_key: as for `stationary`.

        Raises:
            ValueError: no target, or one that is no state.
        """
        return DerivedDraws(self._follows(partial(first_passage_times, targets=targets), num_draws, rng_key))

    def relaxation_times(
        self, num_draws: int = 1000, *, rng_key: Key[Array, ""] | None = None
    ) -> RelaxationDraws:
        """Draws of the times in which the process forgets, `[num_draws, n - 1]`, the longest first.

        Args:
            num_draws: their number.
            rng_key: as for `stationary`.
        """
        found = _relaxation_times(self._rates(num_draws, rng_key))
        return RelaxationDraws(np.asarray(found.times), np.asarray(found.oscillating).mean(0))

    def entropy_production(
        self, floor: float | None = None, num_draws: int = 1000, *, rng_key: Key[Array, ""] | None = None
    ) -> DerivedDraws:
        """Draws of the entropy production `[num_draws]`, in nats per unit of time.

        It cannot be below 0, so that it is biased upwards where the process is reversible or nearly so; and it is
        infinite where a link is there in one direction alone.

        Args:
            floor: a rate that stands for those that are 0, per unit of time, where infinite draws are not wanted.
            num_draws: their number.
            rng_key: as for `stationary`.

        Raises:
            ValueError: a floor that is not positive.
        """
        return DerivedDraws(self._follows(partial(_entropy_production, floor=floor), num_draws, rng_key))

    def to_datatree(
        self,
        num_draws: int = 1000,
        *,
        floor: float | None = None,
        coords: dict[str, Any] | None = None,
        rng_key: Key[Array, ""] | None = None,
    ) -> "xr.DataTree":
        """Draws of the rates and of all that follows from them, for ArviZ.

        The draws are independent; they are cut into four chains because ArviZ's diagnostics compare chains.

        Args:
            num_draws: in all chains together, a multiple of 4 from 16 on.
            floor: as for `entropy_production`.
            coords: names of states, such as `{"from_state": names, "to_state": names, "state": names}`; numbers
                without it.
            rng_key: as for `stationary`.

        Returns:
            A tree with the groups `posterior`: `rates` and `presence` (chain, draw, from_state, to_state),
            `label_noise` (chain, draw), `stationary` (..., state), `first_passage_times` (..., from_state, to_state),
            `relaxation_times` (..., mode), `entropy_production`; and `refinement`, what has no draws.

        Raises:
            ValueError: another number of draws.
        """
        import arviz_base
        import xarray as xr

        if num_draws < _CHAINS**2 or num_draws % _CHAINS:
            raise ValueError(
                f"num_draws must be a multiple of {_CHAINS}, at least {_CHAINS**2}, got {num_draws}: ArviZ takes more "
                "chains than draws for a mistake."
            )
        self._check_alone()
        drawn = _draw(self, _key(rng_key), (num_draws,))
        quantities = {
            **drawn._asdict(),
            "stationary": _stationary(drawn.rates),
            "first_passage_times": first_passage_times(drawn.rates),
            "relaxation_times": _relaxation_times(drawn.rates).times,
            "entropy_production": _entropy_production(drawn.rates, floor=floor),
        }
        by_chain = {
            name: np.asarray(values).reshape(_CHAINS, num_draws // _CHAINS, *values.shape[1:])
            for name, values in quantities.items()
        }
        states = np.arange(self.num_states)
        names = (
            dict.fromkeys(("from_state", "to_state", "state"), states) | {"mode": states[1:]} | (coords or {})
        )
        tree = arviz_base.from_dict({"posterior": by_chain}, dims=_DIMS, coords=names)
        tree["refinement"] = xr.DataTree(self._refinement(names["state"]))
        return tree

    def _refinement(self, states: Any) -> "xr.Dataset":
        import xarray as xr

        of_states = {name: ("state", np.asarray(getattr(self, name))) for name in ("initial", "no_data")}
        numbers = {
            name: ((), np.asarray(getattr(self, name)))
            for name in ("converged", "log_evidence", "reciprocal", "num_clipped_lags")
            if getattr(self, name) is not None
        }
        return xr.Dataset(of_states | numbers, coords={"state": states})

    def _at(self, p: float | ArrayLike, which: int) -> Float[Array, "*shape n n"]:
        """One after the other: a program for one probability serves all."""
        self._check_alone()
        p = np.asarray(p, float)
        if not ((p > 0) & (p < 1)).all():
            raise ValueError(f"p must be between 0 and 1, got {p.tolist()!r}.")
        found = [_quantiles(self, one)[which] for one in p.ravel()]
        return jnp.stack(found).reshape(*p.shape, self.num_states, self.num_states)

    def _rates(self, num_draws: int, rng_key: Key[Array, ""] | None) -> Array:
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}.")
        return self.sample(_key(rng_key), (num_draws,))

    def _follows(self, quantity: Any, num_draws: int, rng_key: Key[Array, ""] | None) -> np.ndarray:
        return np.asarray(quantity(self._rates(num_draws, rng_key)))

    def __repr__(self) -> str:
        return table(self)


_DIMS = {
    "rates": ["from_state", "to_state"],
    "presence": ["from_state", "to_state"],
    "stationary": ["state"],
    "first_passage_times": ["from_state", "to_state"],
    "relaxation_times": ["mode"],
}
_stationary = jax.jit(stationary)
_relaxation_times = jax.jit(relaxation_times)
_entropy_production = jax.jit(entropy_production, static_argnames="floor")


def _key(rng_key: Key[Array, ""] | None) -> Key[Array, ""]:
    return random.key(0) if rng_key is None else rng_key


@jax.jit
def _quantiles(
    posterior: RatePosterior, p: float | Float[Array, ""]
) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Equation (4), and the same were each link there."""
    w = posterior.presence
    is_there = p > 1 - w
    beyond = jnp.where(is_there, (p - 1 + w) / jnp.where(is_there, w, 1), 0.5)
    q, q_if_present = _quantiles_if_present(posterior, jnp.stack([beyond, jnp.full_like(beyond, p)]))
    return jnp.where(is_there, q, 0), q_if_present


def _quantiles_if_present(posterior: RatePosterior, p: Float[Array, "m n n"]) -> Float[Array, "m n n"]:
    n, log_rates = posterior.num_states, posterior.log_rates
    if log_rates is None:
        assert posterior.by_roots is not None
        return posterior.by_roots.rates.quantile(p)
    num_links = n * (n - 1)
    rest = log_rates.mode.shape[0] - num_links
    levels = jnp.pad(rates_to_vector(p), ((0, 0), (0, rest)), constant_values=0.5)
    return rates_from_vector(jnp.exp(log_rates.quantile(levels)[:, :num_links]), n)


@partial(jax.jit, static_argnames="shape")
def _draw(posterior: RatePosterior, key: Key[Array, ""], shape: tuple[int, ...]) -> RateDraws:
    """Equations (1) and (2)."""
    n = posterior.num_states
    key_rates, key_graph, key_pair, key_link = random.split(key, 4)
    rates, noise = _draw_if_present(posterior, key_rates, shape)
    links, dtype = posterior.links, rates.dtype
    is_reciprocal = random.uniform(key_graph, (*shape, 1, 1), dtype) < links.reciprocal
    above = jnp.triu(random.uniform(key_pair, (*shape, n, n), dtype), 1)
    both = above + jnp.swapaxes(above, -1, -2) < links.paired
    alone = random.uniform(key_link, (*shape, n, n), dtype) < links.independent
    there = jnp.where(is_reciprocal, both, alone) & ~jnp.eye(n, dtype=bool)
    return RateDraws(jnp.where(there, rates, 0), there, jnp.broadcast_to(noise, shape))


def _draw_if_present(
    posterior: RatePosterior, key: Key[Array, ""], shape: tuple[int, ...]
) -> tuple[Float[Array, "*shape n n"], Float[Array, "*#shape"]]:
    """Equation (2) were all links there, and label noise."""
    n, log_rates = posterior.num_states, posterior.log_rates
    if log_rates is None:
        assert posterior.by_roots is not None
        by_link, noise, noise_presence = posterior.by_roots
        key_rates, key_noise, key_noisy = random.split(key, 3)
        is_noisy = random.bernoulli(key_noisy, noise_presence, shape)
        return by_link.sample(key_rates, shape), jnp.where(is_noisy, noise.sample(key_noise, shape), 0)
    t = log_rates.sample(key, shape)
    rates = rates_from_vector(jnp.exp(t[..., : n * (n - 1)]), n)
    return rates, jax.nn.sigmoid(t[..., -1]) if t.shape[-1] > n * (n - 1) else posterior.label_noise.mean
