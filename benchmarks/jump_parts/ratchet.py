"""Errors on the flashing ratchet, labels clean

10,000 paths of 100 points of the public project OpenFIM, V = 1 and 0, cut into disjoint consecutive blocks; the root
mean square error over the 30 rates, mean over the blocks: nothing here is random. `zero_shot` takes labels as right,
the row below it finds the noise level too. Naive: counts over dwell times. MLE: 40 steps of EM. MAP: 10 steps under
Gamma(1/2). RatePrior: 5 steps and the presence of links, without Newton. Cramér-Rao: the bound if all jumps were
watched. FIM: numbers printed by its authors, same data file.
"""

import jax
import jax.numpy as jnp
import numpy as np
from measure import TRIAL, Row

from emberwalk.kernels.jump import (
    Parameters,
    PathStatistics,
    RatePrior,
    change_rate,
    counts_likelihood,
    dwell_times,
    em,
    expectations,
    path_statistics,
    presence,
    quadrature_log_bayes,
    stationary,
)

from .setting import LINKS, NUM_STATES, blocks, naive_rates, paths_of, refined, rmse

_BLOCKS = {1: 2000, 3: 333, 10: 333, 30: 333, 100: 100, 300: 33, 1000: 10, 5000: 2}
_BARS = {
    1: {1: 0.65, 3: 0.55, 10: 0.40, 30: 0.27, 100: 0.16, 300: 0.10, 1000: 0.05, 5000: 0.025},
    0: {1: 0.52, 30: 0.21, 100: 0.13, 300: 0.075, 1000: 0.05, 5000: 0.025},
}
_FIM = {1: 0.648, 30: 0.330, 100: 0.212, 300: 0.162, 1000: 0.230, 5000: 0.723}
_CONSTANT = 0.653
_INFERRED_BLOCKS = {1: 100, 3: 60, 10: 40, 30: 33, 100: 20, 300: 8}  # the first ones, through the filter
_AT_ONCE = 25


def rows() -> list[Row]:
    """V = 1, then V = 0."""
    return [
        row
        for potential, bars in _BARS.items()
        for num_paths in bars
        for row in _rows_of(potential, num_paths)
    ]


def _rows_of(potential: int, num_paths: int) -> list[Row]:
    num_blocks = 2 if TRIAL else _BLOCKS[num_paths]
    times, _, truth = paths_of(potential)
    parts = blocks(potential, num_paths, num_blocks)
    ours = np.mean([rmse(refined(times, part, 0.0).mean, truth) for part in parts])
    bar = _BARS[potential][num_paths]
    name = f"V = {potential}, {num_paths} paths"
    found = [
        Row(f"{name}: zero_shot", float(ours), "", at_most=bar, note=_others(potential, num_paths, parts))
    ]
    if potential == 1 and num_paths in _INFERRED_BLOCKS:
        found.append(_inferred(f"{name}: zero_shot, noise level inferred", num_paths, parts, bar))
    return found


def _inferred(name: str, num_paths: int, parts: np.ndarray, bar: float) -> Row:
    times, _, truth = paths_of(1)
    few = parts[: _INFERRED_BLOCKS[num_paths]]
    errors = [[rmse(refined(times, part, noise).mean, truth) for part in few] for noise in ("infer", 0.0)]
    inferred, right = np.mean(errors, 1)
    more = 0.015 if num_paths < 30 else 0.0
    return Row(
        name,
        float(inferred),
        "",
        at_most=bar + more,
        note=f"{len(few)} blocks; without inferring {right:.3f}",
    )


def _others(potential: int, num_paths: int, parts: np.ndarray) -> str:
    times, _, truth = paths_of(potential)
    naive = np.mean([rmse(naive_rates(times, part), truth) for part in parts])
    stats = [path_statistics(times, part, num_states=NUM_STATES) for part in parts]
    errors = {name: _mean_error(method, stats, truth) for name, method in _METHODS.items()}
    errors = {"naive": naive, **errors, "Cramér-Rao": _bound(truth, num_paths, times[-1] - times[0])}
    said = [f"{name} {_short(error)}" for name, error in errors.items()]
    if potential == 1 and num_paths in _FIM:
        said.append(f"FIM {_FIM[num_paths]:.3f}")
    if potential == 1 and num_paths == 1:
        said.append(f"constant {_CONSTANT} has {rmse(_CONSTANT * LINKS, truth):.3f}")
    return "; ".join(said)


def _short(error: float) -> str:
    return "> 100" if error > 100 else f"{error:.3f}"


def _mean_error(method, stats: list[PathStatistics], truth: np.ndarray) -> float:
    stats = stats + stats[:1] * (-len(stats) % _AT_ONCE) if len(stats) > 1 else stats
    errors = []
    for at in range(0, len(stats), _AT_ONCE):
        together = jax.tree.map(lambda *x: np.stack(x), *stats[at : at + _AT_ONCE])
        errors += [rmse(rates, truth) for rates in np.asarray(method(together))]
    return float(np.mean(errors[: len(stats)]))


def _start(stats: PathStatistics, shape, rate) -> Parameters:
    counts = jnp.asarray(stats.counts, float).sum(0)
    q = jnp.where(LINKS, (counts + shape) / (dwell_times(stats)[:, None] + rate), 0)
    return Parameters(q, jnp.ones(NUM_STATES) / NUM_STATES, jnp.zeros(()))


def _by_em(stats: PathStatistics, shape: float, rate, steps: int):
    start = _start(stats, 0.5, 1 / change_rate(stats))
    return em(counts_likelihood(stats), start, shape, rate, min_steps=steps, max_steps=steps)


@jax.jit
@jax.vmap
def _mle(stats: PathStatistics):
    return _by_em(stats, 0.0, 1e-6, 40).parameters.rates


@jax.jit
@jax.vmap
def _map(stats: PathStatistics):
    typical = change_rate(stats) / (NUM_STATES - 1)
    return _by_em(stats, 0.5, 0.5 / typical, 10).parameters.rates


@jax.jit
@jax.vmap
def rate_prior(stats: PathStatistics):
    slab = RatePrior().slab(change_rate(stats), NUM_STATES)
    log_likelihood = counts_likelihood(stats)
    fit = em(
        log_likelihood, _start(stats, slab.shape, slab.rate), slab.shape, slab.rate, min_steps=5, max_steps=5
    )
    expected = expectations(log_likelihood, fit.parameters)
    links = presence(quadrature_log_bayes(stats, fit.parameters, expected, slab), RatePrior())
    there = (expected.jumps + slab.shape) / (expected.dwell[:, None] + slab.rate)
    return links.probability * there


_METHODS = {"MLE": _mle, "MAP": _map, "RatePrior": rate_prior}


def _bound(truth: np.ndarray, num_paths: int, length: float) -> float:
    """Rates of links that are known to be there, all jumps watched: variance q / (time in the state)."""
    time = num_paths * length * np.asarray(stationary(truth), np.float64)
    return float(np.sqrt(np.mean((truth / time[:, None])[LINKS])))
