"""Networks of a guide: declared as params, with what a residual or a control sees of time, state and data.

(sin t, cos t, x, y, mean of the next site, time to it)                                              (1)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpyro.contrib.module import eqx_module

from ...models.fractional import FractionalSDE
from .reference import neighbours, site_means
from .sites import Factors


class Features(NamedTuple):
    """What a network sees beside the state; of all steps with a leading axis N.

    Attributes:
        clock: sin t and cos t, `[2]`.
        context: of the data, `[*B, c]`.
    """

    clock: Float[Array, "*N 2"]
    context: Float[Array, "*NB c"]

    def beside(self, z: Float[Array, "*B n"]) -> Float[Array, "*B 2+n+c"]:
        """Equation (1), of one step."""
        clock = jnp.broadcast_to(self.clock, (*z.shape[:-1], 2))
        return jnp.concatenate([clock, z, self.context], -1)


def clock_of(equation: FractionalSDE) -> Float[Array, "N 2"]:
    """sin t and cos t before each step."""
    t = equation.inputs.t
    return jnp.stack([jnp.sin(t), jnp.cos(t)], -1)


def features_of(equation: FractionalSDE, factors: Factors) -> Features:
    """Equation (1) of all steps: the site after each."""
    grid = equation.state.grid
    mean, seen = site_means(lax.stop_gradient(factors))
    after = jnp.searchsorted(jnp.asarray(grid.outputs), jnp.arange(len(grid.steps)), side="right")
    ts = jnp.asarray(grid.ts, mean.dtype)

    def next_of(mean: Float[Array, "M+1 d"], seen: Array) -> Float[Array, "N d+1"]:
        at = neighbours(seen.any(-1))[1]
        at = jnp.append(at, len(ts))[after]  # of each step
        here = at < len(ts)
        at = jnp.minimum(at, len(ts) - 1)
        until = (ts[at] - equation.inputs.t)[:, None]
        return jnp.where(here[:, None], jnp.concatenate([mean[at], until], -1), 0.0)

    for _ in equation.state.batch:
        next_of = jax.vmap(next_of, out_axes=1)
    return Features(clock_of(equation), next_of(mean, seen))


def residual_network(residual: Any, equation: FractionalSDE, key: Any) -> Any:
    """An MLP of a given width whose last layer is 0, or the module that was given.

    Raises:
        TypeError: for neither.
    """
    import equinox as eqx

    if isinstance(residual, eqx.Module):
        return residual
    if not isinstance(residual, int):
        raise TypeError(
            f"residual must be None, a width or an equinox module, got {type(residual).__name__}."
        )
    P, K = equation.bank.weights.shape
    num_in = 2 + equation.state.size + P * K + equation.state.size + 1
    return network_of(num_in, equation.num_step_noises, residual, 2, key)


def network_of(num_in: int, num_out: int, width: int, depth: int, key: Any) -> Any:
    """An MLP that is 0 everywhere until it is trained."""
    import equinox as eqx

    network = eqx.nn.MLP(num_in, num_out, width, depth, _tanh, _unchanged, key=key)
    last = jax.tree.map(_zeros_of_arrays, network.layers[-1])
    return eqx.tree_at(lambda net: net.layers[-1], network, last)


# By these names a guide pickles; those of JAX and equinox do not.
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


def _unchanged(x: Array) -> Array:
    return x


def declared(name: str, network: Any) -> Callable[..., Any]:
    """The network with its arrays as params, where it is an equinox module; else as it is."""
    import equinox as eqx

    return eqx_module(name, network) if isinstance(network, eqx.Module) else network


def over_batch(network: Callable[[Array], Array], num_plates: int) -> Callable[[Array], Array]:
    """Mapped over the axes of the plates."""
    for _ in range(num_plates):
        network = jax.vmap(network)
    return network


def _zeros_of_arrays(leaf: Any) -> Any:
    return jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else leaf
