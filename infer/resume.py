"""`resumable`: a long run of `MCMC` in segments on the disk, which a kill sets back by one segment at most.

    state_0 = warm-up(first key)
    draws_n, state_n = run(state_{n-1}),  n = 1 ... num_samples / every                                    (1)

After each step of (1) the draws, then the state, go to the disk (`infer/segments.py`). `state_n` holds the
random keys, so that (1) is the same chain wherever it is cut: each segment, of an uninterrupted run too,
starts from the state as it was read back from its file. What must not change between the processes that
continue a run is its fingerprint (`infer/fingerprint.py`).
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.infer import MCMC
from numpyro.util import is_prng_key

from . import segments
from .fingerprint import Fingerprint, differences, fingerprint
from .segments import Manifest


def resumable(mcmc: MCMC, directory: str | os.PathLike[str], every: int | None = None) -> "ResumableRun":
    """A run of `mcmc` that saves itself after each segment of `every` iterations and continues after a kill.

    The draws of all segments are those of one chain: interrupted and continued in a new process or not, they
    are the same bit for bit (same machine, same versions). Works for every kernel, `NUTS` and `Gibbs` too,
    and for every chain method.

    Continuing compares a fingerprint that the directory holds: kernel class, chain method, numbers of chains,
    warm-up and samples, thinning, `every`, extra fields, x64 flag, versions, first key, SHA-256 of each array
    in the model's arguments, path, shape and dtype of each array in the state. **The model's code and the
    kernel's options are not in it**: after changing them, start in another directory.

    Args:
        mcmc: as for an ordinary run, with the number of samples wanted in all. It is left as it was, except
            that it holds the last segment drawn.
        directory: where the files go, one directory a run, made if needed. One process at a time may run it;
            any number may read it.
        every: iterations in a segment, after thinning `every / thinning` draws of each chain; a divisor of
            `num_samples` and a multiple of `thinning`. A kill loses at most one segment (the warm-up is the
            first), and device memory holds one: choose it so that a segment takes minutes. None: the
            smallest that is at least a tenth of `num_samples`. With the progress bar off NumPyro compiles
            again in each segment, with it on it does not (one chain, sequential or vectorized chains).

    Returns:
        The run; nothing is drawn before its method `run` is called.

    Raises:
        TypeError: if `mcmc` is no `MCMC`.
        ValueError: if `every` does not divide `num_samples` or `thinning` does not divide `every`.

    Examples:
        >>> import tempfile
        >>> from emberwalk.infer import resumable
        >>> def model(y):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
        >>> folder = tempfile.TemporaryDirectory()
        >>> mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=40, progress_bar=False)
        >>> run = resumable(mcmc, folder.name, every=20)
        >>> run.run(random.key(0), jnp.ones(4))
        >>> run.run(random.key(0), jnp.ones(4))  # finished: returns at once, as it would in a new process
        >>> run.get_samples()["m"].shape
        (40,)
        >>> folder.cleanup()
    """
    if not isinstance(mcmc, MCMC):
        raise TypeError(f"mcmc must be a numpyro.infer.MCMC, got {type(mcmc).__name__}.")
    return ResumableRun(mcmc, Path(directory), _segment_length(mcmc.num_samples, mcmc.thinning, every))


def _segment_length(num_samples: int, thinning: int, every: int | None) -> int:
    if num_samples % thinning:
        raise ValueError(f"num_samples={num_samples} must be a multiple of thinning={thinning}.")
    if every is None:
        return next(
            num_samples // parts
            for parts in range(10, 0, -1)
            if num_samples % parts == 0 and num_samples // parts % thinning == 0
        )
    if type(every) is not int or every < 1 or num_samples % every or every % thinning:
        raise ValueError(
            f"every={every!r} must be a positive integer that divides num_samples={num_samples} and is a "
            f"multiple of thinning={thinning}; every=None finds one."
        )
    return every


class SavedDraws:
    """What a directory of `resumable` held when it was opened with `read_directory`.

    Attributes:
        directory: of the run.
        kernel_name: class of the kernel with its module, such as "numpyro.infer.hmc.NUTS".
        num_chains: number of chains.
        num_warmup: warm-up iterations of each chain.
        num_samples: iterations of each chain after the warm-up when the run is finished.
        num_saved: such iterations saved so far.
        thinning: iterations for each draw that is kept.
    """

    def __init__(self, directory: Path, manifest: Manifest):
        fingerprint = manifest.fingerprint
        self.directory, self._manifest = directory, manifest
        self.kernel_name: str = str(fingerprint["kernel"])
        self.num_chains: int = fingerprint["num_chains"]
        self.num_warmup: int = fingerprint["num_warmup"]
        self.num_samples: int = fingerprint["num_samples"]
        self.num_saved: int = fingerprint["every"] * len(manifest.segments)
        self.thinning: int = fingerprint["thinning"]

    def get_samples(self, group_by_chain: bool = False) -> Any:
        """Draws of all segments, as `MCMC.get_samples` gives them, in host memory (NumPy arrays).

        Args:
            group_by_chain: True for leading axes (chains, draws), False for one of all draws, chain by chain.

        Raises:
            ValueError: if no draws are saved yet, or a file is missing, damaged or foreign; it names it.
        """
        return self._read("samples", group_by_chain)

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Any]:
        """Extra fields of all segments, as `MCMC.get_extra_fields` gives them; see `get_samples`."""
        return self._read("extra_fields", group_by_chain)

    def _read(self, group: str, group_by_chain: bool) -> Any:
        manifest = self._manifest
        if not manifest.segments:
            raise ValueError(f"{self.directory / segments.STATE} counts no draws yet, only the warm-up.")
        numbers = range(1, len(manifest.segments) + 1)
        parts = [segments.read_segment(self.directory, number, manifest, group) for number in numbers]
        arrays = [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
        if not group_by_chain:
            arrays = [a.reshape((a.shape[0] * a.shape[1], *a.shape[2:])) for a in arrays]
        return segments.build_tree([leaf.path[1:] for leaf in segments.in_group(manifest, group)], arrays)


def read_directory(directory: str | os.PathLike[str]) -> SavedDraws:
    """Open the draws that a resumable run has saved, without its model, kernel or data; it may be running.

    Args:
        directory: as given to `resumable`.

    Returns:
        The draws saved by now; open the directory again to see later ones.

    Raises:
        ValueError: if there is no such run or its `state.npz` is damaged or foreign; it names the file.

    Examples:
        >>> import tempfile
        >>> from emberwalk.infer import read_directory, resumable
        >>> def model():
        ...     numpyro.sample("m", dist.Normal(0.0, 1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=20, progress_bar=False)
        ...     resumable(mcmc, folder, every=20).run(random.key(0))
        ...     read_directory(folder).get_samples(group_by_chain=True)["m"].shape
        (1, 20)
    """
    return SavedDraws(Path(directory), segments.read_manifest(Path(directory)))


class ResumableRun:
    """A run that `resumable` made; it is read like the `MCMC` it drives, but holds the draws of all segments.

    Attributes:
        mcmc: the `MCMC` that draws the segments; alone it holds the last of them only.
        directory: where the files are.
        every: iterations in a segment.
        num_chains: number of chains.
        num_warmup: warm-up iterations of each chain.
        num_samples: iterations of each chain after the warm-up when the run is finished.
        thinning: iterations for each draw that is kept.
        chain_method: as in `MCMC`.
    """

    def __init__(self, mcmc: MCMC, directory: Path, every: int):
        self.mcmc, self.directory, self.every = mcmc, directory, every
        self._begun: Any = None
        self.num_chains: int = mcmc.num_chains
        self.num_warmup: int = mcmc.num_warmup
        self.num_samples: int = mcmc.num_samples  # a copy: while a segment is drawn, mcmc's own is `every`
        self.thinning: int = mcmc.thinning
        self.chain_method: str | Callable[..., Any] = mcmc.chain_method
        self._last_state: Any = None
        self._args: tuple[Any, ...] = ()  # under the names by which ArviZ reads them from an MCMC
        self._kwargs: dict[str, Any] = {}

    @property
    def sampler(self) -> Any:
        """The kernel; where a finished directory left nothing to draw, a copy that has seen the model and data."""
        own, copied = (getattr(kernel, "_sample_fn", None) for kernel in (self.mcmc.sampler, self._begun))
        return self._begun if own is None and copied is not None else self.mcmc.sampler

    @property
    def last_state(self) -> Any:
        """State of the kernel after the last segment saved; None before `run` is called."""
        return self._last_state

    def get_samples(self, group_by_chain: bool = False) -> Any:
        """Draws of all segments saved by now; see `SavedDraws.get_samples`."""
        return read_directory(self.directory).get_samples(group_by_chain)

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Any]:
        """Extra fields of all segments saved by now; see `SavedDraws.get_extra_fields`."""
        return read_directory(self.directory).get_extra_fields(group_by_chain)

    def run(
        self,
        rng_key: Any,
        *args: Any,
        extra_fields: tuple[str, ...] | list[str] = (),
        init_params: Any = None,
        **kwargs: Any,
    ) -> None:
        """Run what the directory lacks: all of it, what a kill left undone, or nothing.

        Args:
            rng_key: first key, or one for each chain. Give the same to continue.
            *args: of the model.
            extra_fields: as in `MCMC.run`, nested ("adapt_state.step_size") and excluded ("~z.x") names too.
            init_params: as in `MCMC.run`.
            **kwargs: of the model.

        Raises:
            ValueError: if the directory holds another run or a damaged file; it names the file and what
                differs.
        """
        self._args, self._kwargs = args, kwargs
        like, self._begun = _state_structure(self.mcmc, rng_key, init_params, args, kwargs)
        data = {"args": args, "kwargs": kwargs, "init_params": init_params}
        now = fingerprint(self.mcmc, self.every, rng_key, extra_fields, data, like)
        options = {"extra_fields": extra_fields, "init_params": init_params, **kwargs}
        with _segments_of(self.mcmc, self.every):
            if (self.directory / segments.STATE).exists():
                manifest = self._load(now)
            else:
                manifest = self._warm_up(now, like, rng_key, args, options)
            self._last_state = segments.read_state(self.directory, manifest, like)
            while len(manifest.segments) * self.every < self.num_samples:
                manifest = self._draw_segment(manifest, args, options)
                self._last_state = segments.read_state(self.directory, manifest, like)
        self.mcmc.post_warmup_state = self._last_state

    def _load(self, now: Fingerprint) -> Manifest:
        manifest = segments.read_manifest(self.directory)
        if different := differences(manifest.fingerprint, now):
            raise ValueError(
                f"{self.directory / segments.STATE} was written by another run: {'; '.join(different)}. "
                "Call `run` with what it was started with, or start in another directory."
            )
        segments.check_segments(self.directory, manifest)
        if getattr(self.mcmc.sampler, "_sample_fn", None) is not None:
            # The kernel may be bound to the data of an earlier run; None makes NumPyro call its `init`.
            self.mcmc.sampler._sample_fn = None
        return manifest

    def _warm_up(self, now: Fingerprint, like: Any, rng_key: Any, args: Any, options: Any) -> Manifest:
        _make_directory(self.directory)
        self.mcmc.warmup(rng_key, *args, **options)
        state = self.mcmc.post_warmup_state
        if segments.describe(state) != segments.describe(like):
            raise ValueError(
                f"{type(self.sampler).__name__} cannot be resumed: after the warm-up its state has other "
                "leaves, shapes or dtypes than what its `init` returns under `jax.eval_shape`."
            )
        manifest = Manifest(now)
        segments.save_state(self.directory, manifest, state)
        return manifest

    def _draw_segment(self, manifest: Manifest, args: Any, options: Any) -> Manifest:
        self.mcmc.post_warmup_state = self._last_state
        self.mcmc.run(self._last_state.rng_key, *args, **options)
        self.mcmc.transfer_states_to_host()  # the next segment needs the device's memory
        draws = {
            "samples": self.mcmc.get_samples(group_by_chain=True),
            "extra_fields": self.mcmc.get_extra_fields(group_by_chain=True),
        }
        return segments.save_segment(self.directory, manifest, draws, self.mcmc.last_state)


@contextmanager
def _segments_of(mcmc: MCMC, every: int) -> Iterator[None]:
    """Let `mcmc` draw `every` samples a run; the warm-up too, whose buffer has the size of a run's."""
    num_samples, mcmc.num_samples = mcmc.num_samples, every
    try:
        yield
    finally:
        mcmc.num_samples = num_samples


def _make_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; `resumable` needs a directory.")
    directory.mkdir(parents=True, exist_ok=True)
    segments.sync_folder(directory.parent)
    stray = min(directory.glob("draws-*.npz"), default=None)
    if stray is not None:  # draws come after the state: these belong to a run whose state was lost
        raise ValueError(f"{stray} is there without {segments.STATE}; restore that, or empty the directory.")


def _state_structure(
    mcmc: MCMC, rng_key: Any, init_params: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """Tree, shapes and dtypes of the kernel's state, and a copy of the kernel that has begun; nothing is computed."""
    kernel = copy.deepcopy(mcmc.sampler)

    def start(key: Any, params: Any) -> Any:
        return kernel.init(key, mcmc.num_warmup, params, model_args=args, model_kwargs=kwargs)

    def start_all(key: Any, params: Any) -> Any:
        if mcmc.num_chains == 1:
            return start(key, params)
        keys = random.split(key, mcmc.num_chains) if is_prng_key(key) else key
        return start(keys, params) if mcmc.chain_method == "vectorized" else jax.vmap(start)(keys, params)

    params = jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), init_params)
    like = jax.eval_shape(start_all, rng_key, params)
    if not hasattr(like, "rng_key"):
        raise ValueError(f"{type(kernel).__name__} cannot be resumed: its state has no field rng_key.")
    return like, kernel
