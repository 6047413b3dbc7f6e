"""q(H) of SVI against the posterior of H by quadrature, under exact noise: 200 steps, all seen with noise of sd .1."""

import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.infer import AutoFractionalSDE
from emberwalk.models import hurst_prior
from tests.infer.fractional.guided import SD, bridge, exact_gp, fbm_prior
from tests.statistics import optimised

N = 200
TS = np.linspace(0, 1, N + 1)
AT = np.arange(1, N + 1)
PRIOR = hurst_prior(2.0, 2.0)
SEEN = bridge(N, AT)


def model(y):
    SEEN(numpyro.sample("H", PRIOR), y)


def data(H):
    rng = np.random.default_rng(int(100 * H))
    return rng.multivariate_normal(np.zeros(N + 1), fbm_prior(TS, H))[AT] + SD * rng.normal(size=N)


def quadrature(y):
    """Mean and sd of H."""
    grid = np.linspace(0.02, 0.98, 241)[1:-1]
    evidence = np.array([exact_gp(fbm_prior(TS, H), AT, y)[0] for H in grid])
    log_posterior = evidence + np.asarray(PRIOR.log_prob(grid), float)
    mass = np.exp(log_posterior - log_posterior.max())
    mass /= mass.sum()
    mean = mass @ grid
    return mean, np.sqrt(mass @ (grid - mean) ** 2)


@pytest.mark.nightly
@pytest.mark.parametrize("H", [0.1, 0.3, 0.7, 0.9])
def test_fractional_svi_has_the_posterior_of_hurst(H):
    y = data(H)
    mean, sd = quadrature(y)
    guide, rates = AutoFractionalSDE(model), optax.exponential_decay(0.05, 2000, 0.01)
    svi = SVI(model, guide, optax.adam(rates), Trace_ELBO(num_particles=8))
    with optimised():
        params = svi.run(
            random.key(0), 2000, jnp.asarray(y, jnp.result_type(float)), progress_bar=False
        ).params
        levels = (np.arange(1000) + 0.5) / 1000
        draws = np.asarray(guide.quantiles(params, levels)["H"], float)
    assert abs(draws.mean() - mean) <= 0.3 * sd
    assert 0.75 <= draws.std() / sd <= 1.25
