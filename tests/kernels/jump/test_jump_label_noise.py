"""Wrong labels, their number unknown: errors of the refined rates of the flashing ratchet, and of the noise level."""

import numpy as np
import pytest

from emberwalk.kernels.jump import lag_grid, path_statistics, refine_labels
from tests.kernels.jump.processes import ratchet_paths, rmse
from tests.statistics import optimised

BARS = {
    0.01: {30: 0.31, 100: 0.185, 300: 0.11},
    0.05: {30: 0.31, 100: 0.185, 300: 0.11},
    0.10: {30: 0.33, 100: 0.185, 300: 0.11},
    0.20: {30: 0.39, 100: 0.20, 300: 0.125},
}
BLOCKS = {30: 8, 100: 6, 300: 4}


def with_wrong_labels(labels, noise, num_states=6, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(labels.shape) < noise
    return np.where(wrong, (labels + rng.integers(1, num_states, labels.shape)) % num_states, labels)


def refined_blocks(data_folder, noise, num_paths, num_blocks):
    """Error of the rates and the noise level found, on each block."""
    if not (data_folder / "mjp" / "dfr_V1.npz").exists():
        pytest.skip("mjp/dfr_V1.npz is not in EMBERWALK_DATA; github.com/FIM4Science/OpenFIM has it (MIT).")
    times, labels, truth = ratchet_paths(data_folder, 1)
    noisy = with_wrong_labels(labels[: num_paths * num_blocks], noise)
    grid, found = lag_grid(times), []
    with optimised():
        for block in range(num_blocks):
            y = noisy[block * num_paths : (block + 1) * num_paths]
            refined = refine_labels(y, grid, path_statistics(times, y, num_states=6, exact=False))
            found.append((rmse(refined.mean, truth), float(refined.label_noise)))
    return np.array(found)


def check(found, noise, num_paths):
    assert found[:, 0].mean() <= BARS[noise][num_paths], f"error {found[:, 0].mean():.4f}"
    if num_paths >= 100:
        assert abs(found[:, 1].mean() - noise) < 0.01
        assert np.abs(found[:, 1] - noise).max() < 0.02


def test_jump_label_noise_of_5_percent_at_100_paths(data_folder):
    check(refined_blocks(data_folder, 0.05, 100, 4), 0.05, 100)


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", BLOCKS)
@pytest.mark.parametrize("noise", BARS)
def test_jump_label_noise_unknown_everywhere(data_folder, noise, num_paths):
    check(refined_blocks(data_folder, noise, num_paths, BLOCKS[num_paths]), noise, num_paths)
