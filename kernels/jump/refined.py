"""From data to rates with uncertainty: the steps of `refine`, `presence` and `laplace` in a row.

    start -> EM (-> Newton) -> which links are there -> Newton on theta = log q -> skewed Laplace          (1)
    log pi(theta) = log p(data; q) + sum_strong (a theta - b q) + sum_weak ((a + N) theta - (R + b) q)     (2)

Links with presence above 1/2 are strong; a weak one is held in the likelihood at its mean, presence times rate, and
has the conjugate posterior Gamma(a + N, R + b) for itself, of which (2) is exactly the log density. So one density
on R^(n (n - 1)) says everything about rates that are there, and w how likely that is. With wrong labels logit rho
is the last coordinate.

There is no network here, and no iteration to convergence that accuracy does not need.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logit
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .climb import climb, gradients_at_once
from .counts import PathStatistics, change_rate, coarsen, dwell_times, padded, with_float_counts
from .emission import confusion_matrix
from .generator import generator, rates_from_vector, rates_to_vector
from .laplace import LogDensity, SkewLaplace, Tell, laplace, newton
from .paths import is_traced
from .presence import Presence, drop_one_log_bayes, presence, quadrature_log_bayes, slab_log_evidence
from .refine import (
    Expected,
    Fit,
    LogLikelihood,
    Parameters,
    RatePrior,
    Slab,
    counts_likelihood,
    em,
    expectations,
    labels_likelihood,
    log_frequencies,
)
from .transition import LagGrid, num_clipped_lags, padded_lags

# log p(data; q, rho) of a matrix of rates
type RateDensity = Callable[[Array, Array], Array]

_FIRST_NOISE = 0.05
# of a link, beside those that were made, where the scale of the prior is read from the data
_MORE_JUMPS = 3


class Refined(NamedTuple):
    """What `refine_counts` and `refine_labels` return.

    Attributes:
        mean: posterior mean of the rates `[n, n]`: presence times the mean of a rate that is there.
        presence: of links, and of a reciprocal graph.
        log_rates: posterior of log q of links that are there, as `rates_to_vector` has them; then, where it was
            inferred, of logit rho.
        initial: pi_0 `[n]`.
        label_noise: rho; 0 for labels that are right.
        fit: how EM ended; with right labels its parameters are then moved to the mode with all links there, which is
            the estimate to take where slow links matter and none is known to be absent.
        converged: whether Newton did, weak links held.
        log_evidence: of the data, by N and R of EM: within a nat or two.
        num_clipped_lags: lags too long for the fastest rate; see `num_clipped_lags`.
    """

    mean: Float[Array, "n n"]
    presence: Presence
    log_rates: SkewLaplace
    initial: Float[Array, " n"]
    label_noise: Float[Array, ""]
    fit: Fit
    converged: Bool[Array, ""]
    log_evidence: Float[Array, ""]
    num_clipped_lags: Int[Array, ""]


def refine_counts(
    stats: PathStatistics, prior: RatePrior | None = None, *, max_newton: int = 10, tell: Tell | None = None
) -> Refined:
    """Rates from labels that are right, equation (1): milliseconds, whatever the number of paths.

    EM starts at (C + a) / (R + b) with R as if jumps were in the middle of their lags, and makes 5 to 20 steps.

    Args:
        stats: of `path_statistics`; traced ones are not coarsened, so give them few lags.
        prior: of rates and links; `RatePrior()` without it.
        max_newton: steps of Newton at most; 0 leaves the mode where EM ended.
        tell: as for `em` and `newton`; one function for all calls, since programs keep it.

    Examples:
        >>> from emberwalk.kernels.jump import path_statistics, refine_counts, simulate_batch
        >>> q = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 2.0], [0.0, 1.0, 0.0]])
        >>> times = np.linspace(0, 5, 51)
        >>> found = refine_counts(path_statistics(times, simulate_batch(0, q, times, 100)))
        >>> bool(abs(found.mean - q).max() < 0.3), found.presence.probability.round().tolist()
        (True, [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    """
    prior = prior or RatePrior()
    if is_traced(stats):
        return _refine_counts(stats, stats, prior, max_newton, tell)
    few = coarsen(stats)._replace(lag_bins=None)
    return _refine_counts(with_float_counts(padded(stats)), with_float_counts(few), prior, max_newton, tell)


@partial(jax.jit, static_argnames=("prior", "max_newton", "tell"))
def _refine_counts(
    stats: PathStatistics, few: PathStatistics, prior: RatePrior, max_newton: int, tell: Tell | None
) -> Refined:
    n = stats.num_states
    slab = prior.slab(change_rate(stats), n)
    jumps = jnp.asarray(stats.counts, float).sum(0)
    q = (jumps + slab.shape) / (dwell_times(stats)[:, None] + slab.rate)
    log_likelihood = counts_likelihood(stats)
    fit = em(log_likelihood, _start(q, 0.0), slab.shape, slab.rate, tell=tell)
    slab = prior.slab(_mean_exit_rate(fit.expected, change_rate(stats)), n)
    fit = fit._replace(parameters=_at_mode(log_likelihood, fit.parameters, slab, max_newton, tell))
    expected = expectations(log_likelihood, fit.parameters)
    links = presence(quadrature_log_bayes(few, fit.parameters, expected, slab), prior)

    def density_of(rates: Array, _: Array) -> Array:
        return log_likelihood(generator(rates), jnp.eye(n), fit.parameters.initial)

    posterior = _Posterior(links, fit, expected, slab)
    counts = jnp.asarray(stats.counts, float)
    saturated = jnp.sum(counts * log_frequencies(counts))
    log_density, start, _ = _log_posterior(density_of, posterior, infer_noise=False)
    mode = newton(log_density, start, max_steps=max_newton, tell=tell)
    log_rates = laplace(log_density, mode)
    return _refined(log_rates, mode.converged, posterior, jnp.asarray(stats.lags), saturated)


def _at_mode(
    log_likelihood: LogLikelihood, parameters: Parameters, slab: Slab, max_newton: int, tell: Tell | None
) -> Parameters:
    """All links there: EM is slow where lags hold a jump or more, and presence is judged at the other links' rates."""
    n = parameters.rates.shape[0]

    def log_density(theta: Array) -> Array:
        q = jnp.exp(theta)
        value = log_likelihood(generator(rates_from_vector(q, n)), jnp.eye(n), parameters.initial)
        return value + jnp.sum(slab.shape * theta - slab.rate * q)

    mode = newton(log_density, jnp.log(rates_to_vector(parameters.rates)), max_steps=max_newton, tell=tell)
    return parameters._replace(rates=rates_from_vector(jnp.exp(mode.position), n))


def _mean_exit_rate(expected: Expected, change_rate: Array) -> Float[Array, ""]:
    """Over states, whatever the time in each: the scale of the prior.

    The observed change rate weighs states by the time in them, slow ones more. As a scale it makes intervals of 50 and
    90 % hold .46 and .86 of the rates of the prior (30 paths), this one .47 and .87, the true scale .51 and .90. Each
    link of a state has some more jumps at that rate, so that the scale of few jumps stays near it.
    """
    more = _MORE_JUMPS * (expected.dwell.shape[0] - 1)
    return jnp.mean((expected.jumps.sum(1) + more) / (expected.dwell + more / change_rate))


def _start(q: Float[Array, "n n"], label_noise: ArrayLike) -> Parameters:
    n = q.shape[0]
    q = jnp.where(jnp.eye(n, dtype=bool), 0, q)
    return Parameters(q, jnp.full(n, 1 / n, q.dtype), jnp.asarray(label_noise, q.dtype))


def fit_labels(
    states: Int[ArrayLike, "K L"],
    grid: LagGrid,
    stats: PathStatistics,
    mask: Bool[ArrayLike, "K L"] | None = None,
    prior: RatePrior | None = None,
    *,
    label_noise: float | None = None,
    num_em: int = 10,
    tell: Tell | None = None,
) -> Fit:
    """The EM of labels that may be wrong, of which `refine_labels` goes on.

    Args:
        states: as for `refine_labels`, as what follows.
        grid: of lags.
        stats: for the start and the unit of time.
        mask: True where a label was seen.
        prior: of rates and links.
        label_noise: the probability that a label is wrong, above 0; inferred without it.
        num_em: steps of EM.
        tell: as for `em`.

    Raises:
        ValueError: a label noise that is not between 0 and (n - 1) / n.

    Examples:
        >>> from emberwalk.kernels.jump import fit_labels, lag_grid, path_statistics, simulate_batch
        >>> q, times = np.array([[0.0, 1.0], [0.5, 0.0]]), np.linspace(0, 5, 51)
        >>> labels = simulate_batch(0, q, times, 60)
        >>> fit = fit_labels(labels, lag_grid(times), path_statistics(times, labels, exact=False))
        >>> bool(fit.parameters.label_noise < 0.01)
        True
    """
    _check_noise(label_noise, stats.num_states)
    grid, stats = _padded(grid, stats)
    return _fit_labels(states, grid, stats, mask, label_noise, prior or RatePrior(), num_em, tell)


def refine_labels(
    states: Int[ArrayLike, "K L"],
    grid: LagGrid,
    stats: PathStatistics,
    mask: Bool[ArrayLike, "K L"] | None = None,
    prior: RatePrior | None = None,
    *,
    label_noise: float | None = None,
    num_em: int = 10,
    max_newton: int = 10,
    fit: Fit | None = None,
    tell: Tell | None = None,
) -> Refined:
    """Rates from labels that may be wrong, equation (1) through the filter: a second for 300 paths of 100 labels.

    Args:
        states: labels `[K, L]`.
        grid: `lag_grid(times, mask)`.
        stats: `path_statistics(times, states, mask, exact=False)`, for the start and the unit of time.
        mask: True where a label was seen.
        prior: of rates and links; `RatePrior()` without it.
        label_noise: the probability that a label is wrong, above 0; inferred without it.
        num_em: steps of EM; more do not change the result with up to one label in ten wrong.
        max_newton: steps of Newton at most.
        fit: of `fit_labels` with the same arguments, where that was called before.
        tell: as for `em` and `newton`; one function for all calls, since programs keep it.

    Raises:
        ValueError: a label noise that is not between 0 and (n - 1) / n.

    Examples:
        >>> from emberwalk.kernels.jump import lag_grid, path_statistics, refine_labels, simulate_batch
        >>> q, times = np.array([[0.0, 1.0], [0.5, 0.0]]), np.linspace(0, 5, 51)
        >>> labels = simulate_batch(0, q, times, 60, label_noise=0.1)
        >>> stats = path_statistics(times, labels, exact=False)
        >>> found = refine_labels(labels, lag_grid(times), stats)
        >>> bool(abs(found.label_noise - 0.1) < 0.02), bool(abs(found.mean - q).max() < 0.3)
        (True, True)
    """
    _check_noise(label_noise, stats.num_states)
    prior, (grid, stats) = prior or RatePrior(), _padded(grid, stats)
    if fit is None:
        fit = _fit_labels(states, grid, stats, mask, label_noise, prior, num_em, tell)
    return _refine_labels(states, grid, stats, mask, label_noise, fit, prior, max_newton, tell)


def _check_noise(label_noise: float | None, n: int) -> None:
    if label_noise is not None and not 0 < label_noise < (n - 1) / n:
        raise ValueError(
            f"label_noise must be above 0 and below (n - 1) / n = {(n - 1) / n:.4g}, got {label_noise!r}. For labels "
            "that are right take refine_counts."
        )


def _padded(grid: LagGrid, stats: PathStatistics) -> tuple[LagGrid, PathStatistics]:
    if is_traced(grid, stats):
        return grid, stats
    return grid._replace(lags=padded_lags(grid.lags)), padded(stats)


def _likelihood(
    states: Array, grid: LagGrid, mask: Array | None, label_noise: Array | None, n: int
) -> LogLikelihood:
    """Through the filter; a given label noise stays what it is, whatever law of labels comes in."""
    of_labels = labels_likelihood(states, grid, mask)

    def log_likelihood(Q: Array, confusion: Array, initial: Array) -> Array:
        if label_noise is not None:
            confusion = confusion_matrix(label_noise, n).astype(Q.dtype)
        return of_labels(Q, confusion, initial)

    return log_likelihood


@partial(jax.jit, static_argnames=("prior", "num_em", "tell"))
def _fit_labels(
    states: Array,
    grid: LagGrid,
    stats: PathStatistics,
    mask: Array | None,
    label_noise: Array | None,
    prior: RatePrior,
    num_em: int,
    tell: Tell | None,
) -> Fit:
    n = stats.num_states
    slab = prior.slab(change_rate(stats), n)
    counts = jnp.asarray(stats.counts, float)
    dwell = jnp.sum(counts * jnp.asarray(stats.lags, float)[:, None, None], (0, 2))
    # a state in which no lag begins has no time of its own
    q = (counts.sum(0) + 0.5) / jnp.where(dwell > 0, dwell, slab.rate)[:, None]
    start = _start(q, _FIRST_NOISE if label_noise is None else label_noise)
    log_likelihood = _likelihood(states, grid, mask, label_noise, n)
    return em(log_likelihood, start, slab.shape, slab.rate, min_steps=num_em, max_steps=num_em, tell=tell)


@partial(jax.jit, static_argnames=("prior", "max_newton", "tell"))
def _refine_labels(
    states: Array,
    grid: LagGrid,
    stats: PathStatistics,
    mask: Array | None,
    label_noise: Array | None,
    fit: Fit,
    prior: RatePrior,
    max_newton: int,
    tell: Tell | None,
) -> Refined:
    n = stats.num_states
    log_likelihood = _likelihood(states, grid, mask, label_noise, n)
    expected = expectations(log_likelihood, fit.parameters)
    slab = prior.slab(_mean_exit_rate(expected, change_rate(stats)), n)
    links = presence(drop_one_log_bayes(log_likelihood, fit.parameters, expected, slab), prior)

    def density_of(rates: Array, rho: Array) -> Array:
        return log_likelihood(generator(rates), confusion_matrix(rho, n), fit.parameters.initial)

    posterior = _Posterior(links, fit, expected, slab)
    log_density, start, half = _log_posterior(density_of, posterior, infer_noise=label_noise is None)
    # through a filter second derivatives are most of the program and of the time
    found = climb(
        log_density, start, half=half, max_steps=max_newton, batch_size=gradients_at_once(), tell=tell
    )
    return _refined(found.fit, found.converged, posterior, jnp.asarray(grid.lags), jnp.zeros(()))


class _Posterior(NamedTuple):
    """What the last two steps of (1) know from the ones before."""

    presence: Presence
    fit: Fit
    expected: Expected
    slab: Slab


def _refined(
    log_rates: SkewLaplace, converged: Array, known: _Posterior, lags: Array, constant: Array
) -> Refined:
    q, initial, rho = known.fit.parameters
    n = q.shape[0]
    num_links = n * (n - 1)
    there = rates_from_vector(mean_of_rates(log_rates)[:num_links], n)
    w = known.presence.probability
    noise = jax.nn.sigmoid(log_rates.mode[-1]) if log_rates.mode.shape[0] > num_links else rho
    N, R = known.expected.jumps, known.expected.dwell[:, None]
    links = ~jnp.eye(n, dtype=bool)
    # the likelihood of N jumps in R is that of the data at q, and everywhere if jumps had been watched
    scaled = slab_log_evidence(known.expected, known.slab) - N * jnp.log(jnp.where(links, q, 1)) + R * q
    watched = jnp.where(links, scaled, 0)
    log_evidence = constant + known.expected.log_likelihood + watched.sum() + known.presence.log_evidence
    return Refined(
        mean=w * there,
        presence=known.presence,
        log_rates=log_rates,
        initial=initial,
        label_noise=noise,
        fit=known.fit,
        converged=converged,
        log_evidence=log_evidence,
        num_clipped_lags=num_clipped_lags(w * there, lags),
    )


def mean_of_rates(log_rates: SkewLaplace) -> Float[Array, " d"]:
    """Of links that are there, at most the rate three sd above the mode.

    A tail to the right so heavy that it has no mean is that of the density, not of the posterior, which falls with
    the prior.
    """
    return jnp.exp(log_rates.mode + jnp.minimum(log_rates.log_moment(1.0), 3 * log_rates.sd))


def variance_of_rates(log_rates: SkewLaplace) -> Float[Array, " d"]:
    """Of links that are there; as a difference of second moment and squared mean float32 would lose it.

    Where the tail is so heavy that there is no second moment, that of a log-normal with the same sd.
    """
    first, second = log_rates.log_moment(1.0), log_rates.log_moment(2.0)
    heavy = second >= 6 * log_rates.sd
    apart = jnp.where(heavy, 0.0, second) - 2 * jnp.where(heavy, 0.0, first)
    relative = jnp.expm1(jnp.where(heavy, log_rates.sd**2, apart))
    return mean_of_rates(log_rates) ** 2 * jnp.maximum(relative, 0)


def _log_posterior(
    density_of: RateDensity, known: _Posterior, infer_noise: bool
) -> tuple[LogDensity, Array, Array]:
    """Equation (2), the vector that EM ended at, and a root of the covariance as if jumps had been counted."""
    N, R, (a, b, _) = known.expected.jumps, known.expected.dwell[:, None], known.slab
    n = N.shape[0]
    w = known.presence.probability
    strong = rates_to_vector(w) > 0.5
    shape = jnp.where(strong, a, a + rates_to_vector(N))
    rate = jnp.where(strong, b, b + rates_to_vector(jnp.broadcast_to(R, N.shape)))
    here = rates_to_vector((N + a) / (R + b))
    held = rates_to_vector(w) * here
    rho = known.fit.parameters.label_noise

    def log_density(theta: Array) -> Array:
        log_q, rest = theta[: len(here)], theta[len(here) :]
        q = jnp.exp(log_q)
        noise = jax.nn.sigmoid(rest[0]) if infer_noise else rho
        value = density_of(rates_from_vector(jnp.where(strong, q, held), n), noise)
        value = value + jnp.sum(shape * log_q - rate * q)
        if infer_noise:
            value = value + 1.5 * jax.nn.log_sigmoid(rest[0]) + 10.5 * jax.nn.log_sigmoid(-rest[0])
        return value

    start, precision = jnp.log(here), rates_to_vector(N) + a
    if infer_noise:
        start = jnp.append(start, logit(rho))
        precision = jnp.append(precision, jnp.maximum(known.expected.wrong_labels, 0) + 1.5)
    return log_density, start, jnp.diag(precision**-0.5)
