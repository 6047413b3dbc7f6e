"""What learners share: an optimiser, a loop like that of `SVI.run`, programs that are compiled once.

    theta_k = theta_{k-1} + update(G_k),   G_k a noisy gradient at theta_{k-1},   k = 1, ..., K     (1)
    result: the mean of theta_k over the last `average` share of k

The mean is that of Polyak and Juditsky (1992). A learner says what is its own, `bind`: what it does
for one model and its arguments.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax import lax, random
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from ...kernels.smc.types import check_count
from ..contract import identity_of, strongly_typed
from ..optimisers import as_numpyro_optim
from .path_model import SiteValues


class Step(NamedTuple):
    """What one iteration found.

    Attributes:
        gradient: of the loss along theta: -G.
        loss: what is written down; the optimiser sees it too.
        chain: what is kept for the next iteration.
        num_nonfinite: particle weights that were no numbers.
    """

    gradient: SiteValues
    loss: Float[Array, ""]
    chain: Any
    num_nonfinite: Int[Array, ""]


class ScoreAscentState(NamedTuple):
    """State of a learner.

    Attributes:
        optim_state: of the optimiser, theta (unconstrained) in it.
        chain: what is kept between iterations: the path, or the state of a kernel.
        rng_key: key of the next iteration.
        num_nonfinite: particle weights that were no numbers, and iterations whose gradient was none:
            theta stayed where it was.
    """

    optim_state: Any
    chain: Any
    rng_key: Array
    num_nonfinite: Int[Array, ""]


class ScoreAscentResult(NamedTuple):
    """What a run found; the fields of NumPyro's `SVIRunResult`.

    Attributes:
        params: constrained values of the mean of the last iterates; of the last alone where the learner
            averages none (`MarkovScoreClimbing`).
        state: the last state, at the last iterate: `init_state=` of a run that goes on.
        losses: one an iteration.
    """

    params: SiteValues
    state: ScoreAscentState
    losses: Float[Array, "K"]


class Bound(ABC):
    """A learner at the arguments of its model."""

    @abstractmethod
    def first(self, key: Array, given: SiteValues) -> tuple[SiteValues, Any]:
        """theta, and what is kept between iterations; `given` are constrained values to begin with."""

    @abstractmethod
    def step(self, key: Array, theta: SiteValues, chain: Any) -> Step:
        """One iteration."""

    @abstractmethod
    def constrained(self, theta: SiteValues) -> SiteValues:
        """Values of the sites of theta."""


class Ascent(ABC):
    """Parent of learners, equation (1).

    Args:
        optim: an optax optimiser, or one that `SVI` takes.
        average: share of the iterates whose mean is the result; 0 is the last one alone.
    """

    def __init__(self, optim: Any, average: float):
        self.optim = as_numpyro_optim(optim)
        self.average = average
        self._last: _Programs | None = None

    @abstractmethod
    def bind(self, args: tuple, kwargs: dict[str, Any]) -> Bound:
        """The learner at these arguments of the model; refuses a model that it cannot learn."""

    def init(
        self, rng_key: Array, *args, init_params: SiteValues | None = None, **kwargs
    ) -> ScoreAscentState:
        """First state; `init_params` are constrained values to begin with, None the model's own."""
        rng_key, key = random.split(rng_key)
        theta, chain = self._programs(args, kwargs).bound.first(key, dict(init_params or {}))
        state = ScoreAscentState(self.optim.init(theta), chain, rng_key, jnp.zeros((), jnp.int32))
        return strongly_typed(state)

    def update(self, state: ScoreAscentState, *args, **kwargs) -> tuple[ScoreAscentState, Float[Array, ""]]:
        """One iteration, (state, loss); to be jitted where it is called in a loop."""
        return self._programs(args, kwargs).update(state)

    def get_params(self, state: ScoreAscentState) -> SiteValues:
        """Constrained values of the last iterate, for the arguments that were used last."""
        if self._last is None:
            raise RuntimeError(f"This {type(self).__name__} has not begun: call init or run first.")
        return self._last.constrained(self.optim.get_params(state.optim_state))

    def run(
        self,
        rng_key: Array,
        num_steps: int,
        *args,
        progress_bar: bool = True,
        init_state: ScoreAscentState | None = None,
        init_params: SiteValues | None = None,
        **kwargs,
    ) -> ScoreAscentResult:
        """`num_steps` iterations. A second run with the same arguments (the same arrays) compiles nothing.

        Args:
            rng_key: of everything drawn; not used where `init_state` is given.
            num_steps: K.
            args: of the model, as `kwargs` are.
            progress_bar: whether to show one; without it the run is one program.
            init_state: the state at which an earlier run ended; None begins anew.
            init_params: constrained values to begin with; None: the model's own.
            kwargs: of the model.

        Raises:
            ValueError: for a `num_steps` below 1, and for a model that cannot be learned.
        """
        check_count("num_steps", num_steps, 1)
        state = init_state
        if state is None:
            state = self.init(rng_key, *args, init_params=init_params, **kwargs)
        programs = self._programs(args, kwargs)
        before = state.num_nonfinite
        theta = self.optim.get_params(state.optim_state)
        first = (state, jax.tree.map(jnp.zeros_like, theta))
        loop = _with_bar if progress_bar else _without_bar
        (state, mean), losses = loop(programs, first, _tail_weights(num_steps, self.average))
        _warn_of_nonfinite(state.num_nonfinite - before, num_steps)
        return ScoreAscentResult(programs.constrained(mean), state, losses)

    def _programs(self, args: tuple, kwargs: dict[str, Any]) -> "_Programs":
        if self._last is not None and self._last.is_for(args, kwargs):
            return self._last
        programs = _Programs(self, args, kwargs)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            self._last = programs
        return programs


class _Programs:
    """What is compiled for the arguments of a model; these are held, so that their ids stay theirs."""

    def __init__(self, learner: Ascent, args: tuple, kwargs: dict[str, Any]):
        self._same, self._held = identity_of((0, args, kwargs)), (args, kwargs)
        self.bound, self.optim = learner.bind(args, kwargs), learner.optim
        self.constrained = jax.jit(self.bound.constrained)
        self.one = jax.jit(self._one)
        self.all = jax.jit(lambda first, weights: lax.scan(self._one, first, weights))

    def is_for(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        return self._same == identity_of((0, args, kwargs))

    def update(self, state: ScoreAscentState) -> tuple[ScoreAscentState, Float[Array, ""]]:
        rng_key, key = random.split(state.rng_key)
        found = self.bound.step(key, self.optim.get_params(state.optim_state), state.chain)
        stepped = self.optim.update(found.gradient, state.optim_state, value=found.loss)
        # one gradient that is no number would stay in an optimiser's moments for good
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found.gradient)]).all()
        optim_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), stepped, state.optim_state)
        num_nonfinite = state.num_nonfinite + found.num_nonfinite + ~finite
        return ScoreAscentState(optim_state, found.chain, rng_key, num_nonfinite), found.loss

    def _one(self, carry: tuple[ScoreAscentState, SiteValues], weight: Array):
        state, mean = carry
        state, loss = self.update(state)
        theta = self.optim.get_params(state.optim_state)
        mean = jax.tree.map(lambda total, leaf: total + jnp.asarray(weight, leaf.dtype) * leaf, mean, theta)
        return (state, mean), loss


def _tail_weights(num_steps: int, average: float) -> NDArray[np.float64]:
    """Of the iterates in their mean: equal ones at the end, zeros before."""
    kept = max(1, round(average * num_steps))
    weights = np.zeros(num_steps)
    weights[-kept:] = 1 / kept
    return weights


def _without_bar(programs: _Programs, first, weights: NDArray[np.float64]):
    return programs.all(first, weights)


def _with_bar(programs: _Programs, carry, weights: NDArray[np.float64]):
    losses: list[Any] = []
    batch = max(len(weights) // 20, 1)
    with tqdm.trange(1, len(weights) + 1) as bar:
        for i in bar:
            carry, loss = programs.one(carry, weights[i - 1])
            losses.append(loss)
            if i % batch == 0:
                # the whole batch at once: waiting at every step would leave the device idle
                losses[i - batch :] = jax.device_get(losses[i - batch :])
                mean = sum(losses[i - batch :]) / batch
                bar.set_postfix_str(
                    f"init loss: {losses[0]:.4f}, avg. loss [{i - batch + 1}-{i}]: {mean:.4f}", refresh=False
                )
    return carry, jnp.stack(losses)


def _warn_of_nonfinite(count: Array, num_steps: int) -> None:
    if isinstance(count, jax.core.Tracer) or not int(count):
        return
    warnings.warn(
        f"{int(count)} particle weights or gradients of the {num_steps} iterations were NaN or infinite; an iteration "
        "without a gradient left the parameters where they were. Look for log(0) or an overflow in the model, take "
        "smaller steps, or begin elsewhere (init_params).",
        stacklevel=3,
    )


def check_model(model: Any) -> Callable[..., Any]:
    """Refuse what is no model."""
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}.")
    return model
