"""Rates by expectation and maximisation, from one gradient of the log-likelihood.

With all n^2 entries of Q as free numbers, G = d log p / dQ,

    N_ij = q_ij G_ij   (i != j),   R_i = G_ii                                                              (1)

are the expected number of jumps from i to j and the expected time in i, given what was seen; sum_i R_i is the total
time. With a prior Gamma(a, b) on each rate

    q_ij <- (N_ij + a) / (R_i + b)                                                                         (2)

raises the posterior density of log q at every step. The same gradient through the filter gives wrong labels and
starts, with E the law of labels and the priors Beta(1.5, 10.5) and Dirichlet(2):

    rho <- (sum_{i != j} E_ij G^E_ij + 1/2) / (sum_ij E_ij G^E_ij + 10),   pi_i <- pi_i G^pi_i + 1, normalised  (3)

EM for discretely observed chains: Bladt and Sørensen (2005), Hobolth and Jensen (2005). What a reader would get wrong:
a P whose rows are normalised, or a diagonal that is made again from the rates inside the differentiated function,
has another derivative, and R is then wrong in silence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .counts import PathStatistics
from .emission import confusion_matrix, scaled_labels
from .filter import path_log_likelihood
from .generator import generator
from .laplace import Tell
from .transition import LagGrid, exponentials, log_transitions

type Matrix = Float[Array, "n n"]
type Vector = Float[Array, " n"]
type Scalar = Float[Array, ""]
# (Q, E, pi_0) -> log p of all paths, Q with all its entries free
type LogLikelihood = Callable[[Matrix, Matrix, Vector], Scalar]

# Beta(1.5, 10.5) on the probability of a wrong label, at its mode
_WRONG, _LABELS = 0.5, 10.0
# A spike is a link this much slower than the typical one.
_SPIKE = 1e-3


class Slab(NamedTuple):
    """The prior of a rate in the units of the data: Gamma(shape, rate) if the link is there, else `spike`.

    Attributes:
        shape: a.
        rate: b, in units of time.
        spike: epsilon, per unit of time.
    """

    shape: Float[ArrayLike, ""]
    rate: Scalar
    spike: Scalar


@dataclass(frozen=True)
class RatePrior:
    """A link is there with some probability, and its rate is then Gamma, on the scale that the data show.

        m = lam / (link_probability (n - 1)),   q_ij ~ Gamma(shape, shape / m) or the spike 1e-3 m

    with lam the observed changes of label per unit of time. Either links are reciprocal (i to j is there if and only
    if j to i is), or each is there by itself; which of the two is inferred.

    Attributes:
        shape: a; 2 keeps a link that is there away from 0, below 1 does not.
        link_probability: how many of the links are there, between 0 and 1.
        reciprocal: probability that links are reciprocal; 0 for directed graphs, 1 for physics near equilibrium.

    Raises:
        ValueError: a shape that is not positive, probabilities outside their range.

    Examples:
        >>> from emberwalk.kernels.jump import RatePrior
        >>> RatePrior(link_probability=0.5).slab(jnp.float32(2.0), num_states=3).rate
        Array(1., dtype=float32)
    """

    shape: float = 2.0
    link_probability: float = 0.65
    reciprocal: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.shape < float("inf"):
            raise ValueError(f"shape must be a positive number, got {self.shape!r}.")
        if not 0 < self.link_probability < 1:
            raise ValueError(f"link_probability must be between 0 and 1, got {self.link_probability!r}.")
        if not 0 <= self.reciprocal <= 1:
            raise ValueError(f"reciprocal must be a probability, got {self.reciprocal!r}.")

    def slab(self, change_rate: Scalar, num_states: int) -> Slab:
        """The prior in the units of the data.

        Args:
            change_rate: lam, of `counts.change_rate`.
            num_states: n.
        """
        typical = change_rate / (self.link_probability * (num_states - 1))
        return Slab(self.shape, self.shape / typical, _SPIKE * typical)


class Parameters(NamedTuple):
    """What EM changes.

    Attributes:
        rates: q `[n, n]`, zeros on the diagonal.
        initial: pi_0 `[n]`.
        label_noise: rho; 0 for labels that are right.
    """

    rates: Matrix
    initial: Vector
    label_noise: Scalar


class Expected(NamedTuple):
    """What the paths did, as far as is known; equation (1).

    Attributes:
        jumps: N `[n, n]`, zeros on the diagonal.
        dwell: R `[n]`, a time.
        starts: paths that began in each state `[n]`.
        wrong_labels: their number; 0 for labels that are right.
        labels: all of them; 0 for labels that are right.
        log_likelihood: of the parameters that this was expected with.
    """

    jumps: Matrix
    dwell: Vector
    starts: Vector
    wrong_labels: Scalar
    labels: Scalar
    log_likelihood: Scalar


class Fit(NamedTuple):
    """What `em` returns.

    Attributes:
        parameters: after the last step.
        expected: what the last step was made from: rates are (jumps + a) / (dwell + b).
        num_steps: steps made.
        change: the largest relative change of a rate in the last step.
        converged: whether that is below the tolerance.
    """

    parameters: Parameters
    expected: Expected
    num_steps: Int[Array, ""]
    change: Scalar
    converged: Bool[Array, ""]


def counts_likelihood(stats: PathStatistics) -> LogLikelihood:
    """The log-likelihood of right labels, less that of the observed frequencies.

    Term by term: a sum over 1e7 pairs is -1e7, of which float32 knows half a nat; the difference is small.

    Args:
        stats: of `path_statistics`.

    Examples:
        >>> from emberwalk.kernels.jump import counts_likelihood, generator, path_statistics
        >>> stats = path_statistics(np.array([0.0, 0.5]), np.array([[0, 1]]))
        >>> log_likelihood = counts_likelihood(stats)
        >>> round(float(log_likelihood(generator(jnp.ones((2, 2))), jnp.eye(2), jnp.ones(2) / 2)), 4)
        -1.845
    """

    def log_likelihood(Q: Matrix, confusion: Matrix, initial: Vector) -> Scalar:
        log_P = log_transitions(exponentials(Q, stats.lags))
        counts = jnp.asarray(stats.counts, Q.dtype)
        terms = counts * (log_P - log_frequencies(counts))
        return terms.sum() + jnp.sum(jnp.asarray(stats.first, Q.dtype) * jnp.log(initial))

    return log_likelihood


def log_frequencies(counts: Float[Array, "U n n"]) -> Float[Array, "U n n"]:
    """log (C / sum of its row), 0 where nothing was counted."""
    total = jnp.broadcast_to(counts.sum(-1, keepdims=True), counts.shape)
    return jnp.where(counts > 0, jnp.log(jnp.where(counts > 0, counts, 1) / jnp.maximum(total, 1)), 0)


def labels_likelihood(
    states: Int[ArrayLike, "K L"], grid: LagGrid, mask: Bool[ArrayLike, "K L"] | None = None
) -> LogLikelihood:
    """The log-likelihood of labels that may be wrong, by the filter.

    Args:
        states: labels `[K, L]`.
        grid: `lag_grid(times, mask)`, with an index for each path.
        mask: True where a label was seen.

    Examples:
        >>> from emberwalk.kernels.jump import generator, labels_likelihood, lag_grid
        >>> log_likelihood = labels_likelihood(jnp.array([[0, 1]]), lag_grid(np.array([[0.0, 0.5]])))
        >>> round(float(log_likelihood(generator(jnp.ones((2, 2))), jnp.eye(2), jnp.ones(2) / 2)), 4)
        -1.845
    """
    states = jnp.asarray(states)
    index = jnp.broadcast_to(jnp.asarray(grid.index), (states.shape[0], states.shape[1] - 1))

    def log_likelihood(Q: Matrix, confusion: Matrix, initial: Vector) -> Scalar:
        P = exponentials(Q, grid.lags)
        return path_log_likelihood(scaled_labels(states, confusion, mask), P, index, initial).sum()

    return log_likelihood


def expectations(log_likelihood: LogLikelihood, parameters: Parameters) -> Expected:
    """Equation (1), and what (3) needs.

    Args:
        log_likelihood: of `counts_likelihood` or `labels_likelihood`, or your own of (Q, E, pi_0).
        parameters: where.

    Examples:
        >>> from emberwalk.kernels.jump import Parameters, counts_likelihood, expectations, path_statistics
        >>> stats = path_statistics(np.array([0.0, 1.0, 2.0]), np.array([[0, 0, 1]]))
        >>> here = Parameters(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.ones(2) / 2, jnp.zeros(()))
        >>> round(float(expectations(counts_likelihood(stats), here).dwell.sum()), 3)
        2.0
    """
    q, initial, noise = parameters
    # where labels are right nothing depends on E, and its derivative is 0
    confusion = confusion_matrix(noise, q.shape[0]).astype(q.dtype)
    value, (G, G_confusion, G_initial) = jax.value_and_grad(log_likelihood, (0, 1, 2))(
        generator(q), confusion, initial
    )
    labels = confusion * G_confusion
    return Expected(
        # float32 may leave -1e-6 of a jump that nobody made
        jumps=jnp.maximum(q * G, 0),
        dwell=jnp.maximum(jnp.diagonal(G), 0),
        starts=initial * G_initial,
        wrong_labels=labels.sum() - jnp.trace(labels),
        labels=labels.sum(),
        log_likelihood=value,
    )


def em_step(
    log_likelihood: LogLikelihood,
    parameters: Parameters,
    shape: Float[ArrayLike, "..."],
    rate: Float[ArrayLike, "..."],
) -> tuple[Parameters, Expected]:
    """Equations (2) and (3), once.

    Args:
        log_likelihood: as for `expectations`.
        parameters: before the step.
        shape: a, a number or `[n, n]`.
        rate: b, a number or `[n, n]`, in units of time.

    Returns:
        The parameters after the step, and what was expected before it.

    Examples:
        >>> from emberwalk.kernels.jump import Parameters, counts_likelihood, em_step, path_statistics
        >>> stats = path_statistics(np.array([0.0, 1.0, 2.0]), np.array([[0, 0, 1]]))
        >>> here = Parameters(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.ones(2) / 2, jnp.zeros(()))
        >>> after, expected = em_step(counts_likelihood(stats), here, 2.0, 2.0)
        >>> bool(after.rates[0, 1] > after.rates[1, 0])
        True
    """
    expected = expectations(log_likelihood, parameters)
    q = (expected.jumps + shape) / (expected.dwell[:, None] + rate)
    q = jnp.where(jnp.eye(q.shape[0], dtype=bool), 0, q).astype(parameters.rates.dtype)
    noise = (jnp.maximum(expected.wrong_labels, 0) + _WRONG) / (expected.labels + _LABELS)
    # labels that are right stay so
    noise = jnp.where(expected.labels > 0, noise, parameters.label_noise)
    starts = jnp.maximum(expected.starts, 0) + 1
    return Parameters(q, starts / starts.sum(), noise.astype(q.dtype)), expected


def log_prior(
    parameters: Parameters, shape: Float[ArrayLike, "..."], rate: Float[ArrayLike, "..."]
) -> Scalar:
    """The log prior density that `em_step` climbs, with the log-likelihood: of log q, rho and pi_0, up to a constant.

    Args:
        parameters: where.
        shape: a.
        rate: b.

    Examples:
        >>> from emberwalk.kernels.jump import Parameters, log_prior
        >>> here = Parameters(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.ones(2) / 2, jnp.zeros(()))
        >>> round(float(log_prior(here, 2.0, 2.0)), 4)  # 2 (2 log 1 - 2) + 2 log 1/2
        -5.3863
    """
    q, initial, rho = parameters
    links = ~jnp.eye(q.shape[0], dtype=bool)
    of_rates = jnp.where(links, shape * jnp.log(jnp.where(links, q, 1)) - rate * q, 0).sum()
    safe = jnp.where(rho > 0, rho, 0.5)
    of_noise = jnp.where(rho > 0, _WRONG * jnp.log(safe) + (_LABELS - _WRONG) * jnp.log1p(-safe), 0)
    return of_rates + of_noise + jnp.log(initial).sum()


def em(
    log_likelihood: LogLikelihood,
    start: Parameters,
    shape: Float[ArrayLike, "..."],
    rate: Float[ArrayLike, "..."],
    *,
    min_steps: int = 5,
    max_steps: int = 20,
    tolerance: float = 1e-3,
    tell: Tell | None = None,
) -> Fit:
    """Steps of EM until rates change little; call it within `jax.jit`, with the data as arguments.

    Args:
        log_likelihood: as for `expectations`.
        start: any rates above 0: a rate of 0 stays at a / (R + b).
        shape: a, a number or `[n, n]`.
        rate: b, a number or `[n, n]`.
        min_steps: made in any case.
        max_steps: none after so many.
        tolerance: steps end where no rate changes by more, relatively.
        tell: called on the host after each step with "EM", the step and the change.

    Raises:
        ValueError: no step, or more at least than at most.

    Examples:
        >>> from emberwalk.kernels.jump import Parameters, counts_likelihood, em, path_statistics
        >>> stats = path_statistics(np.arange(200.0) / 4, np.arange(200)[None] // 2 % 2)
        >>> start = Parameters(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.ones(2) / 2, jnp.zeros(()))
        >>> fit = em(counts_likelihood(stats), start, 1.0, 1.0, max_steps=100)
        >>> bool(fit.converged), bool(jnp.abs(fit.change) < 1e-3)
        (True, True)
    """
    if not 1 <= min_steps <= max_steps:
        raise ValueError(
            f"steps must be at least 1 and min_steps <= max_steps, got {min_steps} and {max_steps}."
        )

    def go_on(fit: Fit) -> Bool[Array, ""]:
        return (fit.num_steps < min_steps) | ((fit.num_steps < max_steps) & ~fit.converged)

    def step(fit: Fit) -> Fit:
        parameters, expected = em_step(log_likelihood, fit.parameters, shape, rate)
        before = fit.parameters.rates
        change = jnp.max(jnp.abs(parameters.rates - before) / jnp.where(before > 0, before, 1))
        if tell is not None:
            jax.debug.callback(partial(tell, "EM"), fit.num_steps + 1, change)
        return Fit(parameters, expected, fit.num_steps + 1, change, change < tolerance)

    q = start.rates
    zero, no_jumps = jnp.zeros((), q.dtype), jnp.zeros_like(q)
    nothing = Expected(no_jumps, no_jumps[0], no_jumps[0], zero, zero, zero)
    start = jax.tree.map(lambda x: jnp.asarray(x, q.dtype), start)
    return lax.while_loop(
        go_on, step, Fit(start, nothing, jnp.zeros((), jnp.int32), zero + jnp.inf, jnp.zeros((), bool))
    )
