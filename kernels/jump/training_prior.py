"""Processes to train on, and what any number of their paths would show, without simulating them.

    mu = E[s],   total = K mu + sqrt(K / (M - 1)) sum_m (g_m - mean g) s_m,   g_m ~ N(0, 1)                 (1)

s_m are the counts of one path, M = 128 of them simulated. Given these, the sum in (1) has M - 1 times their
covariance, so that `total` has the mean and the covariance of the counts of K paths: those of lags 1, 2 and 4 come
from the same labels and are strongly correlated. Means are exact, from products of P and of the law of labels E:

    mu_k[i, j] = sum_p sum_ab pi_p(a) E_ai P(t_p+k - t_p)_ab E_bj                                           (2)

Cells with K mu < 30 are Poisson(K mu) instead. What a reader would get wrong: counts of each lag drawn for itself
have the right means and spreads, and a network that learns from them takes three views of the same labels for
three independent ones: it is too sure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .counts import PathStatistics, coarsen, path_statistics
from .generator import stationary
from .network_statistics import NetworkStatistics, far_pairs, filled, network_statistics, tally
from .paths import check_label_noise, check_rates
from .simulate import simulate_batch

MOST_SIMULATED = 300
_BASIS = 128  # M of equation (1)
_FEWEST = 30
_MANY = 100
_FINE_POINTS = 100
_STRIDES = (1, 1, 2, 2, 3, 4, 6, 10)
_LEAST = 0.01  # of the strongest link
_FEW_PATHS = (1, 2, 4, 10, 30, 100)


class Process(NamedTuple):
    """A process, and when its paths are looked at.

    Attributes:
        rates: q `[n, n]`, zeros on the diagonal, per window.
        initial: law of the first state `[n]`.
        label_noise: rho, the probability that a label is wrong.
        times: `[L]`, rising from 0 to at most 1, of all paths.
    """

    rates: Float[np.ndarray, "n n"]
    initial: Float[np.ndarray, " n"]
    label_noise: float
    times: Float[np.ndarray, " L"]


@dataclass(frozen=True)
class TrainingPrior:
    """Processes in a window of length 1, as the network is trained on.

    Number of states: one of `num_states`, alike. Strengths of links: 45 % Beta(1, 2); 30 % log-normal, half of them
    with sigma ~ U(.2, 1.2) and half with U(1.2, 2.2); 25 % reversible, exp((E_i - E_j) / 2) with energies of N(0, 1/4).
    Graph: 45 % full, 30 % reciprocal and 25 % directed, both with a density U(.3, .85) and a random cycle through all
    states. Links below 1 % of the strongest are dropped; on the cycle they are raised to it. Mean exit rate:
    log-uniform on [1.5, 40]. Start: 60 % stationary, else Dirichlet(1). Label noise: 0 in 40 %, else U(0, .2). Times:
    of 100 points, 50 % every s-th, with s among 1, 1, 2, 2, 3, 4, 6, 10, else each with a probability U(.12, .8).
    Number of paths: 1, 2, 4, 10, 30, 100, U{150..300} or log-uniform on 300 to 1e5, alike.

    Attributes:
        num_states: from which n is drawn.

    Raises:
        ValueError: no number of states, or one below 2.

    Examples:
        >>> from emberwalk.kernels.jump.training_prior import TrainingPrior
        >>> process = TrainingPrior().process(0, num_states=3)
        >>> process.rates.shape, bool(1.5 <= process.rates.sum() / 3 <= 40)
        ((3, 3), True)
    """

    num_states: tuple[int, ...] = (2, 3, 4, 5, 6, 8)

    def __post_init__(self) -> None:
        if not self.num_states or min(self.num_states) < 2:
            raise ValueError(
                f"num_states must be at least one number, each 2 or more, got {self.num_states!r}."
            )

    def draw_num_states(self, seed: int | np.random.Generator) -> int:
        """n.

        Args:
            seed: a number, or a generator that goes on.
        """
        return int(np.random.default_rng(seed).choice(self.num_states))

    def draw_num_paths(self, seed: int | np.random.Generator) -> int:
        """K.

        Args:
            seed: a number, or a generator that goes on.
        """
        rng = np.random.default_rng(seed)
        kind = int(rng.integers(len(_FEW_PATHS) + 2))
        if kind < len(_FEW_PATHS):
            return _FEW_PATHS[kind]
        if kind == len(_FEW_PATHS):
            return int(rng.integers(150, MOST_SIMULATED + 1))
        return round(_log_uniform(rng, MOST_SIMULATED, 1e5))

    def process(self, seed: int | np.random.Generator, num_states: int) -> Process:
        """One process of so many states.

        Args:
            seed: a number, or a generator that goes on.
            num_states: n, at least 2.
        """
        rng = np.random.default_rng(seed)
        rates = _links(rng, _strengths(rng, num_states))
        rates *= _log_uniform(rng, 1.5, 40) / rates.sum(1).mean()
        still = rng.random() < 0.6
        initial = _stationary(rates) if still else rng.dirichlet(np.ones(num_states))
        noise = 0.0 if rng.random() < 0.4 else rng.uniform(0, 0.2)
        return Process(rates, initial, noise, _times(rng))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _strengths(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n n"]:
    kind = rng.random()
    if kind < 0.45:
        return rng.beta(1, 2, (n, n))
    if kind < 0.75:
        sigma = rng.uniform(0.2, 1.2) if kind < 0.6 else rng.uniform(1.2, 2.2)
        return np.exp(sigma * rng.normal(size=(n, n)))
    energies = 0.5 * rng.normal(size=n)
    return np.exp((energies[:, None] - energies) / 2)


def _links(rng: np.random.Generator, strengths: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Strengths where a link is, else 0; every state can be reached from every other."""
    n, kind = len(strengths), rng.random()
    graph = np.ones((n, n), bool) if kind < 0.45 else rng.random((n, n)) < rng.uniform(0.3, 0.85)
    around = rng.permutation(n)
    if 0.45 <= kind < 0.75:
        graph = np.triu(graph) | np.triu(graph).T
        graph[np.roll(around, 1), around] = True
    cycle = (around, np.roll(around, 1))
    graph[cycle] = True
    found = strengths * (graph & ~np.eye(n, dtype=bool))
    least = _LEAST * found.max()
    found[cycle] = np.maximum(found[cycle], least)
    return np.where(found < least, 0, found)


def _stationary(rates: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """In float64, where rates are no more than 100 times each other and no elimination is needed."""
    n = len(rates)
    equations = (rates - np.diag(rates.sum(1))).T
    equations[0] = 1
    law = np.clip(np.linalg.solve(equations, np.eye(n)[0]), 0, None)
    return law / law.sum()


def _times(rng: np.random.Generator) -> Float[np.ndarray, " L"]:
    fine = np.linspace(0, 1, _FINE_POINTS)
    if rng.random() < 0.5:
        return fine[:: int(rng.choice(_STRIDES))]
    kept = rng.random(_FINE_POINTS) < rng.uniform(0.12, 0.8)
    kept[[0, 50]] = True
    return fine[kept]


def process_statistics(
    seed: int | np.random.Generator, process: Process, num_paths: int
) -> NetworkStatistics:
    """What so many paths of a process show: simulated up to 300, else by `draw_counts`.

    Args:
        seed: a number, or a generator that goes on.
        process: of `TrainingPrior.process`.
        num_paths: K.

    Examples:
        >>> from emberwalk.kernels.jump.training_prior import TrainingPrior, process_statistics
        >>> rng = np.random.default_rng(0)
        >>> stats = process_statistics(rng, TrainingPrior().process(rng, 3), 100_000)
        >>> int(stats.paths.num_paths), stats.paths.counts.shape
        (100000, (16, 3, 3))
    """
    q, initial, noise, times = process
    if num_paths > MOST_SIMULATED:
        return draw_counts(seed, q, times, num_paths, initial, noise)
    labels = simulate_batch(seed, q, times, num_paths, initial, noise)
    return network_statistics(times, labels, num_states=len(q))


class _Counts(NamedTuple):
    """Of one path in the mean, or of some with weights; `counts` by lag."""

    counts: Float[np.ndarray, "U n n"]
    first: Float[np.ndarray, " n"]
    visits: Float[np.ndarray, " n"]
    pair2: Float[np.ndarray, "n n"]
    time2: Float[np.ndarray, "n n"]
    pair4: Float[np.ndarray, "n n"]
    time4: Float[np.ndarray, "n n"]
    blips: Float[np.ndarray, "n n"]


def draw_counts(
    seed: int | np.random.Generator,
    rates: Float[ArrayLike, "n n"],
    times: Float[ArrayLike, " L"],
    num_paths: int,
    initial: Float[ArrayLike, " n"] | None = None,
    label_noise: float | None = None,
) -> NetworkStatistics:
    """The counts of many paths at the same times, equation (1): the cost does not depend on their number.

    For some hundred paths or more: counts of a cell are then normal in all but law, or few.

    Args:
        seed: a number, or a generator that goes on.
        rates: q `[n, n]`, per unit of time.
        times: `[L]`, rising, at least 3, shared by all paths.
        num_paths: K.
        initial: law of the first state `[n]`; the stationary one without it.
        label_noise: probability that a label is wrong.

    Raises:
        ValueError: rates below 0 or NaN; times that do not rise, or fewer than 3; a label noise that is none.

    Examples:
        >>> from emberwalk.kernels.jump.training_prior import draw_counts
        >>> stats = draw_counts(0, np.array([[0.0, 1.0], [1.0, 0.0]]), np.linspace(0, 1, 11), 10**6)
        >>> bool(abs(stats.paths.counts.sum() - 10**7) < 100)  # each of 8 cells is rounded for itself
        True
    """
    check_rates(rates)
    q, t = np.array(rates, np.float64), np.asarray(times, np.float64)
    np.fill_diagonal(q, 0)
    noise = 0.0 if label_noise is None else float(label_noise)
    check_label_noise(noise, len(q))
    if t.ndim != 1 or len(t) < 3 or not (np.diff(t) > 0).all():
        raise ValueError(f"times must be at least 3, one row and rising, got {times!r}.")
    rng = np.random.default_rng(seed)
    law = np.asarray(stationary(q) if initial is None else initial, np.float64)
    one_path = path_statistics(t, np.zeros(len(t), int), num_states=len(q))
    lags, group = _groups(t, one_path)
    mean = expected_counts(q, t, law, noise, group, len(lags))
    labels = simulate_batch(rng, q, t, _BASIS, law, noise)
    weights = rng.standard_normal(_BASIS)
    spread = weighted_counts(t, labels, weights - weights.mean(), group, len(lags), len(q))
    scale = np.sqrt(num_paths / (_BASIS - 1))
    drawn = _drawn(rng, _Counts(*(num_paths * x for x in mean)), _Counts(*(scale * x for x in spread)))
    paths = PathStatistics(
        lags=lags,
        counts=drawn.counts,
        lag_bins=None,
        first=drawn.first,
        visits=drawn.visits,
        num_paths=np.asarray(num_paths),
        num_labels=np.asarray(num_paths * len(t)),
        total_time=np.asarray(num_paths * (t[-1] - t[0])),
    )
    return NetworkStatistics(filled(paths), *drawn[3:])


def _groups(times: Float[np.ndarray, " L"], one_path: PathStatistics) -> tuple[np.ndarray, np.ndarray]:
    """At most 16 lags, and which of them is between each point and the next."""
    # quantiles of many paths do not lie between their lags
    few = coarsen(one_path._replace(counts=_MANY * one_path.counts))
    middle = (few.lags[1:] + few.lags[:-1]) / 2 if few.lag_bins is None else few.lag_bins[1:-1]
    return np.asarray(few.lags), np.searchsorted(middle, np.diff(times), side="right")


def expected_counts(
    rates: Float[np.ndarray, "n n"],
    times: Float[np.ndarray, " L"],
    initial: Float[np.ndarray, " n"],
    label_noise: float,
    group: Int[np.ndarray, " L-1"],
    num_lags: int,
) -> _Counts:
    """Means of one path, equation (2).

    Args:
        rates: q `[n, n]`, zeros on the diagonal.
        times: `[L]`, rising.
        initial: law of the first state `[n]`.
        label_noise: rho.
        group: which lag is between each point and the next `[L - 1]`.
        num_lags: U.
    """
    from scipy.linalg import expm

    n = len(rates)
    lags, which = np.unique(np.diff(times), return_inverse=True)
    P1 = expm((rates - np.diag(rates.sum(1))) * lags[:, None, None])[which]
    P2 = P1[:-1] @ P1[1:]
    P4 = P2[:-2] @ P2[2:]
    E = np.where(np.eye(n, dtype=bool), 1 - label_noise, label_noise / (n - 1))
    laws = [initial]
    for P in P1:
        laws.append(laws[-1] @ P)
    pi = np.array(laws)

    def pairs(P: np.ndarray) -> np.ndarray:
        return E.T @ (pi[: len(P), :, None] * P) @ E

    def with_lags(pair: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        return pair.sum(0), np.tensordot(times[places:] - times[:-places], pair, 1)

    counts = np.zeros((num_lags, n, n))
    np.add.at(counts, group, pairs(P1))
    # labels i, j, i: by the state in the middle
    before = E.T @ (pi[:-2, :, None] * P1[:-1])
    after = (P1[1:] @ E).transpose(0, 2, 1)
    blips = (before * after).sum(0) @ E * ~np.eye(n, dtype=bool)
    return _Counts(
        counts, initial @ E, (pi @ E).sum(0), *with_lags(pairs(P2), 2), *with_lags(pairs(P4), 4), blips
    )


def weighted_counts(
    times: Float[np.ndarray, " L"],
    labels: Int[np.ndarray, "M L"],
    weights: Float[np.ndarray, " M"],
    group: Int[np.ndarray, " L-1"],
    num_lags: int,
    num_states: int,
) -> _Counts:
    """Counts of paths at shared times, each with its weight.

    Args:
        times: `[L]`, rising.
        labels: `[M, L]`.
        weights: `[M]`.
        group: which lag is between each point and the next `[L - 1]`.
        num_lags: U.
        num_states: n.
    """
    n = num_states
    weight = np.broadcast_to(weights[:, None], labels.shape)
    cells = (group * n + labels[:, :-1]) * n + labels[:, 1:]
    return _Counts(
        tally(cells, weight[:, 1:], num_lags * n * n).reshape(num_lags, n, n),
        tally(labels[:, 0], weights, n),
        tally(labels, weight, n),
        *far_pairs(np.broadcast_to(times, labels.shape), labels, weight, n),
    )


def _drawn(rng: np.random.Generator, mean: _Counts, spread: _Counts) -> _Counts:
    """Equation (1), rounded; few counts are Poisson."""
    found = {}
    for name in ("counts", "first", "visits", "pair2", "pair4", "blips"):
        mu, normal = getattr(mean, name), getattr(mean, name) + getattr(spread, name)
        number = np.where(mu < _FEWEST, rng.poisson(np.minimum(mu, _FEWEST)), np.rint(np.maximum(normal, 0)))
        found[name] = number.astype(np.int64)
    for pair, time in (("pair2", "time2"), ("pair4", "time4")):
        mu = getattr(mean, pair)
        mean_lag = getattr(mean, time) / np.maximum(mu, 1e-300)
        normal = np.maximum(getattr(mean, time) + getattr(spread, time), 0)
        found[time] = np.where(mu < _FEWEST, found[pair] * mean_lag, normal)
    return _Counts(**found)


def stacked(statistics: Iterable[NetworkStatistics]) -> NetworkStatistics:
    """Statistics of many processes with as many states, along a leading axis; for `jax.vmap`.

    Args:
        statistics: without `lag_bins` of their own.
    """
    plain = [s._replace(paths=s.paths._replace(lag_bins=None)) for s in statistics]
    return jax.tree.map(lambda *x: np.stack(x), *plain)
