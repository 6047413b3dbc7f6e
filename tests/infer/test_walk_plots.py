"""Figures of a walk show what was seen, and the closed form beside it."""

import matplotlib
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import (
    GraphWalk,
    plot_error_decay,
    plot_variance_ratio,
    plot_visits,
    visit_statistics,
)
from emberwalk.kernels.walk import asymptotic_covariance, dense_transition, variance_ratio
from emberwalk.models import karate_club

KARATE = karate_club()


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("agg")
    yield
    matplotlib.pyplot.close("all")


def test_walk_plot_of_visits_has_a_point_a_node_and_chain_and_the_band_of_the_base_chain():
    kernel = GraphWalk(KARATE, "degree", steps_per_draw=100)
    mcmc = MCMC(
        kernel, num_warmup=1, num_samples=20, num_chains=3, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(random.key(0))
    ax = plot_visits(mcmc)
    mu = KARATE.degree / KARATE.degree.sum()
    order = np.argsort(-mu, kind="stable")
    points = [line for line in ax.lines if line.get_marker() == "."]
    assert len(points) == 3
    counts = np.asarray(mcmc.last_state.history.counts)
    np.testing.assert_allclose(points[1].get_ydata(), (counts[1] / 2000 / mu)[order], rtol=1e-6)
    sd = np.sqrt(np.diag(asymptotic_covariance(dense_transition(KARATE, np.log(mu)), mu, 0.0)) / 2000) / mu
    upper = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    np.testing.assert_allclose(upper, 1 + 2 * sd.max(), rtol=1e-6)
    assert f"{visit_statistics(mcmc).tvd.mean():.2g} from the target" in ax.get_title(loc="left")


def test_walk_plot_of_variance_is_the_closed_form_with_what_was_measured():
    P, alphas = dense_transition(KARATE), [0.0, 1.0, 10.0]
    ax = plot_variance_ratio(P, np.ones(34), alphas, measured=[1.0, 0.2, 0.03])
    for line, method in zip(ax.lines, ("srrw", "hdt"), strict=False):
        exact = [variance_ratio(P, np.ones(34), alpha, method) for alpha in line.get_xdata()]
        np.testing.assert_allclose(line.get_ydata(), exact)
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [1.0, 0.2, 0.03])
    assert "At alpha = 10 the variance of the visits is 0.027" in ax.get_title(loc="left")


def test_walk_plot_of_errors_says_how_the_best_falls():
    steps = np.array([100, 1000, 10_000])
    ax = plot_error_decay(steps, {"base": 3 * steps**-0.5, "growth": 20 / steps})
    assert "The error of growth falls as n^-1.00" in ax.get_title(loc="left")
    slopes = [np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0] for line in ax.lines[:2]]
    np.testing.assert_allclose(slopes, [-0.5, -1.0], rtol=1e-9)
