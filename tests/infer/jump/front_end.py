"""A process of three states in a row, seen clean, with wrong labels, and at irregular times."""

from functools import cache

import numpy as np

from emberwalk.infer import zero_shot
from emberwalk.kernels.jump import simulate_batch

# 0 <-> 1 <-> 2: no link joins the ends
Q = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 2.0], [0.0, 1.5, 0.0]])
LINKS = ~np.eye(3, dtype=bool)
PRESENT = Q > 0
ABSENT = LINKS & ~PRESENT
TIMES = np.linspace(0, 2, 41)
NUM_PATHS, NOISE = 150, 0.06
CLEAN = simulate_batch(1, Q, TIMES, NUM_PATHS)
NOISY = simulate_batch(2, Q, TIMES, NUM_PATHS, label_noise=NOISE)


@cache
def clean():
    return zero_shot(TIMES, CLEAN, label_noise=0.0)


@cache
def noisy():
    return zero_shot(TIMES, NOISY)


def as_arrays(posterior):
    """All that it holds, in the order of its leaves."""
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior)]


def away(posterior, truth=Q):
    """Distance of the mean from the truth in posterior sd, of links that are there."""
    mean, sd = (np.asarray(x, np.float64)[truth > 0] for x in (posterior.mean, posterior.sd))
    return (mean - truth[truth > 0]) / sd
