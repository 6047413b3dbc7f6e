"""What every SG-MCMC algorithm is: a state, and an update by a gradient that may be noisy.

    z_{k+1} = update(xi_k, z_k, g_k, T),    xi_k ~ N(0, I),    E[g_k | z_k] = grad U(z_k)         (1)

Like an optax optimiser, an algorithm is given a gradient to *descend* and never calls the model. Its
noise has a variance proportional to the temperature T; nothing else depends on T, so that it samples
exp(-U / T) as the step goes to 0, and what it samples at a finite step is known (`theory.py`).

Steps are those of U, the *sum* over the data: a loss that is a mean over N rows has a gradient N times
smaller, and Welling and Teh (2011) and Li and others (2016) write 2h where we write h.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

type Position = PyTree[Float[Array, "..."]]
type Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]

# Counts at which a schedule is looked at.
COUNTS = (0, *(10**power for power in range(7)))


class SGState(NamedTuple):
    """Where a chain is.

    Attributes:
        position: z, any tree of float arrays.
        momentum: p, of the same form; None for an overdamped algorithm.
        extra: what one algorithm carries beside (the last noise, a thermostat); None where nothing.
        precond: mass M, or preconditioner G, a scalar or an array for each leaf of the position; None
            for an algorithm without.
        step: steps done, of which `step_size` is a schedule.
    """

    position: Position
    momentum: Position | None
    extra: Any
    precond: Any
    step: Int[Array, ""]


class SGInfo(NamedTuple):
    """What a step did.

    Attributes:
        step_size: h.
        kinetic_temperature: p . M^-1 p / d for each leaf of the position, at the point of the step where
            its mean is known (`temperatures.py`); None for an overdamped algorithm.
        finite: whether gradient and new position were finite; a step that was not is refused.
    """

    step_size: Float[Array, ""]
    kinetic_temperature: Any
    finite: Bool[Array, ""]


@dataclass(frozen=True)
class SGAlgorithm(ABC):
    """An algorithm: its step size and what else it is made of.

    A dataclass and no closure, so that a kernel which holds it can be pickled.

    Args:
        step_size: h > 0, or a schedule of the number of steps done, as optax makes them.

    Raises:
        ValueError: for a step size that is not positive, or not finite, with the count where it is so.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import SGAlgorithm, sgld
        >>> isinstance(sgld(0.1), SGAlgorithm)
        True
    """

    step_size: float | Schedule

    underdamped: ClassVar[bool] = False

    @property
    def preconditioned(self) -> bool:
        """Whether a mass or preconditioner is to be adapted."""
        return False

    def __post_init__(self) -> None:
        check_schedule("step_size", self.step_size, positive=True)

    @abstractmethod
    def init(self, rng_key: Key[Array, ""], position: Position, temperature: Any) -> SGState:
        """First state at `position`; a momentum is drawn at `temperature`."""

    @abstractmethod
    def move(
        self, rng_key: Key[Array, ""], state: SGState, gradient: Position, temperature: Any
    ) -> tuple[SGState, SGInfo]:
        """The step of the algorithm, its result not looked at."""

    @abstractmethod
    def noise_factor(self, state: SGState) -> Any:
        """f for each leaf, where f V / T is the noise ratio of a gradient whose noise has the variance V."""

    def adapt(self, state: SGState, second_moment: Any) -> SGState:
        """The state preconditioned by E g^2 of each element; an algorithm without preconditioner: as it is."""
        return state

    def h(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Step size at a count."""
        return at_count(self.step_size, step)

    def update(
        self, rng_key: Key[Array, ""], state: SGState, gradient: Position, temperature: Any
    ) -> tuple[SGState, SGInfo]:
        """One step. Where gradient or position is not finite, the position stays and the momentum is zero."""
        moved, info = self.move(rng_key, state, gradient, temperature)
        finite = is_finite(gradient) & is_finite(moved.position)
        return moved_or_kept(finite, moved, state), info._replace(finite=finite)


def moved_or_kept(accept: Bool[Array, ""], moved: SGState, state: SGState) -> SGState:
    """The step, or where it is refused the state before it, its momentum zero and the step counted."""
    kept = state._replace(momentum=jax.tree.map(jnp.zeros_like, state.momentum), step=moved.step)
    return jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, kept)


class SGKernel(NamedTuple):
    """`init(rng_key, position) -> SGState` and `step(rng_key, state) -> (SGState, SGInfo)`."""

    init: Callable[[Key[Array, ""], Position], SGState]
    step: Callable[[Key[Array, ""], SGState], tuple[SGState, SGInfo]]


def build(
    algorithm: SGAlgorithm,
    grad_fn: Callable[[Key[Array, ""], Position], Position],
    temperature: float | Schedule = 1.0,
) -> SGKernel:
    """An algorithm with its gradient: a kernel in the manner of blackjax.

    Args:
        algorithm: for instance `baoab(1e-3, friction=50.0)`.
        grad_fn: (rng_key, position) -> estimate of grad U, without bias; the key is for its minibatch.
        temperature: T > 0, or a schedule of the number of steps done.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import build, leimkuhler_matthews
        >>> kernel = build(leimkuhler_matthews(0.1), lambda key, z: z, temperature=0.01)
        >>> state = kernel.init(random.key(0), jnp.zeros(3))
        >>> state, info = jax.jit(kernel.step)(random.key(1), state)
        >>> state.position.shape
        (3,)
    """
    check_schedule("temperature", temperature, positive=not callable(temperature))

    def init(rng_key: Key[Array, ""], position: Position) -> SGState:
        return algorithm.init(rng_key, position, at_count(temperature, jnp.zeros((), jnp.int32)))

    def step(rng_key: Key[Array, ""], state: SGState) -> tuple[SGState, SGInfo]:
        key_batch, key_noise = jax.random.split(rng_key)
        gradient = grad_fn(key_batch, state.position)
        return algorithm.update(key_noise, state, gradient, at_count(temperature, state.step))

    return SGKernel(init, step)


def at_count(value: float | Schedule, step: Int[Array, ""]) -> Float[Array, ""]:
    """A number, or a schedule at its count."""
    return jnp.asarray(value(step) if callable(value) else value, jnp.result_type(float))


def check_schedule(name: str, value: float | Schedule, *, positive: bool) -> None:
    """Refuses a number or schedule that is negative, or not finite; with `positive`, zero too.

    A number that is being traced is not looked at.
    """
    if isinstance(value, jax.core.Tracer):
        return
    for count in COUNTS if callable(value) else (0,):
        with jax.ensure_compile_time_eval():
            at = np.asarray(value(jnp.asarray(count)) if callable(value) else value, float)
        if at.shape != () or not np.isfinite(at) or at < 0 or (positive and at == 0):
            where = f" at count {count}" if callable(value) else ""
            raise ValueError(
                f"{name} must be {'positive' if positive else 'at least 0'} and finite, got {at}{where}."
            )


def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every element of every leaf is."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def normal_like(rng_key: Key[Array, ""], tree: Position) -> Position:
    """N(0, 1) for every element."""
    from blackjax.util import generate_gaussian_noise

    return generate_gaussian_noise(rng_key, tree)
