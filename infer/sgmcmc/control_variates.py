"""Control variates of `SGMCMC`, and the centre that they find for themselves in warm-up.

With no centre given the chain descends without noise for three quarters of the warm-up. Where it is becomes
the centre, with its gradient on all rows, at draw 0 and anew at W/8, W/4, W/2 and 3W/4: by then it lies within
a small part of a posterior sd of the mode. Baker and others (2019) optimise first, in a program of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from .target import Anchor, Target, Values

# Draws of warm-up below which the centre is renewed at fewer than five different ones.
LEAST_WARMUP = 8


@dataclass(frozen=True, eq=False)
class ControlVariates:
    """What `control_variates` was asked for.

    Attributes:
        center: constrained values of all sites, or None.
    """

    center: Mapping[str, Any] | None


def control_variates(center: Mapping[str, Any] | None = None) -> ControlVariates:
    """Gradients whose minibatch noise is gone at a centre (`kernels/sgmcmc/gradients.py`, equation 1).

    Use them on tall data: where the posterior is much narrower than the step from row to row, the noise of plain
    minibatches is most of what is sampled.

    Args:
        center: constrained value of every latent site, near the mode. None: found in warm-up, which then
            descends (at least some hundred steps). Within a posterior sd the widths are right to 2 %; 3 sd
            off, `diagnose` says so.

    Examples:
        >>> from emberwalk.infer import control_variates
        >>> control_variates(center={"beta": jnp.zeros(3)}).center["beta"].shape
        (3,)
    """
    return ControlVariates(center)


def renewal_draws(num_warmup: int) -> tuple[int, ...]:
    """Draws of warm-up at whose begin the centre is set."""
    return tuple(sorted({num_warmup * eighths // 8 for eighths in (0, 1, 2, 4, 6)}))


def renewed(anchor: Anchor, target: Target, z: Values, i: Int[Array, ""], num_warmup: int) -> Anchor:
    """The anchor, put at z if that is due at draw i; the full gradient is taken only then."""
    due: Bool[Array, ""] = jnp.any(i == jnp.asarray(renewal_draws(num_warmup))) & (i < num_warmup)
    return lax.cond(due, lambda: target.anchor_at(z), lambda: anchor)
