"""How draws become a tree: as ArviZ reads them, nothing is lost, everything has a name."""

import arviz_base
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import xarray as xr
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, MCMC, NUTS, SVI, DiscreteGibbs, Gibbs, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from emberwalk.infer.blocks import all_blocks
from emberwalk.infer.diagnostics import diagnose, to_datatree
from tests.infer.path_kernel import DAYS, DRAWS, PathKernel, Y, quiet, run, schools

pytestmark = pytest.mark.xdist_group("datatree")  # its runs are made once


@pytest.fixture(scope="module")
def nuts():
    fields = ("potential_energy", "num_steps", "accept_prob", "adapt_state.step_size", "energy")
    return run(NUTS(schools), Y, method="vectorized", extra_fields=fields)


@pytest.fixture(scope="module")
def path():
    return run(PathKernel("x"))


def mixed(y):
    kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.3, 0.7])))
    numpyro.sample("a", dist.Normal(0.0, 1.0).expand([12]).to_event(1))
    numpyro.sample("b", dist.Normal(0.0, 1.0).expand([9]).to_event(1))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m + kind, 1.0), obs=y)


@pytest.fixture(scope="module")
def gibbs():
    """A Gibbs in a Gibbs: (kind, a) by the inner one, b and m by the outer."""
    inner = Gibbs([(DiscreteGibbs(mixed), ["kind"]), (PathKernel("a"), ["a"])])
    blocks = [(inner, ["kind", "a"]), (PathKernel("b", 9, ("up", "down")), ["b"]), (NUTS(mixed), None)]
    fields = [
        "block_states.0.block_states.0.potential_energy",
        "block_states.2.potential_energy",
        "block_states.0.block_states.1.accept_prob",
        "block_states.1.accept_prob",
        "block_states.0.block_states.1.site_ratio",
        "block_states.1.site_ratio",
        "block_states.1.totals",
        "block_states.2.adapt_state.step_size",
        "block_states.2.num_steps",
        "block_states.2.diverging",
    ]
    return run(Gibbs(blocks), Y, extra_fields=fields)


@pytest.fixture(scope="module")
def svi():
    guide = AutoNormal(schools)
    problem = SVI(schools, guide, optax.adam(0.05), Trace_ELBO())
    return problem, problem.run(random.key(0), 20, Y, progress_bar=False)


# What ArviZ reads, read alike


def arviz_reads(mcmc, **kwargs):
    kwargs.setdefault("dims", {"theta": ["school"], "y": ["school"]})  # left to itself it fails at `twice`
    return arviz_base.from_numpyro(mcmc, **kwargs)


# NumPyro donates a buffer that vmap cannot use, and JAX says so
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable:UserWarning")
@pytest.mark.parametrize("method", ["sequential", "vectorized", "parallel", "vmap"])
def test_hmc_under_every_chain_method_is_read_as_arviz_reads_it(method, nuts):
    chains = min(2, jax.local_device_count()) if method == "parallel" else 2
    mcmc = nuts
    if method != "vectorized":
        hmc = HMC(schools, num_steps=2, trajectory_length=None)
        mcmc = run(hmc, Y, chains=chains, method=jax.vmap if method == "vmap" else method)
    tree, expected = to_datatree(mcmc), arviz_reads(mcmc)
    assert list(tree.children) == list(expected.children)
    for group in expected.children:
        assert tree[group].to_dataset().equals(expected[group].to_dataset())
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert tree["posterior"]["mu"].shape == (chains, DRAWS)


def test_the_names_and_signs_of_stats_are_those_of_arviz(nuts):
    stats, expected = to_datatree(nuts)["sample_stats"], arviz_reads(nuts)["sample_stats"]
    assert {"lp", "n_steps", "tree_depth", "acceptance_rate", "step_size", "energy"} <= set(stats.data_vars)
    assert stats.to_dataset().equals(expected.to_dataset())


def test_keywords_go_on_to_arviz(nuts):
    keywords = {
        "log_likelihood": True,
        "coords": {"school": ["a", "b", "c"]},
        "constant_data": {"size": np.arange(3)},
        "posterior_predictive": {"y": np.zeros((2, DRAWS, 3))},
    }
    tree = to_datatree(nuts, dims={"size": ["school"]}, **keywords)
    dims = {"theta": ["school"], "y": ["school"], "size": ["school"]}
    expected = arviz_reads(nuts, dims=dims, **keywords)
    assert set(tree.children) == set(expected.children)
    for group in expected.children:
        xr.testing.assert_allclose(tree[group].to_dataset(), expected[group].to_dataset())
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "school")


def test_the_users_dims_win_over_the_plates_variable_by_variable(nuts):
    tree = to_datatree(nuts, dims={"theta": ["place"]}, extra_event_dims={"y": []}, index_origin=1)
    assert tree["posterior"]["theta"].dims[-1] == "place"
    assert tree["observed_data"]["y"].dims == ("school",)
    assert tree["posterior"]["draw"][0] == tree["sample_stats"]["draw"][0] == 1


def test_arviz_may_be_imported_before_numpyro(nuts, monkeypatch):
    monkeypatch.delattr(numpyro.infer, "initialization")  # what that order leaves behind
    assert to_datatree(nuts)["posterior"]["theta"].dims == ("chain", "draw", "school")


def test_more_chains_than_draws_are_no_reason_to_warn():
    mcmc = run(PathKernel("x"), chains=3, draws=2)
    _, said = quiet(to_datatree, mcmc)
    assert len(said) == 2
    assert all("x " in sentence for sentence in said)


# Kernels without a model, stats that ArviZ drops


def test_a_kernel_names_the_axes_of_its_sites_and_of_its_stats(path):
    tree, _ = quiet(to_datatree, path)
    assert list(tree.children) == ["posterior", "sample_stats", "path_diagnostics"]
    assert tree["posterior"]["x"].dims == ("chain", "draw", "time")
    assert tree["sample_stats"]["site_ratio"].dims == ("chain", "draw", "site")
    assert tree["sample_stats"]["site"].values.tolist() == ["left", "right"]
    fields = path.get_extra_fields(group_by_chain=True)
    np.testing.assert_array_equal(tree["sample_stats"]["site_ratio"], fields["site_ratio"])
    np.testing.assert_array_equal(tree["posterior"]["x"], path.get_samples(group_by_chain=True)["x"])


def test_the_users_dims_win_over_the_kernels(path):
    tree, _ = quiet(to_datatree, path, dims={"x": ["hour"]})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "hour")
    assert tree["sample_stats"]["site_ratio"].dims == ("chain", "draw", "site")


def test_the_users_coordinates_reach_the_kernels_groups(path):
    tree, _ = quiet(to_datatree, path, coords={"time": DAYS})
    for group in ("posterior", "path_diagnostics"):
        np.testing.assert_array_equal(tree[group]["time"], DAYS)


def test_no_leaf_of_a_field_is_dropped(path):
    stats = quiet(to_datatree, path)[0]["sample_stats"]
    fields = path.get_extra_fields(group_by_chain=True)
    np.testing.assert_array_equal(stats["totals.sum"], fields["totals"]["sum"])
    np.testing.assert_array_equal(stats["totals.ends"], fields["totals"]["ends"])
    assert stats["totals.ends"].dims == ("chain", "draw", "end")


def test_a_draw_without_a_leapfrog_has_depth_zero(path):
    stats = quiet(to_datatree, path)[0]["sample_stats"]
    assert (stats["n_steps"] == 0).all()
    assert (stats["tree_depth"] == 0).all()


@pytest.mark.parametrize(
    ("start", "names"),
    [(jnp.zeros(3), ["z"]), ((jnp.zeros(3), jnp.zeros(())), ["z.0", "z.1"])],
    ids=["array", "pair"],
)
def test_draws_without_names_are_named_after_the_state_field(start, names):
    kernel = HMC(potential_fn=lambda z: sum(0.5 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(z)))
    mcmc = MCMC(kernel, num_warmup=2, num_samples=3, progress_bar=False)
    mcmc.run(random.key(0), init_params=start)
    tree = to_datatree(mcmc)
    assert list(tree["posterior"].data_vars) == names
    assert tree["posterior"][names[0]].shape == (1, 3, 3)
    with pytest.raises(ValueError, match="needs the model"):
        to_datatree(mcmc, log_likelihood=True)


# Blocks of a hand-made Gibbs


def test_stats_of_blocks_bear_arvizs_names_and_on_equal_names_their_first_site(gibbs):
    stats = quiet(to_datatree, gibbs)[0]["sample_stats"]
    fields = gibbs.get_extra_fields(group_by_chain=True)
    assert set(stats.data_vars) == {
        *("kind.lp", "m.lp", "a.acceptance_rate", "b.acceptance_rate", "a.site_ratio", "b.site_ratio"),
        *("totals.sum", "totals.ends", "step_size", "diverging", "n_steps", "tree_depth"),
        "reached_max_tree_depth",
    }
    np.testing.assert_array_equal(stats["kind.lp"], -fields["block_states.0.block_states.0.potential_energy"])
    np.testing.assert_array_equal(stats["m.lp"], -fields["block_states.2.potential_energy"])
    np.testing.assert_array_equal(stats["b.acceptance_rate"], fields["block_states.1.accept_prob"])
    np.testing.assert_array_equal(stats["step_size"], fields["block_states.2.adapt_state.step_size"])


def test_blocks_speak_of_their_own_state(gibbs):
    sentences, said = quiet(diagnose, gibbs)
    assert sentences == [
        *("a stuck 6 times; move it.", "a is short."),
        *("b stuck 6 times; move it.", "b is short."),
    ]
    assert said == sentences


def test_a_block_sees_its_own_sites_and_fields_under_the_names_they_have_alone(gibbs):
    block = dict(all_blocks(gibbs))["block_states.0.block_states.1."]
    assert block.sampler.site == "a"
    assert {name: v.shape for name, v in block.get_samples(True).items()} == {"a": (2, DRAWS, 12)}
    assert set(block.get_extra_fields()) == {"accept_prob", "site_ratio"}
    whole = gibbs.get_extra_fields()["block_states.0.block_states.1.accept_prob"]
    np.testing.assert_array_equal(block.get_extra_fields()["accept_prob"], whole)


def test_two_blocks_with_one_word_for_two_axes_keep_both(gibbs):
    tree, _ = quiet(to_datatree, gibbs)
    assert tree["posterior"]["a"].dims[-1] == tree["path_diagnostics"]["update_rate"].dims[-1] == "time"
    assert tree["posterior"]["b"].dims[-1] == "b.time"
    assert tree["b.path_diagnostics"].sizes["time"] == 9
    stats = tree["sample_stats"]
    assert stats[stats["a.site_ratio"].dims[-1]].values.tolist() == ["left", "right"]
    assert stats[stats["b.site_ratio"].dims[-1]].values.tolist() == ["up", "down"]
    assert stats["totals.ends"].dims[-1] == "end"


def test_discrete_and_scalar_sites_of_a_gibbs_keep_type_and_shape(gibbs):
    posterior = quiet(to_datatree, gibbs)[0]["posterior"]
    assert posterior["kind"].dtype.kind == "i"
    assert posterior["kind"].dims == posterior["m"].dims == ("chain", "draw")


# SVI, names with a slash


def test_an_svi_is_read_as_arviz_reads_it(svi):
    problem, result = svi
    keywords = {"svi_result": result, "model_args": (Y,), "num_samples": 50}
    tree = to_datatree(problem, log_likelihood=True, **keywords)
    dims = {"theta": ["school"], "y": ["school"]}
    expected = arviz_base.from_numpyro_svi(problem, log_likelihood=True, dims=dims, **keywords)
    assert tree["posterior"]["theta"].dims == ("sample", "school")
    for group in tree.children:
        xr.testing.assert_allclose(tree[group].to_dataset(), expected[group].to_dataset())
    assert set(expected.children) - set(tree.children) == {"sample_stats"}  # which is empty


def slashed(y):
    with numpyro.handlers.scope(prefix="net"):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))

    def step(h, y_t):
        with numpyro.handlers.scope(prefix="path"):
            h = numpyro.sample("h", dist.Normal(w, 1.0))
            numpyro.sample("y", dist.Normal(h, 1.0), obs=y_t)
        return h, None

    scan(step, 0.0, y)


def test_a_slash_in_a_name_becomes_a_dot_and_the_likelihood_is_that_of_the_draws():
    mcmc = run(NUTS(slashed, max_tree_depth=(4, 2)), Y, chains=1, extra_fields=("num_steps",))
    tree = to_datatree(mcmc, log_likelihood=True, dims={"path/h": ["time"]})
    assert set(tree["posterior"].data_vars) == {"net.w", "path.h"}
    assert tree["posterior"]["path.h"].dims[-1] == "time"
    expected = dist.Normal(tree["posterior"]["path.h"].values, 1.0).log_prob(Y)
    np.testing.assert_allclose(tree["log_likelihood"]["path.y"], expected, rtol=1e-5)
    np.testing.assert_array_equal(tree["observed_data"]["path.y"], Y)
    depth = tree["sample_stats"]["tree_depth"]  # of the pair of depths the second holds while sampling
    assert (tree["sample_stats"]["reached_max_tree_depth"] == (depth >= 2)).all()


# Storage


def trees(nuts, path, gibbs, svi):
    return {
        "nuts": to_datatree(nuts, log_likelihood=True, coords={"school": ["a", "bb", "c"]}),
        "path": quiet(to_datatree, path, coords={"time": DAYS})[0],
        "gibbs": quiet(to_datatree, gibbs)[0],
        "svi": to_datatree(svi[0], svi_result=svi[1], model_args=(Y,), num_samples=20),
    }


@pytest.mark.parametrize("store", ["netcdf", "zarr"])
def test_a_tree_comes_back_from_disk_as_it_was(store, nuts, path, gibbs, svi, tmp_path):
    for name, tree in trees(nuts, path, gibbs, svi).items():
        file = tmp_path / f"{name}.{store}"
        if store == "netcdf":
            tree.to_netcdf(file, engine="h5netcdf")
            again = xr.open_datatree(file, engine="h5netcdf")
        else:
            tree.to_zarr(file, consolidated=False)
            again = xr.open_datatree(file, engine="zarr", consolidated=False)
        with again:
            xr.testing.assert_equal(again.load(), tree)
            assert again["posterior"].to_dataset().dtypes == tree["posterior"].to_dataset().dtypes
            if name != "svi":  # netCDF turns a list of one text, as in the attribute sample_dims, into a text
                xr.testing.assert_identical(again, tree)
