"""Files of a long run (`infer/resume.py`): one npz a segment of draws, and one that says which of them count.

    draws-000001.npz ... draws-00000n.npz   draws of one segment each, never touched again
    state.npz                               the chain after n segments, size and SHA-256 of those n files,
                                            names, shapes and dtypes of their arrays, fingerprint of the run

Each file appears under its name only when it is complete and on the disk, and `state.npz` comes last. So a
kill at any moment leaves the files of some n: a newer file of draws that `state.npz` does not count is drawn
again.

Files may come from anywhere. A reader takes nothing but uncompressed members whose names, shapes, dtypes and
sizes it knows beforehand (so that no file unpacks to more than its own size), never unpickles, and refuses
everything else with a ValueError that names the file. Names in a file are never used as paths.
"""

import hashlib
import json
import math
import os
import zipfile
from collections import namedtuple
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

# One step down a tree: ("key", of a dict), ("index", of a sequence) or ("field", of a NamedTuple).
# A dict's key is a text, an integer or a tuple of such: NUTS keeps its mass matrix under tuples of sites.
type DictionaryKey = str | int | tuple[DictionaryKey, ...]
type Step = tuple[str, DictionaryKey]

FORMAT = 1
STATE = "state.npz"
MANIFEST = "manifest"
GROUPS: tuple[Step, ...] = (("key", "samples"), ("key", "extra_fields"))
# NumPy writes these as raw void bytes, which a reader could not tell apart: they travel as unsigned integers.
EXTENDED = {np.dtype(t).name: np.dtype(t) for t in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2)}
NATIVE = {
    np.dtype(t).name: np.dtype(t)
    for t in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
}


class Leaf(NamedTuple):
    """One array of a file, as it must be found there.

    Attributes:
        path: where it stands in its tree.
        shape: of the stored array; of the key data where the leaf is a typed key.
        dtype: name of the dtype.
    """

    path: tuple[Step, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """Name of the member, as `jax.tree_util.keystr` writes the path."""
        return "".join(f".{key}" if kind == "field" else f"[{key!r}]" for kind, key in self.path)


class Segment(NamedTuple):
    """A finished file of draws: its size in bytes and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """What `state.npz` holds beside the state.

    Attributes:
        fingerprint: of the run, see `infer/resume.py`.
        segments: the files of draws that count, in order.
        draws: the arrays in each of them; empty until there is one.
        key_implementations: member of the state -> implementation, for each typed key.
    """

    fingerprint: dict[str, Any]
    segments: tuple[Segment, ...] = ()
    draws: tuple[Leaf, ...] = ()
    key_implementations: dict[str, str] = {}  # noqa: RUF012 (never changed)


def segment_path(directory: Path, number: int) -> Path:
    """File of segment `number`, counted from 1."""
    return directory / f"draws-{number:06d}.npz"


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key, or a batch of them."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def host_array(leaf: Any) -> np.ndarray:
    """Array of a leaf in host memory, rows contiguous; typed keys as their data."""
    return np.asarray(random.key_data(leaf) if is_key(leaf) else leaf, order="C")


def describe(tree: Any) -> list[Leaf]:
    """What the file of a tree holds; its leaves may be arrays or `jax.ShapeDtypeStruct`."""
    return [_describe_leaf(path, leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _describe_leaf(path: Sequence[Any], leaf: Any) -> Leaf:
    stored = jax.eval_shape(random.key_data, leaf) if is_key(leaf) else leaf
    described = Leaf(tuple(map(_step, path)), tuple(stored.shape), np.dtype(stored.dtype).name)
    if described.dtype not in NATIVE | EXTENDED:
        raise ValueError(f"{described.name} has dtype {described.dtype}, which cannot be saved.")
    return described


def _step(entry: Any) -> Step:
    if isinstance(entry, DictKey):
        return "key", _dictionary_key(entry.key)
    if isinstance(entry, GetAttrKey):
        return "field", entry.name
    return "index", entry.idx if isinstance(entry, SequenceKey) else entry.key


def _dictionary_key(key: Any) -> DictionaryKey:
    if isinstance(key, list | tuple):  # JSON makes lists of tuples
        return tuple(map(_dictionary_key, key))
    if type(key) not in (str, int):
        raise ValueError(f"a dictionary has the key {key!r}; text, integers and tuples of them can be saved.")
    return key


def save_segment(directory: Path, manifest: Manifest, draws: Any, state: Any) -> Manifest:
    """Save the segment that follows those of `manifest`.

    Args:
        directory: of the run.
        manifest: of the run before this segment.
        draws: {"samples": ..., "extra_fields": ...}, each leaf of shape (chains, draws, ...).
        state: of the kernel after this segment.

    Returns:
        The manifest with this segment, as it stands in the file of the state.

    Raises:
        ValueError: if the draws have other names, shapes or dtypes than those of the segments before.
    """
    described = tuple(describe(draws))
    if manifest.segments and described != manifest.draws:
        other = sorted({leaf.name for leaf in set(described) ^ set(manifest.draws)})
        raise ValueError(
            f"{directory / STATE}: the new draws have other names, shapes or dtypes than the saved ones, see "
            f"{', '.join(other[:5])}. Did the code of the model change?"
        )
    segment = _write(segment_path(directory, len(manifest.segments) + 1), _arrays(draws))
    manifest = manifest._replace(segments=(*manifest.segments, segment), draws=described)
    save_state(directory, manifest, state)
    return manifest


def save_state(directory: Path, manifest: Manifest, state: Any) -> None:
    """Make `state` the point from which the run continues, and the segments of `manifest` count."""
    keys = [(leaf.name, value) for leaf, value in zip(describe(state), jax.tree.leaves(state), strict=True)]
    names = {name: str(random.key_impl(value)) for name, value in keys if is_key(value)}
    text = json.dumps({"format": FORMAT, **manifest._replace(key_implementations=names)._asdict()})
    _write(directory / STATE, {MANIFEST: np.frombuffer(text.encode(), np.uint8), **_arrays(state)})


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for leaf, value in zip(describe(tree), jax.tree.leaves(tree), strict=True):
        array = host_array(value)
        arrays[leaf.name] = array.view(_stored_dtype(leaf.dtype))
    return arrays


def _stored_dtype(name: str) -> np.dtype:
    return np.dtype(f"u{EXTENDED[name].itemsize}") if name in EXTENDED else NATIVE[name]


def _write(path: Path, arrays: dict[str, np.ndarray]) -> Segment:
    partial = path.with_name(path.name + ".tmp")  # a fixed name: what a kill leaves is overwritten
    with open(partial, "w+b") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        segment = Segment(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    os.replace(partial, path)
    sync_folder(path.parent)
    return segment


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: without it, a power cut may undo a rename."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is understood becomes a ValueError that names it."""
    try:
        yield
    except Exception as error:  # a damaged zip raises nearly anything, from KeyError to RecursionError
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged or was not written by `resumable`: {reason}") from error


@contextmanager
def _open(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes."""
    if not path.is_file():
        raise ValueError(f"{path} is missing or no regular file; restore it, or start in an empty directory.")
    with open(path, "rb") as file, _naming(path):
        yield file, os.fstat(file.fileno()).st_size


def check_segments(directory: Path, manifest: Manifest) -> None:
    """See that each file of draws that counts is there and unchanged.

    Raises:
        ValueError: if one is not; it names the file.
    """
    for number, segment in enumerate(manifest.segments, 1):
        with _open(segment_path(directory, number)) as (file, size):
            _check_digest(file, size, segment)


def _check_digest(file: BinaryIO, size: int, segment: Segment) -> None:
    if size != segment.size:
        raise ValueError(f"it has {size} bytes, {STATE} says {segment.size}.")
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if digest != segment.sha256:
        raise ValueError(f"its SHA-256 is {digest}, {STATE} says {segment.sha256}.")


def read_manifest(directory: Path) -> Manifest:
    """What `state.npz` says of the run, checked for its form.

    Raises:
        ValueError: if the file is missing, damaged or foreign; it names the file.
    """
    with _open(directory / STATE) as (file, size), zipfile.ZipFile(file) as archive:
        members = _members(archive, size)
        if MANIFEST not in members:
            raise ValueError(f"it holds no member {MANIFEST!r}.")
        manifest = _parse_manifest(json.loads(_read_member(archive, members[MANIFEST]).tobytes()))
        _check_names(members, [MANIFEST, *manifest.fingerprint["leaves"]])
        return manifest


def _parse_manifest(content: Any) -> Manifest:
    """Build the manifest from JSON; whatever has another form raises, and the caller names the file."""
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']!r}, this version reads format {FORMAT}.")
    fingerprint = content["fingerprint"]
    counts = [fingerprint[name] for name in ("num_chains", "num_samples", "every", "thinning")]
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError(f"chains, samples, segment length and thinning are {counts}, not positive integers.")
    if type(fingerprint["kernel"]) is not str or type(fingerprint["num_warmup"]) is not int:
        raise ValueError("its kernel is no name or its warm-up no whole number.")
    num_chains, num_samples, every, thinning = counts
    segments = tuple(Segment(int(size), str(sha256)) for size, sha256 in content["segments"])
    draws = tuple(_parse_leaf(*leaf) for leaf in content["draws"])
    if len(segments) * every > num_samples or bool(segments) != bool(draws):
        raise ValueError(f"it counts {len(segments)} segments of {every} draws of {num_samples} in all.")
    for leaf in draws:
        if leaf.shape[:2] != (num_chains, every // thinning) or leaf.path[0] not in GROUPS:
            raise ValueError(f"{leaf.name} of shape {leaf.shape} is no field of (chains, draws, ...).")
    build_tree([leaf.path for leaf in draws], draws)  # paths that make no tree are refused here
    return Manifest(fingerprint, segments, draws, dict(content["key_implementations"]))


def _parse_leaf(path: Any, shape: Any, dtype: Any) -> Leaf:
    leaf = Leaf(tuple((str(kind), _dictionary_key(key)) for kind, key in path), tuple(shape), str(dtype))
    if leaf.dtype not in NATIVE | EXTENDED or not all(type(n) is int and n >= 0 for n in leaf.shape):
        raise ValueError(f"{leaf.name} is declared as {dtype!r} of shape {shape!r}.")
    return leaf


def read_state(directory: Path, manifest: Manifest, like: Any) -> Any:
    """The state in `state.npz`, on the device.

    Args:
        directory: of the run.
        manifest: as `read_manifest` gave it.
        like: the state's tree with `jax.ShapeDtypeStruct` leaves.

    Raises:
        ValueError: if the file does not hold exactly these leaves; it names the file.
    """
    leaves, structure = jax.tree.flatten(like)
    described = describe(like)
    arrays = state_arrays(directory, described)
    with _naming(directory / STATE):
        implementations = [manifest.key_implementations.get(leaf.name) for leaf in described]
        values = map(_on_device, arrays, leaves, implementations)
        return jax.tree.unflatten(structure, values)


def state_arrays(directory: Path, described: Sequence[Leaf]) -> list[np.ndarray]:
    """Arrays of the state as they are stored; see `read_state`."""
    with _open(directory / STATE) as (file, size), zipfile.ZipFile(file) as archive:
        members = _members(archive, size)
        _check_names(members, [MANIFEST, *(leaf.name for leaf in described)])
        return [_read_leaf(archive, members, leaf) for leaf in described]


def _on_device(array: np.ndarray, like: Any, implementation: str | None) -> jax.Array:
    if not is_key(like):
        return jnp.asarray(array)
    keys = random.wrap_key_data(jnp.asarray(array), impl=implementation)
    if keys.dtype != like.dtype:
        raise ValueError(f"a random key is of kind {keys.dtype}, not {like.dtype}.")
    return keys


def read_segment(directory: Path, number: int, manifest: Manifest, group: str) -> list[np.ndarray]:
    """Arrays of one group ("samples" or "extra_fields") of a segment, in the order of `manifest.draws`.

    Raises:
        ValueError: if the file is not the one that `manifest` counts; it names the file.
    """
    with _open(segment_path(directory, number)) as (file, size):
        _check_digest(file, size, manifest.segments[number - 1])
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, size)
            _check_names(members, [leaf.name for leaf in manifest.draws])
            return [_read_leaf(archive, members, leaf) for leaf in in_group(manifest, group)]


def in_group(manifest: Manifest, group: str) -> list[Leaf]:
    """The leaves of one group of draws."""
    return [leaf for leaf in manifest.draws if leaf.path[0] == ("key", group)]


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by name, none compressed and all together no larger than the file."""
    infos = archive.infolist()
    if any(i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size for i in infos):
        raise ValueError("it holds a compressed member.")
    if sum(i.file_size for i in infos) > size:
        raise ValueError("its members claim to be larger than the file.")
    members = {i.filename.removesuffix(".npy"): i for i in infos}
    if len(members) != len(infos):
        raise ValueError("it holds a member twice.")
    return members


def _check_names(members: dict[str, zipfile.ZipInfo], expected: Sequence[str]) -> None:
    missing, foreign = sorted(set(expected) - set(members)), sorted(set(members) - set(expected))
    if missing or foreign:
        raise ValueError(f"it lacks the members {missing[:5]} and holds {foreign[:5]} instead.")


def _read_leaf(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], leaf: Leaf) -> np.ndarray:
    array = _read_member(archive, members[leaf.name])
    if (array.shape, array.dtype) != (leaf.shape, _stored_dtype(leaf.dtype)):
        raise ValueError(f"{leaf.name} is {array.dtype}{array.shape}, expected {leaf.dtype}{leaf.shape}.")
    return array.view(EXTENDED.get(leaf.dtype, array.dtype))


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array whose header agrees with its size; reading to the end also compares its CRC."""
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{info.filename} is no array of format 1.0.")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if fortran or dtype not in NATIVE.values():
            raise ValueError(f"{info.filename} holds {dtype}, which no run saves.")
        data = member.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} declares {dtype}{shape} and holds {len(data)} bytes.")
    return np.frombuffer(data, dtype).reshape(shape)


def build_tree(paths: Sequence[tuple[Step, ...]], values: Sequence[Any]) -> Any:
    """Tree with its leaves at `paths`: dictionaries, lists (tuples too), NamedTuples by their fields."""
    if not paths:
        return {}
    if paths == [()]:
        return values[0]
    children: dict[Step, list[tuple[tuple[Step, ...], Any]]] = {}
    for path, value in zip(paths, values, strict=True):
        children.setdefault(path[0], []).append((path[1:], value))
    kinds = {kind for kind, _ in children}
    built = {key: build_tree([p for p, _ in c], [v for _, v in c]) for (_, key), c in children.items()}
    if kinds == {"key"}:
        return built
    if kinds == {"index"}:
        return [built[index] for index in sorted(built)]  # type: ignore[type-var]
    if kinds == {"field"}:
        return namedtuple("Saved", map(str, built))(*built.values())
    raise ValueError(f"a tree has steps of the kinds {sorted(kinds)} side by side.")
