"""Scores of predictions whose draws are pooled, and the forms that predictions may have.

    z   = (y - mean) / sqrt(variance + noise^2),     NLL = (z^2 + log(2 pi (variance + noise^2))) / 2       (1)
    z^2 = sum (1[y = k] - p_k)^2 / sum p_k (1 - p_k),   NLL = -log p_y                                      (2)

(1) for numbers, with mean and variance over draws; (2) for classes, with p the mean over draws and the sums over
rows and classes. Of both the mean z^2 is 1 where predictions are honest: E (1[y = k] - p_k)^2 = p_k (1 - p_k).
numpy in float64; `function_space.py` says what users see.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

type Reals = NDArray[np.float64]


def normal_score(draws: Reals, y: NDArray, noise_sd: Any) -> tuple[float, float]:
    """Mean NLL and mean z^2 of numbers, equation (1); `draws` are `(draw, *y.shape)`."""
    z, variance = standardised(draws, y, noise_sd)
    nll = np.mean(0.5 * (z**2 + np.log(2 * np.pi * variance)))
    return float(nll), float(np.mean(z**2))


def standardised(draws: Reals, y: NDArray, noise_sd: Any) -> tuple[Reals, Reals]:
    """z of equation (1), and its denominator squared."""
    spread = draws.var(0, ddof=1) if len(draws) > 1 else np.zeros_like(draws[0])
    variance = spread + np.broadcast_to(finite("noise_sd", noise_sd), y.shape) ** 2
    check_spread(variance, "draws")
    return (finite("y", y) - draws.mean(0)) / np.sqrt(variance), variance


def categorical_score(draws: Reals, y: NDArray) -> tuple[float, float]:
    """Mean NLL and z^2 of classes, equation (2); `draws` are probabilities `(draw, *y.shape, class)`."""
    mean = draws.mean(0)
    seen = np.eye(mean.shape[-1])[y]
    with np.errstate(divide="ignore"):  # a class that came and had probability 0: infinite, and rightly so
        nll = -np.mean(np.log(np.sum(seen * mean, -1)))
    expected = np.sum(mean * (1 - mean))
    brier = np.sum((seen - mean) ** 2)
    return float(nll), float(brier / expected) if expected > 0 else (np.inf if brier > 0 else 1.0)


def by_chain(pred: Any, least_chains: int = 1, least_draws: int = 1) -> Reals:
    """`(chain, draw, ...)` in float64; other shapes and what is not finite are refused."""
    pred = finite("pred", pred)
    if pred.ndim < 2 or pred.shape[0] < least_chains or pred.shape[1] < least_draws:
        raise ValueError(
            f"pred must have shape (chain, draw, ...) with at least {least_chains} chains and {least_draws} draws, got "
            f"{pred.shape}. `predict(..., batch_ndims=2)` gives it for samples grouped by chain."
        )
    return pred


def finite(name: str, values: Any) -> Reals:
    """The argument `name` in float64; a NaN or an infinity is refused."""
    values = np.asarray(values, np.float64)
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, but {bad} of its {values.size} values are not.")
    return values


def check_spread(variance: Reals, what: str) -> None:
    """Refuse predictions that do not vary."""
    if not (variance > 0).all():
        raise ValueError(
            f"The {what} agree exactly at {np.count_nonzero(variance <= 0)} of {variance.size} predictions: without a "
            "variance there is no z. Leave these out, or give noise_sd where the function takes it."
        )


def is_categorical(pred: Reals, y: NDArray, noise_sd: Any) -> bool:
    """Classes have one axis more in `pred` than numbers, and are integers in `y`."""
    if pred.shape[2:] == y.shape:
        return False
    if pred.shape[2:-1] != y.shape:
        raise ValueError(
            f"pred has shape {pred.shape} and y {y.shape}: (chain, draw, *y.shape) is needed for numbers, "
            "(chain, draw, *y.shape, class) for classes."
        )
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"y must hold the numbers of classes (integers) where pred has an axis for them, got {y.dtype}."
        )
    if np.any(noise_sd):
        raise ValueError(
            "noise_sd is for numbers, but pred are of classes, which have no other noise: leave it out."
        )
    if y.size and not (y.min() >= 0 and y.max() < pred.shape[-1]):
        raise ValueError(f"y holds classes {y.min()} to {y.max()}, but pred has 0 to {pred.shape[-1] - 1}.")
    return True


def as_probabilities(pred: Reals, already: bool) -> Reals:
    """Probabilities of classes, the last axis; what looks like the other kind is refused."""
    look_so = bool((pred >= 0).all() and np.allclose(pred.sum(-1), 1, atol=1e-3))
    if already and not look_so:
        raise ValueError(
            "pred are no probabilities: below 0, or with a sum over classes other than 1. Leave "
            "probabilities=True out if they are logits."
        )
    if look_so and not already:
        raise ValueError(
            "pred are probabilities, not logits: they sum to 1 over classes. Say probabilities=True."
        )
    if already:
        return pred
    from scipy.special import softmax

    return softmax(pred, axis=-1)
