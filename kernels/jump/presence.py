"""Which links are there: Bayes factors of each, and the graph that they make.

For a link i -> j let lb_ij be the log of the evidence with a rate from the slab Gamma(a, b) over that without the
link. With o = logit(link_probability), p_1 = link_probability, and all links there as the reference,

    reciprocal:   L_r = sum_{i<j}  [log p_1 + softplus(-(o + lb_ij + lb_ji))]                              (1)
    directed:     L_d = sum_{i!=j} [log p_1 + softplus(-(o + lb_ij))]                                      (2)
    kappa = sigmoid(logit(reciprocal) + L_r - L_d)                                                         (3)
    w_ij = kappa sigmoid(o + lb_ij + lb_ji) + (1 - kappa) sigmoid(o + lb_ij)                               (4)

From least to most work: `conjugate_log_bayes` knows N and R of EM alone, and takes two-step paths for jumps when
there are many; `drop_one_log_bayes` looks at the likelihood without the link once; `quadrature_log_bayes` integrates
it over the rate, the others held.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from .counts import PathStatistics
from .emission import confusion_matrix
from .generator import generator
from .refine import Expected, LogLikelihood, Matrix, Parameters, RatePrior, Slab
from .transition import exponentials, log_transitions

_NODES = 24


class Presence(NamedTuple):
    """What `presence` returns.

    Attributes:
        probability: w `[n, n]` of each link, zeros on the diagonal.
        reciprocal: kappa, the probability that links are reciprocal.
        log_evidence: of all graphs together, over that of the one with all links.
        independent: sigmoid(o + lb) `[n, n]`, of each link in a directed graph.
        paired: sigmoid(o + lb + lb') `[n, n]`, of each pair in a reciprocal one.
    """

    probability: Matrix
    reciprocal: Float[Array, ""]
    log_evidence: Float[Array, ""]
    independent: Matrix
    paired: Matrix


def presence(log_bayes: Matrix, prior: RatePrior) -> Presence:
    """Equations (1) to (4).

    Args:
        log_bayes: lb `[n, n]`; the diagonal is ignored.
        prior: of links.

    Examples:
        >>> from emberwalk.kernels.jump import RatePrior, presence
        >>> found = presence(jnp.array([[0.0, 10.0, -9.0], [10.0, 0.0, -9.0], [-9.0, -9.0, 0.0]]), RatePrior())
        >>> found.probability.round(2).tolist(), bool(found.reciprocal > 0.7)
        ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], True)
    """
    links = ~jnp.eye(log_bayes.shape[0], dtype=bool)
    log_bayes = jnp.where(links, log_bayes, 0)
    odds = jnp.log(prior.link_probability) - jnp.log1p(-prior.link_probability)
    alone, paired = odds + log_bayes, odds + log_bayes + log_bayes.T
    there = jnp.log(jnp.asarray(prior.link_probability, log_bayes.dtype))
    directed = jnp.where(links, there + jax.nn.softplus(-alone), 0).sum()
    # each pair stands twice
    reciprocal = jnp.where(links, there + jax.nn.softplus(-paired), 0).sum() / 2
    log_odds = jnp.log(prior.reciprocal) - jnp.log1p(-jnp.asarray(prior.reciprocal, log_bayes.dtype))
    kappa = jax.nn.sigmoid(log_odds + reciprocal - directed)
    independent = jnp.where(links, jax.nn.sigmoid(alone), 0)
    both = jnp.where(links, jax.nn.sigmoid(paired), 0)
    log_evidence = jnp.logaddexp(
        jnp.log(prior.reciprocal) + reciprocal,
        jnp.log1p(-jnp.asarray(prior.reciprocal, log_bayes.dtype)) + directed,
    )
    return Presence(kappa * both + (1 - kappa) * independent, kappa, log_evidence, independent, both)


def slab_log_evidence(expected: Expected, slab: Slab) -> Matrix:
    """log of the integral of q^N exp(-q R) over Gamma(a, b), for each link `[n, n]`."""
    a, b, N, R = slab.shape, slab.rate, expected.jumps, expected.dwell[:, None]
    return gammaln(a + N) - gammaln(a) + a * jnp.log(b) - (a + N) * jnp.log(b + R)


def conjugate_log_bayes(expected: Expected, slab: Slab) -> Matrix:
    """lb as if N jumps in a time R had been watched, over the spike.

    Args:
        expected: N and R of EM.
        slab: of `RatePrior.slab`.

    Examples:
        >>> from emberwalk.kernels.jump import Expected, RatePrior, conjugate_log_bayes
        >>> slab = RatePrior().slab(jnp.float32(1.0), 2)
        >>> N, R = jnp.array([[0.0, 30.0], [0.0, 0.0]]), jnp.array([20.0, 20.0])
        >>> found = conjugate_log_bayes(Expected(N, R, *jnp.zeros((4, 2))), slab)
        >>> bool(found[0, 1] > 100), bool(found[1, 0] < -5)
        (True, True)
    """
    N, R, spike = expected.jumps, expected.dwell[:, None], slab.spike
    return slab_log_evidence(expected, slab) - (N * jnp.log(spike) - spike * R)


def quadrature_log_bayes(
    stats: PathStatistics, parameters: Parameters, expected: Expected, slab: Slab
) -> Matrix:
    """lb by quadrature over one rate at a time, the others held; for right labels.

    24 points of the trapezoid rule in z = sqrt(q), in which the posterior is nearly normal, from 0 to six standard
    deviations above what N and R say.

    Args:
        stats: few lags: `coarsen` them.
        parameters: the rates that are held.
        expected: N and R, for the range.
        slab: of `RatePrior.slab`.

    Examples:
        >>> from emberwalk.kernels.jump import (
        ...     Parameters, RatePrior, change_rate, counts_likelihood, expectations, path_statistics,
        ...     quadrature_log_bayes,
        ... )
        >>> stats = path_statistics(np.arange(400.0) / 4, np.arange(400)[None] // 4 % 3)  # round and round
        >>> here = Parameters(jnp.ones((3, 3)) - jnp.eye(3), jnp.ones(3) / 3, jnp.zeros(()))
        >>> slab = RatePrior().slab(change_rate(stats), 3)
        >>> found = quadrature_log_bayes(stats, here, expectations(counts_likelihood(stats), here), slab)
        >>> bool(found[0, 1] > 5), bool(found[0, 2] < 0)
        (True, True)
    """
    q = parameters.rates
    Q, size = generator(q), q.shape[0]
    counts = jnp.asarray(stats.counts, q.dtype)
    most = expected.jumps + slab.shape
    ends = jnp.sqrt((most + 6 * jnp.sqrt(most) + 6) / (expected.dwell[:, None] + slab.rate))
    fractions = jnp.linspace(0, 1, _NODES, dtype=q.dtype)[1:]
    # up to the first node the integrand grows as z^(2a - 1), whose integral is known; half a weight at the last node
    first = jnp.maximum(1, 0.5 + 0.5 / slab.shape)
    weights = jnp.where(fractions < 1, 1, 0.5).at[0].set(first) / (_NODES - 1)
    log_weights = jnp.log(weights).astype(q.dtype)
    of_gamma = slab.shape * jnp.log(slab.rate) - gammaln(jnp.asarray(slab.shape, q.dtype))

    def log_table(Q: Matrix, i: Array, j: Array, rate: Array) -> Array:
        change = jnp.zeros_like(Q).at[i, j].add(rate - q[i, j]).at[i, i].add(q[i, j] - rate)
        return log_transitions(exponentials(Q + change, stats.lags))

    def of_link(link: Array) -> Array:
        i, j = link // size, link % size
        z = fractions * ends[i, j]
        without = log_table(Q, i, j, jnp.zeros((), q.dtype))
        tables = jax.vmap(lambda rate: log_table(Q, i, j, rate))(z**2)
        # term by term: the sums themselves are large
        gain = jnp.sum(counts * (tables - without), (1, 2, 3))
        density = of_gamma + (2 * slab.shape - 1) * jnp.log(z) - slab.rate * z**2 + jnp.log(2.0)
        return jax.nn.logsumexp(gain + density + log_weights) + jnp.log(ends[i, j])

    return lax.map(of_link, jnp.arange(size * size)).reshape(size, size)


def drop_one_log_bayes(
    log_likelihood: LogLikelihood, parameters: Parameters, expected: Expected, slab: Slab
) -> Matrix:
    """lb from the likelihood without each link, one evaluation a link; for labels that may be wrong.

    With the link the evidence is that of N jumps in R, scaled to the likelihood at the rates.

    Args:
        log_likelihood: as for `em`.
        parameters: the rates that are held.
        expected: N, R and the log-likelihood, at these rates.
        slab: of `RatePrior.slab`.

    Examples:
        >>> from emberwalk.kernels.jump import (
        ...     Parameters, RatePrior, drop_one_log_bayes, expectations, labels_likelihood, lag_grid,
        ... )
        >>> log_likelihood = labels_likelihood(jnp.arange(100)[None] // 4 % 3, lag_grid(np.arange(100.0) / 4))
        >>> here = Parameters(jnp.ones((3, 3)) - jnp.eye(3), jnp.ones(3) / 3, jnp.float32(0.02))
        >>> expected = expectations(log_likelihood, here)
        >>> found = drop_one_log_bayes(log_likelihood, here, expected, RatePrior().slab(jnp.float32(1.0), 3))
        >>> bool(found[0, 1] > found[0, 2])
        True
    """
    q, initial, noise = parameters
    size = q.shape[0]
    confusion = confusion_matrix(noise, size).astype(q.dtype)

    def without(link: Array) -> Array:
        dropped = q.at[link // size, link % size].set(0)
        return log_likelihood(generator(dropped), confusion, initial)

    l0 = lax.map(without, jnp.arange(size * size)).reshape(size, size)
    N, R = expected.jumps, expected.dwell[:, None]
    here = N * jnp.log(jnp.where(q > 0, q, 1)) - R * q
    return expected.log_likelihood - l0 - here + slab_log_evidence(expected, slab)
