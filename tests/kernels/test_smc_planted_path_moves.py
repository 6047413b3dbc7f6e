"""Wrong path moves, each made of the right one's parts, and each caught by the invariance test."""

import jax
import jax.numpy as jnp
import pytest
from jax import random

from emberwalk.kernels.smc import backward, conditional, conditional_sweep, forward
from emberwalk.kernels.smc.resampling import inverse_cdf, relative_weights, select
from emberwalk.models.ssm_examples import linear_gaussian_ssm
from tests.kernels.smc_models import BASE, EVENTFUL, ORDER_TWO, autoregression, moved, with_wide_proposal
from tests.kernels.test_smc_path_move import z_after_moves
from tests.statistics import assert_caught, assert_exact, moments, optimised, replicas, z_scores

COUNT = 10_000


def assert_shows(case, num=2, path_move="backward", *, count=COUNT, **kwargs):
    """The law after ten sweeps is no longer that of exact paths."""
    assert_caught(z_after_moves(case, num, path_move, count=count, optimise=count > COUNT, **kwargs))


def change_backward(monkeypatch, change):
    """`change(ssm, history)` is what backward sampling gets to see."""
    right = backward.sample_path
    monkeypatch.setattr(
        conditional, "sample_path", lambda key, ssm, history: right(key, *change(ssm, history))
    )


def with_log_weights(history, log_weights):
    return history._replace(stages=history.stages._replace(log_weights=log_weights))


def systematic(key, log_weights, num):
    """One uniform for all slots; a single draw stays what it was."""
    if num == 1:
        return inverse_cdf(key, log_weights, 1)
    return select((jnp.arange(num) + random.uniform(key)) / num, relative_weights(log_weights)[0])


@pytest.mark.parametrize("path_move", ["backward", pytest.param("trace", marks=pytest.mark.nightly)])
def test_planted_systematic_resampling_with_the_reference_forced(path_move, monkeypatch):
    monkeypatch.setattr(forward, "inverse_cdf", systematic)
    assert_shows(BASE, path_move=path_move, count=5 * COUNT)


def test_planted_sweep_without_reference(monkeypatch):
    for name in ("start_sweep", "forward_sweep"):
        right = getattr(forward, name)
        monkeypatch.setattr(conditional, name, lambda *args, right=right: right(*args[:-1], None))
    assert_shows(BASE)


SWITCHED = (
    "no log-weights in the backward weights",
    "weights overwritten by those of the next stage",
    "the next emission left out of the backward weights",
    "backward weights of the stage before",
    "first state drawn but not kept in slot 0",
    "first observation left out",
)


@pytest.fixture(scope="module")
def z_of_switched():
    """z of all moments under a bug of `SWITCHED`, its number its place there, or under none.

    One program for all of them: compiling is what such a test costs.
    """
    bug = None

    def switched(number, wrong, right):
        return jax.tree.map(lambda w, r: jnp.where(bug == number, w, r), wrong, right)

    def seen_backward(ssm, history):
        log_weights = history.stages.log_weights
        late = jnp.concatenate([log_weights[1:], history.last.log_weights[None]])
        log_weights = switched(0, 0.0, switched(1, late, log_weights))

        def evaluate(c, x, t):
            factors = ssm.evaluate(c, x, switched(3, t - 1, t))
            return factors._replace(log_likelihood=switched(2, 0.0, factors.log_likelihood))

        return ssm._replace(evaluate=evaluate), with_log_weights(history, log_weights)

    def first_stage(key, ssm, num, reference, right=forward.first_stage):
        return switched(4, right(key, ssm, num, None), right(key, ssm, num, reference))

    def init_loglik(x):
        return switched(5, 0.0, EVENTFUL.ssm.init_loglik(x))

    def sweep(key, path):
        return conditional_sweep(key, EVENTFUL.ssm._replace(init_loglik=init_loglik), path, 2).path

    def replica(key, which):
        nonlocal bug
        bug = which
        key_draw, key_moves = random.split(key)
        return moments(EVENTFUL.vector(moved(sweep, key_moves, EVENTFUL.exact_draw(key_draw), 10)))

    program, keys = jax.jit(jax.vmap(replica, in_axes=(0, None))), random.split(random.key(2), 2 * COUNT)

    def z(which):
        with pytest.MonkeyPatch.context() as monkeypatch, optimised():
            change_backward(monkeypatch, seen_backward)
            monkeypatch.setattr(forward, "first_stage", first_stage)
            return z_scores(program(keys, which), EVENTFUL.exact_moments())

    return z


@pytest.mark.xdist_group("smc-switched")
@pytest.mark.parametrize("which", range(len(SWITCHED)), ids=SWITCHED)
def test_planted_bug_that_is_switched_on(which, z_of_switched):
    assert_caught(z_of_switched(which))


@pytest.mark.xdist_group("smc-switched")
def test_without_a_bug_switched_on_the_path_move_is_right(z_of_switched):
    assert_exact(z_of_switched(len(SWITCHED)))


@pytest.mark.nightly
def test_planted_one_factor_for_order_two():
    one_factor = ORDER_TWO.ssm._replace(order=1)
    assert_caught(z_after_moves(ORDER_TWO, 2, ssm=one_factor, count=5 * COUNT, moves=8), 20)


@pytest.mark.nightly
def test_planted_proposal_without_its_density():
    assert_shows(BASE, ssm=with_wide_proposal(BASE.ssm, forget=True))


def test_planted_reference_of_another_chain():
    """Two chains whose parameters differ: a path of the other is a draw of another posterior."""
    y, phis = (1.5, -0.5, 2.0), (0.9, -0.9)
    cases = [autoregression(y, phi=phi) for phi in phis]

    def sweep(key, path, phi):
        return conditional_sweep(key, linear_gaussian_ssm(jnp.array(y), phi, 1.0), path, 2).path

    def replica(key, other):
        def sweep_both(key, paths):
            references = jax.tree.map(lambda leaf: jnp.where(other, leaf[::-1], leaf), paths)
            return jax.vmap(sweep)(random.split(key), references, jnp.array(phis))

        key_move, *keys = random.split(key, 3)
        exact = [case.exact_draw(key) for case, key in zip(cases, keys, strict=True)]
        paths = moved(sweep_both, key_move, jax.tree.map(lambda *leaves: jnp.stack(leaves), *exact), 3)
        return jax.vmap(BASE.vector)(paths)

    def z(other):
        paths = replicas(replica, random.key(0), COUNT, jnp.array(other), optimise=False)
        return z_scores(paths, [case.mean for case in cases])

    assert_exact(z(False))
    assert_caught(z(True))
