"""Where the start of a path is most probable, for a law of x_0 that is not normal.

    max over b of   v'z - z'P z / 2 - |b|^2 / 2,   z = start(b)                                           (1)
    (I + L'P L + lambda diag(...)) db = L'(v - P z) - b,   L = dz / db                                    (2)

(P, v) is what all sites say of z_0, from the filter; it is the same wherever the start is linearised. Linearised at
b = 0 a log normal start would find data at 6 five sds out, where it is 148. (2) is Levenberg's and Marquardt's: a step
that does not gain is taken back, and made shorter.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ...kernels.fractional import Information
from ...models.fractional import FractionalSDE

_STEPS = 40  # each is of the size of the bank: a small part of one pass of the filter
_DAMPING, _LESS, _MORE = 0.1, 0.1, 5.0


def most_probable_start(equation: FractionalSDE, info: Information) -> Float[Array, "*B R"]:
    """Equation (1), from b = 0.

    Args:
        equation: of the path.
        info: of all sites, at time 0; the axes of plates first.
    """

    def pull(z: Float[Array, "*B n"]) -> Float[Array, "*B n"]:
        return info.v - jnp.einsum("...ij,...j->...i", info.P, z)

    def improved(_, state):
        b, damping = state
        z = equation.start(b)
        u = pull(z)
        L = equation.linear_start(b)[1]
        S = jnp.eye(b.shape[-1], dtype=b.dtype) + jnp.einsum("...ki,...kl,...lj->...ij", L, info.P, L)
        S = S + damping[..., None, None] * jnp.einsum("...ii->...i", S)[..., None] * jnp.eye(
            b.shape[-1], dtype=b.dtype
        )
        slope = jnp.einsum("...ki,...k->...i", L, u) - b
        db = jnp.linalg.solve(S, slope[..., None])[..., 0]
        dz = equation.start(b + db) - z
        # of (1), as a difference: the terms themselves may be a million times larger
        gain = jnp.sum(dz * (u + pull(z + dz)), -1) / 2 - jnp.sum(db * (b + db / 2), -1)
        better = gain > 0
        return (
            jnp.where(better[..., None], b + db, b),
            damping * jnp.where(better, _LESS, _MORE),
        )

    batch = equation.state.batch
    b = jnp.zeros((*batch, equation.num_start_noises), info.v.dtype)
    return lax.fori_loop(0, _STEPS, improved, (b, jnp.full(batch, _DAMPING, b.dtype)))[0]
