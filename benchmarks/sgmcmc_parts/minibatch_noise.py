"""What minibatch noise does to the width, and whether the run itself says so

Plain SGLD on the logistic regression, N = 100 000 rows, d = 50, b = 500: the sd of the draws over that of the Laplace
posterior, mean over the coefficients, beside what the noise ratio r of the run predicts,

    sqrt((1 + r) / (1 - h lam / 2))                                                               (1)

with lam the mean curvature.
"""

import jax.numpy as jnp
import numpy as np
from jax import random
from measure import TRIAL, Row
from numpyro.infer import MCMC
from peers.logistic import laplace, make_data, model

from emberwalk.infer import SGMCMC
from emberwalk.kernels.sgmcmc import sgld

from .setting import SIZES, from_zeros

# A chain forgets in 1 / (h lam) steps, about 60 and 6 at these.
_STEP_SIZES = (1e-6, 1e-5)
_NUM_WARMUP, _NUM_DRAWS = (20, 100) if TRIAL else (4000, 40_000)


def rows() -> list[Row]:
    """Two rows a step size: the inflation, and the prediction against it."""
    data = make_data(SIZES.rows, SIZES.columns)
    exact = laplace(data)
    found = []
    for h in _STEP_SIZES:
        mcmc = MCMC(
            SGMCMC(model, sgld(h), init_strategy=from_zeros()),
            num_warmup=_NUM_WARMUP,
            num_samples=_NUM_DRAWS,
            progress_bar=False,
        )
        mcmc.run(random.key(0), *map(jnp.asarray, data), b=SIZES.batch)
        draws = np.asarray(mcmc.get_samples()["beta"], np.float64)
        seen = float(np.mean(draws.std(0) / exact.sd))
        noise = float(np.mean(mcmc.get_extra_fields()["noise_ratio"]))
        predicted = np.sqrt((1 + noise) / (1 - h * exact.curvatures.mean() / 2))
        note = f"{_NUM_WARMUP} + {_NUM_DRAWS} steps; r = {noise:.3g}"
        found += [
            Row(f"sd of plain SGLD / exact sd, h = {h:g}", seen, note=note),
            Row(f"the same / predicted from the noise ratio, h = {h:g}", seen / predicted, at_least=0.9, at_most=1.1,
                note=f"predicted {predicted:.3f}"),
        ]  # fmt: skip
    return found
