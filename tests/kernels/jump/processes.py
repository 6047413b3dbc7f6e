"""Processes with known answers, and the plain way to compute what the kernels compute."""

import itertools

import jax
import numpy as np
from scipy.linalg import expm

from emberwalk.kernels.jump import path_statistics, refine_counts
from tests.statistics import optimised

Q3 = np.array([[0.0, 1.0, 0.5], [0.25, 0.0, 0.5], [2.0, 0.0, 0.0]])
INITIAL3 = np.array([0.5, 0.3, 0.2])
TIMES3 = np.array([[0.0, 0.3, 1.0, 1.2]])
LABELS3 = np.array([[0, 2, 2, 1]])

# Rows of rates per ns, from Seifner and Sanchez' NeuralMJP, as printed by the authors of FIM.
ALANINE = np.array(
    [
        [0, 53, 0.19, 7.9, 0.06, 0.02],
        [47, 0, 0.05, 12, 0.04, 0.01],
        [0.28, 0.13, 0, 17, 0.02, 0.04],
        [36, 26.9, 41, 0, 0.3, 0.01],
        [0.17, 0.2, 0.4, 0.2, 0, 3],
        [1.2, 1.8, 0.5, 0.7, 19, 0],
    ]
)
# Per s, from the first-passage times of Köhs et al.
ION_CHANNEL = np.array([[0, 18.68, 11.25], [23.96, 0, 45.55], [2.839, 10.13, 0]])


def metastable(coupling=1e-6):
    """Two pairs of states that hardly know of each other."""
    q = np.array([[0, 1.0, 0, 0], [2.0, 0, coupling, 0], [0, 3 * coupling, 0, 1.5], [0, 0, 0.5, 0]])
    return q


def ratchet(potential=1.0, switch=1.0, base=1.0):
    """The discrete flashing ratchet: states 0-2 with the potential on, 3-5 off."""
    q = np.zeros((6, 6))
    for i, j in itertools.permutations(range(3), 2):
        q[i, j], q[i + 3, j + 3] = np.exp(-potential * (j - i) / 2), base
    for i in range(3):
        q[i, i + 3] = q[i + 3, i] = switch
    return q


def full_generator(q):
    q = q * (1 - np.eye(len(q)))
    return q - np.diag(q.sum(1))


def random_rates(rng, n, low=0.1, high=2.0):
    return rng.uniform(low, high, (n, n)) * (1 - np.eye(n))


def exact_transitions(q, lags):
    return np.array([expm(full_generator(q) * t) for t in np.atleast_1d(lags)])


def by_enumeration(log_emission, tables, initial):
    """Log-likelihood, smoothed states and pair counts of one path by all n^L paths; `tables` of each step."""
    length, n = log_emission.shape
    total, states, pairs = 0.0, np.zeros((length, n)), np.zeros((length - 1, n, n))
    best, best_weight = None, -1.0
    for path in itertools.product(range(n), repeat=length):
        weight = initial[path[0]] * np.exp(sum(log_emission[at, s] for at, s in enumerate(path)))
        for step, table in enumerate(tables):
            weight *= table[path[step], path[step + 1]]
        total += weight
        states[np.arange(length), path] += weight
        for step in range(length - 1):
            pairs[step, path[step], path[step + 1]] += weight
        if weight > best_weight:
            best, best_weight = path, weight
    return np.log(total), states / total, pairs / total, np.array(best)


def rmse(found, truth):
    """Over the off-diagonal entries."""
    links = ~np.eye(len(truth), dtype=bool)
    return float(np.sqrt(np.mean((np.asarray(found, np.float64) - truth)[links] ** 2)))


_TOGETHER = 25
_refine_blocks = jax.jit(jax.vmap(refine_counts))


def refined_blocks(times, labels, num_paths, num_blocks):
    """Means and presence of `refine_counts` on disjoint consecutive blocks of paths, 25 at a time in one program."""
    parts = labels[: num_blocks * num_paths].reshape(num_blocks, num_paths, -1)
    stats = [path_statistics(times, part, num_states=6) for part in parts]
    stats += stats[:1] * (-num_blocks % _TOGETHER)
    found = []
    with optimised():
        for at in range(0, len(stats), _TOGETHER):
            together = jax.tree.map(lambda *x: np.stack(x), *stats[at : at + _TOGETHER])
            refined = _refine_blocks(together)
            found.append((refined.mean, refined.presence))
    return jax.tree.map(lambda *x: np.concatenate(x)[:num_blocks], *found)


def block_errors(times, labels, truth, num_paths, num_blocks):
    """Root mean square error of each block."""
    means, _ = refined_blocks(times, labels, num_paths, num_blocks)
    return np.array([rmse(mean, truth) for mean in means])
