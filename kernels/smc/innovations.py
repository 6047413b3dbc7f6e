"""The innovations move: HMC on the parameters and the standardised noise of the path together.

    x_t = loc_t(c_{t-1}, theta) + scale_t(c_{t-1}, theta) z_t                                   (1)
    log pi(theta, z) = log prior(theta) + sum_t [log m_t(x_t | c_{t-1}) + log |scale_t| + log g_t]

Given the path, the parameters of a weakly observed model hardly move; given the noise, path and
parameters move as one. Yu and Meng (2011); for stochastic volatility Kastner and
Fruehwirth-Schnatter (2014). `log |scale|` belongs in the target: without it the density is that of
x, not of z. After the move x must be made anew from (theta', z').

The step size comes from dual averaging (Nesterov 2009; Hoffman and Gelman 2014), the mass of theta
from its running variance; noise has unit scale by construction, so that its mass is 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .types import SSM, Carry, Latents, Path

_FIRST_STEP_SIZE = 0.15
_STEP_SIZE_JITTER = (0.7, 1.3)  # of each trajectory: a fixed length can fall into a period of the path
_MIN_DRAWS_FOR_MASS = 20


def carries(ssm: SSM, path: Path) -> Carry:
    """c_0, ..., c_{T-1} of a path: what each transition started from; leading axis T."""

    def step(carry: Carry, stage: tuple[Latents, Int[Array, ""]]):
        latents, t = stage
        return ssm.evaluate(carry, latents, t).carry, carry

    times = jnp.arange(1, ssm.length + 1)
    return lax.scan(step, ssm.init_carry(path.initial), (path.latents, times))[1]


def to_noise(ssm: SSM, path: Path) -> Latents:
    """z_1, ..., z_T of a path, equation (1); discrete leaves stay as they are.

    Examples:
        >>> from emberwalk.kernels.smc import Path, to_noise
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.zeros(3), phi=0.5, sx=2.0)
        >>> to_noise(ssm, Path(jnp.array(2.0), jnp.array([2.0, 1.0]))).tolist()
        [0.5, 0.0]
    """
    assert ssm.to_noise is not None
    times = jnp.arange(1, ssm.length + 1)
    return jax.vmap(ssm.to_noise)(carries(ssm, path), path.latents, times)


def from_noise(ssm: SSM, initial: Latents, noise: Latents) -> tuple[Path, Carry, Float[Array, ""]]:
    """The path of x_0 and z_1, ..., z_T; c_0, ..., c_{T-1}; and sum_t log |scale_t|.

    Examples:
        >>> from emberwalk.kernels.smc import from_noise
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> ssm = linear_gaussian_ssm(jnp.zeros(3), phi=0.5, sx=2.0)
        >>> from_noise(ssm, jnp.array(2.0), jnp.array([0.5, 0.0]))[0].latents.tolist()
        [2.0, 1.0]
    """
    step_from_noise = ssm.from_noise
    assert step_from_noise is not None

    def step(carry: Carry, stage: tuple[Latents, Int[Array, ""]]):
        noise, t = stage
        latents, after, _ = step_from_noise(carry, noise, t)
        return after, (latents, carry)

    times = jnp.arange(1, ssm.length + 1)
    _, (latents, before) = lax.scan(step, ssm.init_carry(initial), (noise, times))
    # outside the loop, where its gradient is one sum and not T of them
    log_scales = jax.vmap(step_from_noise)(before, noise, times)[2]
    return Path(initial, latents), before, log_scales.sum()


def path_log_density(ssm: SSM, path: Path, before: Carry) -> Float[Array, ""]:
    """sum_{t>=1} log m_t + log g_t, all stages at once; `before` holds c_0, ..., c_{T-1}."""
    times = jnp.arange(1, ssm.length + 1)
    factors = jax.vmap(ssm.evaluate)(before, path.latents, times)
    return jnp.sum(factors.log_transition + factors.log_likelihood)


class InnovationsState(NamedTuple):
    """What the move has learnt.

    Attributes:
        num_moves: moves made since `init`.
        step_size: of the next trajectory.
        inverse_mass: of each coordinate of theta, flat.
        dual_averaging: state of the step size's adaptation.
        variance: state of the running variance of theta.
    """

    num_moves: Int[Array, ""]
    step_size: Float[Array, ""]
    inverse_mass: Float[Array, "P"]
    dual_averaging: Any
    variance: Any


class InnovationsInfo(NamedTuple):
    """What a move did.

    Attributes:
        accept_prob: of the trajectory, in [0, 1]; 0 if its energy was not finite.
        accepted: whether the chain moved.
    """

    accept_prob: Float[Array, ""]
    accepted: Bool[Array, ""]


class InnovationsKernel(NamedTuple):
    """`init(theta)` and `step(key, state, theta, noise, log_density, num_steps)`, see `innovations_hmc`."""

    init: Callable[..., InnovationsState]
    step: Callable[..., tuple[PyTree[Array], PyTree[Array], InnovationsState, InnovationsInfo]]


def innovations_hmc(num_warmup: int, *, target_accept: float = 0.9) -> InnovationsKernel:
    """HMC on (theta, z), equation (1), that adapts for `num_warmup` moves and is then frozen.

    `step` takes log pi(theta, z) as an argument, because the discrete latents and the data it
    closes over may change between moves; theta and z are pytrees of float arrays, theta in
    unconstrained coordinates. It returns the new theta and z, its state, and an `InnovationsInfo`.

    `num_steps`, leapfrog steps of the move, may differ from move to move, as long as theta and z do not
    decide it. On stochastic volatility with T = 750, 24 gave .38 effective draws a move, 32 gave .56, 40
    gave .71 and 48 gave .69. Begin with 1, 2, 3, ...: a start far from the posterior has potential energy enough to
    send a long first trajectory to sigma = e^-17, where float32 no longer tells states apart.

    Args:
        num_warmup: moves during which the step size and the mass of theta are learnt. The running
            variance is used from 20 draws on and begins again at half of them.
        target_accept: acceptance the step size aims at.

    Examples:
        >>> from emberwalk.kernels.smc import innovations_hmc
        >>> kernel = innovations_hmc(num_warmup=100)
        >>> theta, z = jnp.zeros(2), jnp.zeros(3)
        >>> state = kernel.init(theta)
        >>> theta, z, state, info = kernel.step(
        ...     random.key(0), state, theta, z, lambda theta, z: -0.5 * (theta @ theta + z @ z), 32)
    """
    from blackjax.adaptation.mass_matrix import welford_algorithm
    from blackjax.adaptation.step_size import dual_averaging_adaptation
    from blackjax.mcmc import hmc

    averaging_init, averaging_update, averaging_final = dual_averaging_adaptation(target_accept)
    variance_init, variance_update, variance_final = welford_algorithm(is_diagonal_matrix=True)
    hmc_step = hmc.build_kernel()

    def init(theta: PyTree[Array]) -> InnovationsState:
        flat, _ = ravel_pytree(theta)
        first = jnp.asarray(_FIRST_STEP_SIZE, flat.dtype)
        return InnovationsState(
            jnp.zeros((), jnp.int32),
            first,
            jnp.ones_like(flat),
            _as_arrays(averaging_init(first), flat.dtype),
            _as_arrays(variance_init(flat.size), flat.dtype),
        )

    def step(key, state: InnovationsState, theta, noise, log_density, num_steps):
        key_jitter, key_move = random.split(key)
        jitter = random.uniform(key_jitter, (), state.step_size.dtype, *_STEP_SIZE_JITTER)
        flat_noise, _ = ravel_pytree(noise)
        inverse_mass = jnp.concatenate([state.inverse_mass, jnp.ones_like(flat_noise)])

        def target(position):
            return log_density(*position)

        start = hmc.init((theta, noise), target)
        end, moved = hmc_step(key_move, start, target, state.step_size * jitter, inverse_mass, num_steps)
        theta, noise = end.position
        # blackjax refuses a trajectory of NaN energy but reports its acceptance as it was computed
        accept_prob = jnp.where(jnp.isfinite(moved.acceptance_rate), moved.acceptance_rate, 0.0)
        state = _adapt(state, theta, accept_prob)
        return theta, noise, state, InnovationsInfo(accept_prob, moved.is_accepted)

    def _adapt(state: InnovationsState, theta, accept_prob) -> InnovationsState:
        flat, _ = ravel_pytree(theta)
        count = state.num_moves + 1
        averaging = averaging_update(state.dual_averaging, accept_prob)
        restart = count == num_warmup // 2
        fresh = variance_init(flat.size)
        variance = jax.tree.map(
            lambda new, old: jnp.where(restart, new, old).astype(old.dtype),
            fresh,
            variance_update(state.variance, flat),
        )
        settled = jnp.where(count == num_warmup, averaging_final(averaging), jnp.exp(averaging.log_step_size))
        adapted = InnovationsState(count, settled, _mass(variance, state.inverse_mass), averaging, variance)
        keep = count > num_warmup
        frozen = jax.tree.map(lambda old, new: jnp.where(keep, old, new).astype(old.dtype), state, adapted)
        return frozen._replace(num_moves=count)

    def _mass(variance, inverse_mass):
        estimate, count, _ = variance_final(variance)
        # shrunk a little towards the present mass, as one draw more than the count would say
        estimate = (count * estimate + inverse_mass) / (count + 1)
        return jnp.where(count >= _MIN_DRAWS_FOR_MASS, estimate, inverse_mass)

    return InnovationsKernel(init, step)


def _as_arrays(state: Any, dtype) -> Any:
    """Python numbers of blackjax's states as arrays, so that a state keeps its types from the start."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.int32 if isinstance(leaf, int) else jnp.result_type(leaf, dtype)),
        state,
    )
