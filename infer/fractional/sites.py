"""What the rest of the model says of a path at ts, as Gaussian factors exp(h'x - x'J x / 2), one a time.

    laplace   J = -d2 log p / dx2,   h = d log p / dx + J x,   at a path x                               (1)
    learnt    h and J = C C' are params
    encoded   (v, p) = encoder(y, mask, ts):   h = p v,   J = diag p

log p is the model's own density of everything but the path, at the current values of all other latents. Where it is
quadratic in x, (1) is exact for every one of them, and the path is integrated out. (1) takes blocks of d: it wants a
density that factorises over times.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax import lax, random
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from ...kernels.fractional import Sites
from ...models.fractional import FractionalSDE

type LogProb = Callable[[Float[Array, "..."]], Float[Array, ""]]

CURVATURE = 1e-6  # smallest that a learnt site begins with


class Factors(NamedTuple):
    """Gaussian factors at ts.

    Attributes:
        h: `[*B, M + 1, d]`.
        J: `[*B, M + 1, d, d]`.
    """

    h: Float[Array, "*B M+1 d"]
    J: Float[Array, "*B M+1 d d"]

    def on(self, equation: FractionalSDE) -> Sites:
        """On the solver's grid, `[*B, N + 1, ...]`."""
        num, outputs = len(equation.state.grid.fine), equation.state.grid.outputs
        at = len(equation.state.batch)
        h = jnp.zeros((*self.h.shape[:at], num, *self.h.shape[at + 1 :]), self.h.dtype)
        J = jnp.zeros((*self.J.shape[:at], num, *self.J.shape[at + 1 :]), self.J.dtype)
        every = (slice(None),) * at
        return Sites(h.at[(*every, outputs)].set(self.h), J.at[(*every, outputs)].set(self.J))


def laplace(log_prob: LogProb, equation: FractionalSDE, x: Float[Array, "*B M+1 d"]) -> Factors:
    """Equation (1) at a path; negative curvature is taken for none."""
    gradient, hessian = _derivatives(log_prob, equation, x)
    J = _not_negative(-hessian)
    return Factors(gradient + jnp.einsum("...ij,...j->...i", J, x), J)


def change_of_curvature(
    log_prob: LogProb, equation: FractionalSDE, x: Float[Array, "*B M+1 d"], key: Any
) -> Float[Array, ""]:
    """How much the curvature changes to another path, relative: 0 for a Gaussian likelihood."""
    other = x + random.normal(key, x.shape, x.dtype)
    here, there = (_derivatives(log_prob, equation, path)[1] for path in (x, other))
    return jnp.abs(here - there).max() / jnp.maximum(jnp.abs(here).max(), jnp.finfo(x.dtype).tiny)


def probe_error(
    log_prob: LogProb, equation: FractionalSDE, x: Float[Array, "*B M+1 d"], key: Any
) -> Float[Array, ""]:
    """How far the Hessian is from its blocks, by one random direction: 0 where the density factorises over times."""
    v = random.normal(key, x.shape, x.dtype)
    whole = jax.jvp(jax.grad(_with_axis(log_prob, equation)), (x,), (v,))[1]
    blocks = jnp.einsum("...ij,...j->...i", _derivatives(log_prob, equation, x)[1], v)
    return jnp.linalg.norm(whole - blocks) / jnp.maximum(jnp.linalg.norm(whole), jnp.finfo(x.dtype).tiny)


def learnt(prefix: str, first: Factors) -> Factors:
    """Factors that are params, h and the Cholesky factor of J, which begin at `first`."""
    J = first.J + CURVATURE * jnp.eye(first.J.shape[-1], dtype=first.J.dtype)
    h = numpyro.param(f"{prefix}_site_h", first.h)
    C = numpyro.param(
        f"{prefix}_site_C", jnp.linalg.cholesky(J), constraint=constraints.softplus_lower_cholesky
    )
    return Factors(h, C @ jnp.swapaxes(C, -1, -2))


def encoded(
    encoder: Callable[..., tuple[Array, Array]], y: Array, mask: Array, ts: Array, batch: int
) -> Factors:
    """Factors that a network makes of the data; `batch` plates are mapped over."""
    read = lambda y, mask: encoder(y, mask, ts)  # noqa: E731
    for _ in range(batch):
        read = jax.vmap(read)
    value, precision = (_with_first(x) for x in read(y, mask))
    return Factors(
        precision * value, precision[..., None] * jnp.eye(precision.shape[-1], dtype=precision.dtype)
    )


def _with_first(x: Float[Array, "*B M d"]) -> Float[Array, "*B M+1 d"]:
    """Nothing is said of ts[0]."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x], -2)


def _derivatives(
    log_prob: LogProb, equation: FractionalSDE, x: Float[Array, "*B M+1 d"]
) -> tuple[Float[Array, "*B M+1 d"], Float[Array, "*B M+1 d d"]]:
    """Gradient, and the Hessian's blocks by d products with it, each for all times and sequences at once."""
    gradient, times_hessian = jax.linearize(jax.grad(_with_axis(log_prob, equation)), x)
    directions = jnp.eye(x.shape[-1], dtype=x.dtype)
    columns = jax.vmap(lambda one: times_hessian(jnp.broadcast_to(one, x.shape)))(directions)
    return gradient, jnp.moveaxis(columns, 0, -1)


def _with_axis(log_prob: LogProb, equation: FractionalSDE) -> LogProb:
    """Of a path with the axis d, which a scalar state does not have in the model."""
    scalar = not equation.state.shape
    return lambda x: log_prob(x[..., 0] if scalar else x)


def _not_negative(J: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """Symmetric, eigenvalues below 0 taken to 0; what is added has no derivative, as eigenvectors may have none."""
    if J.shape[-1] == 1:
        return jnp.maximum(J, 0.0)
    J = (J + jnp.swapaxes(J, -1, -2)) / 2
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(J))
    return J + jnp.einsum("...ij,...j,...kj->...ik", vectors, jnp.maximum(-values, 0.0), vectors)
