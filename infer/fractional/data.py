"""The data that an encoder reads: one observed site with an axis for ts."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from .model_runs import Reading
from .path_guide import mask_of


def encoder_data(
    reading: Reading, observed: dict[str, dict[str, Any]], encoder_site: str | None
) -> tuple[Array, Bool[Array, "..."]]:
    """Data `[*B, M, ...]` without those at ts[0], and which of them count.

    Raises:
        ValueError: for no site, or several, of that shape; the way out is `encoder_site`.
    """
    batch, num = len(reading.equation.state.batch), len(reading.equation.state.grid.ts) - 1
    fitting = [name for name, site in observed.items() if _length(site, batch) in (num, num + 1)]
    if encoder_site is not None:
        if encoder_site not in fitting:
            raise ValueError(
                f"encoder_site={encoder_site!r} is no observed site with {num} or {num + 1} times behind the plate; "
                f"those are {fitting}."
            )
        fitting = [encoder_site]
    if len(fitting) != 1:
        raise ValueError(
            f"The encoder reads one observed site with {num} or {num + 1} times behind the plate, and there are "
            f"{fitting}. Name it: encoder_site=..."
        )
    site = observed[fitting[0]]
    skip = (slice(None),) * batch + (slice(_length(site, batch) - num, None),)
    y, mask = jnp.asarray(site["value"]), mask_of(site)
    return y[skip], mask[skip]


def _length(site: dict[str, Any], batch: int) -> int:
    shape = jnp.shape(site["value"])
    return shape[batch] if len(shape) > batch else -1
