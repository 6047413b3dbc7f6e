"""A path kernel that checkpoints draws what it draws without."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import ParticleGibbs
from emberwalk.models import regime_switching
from tests.smc_data import switching_data


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
