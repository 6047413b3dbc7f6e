"""Errors with wrong labels, their share unknown

The ratchet with V = 1; labels replaced by one of the five others, fixed seed; the first 8, 6 and 4 blocks of 30, 100
and 300 paths; root mean square error over the 30 rates, mean over the blocks. Naive: counts over dwell times.
"""

import numpy as np
from measure import TRIAL, Row

from .setting import blocks, naive_rates, paths_of, refined, rmse, with_wrong_labels

_BLOCKS = {30: 8, 100: 6, 300: 4}
_BARS = {
    0.01: {30: 0.31, 100: 0.185, 300: 0.11},
    0.05: {30: 0.31, 100: 0.185, 300: 0.11},
    0.10: {30: 0.33, 100: 0.185, 300: 0.11},
    0.20: {30: 0.39, 100: 0.20, 300: 0.125},
}


def rows() -> list[Row]:
    """Level by level."""
    return [_row(noise, num_paths) for noise, bars in _BARS.items() for num_paths in bars]


def _row(noise: float, num_paths: int) -> Row:
    times, _, truth = paths_of(1)
    # the whole of the blocks at once: the wrong labels are then those of the tests
    parts = blocks(1, num_paths, 1 if TRIAL else _BLOCKS[num_paths])
    noisy = with_wrong_labels(parts.reshape(-1, parts.shape[-1]), noise).reshape(parts.shape)
    found = [refined(times, part, "infer") for part in noisy]
    levels = np.array([float(post.label_noise.mean) for post in found])
    naive = np.mean([rmse(naive_rates(times, part), truth) for part in noisy])
    return Row(
        f"{noise:.0%} wrong, {num_paths} paths: zero_shot",
        float(np.mean([rmse(post.mean, truth) for post in found])),
        "",
        at_most=_BARS[noise][num_paths],
        note=f"naive {naive:.2f}; noise level found {levels.mean():.4f}, {levels.min():.4f} to {levels.max():.4f}",
    )
