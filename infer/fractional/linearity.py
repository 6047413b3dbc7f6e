"""Whether an equation is linear wherever its path may go: then one linearisation serves, and it may be anywhere.

    r_i   how far noise and data take coordinate i from the path without noise                           (1)
    x_i = that path + c r_i u,   y = c u,   e = c u,   u ~ N(0, 1) anew for each entry and time          (2)
    |M - M'|_ij r_j / r_i  against  |M - I|_ij r_j / r_i,   |L - L'|_ij  against  |L|_ij                 (3)

(M, L) is the tangent on the path without noise and (M', L') the one at (2), of the rows of x: those of the bank are
linear. What a reader would get wrong: M is I and a drift times a short step, so that what changes must be held against
M - I. And a shift by 1 knows no units, and where it is the period of the drift, or leads to its mirror image, finds it
linear.
"""

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Key

from ...models.fractional import FractionalSDE
from .model_runs import no_noise
from .reference import between_sites
from .sites import Factors

_SCALES = (0.5, 1.0, 2.0, 4.0)  # c of equation (2)
_SAME, _ROUNDING = 1e-4, 8  # of a linear equation nothing changes but the last digits


def is_linear(equation: FractionalSDE, factors: Factors | None, key: Key[Array, ""]) -> Bool[Array, ""]:
    """Equations (1) to (3); not linear where they find something that is not finite.

    Args:
        equation: at values of the other latents that are nothing special.
        factors: sites whose means are data, which the path may have to go to; None where there are none.
        key: of the points.
    """
    _, e = no_noise(equation)
    still = equation.path(*no_noise(equation))
    key_reach, key_points = random.split(key)
    reach = _reach(equation, factors, still, key_reach)
    units = jnp.concatenate([reach, jnp.ones(equation.bank.weights.size, reach.dtype)])
    z = jnp.zeros((*still.shape[:-1], len(units)), still.dtype).at[..., : len(reach)].set(still)
    here = _rows(equation, z, e)

    def is_same(point) -> Bool[Array, ""]:
        key_z, key_e = random.split(point[0])
        shift = point[1] * units * random.normal(key_z, z.shape, z.dtype)
        there = _rows(equation, z + shift, point[1] * random.normal(key_e, e.shape, e.dtype))
        return _agree(here, there, reach)

    scales = jnp.asarray(_SCALES, z.dtype)
    return lax.map(is_same, (random.split(key_points, len(_SCALES)), scales)).all()


def _reach(
    equation: FractionalSDE, factors: Factors | None, still: Float[Array, "N+1 *B d"], key: Key[Array, ""]
) -> Float[Array, " d"]:
    """Equation (1); 1 for a coordinate that is infinite."""
    over = tuple(range(still.ndim - 1))
    b, e = no_noise(equation)

    def of_a_draw(key: Key[Array, ""]) -> Float[Array, " d"]:
        key_b, key_e = random.split(key)
        x = equation.path(random.normal(key_b, b.shape, b.dtype), random.normal(key_e, e.shape, e.dtype))
        return jnp.abs(x - still).max(over)

    reach = lax.map(of_a_draw, random.split(key, len(_SCALES))).max(0)
    if factors is not None:
        reach = jnp.maximum(reach, jnp.abs(between_sites(equation, factors, still) - still).max(over))
    return jnp.where(jnp.isfinite(reach), reach, 1.0)


def _rows(equation: FractionalSDE, z: Array, e: Array) -> tuple[Array, Array]:
    """M - I of x, and all that noise does to x: by the bank, and by e; time and plates first."""
    d, linear = equation.state.size, equation.linear(z, e)
    M, L = linear.M[..., :d, :], linear.L[..., :d, :]
    return M[..., :d] - jnp.eye(d, dtype=M.dtype), jnp.concatenate([M[..., d:], L], -1)


def _agree(
    here: tuple[Array, Array], there: tuple[Array, Array], reach: Float[Array, " d"]
) -> Bool[Array, ""]:
    """Equation (3)."""
    (pull, its_size), (noise, noise_size) = (_moved(*pair) for pair in zip(here, there, strict=True))
    eps = _ROUNDING * jnp.finfo(reach.dtype).eps
    ratio = jnp.where(reach[:, None] > 0, reach / jnp.where(reach > 0, reach, 1.0)[:, None], 0.0)
    # M is I and more: its digits end where those of 1 do
    same_pull = pull * ratio <= _SAME * its_size * ratio + eps
    same_noise = noise <= _SAME * noise_size + eps * noise_size.max(-1, keepdims=True)
    return same_pull.all() & same_noise.all()


def _moved(here: Array, there: Array) -> tuple[Float[Array, "d m"], Float[Array, "d m"]]:
    """The most that each entry changes, and the most that it is."""
    over = tuple(range(here.ndim - 2))
    return jnp.abs(here - there).max(over), jnp.maximum(jnp.abs(here), jnp.abs(there)).max(over)
