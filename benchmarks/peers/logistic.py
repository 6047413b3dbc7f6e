"""Logistic regression on tall data, which several programs sample, and its posterior to compare with.

    beta ~ N(0, I),   y_i ~ Bernoulli(1 / (1 + exp(-x_i . beta))),   x_i ~ N(0, I),   i = 1, ..., N

With many rows the posterior is nearly normal: its mode by Newton's method in float64, and the inverse of the
Hessian H there (Laplace), stand for the truth.
"""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

# of the coefficients that make the data
_TRUTH_SD = 0.25
_BLOCK_ROWS = 100_000


class Data(NamedTuple):
    """Rows and answers, float32."""

    X: NDArray[np.float32]
    y: NDArray[np.float32]


class Errors(NamedTuple):
    """Root mean squares over the coefficients.

    Attributes:
        sd: of sd / exact sd - 1.
        mean: of the error of the mean, in exact sds.
    """

    sd: float
    mean: float


class Laplace(NamedTuple):
    """The posterior.

    Attributes:
        mode: of beta.
        sd: of each coefficient.
        curvatures: eigenvalues of H, ascending.
    """

    mode: NDArray[np.float64]
    sd: NDArray[np.float64]
    curvatures: NDArray[np.float64]

    def errors(self, draws: NDArray) -> Errors:
        """How far draws, (draw, coefficient), are off."""
        of_sd = draws.std(0) / self.sd - 1
        of_mean = (draws.mean(0) - self.mode) / self.sd
        return Errors(*(float(np.sqrt(np.mean(error**2))) for error in (of_sd, of_mean)))


def make_data(num_rows: int, num_columns: int, block: int = 0) -> Data:
    """From fixed seeds: the coefficients are the same for every block of rows."""
    truth = _TRUTH_SD * np.random.default_rng(0).standard_normal(num_columns, np.float32)
    rng = np.random.default_rng((1, block))
    X = rng.standard_normal((num_rows, num_columns), np.float32)
    y = rng.random(num_rows, np.float32) < 1 / (1 + np.exp(-X @ truth))
    return Data(X, y.astype(np.float32))


def write_data(folder: Path, num_rows: int, num_columns: int) -> None:
    """X.npy and y.npy, block by block, which needs no memory of their size."""
    X = open_memmap(folder / "X.npy", "w+", np.float32, (num_rows, num_columns))
    y = open_memmap(folder / "y.npy", "w+", np.float32, (num_rows,))
    for block, start in enumerate(range(0, num_rows, _BLOCK_ROWS)):
        rows = slice(start, min(start + _BLOCK_ROWS, num_rows))
        X[rows], y[rows] = make_data(rows.stop - start, num_columns, block)
    X.flush()
    y.flush()


def read_data(folder: Path) -> Data:
    """Both as memmaps."""
    return Data(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Data._fields))


def laplace(data: Data, num_iterations: int = 8) -> Laplace:
    """By Newton's method from zeros."""
    X, y = (array.astype(np.float64) for array in data)
    beta = np.zeros(X.shape[1])
    for _ in range(num_iterations):
        p = 1 / (1 + np.exp(-X @ beta))
        hessian = (X * (p * (1 - p))[:, None]).T @ X + np.eye(len(beta))
        beta -= np.linalg.solve(hessian, X.T @ (p - y) + beta)
    return Laplace(beta, np.sqrt(np.diag(np.linalg.inv(hessian))), np.linalg.eigvalsh(hessian))


def model(X, y, b=None):
    """The model on all rows, b of them at a time; None: all."""
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        rows, answers = numpyro.subsample(X, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.BernoulliLogits(rows @ beta), obs=answers)


def model_with_deterministic(X, y, b=None):
    """The same with a site that needs all rows, as one writes it for predictions."""
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.deterministic("probability", 1 / (1 + jnp.exp(-X @ beta)))
    with numpyro.plate("rows", X.shape[0], subsample_size=b):
        rows, answers = numpyro.subsample(X, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.BernoulliLogits(rows @ beta), obs=answers)


def streamed_model(X, y, n):
    """The same model, given the rows of a batch alone."""
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", n, subsample_size=X.shape[0]):
        numpyro.sample("y", dist.BernoulliLogits(X @ beta), obs=y)
