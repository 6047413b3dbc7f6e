"""`RatePosterior`: draws, moments and quantiles are of one density; what follows is computed draw by draw."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random

from emberwalk.infer import DerivedDraws, diagnose, summary, to_datatree, zero_shot
from emberwalk.infer.jump.report import shown_links
from emberwalk.kernels.jump import (
    first_passage_times,
    path_statistics,
    relaxation_times,
    stationary,
)
from tests.infer.jump.front_end import CLEAN, LINKS, TIMES, clean, noisy
from tests.kernels.jump.processes import Q3, exact_transitions
from tests.statistics import assert_caught, assert_exact, z_scores

pytestmark = pytest.mark.xdist_group("jump-front-end")  # what is fitted once serves all

BATCHES = 20  # of 1000 draws, as many as quantities are made of: one program


def unsure():
    """The posterior of clean paths, with links of any presence: pairs that go together, and single links."""
    pair = jnp.array([[0, 0.6, 0.2], [0.6, 0, 0.9], [0.2, 0.9, 0]])
    single = jnp.array([[0, 0.3, 0.8], [0.5, 0, 0.1], [0.7, 0.95, 0]])
    links = clean().links._replace(reciprocal=jnp.asarray(0.4), paired=pair, independent=single)
    w = 0.4 * pair + 0.6 * single
    moments = (rates_of(clean().log_rates.mean_exp(k)[:6]) for k in (1.0, 2.0))
    mean, square = (w * m for m in moments)
    return changed(clean(), links=links, presence=w, mean=mean, sd=jnp.sqrt(square - mean**2))


def rates_of(vector):
    from emberwalk.kernels.jump import rates_from_vector

    return rates_from_vector(vector, 3)


def changed(posterior, **fields):
    import dataclasses

    return dataclasses.replace(posterior, **fields)


@pytest.fixture(scope="module")
def drawn():
    post = unsure()
    batches = [post.sample(key, (1000,)) for key in random.split(random.key(5), BATCHES)]
    return np.concatenate(batches).astype(np.float64)


def test_jump_posterior_draws_have_its_moments_and_presence(drawn):
    post = unsure()
    values = np.stack([drawn, drawn**2, drawn > 0], 1)[..., LINKS]
    mean, sd = np.asarray(post.mean, np.float64), np.asarray(post.sd, np.float64)
    exact = np.stack([mean, sd**2 + mean**2, np.asarray(post.presence)])[:, LINKS]
    assert_exact(z_scores(values, exact))
    assert (drawn[:, ~LINKS] == 0).all()


def test_jump_posterior_draws_pairs_of_links_together(drawn):
    """Both ways at once, with 0.4 p + 0.6 p_ij p_ji."""
    links = unsure().links
    both = (drawn > 0) & (np.swapaxes(drawn, 1, 2) > 0)
    single, pair = np.asarray(links.independent), np.asarray(links.paired)
    exact = (0.4 * pair + 0.6 * single * single.T)[np.triu_indices(3, 1)]
    z = z_scores(both[:, *np.triu_indices(3, 1)], exact)
    assert_exact(z)
    presence = np.asarray(unsure().presence)
    alone = z_scores(both[:, *np.triu_indices(3, 1)], (presence * presence.T)[np.triu_indices(3, 1)])
    assert_caught(alone)  # planted: links drawn one by one


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_jump_posterior_quantiles_are_those_of_the_draws(drawn, p):
    """Below the quantile lies the share p; where an absent link has more than that, the quantile is 0."""
    post = unsure()
    at = np.asarray(post.quantile(p), np.float64)[LINKS]
    absent = 1 - np.asarray(post.presence)[LINKS] >= p
    assert (at[absent] == 0).all()
    below = (drawn[:, LINKS] <= at)[:, ~absent]
    assert_exact(z_scores(below, p))
    there = drawn[:, LINKS] > 0
    if_present = np.asarray(post.quantile_if_present(p), np.float64)[LINKS]
    for link in range(6):
        assert_exact(z_scores(drawn[:, LINKS][there[:, link], link] <= if_present[link], p))


def test_jump_posterior_planted_quantiles_without_presence_are_caught(drawn):
    if_present = np.asarray(unsure().quantile_if_present(0.5), np.float64)[LINKS]
    assert_caught(z_scores(drawn[:, LINKS] <= if_present, 0.5))


def test_jump_posterior_quantiles_take_several_probabilities():
    post = clean()
    several = post.quantile([0.05, 0.5, 0.95])
    assert several.shape == (3, 3, 3)
    npt.assert_allclose(several[1], post.quantile(0.5), rtol=1e-6)
    assert post.quantile(np.array([[0.3], [0.7]])).shape == (2, 1, 3, 3)


def test_jump_posterior_draws_of_the_noise_level_have_its_moments():
    """And go with the rates: more wrong labels, slower rates."""
    tree = noisy().to_datatree()
    draws = tree["posterior"]["label_noise"].values.ravel().astype(np.float64)
    level = noisy().label_noise
    mean, sd = float(level.mean), float(level.sd)
    assert_exact(z_scores(np.stack([draws, draws**2], 1), [mean, mean**2 + sd**2]))
    fast = tree["posterior"]["rates"].sel(from_state=1, to_state=2).values.ravel()
    assert np.corrcoef(draws, fast)[0, 1] < 0
    assert (clean().to_datatree()["posterior"]["label_noise"] == 0).all()


# What follows from the rates


@pytest.fixture(scope="module")
def long_watched():
    """Counts of 4e5 pairs of Q3, as they are expected."""
    pi = np.array([12, 16, 7]) / 35
    stats = path_statistics(TIMES, CLEAN, num_states=3)
    counts = np.round(4e5 * pi[:, None] * exact_transitions(Q3, stats.lags)).astype(np.int64)
    return zero_shot(
        stats._replace(counts=counts, total_time=np.asarray(4e5 * stats.lags[0])), label_noise=0.0
    )


EXACT = {
    "stationary": (lambda post: post.stationary(), np.array([12, 16, 7]) / 35),
    "first_passage_times": (
        lambda post: post.first_passage_times(),
        np.array([[0, 1.25, 2], [5 / 3, 0, 2], [0.5, 1.75, 0]]),
    ),
    "targets": (lambda post: post.first_passage_times([1, 2]), np.array([1 / 1.5, 0, 0])),
    "relaxation_times": (lambda post: post.relaxation_times(), np.array([1 / 1.75, 1 / 2.5])),
}


@pytest.mark.parametrize(("quantity", "exact"), EXACT.values(), ids=EXACT)
def test_jump_fixed_quantities_of_a_process_long_watched(long_watched, quantity, exact):
    """The answers of the known process, to within a few of the posterior's sd, which is small."""
    draws = quantity(long_watched)
    sd = np.maximum(draws.sd, 1e-9)
    assert (np.abs(draws.mean - exact) < 3 * sd).all(), (draws.mean, draws.sd)
    assert (draws.sd <= 0.02 * np.maximum(exact, 0.1)).all()
    low, high = draws.interval(0.99)
    assert ((low - 1e-6 <= exact) & (exact <= high + 1e-6)).all()


def test_jump_posterior_quantities_belong_to_the_same_draws():
    post = clean()
    rates = post.sample(random.key(0), (1000,))
    law = post.stationary().values
    npt.assert_array_equal(law, np.asarray(jax.jit(stationary)(rates)))
    npt.assert_array_equal(post.first_passage_times().values, first_passage_times(rates))
    assert np.corrcoef(law[:, 0], rates[:, 1, 0])[0, 1] > 0.3
    assert not np.array_equal(post.stationary(rng_key=random.key(1)).values, law)


def test_jump_posterior_planted_quantity_of_the_mean_rates_is_not_the_mean_of_the_quantity():
    """Times are convex in rates: draw by draw they are longer than at the mean."""
    post = unsure()
    draws = post.first_passage_times()
    finite = np.isfinite(draws.values).all((1, 2))
    at_mean = np.asarray(first_passage_times(post.mean))
    assert draws.values[finite].mean(0)[0, 2] > at_mean[0, 2]


def test_jump_posterior_infinite_draws_are_counted_and_kept():
    """A link in one direction alone has infinite entropy production; a floor makes it finite."""
    post = unsure()
    draws = post.entropy_production()
    presence = np.asarray(post.sample(random.key(0), (1000,))) > 0
    one_way = (presence != np.swapaxes(presence, 1, 2)).any((1, 2))
    assert 200 < draws.num_infinite <= one_way.sum()
    assert draws.mean == np.inf
    assert draws.sd == np.inf
    assert not np.isnan(draws.interval(0.9)).any()
    assert "of them infinite" in repr(draws)
    finite = post.entropy_production(floor=1e-6)
    assert finite.num_infinite == 0
    assert np.isfinite(finite.mean)


def test_jump_posterior_relaxation_says_whether_it_turns():
    """Round and round: a complex pair."""
    times = np.arange(200) / 5
    labels = np.arange(200)[None] // 5 % 3
    turning = zero_shot(times, np.repeat(labels, 10, 0), label_noise=0.0).relaxation_times()
    assert turning.oscillating.shape == (2,)
    assert (turning.oscillating > 0.9).all()
    assert (clean().relaxation_times().oscillating < 0.1).all()
    exact = relaxation_times(clean().sample(random.key(0), (1000,))).times
    npt.assert_allclose(clean().relaxation_times().values, exact, rtol=1e-3)


def test_jump_posterior_interval_holds_its_share():
    draws = DerivedDraws(np.arange(1000.0))
    low, high = draws.interval(0.5)
    assert ((draws.values >= low) & (draws.values <= high)).mean() == pytest.approx(0.5, abs=0.002)


# For ArviZ, and printed


def test_jump_posterior_tree_has_named_axes_and_the_draws(tmp_path):
    import xarray as xr

    post = noisy()
    tree = to_datatree(post)
    assert tree["posterior"]["rates"].dims == ("chain", "draw", "from_state", "to_state")
    assert dict(tree["posterior"].sizes) == {
        "chain": 4, "draw": 250, "from_state": 3, "to_state": 3, "state": 3, "mode": 2
    }  # fmt: skip
    drawn = tree["posterior"]["rates"].values.reshape(1000, 3, 3)
    npt.assert_array_equal(drawn, post.sample(random.key(0), (1000,)))
    npt.assert_array_equal(tree["posterior"]["presence"].values.reshape(1000, 3, 3), drawn > 0)
    npt.assert_array_equal(tree["posterior"]["stationary"].values.reshape(1000, 3), post.stationary().values)
    assert float(tree["refinement"]["reciprocal"]) == pytest.approx(float(post.reciprocal))
    named = post.to_datatree(coords={name: list("abc") for name in ("from_state", "to_state", "state")})
    assert float(named["posterior"]["rates"].sel(from_state="a", to_state="b").mean()) > 0
    assert named["refinement"]["initial"].sel(state="c").ndim == 0
    tree.to_netcdf(tmp_path / "rates.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "rates.nc", engine="h5netcdf") as back:
        xr.testing.assert_equal(back["posterior"].to_dataset(), tree["posterior"].to_dataset())
        xr.testing.assert_equal(back["refinement"].to_dataset(), tree["refinement"].to_dataset())


def test_jump_posterior_is_read_by_arviz():
    import arviz as az
    import matplotlib.pyplot as plt

    post = clean()
    assert diagnose(post) == []
    rows = summary(post, var_names=["stationary", "relaxation_times"])
    assert list(rows.index) == [f"stationary[{i}]" for i in range(3)] + [
        f"relaxation_times[{i}]" for i in (1, 2)
    ]
    npt.assert_allclose(rows["mean"].astype(float)[:3], post.stationary().mean, atol=0.02)
    assert (rows["r_hat"].astype(float) < 1.02).all()
    az.plot_forest(post.to_datatree(), var_names=["rates"])
    plt.close("all")


def test_jump_posterior_is_printed_as_a_table():
    lines = repr(noisy()).splitlines()
    assert lines[0].startswith("RatePosterior of 3 states, label noise 0.0")
    assert len(lines) == 2 + 6
    row = next(line for line in lines if line.strip().startswith("1 -> 2"))
    mean, sd = (float(x) for x in row.split()[3:5])
    assert mean == pytest.approx(float(noisy().mean[1, 2]), rel=1e-2)
    assert sd == pytest.approx(float(noisy().sd[1, 2]), rel=1e-2)
    assert row.split()[-1] == f"{float(noisy().presence[1, 2]):.2f}"
    assert "90 % interval" in repr(clean().stationary())


def test_jump_posterior_prints_the_links_that_are_likely_there_where_there_are_many(monkeypatch):
    from emberwalk.infer.jump import report

    monkeypatch.setattr(report, "_ALL_LINKS", 5)
    lines = repr(clean()).splitlines()
    assert [line.split()[0] + line.split()[2] for line in lines[2:-1]] == ["01", "10", "12", "21"]
    assert lines[-1] == "and 2 links that are less likely there"


def test_jump_posterior_shows_the_likeliest_links_row_by_row():
    presence = np.random.default_rng(0).random((12, 12)) * (1 - np.eye(12))
    links = shown_links(presence)
    assert links == sorted(links)
    assert len(links) == 60
    hidden = [presence[i, j] for i in range(12) for j in range(12) if i != j and (i, j) not in links]
    assert min(presence[link] for link in links) > max(max(hidden), 0.5)


BAD = {
    "probability": (lambda post: post.quantile(0.0), r"p must be between 0 and 1, got 0\.0"),
    "probabilities": (lambda post: post.quantile_if_present([0.5, 1.2]), r"got \[0\.5, 1\.2"),
    "interval": (lambda post: post.stationary().interval(90), r"prob must be between 0 and 1, got 90"),
    "draws": (lambda post: post.stationary(0), r"num_draws must be at least 1, got 0"),
    "draws of a tree": (lambda post: post.to_datatree(10), r"multiple of 4, at least 16, got 10"),
    "target": (lambda post: post.first_passage_times(7), r"targets must be states from 0 to 2"),
    "floor": (lambda post: post.entropy_production(floor=-1.0), r"floor must be a positive rate, got -1\.0"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_jump_bad_input_of_a_posterior(call, words):
    with pytest.raises(ValueError, match=words):
        call(clean())
