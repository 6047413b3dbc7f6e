"""Tokens: what a parameter that a token teaches is off by

Logistic regression of five coefficients, one row at each node of soc-wiki-Vote, ridge 1, steps (n + 1)^-.9, begun at
the optimum: n^.9 times the mean square error after n = 99,568 steps, 112 times the number of rows. Beside `srrw` and
its base chain stands the recursion `sa_covariance`, which knows no bias. Rows drawn independently and reshuffled ones
need no graph: data that can be read in any order are better reshuffled; their error is least where a reading ends.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from measure import TRIAL, Row
from scipy.optimize import minimize

from emberwalk.kernels.walk import Growth, dense_transition, power_schedule, sa_covariance, token_walk

from .setting import wiki

_RUNS, _EPOCHS = (4, 11) if TRIAL else (48, 112)
_B, _RIDGE = 0.9, 1.0
_WALKS = {
    "Metropolis walk": {"alpha": 0.0},
    "SRRW, alpha 10, a = .75": {"alpha": 10.0, "gamma_exponent": 0.75},
    "SRRW, Growth(2)": {"alpha": Growth(2.0), "gamma_exponent": 1.0},
    "HDT, alpha 10, a = .9": {"alpha": 10.0, "method": "hdt", "gamma_exponent": 0.9},
    "HDT, alpha 10, a = 1": {"alpha": 10.0, "method": "hdt", "gamma_exponent": 1.0},
}


def rows() -> list[Row]:
    """Each way to choose the next row."""
    X, y, best = problem()
    num, length = len(y), _EPOCHS * len(y)
    found = []
    for name, options in _WALKS.items():
        squares = errors(partial(walked, token_walk(wiki(), **options), length), X, y, best)
        found.append(_row(name, length, squares, predicted(options, X, y, best, length)))
    squares = errors(lambda key: random.randint(key, (length,), 0, num), X, y, best)
    found.append(_row("rows drawn independently", length, squares))
    for where, more in (("at the end of a reading", 0), ("in the middle of one", num // 2)):
        squares = errors(partial(reshuffled, num, length + more), X, y, best)
        found.append(_row(f"rows reshuffled, {where}", length + more, squares))
    return found


def _row(name: str, length: int, squares: np.ndarray, exact: float | None = None) -> Row:
    scaled = length**_B * squares
    note = f"{_RUNS} runs" if exact is None else f"{_RUNS} runs; {exact:.3g} by `sa_covariance`"
    spread = f"+- {scaled.std(ddof=1) / _RUNS**0.5:.2g}"
    return Row(
        f"n^.9 times the mean square error: {name}", float(scaled.mean()), "", spread=spread, note=note
    )


def predicted(options: dict, X, y, best, length: int) -> float | None:
    """The trace of `sa_covariance`; None for walks it does not describe."""
    alpha = options["alpha"]
    if not isinstance(alpha, float) or options.get("method") == "hdt":
        return None
    X, y = np.asarray(X, float), np.asarray(y, float)
    p = 1 / (1 + np.exp(-X @ best))
    h = (y - p)[:, None] * X - _RIDGE * best
    hessian = (X * (p * (1 - p))[:, None]).T @ X / len(y) + _RIDGE * np.eye(X.shape[1])
    P, mu = dense_transition(wiki()), np.ones(len(y))
    a = options.get("gamma_exponent", 0.75)
    return float(np.trace(sa_covariance(P, mu, alpha, h, hessian, a, _B, n=length)))


def problem():
    """Rows, answers and the optimum of the mean loss."""
    rng = np.random.default_rng(0)
    num = wiki().num_nodes
    X = rng.normal(size=(num, 5))
    y = (rng.random(num) < 1 / (1 + np.exp(-X @ rng.normal(size=5)))).astype(float)

    def mean_loss(theta):
        z = X @ theta
        return np.mean(np.logaddexp(0, z) - y * z) + _RIDGE / 2 * theta @ theta

    best = minimize(mean_loss, np.zeros(5), tol=1e-12).x
    return jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32), best


def walked(walk, length, key):
    """Agents of a token."""
    key_start, key_walk = random.split(key)
    return walk.run(key_walk, walk.init(key_start), length)[1]


def reshuffled(num, length, key):
    """All rows in a new order, again and again."""
    orders = jax.vmap(lambda k: random.permutation(k, num))(random.split(key, -(-length // num)))
    return orders.ravel()[:length]


def errors(order, X, y, best) -> np.ndarray:
    """Squared distance to the optimum after all steps, one a run."""
    schedule = power_schedule(_B)

    def one_run(key):
        def step(theta, count_and_agent):
            count, agent = count_and_agent
            gradient = (jax.nn.sigmoid(X[agent] @ theta) - y[agent]) * X[agent] + _RIDGE * theta
            return theta - schedule(count) * gradient, None

        agents = order(key)
        return lax.scan(step, jnp.asarray(best, jnp.float32), (jnp.arange(len(agents)), agents))[0]

    thetas = jax.jit(jax.vmap(one_run))(random.split(random.key(0), _RUNS))
    return np.sum((np.asarray(thetas, np.float64) - best) ** 2, 1)
