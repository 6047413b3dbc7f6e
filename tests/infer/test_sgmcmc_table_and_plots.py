"""T8 of SG-MCMC as users read it: the table of temperatures and noise, and the figures."""

import arviz_base
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, init_to_value

from emberwalk.infer import (
    SGMCMC,
    calibration_curve,
    chains_curve,
    plot_calibration,
    plot_chains_curve,
    plot_cycles,
    plot_noise_ratio,
    plot_temperatures,
    temperature_table,
    to_datatree,
)
from emberwalk.infer.sgmcmc import temperature_table as module
from emberwalk.infer.sgmcmc.plots import _temperature_verdict
from emberwalk.kernels.sgmcmc import baoab, cyclical, sghmc, sgld, temperature_interval
from tests.infer.sgmcmc_models import as_jax, mean_data, mean_model

T = 0.1
RNG = np.random.default_rng(0)


def gaussian():
    """Curvature 1 in 40 coordinates, 4 in 5; in a scope, whose names have a slash."""
    numpyro.sample("net/a", dist.Normal(0.0, 1.0).expand([40]).to_event(1))
    numpyro.sample("b", dist.Normal(0.0, 0.5).expand([5]).to_event(1))


def ran(model, algorithm, *args, num_samples=1000, num_chains=4, **options):
    mcmc = MCMC(
        SGMCMC(model, algorithm, temperature=T, **options), num_warmup=20, num_samples=num_samples,
        num_chains=num_chains, chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(random.key(0), *args)
    return mcmc


@pytest.fixture(scope="module")
def baoab_run():
    return ran(gaussian, baoab(0.5, 1.0))


@pytest.fixture(scope="module")
def sghmc_run():
    """b = .5: without noise T_kin is T 2 / (1.5 D), with 1 / D = 1.0034 and 1.0135 at h = .1."""
    return ran(gaussian, sghmc(0.1, 5.0, "identity"))


@pytest.fixture(scope="module")
def noisy_run():
    """One site, h V / (2 T) with V = N^2 var(y) / b."""
    start = {"init_strategy": init_to_value(values={"m": 0.0}), "warmup": "full"}
    y = as_jax(mean_data(100))
    return ran(mean_model, sgld(1e-3), *y, num_samples=200, noise_every=1, steps_per_sample=10, **start)


@pytest.fixture(autouse=True)
def drawn_to_the_end():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def title(ax):
    return ax.get_title(loc="left")


def words(ax):
    return [text.get_text().strip() for text in ax.texts]


# The table


def test_sgmcmc_diagnostics_table_has_a_row_for_each_site_and_its_temperatures(baoab_run):
    table = temperature_table(baoab_run)
    assert list(table.index) == ["b", "net/a"]
    for column in ("T_kin", "T_conf"):
        z = (table[column] - T) / table[f"{column}_mcse"]
        assert (z.abs() < 4.5).all(), z
    for site, size in (("b", 5), ("net/a", 40)):
        assert (table.low[site], table.high[site]) == pytest.approx(temperature_interval(T, size))
    np.testing.assert_allclose(table["T"], T, rtol=1e-6)
    assert (table.r == 0).all()
    assert (table.V_max == 0).all()


def test_sgmcmc_diagnostics_table_interval_holds_what_it_says(baoab_run):
    """Of single steps 99 %, all draws of all chains together: they are correlated, so within 1 %."""
    values = np.asarray(baoab_run.get_extra_fields()["kinetic_temperature"])
    table = temperature_table(baoab_run)
    inside = (table.low.values < values) & (values < table.high.values)
    assert (np.abs(inside.mean(0) - 0.99) < 0.01).all()


def centred_at(table, run):
    """z of T_kin about the middle of the scheme, D put in."""
    d = 1 - 0.1**2 * np.array([4.0, 1.0]) / (2 * 1.5)
    return (table.T_kin - module.temperatures(run).exact / d) / table.T_kin_mcse


def test_sgmcmc_diagnostics_table_of_sghmc_is_centred_on_its_own_law(sghmc_run):
    z = centred_at(temperature_table(sghmc_run), sghmc_run)
    assert (z.abs() < 4.5).all(), z


def test_sgmcmc_diagnostics_table_planted_interval_about_t(sghmc_run, monkeypatch):
    monkeypatch.setattr(module, "_exact_kinetic", lambda kernel, level, step_size: T)
    z = centred_at(temperature_table(sghmc_run), sghmc_run)
    assert (z.abs() > 8).any(), z


def test_sgmcmc_diagnostics_table_noise_is_that_of_the_batches(noisy_run):
    """r = h V / (2 T), V the estimate that the state keeps; that it has no bias is a test of `gradient_variance`."""
    row = temperature_table(noisy_run).loc["m"]
    V = np.asarray(noisy_run.last_state.noise.variance["m"])
    assert row.V_max == pytest.approx(V.max(), rel=1e-6)
    assert row.r == pytest.approx(1e-3 * V.mean() / (2 * T), rel=1e-6)
    assert row.share == pytest.approx(row.r / (1 + row.r))
    assert np.isnan([row.T_kin, row.T_kin_mcse, row.low, row.high]).all()


def test_sgmcmc_diagnostics_table_asks_for_a_run_of_sgmcmc():
    with pytest.raises(TypeError, match="a run of SGMCMC: give its MCMC, got NUTS"):
        temperature_table(MCMC(NUTS(gaussian), num_warmup=1, num_samples=1))
    with pytest.raises(TypeError, match="got dict"):
        temperature_table({})
    with pytest.raises(ValueError, match="has not run"):
        temperature_table(MCMC(SGMCMC(gaussian, baoab(0.1, 1.0)), num_warmup=1, num_samples=1))


# Figures of a run


def test_sgmcmc_plot_temperatures_has_a_strip_for_each_site(baoab_run):
    """The farthest draw .42 from its middle, the interval to the same scale, upwards hotter."""
    ax, table = plot_temperatures(baoab_run), temperature_table(baoab_run)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "net/a"]
    values = np.asarray(baoab_run.get_extra_fields(group_by_chain=True)["kinetic_temperature"])[:, :, 0]
    scale = 0.42 / np.abs(values - T).max()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), -(values[0] - T) * scale, atol=1e-5)
    assert ax.patches[0].get_y() == pytest.approx(-(table.high["b"] - T) * scale, rel=1e-4)
    assert title(ax).startswith("Every site has its temperature as far as the draws tell, to ")
    assert f"{table.T_kin['b']:.3g}" in words(ax)
    assert "Line: 0.1, what the scheme has without noise; right: mean of a site" in words(ax)


def test_sgmcmc_plot_temperatures_names_the_site_that_is_hot(noisy_run):
    """Overdamped: T_conf, about T (1 + r) / (1 - h lam / 2)."""
    ax = plot_temperatures(noisy_run)
    assert ax.get_ylabel().startswith("configurational temperature")
    assert title(ax).startswith("The temperature of m is ")
    assert "times its own" in title(ax)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (-2.0, "The temperature of a is -2, below 0: the run still drifts"),  # which no law has
        (0.35, "The temperature of a is 3.5 times its own"),
        (0.08, "The temperature of a is 20 % below its own"),
        (0.101, "Every site has its temperature as far as the draws tell, to 29 %"),
    ],
)
def test_sgmcmc_plot_temperatures_gives_the_verdict_of_the_site_that_is_off_by_its_mcse(mean, verdict):
    """The other site is 28.5 % off, and known to 20 %."""
    errors = np.array([0.001, 0.02])
    assert _temperature_verdict(("a", "b"), np.array([mean, 0.1285]), errors, T) == verdict


def test_sgmcmc_plot_noise_ratio_says_which_share_is_noise(noisy_run):
    ax = plot_noise_ratio(noisy_run)
    r = temperature_table(noisy_run).r["m"]
    assert title(ax) == f"Cut the step: {100 * r / (1 + r):.2g} % of the spread of m is minibatch noise"
    assert {"m", "harmless", "mostly noise"} <= set(words(ax))
    assert title(plot_noise_ratio(to_quiet_tree(noisy_run))) == title(ax)
    assert ax.get_yscale() == "log"


def to_quiet_tree(run):
    with pytest.warns(UserWarning, match="minibatch noise"):
        return to_datatree(run)


def test_sgmcmc_plot_noise_ratio_names_four_sites_apart():
    r = np.array([0.5, 0.02, 0.02, 0.02, 0.01]) * np.ones((2, 30, 1))
    tree = arviz_base.from_dict(
        {"posterior": {"m": np.zeros((2, 30))}, "sample_stats": {"noise_ratio": r}},
        dims={"noise_ratio": ["site"]}, coords={"site": list("abcde")},
    )  # fmt: skip
    ax = plot_noise_ratio(tree)
    heights = [text.get_position()[1] for text in ax.texts if text.get_text() in set("abcde")]
    assert len(heights) == 4
    assert (np.diff(np.log(heights)) < -0.1).all()
    assert ax.lines[-1].get_color() == "#8a949c"


def test_sgmcmc_plot_noise_ratio_of_all_data_is_nothing_to_draw(baoab_run):
    with pytest.raises(ValueError, match="noise ratio is 0 throughout"):
        plot_noise_ratio(baoab_run)


def test_sgmcmc_plot_cycles_has_a_dot_for_each_draw():
    run = ran(gaussian, cyclical(baoab(0.3, 1.0), 10, draws_per_cycle=2), num_samples=12, num_chains=2)
    ax = plot_cycles(run)
    assert sum(len(line.get_xdata()) for line in ax.lines) == 24
    assert title(ax).startswith("6 cycles of 2 draws: ")
    assert ax.get_ylabel() == "potential energy [nats]"
    energy = np.asarray(run.get_extra_fields(group_by_chain=True)["potential_energy"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), energy[0], rtol=1e-6)
    by_cycle = np.repeat(np.arange(6.0), 2) * np.ones((2, 1))
    assert "100 % of the variance" in title(plot_cycles(run, by_cycle, label="number [1]"))
    assert "0 % of the variance" in title(plot_cycles(run, np.tile([0.0, 1.0], (2, 6))))
    with pytest.raises(ValueError, match=r"values have the shape \(3,\), the draws \(2, 12\)"):
        plot_cycles(run, np.zeros(3))


def test_sgmcmc_plot_cycles_needs_cycles(baoab_run):
    with pytest.raises(ValueError, match=r"no cycle in sample_stats: a run of SGMCMC with cyclical"):
        plot_cycles(baoab_run)


# Figures of predictions

DRAWS, Y = RNG.normal(size=(4, 100, 2000)), RNG.normal(size=2000)


@pytest.mark.parametrize(
    ("stretch", "verdict"),
    [
        (1.0, "Calibrated, as far as these data can tell"),
        (2.0, "Overconfident: what is predicted comes less often"),
        (0.5, "Too cautious: what is predicted comes more often"),
    ],
)
def test_sgmcmc_plot_calibration_says_on_which_side_predictions_err(stretch, verdict):
    ax = plot_calibration(DRAWS, stretch * Y)
    assert title(ax).startswith(verdict)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), calibration_curve(DRAWS, stretch * Y).observed)


def test_sgmcmc_plot_chains_curve_is_the_curve():
    chains = RNG.normal(size=(6, 1, 300)) + 0.5 * RNG.normal(size=(6, 20, 300))
    ax, curve = plot_chains_curve(chains, Y[:300]), chains_curve(chains, Y[:300])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve.nll)
    gain = curve.nll[0] - curve.nll[-1]
    assert title(ax).startswith(f"6 chains predict better than one by {gain:.2g} nats; the last one adds")
    assert title(plot_chains_curve(chains[:1], Y[:300])).startswith("One chain: ")


@pytest.mark.parametrize("plot", [plot_calibration, plot_chains_curve])
def test_sgmcmc_plots_draw_into_the_axes_given(plot):
    _, axes = plt.subplots(1, 2)
    assert plot(DRAWS, Y, ax=axes[1]) is axes[1]
    assert not axes[0].lines
