"""The shipped network on the flashing ratchet of OpenFIM's data: disjoint consecutive blocks, as published.

Root mean square error over the 30 rates, mean over the blocks; deterministic. V = 1, labels right: the published
network has .648 at 1 path and .330 / .212 / .162 / .230 / .723 at 30 / 100 / 300 / 1000 / 5000.
"""

import jax
import numpy as np
import pytest

from emberwalk.infer import zero_shot
from emberwalk.models import load_flashing_ratchet
from tests.infer.jump.test_jump_label_noise import BLOCKS, with_wrong_labels
from tests.infer.jump.test_jump_zero_shot_ratchet import ALL_BLOCKS
from tests.kernels.jump.processes import rmse
from tests.statistics import optimised

BARS = {1: 0.66, 3: 0.58, 10: 0.41, 30: 0.28, 100: 0.17, 300: 0.105, 1000: 0.06, 5000: 0.035}
# 5 and 10 % of the labels wrong
NOISY_BARS = {30: 0.36, 100: 0.22, 300: 0.14}


def network_error(num_paths, num_blocks, noise=0.0, potential=1):
    """Mean over the blocks, all in one program."""
    times, labels, truth = load_flashing_ratchet(potential)
    blocks = labels[: num_blocks * num_paths].reshape(num_blocks, num_paths, -1)
    if noise:
        blocks = with_wrong_labels(blocks, noise)

    def mean(y):
        return zero_shot(times, y, num_states=6, method="network").mean

    with optimised():
        found = jax.jit(lambda blocks: jax.lax.map(mean, blocks))(blocks)
    return np.mean([rmse(q, truth) for q in np.asarray(found)])


@pytest.mark.parametrize(("num_paths", "num_blocks"), [(30, 100), (300, 33)])
def test_jump_network_ratchet_error_is_below_its_bar(num_paths, num_blocks):
    error = network_error(num_paths, num_blocks)
    assert error <= BARS[num_paths], f"{error:.4f}"


def test_jump_network_ratchet_error_with_wrong_labels_is_below_its_bar():
    error = network_error(100, 4, 0.05)
    assert error <= NOISY_BARS[100], f"{error:.4f}"


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", BARS)
def test_jump_network_ratchet_error_on_all_blocks_is_below_its_bar(num_paths):
    error = network_error(num_paths, ALL_BLOCKS[num_paths])
    assert error <= BARS[num_paths], f"{num_paths} paths: {error:.4f}"


@pytest.mark.nightly
@pytest.mark.parametrize("noise", [0.05, 0.1])
@pytest.mark.parametrize("num_paths", NOISY_BARS)
def test_jump_network_ratchet_error_with_wrong_labels_on_all_blocks_is_below_its_bar(num_paths, noise):
    error = network_error(num_paths, BLOCKS[num_paths], noise)
    assert error <= NOISY_BARS[num_paths], f"{num_paths} paths, {noise}: {error:.4f}"
