"""The figures of a path show the numbers they were given, and their titles say what decides."""

import datetime
import sys

import arviz_base
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.dates import date2num

from emberwalk.infer.diagnostics import to_datatree
from emberwalk.infer.smc.plots import plot_particle_ess, plot_states, plot_update_rate
from tests.infer.path_kernel import PathKernel, quiet, run

T = 30
RNG = np.random.default_rng(0)
PATH = RNG.normal(size=(2, 200, T)).cumsum(-1)
PAIR = np.stack([PATH, 5.0 - PATH], axis=-1)
PLOTS = (plot_states, plot_update_rate, plot_particle_ess)


def tree(rate=None, particles=None, **sites):
    posterior = sites or {"h": PATH, "s": PAIR, "k": (PATH > 0).astype(int), "m": PATH[..., 0]}
    dims = {name: ["time", "side"][: v.ndim - 2] for name, v in posterior.items()}
    coords = {"time": np.arange(T), "side": ["left", "right"]}
    groups = dict(arviz_base.from_dict({"posterior": posterior}, dims=dims, coords=coords).children)
    rate = np.full((2, T), 0.7) if rate is None else rate
    data = {"update_rate": (("chain", "time"), rate), "particle_ess": (("chain", "time"), 16 * rate)}
    attrs = {} if particles is None else {"num_particles": particles}
    groups["path_diagnostics"] = xr.Dataset(data, coords={"time": np.arange(T)}, attrs=attrs)
    return xr.DataTree.from_dict(groups)


def with_dip(lowest, at=21):
    rate = np.full((2, T), 0.95)
    rate[:, at] = lowest - 0.01, lowest + 0.01
    return rate


@pytest.fixture(autouse=True)
def drawn_to_the_end():
    """What matplotlib puts off until it draws must work too."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def title(ax):
    return ax.get_title(loc="left")


def words(ax):
    return [text.get_text().strip() for text in ax.texts]


def heights(band):
    """Lowest and highest y at the first time of a filled band."""
    vertices = band.get_paths()[0].vertices
    at_first = vertices[np.isclose(vertices[:, 0], 0.0), 1]
    return at_first.min(), at_first.max()


# States


def test_the_ribbons_are_the_quantiles_of_all_chains_together():
    ax = plot_states(tree(), "h")
    pooled = PATH.reshape(-1, T)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(pooled, 0))
    wide, narrow = ax.collections
    np.testing.assert_allclose(heights(wide), np.quantile(pooled[:, 0], (0.05, 0.95)))
    np.testing.assert_allclose(heights(narrow), np.quantile(pooled[:, 0], (0.25, 0.75)))
    assert title(ax) == "h given all data: median, 50 % and 90 % bands"
    assert ax.get_xlabel() == "time [steps]"
    assert ax.get_ylabel() == "h [units of the model]"


def test_the_truth_is_drawn_in_and_its_coverage_said():
    truth = np.quantile(PATH.reshape(-1, T), 0.5, axis=0)
    truth[:3] += 100.0
    truth[3] = np.nan  # unknown there: it is no miss
    ax = plot_states(tree(), "h", truth=truth)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), truth)
    assert "The truth (dots) lies in the 90 % band at 90 % of the times." in words(ax)


def test_each_component_has_its_colour_and_its_name():
    ax = plot_states(tree(), "s", truth=PAIR[0, 0])
    medians = [line for line in ax.lines if line.get_marker() in ("None", None)]
    assert len({line.get_color() for line in medians}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["s[left]", "s[right]"]


def test_counts_and_regimes_jump():
    assert plot_states(tree(), "k").lines[0].get_drawstyle() == "steps-mid"
    assert plot_states(tree(), "h").lines[0].get_drawstyle() == "default"


DAYS = np.datetime64("2016-06-01") + np.arange(T)


@pytest.mark.parametrize(
    "dates",
    [DAYS, [str(day) for day in DAYS], [datetime.date(2016, 6, 1 + t) for t in range(T)]],
    ids=["datetime64", "text", "date"],
)
def test_dates_replace_steps(dates):
    ax = plot_states(tree(), "h", dates=dates)
    np.testing.assert_array_equal(date2num(ax.lines[0].get_xdata()), date2num(DAYS))
    assert ax.get_xlabel() == "date"


@pytest.mark.parametrize("dates", [None, DAYS], ids=["steps", "dates"])
@pytest.mark.parametrize("named", [True, False])
def test_a_forecast_goes_on_after_the_last_time(dates, named):
    ahead = RNG.normal(size=(400, 5))
    ax = plot_states(tree(), "h", dates=dates, forecast={"h": ahead, "y": ahead} if named else ahead)
    path, later = ax.lines[0], ax.lines[1]
    np.testing.assert_allclose(later.get_ydata(), np.median(ahead, 0))
    steps = np.diff(np.concatenate([path.get_xdata()[-1:], later.get_xdata()]))
    assert (steps == path.get_xdata()[1] - path.get_xdata()[0]).all()
    assert "forecast" in words(ax)


def test_a_forecast_stands_at_its_own_dates_where_they_are_given():
    both = np.busday_offset("2016-06-01", np.arange(T + 5))
    ax = plot_states(tree(), "h", dates=both, forecast=RNG.normal(size=(400, 5)))
    np.testing.assert_array_equal(date2num(ax.lines[0].get_xdata()), date2num(both[:T]))
    np.testing.assert_array_equal(date2num(ax.lines[1].get_xdata()), date2num(both[T:]))


def test_a_forecast_from_a_monday_goes_on_by_days():
    weekdays = np.busday_offset("2016-06-06", np.arange(1 - T, 1))  # a Monday is the last
    later = plot_states(tree(), "h", dates=weekdays, forecast=RNG.normal(size=(400, 5))).lines[1].get_xdata()
    np.testing.assert_array_equal(date2num(later), date2num(weekdays[-1] + np.arange(1, 6)))


def test_a_site_with_units_says_them():
    data = tree()
    data["posterior"]["h"].attrs["units"] = "log variance"
    assert plot_states(data, "h").get_ylabel() == "h [log variance]"


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        ("m", {}, r"'m' is no path .*\['h', 's', 'k'\].*dims="),
        ("absent", {}, "'absent' is no path"),
        ("h", {"truth": np.zeros(4)}, r"truth has the shape \(4, 1\), the path \(30, 1\)"),
        ("h", {"dates": DAYS[:3]}, "dates has 3 entries, the path 30 times"),
        ("h", {"dates": DAYS[:3], "forecast": PATH[0, :, :5]}, "the path 30 times and the forecast 5"),
        ("s", {"forecast": np.zeros((9, 5))}, r"forecast has the shape \(9, 5, 1\); \(draws, horizon, 2\)"),
    ],
    ids=["scalar", "absent", "truth", "dates", "forecast dates", "forecast"],
)
def test_what_does_not_fit_a_path_is_refused(site, options, message):
    with pytest.raises(ValueError, match=message):
        plot_states(tree(), site, **options)


def test_more_than_four_components_are_refused():
    wide = arviz_base.from_dict({"posterior": {"w": np.zeros((1, 5, T, 5))}}, dims={"w": ["time", "part"]})
    with pytest.raises(ValueError, match=r"'w' has the shape \(30, 5\).*at most 4 components"):
        plot_states(wide, "w")
    assert len(plot_states(wide.isel(part=slice(4)), "w").lines) == 4


# Update rate and particle ESS


@pytest.mark.parametrize(
    ("lowest", "verdict"),
    [
        (0.93, "More than enough particles: every state was renewed in at least 93 % of the draws"),
        (0.60, "Enough particles: every state was renewed in at least 60 % of the draws"),
        (0.35, "More particles would help: the state at t = 21 was renewed in 35 % of the draws"),
        (0.12, "Too few particles reach the state at t = 21: they renewed it in 12 % of the draws"),
    ],
)
def test_the_title_gives_the_verdict_of_the_lowest_update_rate(lowest, verdict):
    assert title(plot_update_rate(tree(with_dip(lowest)))) == verdict


def test_the_update_rate_has_a_line_a_chain_and_the_advised_bands_in_words():
    rate = with_dip(0.35)
    ax = plot_update_rate(tree(rate))
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], rate)
    bands = sorted((patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches)
    np.testing.assert_allclose(bands, [(0.0, 0.2), (0.5, 1.0)])
    assert words(ax)[:2] == ["enough particles", "too few particles"]


def test_dates_of_the_tree_reach_axis_and_title():
    data = tree(with_dip(0.35))
    data["path_diagnostics"] = data["path_diagnostics"].to_dataset().assign_coords(time=DAYS)
    ax = plot_update_rate(data)
    assert "the state on 2016-06-22 was renewed" in title(ax)
    assert ax.get_xlabel() == "date"


def test_particle_ess_names_the_lowest_time_and_draws_the_number_of_particles():
    ax = plot_particle_ess(tree(with_dip(0.25), particles=16))
    assert title(ax) == "At least 4 of 16 particles carry the path, fewest at t = 21"
    assert set(ax.lines[-1].get_ydata()) == {16}
    assert "all 16" in words(ax)
    assert title(plot_particle_ess(tree())) == "At least 11 particles carry the path"


@pytest.mark.parametrize("plot", [plot_update_rate, plot_particle_ess])
def test_without_diagnostics_of_a_path_there_is_nothing_to_draw(plot):
    with pytest.raises(ValueError, match=r"no group path_diagnostics, only \['posterior'\]"):
        plot(arviz_base.from_dict({"posterior": {"h": PATH}}))


# What all share


def test_a_run_is_drawn_like_its_tree_and_without_its_warnings():
    mcmc = run(PathKernel("x"))
    data, said = quiet(to_datatree, mcmc)
    assert said  # the warnings that the figures, drawn below with warnings as errors, leave out
    for plot, site in ((plot_states, ("x",)), (plot_update_rate, ())):
        from_run, from_tree = plot(mcmc, *site), plot(data, *site)
        assert title(from_run) == title(from_tree)
        np.testing.assert_array_equal(from_run.lines[0].get_ydata(), from_tree.lines[0].get_ydata())


@pytest.mark.parametrize("plot", PLOTS)
def test_it_draws_into_the_axes_given(plot):
    _, axes = plt.subplots(1, 2)
    site = ("h",) if plot is plot_states else ()
    assert plot(tree(), *site, ax=axes[1]) is axes[1]
    assert not axes[0].lines
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("plot", PLOTS)
def test_without_matplotlib_it_says_what_to_install(plot, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    site = ("h",) if plot is plot_states else ()
    with pytest.raises(
        ImportError, match=rf"{plot.__name__} needs matplotlib: pip install 'emberwalk\[plots\]'"
    ):
        plot(tree(), *site)
    monkeypatch.undo()
