"""Models on rows that several tests of SG-MCMC sample."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import NDArray


def mean_model(y, b=10):
    """y ~ N(m, 1), m ~ N(0, 1): curvature N + 1 and, with replacement, gradients of variance N^2 var(y) / b."""
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=b):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, event_dim=0))


def streamed_mean_model(y, n):
    """The same, a batch at a time."""
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", n, subsample_size=y.shape[0]):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def mean_data(num_rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=num_rows)


def logistic_model(X, y, b=40):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        rows = numpyro.subsample(X, event_dim=1)
        numpyro.sample("y", dist.BernoulliLogits(rows @ beta), obs=numpyro.subsample(y, event_dim=0))


def logistic_data(num_rows: int, num_columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r = np.random.default_rng(0)
    X = r.standard_normal((num_rows, num_columns))
    truth = r.standard_normal(num_columns)
    return X, (r.random(num_rows) < 1 / (1 + np.exp(-X @ truth))).astype(float)


def logistic_mode(
    X: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mode and Hessian of U by Newton's method."""
    beta = np.zeros(X.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-X @ beta))
        hessian = (X * (p * (1 - p))[:, None]).T @ X + np.eye(len(beta))
        beta = beta - np.linalg.solve(hessian, X.T @ (p - y) + beta)
    return beta, hessian


def as_jax(*arrays: NDArray[np.float64]) -> tuple[jnp.ndarray, ...]:
    """In the precision that JAX is set to."""
    return tuple(jnp.asarray(array, float) for array in arrays)
