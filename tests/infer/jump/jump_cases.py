"""Models and data that the tests of `ZeroShotMJP` and `AutoMJP` share."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from emberwalk.kernels.jump import lag_grid, path_statistics, rates_from_vector, simulate_batch
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess, flashing_ratchet, load_flashing_ratchet
from tests.kernels.jump.two_state import case, exact


def two_rates():
    """Both rates of a two-state process, log-normal."""
    a, b = jnp.exp(numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1)))
    return jnp.array([[0.0, a], [b, 0.0]])


def two_state(times, labels, rho=None, grid=None):
    """Paths of a two-state process from its stationary law; labels wrong with probability rho."""
    q = two_rates()
    with numpyro.plate("paths", labels.shape[0]):
        law = MarkovJumpProcess(q, times, initial="stationary", label_noise=rho, grid=grid)
        numpyro.sample("y", law, obs=labels)


def two_state_args(name):
    """Arguments of `two_state` in a case of `tests/kernels/jump/two_state.py`."""
    times, labels, rho, *_ = case(name)
    times = np.broadcast_to(times, labels.shape)
    return times, labels, rho or None, lag_grid(times)


def exact_moments(name):
    """First and second moments of both log rates, by quadrature, in the order of `tests.statistics.moments`."""
    known = exact(name)
    second = known.sd**2 + known.mean**2
    cross = known.correlation * known.sd.prod() + known.mean.prod()
    return np.array([*known.mean, second[0], cross, second[1]])


def many_rates(stats, n=6):
    """All n (n - 1) rates, each by itself, seen as counts."""
    log_rates = numpyro.sample("log_rates", dist.Normal(-1, 1.5).expand([n * (n - 1)]).to_event(1))
    law = MarkovJumpCounts(rates_from_vector(jnp.exp(log_rates), n), stats)
    numpyro.sample("counts", law, obs=stats.counts)


def many_noisy_rates(times, labels, n=6):
    """All rates, seen through labels that may be wrong."""
    log_rates = numpyro.sample("log_rates", dist.Normal(-1, 1.5).expand([n * (n - 1)]).to_event(1))
    rho = numpyro.sample("rho", dist.Beta(1.5, 10.5))
    with numpyro.plate("paths", labels.shape[0]):
        law = MarkovJumpProcess(rates_from_vector(jnp.exp(log_rates), n), times, label_noise=rho)
        numpyro.sample("y", law, obs=labels)


@cache
def ratchet_counts(num_paths):
    """Statistics of the first paths of the flashing ratchet."""
    times, states, _ = load_flashing_ratchet(1)
    return path_statistics(times, states[:num_paths], num_states=6)


def ratchet(times, labels):
    """Three parameters and label noise."""
    V = numpyro.sample("V", dist.Normal(0, 2))
    rho = numpyro.sample("rho", dist.Beta(1.5, 10.5))
    r, b = (numpyro.sample(name, dist.LogNormal(0, 1)) for name in ("r", "b"))
    with numpyro.plate("paths", labels.shape[0]):
        law = MarkovJumpProcess(flashing_ratchet(V, r, b), times, initial="stationary", label_noise=rho)
        numpyro.sample("y", law, obs=labels)


THREE = np.array([[0.0, 1.0, 0.5], [0.25, 0.0, 0.5], [2.0, 0.3, 0.0]])
THREE_TIMES = np.linspace(0.0, 4.0, 17)


@cache
def three_state_labels(num_paths=30, seed=0, label_noise=None):
    """Paths of a three-state process."""
    return simulate_batch(seed, THREE, THREE_TIMES, num_paths, label_noise=label_noise)
