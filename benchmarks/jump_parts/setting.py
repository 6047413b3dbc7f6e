"""The paths, how they are cut into blocks, wrong labels, and maximum likelihood by scipy: shared by the parts."""

import warnings
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from measure import TRIAL
from scipy.optimize import minimize

from emberwalk.infer import RatePosterior, zero_shot
from emberwalk.kernels.jump import (
    confusion_matrix,
    counts_likelihood,
    generator,
    labels_likelihood,
    lag_grid,
    path_statistics,
    rates_from_vector,
)
from emberwalk.models import RatchetPaths, load_flashing_ratchet

REPEATS = 1 if TRIAL else 5
NUM_STATES = 6
LINKS = ~np.eye(NUM_STATES, dtype=bool)
FIRST_NOISE = 0.05


@cache
def paths_of(potential: int) -> RatchetPaths:
    """10,000 paths of 100 points: flashing ratchet, V = 0 or 1, r = b = 1, of the public project OpenFIM."""
    return load_flashing_ratchet(potential)


def blocks(potential: int, num_paths: int, num_blocks: int) -> np.ndarray:
    """Disjoint consecutive blocks of the file, `[block, path, point]`."""
    labels = paths_of(potential).states[: num_blocks * num_paths]
    return labels.reshape(num_blocks, num_paths, -1)


def with_wrong_labels(labels: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """A share of the labels is replaced by another, each alike."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(labels.shape) < noise
    return np.where(wrong, (labels + rng.integers(1, NUM_STATES, labels.shape)) % NUM_STATES, labels)


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Over the 30 rates."""
    return float(np.sqrt(np.mean((np.asarray(found, np.float64) - truth)[LINKS] ** 2)))


def refined(times: np.ndarray, labels: np.ndarray, label_noise: float | str) -> RatePosterior:
    """`zero_shot` without its words on states that a block does not visit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return zero_shot(times, labels, num_states=NUM_STATES, label_noise=label_noise)


def naive_rates(times: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Jumps over dwell times, as if nothing happened between two points; 0 where a state was not left."""
    stats = path_statistics(times, labels, num_states=NUM_STATES, exact=False)
    counts = stats.counts.sum(0).astype(float)
    dwell = (stats.counts * stats.lags[:, None, None]).sum((0, 2))
    return np.where(LINKS, counts, 0) / np.where(dwell > 0, dwell, 1)[:, None]


def maximum_likelihood(times: np.ndarray, labels: np.ndarray, noisy: bool) -> Callable[[], np.ndarray]:
    """The MLE of log q, and with noise of logit rho, by scipy's L-BFGS with exact gradients of the same likelihood."""
    stats = path_statistics(times, labels, num_states=NUM_STATES, exact=False)
    start = np.log(naive_rates(times, labels)[LINKS] + 0.05)
    data = (stats, jnp.asarray(labels), lag_grid(times))
    value_and_slope = jax.jit(jax.value_and_grad(_loss), static_argnames="noisy")
    if noisy:
        start = np.append(start, np.log(FIRST_NOISE / (1 - FIRST_NOISE)))

    def fun(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = value_and_slope(jnp.asarray(theta, jnp.float32), *data, noisy=noisy)
        return float(value), np.asarray(slope, np.float64)

    return partial(_minimised, fun, start)


def maximum_likelihood_by_scipy(times: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same MLE for right labels as one writes it with scipy alone: `expm`, and gradients by differences."""
    from scipy.linalg import expm

    stats = path_statistics(times, labels, num_states=NUM_STATES, exact=False)
    lags, counts = np.asarray(stats.lags, float)[:, None, None], np.asarray(stats.counts, float)

    def loss(theta: np.ndarray) -> float:
        q = np.zeros((NUM_STATES, NUM_STATES))
        q[LINKS] = np.exp(theta)
        return -float(np.sum(counts * np.log(np.maximum(expm(lags * (q - np.diag(q.sum(1)))), 1e-300))))

    start = np.log(naive_rates(times, labels)[LINKS] + 0.05)
    return _minimised(loss, start, jac=None)


def _loss(theta, stats, labels, grid, noisy: bool):
    n = NUM_STATES
    Q = generator(rates_from_vector(jnp.exp(theta[: n * (n - 1)]), n))
    initial = jnp.ones(n) / n
    if not noisy:
        return -counts_likelihood(stats)(Q, jnp.eye(n), initial)
    return -labels_likelihood(labels, grid)(Q, confusion_matrix(jax.nn.sigmoid(theta[-1]), n), initial)


def _minimised(fun: Callable, start: np.ndarray, jac: bool | None = True) -> np.ndarray:
    found = minimize(fun, start, jac=jac, method="L-BFGS-B", bounds=[(-12, 6)] * len(start))
    return np.asarray(rates_from_vector(jnp.exp(found.x[: NUM_STATES * (NUM_STATES - 1)]), NUM_STATES))
