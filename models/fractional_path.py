"""Fractional Brownian motion as a path inside a model, made of standard normals.

    x(t_0) = 0,   x(t_n) = scale (dB_1 + ... + dB_n)                                                      (1)

The increments are those of `fractional_increments.py`; the normals are the sites, so that nothing of H or the scale
is in their prior: NUTS and mean-field guides see no funnel.
"""

import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from ..kernels.fractional import Coefficients
from .fractional_increments import (
    increments_by_cholesky,
    increments_on_circle,
    is_uniform,
    make_bank,
    standard_normal,
)
from .fractional_inputs import (
    Grid,
    Number,
    check_names,
    checked_hurst,
    coefficients_for,
    make_grid,
    one_of,
    plate_shape,
)

__all__ = ["fbm_path"]

# Times up to which a Cholesky factor is cheaper than twice as many normals.
_CHOLESKY_UP_TO = 1024


def fbm_path(
    name: str,
    ts: ArrayLike,
    hurst: Number,
    scale: Number = 1.0,
    *,
    method: str = "exact",
    num_modes: int = 8,
    coefficients: Coefficients | None = None,
) -> Float[Array, "*B M"]:
    """A path of fractional Brownian motion, equation (1), for up to some 300 times or inside a larger model.

    Where the path itself is what is seen, take `FractionalGaussianNoise` or `FractionalBrownianMotion`: no latents.

    Args:
        name: of the path, a deterministic site.
        ts: `[M]`, increasing, any spacing, concrete; the path is 0 at ts[0].
        hurst: H in [.02, .98].
        scale: sd of the path after one unit of time; in a plate it may have its shape.
        method: "exact", by a Cholesky factor, above 1024 equidistant times by Davies and Harte's circle with twice as
            many normals; "markov", by a bank, at a cost linear in M and with 4 or 5 normals a step.
        num_modes: modes of the bank, see `fractional_coefficients`.
        coefficients: of the bank; to be passed where the model is used at another ts too.

    Returns:
        The path at ts, `[M]`; within plates with their shape before it.

    Sites: `{name}_noise`, and `{name}_bank` of "markov", all standard normals; `{name}`, deterministic.

    Raises:
        TypeError: for traced ts.
        ValueError: for bad times, a hurst out of range or not (), or too many steps for the bank.
        NotImplementedError: in a plate that subsamples, or in NumPyro's scan.

    Examples:
        >>> from emberwalk.models import fbm_path, hurst_prior
        >>> ts = np.linspace(0.0, 1.0, 21)
        >>> def model(y):
        ...     x = fbm_path("x", ts, numpyro.sample("H", hurst_prior()))
        ...     numpyro.sample("y", dist.Normal(x, 0.1), obs=y)
        >>> from numpyro.infer import Predictive
        >>> Predictive(model, num_samples=5)(random.key(0), None)["x"].shape
        (5, 21)
    """
    one_of(name, "method", method, ("exact", "markov"))
    check_names(name)
    grid, batch = make_grid(name, ts), plate_shape(name)
    checked_hurst(name, hurst, ((),))
    if method == "markov":
        dB = _by_bank(name, grid, batch, hurst, coefficients_for(name, grid, num_modes, coefficients))
    else:
        dB = _exact(name, grid, batch, hurst)
    path = jnp.cumsum(jnp.concatenate([jnp.zeros_like(dB[:1]), dB]), 0)
    return numpyro.deterministic(name, jnp.asarray(scale)[..., None] * jnp.moveaxis(path, 0, -1))


def _by_bank(
    name: str, grid: Grid, batch: tuple[int, ...], hurst: Number, coefficients: Coefficients
) -> Float[Array, "N *B"]:
    bank = make_bank(coefficients, grid.steps, jnp.asarray(hurst), num_noises=1)
    b = standard_normal(f"{name}_bank", bank.start_shape, batch)
    e = standard_normal(f"{name}_noise", bank.noise_shape, batch, may_be_wider=True)
    return bank.increments(b, jnp.moveaxis(e, -3, 0))[..., 0]


def _exact(name: str, grid: Grid, batch: tuple[int, ...], hurst: Number) -> Float[Array, "N *B"]:
    ts, N = grid.fine, len(grid.steps)
    on_circle = len(ts) > _CHOLESKY_UP_TO and is_uniform(ts)
    e = standard_normal(f"{name}_noise", (2 * N if on_circle else N, 1), batch)
    make = increments_on_circle if on_circle else increments_by_cholesky
    return make(jnp.moveaxis(e, -2, 0), ts, jnp.asarray(hurst))[..., 0]
