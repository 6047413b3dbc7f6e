"""Figures of fractional paths: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from emberwalk.infer import plot_elbo, plot_sde_path, plot_structure_function


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_fractional_plots_structure_function_finds_h():
    steps = np.random.default_rng(0).normal(size=(20, 4000))
    ax = plot_structure_function(steps.cumsum(1), dt=0.1, orders=(1.0, 2.0))
    slopes = [float(word) for word in ax.get_title(loc="left").split(": ")[1].split(", ")]
    np.testing.assert_allclose(slopes, 0.5, atol=0.02)


def test_fractional_plots_path_draws_the_median_and_the_data():
    draws = np.random.default_rng(0).normal(size=(200, 5)) + np.arange(5)
    ax = plot_sde_path(np.arange(5), draws, data=[0, np.nan, 2, 3, 4])
    median, data = ax.get_lines()
    np.testing.assert_allclose(median.get_ydata(), np.median(draws, 0))
    assert np.isnan(data.get_ydata()[1])


def test_fractional_plots_elbo_are_means_of_windows():
    losses = np.arange(100.0)
    ax = plot_elbo(losses, window=50, evidence=-10.0)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [-24.5, -74.5])
    assert "-74.50" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plot_sde_path(np.arange(5), np.zeros((3, 4))), r"\[S, 5\], got \(3, 4\)"),
        (lambda: plot_structure_function(np.zeros(20)), "give max_lag"),
        (lambda: plot_elbo(np.zeros(60)), "smaller window"),
    ],
)
def test_fractional_plots_bad_input(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
