"""Diagnostics of predictions against exact values, and the factor that few members need against their law."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy.stats import f as f_law
from scipy.stats import norm

from emberwalk.infer import (
    between_chain_share,
    calibration_curve,
    chains_curve,
    predictive_rhat,
    rescale_factor,
)
from tests.statistics import assert_caught, assert_exact, z_scores


def pattern(mean, variance, num=4):
    """`num` draws of exactly this mean and unbiased variance."""
    unit = np.linspace(-1, 1, num)
    return mean + np.sqrt(variance) * unit / unit.std(ddof=1)


# R-hat and the share between chains


def test_rhat_is_that_of_arviz_for_each_prediction():
    pred = np.random.default_rng(0).normal(size=(4, 50, 2, 3))
    expected = [[array_stats.rhat(pred[:, :, i, j], 0, 1) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(predictive_rhat(pred), expected)


def test_rhat_of_a_prediction_that_never_changes_is_1_and_of_frozen_chains_huge():
    pred = np.zeros((4, 50, 2))
    pred[2:, :, 1] = 1.0
    constant, frozen = predictive_rhat(pred)
    assert constant == 1.0
    assert frozen > 1e6


def test_the_share_between_chains_is_exact():
    pred = np.stack([pattern(mean, variance) for mean, variance in [(0, 1), (3, 2), (6, 3)]])
    constant = np.full_like(pred, 5.0)
    alike = np.stack([pattern(1.0, 2.0)] * 3)
    shares = between_chain_share(np.stack([pred, constant, alike], -1))
    np.testing.assert_allclose(shares, [9 / (9 + 2), 0, 0], atol=1e-12)


def test_the_share_of_chains_that_agree_is_that_of_their_error():
    """n independent draws of N(0, 1) a chain: E B = 1 / n and E W = 1, so that the share is near 1 / (1 + n)."""
    pred = np.random.default_rng(0).normal(size=(4, 20, 5000))
    between, within = pred.mean(1).var(0, ddof=1), pred.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(between_chain_share(pred), between / (between + within))
    assert_exact(z_scores(between, 1 / 20))
    assert_exact(z_scores(within, 1.0))


# Calibration


def test_honest_numbers_have_z2_of_1_and_their_levels():
    """Of n draws: mean z^2 = (1 + 1 / n) (n - 1) / (n - 3), and z^2 is nearly a chi-square of 1."""
    rng = np.random.default_rng(0)
    pred, y = rng.normal(size=(4, 100, 5000)), rng.normal(size=5000)
    curve = calibration_curve(pred, y)
    np.testing.assert_allclose(curve.expected, np.arange(0.05, 1, 0.1))
    assert_exact((curve.observed - curve.expected) / binomial_error(curve))
    exact = (1 + 1 / 400) * 399 / 397
    assert_exact((chains_curve(pred, y).mean_z2[-1] - exact) / np.sqrt(2 / 5000))


def binomial_error(curve):
    return np.sqrt(curve.expected * (1 - curve.expected) / curve.num)


def test_levels_and_scores_of_numbers_are_exact():
    """Predictive N(1, 4), half of its variance from the noise: z = -1, 0, 2."""
    draws = np.stack([pattern(1.0, 2.0, 6)] * 3, -1).reshape(2, 3, 3)
    y = np.array([-1.0, 1.0, 5.0])
    curve = chains_curve(draws, y, noise_sd=np.sqrt(2))
    assert curve.mean_z2[-1] == pytest.approx(5 / 3)
    assert curve.nll[-1] == pytest.approx(-norm(1, 2).logpdf(y).mean())
    levels = calibration_curve(draws, y, noise_sd=np.sqrt(2) * np.ones(3), num_points=4)
    np.testing.assert_allclose(levels.expected, [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(levels.observed, [1 / 3, 1 / 3, 1 / 3, 2 / 3])  # |z| = 1 is a level of .683


def test_scores_of_classes_are_exact():
    """Two draws whose mean probabilities are (.7, .3) and (.4, .6)."""
    probabilities = np.array([[[[0.6, 0.4], [0.3, 0.7]], [[0.8, 0.2], [0.5, 0.5]]]])
    y = np.array([0, 0])
    curve = chains_curve(probabilities, y, probabilities=True)
    assert curve.nll == pytest.approx([-np.log([0.7, 0.4]).mean()])
    assert curve.mean_z2 == pytest.approx([(2 * 0.09 + 2 * 0.36) / (2 * 0.21 + 2 * 0.24)])
    points = calibration_curve(probabilities, y, probabilities=True, num_points=2)
    np.testing.assert_allclose(points.expected, [0.6, 0.7])
    np.testing.assert_array_equal(points.observed, [0.0, 1.0])
    from_logits = chains_curve(np.log(probabilities) + 3.0, y)
    np.testing.assert_allclose(from_logits[1:], curve[1:])


def test_honest_classes_have_z2_of_1():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=20000)
    y = (rng.random((20000, 1)) > p.cumsum(1)).sum(1)
    curve = chains_curve(p[None, None], y, probabilities=True)
    terms = ((np.eye(3)[y] - p) ** 2).sum(1) - (p * (1 - p)).sum(1)
    assert_exact(z_scores(terms, 0.0))
    assert curve.mean_z2[0] == pytest.approx(1 + terms.mean() / (p * (1 - p)).sum(1).mean())
    points = calibration_curve(p[None, None], y, probabilities=True)
    assert_exact(
        (points.observed - points.expected) / np.sqrt(points.expected * (1 - points.expected) / points.num)
    )


def test_a_class_of_probability_0_that_comes_is_infinitely_wrong():
    curve = chains_curve(np.array([[[[1.0, 0.0]]]]), np.array([1]), probabilities=True)
    assert curve.nll[0] == curve.mean_z2[0] == np.inf


def test_all_chains_count_alike():
    """m chains score as the mean over the windows c, ..., c + m - 1, counted round."""
    rng = np.random.default_rng(0)
    pred, y = rng.normal(size=(3, 5, 4)), rng.normal(size=4)
    curve = chains_curve(pred, y)
    alone = [chains_curve(pred[[c]], y).nll[0] for c in range(3)]
    pairs = [chains_curve(pred[[c, (c + 1) % 3]].reshape(1, 10, 4), y).nll[0] for c in range(3)]
    whole = chains_curve(pred.reshape(1, 15, 4), y).nll[0]
    np.testing.assert_array_equal(curve.num_chains, [1, 2, 3])
    np.testing.assert_allclose(curve.nll, [np.mean(alone), np.mean(pairs), whole])


def test_the_curve_of_chains_in_separate_modes_is_exact():
    """m chains at N(0, 1), two draws a hair apart: z^2 is F(1, m - 1) times (1 + 1 / m) (2 m - 1) / (2 m - 2)."""
    rng = np.random.default_rng(0)
    pred = rng.normal(size=(16, 1, 4000)) + np.array([-1e-6, 1e-6])[:, None]
    curve = chains_curve(pred, rng.normal(size=4000))
    assert (np.diff(curve.mean_z2) < 0).all()
    assert curve.mean_z2[0] > 1e9
    scale = (1 + 1 / 16) * 31 / 30
    law = f_law(1, 15)
    assert_exact((curve.mean_z2[-1] / scale - law.mean()) / (law.std() / np.sqrt(4000)))


# The factor of few members


def without_the_last_term(members, y):
    num = len(members)
    return np.sqrt((num - 3) / (num - 1) * np.mean((y - members.mean(0)) ** 2 / members.var(0, ddof=1)))


def with_divisor_m(members, y):
    num = len(members)
    squared = np.mean((y - members.mean(0)) ** 2 / members.var(0))
    return np.sqrt((num - 3) / (num - 1) * squared - 1 / num)


BUGS = {"without -1/m": without_the_last_term, "divisor m": with_divisor_m}


def conditional_means(num, size=40):
    """`size` equally likely strata of e^2 / v / (alpha^2 + 1 / m) ~ F(1, m - 1), each at its mean.

    e and v are independent, e^2 a chi-square of 1 and v (m - 1) one of m - 1: their mean is (m - 1) / (m - 3), and
    strata have it exactly, where a sample of four members would not come near it (no variance).
    """
    edges = f_law(1, num - 1).ppf(np.linspace(0, 1, size + 1))
    # E[F; F < x] = E F P[F(3, m - 3) < x (m - 3) / (3 (m - 1))]
    partial = f_law(3, num - 3).cdf(edges * (num - 3) / (3 * (num - 1)))
    return size * np.diff(partial) * (num - 1) / (num - 3)


def gaussian_members(num, alpha):
    """Members and y whose e^2 / v are the strata of `conditional_means`."""
    ratios = (alpha**2 + 1 / num) * conditional_means(num)
    members = np.stack([pattern(0.0, 1.0, num)] * len(ratios), -1)
    return members, np.sqrt(ratios)


@pytest.mark.parametrize("num", [4, 8])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_factor_of_gaussian_members_is_exact(num, alpha):
    assert rescale_factor(*gaussian_members(num, alpha)) == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize("num", [4, 8])
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_planted_wrong_factor_is_not(num, bug):
    assert abs(bug(*gaussian_members(num, 2.0)) - 2.0) > 0.02


def simulated(factor, num, alpha=2.0, replicas=200, size=2000):
    """alpha^2 of independent replicas."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(replicas):
        centre = rng.normal(size=size)
        members = centre + 0.3 * rng.normal(size=(num, size))
        values.append(factor(members, centre + 0.3 * alpha * rng.normal(size=size)) ** 2)
    return values


def test_the_factor_of_simulated_members_is_right():
    assert_exact(z_scores(simulated(rescale_factor, 8), 4.0))


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_planted_wrong_factor_is_caught(bug):
    assert_caught(z_scores(simulated(bug, 8), 4.0))


def test_errors_smaller_than_chance_give_0():
    members = np.stack([pattern(0.0, 1.0, 4)] * 3, -1)
    assert rescale_factor(members, np.zeros(3)) == 0.0


# Refused

ONES = np.random.default_rng(0).normal(size=(2, 4, 3))
Y, CLASSES = np.zeros(3), np.array([0, 1, 2])
WRONG = {
    "one axis": (lambda: predictive_rhat(np.zeros(4)), r"shape \(chain, draw, ...\) .* got \(4,\)"),
    "three draws": (
        lambda: predictive_rhat(np.zeros((2, 3))),
        r"at least 1 chains and 4 draws, got \(2, 3\)",
    ),
    "one chain": (
        lambda: between_chain_share(np.zeros((1, 3))),
        r"at least 2 chains and 2 draws, got \(1, 3\)",
    ),
    "NaN": (lambda: predictive_rhat(np.full((2, 4), np.nan)), "pred must be finite, but 8 of its 8 values"),
    "NaN of y": (lambda: chains_curve(ONES, np.array([0, np.inf, 0])), "y must be finite, but 1 of its 3"),
    "other y": (lambda: chains_curve(ONES, np.zeros(5)), r"pred has shape \(2, 4, 3\) and y \(5,\)"),
    "real classes": (
        lambda: chains_curve(ONES[..., None], Y[:2]),
        r"pred has shape \(2, 4, 3, 1\) and y \(2,\)",
    ),
    "classes of reals": (lambda: chains_curve(np.ones((1, 1, 3, 4)), Y), "numbers of classes .* got float64"),
    "unknown class": (
        lambda: chains_curve(np.ones((1, 1, 3, 2)), CLASSES),
        "classes 0 to 2, but pred has 0 to 1",
    ),
    "probabilities": (
        lambda: chains_curve(np.full((1, 1, 3, 4), 0.25), CLASSES),
        "are probabilities, not logits: .* Say probabilities=True",
    ),
    "logits": (
        lambda: chains_curve(np.ones((1, 1, 3, 4)), CLASSES, probabilities=True),
        "pred are no probabilities",
    ),
    "no variance": (
        lambda: chains_curve(np.zeros((2, 1, 3)), Y),
        "draws agree exactly at 3 of 3 predictions",
    ),
    "noise of classes": (
        lambda: calibration_curve(np.ones((1, 1, 3, 4)), CLASSES, noise_sd=0.1),
        "noise_sd is for numbers",
    ),
    "no points": (lambda: calibration_curve(ONES, Y, num_points=0), "num_points must be .* got 0"),
    "more groups than rows": (
        lambda: calibration_curve(np.ones((1, 1, 3, 4)), CLASSES),
        "num_points is 10, but there are 3 rows",
    ),
    "three members": (
        lambda: rescale_factor(np.zeros((3, 2)), np.zeros(2)),
        "members must be at least 4 .* got 3",
    ),
    "members of others": (
        lambda: rescale_factor(np.zeros((4, 2)), np.zeros(3)),
        r"shape \(4, 2\), but y has \(3,\)",
    ),
    "members alike": (
        lambda: rescale_factor(np.zeros((4, 2)), np.zeros(2)),
        "members agree exactly at 2 of 2",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
