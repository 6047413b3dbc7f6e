"""The rows of a bootstrap: N of the N rows, drawn with replacement, once for each member of an ensemble.

    row i of member m  =  u_m(i),    u_m(0), ..., u_m(N - 1) independent and uniform on 0, ..., N - 1       (1)

u_m is a hash of i under the key of the member, computed for the rows of a batch alone: no list of N numbers is
kept. A batch asks for places i as it always does, so that an epoch passes a row as often as it was drawn, and about
one row in e is never seen by a member.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax import random
from jaxtyping import Array, Int, Key

from .minibatch import Indices, Rows
from .target import Target

# Folded into a member's key of order: apart from the numbers of plates and epochs, which count from 0.
_STREAM = 0x626F6F74


@dataclass(frozen=True)
class ResampledRows:
    """Equation (1) as `Rows` (`minibatch.py`).

    Attributes:
        rows: of all data, on the device or the host.
    """

    rows: Rows

    @property
    def sizes(self):
        """See `Rows`."""
        return self.rows.sizes

    @property
    def at_once(self):
        """See `Rows`."""
        return self.rows.at_once

    def indices(self, key, order_key, step) -> Indices:
        """See `Rows`; `order_key` is that of the member."""
        key_rows = random.fold_in(order_key, _STREAM)
        places = self.rows.indices(key, order_key, step)
        return {
            name: stand_ins(random.fold_in(key_rows, number), places[name], num_rows)
            for number, (name, (num_rows, _)) in enumerate(self.sizes.items())
        }

    def fetch(self, indices: Indices) -> Any:
        """See `Rows`."""
        return self.rows.fetch(indices)

    def bind(self, batch: Any, model_kwargs: dict[str, Any]) -> tuple[Indices, dict[str, Any]]:
        """See `Rows`."""
        return self.rows.bind(batch, model_kwargs)


def resampled(target: Target) -> Target:
    """The target on rows of a bootstrap.

    Raises:
        ValueError: where there are no rows to draw.
    """
    if not target.rows.sizes:
        raise ValueError(
            "bootstrap=True draws the rows of subsampled plates anew, and this model has none: give its plate of the "
            "rows a subsample_size below their number, or leave the bootstrap out."
        )
    return target._replace(rows=ResampledRows(target.rows))


def stand_ins(key: Key[Array, ""], places: Int[Array, " rows"], num_rows: int) -> Int[Array, " rows"]:
    """u(i) of equation (1) for each place i, the same row whenever it is asked for."""

    def row(place: Int[Array, ""]) -> Int[Array, ""]:
        return random.randint(random.fold_in(key, place), (), 0, num_rows)

    return jax.vmap(row)(places)
