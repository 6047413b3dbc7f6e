"""The evidence of a link by quadrature, against a fine one of the same integral."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.stats import gamma

from emberwalk.kernels.jump import (
    Parameters,
    RatePrior,
    change_rate,
    counts_likelihood,
    expectations,
    path_statistics,
    quadrature_log_bayes,
    simulate_batch,
)

# round and round: nothing goes from 0 to 2 at once, and with long lags it may seem so
ROUND = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
HELD = np.array([[0.0, 1.0, 0.1], [0.1, 0.0, 1.0], [1.0, 0.1, 0.0]])
TIMES = np.linspace(0.0, 6.0, 13)


@pytest.mark.parametrize("shape", [0.25, 2.0])
def test_jump_presence_evidence_is_that_of_a_fine_quadrature(shape):
    """At shapes below a half the density of z = sqrt(q) has no end at 0."""
    stats = path_statistics(TIMES, simulate_batch(0, ROUND, TIMES, 6), num_states=3)
    slab = RatePrior(shape).slab(change_rate(stats), 3)
    here = Parameters(jnp.asarray(HELD, jnp.float32), jnp.ones(3) / 3, jnp.zeros(()))
    found = quadrature_log_bayes(stats, here, expectations(counts_likelihood(stats), here), slab)
    law = gamma(shape, scale=1 / float(slab.rate))
    counts, (lag,) = np.asarray(stats.counts, float).sum(0), np.asarray(stats.lags)

    def log_likelihood(link, rate):
        q = HELD.copy()
        q[link] = rate
        return np.sum(counts * np.log(expm(float(lag) * (q - np.diag(q.sum(1))))))

    for link in ((0, 2), (1, 0)):
        none = log_likelihood(link, 0.0)

        def density(q, link=link, none=none):
            """In the probability of less than q under the prior, in which it has no end either."""
            return np.exp(log_likelihood(link, law.ppf(q)) - none)

        exact, _ = quad(density, 0, 1, limit=200)
        assert float(found[link]) == pytest.approx(np.log(exact), abs=0.01)
