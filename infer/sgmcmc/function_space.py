"""What chains agree on where weights mean nothing: their predictions, and how far these can be trusted.

    share   = B / (B + W)                                                                         (1)
    z       = (y - mean) / sqrt(variance + noise^2)                                               (2)
    z^2     = sum (1[y = k] - p_k)^2 / sum p_k (1 - p_k)             for classes                  (3)
    alpha^2 = (m - 3) / (m - 1) mean(e^2 / v) - 1 / m                                             (4)

B is the variance over chains of the mean of a prediction, W the mean over chains of its variance within. The
mean of (2) over predictions, and (3) with sums over rows and classes (a Brier score over the one that the
probabilities expect), are 1 for honest predictions and larger for overconfident ones. In (4) e is y minus the mean
of m members and v their unbiased variance: if members ~ N(mu, s^2) and y ~ N(mu, alpha^2 s^2), then
E e^2 = (alpha^2 + 1 / m) s^2 and, independently, E 1 / v = (m - 1) / (m - 3) / s^2. Few members make z^2 large even
where s is right: (4) takes this into account, the mean of (2) does not.

The weights of a network have many equal modes (units may be swapped), so that chains that agree on all that
can be seen look apart in them: R-hat belongs on predictions. Logits are free up to a constant per row; give
probabilities where that matters. All functions take `pred` of shape (chain, draw, ...), numpy or JAX, and
compute in float64 with numpy.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int
from numpy.typing import NDArray

from .scores import (
    Reals,
    as_probabilities,
    by_chain,
    categorical_score,
    check_spread,
    finite,
    is_categorical,
    normal_score,
    standardised,
)

__all__ = [
    "CalibrationCurve",
    "ChainsCurve",
    "between_chain_share",
    "calibration_curve",
    "chains_curve",
    "predictive_rhat",
    "rescale_factor",
]


def predictive_rhat(pred: Float[ArrayLike, "chain draw ..."]) -> Float[np.ndarray, "..."]:
    """Rank-normalised split R-hat of every prediction (Vehtari et al. 2021), by arviz-stats.

    Above 1.01 the chains have not seen the same predictions. One that is the same in all draws has R-hat 1.

    Args:
        pred: predictions, at least 4 draws a chain; of classes their probabilities.

    Raises:
        ValueError: for fewer draws, or a prediction that is not finite.

    Examples:
        >>> from emberwalk.infer import predictive_rhat
        >>> pred = np.random.default_rng(0).normal(size=(4, 100, 2))
        >>> pred[:2, :, 1] += 3  # two chains see something else
        >>> [bool(rhat > 1.1) for rhat in predictive_rhat(pred)]
        [False, True]
    """
    from arviz_stats.base import array_stats

    pred = by_chain(pred, least_draws=4)
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = array_stats.rhat(pred, chain_axis=0, draw_axis=1)
    return np.where(np.ptp(pred, axis=(0, 1)) == 0, 1.0, rhat)


def between_chain_share(pred: Float[ArrayLike, "chain draw ..."]) -> Float[np.ndarray, "..."]:
    """How much of the predictive variance lies between chains, equation (1), for every prediction.

    Above 0.5 a single chain sees less than half of the variance. Chains that agree do not have a share of 0:
    the mean of each has an error, and the share comes to about 1 / (1 + ESS of a chain). A large share says that there
    are modes, or that no chain has mixed; a chain whose halves differ has not.

    Args:
        pred: predictions, at least two chains of two draws.

    Returns:
        Between 0 and 1, without the axes of chains and draws; 0 where nothing varies.

    Raises:
        ValueError: for fewer chains or draws, or a prediction that is not finite.

    Examples:
        >>> from emberwalk.infer import between_chain_share
        >>> float(between_chain_share([[0.0, 2.0], [3.0, 5.0]]).round(3))  # B = 4.5, W = 2
        0.692
    """
    pred = by_chain(pred, least_chains=2, least_draws=2)
    between = pred.mean(1).var(0, ddof=1)
    total = between + pred.var(1, ddof=1).mean(0)
    return np.divide(between, total, out=np.zeros_like(total), where=total > 0)


class ChainsCurve(NamedTuple):
    """Scores of predictions against the number of chains that make them.

    Attributes:
        num_chains: 1, ..., all.
        nll: mean over y of minus its log density, or of the log probability of its class, in nats; infinite where
            one came that had probability 0.
        mean_z2: mean of z^2, equation (2) or (3): 1 if calibrated, larger if overconfident.
    """

    num_chains: Int[np.ndarray, " size"]
    nll: Float[np.ndarray, " size"]
    mean_z2: Float[np.ndarray, " size"]


def chains_curve(
    pred: Float[ArrayLike, "chain draw ..."],
    y: ArrayLike,
    *,
    noise_sd: float | ArrayLike = 0.0,
    probabilities: bool = False,
) -> ChainsCurve:
    """Do more chains predict better? Scores of m chains together, for m = 1, ..., all of them.

    Each score is a mean over the chains c, c + 1, ..., c + m - 1, counted round, for every c: all chains count alike.
    A curve that still falls at its end asks for more chains.

    Args:
        pred: of numbers, `(chain, draw, *y.shape)`: scored by the normal distribution with their mean
            and variance. Of classes, `(chain, draw, *y.shape, class)`: logits, scored by mean probability.
        y: what was seen: numbers, or classes counted from 0 (integers).
        noise_sd: of an observation about its prediction, a number or of the shape of y; 0 where `pred` are draws of
            observations. Not for classes.
        probabilities: whether `pred` of classes are probabilities in place of logits.

    Raises:
        ValueError: for shapes that do not fit, classes out of range, predictions that are not finite, that
            are no probabilities though they should be (or the reverse), or that do not vary where there is no noise.

    Examples:
        >>> from emberwalk.infer import chains_curve
        >>> rng = np.random.default_rng(0)
        >>> chains = rng.normal(size=(8, 1, 500)) + 0.1 * rng.normal(size=(8, 50, 500))  # each sure of itself
        >>> curve = chains_curve(chains, rng.normal(size=500))
        >>> bool(curve.mean_z2[0] > 50), bool(curve.mean_z2[-1] < 2)
        (True, True)
    """
    pred, y = by_chain(pred), np.asarray(y)
    if is_categorical(pred, y, noise_sd):
        pred, score = as_probabilities(pred, probabilities), partial(categorical_score, y=y)
    else:
        score = partial(normal_score, y=y, noise_sd=noise_sd)
    total = len(pred)
    scores = np.array([_mean_over_windows(score, pred, size) for size in range(1, total + 1)])
    return ChainsCurve(np.arange(1, total + 1), scores[:, 0], scores[:, 1])


def _mean_over_windows(score: Callable, pred: Reals, size: int) -> Reals:
    total = len(pred)
    starts = range(total if size < total else 1)  # all chains are one window, wherever it starts
    windows = [pred[(start + np.arange(size)) % total] for start in starts]
    return np.mean([score(window.reshape(-1, *pred.shape[2:])) for window in windows], axis=0)


class CalibrationCurve(NamedTuple):
    """How often what is predicted happens; on the diagonal for honest predictions.

    Attributes:
        expected: numbers: level of a central interval. Classes: mean confidence of a group of rows.
        observed: numbers: share of y within it. Classes: share of the group whose class was right.
        num: elements of y behind each point.
    """

    expected: Float[np.ndarray, " point"]
    observed: Float[np.ndarray, " point"]
    num: Int[np.ndarray, " point"]


def calibration_curve(
    pred: Float[ArrayLike, "chain draw ..."],
    y: ArrayLike,
    *,
    noise_sd: float | ArrayLike = 0.0,
    probabilities: bool = False,
    num_points: int = 10,
) -> CalibrationCurve:
    """Do things happen as often as all chains together say? Below the diagonal they are overconfident.

    Numbers: central intervals of the normal distribution with mean and variance of the predictions. Classes:
    rows are sorted by the probability of the likeliest class and cut into groups of equal size.

    Args:
        pred: as for `chains_curve`.
        y: as for `chains_curve`.
        noise_sd: as for `chains_curve`.
        probabilities: as for `chains_curve`.
        num_points: intervals, at levels (k + 1/2) / num_points, or groups of rows: with n rows each a share has
            an error of up to 1 / (2 sqrt(n / num_points)).

    Raises:
        ValueError: as `chains_curve` does, and for more groups than rows.

    Examples:
        >>> from emberwalk.infer import calibration_curve
        >>> rng = np.random.default_rng(0)
        >>> draws, y = rng.normal(size=(4, 100, 1000)), 2 * rng.normal(size=1000)  # half as wide as what comes
        >>> curve = calibration_curve(draws, y, num_points=5)
        >>> [float(level) for level in curve.expected], bool((curve.observed < curve.expected).all())
        ([0.1, 0.3, 0.5, 0.7, 0.9], True)
    """
    pred, y = by_chain(pred), np.asarray(y)
    if isinstance(num_points, bool) or not isinstance(num_points, int) or num_points < 1:
        raise ValueError(f"num_points must be a whole number of at least 1, got {num_points!r}.")
    draws = pred.reshape(-1, *pred.shape[2:])
    if is_categorical(pred, y, noise_sd):
        return _reliability(as_probabilities(draws, probabilities), y, num_points)
    from scipy.stats import norm

    z = np.abs(standardised(draws, y, noise_sd)[0]).ravel()
    expected = (np.arange(num_points) + 0.5) / num_points
    observed = np.mean(z <= norm.ppf((1 + expected[:, None]) / 2), axis=1)
    return CalibrationCurve(expected, observed, np.full(num_points, z.size))


def _reliability(draws: Reals, y: NDArray, num_points: int) -> CalibrationCurve:
    """Confidence and accuracy of rows in groups of equal size."""
    mean = draws.mean(0).reshape(-1, draws.shape[-1])
    confidence, right = mean.max(-1), mean.argmax(-1) == y.ravel()
    if num_points > len(right):
        raise ValueError(
            f"num_points is {num_points}, but there are {len(right)} rows: ask for fewer groups."
        )
    groups = np.array_split(np.argsort(confidence, kind="stable"), num_points)
    expected = np.array([confidence[group].mean() for group in groups])
    observed = np.array([right[group].mean() for group in groups])
    return CalibrationCurve(expected, observed, np.array([len(group) for group in groups]))


def rescale_factor(members: Float[ArrayLike, "member ..."], y: Float[ArrayLike, "..."]) -> float:
    """alpha, equation (4): by how much the sd of few members must be stretched to fit what was seen.

    1 for honest members, above 1 for overconfident ones. The noise of y is part of what is fitted.

    Args:
        members: independent predictions, such as those of a `DeepEnsemble` (of `(member, 1, ...)` take `[:, 0]`),
            or one draw of each chain; draws of one chain are not independent. At least 4; with 4 or 5 the mean in (4)
            has no finite variance, and alpha needs thousands of predictions.
        y: what was seen, of the shape of one prediction.

    Returns:
        alpha; 0 where errors are so small that the estimate of alpha^2 is below 0.

    Raises:
        ValueError: for fewer than 4 members, shapes that do not fit, predictions that are not finite, or members
            that agree exactly.

    Examples:
        >>> from emberwalk.infer import rescale_factor
        >>> rng = np.random.default_rng(0)
        >>> round(rescale_factor(rng.normal(size=(8, 10000)), 2 * rng.normal(size=10000)), 1)
        2.0
    """
    members, y = finite("members", members), finite("y", y)
    num = len(members) if members.ndim else 0
    if num < 4:
        raise ValueError(
            f"members must be at least 4 along the first axis, got {num}: 1 / variance has no mean for fewer."
        )
    if members.shape[1:] != y.shape:
        raise ValueError(
            f"members have shape {members.shape}, but y has {y.shape}: (member, *y.shape) is needed."
        )
    variance = members.var(0, ddof=1)
    check_spread(variance, "members")
    squared = np.mean((y - members.mean(0)) ** 2 / variance)
    return float(np.sqrt(max((num - 3) / (num - 1) * squared - 1 / num, 0.0)))
