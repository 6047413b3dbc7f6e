"""The network, beside the refinement and the published network

The paths and blocks of the parts above. Base: what the network begins from, two steps of EM on the counts. FIM: numbers
printed by its authors, same data file. Times are of 300 paths of 100 points of six states, statistics of the paths on
the host included; "compilation" is the first call of a new process, less the second. Many: 200 data sets of 30 paths in
one program, counts included. The refinement of as many is five steps of EM and the presence of links by quadrature, on
their counts.
"""

import os
import subprocess
import sys
import warnings
from functools import partial

import jax
import numpy as np
from measure import ROOT, TRIAL, Row, alternate, median_ms

from emberwalk.infer import zero_shot
from emberwalk.kernels.jump import path_statistics
from emberwalk.kernels.jump.network import load_weights, network_statistics, predict

from .ratchet import rate_prior
from .setting import NUM_STATES, REPEATS, blocks, paths_of, refined, rmse, with_wrong_labels

_BLOCKS = {1: 2000, 3: 333, 10: 333, 30: 333, 100: 100, 300: 33, 1000: 10, 5000: 2}
_BARS = {
    1: {1: 0.66, 3: 0.58, 10: 0.41, 30: 0.28, 100: 0.17, 300: 0.105, 1000: 0.06, 5000: 0.035},
    0: {1: None, 30: None, 100: None, 300: None, 1000: None, 5000: None},
}
_FIM = {
    1: {1: 0.648, 30: 0.330, 100: 0.212, 300: 0.162, 1000: 0.230, 5000: 0.723},
    0: {},
}
_NOISY_BLOCKS, _NOISY_BARS = {30: 8, 100: 6, 300: 4}, {30: 0.36, 100: 0.22, 300: 0.14}
_NUM_SETS = 8 if TRIAL else 200


def rows() -> list[Row]:
    """Errors with right labels, errors with wrong ones, times."""
    clean = [_clean(potential, num_paths) for potential, bars in _BARS.items() for num_paths in bars]
    noisy = [_noisy(noise, num_paths) for noise in (0.05, 0.1) for num_paths in _NOISY_BARS]
    return [*clean, *noisy, *_times()]


def _clean(potential: int, num_paths: int) -> Row:
    times, _, truth = paths_of(potential)
    parts = blocks(potential, num_paths, 2 if TRIAL else _BLOCKS[num_paths])
    net = load_weights()
    found = [predict(net, network_statistics(times, part, num_states=NUM_STATES)) for part in parts]
    base = np.mean([rmse(each.base, truth) for each in found])
    few = parts[:100]
    ours = np.mean([rmse(refined(times, part, 0.0).mean, truth) for part in few])
    note = f"base {base:.3f}; refined, first {len(few)} blocks, {ours:.3f}"
    if num_paths in _FIM[potential]:
        note += f"; FIM {_FIM[potential][num_paths]:.3f}"
    error = float(np.mean([rmse(each.rates, truth) for each in found]))
    return Row(
        f"V = {potential}, {num_paths} paths: network", error, "", at_most=_BARS[potential][num_paths], note=note
    )


def _noisy(noise: float, num_paths: int) -> Row:
    times, _, truth = paths_of(1)
    parts = blocks(1, num_paths, 1 if TRIAL else _NOISY_BLOCKS[num_paths])
    noisy = with_wrong_labels(parts.reshape(-1, parts.shape[-1]), noise).reshape(parts.shape)
    found = [_by_network(times, part) for part in noisy]
    ours = np.mean([rmse(refined(times, part, "infer").mean, truth) for part in noisy])
    levels = np.array([float(post.label_noise.mean) for post in found])
    return Row(
        f"{noise:.0%} wrong, {num_paths} paths: network",
        float(np.mean([rmse(post.mean, truth) for post in found])),
        "",
        at_most=_NOISY_BARS[num_paths],
        note=f"refined {ours:.3f}; noise level found {levels.mean():.4f}, {levels.min():.4f} to {levels.max():.4f}",
    )


def _by_network(times: np.ndarray, labels: np.ndarray):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # states that a block does not visit
        return zero_shot(times, labels, num_states=NUM_STATES, method="network")


def _times() -> list[Row]:
    times, _, _ = paths_of(1)
    sizes = {"1 path": 1, "300 paths": 30 if TRIAL else 300, "5000 paths": 50 if TRIAL else 5000}
    labels = {name: blocks(1, size, 1)[0] for name, size in sizes.items()}
    wrong = with_wrong_labels(labels["300 paths"], 0.05)
    alone = alternate(
        {
            **{name: partial(_mean, times, part) for name, part in labels.items()},
            "refined": lambda: np.asarray(refined(times, labels["300 paths"], 0.0).mean),
            "refined, wrong": lambda: np.asarray(refined(times, wrong, "infer").mean),
        },
        REPEATS,
    )
    refinements = f"refined {median_ms(alone['refined'].wall):.3g} ms, with 5 % wrong "
    refinements += f"{median_ms(alone['refined, wrong'].wall):.4g} ms"
    notes = {"300 paths": f"; {refinements}"}
    found = [
        Row(
            f"{name}: zero_shot by the network",
            median_ms(alone[name].wall),
            "ms",
            at_most=10.0 if name == "300 paths" else None,
            note=f"wall; CPU {median_ms(alone[name].cpu):.3g} ms{notes.get(name, '')}",
        )
        for name in labels
    ]
    return [*found, _compilation(), *_many(times)]


def _mean(times: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(_by_network(times, labels).mean)


_FIRST = """
import time, numpy as np
from emberwalk.infer import zero_shot
from emberwalk.models import load_flashing_ratchet
times, labels, _ = load_flashing_ratchet(1)
zero_shot(times, labels[:30] % 2, num_states=2, method="network")  # imports, weights, what all share
took = []
for _ in range(2):
    begin = time.perf_counter()
    np.asarray(zero_shot(times, labels[:300], num_states=6, method="network").mean)
    took.append(time.perf_counter() - begin)
print(took[0] - took[1])
"""


def _compilation() -> Row:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    took = [
        float(
            subprocess.run(
                [sys.executable, "-c", _FIRST], check=True, capture_output=True, text=True, cwd=ROOT, env=environment
            ).stdout
        )
        for _ in range(1 if TRIAL else 3)
    ]
    return Row("compilation for a number of states", float(np.median(took)), "s", at_most=5.0, note="wall")


def _many(times: np.ndarray) -> list[Row]:
    truth = paths_of(1).rates
    sets = blocks(1, 30, _NUM_SETS)
    wrong = with_wrong_labels(sets.reshape(-1, sets.shape[-1]), 0.05).reshape(sets.shape)
    mapped = jax.jit(jax.vmap(lambda y: _by_network(times, y).mean))

    def by_refinement() -> np.ndarray:
        stats = [path_statistics(times, part, num_states=NUM_STATES) for part in sets]
        return np.asarray(rate_prior(jax.tree.map(lambda *x: np.stack(x), *stats)))

    together = alternate(
        {
            "network": lambda: np.asarray(mapped(sets)),
            "network, 5 % wrong": lambda: np.asarray(mapped(wrong)),
            "five steps of EM": by_refinement,
        },
        REPEATS,
        after=lambda rates: [rmse(q, truth) for q in rates],
    )
    return [
        Row(
            f"many data sets of 30 paths, one of them: {name}",
            median_ms(timing.wall) / _NUM_SETS,
            "ms",
            note=f"error {np.mean(timing.results[0]):.3f}; CPU {median_ms(timing.cpu) / _NUM_SETS:.3g} ms",
        )
        for name, timing in together.items()
    ]
