"""The least that a conditional particle filter with backward sampling can do, for one model.

    x_0 ~ N(0, sx / sqrt(1 - phi^2)),   x_t ~ N(phi x_{t-1}, sx),   y_t ~ N(x_t, 1)

Normals, cumsum and searchsorted, a gather forward; N densities and one inverse CDF backward. No
diagnostics, no guard against weights that are no numbers: what a front-end and the kernels cost is
measured against this.
"""

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int, Key

# As in `kernels/smc/resampling.py`, or the bare scan would lose by its search alone.
COMPARE_ALL_MAX = 64


def bare_sweep(
    key: Key[Array, ""], y: Float[Array, "T"], path: Float[Array, "T"], phi: Array, sx: Array, num: int
) -> Float[Array, "T"]:
    """A new path, given the reference `path` in slot 0 of `num` particles."""
    key_start, key_forward, key_back = random.split(key, 3)
    last, stored = _forward(key_start, key_forward, y, path, phi, sx, num)
    uniforms = random.uniform(key_back, y.shape)
    x_last = last[0][_pick(last[1], uniforms[-1])]

    def one_step_back(x_next, stage):
        x, log_weights, uniform = stage
        chosen = x[_pick(log_weights + _log_normal(x_next, phi * x, sx), uniform)]
        return chosen, chosen

    _, earlier = lax.scan(one_step_back, x_last, (*stored, uniforms[:-1]), reverse=True)
    return jnp.concatenate([earlier, x_last[None]])


def _forward(key_start, key_forward, y, path, phi, sx, num):
    """Particles and log-weights: of the last stage, and of those before it, stacked."""

    def one_step(cloud, stage):
        x, log_weights = cloud
        y_t, reference, key = stage
        key_ancestors, key_move = random.split(key)
        ancestors = _pick(log_weights, random.uniform(key_ancestors, (num,))).at[0].set(0)
        moved = (phi * x[ancestors] + sx * random.normal(key_move, (num,))).at[0].set(reference)
        return (moved, _log_normal(y_t, moved, 1.0)), cloud

    start = (random.normal(key_start, (num,)) * sx / jnp.sqrt(1 - phi**2)).at[0].set(path[0])
    keys = random.split(key_forward, y.shape[0] - 1)
    return lax.scan(one_step, (start, _log_normal(y[0], start, 1.0)), (y[1:], path[1:], keys))


def _pick(log_weights: Float[Array, "N"], uniforms: Array) -> Int[Array, "..."]:
    """Indices by inverse CDF."""
    cdf = jnp.cumsum(jnp.exp(log_weights - log_weights.max()))
    method = "compare_all" if cdf.shape[0] <= COMPARE_ALL_MAX else "scan"
    return jnp.clip(jnp.searchsorted(cdf, uniforms * cdf[-1], method=method), 0, cdf.shape[0] - 1)


def _log_normal(x: Array, mean: Array, sd: Array | float) -> Array:
    return -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)
