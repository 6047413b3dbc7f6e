"""What the network sees of paths: a base estimate, and numbers of order 1 for each link.

    q_b, N, R = two steps of EM on the counts with Gamma(1/2, 1/2m) priors, labels taken as right          (1)
    m = lam / (n - 1),   lam = (J + 1/2) / T,   J pairs of points in a row with different labels in the time T

Everything is without a unit: times enter as lam t, rates as q / lam. Nothing knows which state is which.

What a reader would get wrong: means over states and points of data in which a state was never seen (its counts are 0,
and are divided by at least 1).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .counts import change_rate, dwell_times
from .network_statistics import NetworkStatistics
from .refine import Parameters, counts_likelihood, em

NUM_FEATURES = 21


class Base(NamedTuple):
    """Equation (1); see `base_estimate`.

    Attributes:
        rates: q_b `[n, n]`, zeros on the diagonal.
        start: the rates before EM `[n, n]`.
        jumps: N `[n, n]`, expected.
        dwell: R `[n]`: time in each state, were each jump in the middle of its lag.
        change_rate: lam, the unit of time of the data.
        prior_time: 1 / 2m `[]`, m = lam / (n - 1): the time that the prior of EM, Gamma(1/2, 1/2m), is worth.
    """

    rates: Float[Array, "n n"]
    start: Float[Array, "n n"]
    jumps: Float[Array, "n n"]
    dwell: Float[Array, " n"]
    change_rate: Float[Array, ""]
    prior_time: Float[Array, ""]


def base_estimate(statistics: NetworkStatistics) -> Base:
    """Equation (1): two steps of EM with Gamma(1/2, 1/2m) priors, labels taken as right.

    Args:
        statistics: of `network_statistics`.
    """
    stats = statistics.paths
    n, lam = stats.num_states, change_rate(stats)
    prior_time = (n - 1) / (2 * lam)
    dwell = dwell_times(stats)
    pairs = jnp.asarray(stats.counts, float).sum(0)
    start = (pairs + 0.5) / (dwell[:, None] + prior_time) * ~jnp.eye(n, dtype=bool)
    begin = Parameters(start, _initial(statistics), jnp.zeros(()))
    fit = em(counts_likelihood(stats), begin, 0.5, prior_time, min_steps=2, max_steps=2)
    return Base(fit.parameters.rates, start, fit.expected.jumps, dwell, lam, prior_time)


def _initial(statistics: NetworkStatistics) -> Float[Array, " n"]:
    first = jnp.asarray(statistics.paths.first, float) + 0.5
    return first / first.sum()


def num_changes(statistics: NetworkStatistics) -> Float[Array, ""]:
    """J + 1/2, J the number of pairs of points in a row with different labels."""
    return change_rate(statistics.paths) * jnp.asarray(statistics.paths.total_time, float)


def edge_features(statistics: NetworkStatistics, base: Base) -> Float[Array, "n n features"]:
    """What the network sees of each link, and of its states; without units, and of order 1.

    Args:
        statistics: of `network_statistics`.
        base: of `base_estimate`.
    """
    stats, n, lam = statistics.paths, statistics.num_states, base.change_rate
    counts, lags = jnp.asarray(stats.counts, float), jnp.asarray(stats.lags, float)
    pairs, time = counts.sum(0), jnp.tensordot(lags, counts, 1)
    far = ((statistics.pair2, statistics.time2), (statistics.pair4, statistics.time4))
    blips = jnp.asarray(statistics.blips, float)
    number = counts.sum((1, 2))
    mean_lag = jnp.sum(number * lags) / number.sum()
    sd_lag = jnp.sqrt(jnp.sum(number * (lags - mean_lag) ** 2) / number.sum())
    columns = [feature for pair, t in ((pairs, time), *far) for feature in _lag_features(pair, t, lam)]
    columns += [
        jnp.log1p(blips),
        blips / (pairs + 1),
        jnp.log(base.rates / lam + 1e-4),
        jnp.log1p(base.jumps),
        jnp.log((base.rates + 1e-6 * lam) / (base.start + 1e-6 * lam)),
        jnp.log(lam * base.dwell + 0.1)[:, None],
        jnp.log1p(jnp.asarray(stats.first, float))[:, None],
        jnp.log(num_changes(statistics)),
        jnp.log(mean_lag * lam),
        jnp.log(sd_lag * lam + 1e-3),
        jnp.asarray(n / 6),
        jnp.eye(n),
    ]
    return 0.3 * jnp.stack([jnp.broadcast_to(column, (n, n)) for column in columns], -1)


def _lag_features(pairs: Any, time: Any, lam: Array) -> tuple[Array, ...]:
    """Of pairs so many places apart: their number, share of their row, and the mean lag of the row."""
    pairs, time = jnp.asarray(pairs, float), jnp.asarray(time, float)
    row = pairs.sum(1, keepdims=True)
    # a state that was never left has no lag
    mean_lag = time.sum(1, keepdims=True) / jnp.maximum(row, 1)
    return jnp.log1p(pairs), pairs / (row + 1), jnp.log(mean_lag * lam + 1e-3)


class Prepared(NamedTuple):
    """What the network needs of a data set, and training only once.

    Attributes:
        features: of `edge_features`.
        base: of `base_estimate`.
        initial: law of the first label `[n]`.
        log_changes: log (J + 1/2).
    """

    features: Float[Array, "n n features"]
    base: Base
    initial: Float[Array, " n"]
    log_changes: Float[Array, ""]


def prepare(statistics: NetworkStatistics) -> Prepared:
    """All that does not depend on the weights.

    Args:
        statistics: of `network_statistics`.
    """
    base = base_estimate(statistics)
    features = edge_features(statistics, base)
    return Prepared(features, base, _initial(statistics), jnp.log(num_changes(statistics)))
