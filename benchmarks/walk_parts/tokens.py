"""Tokens: what a parameter that a token teaches is off by

Logistic regression of five coefficients, one row at each node of soc-wiki-Vote, steps (n + 1)^-.9, begun at the
optimum: n^.9 times the mean square error after 100,000 steps, over runs. i.i.d. rows and reshuffled ones
need no graph: data that can be read in any order are better reshuffled.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from measure import TRIAL, Row
from scipy.optimize import minimize

from emberwalk.kernels.walk import Growth, power_schedule, token_walk

from .setting import wiki

_RUNS, _LENGTH = (4, 1000) if TRIAL else (48, 100_000)
_B, _RIDGE = 0.9, 0.1
_WALKS = {
    "Metropolis walk": {"alpha": 0.0},
    "SRRW, alpha 10, a = .75": {"alpha": 10.0, "gamma_exponent": 0.75},
    "SRRW, Growth(2)": {"alpha": Growth(2.0), "gamma_exponent": 1.0},
    "HDT, alpha 10, a = 1": {"alpha": 10.0, "method": "hdt", "gamma_exponent": 1.0},
}


def rows() -> list[Row]:
    """Each way to choose the next row."""
    X, y, best = problem()
    num = len(y)
    agents = {name: partial(walked, token_walk(wiki(), **options)) for name, options in _WALKS.items()}
    agents["rows drawn independently"] = lambda key: random.randint(key, (_LENGTH,), 0, num)
    agents["rows reshuffled"] = partial(reshuffled, num)
    found = []
    for name, order in agents.items():
        squares = errors(order, X, y, best)
        scaled = _LENGTH**_B * squares
        name = f"n^.9 times the mean square error: {name}"
        spread = f"+- {scaled.std(ddof=1) / _RUNS**0.5:.2g}"
        found.append(Row(name, float(scaled.mean()), "", spread=spread, note=f"{_RUNS} runs"))
    return found


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


def walked(walk, key):
    """Agents of a token."""
    key_start, key_walk = random.split(key)
    return walk.run(key_walk, walk.init(key_start), _LENGTH)[1]


def reshuffled(num, key):
    """All rows in a new order, again and again."""
    epochs = -(-_LENGTH // num)
    orders = jax.vmap(lambda k: random.permutation(k, num))(random.split(key, epochs))
    return orders.ravel()[:_LENGTH]


def errors(order, X, y, best) -> np.ndarray:
    """Squared distance to the optimum after all steps, one a run."""
    schedule = power_schedule(_B)

    def one_run(key):
        def step(theta, count_and_agent):
            count, agent = count_and_agent
            gradient = (jax.nn.sigmoid(X[agent] @ theta) - y[agent]) * X[agent] + _RIDGE * theta
            return theta - schedule(count) * gradient, None

        return lax.scan(step, jnp.asarray(best, jnp.float32), (jnp.arange(_LENGTH), order(key)))[0]

    thetas = jax.jit(jax.vmap(one_run))(random.split(random.key(0), _RUNS))
    return np.sum((np.asarray(thetas, np.float64) - best) ** 2, 1)
