"""Increments of P fractional Brownian motions, made of independent normals: by the bank, or exact.

    y_0 = L0 b,   dB_n = w . (expm1(-g D_n) y_n + L_n e_n),   y_{n+1} = exp(-g D_n) y_n + L_n e_n        (1)
    dB  = C e,   C C' = covariance of the increments;   or sqrt(circulant) e, with 2N normals             (2)

(1) is Markov and costs O(N): K modes for each B, r <= K normals a step (`kernels/fractional/ou_bank.py`). (2) is exact
(`kernels/fractional/exact.py`), O(N^3) by Cholesky on any times, O(N log N) on a uniform grid. In both, time is the
leading axis, then the plate, then P.

What a reader would get wrong: in (1) and in Cholesky's (2) the normals of later steps do not touch earlier
increments, so that a path is continued by appending normals. On the circle they do.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ..kernels.fractional import (
    BankState,
    BankStep,
    Coefficients,
    bank_path,
    bank_step,
    cholesky_increments,
    circulant_increments,
    initial_factor,
    weights,
)
from ..kernels.fractional.ou_bank import Integrator
from .fractional_inputs import in_range

# of a time in a float32 grid, over its span
_ROUNDING = 1e-7


@dataclass(frozen=True, eq=False)
class Bank:
    """P banks of K modes over N steps, equation (1).

    Attributes:
        steps: what moves one bank, with a leading axis N.
        start_factor: L0, `[K, r0]`.
        weights: w, `[P, K]`, at the H of each.
    """

    steps: BankStep
    start_factor: Float[Array, "K r0"]
    weights: Float[Array, "P K"]

    @property
    def start_shape(self) -> tuple[int, int]:
        """Of b: `(P, r0)`."""
        return len(self.weights), self.start_factor.shape[1]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Of e: `(N, P, r)`."""
        N, _, r = self.steps.noise_factor.shape
        return N, len(self.weights), r

    def start(self, b: Float[Array, "*B P r0"]) -> Float[Array, "*B P K"]:
        """y_0."""
        return b @ self.start_factor.T

    def increments(self, b: Float[Array, "*B P r0"], e: Float[Array, "N *B P r"]) -> Float[Array, "N *B P"]:
        """dB; on an accelerator in ceil(log2 N) levels, on a CPU in N steps, which are faster there."""
        parallel = jax.default_backend() != "cpu"
        return bank_path(BankState(self.start(b)), e, self.steps, self.weights, parallel=parallel)[1]


def make_bank(
    coefficients: Coefficients,
    steps: Float[np.ndarray, " N"],
    hurst: Array,
    num_noises: int,
    integrator: Integrator = "exact",
) -> Bank:
    """The bank of the coefficients on steps of these lengths; H is one for all P, or `[P]`.

    Raises:
        ValueError: for Euler with a step that is too long for the fastest mode.
    """
    each = jnp.broadcast_to(in_range(hurst), (num_noises,))
    return Bank(
        bank_step(coefficients.rates, steps, integrator),
        initial_factor(coefficients.rates),
        weights(coefficients, each),
    )


def is_uniform(ts: Float[np.ndarray, " N+1"]) -> bool:
    """Whether the times are a uniform grid but for the rounding of float32."""
    even = np.linspace(ts[0], ts[-1], len(ts))
    return bool(np.abs(ts - even).max() <= _ROUNDING * (ts[-1] - ts[0]))


def increments_by_cholesky(
    e: Float[Array, "N *B P"], ts: Float[np.ndarray, " N+1"], hurst: Array
) -> Float[Array, "N *B P"]:
    """Equation (2), on any times; H is one for all P, or `[P]`."""
    H = in_range(hurst)
    one = jax.vmap(lambda e, H: cholesky_increments(e, ts, H), (1, None), 1)  # one factor for the whole batch
    flat = e.reshape(len(e), -1, e.shape[-1])
    if H.ndim:
        return jax.vmap(one, (2, 0), 2)(flat, H).reshape(e.shape)
    return one(flat.reshape(len(e), -1), H).reshape(e.shape)


def increments_on_circle(
    e: Float[Array, "2N *B"], ts: Float[np.ndarray, " N+1"], hurst: Array
) -> Float[Array, "N *B"]:
    """Equation (2), on a uniform grid."""
    dt = float(ts[-1] - ts[0]) / (len(ts) - 1)
    one = jax.vmap(lambda e, H: circulant_increments(e, H, dt), (1, None), 1)
    return one(e.reshape(len(e), -1), in_range(hurst)).reshape(-1, *e.shape[1:])


def standard_normal(
    site: str, shape: tuple[int, ...], batch: tuple[int, ...], may_be_wider: bool = False
) -> Float[Array, "..."]:
    """A sample site of independent standard normals, `[*batch, *shape]`.

    Args:
        site: its name.
        shape: within the plate.
        batch: of the plate.
        may_be_wider: whether a given value may have more on its last axis, which is left out: `extend_noise` makes
            noises for steps of any length.

    Raises:
        ValueError: where the site is given a value of another shape, such as draws made at other times.
    """
    value = numpyro.sample(site, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
    if may_be_wider:
        value = value[..., : shape[-1]]
    if jnp.shape(value) != batch + shape:
        raise ValueError(
            f"{site} has shape {jnp.shape(value)}, expected {batch + shape}: it was drawn at other times. "
            "extend_noise continues draws."
        )
    return value
