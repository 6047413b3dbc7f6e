"""Markov jump processes by counts: all that paths with right labels say about rates, as one observed array.

    log p(labels) = sum_k log pi_0(y_k1) + sum_u sum_ij C^u_ij log P(t_u)_ij                                (1)
    relative:       sum_i F_i log(pi_0i / f_i) + sum_u sum_ij C^u_ij log(P(t_u)_ij / c^u_ij)                (2)

F counts first labels, C pairs by lag; f and c are their shares. (2) is (1) less what the data say of themselves, which
no rate changes: term by term, so that float32 keeps the digits that matter when C holds millions.

What a reader would get wrong: (1) is one number for all paths. Comparing models path by path needs `MarkovJumpProcess`.
"""

import warnings

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from ..kernels.jump import PathStatistics, num_clipped_lags, transition_matrices
from ..kernels.jump.paths import is_traced
from ..kernels.jump.refine import log_frequencies
from ..kernels.jump.transition import log_transitions
from .jump_inputs import MOST_PAIRS, Initial, broadcast_batch, check_value, statistics_batch
from .jump_law import JumpLaw


class MarkovJumpCounts(JumpLaw):
    """Counts of the pairs of states seen in a row: event shape `(U, n, n)`, value `statistics.counts`.

    The fast path: the cost does not depend on the number of paths, and counts of a stream can be added (`merge`).
    Counts of several subjects at the same lags, stacked, go with rates `[S, n, n]` in a plate.

    Args:
        rates: q `[..., n, n]`, per unit of time; the diagonal is ignored.
        statistics: of `path_statistics`, labels being right; may be traced.
        initial: as for `MarkovJumpProcess`; its law weighs the first labels.
        relative: True leaves out what the data say of themselves, equation (2): for more than 1e6 pairs in float32.

    Raises:
        ValueError: negative rates, statistics of another number of states, an initial that is no law.
        NotImplementedError: when a draw is asked for.

    Warns:
        UserWarning: above 1e6 pairs in float32 without `relative`.

    A density is NaN where traced rates are negative or NaN.

    Examples:
        >>> from emberwalk.kernels.jump import path_statistics, rates_from_vector, simulate_batch
        >>> from emberwalk.models import MarkovJumpCounts
        >>> times = np.linspace(0.0, 5.0, 26)
        >>> labels = simulate_batch(0, np.array([[0.0, 1.0], [0.5, 0.0]]), times, num_paths=1000)
        >>> def model(stats):
        ...     log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1))
        ...     law = MarkovJumpCounts(rates_from_vector(jnp.exp(log_rates), 2), stats)
        ...     numpyro.sample("counts", law, obs=stats.counts)
        >>> mcmc = MCMC(NUTS(model), num_warmup=30, num_samples=30, progress_bar=False)
        >>> mcmc.run(random.key(0), path_statistics(times, labels))
        >>> rates = jnp.exp(mcmc.get_samples()["log_rates"].mean(0))
        >>> bool(jnp.abs(rates - jnp.array([1.0, 0.5])).max() < 0.1)
        True
    """

    pytree_data_fields = ("statistics",)
    pytree_aux_fields = ("relative",)
    support = constraints.independent(constraints.nonnegative_integer, 3)

    def __init__(
        self,
        rates: Float[ArrayLike, "*batch n n"],
        statistics: PathStatistics,
        *,
        initial: Initial = None,
        relative: bool = False,
        validate_args: bool | None = None,
    ):
        of_process = self.take_process(rates, initial)
        self.statistics, self.relative = statistics, relative
        batch = broadcast_batch(**of_process, statistics=statistics_batch(statistics, self.num_states))
        _warn_of_rounding(statistics, relative)
        super().__init__(batch, np.shape(statistics.counts)[-3:], validate_args=validate_args)

    @property
    def num_clipped_lags(self) -> Array:
        """Lags too long for the fastest rate, see `kernels.jump.num_clipped_lags`."""
        lags = jnp.asarray(self.statistics.lags)
        return jnp.vectorize(num_clipped_lags, signature="(n,n),(u)->()")(self.rates, lags)

    def log_prob(self, value: ArrayLike, intermediates=None) -> Float[Array, "..."]:
        """Equation (1), or (2)."""
        check_value(value, self.batch_shape, self.event_shape, "MarkovJumpCounts")
        lags = jnp.asarray(self.statistics.lags)
        P = jnp.vectorize(transition_matrices, signature="(n,n),(u)->(u,n,n)")(jnp.asarray(self.rates), lags)
        of_pairs = self._sum(value, log_transitions(P), 3)
        # a state in which nothing began may be one in which nothing can
        begun = jnp.asarray(self.statistics.first) > 0
        of_starts = self._sum(self.statistics.first, jnp.log(jnp.where(begun, self.initial_law, 1)), 1)
        return jnp.where(self.has_rates, of_pairs + of_starts, jnp.nan)

    def _sum(self, counts: ArrayLike, log_law: Array, behind: int) -> Float[Array, "..."]:
        """Of counts times log probabilities."""
        counts = jnp.asarray(counts, log_law.dtype)
        terms = counts * (log_law - (log_frequencies(counts) if self.relative else 0))
        return terms.sum(tuple(range(-behind, 0)))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts do not say how long paths are, so there is nothing to draw.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "MarkovJumpCounts cannot be drawn from: counts do not say when paths begin and end. Draw paths from "
            "MarkovJumpProcess(rates, times) and count them by path_statistics."
        )


def _warn_of_rounding(statistics: PathStatistics, relative: bool) -> None:
    if relative or is_traced(statistics.counts) or jnp.result_type(float) == jnp.float64:
        return
    number = int(np.asarray(statistics.counts, np.int64).sum())
    if number > MOST_PAIRS:
        warnings.warn(
            f"MarkovJumpCounts: {number} pairs. In float32 the sum of so many logarithms is known to .04 only, and "
            "Metropolis is wrong with it: pass relative=True, or use x64.",
            UserWarning,
            stacklevel=3,
        )
