"""Files of a long run: a kill loses one segment at most, and no file is believed unseen."""

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from emberwalk.infer import segments
from emberwalk.infer.resume import read_directory
from tests.infer.resume_cases import check_equal, child, walk_on

pytestmark = pytest.mark.xdist_group("segments")

# Kills.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the savers that are killed are forked")
def test_twenty_kills_leave_a_readable_directory_and_lose_one_segment_at_most(tmp_path):
    lines = child("resume_kills.py", tmp_path, *range(20)).splitlines()
    kills = [tuple(map(int, line.split())) for line in lines]
    assert len(kills) == 20
    for reported, saved in kills:
        assert reported <= saved <= reported + 1


@pytest.fixture(scope="module")
def finished_walk(tmp_path_factory):
    return walk_on(tmp_path_factory.mktemp("finished")).directory


@pytest.fixture
def folder(finished_walk, tmp_path):
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished_walk, tmp_path / "run"))


class PowerCut(BaseException):
    """No handler may mistake it for a damaged file."""


class WalkedState(NamedTuple):
    z: np.ndarray
    rng_key: np.ndarray


def saved_run(folder, number):
    """Save segments up to `number` of a run of one chain whose draws and state tell the segment."""
    counts = {"num_chains": 1, "num_warmup": 0, "num_samples": 100, "every": 5, "thinning": 1}
    manifest = segments.Manifest({"kernel": "none", "leaves": {".z": "", ".rng_key": ""}, **counts})
    if (folder / segments.STATE).exists():
        manifest = segments.read_manifest(folder)
    else:
        segments.save_state(folder, manifest, WalkedState(np.full(3, 0.0), np.zeros(2, np.uint32)))
    for n in range(len(manifest.segments) + 1, number + 1):
        state = WalkedState(np.full(3, float(n)), np.zeros(2, np.uint32))
        draws = {"samples": np.full((1, 5), n), "extra_fields": {}}
        manifest = segments.save_segment(folder, manifest, draws, state)
    return manifest


def what_is_saved(folder):
    manifest = segments.read_manifest(folder)
    z, _ = segments.state_arrays(folder, segments.describe(WalkedState(np.zeros(3), np.zeros(2, np.uint32))))
    draws = read_directory(folder).get_samples()
    np.testing.assert_array_equal(draws, np.repeat(np.arange(1, len(manifest.segments) + 1), 5))
    assert (z == len(manifest.segments)).all()
    return len(manifest.segments)


def test_a_stop_before_any_system_call_leaves_the_old_or_the_new_state(tmp_path, monkeypatch):
    def stop_before_call(number):
        calls = 0

        def guarded(call):
            def wrapper(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == number:
                    raise PowerCut
                return call(*args, **kwargs)

            return wrapper

        for name in ("fsync", "replace", "open", "fstat", "close"):
            monkeypatch.setattr(segments.os, name, guarded(getattr(os, name)))
        monkeypatch.setattr(segments.np, "savez", guarded(np.savez))

    saved_run(tmp_path, 1)
    outcomes = set()
    for number in range(1, 30):
        before = what_is_saved(tmp_path)
        with monkeypatch.context():
            stop_before_call(number)
            try:
                saved_run(tmp_path, before + 1)
                finished = True
            except PowerCut:
                finished = False
            monkeypatch.undo()
        after = what_is_saved(tmp_path)
        assert after - before in ((1,) if finished else (0, 1))
        outcomes.add((finished, after - before))
    assert outcomes == {(False, 0), (False, 1), (True, 1)}  # the last call of all was reached


def test_each_file_is_on_the_disk_before_its_name_and_the_state_comes_last(tmp_path, monkeypatch):
    saved_run(tmp_path, 1)
    events = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        events.append(f"fsync {kind}")
        fsync(descriptor)

    def logged_replace(source, target):
        assert source.parent == target.parent  # a rename between file systems is no rename
        events.append(f"name {target.name}")
        replace(source, target)

    monkeypatch.setattr(segments.os, "fsync", logged_fsync)
    monkeypatch.setattr(segments.os, "replace", logged_replace)
    saved_run(tmp_path, 2)
    files = ("draws-000002.npz", "state.npz")
    assert events == [event for file in files for event in ("fsync file", f"name {file}", "fsync folder")]


# Damaged and foreign files.


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_members(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def npy(array, shape=None):
    """The bytes of an .npy file, with another shape in its header if asked."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + (pickle.dumps(array) if array.dtype == object else array.tobytes())


def edit_state(change):
    """Damage: change the members of state.npz."""

    def damage(folder):
        content = members(folder / "state.npz")
        change(content)
        write_members(folder / "state.npz", content)
        return folder / "state.npz"

    return damage


def edit_manifest(change):
    def change_members(content):
        text = np.frombuffer(content["manifest.npy"][128:], np.uint8).tobytes()
        manifest = json.loads(text[text.index(b"{") :])
        change(manifest)
        content["manifest.npy"] = npy(np.frombuffer(json.dumps(manifest).encode(), np.uint8))

    return edit_state(change_members)


def forge_draws(change, compression=zipfile.ZIP_STORED):
    """Damage: change the draws of the first segment, and let state.npz vouch for the new file."""

    def damage(folder):
        path = folder / "draws-000001.npz"
        content = members(path)
        change(content)
        write_members(path, content, compression)
        size = path.stat().st_size
        with open(path, "rb") as file:
            digest = segments.hashlib.file_digest(file, "sha256").hexdigest()
        edit_manifest(lambda manifest: manifest["segments"].__setitem__(0, [size, digest]))(folder)
        return path

    return damage


def replace_file(name, change):
    """Damage: replace the bytes of a file, None to remove it."""

    def damage(folder):
        data = change((folder / name).read_bytes())
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)
        return folder / name

    return damage


def flip(data):
    middle = data.index(b"\n") + 9  # in the first array's values, after its header
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def swap_segments(folder):
    first, second = folder / "draws-000001.npz", folder / "draws-000002.npz"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return first


def declare_a_huge_array(folder):
    edit_manifest(lambda manifest: manifest["draws"][-1].__setitem__(1, [2, 2, 2**60]))(folder)
    return folder / "draws-000001.npz"


def a_folder_instead(folder):
    (folder / "draws-000002.npz").unlink()
    (folder / "draws-000002.npz").mkdir()
    return folder / "draws-000002.npz"


class Opened:
    """Pickled into a file, it tells on whoever unpickles it."""

    unpickled = False

    def __reduce__(self):
        return setattr, (Opened, "unpickled", True)


PICKLED = np.array([Opened()], dtype=object)
X, TOTAL = "['samples']['walk/x'].npy", ".total.npy"

DAMAGES = {
    "state empty": replace_file("state.npz", lambda data: b""),
    "state is text": replace_file("state.npz", lambda data: b"not a zip" * 100),
    "state cut": replace_file("state.npz", lambda data: data[: len(data) // 2]),
    "state one bit": replace_file("state.npz", flip),
    "state is a foreign npz": edit_state(lambda c: (c.clear(), c.update({"x.npy": npy(np.zeros(3))}))),
    "state lacks a member": edit_state(lambda c: c.pop(TOTAL)),
    "state has a further member": edit_state(lambda c: c.update({"../../evil.npy": npy(np.zeros(3))})),
    "state has another dtype": edit_state(lambda c: c.update({TOTAL: npy(np.zeros(2))})),
    "state has another shape": edit_state(lambda c: c.update({TOTAL: npy(np.zeros(3, np.int32))})),
    "state is pickled": edit_state(lambda c: c.update({TOTAL: npy(PICKLED)})),
    "state claims a huge array": edit_state(
        lambda c: c.update({TOTAL: npy(np.zeros(2, np.int32), shape=(2**40, 2**10))})
    ),
    "state has an unknown key": edit_manifest(
        lambda m: m["key_implementations"].update({".rng_key": "rot13"})
    ),
    "state has another key": edit_manifest(lambda m: m["key_implementations"].update({".rng_key": "rbg"})),
    "manifest is no JSON": edit_state(lambda c: c.update({"manifest.npy": npy(np.zeros(9, np.uint8))})),
    "manifest is nested": edit_state(
        lambda c: c.update({"manifest.npy": npy(np.frombuffer(b"[" * 100_000, np.uint8))})
    ),
    "manifest of another format": edit_manifest(lambda m: m.update(format=2)),
    "manifest without counts": edit_manifest(lambda m: m["fingerprint"].pop("num_chains")),
    "manifest with a negative count": edit_manifest(lambda m: m["fingerprint"].update(every=-4)),
    "manifest without a kernel": edit_manifest(lambda m: m["fingerprint"].update(kernel=None)),
    "manifest without a warm-up": edit_manifest(lambda m: m["fingerprint"].pop("num_warmup")),
    "manifest counts too many": edit_manifest(lambda m: m["segments"].extend([[9, "0" * 64]] * 10)),
    "manifest without chains": edit_manifest(lambda m: m["draws"][0].__setitem__(1, [])),
    "manifest with objects": edit_manifest(lambda m: m["draws"][0].__setitem__(2, "object")),
    "manifest with a step of no kind": edit_manifest(lambda m: m["draws"][0][0][1].__setitem__(0, "call")),
    "manifest with a leaf twice": edit_manifest(lambda m: m["draws"].append(m["draws"][0])),
    "draws missing": replace_file("draws-000001.npz", lambda data: None),
    "draws are a folder": a_folder_instead,
    "draws cut": replace_file("draws-000002.npz", lambda data: data[:-1]),
    "draws one bit": replace_file("draws-000002.npz", flip),
    "draws of another segment": swap_segments,
}
# state.npz vouches for these, so that nothing but their own form can give them away; a run does not open
# them: whoever reads draws does.
FORGED = {
    "draws are pickled": forge_draws(lambda c: c.update({X: npy(PICKLED)})),
    "draws claim a huge array": forge_draws(lambda c: c.update({X: npy(np.zeros(2), shape=(2, 2, 2**60))})),
    "draws leave their shape open": forge_draws(
        lambda c: c.update({X: npy(np.zeros((2, 2, 2), np.float32), shape=(-1, 2, 2))})
    ),
    "draws of another shape": forge_draws(lambda c: c.update({X: npy(np.zeros((2, 2, 3), np.float32))})),
    "draws of another dtype": forge_draws(lambda c: c.update({X: npy(np.zeros((2, 2, 2), ">f4"))})),
    "draws lack a member": forge_draws(lambda c: c.pop(X)),
    "draws have a path for a name": forge_draws(lambda c: c.update({"../../../" + X: c.pop(X)})),
    "draws are not what is declared": declare_a_huge_array,
    "draws are compressed": forge_draws(lambda c: None, zipfile.ZIP_DEFLATED),
    "draws have bytes behind": forge_draws(lambda c: c.update({X: c[X] + b"more"})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_refused_by_name(folder, damage):
    path = damage(folder)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is "):
        walk_on(folder)
    assert not Opened.unpickled


@pytest.mark.parametrize("damage", FORGED.values(), ids=FORGED)
def test_a_forged_file_of_draws_is_refused_by_name(folder, damage):
    path = damage(folder)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged"):
        read_directory(folder).get_samples()
    assert not Opened.unpickled


def test_the_forger_alone_is_not_what_is_refused(folder):
    forge_draws(lambda content: None)(folder)
    edit_state(lambda content: None)(folder)
    walk_on(folder)
    assert read_directory(folder).get_samples()["walk/x"].shape == (8, 2)


@pytest.mark.filterwarnings("ignore")  # zipfile warns of what a flipped bit seems to mean
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    manifest = saved_run(tmp_path, 2)
    path, leaves = tmp_path / "state.npz", segments.describe(WalkedState(np.zeros(3), np.zeros(2, np.uint32)))
    original, arrays = path.read_bytes(), segments.state_arrays(tmp_path, leaves)
    refused = 0
    for position in range(0, len(original), 3):
        damaged = bytearray(original)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            found = segments.read_manifest(tmp_path), segments.state_arrays(tmp_path, leaves)
        except ValueError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            refused += 1
        else:
            assert found[0] == manifest._replace(key_implementations={})
            jax.tree.map(np.testing.assert_array_equal, found[1], arrays)
    assert refused > 0.5 * len(original) / 3


# What a state may hold.


class RichState(NamedTuple):
    keys: jax.Array
    raw: jax.Array
    tree: dict
    rng_key: jax.Array


def test_any_state_comes_back_as_it_was(tmp_path):
    tree = {
        "tuples": {("a", "b/c"): jnp.arange(6.0).reshape(2, 3).T, ("a", "c"): jnp.zeros(())},
        "bf16": jnp.array([1.5, -2.0], jnp.bfloat16),
        "none": None,
        "scalars": (jnp.array(True), jnp.array(3, jnp.int8), [jnp.array(1 + 2j)]),
        "empty": jnp.zeros((0, 4)),
    }
    keys = random.split(random.key(1, impl="rbg"), 3)
    state = RichState(keys, random.PRNGKey(7), tree, random.key(2))
    like = jax.eval_shape(lambda: state)
    saved_run(tmp_path, 1)
    manifest = segments.read_manifest(tmp_path)
    names = {leaf.name: "" for leaf in segments.describe(state)}
    segments.save_state(
        tmp_path, manifest._replace(fingerprint=manifest.fingerprint | {"leaves": names}), state
    )
    manifest = segments.read_manifest(tmp_path)
    check_equal(segments.read_state(tmp_path, manifest, like), state)

    manifest.key_implementations[".keys"] = "unsafe_rbg"  # keys of the same shape, other numbers
    with pytest.raises(ValueError, match=r"state\.npz is damaged .* is of kind key<urbg>, not key<rbg>"):
        segments.read_state(tmp_path, manifest, like)


def test_what_cannot_be_saved_without_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has dtype object, which cannot be saved"):
        segments.describe({"x": np.array([None])})
    with pytest.raises(ValueError, match=r"dictionary has the key 1\.5"):
        segments.describe({1.5: np.zeros(2)})


def test_named_fields_come_back_by_name():
    draws = {"adapt": WalkedState(np.arange(3), np.arange(2))}
    leaves = segments.describe(draws)
    built = segments.build_tree([leaf.path for leaf in leaves], jax.tree.leaves(draws))
    np.testing.assert_array_equal(built["adapt"].z, np.arange(3))
    np.testing.assert_array_equal(built["adapt"].rng_key, np.arange(2))
