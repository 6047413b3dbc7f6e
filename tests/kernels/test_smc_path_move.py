"""The path move leaves p(x | y) invariant for every N >= 2, and the wrong ones do not.

Paths drawn exactly from the posterior are moved K times; all first and second moments must still
be those of the posterior. What would hide a wrong kernel is avoided: y is no more precise than x
(sy = 1), K = 10 and not 1, N = 2 to 4 and not 1000, and every stage is resampled.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc import SSM, Path, conditional_sweep
from tests.kernels.smc_models import (
    BASE,
    EVENTFUL,
    ORDER_TWO,
    GaussianCase,
    hidden_markov,
    moved,
    with_wide_proposal,
)
from tests.statistics import assert_exact, moments, replicas, z_scores


def z_after_moves(
    case: GaussianCase,
    num: int,
    path_move="backward",
    *,
    ssm: SSM | None = None,
    count=100_000,
    moves=10,
    optimise=True,
) -> np.ndarray:
    """z of all moments after `moves` sweeps of N = `num` from exact paths; `ssm` stands in for the model."""

    def sweep(key, path):
        return conditional_sweep(key, ssm or case.ssm, path, num, path_move=path_move).path

    def replica(key):
        key_draw, key_moves = random.split(key)
        return moments(case.vector(moved(sweep, key_moves, case.exact_draw(key_draw), moves)))

    return z_scores(replicas(replica, random.key(num), count, optimise=optimise), case.exact_moments())


def test_exact_answer_of_the_base_model():
    np.testing.assert_allclose(BASE.mean, [0.991875, 0.5375, 1.241875])
    np.testing.assert_allclose(np.diag(BASE.covariance), [0.60125, 0.5, 0.60125])


@pytest.mark.parametrize("path_move", ["backward", "trace"])
@pytest.mark.parametrize("num", [2, pytest.param(3, marks=pytest.mark.nightly), 4])
def test_path_move_keeps_the_posterior(num, path_move):
    assert_exact(z_after_moves(BASE, num, path_move))


@pytest.mark.nightly
@pytest.mark.parametrize("num", [2, 4])
def test_backward_sampling_of_order_two_keeps_the_posterior(num):
    assert_exact(z_after_moves(ORDER_TWO, num, moves=8))


@pytest.mark.nightly
def test_path_move_keeps_the_posterior_where_the_model_depends_on_time_and_an_observation_is_missing():
    assert_exact(z_after_moves(EVENTFUL, 2))


@pytest.mark.nightly
@pytest.mark.parametrize("path_move", ["backward", "trace"])
@pytest.mark.parametrize("num", [2, 4])
def test_path_move_with_a_proposal_keeps_the_posterior(num, path_move):
    assert_exact(z_after_moves(BASE, num, path_move, ssm=with_wide_proposal(BASE.ssm)))


@pytest.mark.parametrize("path_move", ["backward", pytest.param("trace", marks=pytest.mark.nightly)])
def test_path_move_keeps_the_law_of_a_hidden_markov_chain(path_move):
    ssm, paths, log_joint = hidden_markov()
    log_evidence = np.logaddexp.reduce(log_joint)
    assert log_evidence == pytest.approx(-5.1799, abs=5e-5)
    probabilities = np.exp(log_joint - log_evidence)

    def sweep(key, path):
        return conditional_sweep(key, ssm, path, 2, path_move=path_move).path

    def replica(key):
        key_draw, key_moves = random.split(key)
        drawn = random.categorical(key_draw, jnp.asarray(log_joint))
        path = Path((), jnp.asarray(paths, jnp.int32)[drawn])
        return moments(moved(sweep, key_moves, path, 10).latents)

    exact = probabilities @ np.asarray(jax.vmap(moments)(jnp.asarray(paths)))
    assert_exact(z_scores(replicas(replica, random.key(0), 20_000, optimise=False), exact))
