"""Zhat is unbiased without a reference; with one it is 1 / Zhat that is."""

import numpy as np
from jax import random

from emberwalk.kernels.smc import conditional_sweep, particle_filter
from tests.kernels.smc_models import autoregression
from tests.smc_data import linear_gaussian_data
from tests.statistics import assert_caught, assert_exact, replicas, z_scores

CASE = autoregression(linear_gaussian_data(10))
COUNT, NUM_PARTICLES = 100_000, 20


def test_mean_of_the_filters_evidence_is_the_evidence():
    log_evidence = replicas(
        lambda key: particle_filter(key, CASE.ssm, NUM_PARTICLES).log_evidence, random.key(0), COUNT
    )
    assert_exact(z_scores(np.exp(log_evidence - CASE.log_evidence), 1.0))


def test_reciprocal_of_the_conditional_sweeps_evidence_is_unbiased_and_its_evidence_is_not():
    def replica(key):
        key_draw, key_sweep = random.split(key)
        return conditional_sweep(key_sweep, CASE.ssm, CASE.exact_draw(key_draw), NUM_PARTICLES).log_evidence

    ratio = np.exp(replicas(replica, random.key(0), COUNT) - CASE.log_evidence)
    assert_exact(z_scores(1 / ratio, 1.0))
    assert_caught(z_scores(ratio, 1.0))
