"""`diagnose`, `summary`, `to_datatree`: who is asked, each warning once, a long path at five times."""

import ast
import warnings

import arviz_base
import arviz_stats
import numpy as np
import optax
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from emberwalk.infer.diagnostics import diagnose, summary, to_datatree
from emberwalk.infer.resume import resumable
from tests.house import module_files
from tests.infer.path_kernel import DAYS, DRAWS, SENTENCES, PathKernel, Y, quiet, run, schools

pytestmark = pytest.mark.xdist_group("diagnostics")  # its runs are made once


@pytest.fixture(scope="module")
def nuts():
    return run(NUTS(schools), Y, method="vectorized")


@pytest.fixture(scope="module")
def path():
    return run(PathKernel("x"))


@pytest.fixture(scope="module")
def svi():
    guide = AutoNormal(schools)
    problem = SVI(schools, guide, optax.adam(0.05), Trace_ELBO())
    return problem, problem.run(random.key(0), 20, Y, progress_bar=False)


# Warnings


@pytest.mark.parametrize("word", [diagnose, to_datatree, summary])
def test_each_word_issues_each_sentence_once_at_the_users_line(word, path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = word(path)
    assert [str(w.message) for w in caught] == SENTENCES
    assert {w.filename for w in caught} == {__file__}
    if word is diagnose:
        assert result == SENTENCES


def test_a_tree_once_made_is_summarised_without_warning(path):
    tree, _ = quiet(to_datatree, path)
    assert len(summary(tree)) == 5


def test_a_kernel_of_numpyro_has_nothing_to_say(nuts, svi):
    assert diagnose(nuts) == []
    assert diagnose(svi[0]) == []


# Summaries


def test_a_long_path_is_summarised_at_five_times_spread_over_it(path):
    table, _ = quiet(summary, path)
    assert list(table.index) == ["x[0]", "x[3]", "x[6]", "x[8]", "x[11]"]


def test_whole_days_are_labelled_by_their_date(path):
    table, _ = quiet(summary, path, coords={"time": DAYS})
    assert list(table.index)[::2] == ["x[2016-06-20]", "x[2016-06-26]", "x[2016-07-01]"]


def test_a_path_of_eight_times_is_summarised_in_full():
    table, _ = quiet(summary, run(PathKernel("x", 8)))
    assert len(table) == 8


def test_ess_and_rhat_are_those_of_arviz_stats(nuts):
    table = summary(nuts, var_names=["mu", "theta"], round_to="none")
    expected = arviz_stats.summary(
        arviz_base.from_numpyro(nuts, dims={"theta": ["school"]}), var_names=["mu", "theta"], round_to="none"
    )
    assert list(table.index) == ["mu", "theta[0]", "theta[1]", "theta[2]"]
    np.testing.assert_allclose(table.to_numpy(float), expected.to_numpy(float))
    assert list(summary(nuts, kind="diagnostics").columns)[:3] == ["ess_bulk", "ess_tail", "r_hat"]


def test_a_site_that_never_moves_and_a_flag_are_summarised_without_warning():
    draws = {"frozen": np.ones((2, 20), int), "flag": np.arange(40).reshape(2, 20) % 3 == 0}
    table = summary(arviz_base.from_dict({"posterior": draws}), round_to="none")
    assert table.loc["flag", "mean"] == pytest.approx(draws["flag"].mean())
    assert np.isnan(table.loc["frozen", "r_hat"])


def test_independent_draws_of_an_svi_have_no_ess(svi):
    problem, result = svi
    table = summary(problem, svi_result=result, model_args=(Y,))
    assert "mu" in table.index
    assert "mean" in table.columns
    assert "ess_bulk" not in table.columns


# What may be read


def test_an_svi_without_its_result_is_refused(svi):
    with pytest.raises(TypeError, match="svi_result="):
        to_datatree(svi[0])


def test_a_resumable_run_is_read_as_its_mcmc_and_its_directory_as_its_draws(tmp_path):
    def resumed():
        kernel = PathKernel("x")
        mcmc = MCMC(kernel, num_warmup=1, num_samples=DRAWS, num_chains=2, chain_method="sequential")
        return resumable(mcmc, tmp_path, every=DRAWS // 2)

    long = resumed()
    long.mcmc.progress_bar = False
    long.run(random.key(1))
    tree, said = quiet(to_datatree, long)
    assert said == SENTENCES
    assert tree["posterior"].sizes == {"chain": 2, "draw": DRAWS, "time": 12}
    assert "path_diagnostics" in tree.children

    bare, said = quiet(to_datatree, tmp_path)
    assert said == diagnose(tmp_path) == []
    assert list(bare.children) == ["posterior", "sample_stats"]
    for group in bare.children:
        assert set(bare[group].data_vars) == set(tree[group].data_vars)
    np.testing.assert_array_equal(bare["posterior"]["x"], tree["posterior"]["x"])
    assert len(summary(str(tmp_path))) == 12  # no kernel: nobody says that x is a path
    with pytest.raises(ValueError, match=r"has not run: .*or give its directory"):
        to_datatree(resumed())


class Ensemble:
    def to_datatree(self, **kwargs):
        return kwargs


def test_an_object_with_a_to_datatree_of_its_own_is_asked_for_it():
    assert to_datatree(Ensemble(), coords={"a": 1}) == {"coords": {"a": 1}}


@pytest.mark.parametrize("word", [diagnose, to_datatree, summary])
@pytest.mark.parametrize("x", [3, np.zeros(4), {"mu": np.zeros((2, 3))}], ids=["int", "array", "dict"])
def test_anything_else_is_refused_and_told_what_would_do(word, x):
    with pytest.raises(TypeError, match=rf"MCMC, .*ResumableRun.*SVI.*got {type(x).__name__}\."):
        word(x)


@pytest.mark.parametrize("word", [diagnose, to_datatree, summary])
def test_a_run_that_has_not_begun_is_refused(word):
    with pytest.raises(ValueError, match="This MCMC has not run: call its run method first"):
        word(MCMC(PathKernel("x"), num_warmup=1, num_samples=2))


# Costs


@pytest.mark.parametrize("module", ["diagnostics", "datatree", "blocks", "smc.plots"])
def test_arviz_xarray_and_matplotlib_are_not_imported_with_the_package(module):
    tree = ast.parse(module_files()[f"emberwalk.infer.{module}"].read_text())
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = " ".join(ast.unparse(node) for node in at_import)
    assert "numpy" in names
    assert not [heavy for heavy in ("arviz", "xarray", "pandas", "matplotlib") if heavy in names]
