"""`zero_shot` on the discrete flashing ratchet of OpenFIM's data: disjoint consecutive blocks, as published.

Root mean square error over the 30 off-diagonal rates, mean over the blocks; deterministic. With V = 1 the published
network has .648 at 1 path and .330 / .212 / .162 / .230 / .723 at 30 / 100 / 300 / 1000 / 5000.
"""

import warnings

import numpy as np
import pytest

from emberwalk.infer import zero_shot
from emberwalk.models import load_flashing_ratchet
from tests.kernels.jump.processes import ratchet, rmse
from tests.statistics import optimised

ALL_BLOCKS = {1: 2000, 3: 333, 10: 333, 30: 333, 100: 100, 300: 33, 1000: 10, 5000: 2}
BARS = {
    1: {1: 0.65, 3: 0.55, 10: 0.40, 30: 0.27, 100: 0.16, 300: 0.10, 1000: 0.05, 5000: 0.025},
    0: {1: 0.52, 30: 0.21, 100: 0.13, 300: 0.075, 1000: 0.05, 5000: 0.025},
}
# with the noise level inferred, below 30 paths
MORE = 0.015
LINKS = ~np.eye(6, dtype=bool)


def found_on_blocks(potential, num_paths, num_blocks, label_noise):
    """Errors, and the last posterior."""
    times, labels, truth = load_flashing_ratchet(potential)
    errors = []
    with optimised(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one path does not visit all states
        for block in range(num_blocks):
            paths = labels[block * num_paths : (block + 1) * num_paths]
            post = zero_shot(times, paths, num_states=6, label_noise=label_noise)
            errors.append(rmse(post.mean, truth))
    return np.mean(errors), post


@pytest.mark.parametrize("num_paths", [30, 300])
def test_jump_ratchet_error_of_zero_shot_is_below_its_bar(num_paths):
    error, post = found_on_blocks(1, num_paths, 33, 0.0)
    assert error <= BARS[1][num_paths], f"{error:.4f}"
    low, high = (np.asarray(post.quantile(p)) for p in (0.05, 0.95))
    held = ((low <= ratchet()) & (ratchet() <= high))[LINKS].mean()
    assert held > 0.7


WHOLE = [(potential, num_paths) for potential, bars in BARS.items() for num_paths in bars]


@pytest.mark.nightly
@pytest.mark.parametrize(("potential", "num_paths"), WHOLE)
def test_jump_ratchet_error_of_zero_shot_on_all_blocks_is_below_its_bar(potential, num_paths):
    error, _ = found_on_blocks(potential, num_paths, ALL_BLOCKS[num_paths], 0.0)
    assert error <= BARS[potential][num_paths], f"V = {potential}, {num_paths} paths: {error:.4f}"


# with the noise level inferred a path costs a hundred times as much: the first blocks
SOME_BLOCKS = {1: 300, 3: 100, 10: 60, 30: 33, 100: 20, 300: 8, 1000: 2, 5000: 1}


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", BARS[1])
def test_jump_ratchet_error_with_the_noise_inferred_is_hardly_larger(num_paths):
    error, _ = found_on_blocks(1, num_paths, SOME_BLOCKS[num_paths], "infer")
    bar = BARS[1][num_paths] + (MORE if num_paths < 30 else 0)
    assert error <= bar, f"{num_paths} paths: {error:.4f}"
