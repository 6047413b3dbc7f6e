"""`plot_rates` draws what the posterior says, and the truth beside it."""

import matplotlib.pyplot as plt
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.infer import plot_rates
from tests.infer.jump.front_end import LINKS, Q, clean

pytestmark = pytest.mark.xdist_group("jump-front-end")  # what is fitted once serves all

ORDER = [(i, j) for i in range(3) for j in range(3) if i != j]


@pytest.fixture(autouse=True)
def drawn_to_the_end():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def of_kind(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


def test_jump_plot_has_a_bar_for_each_link_as_strong_as_it_is_likely_there():
    post = clean()
    ax = plot_rates(post)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{i} -> {j}" for i, j in ORDER]
    dots = of_kind(ax, "o")
    median = np.asarray(post.quantile_if_present(0.5))
    npt.assert_allclose(
        [float(dot.get_xdata()[0]) for dot in dots], [median[link] for link in ORDER], rtol=1e-6
    )
    presence = np.asarray(post.presence)
    npt.assert_allclose(
        [dot.get_alpha() for dot in dots], [max(0.12, presence[link]) for link in ORDER], rtol=1e-6
    )
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.0]
    low, high = (np.asarray(post.quantile_if_present(p)) for p in (0.05, 0.95))
    npt.assert_allclose(
        [line.get_xdata() for line in bars], [(low[link], high[link]) for link in ORDER], rtol=1e-6
    )
    words = [text.get_text() for text in ax.texts]
    assert f"{presence[0, 1]:.2f}" in words
    assert ax.get_xlabel() == "rate [1 / unit of time]"


def test_jump_plot_says_how_many_intervals_hold_the_truth():
    post = clean()
    ax = plot_rates(post, Q, unit="s")
    low, high = (np.asarray(post.quantile(p)) for p in (0.05, 0.95))
    held = ((low <= Q) & (high >= Q))[LINKS].sum()
    assert f"; {held} of 6 intervals of 90 % hold the true rate" in ax.get_title(loc="left")
    (ticks,) = of_kind(ax, "|")
    npt.assert_allclose(sorted(ticks.get_xdata()), sorted(Q[Q > 0]))
    assert ax.get_xlabel() == "rate [1 / s]"
    far = plot_rates(post, 3 * Q)  # planted: another process
    assert int(far.get_title(loc="left").split("; ")[1].split()[0]) < held


def test_jump_plot_takes_names_and_axes():
    _, axes = plt.subplots(1, 2)
    ax = plot_rates(clean(), state_names=["shut", "open", "blocked"], ax=axes[1])
    assert ax is axes[1]
    assert ax.get_yticklabels()[0].get_text() == "shut -> open"


def test_jump_plot_of_very_different_rates_is_logarithmic():
    import dataclasses

    post = clean()
    slow = post.log_rates._replace(mode=post.log_rates.mode.at[0].add(-8.0))
    ax = plot_rates(dataclasses.replace(post, log_rates=slow))
    assert ax.get_xscale() == "log"
    assert plot_rates(post).get_xscale() == "linear"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"truth": np.ones((2, 2))}, r"shape \(3, 3\).*got \(2, 2\)"),
        ({"truth": -np.ones((3, 3))}, r"rates must be finite and 0 or more"),
        ({"state_names": ["a"]}, r"state_names must be 3.*got 1"),
    ],
)
def test_jump_bad_input_of_a_plot(options, words):
    with pytest.raises(ValueError, match=words):
        plot_rates(clean(), **options)
