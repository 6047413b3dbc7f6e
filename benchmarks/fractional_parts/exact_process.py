"""Where a Gaussian process by Cholesky, or an exact density, is the better choice

Fractional Brownian motion seen at every step with noise .1: the log evidence and its gradient in H, by the filter of
eight modes and by one Cholesky factor (`FractionalBrownianMotion`); then the 663 minima of the Nile, seen without
noise, by Durbin and Levinson's recursion (`FractionalGaussianNoise`) and by Cholesky. The filter is linear in the
number of steps, Cholesky cubic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import TRIAL, Row, alternate

from emberwalk.infer import AutoFractionalSDE
from emberwalk.kernels.fractional import increment_covariance
from emberwalk.models import FractionalBrownianMotion, FractionalGaussianNoise, load_nile

from .setting import REPEATS, SD, Objective, compared, seen_path

_LENGTHS = (20, 40) if TRIAL else (200, 1000, 2000)


def rows() -> list[Row]:
    """By length, then the Nile."""
    return [*(row for num in _LENGTHS for row in _with_noise(num)), *_nile()]


def _with_noise(num_steps: int) -> list[Row]:
    model, y = seen_path(num_steps, num_steps)
    ts = np.linspace(0.0, 1.0, num_steps + 1)[1:]

    def density(H, y):
        return FractionalBrownianMotion(H, 1.0, ts, SD).log_prob(y)

    functions = {
        "filter": Objective(model, AutoFractionalSDE(model), y, 1),
        "Cholesky": partial(jax.jit(jax.value_and_grad(density)), 0.3, y),
    }
    times = alternate(functions, REPEATS)
    name = f"{num_steps} observations with noise: the guide's ELBO / Cholesky"
    return compared(name, times["filter"], times["Cholesky"])


def _nile() -> list[Row]:
    minima = jnp.asarray(load_nile()[1][: 50 if TRIAL else None], jnp.float32)
    ts, num = np.arange(len(minima) + 1.0), len(minima)

    def by_recursion(H, y):
        return FractionalGaussianNoise(H, 89.0, 1150.0, num_steps=num).log_prob(y)

    def by_cholesky(H, y):
        factor = jnp.linalg.cholesky(increment_covariance(ts, H))
        e = jax.scipy.linalg.solve_triangular(factor, (y - 1150.0) / 89.0, lower=True)
        return -jnp.sum(e**2) / 2 - jnp.sum(jnp.log(jnp.diagonal(factor)))

    functions: dict[str, Callable[[], Any]] = {
        name: partial(jax.jit(jax.value_and_grad(fn)), 0.83, minima)
        for name, fn in {"recursion": by_recursion, "Cholesky": by_cholesky}.items()
    }
    times = alternate(functions, REPEATS)
    name = "the Nile, without noise: Cholesky / FractionalGaussianNoise"
    return compared(name, times["Cholesky"], times["recursion"])
