"""A latent Markov chain as one NumPyro site, and what is observed of it, time by time.

    x_0 ~ initial,   x_t | x_{t-1} ~ transition(x_{t-1}, t),   y_t | x_t ~ fn(x_t, t)           (1)

`StateSpace` is the distribution of x_{0:T-1}; `emission` that of y_{0:T-1} given x. Both are
ordinary distributions, for NUTS and `Predictive` too. An emission is a function of one state and
its time, so that a particle sampler can ask for the likelihood of one step alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax, random
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints
from numpyro.util import is_prng_key

type Transition = Callable[[Array, Array], dist.Distribution]


class StateSpace(dist.Distribution):
    """The law of a Markov chain x_{0:T-1}, equation (1): one site, event shape `(length, ...)`.

    Args:
        initial: law of x_0, with batch shape (): a vector state is `.to_event(1)`.
        transition: `(x_prev, t) -> Distribution` of x_t for t = 1, ..., length - 1, with the batch
            and event shape of `initial`. `t` is a traced integer: index covariates as `X[t]`.
        length: T, the number of states, at least 2.

    Raises:
        ValueError: for a batch shape that is not (), an event shape or a kind of number (continuous,
            discrete) that differs from the initial one, or a length below 2.
        TypeError: if `initial` or what `transition` returns is no Distribution.

    Examples:
        >>> from emberwalk.models import StateSpace
        >>> walk = StateSpace(dist.Normal(0.0, 1.0), lambda prev, t: dist.Normal(prev, 0.1), length=5)
        >>> walk.event_shape
        (5,)
        >>> walk.log_prob(walk.sample(random.key(0))).shape
        ()
    """

    pytree_data_fields = ("initial",)
    pytree_aux_fields = ("transition", "length", "_support")

    def __init__(
        self,
        initial: dist.Distribution,
        transition: Transition,
        length: int,
        *,
        validate_args: bool | None = None,
    ):
        if not isinstance(length, int) or length < 2:
            raise ValueError(f"StateSpace: length must be a whole number of at least 2, got {length!r}.")
        _check_one_state(initial, "initial", "initial", None)
        first = initial.support.feasible_like(jnp.zeros(initial.event_shape, _dtype(initial)))
        following = transition(first, jnp.array(1))
        _check_one_state(following, "transition(x_prev, t)", "transition", initial.event_shape)
        _check_same_kind(_dtype(initial), _dtype(following))
        self.initial = initial
        self.transition = transition
        self.length = length
        self._support = constraints.independent(following.support, 1)
        super().__init__((), (length, *initial.event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Support of the transition, with the time axis in front."""
        return self._support

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Chains of shape `sample_shape + event_shape`."""
        assert is_prng_key(key)
        keys = random.split(key, sample_shape) if sample_shape else key
        return _vmap_leading(self._sample_one, len(sample_shape))(keys)

    def _sample_one(self, key: Key[Array, ""]) -> Array:
        key_first, key_rest = random.split(key)
        first = jnp.asarray(self.initial.sample(key_first), _dtype(self.initial))

        def step(previous, t):
            state = self.transition(previous, t).sample(random.fold_in(key_rest, t)).astype(first.dtype)
            return state, state

        _, rest = lax.scan(step, first, jnp.arange(1, self.length))
        return jnp.concatenate([first[None], rest])

    def log_prob(self, value: Array, intermediates=None) -> Float[Array, "..."]:
        """log p(x_{0:T-1}), all transitions at once."""
        return _vmap_leading(self._log_prob_one, jnp.ndim(value) - len(self.event_shape))(value)

    def _log_prob_one(self, value: Array) -> Float[Array, ""]:
        def transition_log_prob(previous, state, t):
            return self.transition(previous, t).log_prob(state)

        rest = jax.vmap(transition_log_prob)(value[:-1], value[1:], jnp.arange(1, self.length))
        return self.initial.log_prob(value[0]) + rest.sum()


class Emission(dist.Distribution):
    """The law of y_{0:T-1} given the states: made by `emission`, batch shape (T,).

    Attributes:
        fn: `(x_t, t) -> Distribution` of one observation.
        states: x, leading axis T.
    """

    pytree_data_fields = ("states",)
    pytree_aux_fields = ("fn", "_support")

    def __init__(self, fn: Transition, states: Array, *, validate_args: bool | None = None):
        states = jnp.asarray(states)
        if states.ndim == 0:
            raise ValueError("emission: x must have a leading time axis, got a scalar.")
        one = fn(states[0], jnp.array(0))
        _check_one_state(one, "fn(x_t, t)", "emission", None)
        self.fn = fn
        self.states = states
        self._support = one.support
        super().__init__((states.shape[0],), one.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Support of one observation."""
        return self._support

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Observations of shape `sample_shape + (T,) + event_shape`."""
        assert is_prng_key(key)
        keys = random.split(key, sample_shape) if sample_shape else key
        return _vmap_leading(self._sample_one, len(sample_shape))(keys)

    def _sample_one(self, key: Key[Array, ""]) -> Array:
        times = jnp.arange(self.batch_shape[0])
        keys = random.split(key, self.batch_shape[0])
        return jax.vmap(lambda x_t, t, key: self.fn(x_t, t).sample(key))(self.states, times, keys)

    def log_prob(self, value: Array, intermediates=None) -> Float[Array, "... T"]:
        """log g_t(y_t | x_t) of every time."""
        return _vmap_leading(self._log_prob_one, jnp.ndim(value) - 1 - len(self.event_shape))(value)

    def _log_prob_one(self, value: Array) -> Float[Array, "T"]:
        times = jnp.arange(self.batch_shape[0])
        return jax.vmap(lambda x_t, t, y_t: self.fn(x_t, t).log_prob(y_t))(self.states, times, value)


def emission(fn: Transition, x: Array) -> Emission:
    """The law of observations that each see one state, equation (1).

    Args:
        fn: `(x_t, t) -> Distribution` of y_t with batch shape (); `t` is a traced integer, from 0:
            index covariates as `X[t]`. It must not use the whole of `x`.
        x: states, leading axis T, usually a `StateSpace` site.

    Raises:
        ValueError: if `fn` returns a batch of distributions, or `x` has no time axis.
        TypeError: if `fn` returns no Distribution.

    Examples:
        >>> from emberwalk.models import StateSpace, emission
        >>> def model(y):
        ...     x = numpyro.sample("x", StateSpace(
        ...         dist.Normal(0.0, 1.0), lambda prev, t: dist.Normal(prev, 0.1), y.shape[0]))
        ...     numpyro.sample("y", emission(lambda x_t, t: dist.Poisson(jnp.exp(x_t)), x), obs=y)
        >>> mcmc = MCMC(NUTS(model), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.array([1, 0, 2]))
        >>> mcmc.get_samples()["x"].shape
        (5, 3)
    """
    return Emission(fn, x)


def _check_one_state(law, what: str, argument: str, event_shape: tuple[int, ...] | None) -> None:
    if not isinstance(law, dist.Distribution):
        raise TypeError(f"{what} must be a numpyro Distribution, got {type(law).__name__}.")
    if law.batch_shape != ():
        raise ValueError(
            f"{what} must have batch shape (), got {law.batch_shape}: "
            f"write `.to_event({len(law.batch_shape)})` to make the batch one state."
        )
    if event_shape is not None and law.event_shape != event_shape:
        raise ValueError(f"{argument} has event shape {law.event_shape}, but initial has {event_shape}.")


def _check_same_kind(initial, following) -> None:
    if jnp.issubdtype(initial, jnp.floating) != jnp.issubdtype(following, jnp.floating):
        raise ValueError(
            f"initial draws {initial} and transition draws {following}: both must be continuous or both discrete. "
            "A fixed start of a continuous state is `Delta(jnp.array(0.0))`."
        )


def _dtype(law: dist.Distribution):
    return jax.eval_shape(law.sample, random.key(0)).dtype


def _vmap_leading(fn: Callable, ndim: int) -> Callable:
    """`fn` over `ndim` leading axes."""
    for _ in range(ndim):
        fn = jax.vmap(fn)
    return fn
