"""How draws become an `xarray.DataTree`: `arviz_base.from_numpyro` and what it lacks.

    groups = ArviZ's (posterior, observed_data, ...)    axes named by plates, then kernel, then user
           + sample_stats                               every leaf of every extra field, blocks too
           + log_likelihood, the kernel's own groups

ArviZ drops a field that is a dictionary in silence, names no axes of stats, knows no blocks of
`Gibbs`, asks every kernel for a model, and refuses names with a slash; hence this module.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np
import numpyro
from numpyro.infer import SVI
from numpyro.primitives import Messenger

from .blocks import (
    BlockView,
    Coords,
    Dims,
    Run,
    all_blocks,
    ask,
    check_begun,
    first_site,
    named_axes,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["build_tree", "kind_of"]


def build_tree(x: Any, **kwargs: Any) -> "xr.DataTree":
    """`to_datatree` without its warnings: for plots, which would repeat them at every figure."""
    kind = kind_of(x)
    if kind == "own":
        return x.to_datatree(**kwargs)
    if kind == "svi":
        return _svi_tree(x, **kwargs)
    if kind == "directory":
        from .resume import read_directory

        x = read_directory(x)
    return _run_tree(x, **kwargs)


def kind_of(x: Any) -> Literal["svi", "own", "directory", "run"]:
    """What `x` is to us; TypeError with a list of what would do if it is nothing."""
    if isinstance(x, SVI):
        return "svi"
    if callable(getattr(x, "to_datatree", None)):
        return "own"
    if isinstance(x, str | os.PathLike):
        return "directory"
    if hasattr(x, "get_samples") and hasattr(x, "get_extra_fields"):
        return "run"
    raise TypeError(
        "emberwalk reads an MCMC, a ResumableRun or its directory, an SVI (with svi_result=), or an object "
        f"with a to_datatree method; got {type(x).__name__}."
    )


class _Source:
    """A posterior for `arviz_base.from_numpyro`: it has the members of a `NumPyroInferenceAdapter`.

    It is no subclass, because arviz_base is imported only when a tree is asked for. `draws` and
    `original` bear the model's own names, `samples` and `model` those of the tree.
    """

    _max_tree_depth = None

    def __init__(self, draws: Any, field: str, sample_dims: list[str], model: Any, args: tuple, kwargs: dict):
        self.draws, self.original = draws, model
        self.model = None if model is None else _PlainNames(model)
        self._args, self._kwargs, self.sample_dims = args, kwargs, sample_dims
        self.samples = _leaves("" if isinstance(draws, dict) else field, draws)
        self.sample_shape = next((v.shape[: len(sample_dims)] for v in self.samples.values()), ())

    def get_samples(self, seed: int | None = None, **kwargs: Any) -> dict[str, np.ndarray]:
        return self.samples

    def get_sample_stats(self, **kwargs: Any) -> dict[str, np.ndarray]:
        return {}  # ours are added afterwards: ArviZ names no axes of stats and drops pytrees

    def plates(self) -> Dims:
        """Axes named by the model's plates, where they fit: a deterministic site may be smaller."""
        from arviz_base.io_numpyro import infer_dims

        if self.model is None:
            return {}
        if not hasattr(numpyro.infer, "initialization"):
            # ArviZ loads NumPyro lazily. Imported before it, it makes Python run `numpyro.infer` a second
            # time, and the second lacks the submodule that ArviZ then looks for.
            numpyro.infer.initialization = import_module("numpyro.infer.initialization")
        room = {name: v.ndim - len(self.sample_dims) for name, v in self.samples.items()}
        dims = infer_dims(self.model, self._args, self._kwargs)
        return {name: axes for name, axes in dims.items() if len(axes) <= room.get(name, len(axes))}

    def log_likelihood(self) -> dict[str, np.ndarray]:
        """Of each observed site at each draw; under the model's own names, which `scan` insists on."""
        if self.original is None:
            raise ValueError(
                "log_likelihood=True needs the model and its arguments, and there are none here: "
                "pass the MCMC or ResumableRun that has run, or leave it out."
            )
        batch_ndims = len(self.sample_dims)
        try:
            values = numpyro.infer.log_likelihood(
                self.original, self.draws, *self._args, batch_ndims=batch_ndims, **self._kwargs
            )
        except ValueError as error:
            if "Missing random key to generate subsample indices" not in str(error):
                raise
            raise ValueError(
                "log_likelihood=True needs the model on all rows, and a plate of it is subsampled: call "
                "numpyro.infer.log_likelihood with the argument that switches this off, such as b=None."
            ) from error
        return _leaves("", values)


def _run_source(run: Run) -> _Source:
    check_begun(run)
    kernel = getattr(run, "sampler", None)
    return _Source(
        run.get_samples(group_by_chain=True),
        getattr(kernel, "sample_field", "z"),
        ["chain", "draw"],
        getattr(kernel, "model", None),
        getattr(run, "_args", ()),
        getattr(run, "_kwargs", {}),
    )


def _run_tree(
    run: Run, *, coords: Coords | None = None, dims: Dims | None = None, **kwargs: Any
) -> "xr.DataTree":
    source = _run_source(run)
    own_coords, own_dims, stats_dims = named_axes(run)
    all_coords = own_coords | (coords or {})
    groups = _convert(source, all_coords, own_dims, dims or {}, **kwargs)
    stats, named = _sample_stats(run, stats_dims)
    groups["sample_stats"] = _dataset(stats, named, all_coords, index_origin=kwargs.get("index_origin"))
    return _as_tree(groups | _groups(run, coords or {}))


def _svi_tree(
    svi: SVI,
    *,
    svi_result: Any = None,
    model_args: tuple = (),
    model_kwargs: dict | None = None,
    num_samples: int = 1000,
    coords: Coords | None = None,
    dims: Dims | None = None,
    **kwargs: Any,
) -> "xr.DataTree":
    from arviz_base import SVIAdapter

    if svi_result is None:
        raise TypeError(
            "An SVI needs svi_result=, what its run method returned, and the model's model_args=."
        )
    adapter = SVIAdapter(
        svi, svi_result=svi_result, model_args=model_args, model_kwargs=model_kwargs, num_samples=num_samples
    )
    model = getattr(svi.guide, "model", svi.model)
    source = _Source(adapter.get_samples(), "z", ["sample"], model, tuple(model_args), model_kwargs or {})
    return _as_tree(_convert(source, coords or {}, {}, dims or {}, **kwargs))


def _groups(run: Run, coords: Coords) -> "dict[str, xr.Dataset]":
    """The kernel's groups, with the user's coordinates; equal names of two blocks as for stats."""
    groups: dict[str, xr.Dataset] = {}
    for _, owner, answer in ask(run, "groups"):
        for name, dataset in answer.items():
            fit = {d: v for d, v in coords.items() if dataset.sizes.get(d) == len(v)}
            groups[f"{owner}.{name}" if name in groups else name] = dataset.assign_coords(fit)
    return groups


def _convert(
    source: _Source,
    coords: Coords,
    own_dims: Dims,
    dims: Dims,
    *,
    log_likelihood: bool = False,
    extra_event_dims: Dims | None = None,
    **kwargs: Any,
) -> "dict[str, xr.Dataset]":
    """The groups that ArviZ makes; axes are named by the plates, then the kernel, then the user."""
    import arviz_base

    named = source.plates()
    for name, axes in (extra_event_dims or {}).items():
        named[_plain(name)] = [*named.get(_plain(name), []), *axes]
    named |= {_plain(name): list(axes) for name, axes in (own_dims | dims).items()}
    kwargs = {
        k: {_plain(n): u for n, u in v.items()} if isinstance(v, dict) else v for k, v in kwargs.items()
    }
    with _chains_may_outnumber_draws():
        tree = arviz_base.from_numpyro(source, coords=coords, dims=named, **kwargs)
    groups = {name: node.to_dataset() for name, node in tree.children.items()}
    if log_likelihood:
        values, origin = source.log_likelihood(), kwargs.get("index_origin")
        options = {"sample_dims": source.sample_dims, "index_origin": origin, "skip_event_dims": True}
        groups["log_likelihood"] = _dataset(values, named, coords, **options)
    return groups


def _dataset(values: dict[str, np.ndarray], dims: Dims, coords: Coords, **kwargs: Any) -> "xr.Dataset":
    import arviz_base

    options = {"sample_dims": ["chain", "draw"], "inference_library": numpyro, "dims": dims, "coords": coords}
    with _chains_may_outnumber_draws():
        return arviz_base.dict_to_dataset(values, **{**options, **kwargs})


def _as_tree(groups: "dict[str, xr.Dataset]") -> "xr.DataTree":
    import xarray as xr

    return xr.DataTree.from_dict({k: v for k, v in groups.items() if v.data_vars or k == "posterior"})


@contextmanager
def _chains_may_outnumber_draws() -> Iterator[None]:
    """ArviZ takes more chains than draws for swapped axes; ours are never swapped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found chain dimension to be longer", category=UserWarning)
        yield


class _Stat(NamedTuple):
    path: str  # of the block, "" for the kernel itself
    field: str  # of the block's state
    name: str  # ArviZ's
    values: np.ndarray


def _sample_stats(run: Run, dims: dict[str, Dims]) -> tuple[dict[str, np.ndarray], Dims]:
    """Every leaf of every extra field under its name in the tree, and the names of its axes."""
    views = dict(all_blocks(run))
    stats = list(_stats(run, views))
    times = Counter(stat.name for stat in stats)
    values, named = {}, {}
    for path, field, name, value in stats:
        own = dims.get(path, {})
        owner = first_site(views[path]) if path in views else path.rstrip(".")
        full = f"{owner}.{name}" if path and times[name] > 1 else name
        values[full], named[full] = value, own.get(name, own.get(field, []))
    return values, named


def _stats(run: Run, views: dict[str, BlockView]) -> Iterator[_Stat]:
    for field, value in run.get_extra_fields(group_by_chain=True).items():
        for leaf, values in _leaves(field, value).items():
            path, name = re.fullmatch(r"((?:block_states\.\d+\.)*)(.+)", leaf).groups()  # type: ignore[union-attr]
            kernel = views[path].sampler if path in views else getattr(run, "sampler", None)
            for new, array in _as_arviz(name, values, kernel).items():
                yield _Stat(path, name, new, array)


def _as_arviz(name: str, values: np.ndarray, kernel: Any) -> dict[str, np.ndarray]:
    """A state field as `arviz_base.io_numpyro` renames it; a test compares the two."""
    match name:
        case "potential_energy":
            return {"lp": -values}
        case "accept_prob":
            return {"acceptance_rate": values}
        case "adapt_state.step_size":
            return {"step_size": values}
        case "num_steps":
            # ArviZ takes log2(0) where no leapfrog was made, and compares with a pair of depths
            depth = np.where(values > 0, np.log2(np.maximum(values, 1)).astype(int) + 1, 0)
            most = getattr(kernel, "_max_tree_depth", None)
            most = most[-1] if isinstance(most, tuple) else most  # (warm-up, sampling)
            reached = {} if most is None else {"reached_max_tree_depth": depth >= most}
            return {"n_steps": values, "tree_depth": depth, **reached}
        case _:
            return {name: values}


class _PlainNames(Messenger):
    """Gives sites and plates names that a DataTree takes: `net.w` for `net/w`."""

    def process_message(self, msg: dict) -> None:
        if msg.get("name"):
            msg["name"] = _plain(msg["name"])
        if msg.get("cond_indep_stack"):
            msg["cond_indep_stack"] = [f._replace(name=_plain(f.name)) for f in msg["cond_indep_stack"]]


def _plain(name: str) -> str:
    return name.replace("/", ".")


def _leaves(name: str, tree: Any) -> dict[str, np.ndarray]:
    """Every leaf as `name.key.key`, so that no part of a pytree is lost."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    keys = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths)
    names = (_plain(".".join(filter(None, (name, key)))) for key in keys)
    return {key: np.asarray(leaf) for key, (_, leaf) in zip(names, paths, strict=True)}
