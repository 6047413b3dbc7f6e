"""The jump process of a model: which site it is, what of it is data, and its likelihood by counts.

A model is run under handlers, never rewritten:

    Hidden     the site leaves the density, and its law is kept: what the rates are at given latents
    ByCounts   right labels are counted, one number for all paths: the same density, at a cost without paths in it
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int
from numpyro.infer.gibbs import subsample_plate_sizes
from numpyro.primitives import Messenger

from ...kernels.jump import LagGrid, PathStatistics, path_statistics
from ...kernels.jump.paths import is_traced
from ...models import MarkovJumpCounts, MarkovJumpProcess

type Model = Callable[..., Any]
type Law = MarkovJumpProcess | MarkovJumpCounts
type Labels = ArrayLike | Callable[[Array], Array] | None

_WRAPPERS = (dist.ExpandedDistribution, dist.MaskedDistribution, dist.Independent)
_MEANS_STEPS = 25


class Paths(NamedTuple):
    """All paths of a site in a row, as the kernels take them.

    Attributes:
        times: `[K, L]`.
        labels: states, right or not, `[K, L]`; 0 where none was seen.
        grid: the lags of all, with an index `[K, L - 1]`.
        seen: `[K, L]`.
    """

    times: Float[ArrayLike, "K L"]
    labels: Int[ArrayLike, "K L"]
    grid: LagGrid
    seen: Bool[ArrayLike, "K L"]

    def statistics(self, num_states: int, exact: bool) -> PathStatistics:
        """Counts of the labels, on the host where they are known there."""
        return path_statistics(
            self.times, self.labels, self.seen, num_states, grid=self.grid, exact=exact
        )


def law_of(fn: dist.Distribution) -> Law | None:
    """The jump process under masks, expansions and events; None where there is none."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn if isinstance(fn, MarkovJumpProcess | MarkovJumpCounts) else None


def is_exact(law: Law) -> bool:
    """Whether what was seen are the states themselves."""
    return isinstance(law, MarkovJumpCounts) or (law.label_noise is None and law.emission is None)


def find_site(trace: dict[str, Any], site: str | None, who: str) -> str:
    """Name of the observed jump process, the one asked for or the only one; refuses what a kernel cannot sample.

    Args:
        trace: of the model.
        site: asked for.
        who: asks, for the words of the errors.

    Raises:
        ValueError: no jump process, several, or one that is not observed; discrete latent sites; subsampled plates.
    """
    laws = {
        name: message
        for name, message in trace.items()
        if message["type"] == "sample" and law_of(message["fn"]) is not None
    }
    if not laws:
        raise ValueError(
            f"{who}: the model has no MarkovJumpProcess and no MarkovJumpCounts among its sites "
            f"{[name for name, message in trace.items() if message['type'] == 'sample']}. Use NUTS."
        )
    if site is None and len(laws) > 1:
        raise ValueError(f"{who}: the model has the jump processes {sorted(laws)}; pass site= to name one.")
    name = next(iter(laws)) if site is None else site
    if name not in laws:
        raise ValueError(f"{who}: site={site!r} is no jump process of the model, which has {sorted(laws)}.")
    if not laws[name]["is_observed"]:
        raise ValueError(f"{who}: the jump process {name!r} is not observed; give its sample statement obs=.")
    _check_latents(trace, who)
    return name


def _check_latents(trace: dict[str, Any], who: str) -> None:
    for name, message in trace.items():
        if message["type"] == "sample" and not message["is_observed"] and message["fn"].support.is_discrete:
            raise ValueError(
                f"{who}: the latent site {name!r} is discrete; sum it out, or make it a block of Gibbs of its own."
            )
    cut = list(subsample_plate_sizes(trace))
    if cut:
        raise ValueError(
            f"{who}: the plates {cut} are subsampled, and a proposal needs the density of all paths. Use SVI, or "
            "counts (MarkovJumpCounts) for many paths."
        )


class Hidden(Messenger):
    """Takes the site out of the density and keeps what its law and value are.

    Attributes:
        law: of the site, once the model has run.
        value: that was observed.
    """

    law: Law
    value: Any

    def __init__(self, fn: Model, site: str):
        super().__init__(fn)
        self.site = site

    def process_message(self, msg: dict[str, Any]) -> None:
        """See `Messenger`."""
        if msg["type"] == "sample" and msg["name"] == self.site:
            law = law_of(msg["fn"])
            assert law is not None
            self.law, self.value, msg["stop"] = law, msg["value"], True


class ByCounts(Messenger):
    """The model with its right labels counted; a class, so that kernels which hold it pickle."""

    def __init__(self, fn: Model, site: str):
        super().__init__(fn)
        self.site = site

    def process_message(self, msg: dict[str, Any]) -> None:
        """See `Messenger`: the value stays what it is, since the model may use it."""
        if msg["type"] == "sample" and msg["name"] == self.site:
            weighted = np.ndim(msg["scale"]) > 0  # each path by itself, which counts of all do not know
            counted = None if weighted else _counted(msg["fn"], msg["value"])
            msg["fn"] = msg["fn"] if counted is None else counted


class _Counted(dist.Distribution):
    """All paths of a site as one event, whose density is that of their counts."""

    pytree_data_fields = ("counts",)

    def __init__(self, counts: MarkovJumpCounts, shape: tuple[int, ...]):
        self.counts = counts
        super().__init__((), shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Of what was counted: the value is that."""
        return self.counts.log_prob(self.counts.statistics.counts)


def _counted(fn: dist.Distribution, value: Any) -> _Counted | None:
    """The law of counts that is the same density, where there is one."""
    law = law_of(fn)
    one = (
        isinstance(law, MarkovJumpProcess)
        and is_exact(law)
        and np.ndim(law.rates) == 2
        and np.ndim(law.initial) < 2
        and np.shape(value) == fn.shape()
        and not _has_mask(fn)
    )
    if not one:
        return None
    assert isinstance(law, MarkovJumpProcess)
    statistics = paths_of(law, value).statistics(law.num_states, exact=True)
    initial = "stationary" if law.is_stationary else law.initial
    return _Counted(MarkovJumpCounts(law.rates, statistics, initial=initial), np.shape(value))


def _has_mask(fn: dist.Distribution) -> bool:
    while isinstance(fn, _WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            return True
        fn = fn.base_dist
    return False


def paths_of(law: MarkovJumpProcess, labels: ArrayLike) -> Paths:
    """The paths of a site in a row; numpy where that is all there is."""
    shape, length = np.shape(labels)[:-1], np.shape(labels)[-1]
    seen = np.ones(length, bool) if law.seen is None else law.seen
    index = law.grid.index
    return Paths(
        _in_a_row(law.times, (*shape, length)),
        _in_a_row(labels, (*shape, length)),
        law.grid._replace(index=_in_a_row(index, (*shape, length - 1))),
        _in_a_row(seen, (*shape, length)),
    )


def _in_a_row(x: Any, shape: tuple[int, ...]) -> Any:
    xp: Any = jnp if is_traced(x) else np
    return xp.broadcast_to(x, shape).reshape(-1, shape[-1])


def hard_labels(law: MarkovJumpProcess, value: Any, labels: Labels, who: str) -> Any:
    """A state for each value: itself, or for measurements a guess from which the rates can be begun.

    Args:
        law: of the site.
        value: that was observed.
        labels: the guess, or a function of the value that makes it; without it the values are grouped around n means,
            the lowest state 0: for scalar Normal emissions with rising means.
        who: asks, for the words of the errors.

    Raises:
        ValueError: an emission that is no scalar Normal, without labels; labels of another shape.
    """
    if law.emission is None:
        return value
    if labels is None:
        emission = law.emission
        while isinstance(emission, _WRAPPERS):
            emission = emission.base_dist
        if not isinstance(emission, dist.Normal) or law.emission.event_shape:
            raise ValueError(
                f"{who}: the emission is {type(emission).__name__} with event shape {law.emission.event_shape}, and "
                "states can be guessed for a scalar Normal alone. Pass labels=, a state for each measurement, or a "
                "function that makes them."
            )
        return grouped(jnp.asarray(value), law.num_states, law.seen)
    found = labels(value) if callable(labels) else labels
    shape = np.shape(value)[: np.ndim(value) - law.emission.event_dim]
    if np.shape(found) != shape:
        raise ValueError(f"{who}: labels must have the shape {shape} of the measurements, got {np.shape(found)}.")
    return found


def grouped(value: Array, num_states: int, seen: Any = None) -> Int[Array, "..."]:
    """Scalars by the nearest of n means (Lloyd 1982), begun at the quantiles; the lowest mean is state 0.

    Examples:
        >>> from emberwalk.infer.jump.sites import grouped
        >>> grouped(jnp.array([0.1, 3.2, 2.9, -0.1, 1.1, 0.9]), 3).tolist()
        [0, 2, 2, 0, 1, 1]
    """
    seen = jnp.broadcast_to(jnp.ones((), bool) if seen is None else jnp.asarray(seen), value.shape)
    # else a compiler that sorts constants by itself takes seconds for thousands
    known = lax.optimization_barrier(jnp.where(seen, value, jnp.nan))
    start = jnp.nanquantile(known, (jnp.arange(num_states) + 0.5) / num_states)

    def move(means: Array, _: None) -> tuple[Array, None]:
        near = jnp.argmin(jnp.abs(value[..., None] - means), -1)
        mine = (near[..., None] == jnp.arange(num_states)) & seen[..., None]
        axes = tuple(range(value.ndim))
        number, total = mine.sum(axes), jnp.where(mine, value[..., None], 0).sum(axes)
        return jnp.where(number > 0, total / jnp.maximum(number, 1), means), None

    means = jnp.sort(lax.scan(move, start, length=_MEANS_STEPS)[0])
    return jnp.where(seen, jnp.argmin(jnp.abs(value[..., None] - means), -1), 0)
