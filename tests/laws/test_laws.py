"""Laws that every kernel obeys. A new kernel is an entry of `registry.CASES`, never a new test.

Each law takes a case, so that `test_laws_bite.py` can show it bad kernels. All laws of a kernel run in
one worker and read the same few programs (`runs.py`).
"""

import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emberwalk.infer import resumable, to_datatree
from tests.infer.resume_cases import check_equal, copy_before_return
from tests.statistics import assert_exact, z_scores

from .registry import CASES, Case, Sampler
from .runs import (
    DRAWS,
    KEY,
    Exact,
    Run,
    make_mcmc,
    mapped,
    move_beside_nan,
    move_exact_draws,
    run,
    sequential,
    vectorized,
)

ROOT = Path(__file__).parents[2]


def every_case(law):
    """The law over all cases, those of a kernel in one worker; it is named as in `Case.nightly`."""
    name = law.__name__.removeprefix("test_")
    parameters = []
    for case in CASES:
        marks = [pytest.mark.xdist_group(f"laws-{case.name}")]
        if case.nightly is True or name in case.nightly:
            marks.append(pytest.mark.nightly)
        if name in case.skipped:
            marks.append(pytest.mark.skip(reason=case.skipped[name]))
        parameters.append(pytest.param(case, id=case.name, marks=marks))
    return pytest.mark.parametrize("case", parameters)(law)


@every_case
def test_leaves_exact_draws_exact(case):
    """Exact draws, moved, are exact draws (Gandy and Scott 2021); and they move."""
    check_exact(case, case.alone)


@every_case
def test_is_a_block_of_gibbs_or_says_why_not(case):
    """Beside NUTS it leaves exact draws exact too: what it conditions on, and is conditioned on, is right."""
    if case.block is not None and case.stationary:
        check_exact(case, case.block)
        return
    if case.block is not None:
        check_moves(move_exact_draws(case, case.block))
        return
    assert case.refusal is not None, f"{case.name} has neither a block nor a refusal"
    with pytest.raises(ValueError, match=case.refused_with):
        case.refusal().init(KEY, 0, None, model_args=case.alone.target.args, model_kwargs={})


def check_exact(case: Case, sampler: Sampler) -> None:
    if sampler.target.exact_draw is None or not case.stationary:
        pytest.skip(f"{case.name} does not leave its target invariant: its own tests know its law")
    exact = move_exact_draws(case, sampler)
    check_moves(exact)
    # before and after are both exact: only their difference has a known mean, and it is 0
    before, after = np.asarray(exact.before, np.float64), np.asarray(exact.after, np.float64)
    assert_exact(z_scores(after - before, 0.0))


def check_moves(exact: Exact) -> None:
    """It starts where it is put, and moves to finite values."""
    for name, given, started in leaf_pairs(exact.latents, exact.started):
        np.testing.assert_allclose(started, given, rtol=1e-4, atol=1e-5, err_msg=f"{name} starts elsewhere")
    before, after = np.asarray(exact.before, np.float64), np.asarray(exact.after, np.float64)
    assert np.isfinite(after).all()
    assert (np.any(before != after, 1)).mean() > 0.5, "most replicas did not move"


@every_case
def test_same_key_same_draws(case):
    """Nothing outside the key decides."""
    runs = sequential(case)
    check_equal(runs.first.draws, runs.again.draws)
    check_equal(runs.first.last_state, runs.again.last_state)


@every_case
def test_another_key_other_draws(case):
    """From the start, and from `post_warmup_state`: every source of chance comes from the outer key."""
    runs = sequential(case)
    for one, other in ((runs.first, runs.other), (runs.continued, runs.continued_other)):
        for name, draws, others in leaf_pairs(one.draws, other.draws):
            assert not np.array_equal(draws, others), f"{name} does not depend on the key"


@every_case
def test_chains_differ(case):
    """Each chain has its own key, vectorized too."""
    for method in (sequential(case).chains, vectorized(case)):
        for name, draws, _ in leaf_pairs(method.draws, method.draws):
            assert not np.array_equal(draws[0], draws[1]), f"{name} is the same in two chains"


@every_case
def test_chain_methods_agree(case):
    """Sequential and vectorized chains are the same numbers, up to rounding."""
    check_close(sequential(case).chains, vectorized(case), case.agreement)


@every_case
def test_callable_chain_method_agrees(case):
    """`chain_method=jax.vmap` too: `init` runs under tracing."""
    check_close(sequential(case).chains, mapped(case), case.agreement)


@pytest.mark.nightly
@every_case
def test_chain_methods_agree_in_x64_while_adapting(case, x64):
    """To 1e-9 over a warm-up of 10 and 10 draws."""
    one, *others = (
        run(make_mcmc(case, method, num_warmup=10), case) for method in ("sequential", "vectorized", jax.vmap)
    )
    for other in others:
        check_close(one, other, 1e-9)


@pytest.mark.nightly
def test_parallel_chains_agree():
    """On two devices, in a process of its own, all kernels together."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.laws.parallel_chains"]
    result = subprocess.run(command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [case.name for case in CASES]


def check_close(one: Run, other: Run, tolerance: float) -> None:
    for name, a, b in leaf_pairs(one.draws, other.draws):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def leaf_pairs(one: Any, other: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, leaf, leaf) of two trees of one structure."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    leaves = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return [(jax.tree_util.keystr(path), np.asarray(a), np.asarray(b)) for (path, a), b in leaves]


@every_case
def test_no_second_compilation(case):
    """Run again, with another key, and from `post_warmup_state`, it compiles nothing."""
    runs = sequential(case)
    assert runs.first.num_compiled > 0
    counts = [r.num_compiled for r in (runs.again, runs.other, runs.continued, runs.continued_other)]
    assert counts == [0, 0, 0, 0], f"compiled again, other key, continued twice: {counts}"


@every_case
def test_resumed_is_uninterrupted(case):
    """A run of two segments, and one cut after the first and continued, are one chain bit for bit."""
    runs, mcmc = sequential(case), sequential(case).mcmc
    mcmc.num_samples = 2 * DRAWS
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole, cut = Path(folder) / "whole", Path(folder) / "cut"
            # the warm-up is the first of the three runs; when the last returns, one segment is saved
            copy_before_return(mcmc, 3, whole, cut)
            resumed = []
            for place in (whole, cut):
                segments = resumable(mcmc, place, every=DRAWS)
                segments.run(KEY, *case.alone.target.args)
                resumed.append((segments.get_samples(group_by_chain=True), segments.last_state))
    finally:
        del mcmc.run  # the counting one
        mcmc.num_samples, mcmc.post_warmup_state = DRAWS, None
        run(mcmc, case)
    check_equal(*resumed)
    check_equal(jax.tree.map(lambda leaf: leaf[:, :DRAWS], resumed[0][0]), jax.device_get(runs.chains.draws))


@every_case
def test_pickles_before_init_after_init_and_after_a_run(case):
    """A kernel can be sent to another process at any time, and starts there as here."""

    def start(kernel):
        return kernel.init(KEY, 0, None, model_args=case.alone.target.args, model_kwargs={})

    runs, kernel = sequential(case), case.alone.kernel()
    copies = [pickled(kernel)]
    state = start(kernel)
    copies.append(pickled(kernel))
    for copy in copies:
        check_equal(start(copy), state)
    copy_of_run = pickled(runs.mcmc)
    check_equal(copy_of_run.get_samples(group_by_chain=True), runs.chains.draws)
    check_equal(copy_of_run.last_state, runs.chains.last_state)


def pickled(thing: Any) -> Any:
    """It, through a pickle and back."""
    try:
        return pickle.loads(pickle.dumps(thing))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"{type(thing).__name__} does not pickle: {error}") from error


@every_case
def test_tree_goes_through_netcdf_without_a_warning(case):
    """What ArviZ reads is what was drawn; every statistic is a scalar or has named axes."""
    import xarray as xr

    runs = sequential(case)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        tree = to_datatree(runs.mcmc)
        tree.to_netcdf(Path(folder) / "tree.nc")
        with xr.open_datatree(Path(folder) / "tree.nc") as stored:
            again = stored.load()
    assert [str(w.message) for w in caught] == []
    assert again.identical(tree)
    if isinstance(runs.chains.draws, dict):
        for name, draws in runs.chains.draws.items():
            np.testing.assert_array_equal(again["posterior"][name].values, draws)
    unnamed = {
        name: stat.dims
        for name, stat in again["sample_stats"].data_vars.items()
        if any(str(dim).startswith(f"{name}_dim_") for dim in stat.dims)
    }
    assert unnamed == {}


@every_case
def test_default_fields_are_collected(case):
    """They are there without being asked for, with axes of chains and draws."""
    runs = sequential(case)
    sample_field = case.alone.kernel().sample_field
    assert {*runs.first.fields, sample_field} >= set(case.fields)
    for name in set(case.fields) - {sample_field}:
        leaves = jax.tree.leaves(runs.first.fields[name])
        assert leaves, f"{name} is empty"
        assert all(leaf.shape[:2] == (1, DRAWS) for leaf in leaves)


@every_case
def test_no_silent_nan(case):
    """Where the density is NaN no draw lies, and a kernel that can count its refusals has counted them."""
    target = case.alone.target
    if target.nan_args is None:
        pytest.skip(f"{case.name}: the density of its target cannot be NaN")
    moved = move_beside_nan(case)
    for name, draws, _ in leaf_pairs(moved.draws, moved.draws):
        assert np.isfinite(draws).all(), f"{name} has draws that are not finite"
    inside = np.asarray(target.in_nan(moved.draws))
    assert not inside.any(), f"{inside.sum()} draws lie where the density is NaN"
    if moved.num_nonfinite is not None:
        assert np.sum(moved.num_nonfinite) > 0, "num_nonfinite counted nothing"


@every_case
def test_floats_keep_their_precision(case):
    """Draws, fields and states have the precision that JAX is set to."""
    check_floats(sequential(case).first, jnp.result_type(float))


@every_case
def test_is_double_in_x64(case, x64):
    """In float64 a start and a few moves are float64 throughout; they are traced, not run."""
    check_floats(jax.eval_shape(a_few_moves(case), KEY), jnp.float64)


@every_case
def test_works_in_x64(case, x64):
    """And they give finite draws."""
    state = jax.jit(a_few_moves(case))(KEY)
    draws = getattr(state, case.alone.kernel().sample_field)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(draws))


def a_few_moves(case: Case) -> Any:
    """key -> state after three moves."""
    kernel, args = case.alone.kernel(), jax.tree.map(in_precision, case.alone.target.args)

    def moves(key):
        state = kernel.init(key, 0, None, model_args=args, model_kwargs={})
        return jax.lax.fori_loop(0, 3, lambda _, state: kernel.sample(state, args, {}), state)

    return moves


def in_precision(arg: Any) -> Any:
    """A float array in the precision that JAX is set to; anything else as it is."""
    is_float = isinstance(arg, jax.Array) and jnp.issubdtype(arg.dtype, jnp.floating)
    return arg.astype(jnp.result_type(float)) if is_float else arg


def check_floats(tree: Any, dtype: Any) -> None:
    wrong = {
        jax.tree_util.keystr(path): str(leaf.dtype)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != dtype
    }
    assert wrong == {}
