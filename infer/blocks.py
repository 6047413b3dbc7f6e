"""Who speaks in a run: its kernel or, where that is silent, each block of a hand-made `Gibbs`.

NumPyro's `Gibbs` knows nothing of the methods `warnings`, `groups` and `dims` of our kernels
(`diagnostics`), and keeps the states of its blocks inside its own. `BlockView` shows a block as a run
of its own, so that a kernel answers alike alone and as a block.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpyro.infer.gibbs import Gibbs

__all__ = ["BlockView", "all_blocks", "ask", "check_begun", "first_site", "named_axes"]

type Run = Any  # MCMC, ResumableRun, the draws of a directory, or BlockView
type Dims = dict[str, list[str]]
type Coords = dict[str, Any]


class BlockView(NamedTuple):
    """One block of a hand-made `Gibbs`, seen as a run of its own.

    Attributes:
        sampler: kernel of the block.
        last_state: state of the block, `run.last_state.block_states[i]`.
        sites: the sites it owns.
        path: begin of the names of its extra fields in the whole run, "block_states.<i>.".
        run: the whole run.
    """

    sampler: Any
    last_state: Any
    sites: tuple[str, ...]
    path: str
    run: Run

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Any]:
        """Draws of the block's own sites, as `MCMC.get_samples` gives them."""
        samples = self.run.get_samples(group_by_chain=group_by_chain)
        return {site: samples[site] for site in self.sites if site in samples}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Any]:
        """The fields collected from the block's state, under the names they have there."""
        fields = self.run.get_extra_fields(group_by_chain=group_by_chain)
        return {k.removeprefix(self.path): v for k, v in fields.items() if k.startswith(self.path)}


def _blocks(run: Run) -> Iterator[BlockView]:
    kernel, state = getattr(run, "sampler", None), getattr(run, "last_state", None)
    if not isinstance(kernel, Gibbs) or state is None:
        return
    for i, ((block, spec), own) in enumerate(zip(kernel.blocks, state.block_states, strict=True)):
        sites = spec if isinstance(spec, tuple) else tuple(getattr(own, block.sample_field))
        yield BlockView(block, own, sites, f"block_states.{i}.", run)


def all_blocks(run: Run, path: str = "") -> Iterator[tuple[str, BlockView]]:
    """Every block with its path from the top, those of a `Gibbs` inside a `Gibbs` too."""
    for view in _blocks(run):
        yield path + view.path, view
        yield from all_blocks(view, path + view.path)


def ask(run: Run, word: str, path: str = "", owner: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, first site, answer) of the kernel or, where it is silent, of each block of a `Gibbs`."""
    kernel = getattr(run, "sampler", None)
    if hasattr(kernel, word):
        yield path, owner, getattr(kernel, word)(run)
        return
    for view in _blocks(run):
        yield from ask(view, word, path + view.path, first_site(view))


def first_site(view: BlockView) -> str:
    """The word by which a tree tells blocks apart; a block without sites has its path in its place."""
    return view.sites[0] if view.sites else view.path.rstrip(".")


def named_axes(run: Run) -> tuple[Coords, Dims, dict[str, Dims]]:
    """Coordinates, dims of sites, and dims of stats by the path of the block that named them.

    Two blocks may mean different axes by one word (their own `site`): the second is then
    `<first site>.<word>`, since one tree has one coordinate of a name.
    """
    coords: Coords = {}
    dims: Dims = {}
    stats: dict[str, Dims] = {}
    for path, owner, (own_coords, own_dims) in ask(run, "dims"):
        clash = {d for d, v in own_coords.items() if d in coords and not np.array_equal(coords[d], v)}
        new = {d: f"{owner}.{d}" for d in clash}
        coords |= {new.get(d, d): np.asarray(v) for d, v in own_coords.items()}
        stats[path] = {name: [new.get(d, d) for d in axes] for name, axes in own_dims.items()}
        dims |= stats[path]
    return coords, dims, stats


def check_begun(run: Run) -> None:
    """Refuses a run without a state: no kernel can be asked about it."""
    if getattr(run, "last_state", run) is None:
        instead = ", or give its directory" if hasattr(run, "directory") else ""
        raise ValueError(f"This {type(run).__name__} has not run: call its run method first{instead}.")
