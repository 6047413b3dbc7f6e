"""`resumable`: cut anywhere it is the same chain, it is read like an MCMC, and another run is refused."""

import re
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import PPG, segments, to_datatree
from emberwalk.infer.resume import ResumableRun, read_directory, resumable
from emberwalk.models import linear_gaussian
from tests.infer.resume_cases import (
    CASES,
    EVERY,
    KEY,
    NIGHTLY,
    SEGMENTS_BEFORE_THE_CUT,
    Walk,
    Y,
    check_equal,
    child,
    mcmc,
    normal,
    walk,
    walk_on,
)
from tests.metropolis import Metropolis

pytestmark = pytest.mark.xdist_group("resume")

# The resume law, across processes.


def resume_all(names, folder):
    child("resume_cases.py", "begin", folder, *names)
    for name in names:
        assert read_directory(folder / name / "cut").num_saved == SEGMENTS_BEFORE_THE_CUT * EVERY
    child("resume_cases.py", "finish", folder, *names)
    return folder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    return resume_all(CASES, tmp_path_factory.mktemp("resumed"))


@pytest.fixture(scope="module")
def resumed_nightly(tmp_path_factory):
    return resume_all(NIGHTLY, tmp_path_factory.mktemp("resumed_nightly"))


def check_same_bytes(folder):
    names = sorted(file.name for file in (folder / "whole").iterdir())
    assert names == [*(f"draws-{n:06d}.npz" for n in range(1, 5)), "state.npz"]
    for name in names:
        assert (folder / "whole" / name).read_bytes() == (folder / "cut" / name).read_bytes(), name


@pytest.mark.parametrize("name", CASES)
def test_continued_in_a_new_process_is_uninterrupted_bit_for_bit(resumed, name):
    check_same_bytes(resumed / name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NIGHTLY)
def test_continued_in_a_new_process_is_uninterrupted_bit_for_bit_more_kernels(resumed_nightly, name):
    check_same_bytes(resumed_nightly / name)


def test_the_draws_of_all_segments_are_those_of_one_run_of_mcmc(tmp_path):
    fields = ("potential_energy", "adapt_state.step_size", "~z.m")
    plain, segmented = mcmc(NUTS(normal), thinning=3), mcmc(NUTS(normal), thinning=3)
    plain.run(KEY, Y, extra_fields=fields)
    run = resumable(segmented, tmp_path, every=EVERY)
    run.run(KEY, Y, extra_fields=fields)
    for grouped in (False, True):
        check_equal(run.get_samples(grouped), plain.get_samples(grouped))
        check_equal(run.get_extra_fields(grouped), plain.get_extra_fields(grouped))
    check_equal(run.last_state, plain.last_state)
    assert run.get_samples().keys() == {"s", "m/s"}


# Reading and continuing.


@pytest.fixture(scope="module")
def finished_walk(tmp_path_factory):
    return walk_on(tmp_path_factory.mktemp("finished")).directory


@pytest.fixture
def folder(finished_walk, tmp_path):
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished_walk, tmp_path / "run"))


def test_a_finished_directory_returns_at_once(folder, monkeypatch):
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    monkeypatch.setattr(MCMC, "run", None)
    run = walk(folder)
    assert isinstance(run, ResumableRun)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run.run(KEY, Y, extra_fields=("total",))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    np.testing.assert_array_equal(run.last_state.total, [11, 11])
    assert run.mcmc.post_warmup_state is run.last_state


def test_a_run_serves_where_an_mcmc_is_read(folder):
    run = walk(folder)
    assert run.last_state is None
    run.run(KEY, Y, extra_fields=("total",))
    assert type(run.sampler) is Walk
    assert run.chain_method == "sequential"
    assert (run.num_chains, run.num_warmup, run.num_samples, run.thinning, run.every) == (2, 3, 8, 2, 4)
    assert run._args[0] is Y
    assert run._kwargs == {}
    np.testing.assert_array_equal(run.get_extra_fields(group_by_chain=True)["total"], [[5, 7, 9, 11]] * 2)
    np.testing.assert_array_equal(run.get_extra_fields()["total"], [5, 7, 9, 11] * 2)


def test_a_directory_is_read_without_kernel_and_model(folder):
    saved = read_directory(str(folder))
    assert saved.kernel_name == "tests.infer.resume_cases.Walk"
    assert (saved.num_chains, saved.num_warmup, saved.thinning) == (2, 3, 2)
    assert (saved.num_samples, saved.num_saved) == (8, 8)
    samples, grouped = saved.get_samples(), saved.get_samples(group_by_chain=True)
    assert samples.keys() == {"walk/x", "pair"}
    assert grouped["walk/x"].shape == (2, 4, 2)
    np.testing.assert_array_equal(samples["walk/x"], grouped["walk/x"].reshape(8, 2))
    np.testing.assert_array_equal(samples["pair"][0], samples["walk/x"][:, 0])  # a tuple comes back as a list
    np.testing.assert_array_equal(samples["pair"][1][0], samples["walk/x"])
    assert saved.get_extra_fields(group_by_chain=True)["total"].shape == (2, 4)


def test_draws_are_read_while_the_run_goes_on(tmp_path):
    run = walk(tmp_path)
    seen = []
    run_once = run.mcmc.run

    def look_and_run(*args, **kwargs):
        if (tmp_path / segments.STATE).exists():
            saved = read_directory(tmp_path)
            seen.append((saved.num_saved, len(run.get_samples()["walk/x"]) if saved.num_saved else 0))
        run_once(*args, **kwargs)

    run.mcmc.run = look_and_run
    run.run(KEY, Y)
    assert seen == [(0, 0), (4, 4)]
    assert run.mcmc.get_samples()["walk/x"].shape == (4, 2)  # the MCMC itself holds the last segment
    assert run.get_samples()["walk/x"].shape == (8, 2)
    assert run.mcmc.num_samples == 8


def test_before_there_are_draws_reading_says_so(tmp_path):
    run = walk(tmp_path)
    with pytest.raises(ValueError, match=r"state\.npz is missing"):
        run.get_samples()
    stop_after(run, 1)
    with pytest.raises(KeyboardInterrupt):
        run.run(KEY, Y)
    with pytest.raises(ValueError, match="no draws yet, only the warm-up"):
        run.get_samples()


def stop_after(run, runs):
    """Interrupt the run when its MCMC is called once more than `runs` times (the warm-up is one)."""
    run_once, calls = run.mcmc.run, 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > runs:
            raise KeyboardInterrupt
        run_once(*args, **kwargs)

    run.mcmc.run = counted


def test_an_interrupted_run_leaves_mcmc_as_it_was_and_goes_on(finished_walk, tmp_path):
    run = walk(tmp_path)
    stop_after(run, 2)
    with pytest.raises(KeyboardInterrupt):
        run.run(KEY, Y, extra_fields=("total",))
    assert run.mcmc.num_samples == 8
    again = walk(tmp_path)
    # A kernel that has seen other data binds them; to go on it must be bound anew.
    again.sampler.init(KEY, 0, None, model_args=(100 * Y,), model_kwargs={})
    again.run(KEY, Y, extra_fields=["total"])
    check_same_files(finished_walk, tmp_path)


def check_same_files(one, other):
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def test_draws_that_the_state_does_not_count_are_drawn_again(finished_walk, tmp_path):
    run = walk(tmp_path)
    stop_after(run, 2)
    with pytest.raises(KeyboardInterrupt):
        run.run(KEY, Y, extra_fields=("total",))
    (tmp_path / "draws-000002.npz").write_bytes(b"whatever a kill leaves")
    (tmp_path / "draws-000002.npz.tmp").write_bytes(b"and here")
    assert read_directory(tmp_path).num_saved == 4
    walk_on(tmp_path)
    check_same_files(finished_walk, tmp_path)


def test_every_is_by_default_at_least_a_tenth(tmp_path):
    def every(num_samples, thinning=1):
        return walk(tmp_path, every=None, num_samples=num_samples, thinning=thinning).every

    assert [every(1000), every(25), every(7), every(6), every(22)] == [100, 5, 1, 1, 11]
    assert [every(1000, 8), every(24, 8), every(30, 30)] == [200, 8, 30]


@pytest.mark.parametrize("every", [0, -4, 3, 16, 1, 4.0, True])
def test_a_segment_length_that_does_not_fit_is_refused(tmp_path, every):
    with pytest.raises(ValueError, match=rf"every={every} must be .*num_samples=8 .*thinning=2; every=None"):
        walk(tmp_path, every=every)


def test_misuse_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="num_samples=9 must be a multiple of thinning=2"):
        walk(tmp_path, every=None, num_samples=9)
    with pytest.raises(TypeError, match=r"must be a numpyro\.infer\.MCMC, got Walk"):
        resumable(Walk(), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file is a file"):
        walk(tmp_path / "file").run(KEY, Y)
    (tmp_path / "draws-000001.npz").write_text("x")
    with pytest.raises(ValueError, match=r"draws-000001\.npz is there without state\.npz"):
        walk(tmp_path).run(KEY, Y)
    assert not (tmp_path / segments.STATE).exists()


class Keyless(Walk):
    def init(self, *args, **kwargs):
        return super().init(*args, **kwargs).position


class Growing(Walk):
    def init(self, rng_key, *args, **kwargs):
        state = super().init(rng_key, *args, **kwargs)
        traced = isinstance(rng_key, jax.core.Tracer)
        return state if traced else state._replace(total=jnp.zeros(3, int))


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (Keyless, "Keyless cannot be resumed: its state has no field rng_key"),
        (Growing, "Growing cannot be .*init"),
    ],
)
def test_a_kernel_that_cannot_be_resumed_is_refused_and_nothing_saved(tmp_path, kernel, words):
    mcmc = MCMC(kernel(), num_warmup=0, num_samples=2, progress_bar=False)
    with pytest.raises(ValueError, match=words):
        resumable(mcmc, tmp_path).run(KEY, Y)
    assert list(tmp_path.iterdir()) == []


# Another run in the same directory.


class OtherWalk(Walk):
    """The same state under another name."""


# What differs, as the error says it, and how the run is started.
MISMATCHES = {
    "num_samples was 8, now it is 12": {"num_samples": 12},
    "every was 4, now it is 8": {"every": 8},
    "thinning was 2, now it is 1": {"thinning": 1},
    "num_warmup was 3, now it is 4": {"num_warmup": 4},
    "num_chains was 2, now it is 3": {"num_chains": 3},
    r"chain_method was sequential, now it is jax\..*vmap": {"chain_method": jax.vmap},
    r"kernel was .*\.Walk, now it is .*\.OtherWalk": {"kernel": OtherWalk},
    "extra_fields was total, now it is $": {"extra_fields": ()},
    r"rng_key was threefry2x32 \[0, 8\], now it is threefry2x32 \[0, 9\]": {"rng_key": random.key(9)},
    r"leaves \.rng_key was key<fry>\[2\], now it is uint32\[2, 2\]": {"rng_key": random.PRNGKey(8)},
    r"data \['args'\]\[0\] was float.*\[4\] with SHA-256 .*, now it is float": {"y": Y.at[3].add(1e-6)},
    r"data \['args'\]\[0\] was float.*\[4\] .*, now it is int32\[4\] ": {"y": jnp.zeros(4, jnp.int32)},
    r"data \['kwargs'\]\['scale'\] was absent, now it is 2": {"run_options": {"scale": 2}},
    r"data \['init_params'\] was absent, now it is float": {
        "run_options": {"init_params": jnp.zeros((2, 2))}
    },
}


@pytest.mark.parametrize(("words", "options"), MISMATCHES.items(), ids=[w.split()[0] for w in MISMATCHES])
def test_another_run_is_refused_with_what_differs(folder, words, options):
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder))}.state\.npz was written by") as error:
        walk_on(folder, **options)
    found = re.search(r"another run: (.*)\. Call `run`", str(error.value)).group(1).split("; ")
    assert any(re.match(words, sentence) for sentence in found), found


def test_another_code_of_the_model_is_refused_where_it_gives_other_draws(tmp_path):
    run = walk(tmp_path)
    stop_after(run, 2)
    with pytest.raises(KeyboardInterrupt):
        run.run(KEY, Y)
    again = walk(tmp_path)
    again.mcmc.postprocess_fn = lambda position: {"renamed": position["walk/x"]}
    with pytest.raises(ValueError, match=r"state\.npz: .*\['samples'\]\['renamed'\]"):
        again.run(KEY, Y)
    assert read_directory(tmp_path).get_samples()["walk/x"].shape == (4, 2)


def test_another_precision_and_another_version_are_refused(folder, monkeypatch):
    x64 = jax.config.jax_enable_x64
    with jax.enable_x64(not x64), pytest.raises(ValueError, match=f"x64 was {x64}, now it is {not x64}"):
        walk_on(folder)
    monkeypatch.setattr(numpyro, "__version__", "0.22.9")
    with pytest.raises(ValueError, match=r"versions numpyro was .*, now it is 0\.22\.9"):
        walk_on(folder)


def test_a_finished_directory_in_a_new_process_has_all_that_its_kernel_says(tmp_path):
    """Nothing is left to draw, so that NumPyro never starts the kernel."""

    def run():
        kernel = PPG(linear_gaussian, 2, interweave=None, inner_kernel=Metropolis)
        settings = {"num_warmup": 2, "num_samples": 4, "progress_bar": False}
        made = resumable(MCMC(kernel, **settings), tmp_path, every=2)
        made.run(KEY, Y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return to_datatree(made)

    first, again = run(), run()
    assert again["posterior"]["x"].dims == ("chain", "draw", "time")
    assert first.equals(again)
    assert again["path_diagnostics"].attrs["sweeps"] == 4
