"""Markov jump processes inside a NumPyro model, seen at some times, with labels that may be wrong or with noise.

    x jumps between n states at rates q_ij,   p(x(t_l) = j | x(t_{l-1}) = i) = P(t_l - t_{l-1})_ij          (1)
    log p(y) = log pi_0(y_1) + sum_l log P(t_l - t_{l-1})_{y_{l-1} y_l}              labels that are right  (2)
    log p(y) = log sum_x p(x) prod_l e(y_l | x_l)              labels that may be wrong, or measurements    (3)

Rates are a matrix of whatever the model samples: log rates, three parameters of a mechanism, a regression on
covariates, a hierarchy of subjects. (3) is a filter, which sums over all paths. Nothing between the times is made.

    jump_counts.py    (2) from counts: one number for all paths, at a cost that does not depend on how many there are
    jump_ratchet.py   the flashing ratchet, and paths of it
    jump_law.py       rates and the law of the first state, which both distributions have
    jump_inputs.py    what is refused

The algorithms are those of `kernels/jump`. What a reader would get wrong: label noise is the probability that a label
is wrong, not that it is replaced by any of n; and times that are traced hide how many lags differ, so that a grid must
say it.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.distributions import constraints
from numpyro.util import is_prng_key

from ..kernels.jump import (
    LagGrid,
    ScaledEmission,
    confusion_matrix,
    num_clipped_lags,
    path_log_likelihood,
    scaled_emission,
    scaled_labels,
    transition_matrices,
)
from ..kernels.jump.filter import inverse_cdf
from ..kernels.jump.simulate import observed_states
from ..kernels.jump.transition import log_transitions
from .jump_counts import MarkovJumpCounts
from .jump_inputs import (
    MOST_PAIRS,
    Initial,
    Mask,
    Shape,
    broadcast_batch,
    check_labels,
    check_value,
    emission_batch,
    grid_for,
    is_matrix,
    noise_batch,
    seen_pairs,
)
from .jump_law import JumpLaw
from .jump_ratchet import RatchetPaths, flashing_ratchet, load_flashing_ratchet

__all__ = [
    "MarkovJumpCounts",
    "MarkovJumpProcess",
    "RatchetPaths",
    "flashing_ratchet",
    "load_flashing_ratchet",
]


class _Rows(NamedTuple):
    """All paths of a batch in a row, as the kernels take them.

    Attributes:
        table: P of each distinct lag, for one matrix of rates after the other, `[B U, n, n]`.
        index: into the table, `[K, L - 1]`.
        initial: `[n]` or `[K, n]`.
        seen: `[K, L]`, or None.
    """

    table: Float[Array, "BU n n"]
    index: Int[Array, "K L-1"]  # type: ignore[assignment]  # tuples have a method of this name
    initial: Float[Array, " n"] | Float[Array, "K n"]
    seen: Bool[Array, "K L"] | None


class MarkovJumpProcess(JumpLaw):
    """Paths of a Markov jump process at given times: event shape `(L,)`, with an emission `(L, *event of it)`.

    The batch shape is that of the leading axes of all arguments together: rates `[n, n]` and times `[K, L]` are K
    paths with the same rates, for a `plate("paths", K)`; rates `[S, 1, n, n]` and times `[K, L]` are K paths for each
    of S subjects. A value is the labels, integers from 0 on, or the measurements. `log_prob` is that of each path.

    Args:
        rates: q `[..., n, n]`, from row to column, per unit of time; the diagonal is ignored.
        times: `[L]` for all paths, or `[..., L]`, not falling, any spacing.
        initial: law of the state at the first point seen: None for the uniform one (with right labels the same as
            conditioning on the first), "stationary" for that of the rates, or probabilities `[..., n]`.
        label_noise: None where labels are right; the probability rho that one is wrong, for all or for each path
            `[...]`, below (n - 1) / n (where it is sampled the prior should say so, such as Beta(1.5, 10.5)); or the
            law of labels for each state, a matrix `[..., n, n]`, rows true states. What ends in `[n, n]` is a matrix.
        emission: law of a measurement for each state, with batch shape `(..., n)`, such as `dist.Normal(levels, sd)`.
            States have no names of their own then: give it ordered levels.
        mask: True where a point was seen, `[L]` or `[..., L]`; what stands elsewhere, NaN too, is not looked at. A draw
            repeats there the state before.
        grid: `lag_grid(times, mask)`. Needed where times or mask are traced: as arguments of `svi.run` or of a run
            with `jit_model_args=True`, and in a subsampled plate, `grid.take(rows)`; it may be traced itself.
            Otherwise it spares sorting the times at every construction.

    Raises:
        ValueError: negative rates, times that fall, shapes that do not broadcast, noise or initial that are no
            probabilities (noise that is a JAX array may be a draw, and be anywhere in [0, 1]), traced times without a
            grid; in `log_prob`, values that are no labels. Each with the value.

    A density is NaN where traced rates are negative or NaN.

    Examples:
        >>> from emberwalk.kernels.jump import simulate_batch
        >>> from emberwalk.models import MarkovJumpProcess
        >>> times = np.linspace(0.0, 5.0, 26)
        >>> labels = simulate_batch(0, np.array([[0.0, 1.0], [0.5, 0.0]]), times, num_paths=40, label_noise=0.1)
        >>> def model(labels):
        ...     up, down = numpyro.sample("rates", dist.LogNormal(0, 1).expand([2]).to_event(1))
        ...     rho = numpyro.sample("rho", dist.Beta(1.5, 10.5))
        ...     q = jnp.array([[0.0, up], [down, 0.0]])
        ...     with numpyro.plate("paths", len(labels)):
        ...         law = MarkovJumpProcess(q, times, initial="stationary", label_noise=rho)
        ...         numpyro.sample("y", law, obs=labels)
        >>> mcmc = MCMC(NUTS(model), num_warmup=30, num_samples=30, progress_bar=False)
        >>> mcmc.run(random.key(0), labels)
        >>> mcmc.get_samples()["rates"].shape
        (30, 2)
    """

    pytree_data_fields = ("times", "label_noise", "emission", "seen", "grid")

    def __init__(
        self,
        rates: Float[ArrayLike, "*batch n n"],
        times: Float[ArrayLike, "*batch L"],
        *,
        initial: Initial = None,
        label_noise: ArrayLike | None = None,
        emission: dist.Distribution | None = None,
        mask: Mask = None,
        grid: LagGrid | None = None,
        validate_args: bool | None = None,
    ):
        of_process = self.take_process(rates, initial)
        n = self.num_states
        self.times, self.seen, self.label_noise = times, mask, label_noise
        self.emission: Any = emission
        self.grid = grid_for(times, mask, grid)
        batch = broadcast_batch(
            **of_process,
            times=np.shape(times)[:-1],
            mask=() if mask is None else np.shape(mask)[:-1],
            grid=np.shape(self.grid.index)[:-1],
            emission=emission_batch(emission, label_noise, n),
            label_noise=noise_batch(label_noise, n),
        )
        event = (np.shape(times)[-1], *(() if emission is None else emission.event_shape))
        super().__init__(batch, event, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """States at every point, or whatever the emission gives."""
        states = constraints.integer_interval(0, self.num_states - 1)
        return constraints.independent(states if self.emission is None else self.emission.support, 1)

    @property
    def num_clipped_lags(self) -> Int[Array, "*batch"]:
        """Lags too long for the fastest rate, see `kernels.jump.num_clipped_lags`."""
        return num_clipped_lags(self.rates, self.grid.lags)

    def log_prob(self, value: ArrayLike, intermediates=None) -> Float[Array, "..."]:
        """Equation (2) or (3) for each path; NaN where rates are no rates, or labels no states."""
        shape = check_value(value, self.batch_shape, self.event_shape, "MarkovJumpProcess")
        if self.emission is None and self._validate_args:
            check_labels(value, self.seen, self.num_states, self.grid, exact=self.label_noise is None)
        exact = self.emission is None and self.label_noise is None
        found = self._exact(value, shape) if exact else self._filtered(value, shape)
        valid = self.has_rates if self.emission is not None else self.has_rates & self._holds_states(value)
        return jnp.where(valid, found, jnp.nan)

    def log_emission(self, value: ArrayLike) -> Float[Array, "*batch L n"]:
        """log e of (3): of each value, for each state that it may come from; what the kernels' smoothers take.

        Args:
            value: as for `log_prob`; `[..., L]`, or with the event axes of the emission.

        Examples:
            >>> from emberwalk.kernels.jump import forward_backward, transition_matrices
            >>> from emberwalk.models import MarkovJumpProcess
            >>> q, current = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[0.1, 0.2, 1.9]])
            >>> channel = MarkovJumpProcess(q, np.arange(3.0) / 4, emission=dist.Normal(jnp.array([0.0, 2.0]), 0.5))
            >>> P = transition_matrices(q, channel.grid.lags)
            >>> known = forward_backward(
            ...     channel.log_emission(current), P, channel.grid.index[None], channel.initial_law
            ... )
            >>> jnp.argmax(known.states[0], -1).tolist()
            [0, 0, 1]
        """
        shape = check_value(value, self.batch_shape, self.event_shape, "MarkovJumpProcess")
        if self.emission is not None:
            return self._log_density_of_measurements(jnp.broadcast_to(value, shape + self.event_shape))
        n, dtype = self.num_states, jnp.result_type(float)
        confusion = jnp.eye(n, dtype=dtype) if self.label_noise is None else self._confusion()
        # a product, whose derivative is one as well: that of a look-up scatters
        seen_given = jax.nn.one_hot(value, n, dtype=confusion.dtype) @ jnp.swapaxes(confusion, -1, -2)
        return jnp.log(jnp.maximum(seen_given, jnp.finfo(seen_given.dtype).tiny))

    def sample(self, key: Key[Array, ""], sample_shape: Shape = ()) -> Array:
        """Draws of shape `sample_shape + batch_shape + event_shape`: states by (1), then what is seen of them."""
        assert is_prng_key(key)
        shape = (*sample_shape, *self.batch_shape)
        key_states, key_seen = random.split(key)
        rows = self._rows(shape)
        states = observed_states(key_states, rows.table, rows.index, rows.initial)
        if self.emission is not None:
            return self._measurements(key_seen, states.reshape(*shape, -1), sample_shape)
        if self.label_noise is not None:
            states = self._labels(key_seen, states, shape)
        return states.reshape(*shape, -1)

    # Of all paths in a row

    def _rows(self, shape: Shape) -> _Rows:
        table = transition_matrices(self.rates, self.grid.lags)
        of_rates, (num_lags, n) = table.shape[:-3], table.shape[-3:-1]
        which = jnp.arange(np.prod(of_rates, dtype=int)).reshape(of_rates)
        index = jnp.asarray(self.grid.index) + num_lags * which[..., None]
        initial, seen = self.initial_law, self.seen
        return _Rows(
            table.reshape(-1, n, n),
            _flat(index, shape, 1),
            initial if initial.ndim == 1 else _flat(initial, shape, 1),
            None if seen is None else _flat(seen, shape, 1),
        )

    def _exact(self, value: ArrayLike, shape: Shape) -> Float[Array, "..."]:
        rows, n = self._rows(shape), self.num_states
        if jnp.size(value) > MOST_PAIRS and rows.table.dtype == jnp.float32:
            warnings.warn(
                f"MarkovJumpProcess: {jnp.size(value)} labels. In float32 the sum of so many logarithms is known to "
                ".04 only, and Metropolis is wrong with it: take MarkovJumpCounts(..., relative=True), or x64.",
                UserWarning,
                stacklevel=3,
            )
        pairs = seen_pairs(value, np.ones(self.event_shape, bool) if self.seen is None else self.seen)
        before, after, pair = (_flat(x, shape, 1) for x in (pairs.before, pairs.after, pairs.pair))
        log_table = log_transitions(rows.table).ravel()
        steps = jnp.where(pair, log_table[(rows.index * n + before) * n + after], 0).sum(-1).reshape(shape)
        first = jnp.broadcast_to(pairs.first, shape)[..., None]
        # chosen before the logarithm, whose slope at a state that is never there is infinite
        starts = jnp.take_along_axis(jnp.broadcast_to(self.initial_law, (*shape, n)), first, -1)[..., 0]
        return jnp.where(pairs.begun, jnp.log(starts), 0) + steps

    def _filtered(self, value: ArrayLike, shape: Shape) -> Float[Array, "..."]:
        rows = self._rows(shape)
        seen = self._scaled(value, shape, rows.seen)
        return path_log_likelihood(seen, rows.table, rows.index, rows.initial).reshape(shape)

    def _scaled(self, value: ArrayLike, shape: Shape, seen: Mask) -> ScaledEmission:
        if self.emission is not None:
            return scaled_emission(_flat(self.log_emission(value), shape, 2), seen)
        confusion = self._confusion()
        return scaled_labels(
            _flat(value, shape, 1), confusion if confusion.ndim == 2 else _flat(confusion, shape, 2), seen
        )

    def _holds_states(self, value: ArrayLike) -> Bool[Array, "..."]:
        inside = (jnp.asarray(value) >= 0) & (jnp.asarray(value) < self.num_states)
        return jnp.all(inside if self.seen is None else inside | ~jnp.asarray(self.seen), -1)

    # Of what is seen

    def _confusion(self) -> Float[Array, "*batch n n"]:
        n = self.num_states
        noise = jnp.asarray(self.label_noise, jnp.result_type(float))
        if is_matrix(noise, n):
            return noise
        return jnp.vectorize(lambda rho: confusion_matrix(rho, n), signature="()->(n,n)")(noise)

    def _labels(self, key: Key[Array, ""], states: Int[Array, "K L"], shape: Shape) -> Int[Array, "K L"]:
        confusion = _flat(self._confusion(), shape, 2)
        rows = confusion[jnp.arange(len(states))[:, None], states].reshape(-1, self.num_states)
        return inverse_cdf(random.uniform(key, (states.size,), rows.dtype), rows).reshape(states.shape)

    def _log_density_of_measurements(self, value: Array) -> Float[Array, "*batch L n"]:
        """Time goes to the front, since the emission has no axis for it."""
        behind = self.emission.event_dim
        if self.seen is not None:
            # whatever stands where nothing was seen has no density, and no derivative
            seen = jnp.asarray(self.seen).reshape(*jnp.shape(self.seen), *(1,) * behind)
            value = jnp.where(seen, value, self.emission.support.feasible_like(value))
        by_time = jnp.expand_dims(jnp.moveaxis(value, -1 - behind, 0), -1 - behind)
        return jnp.moveaxis(self.emission.log_prob(by_time), 0, -2)

    def _measurements(self, key: Key[Array, ""], states: Int[Array, "*batch L"], sample_shape: Shape) -> Array:
        """A draw for each state, of which the right one is taken."""
        behind = self.emission.event_dim
        each = self.emission.expand((*self.batch_shape, self.num_states))
        draws = each.sample(key, (self.event_shape[0], *sample_shape))
        chosen = jnp.moveaxis(states, -1, 0).reshape(self.event_shape[0], *states.shape[:-1], *(1,) * (1 + behind))
        taken = jnp.take_along_axis(draws, chosen, -1 - behind).squeeze(-1 - behind)
        return jnp.moveaxis(taken, 0, -1 - behind)


def _flat(x: ArrayLike, shape: Shape, behind: int) -> Array:
    """An array of a batch with all of the batch in a row, before the axes that are no batch."""
    event = jnp.shape(x)[jnp.ndim(x) - behind :]
    return jnp.broadcast_to(x, (*shape, *event)).reshape(-1, *event)
