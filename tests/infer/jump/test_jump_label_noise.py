"""Wrong labels, their number unknown: errors of `zero_shot` on the flashing ratchet, and of the noise level."""

import numpy as np
import pytest

from emberwalk.infer import zero_shot
from emberwalk.models import load_flashing_ratchet
from tests.kernels.jump.processes import rmse
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


def found_on_blocks(noise, num_paths, num_blocks):
    """Error of the rates and the noise level found, on each block."""
    times, labels, truth = load_flashing_ratchet(1)
    noisy = with_wrong_labels(labels[: num_paths * num_blocks], noise)
    found = []
    with optimised():
        for block in range(num_blocks):
            post = zero_shot(times, noisy[block * num_paths : (block + 1) * num_paths], num_states=6)
            found.append((rmse(post.mean, truth), float(post.label_noise.mean)))
    return np.array(found)


def test_jump_label_noise_of_5_percent_at_100_paths():
    errors, levels = found_on_blocks(0.05, 100, 4).T
    assert errors.mean() <= BARS[0.05][100], f"error {errors.mean():.4f}"
    assert abs(levels.mean() - 0.05) < 0.01
    assert np.abs(levels - 0.05).max() < 0.02


@pytest.mark.nightly
@pytest.mark.parametrize("num_paths", BLOCKS)
@pytest.mark.parametrize("noise", BARS)
def test_jump_label_noise_unknown_everywhere(noise, num_paths):
    errors, levels = found_on_blocks(noise, num_paths, BLOCKS[num_paths]).T
    assert errors.mean() <= BARS[noise][num_paths], f"error {errors.mean():.4f}"
    if num_paths >= 100:
        assert abs(levels.mean() - noise) < 0.01
        assert np.abs(levels - noise).max() < 0.02


@pytest.mark.nightly
def test_jump_label_noise_planted_labels_taken_as_right_are_caught():
    """One label in twenty is wrong: taken for jumps they make rates five times too large."""
    times, labels, truth = load_flashing_ratchet(1)
    with optimised():
        post = zero_shot(times, with_wrong_labels(labels[:300], 0.05), label_noise=0.0)
    assert rmse(post.mean, truth) > 3 * BARS[0.05][300]
