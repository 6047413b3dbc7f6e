"""A path kernel that checkpoints draws what it draws without."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import PPG, ParticleGibbs
from emberwalk.models import linear_gaussian, regime_switching
from tests.smc_data import linear_gaussian_data, switching_data


@pytest.mark.nightly
def test_checkpointed_ppg_draws_the_same():
    """All moves; "auto" counts the chains that store their sweeps together."""

    def draws(checkpoint):
        kernel = PPG(linear_gaussian, 4, interweave_steps=3, checkpoint=checkpoint)
        mcmc = MCMC(
            kernel, num_warmup=6, num_samples=6, num_chains=2, chain_method="vectorized", progress_bar=False
        )
        mcmc.run(random.key(0), jnp.asarray(linear_gaussian_data(12)))
        assert kernel.path_block.num_chains == 2
        return mcmc.get_samples()

    jax.tree.map(np.testing.assert_array_equal, draws(True), draws(False))


@pytest.mark.nightly
@pytest.mark.parametrize("path_move", ["backward", "trace"])
def test_checkpointed_path_kernel_draws_the_same(path_move):
    """A discrete and a continuous latent, two chains under vmap."""

    def fields(checkpoint):
        kernel = ParticleGibbs(regime_switching, 4, path_move=path_move, checkpoint=checkpoint)
        mcmc = MCMC(
            kernel, num_warmup=2, num_samples=8, num_chains=2, chain_method="vectorized", progress_bar=False
        )
        mcmc.run(random.key(0), switching_data(12), extra_fields=("num_nonfinite", "log_evidence"))
        return mcmc.get_samples(), mcmc.get_extra_fields()

    (draws, others), (same_draws, same_others) = fields(True), fields(False)
    jax.tree.map(np.testing.assert_array_equal, draws, same_draws)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-6), others, same_others)
