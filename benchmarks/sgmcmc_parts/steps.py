"""A step inside `MCMC` beside a bare scan of blackjax

Logistic regression, N = 100 000 rows, d = 50, b = 500, plain minibatches, one step a draw, everything collected
that is collected by default, no progress bar; the time of a step is the slope between
runs of 1600 and 17 600 steps, all chains counted, a median of 45.
"""

from functools import partial

import blackjax
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array
from measure import TRIAL, Row, alternate
from peers.logistic import make_data, model, model_with_deterministic

from emberwalk.infer import SGMCMC
from emberwalk.kernels.sgmcmc import sgld

from .setting import SIZES, Slope, from_zeros, kept_programs, sampled, step_row

_STEP_SIZE = 1e-6
_NUM_CHAINS = 8
# On cores that others use too, single slopes are off by a third: many, each pair close together.
_REPEATS = 9 * SIZES.repeats
_SHORT, _LONG = (16, 96) if TRIAL else (1600, 17_600)  # of one chain, or of all together


@kept_programs()
def rows() -> list[Row]:
    """Ours over bare blackjax; eight chains over one; with a site of all rows over without."""
    X, y = map(jnp.asarray, make_data(SIZES.rows, SIZES.columns))
    ours = partial(sampled, args=(X, y))
    kernel, with_site = (
        SGMCMC(partial(of_rows, b=SIZES.batch), sgld(_STEP_SIZE), init_strategy=from_zeros())
        for of_rows in (model, model_with_deterministic)
    )
    functions = {
        "bare": Slope(partial(bare_scan, X=X, y=y), _SHORT, _LONG),
        "ours": Slope(ours(kernel), _SHORT, _LONG),
        "chains": Slope(ours(kernel, num_chains=_NUM_CHAINS), _SHORT // _NUM_CHAINS, _LONG // _NUM_CHAINS),
        "site": Slope(ours(with_site), _SHORT, _LONG),
    }
    times = alternate(functions, _REPEATS)
    one = times["ours"]
    row = partial(step_row, num_steps=_LONG - _SHORT)
    many = f"{_NUM_CHAINS} vectorized chains, each, / one chain"
    return [
        row("step of SGMCMC(sgld) / blackjax.sgld in a jitted scan", one, times["bare"])._replace(at_most=1.2),
        row(f"step of {many}", times["chains"], one)._replace(at_most=1.1),
        row("step with a deterministic site of all rows / without", times["site"], one)._replace(at_most=1.05),
    ]


@partial(jax.jit, static_argnums=0)
def bare_scan(num_steps: int, X: Array, y: Array) -> Array:
    """The draws of blackjax's SGLD, and nothing else."""

    def log_prior(beta):
        return -0.5 * jnp.sum(beta**2)

    def log_likelihood(beta, row):
        features, answer = row
        logit = features @ beta
        return answer * logit - jnp.logaddexp(0.0, logit)

    gradient = blackjax.sgmcmc.gradients.grad_estimator(log_prior, log_likelihood, X.shape[0])
    algorithm = blackjax.sgld(gradient)

    def step(beta, key):
        key_batch, key_noise = random.split(key)
        indices = random.randint(key_batch, (SIZES.batch,), 0, X.shape[0])
        beta = algorithm.step(key_noise, beta, (X[indices], y[indices]), _STEP_SIZE)
        return beta, beta

    return lax.scan(step, jnp.zeros(X.shape[1]), random.split(random.key(0), num_steps))[1]
