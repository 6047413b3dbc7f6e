"""A sweep that makes its stages again draws what a sweep stored whole draws, bit for bit, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.kernels.smc import SSM, additive, checkpoint, conditional_sweep, unconditional_sweep
from emberwalk.kernels.smc.forward import run_stages, start_sweep
from tests.kernels.smc_models import BASE, autoregression, second_order, with_wide_proposal
from tests.smc_data import linear_gaussian_data
from tests.statistics import optimised


def products(previous, current, t):
    return jnp.stack([previous * current, (current - 0.9 * previous) ** 2])


def of_length(length: int) -> SSM:
    return autoregression(linear_gaussian_data(length + 1)).ssm


def both_sweeps(ssm: SSM, checkpoint: bool, num=5, count=8, **options):
    """`count` unconditional sweeps, and conditional ones on their paths."""

    def sweeps(key):
        key_first, key_second = random.split(key)
        first = unconditional_sweep(key_first, ssm, num, checkpoint=checkpoint, **options)
        return first, conditional_sweep(key_second, ssm, first.path, num, checkpoint=checkpoint, **options)

    return jax.jit(jax.vmap(sweeps))(random.split(random.key(1), count))


SMOOTHED = {"functional": additive(products)}
# T = 2 and 3 are too short to be cut; 8 = 3 + 3 + 2; the square 9 = 3 + 3 + 3
CASES = {"T=8": (of_length(8), {})}
MORE_CASES = {
    "T=2": (of_length(2), {}),
    "T=3": (of_length(3), {}),
    "imh": (of_length(8), {**SMOOTHED, "paris": "imh"}),
    "trace": (of_length(8), {"path_move": "trace"}),
    "order 2": (second_order(linear_gaussian_data(8)).ssm, {}),
    "T=9": (of_length(9), {}),
    "dense": (of_length(8), {**SMOOTHED, "paris": "dense"}),
    "imh and trace": (of_length(9), {**SMOOTHED, "paris": "imh", "path_move": "trace"}),
    "proposal": (with_wide_proposal(of_length(8)), SMOOTHED),
}
EVERY = [
    *(pytest.param(*case, id=name) for name, case in CASES.items()),
    *(pytest.param(*case, id=name, marks=pytest.mark.nightly) for name, case in MORE_CASES.items()),
]


def assert_same(one, other):
    """Equal bit for bit, but for sums over a stage's weights, whose order is XLA's to choose."""
    for sweep, same in zip(one, other, strict=True):
        np.testing.assert_allclose(sweep.ess, same.ess, rtol=2e-6)
        np.testing.assert_allclose(sweep.log_evidence, same.log_evidence, rtol=2e-6)
        drawn, drawn_again = (kind._replace(ess=None, log_evidence=None) for kind in (sweep, same))
        jax.tree.map(np.testing.assert_array_equal, drawn, drawn_again)


@pytest.mark.parametrize(("ssm", "options"), EVERY)
def test_checkpointed_sweep_is_the_sweep_stored_whole(ssm, options):
    assert_same(both_sweeps(ssm, True, **options), both_sweeps(ssm, False, **options))


@pytest.mark.nightly
@pytest.mark.parametrize("options", [{}, {**SMOOTHED, "paris": "imh"}], ids=["path", "imh"])
def test_checkpointed_sweep_is_the_sweep_stored_whole_as_users_compile_it(options):
    ssm = of_length(1000)
    with optimised():
        assert_same(*(both_sweeps(ssm, how, num=32, **options) for how in (True, False)))


def test_checkpointed_sweep_stores_few_clouds():
    ssm = of_length(2)._replace(length=4096)

    def temporary_bytes(checkpoint):
        sweep = jax.jit(lambda key: unconditional_sweep(key, ssm, 32, checkpoint=checkpoint))
        return sweep.lower(random.key(0)).compile().memory_analysis().temp_size_in_bytes

    stored = 4096 * 32 * 4
    assert temporary_bytes(False) > 3 * stored
    assert temporary_bytes(True) < stored / 2


def test_auto_checkpoints_what_is_large():
    cloud = jax.eval_shape(lambda key: start_sweep(key, BASE.ssm, 100, None).cloud, random.key(0))
    a_stage = 4 * 4 * 100  # carry, latents, log-weight and ancestor of 100 particles
    most = checkpoint._MAX_STORED_BYTES // a_stage
    assert not checkpoint.is_checkpointed("auto", most, cloud)
    assert checkpoint.is_checkpointed("auto", most + 1, cloud)
    assert checkpoint.is_checkpointed("auto", most // 4 + 1, cloud, num_chains=4)
    assert checkpoint.is_checkpointed(True, 2, cloud)
    assert not checkpoint.is_checkpointed(False, most + 1, cloud)


@pytest.mark.parametrize("bad", ["always", None, 1, 0])
def test_checkpoint_is_auto_true_or_false(bad):
    with pytest.raises(ValueError, match=rf"checkpoint must be one of \('auto', True, False\), got {bad!r}"):
        unconditional_sweep(random.key(0), BASE.ssm, 4, checkpoint=bad)


# Planted bugs


@pytest.mark.nightly
def test_planted_stages_made_again_with_other_keys(monkeypatch):
    ssm, right = of_length(8), checkpoint.Checkpoints

    def with_other_keys(*fields):
        return right(*fields)._replace(remake=partial(run_stages, random.key(99), ssm))

    monkeypatch.setattr(checkpoint, "Checkpoints", with_other_keys)
    with pytest.raises(AssertionError):
        assert_same(both_sweeps(ssm, True), both_sweeps(ssm, False))
