"""What every algorithm of this wing runs on: a state-space model of ONE particle, and a cloud.

    p(x_{0:T}, y | theta) = chi(x_0) g_0(x_0) prod_{t=1}^{T} m_t(x_t | c_{t-1}) g_t(c_{t-1}, x_t),
    c_0 = F_0(x_0),   c_t = F_t(c_{t-1}, x_t)                                               (1)

The carry c is all that the future needs of the past. For a Markov chain it is x itself; an AR(2)
carries two values, a model with a clock carries the clock. Parameters are closed over. The kernels
vmap these functions over particles; nothing here is batched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

type Latents = PyTree[Array]
"""x_t: the latent values of one stage, any pytree; continuous leaves float, discrete ones integer."""

type Carry = PyTree[Array]
"""c_t: what stage t + 1 is told of the past."""


class Path(NamedTuple):
    """x_{0:T}.

    Attributes:
        initial: x_0; an empty pytree where the model has a fixed start.
        latents: x_1, ..., x_T, stacked on a leading axis of length T.
    """

    initial: Latents
    latents: Latents


class Evaluation(NamedTuple):
    """The factors of stage t at one particle.

    Attributes:
        log_transition: log m_t(x_t | c_{t-1}).
        log_likelihood: log g_t(c_{t-1}, x_t); 0 where the observation is missing.
        carry: c_t.
    """

    log_transition: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    carry: Carry


class Proposed(NamedTuple):
    """A particle of stage t, drawn and weighed.

    Attributes:
        latents: x_t.
        carry: c_t.
        log_weight: log g_t; with a proposal q, log g_t + log m_t - log q_t.
    """

    latents: Latents
    carry: Carry
    log_weight: Float[Array, ""]


type Propose = Callable[[Key[Array, ""], Carry, Int[Array, ""], Bool[Array, ""], Latents], Proposed]


class SSM(NamedTuple):
    """A state-space model, equation (1), as functions of one particle.

    `t` is a traced integer, 1 for the first transition, `length` for the last. The first eight
    fields are what a model written by hand gives.

    Attributes:
        init: key -> x_0, a draw of chi; an empty pytree where the start is fixed.
        init_logpdf: x_0 -> log chi(x_0).
        init_carry: x_0 -> c_0.
        init_loglik: x_0 -> log g_0(x_0); 0 where nothing is observed at the start.
        sample: (key, c_{t-1}, t) -> x_t, a draw of m_t.
        evaluate: (c_{t-1}, x_t, t) -> Evaluation.
        length: T, the number of transitions.
        order: Markov order p: how many factors after stage s still see x_s. None: all of them,
            and backward sampling is not to be had.
        propose: (key, c_{t-1}, t, is_reference, reference) -> Proposed: `sample`, the reference in
            its place where the scalar `is_reference` is true, and `evaluate`. None: made of those
            two. A front-end whose model would run twice gives its own; `with_proposal` another law.
        to_noise: (c_{t-1}, x_t, t) -> z_t with x_t = loc + scale z_t, loc and scale functions of
            c_{t-1} and of earlier latents of the same stage; discrete leaves stay as they are.
            None where some continuous latent is not location-scale.
        from_noise: (c_{t-1}, z_t, t) -> (x_t, c_t, log |scale|), the map back.
    """

    init: Callable[[Key[Array, ""]], Latents]
    init_logpdf: Callable[[Latents], Float[Array, ""]]
    init_carry: Callable[[Latents], Carry]
    init_loglik: Callable[[Latents], Float[Array, ""]]
    sample: Callable[[Key[Array, ""], Carry, Int[Array, ""]], Latents]
    evaluate: Callable[[Carry, Latents, Int[Array, ""]], Evaluation]
    length: int
    order: int | None = 1
    propose: Propose | None = None
    to_noise: Callable[[Carry, Latents, Int[Array, ""]], Latents] | None = None
    from_noise: Callable[[Carry, Latents, Int[Array, ""]], tuple[Latents, Carry, Float[Array, ""]]] | None = (
        None
    )


class Cloud(NamedTuple):
    """N weighted particles of one stage; a leading axis N on every leaf.

    Attributes:
        latents: x_t^i.
        carry: c_t^i.
        log_weights: log g_t (see `Proposed`), unnormalised; -inf for an impossible particle, never NaN.
    """

    latents: Latents
    carry: Carry
    log_weights: Float[Array, "N"]


def check_count(argument: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{argument} must be a whole number of at least {least}, got {value!r}.")


def take(tree: PyTree[Array], index: int | Int[Array, "..."]) -> PyTree[Array]:
    """Row(s) `index` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def propose(ssm: SSM) -> Propose:
    """`ssm.propose`, or one made of `sample` and `evaluate`."""
    if ssm.propose is not None:
        return ssm.propose

    def sample_then_evaluate(key, carry, t, is_reference, reference):
        latents = _reference_or(ssm.sample(key, carry, t), is_reference, reference)
        factors = ssm.evaluate(carry, latents, t)
        return Proposed(latents, factors.carry, factors.log_likelihood)

    return sample_then_evaluate


def with_proposal(
    ssm: SSM,
    sample: Callable[[Key[Array, ""], Carry, Int[Array, ""]], Latents],
    log_prob: Callable[[Carry, Latents, Int[Array, ""]], Float[Array, ""]],
) -> SSM:
    """The model with particles drawn from q_t(. | c_{t-1}) and weighed by g_t m_t / q_t.

    Args:
        ssm: the model; its start is still drawn from chi.
        sample: (key, c_{t-1}, t) -> x_t, a draw of q_t; q_t must reach wherever m_t g_t does.
        log_prob: (c_{t-1}, x_t, t) -> log q_t(x_t).

    Examples:
        >>> from emberwalk.kernels.smc import particle_filter, with_proposal
        >>> from emberwalk.models.ssm_examples import linear_gaussian_ssm
        >>> from jax.scipy.stats import norm
        >>> ssm = linear_gaussian_ssm(jnp.array([1.5, -0.5, 2.0]), phi=0.9, sx=1.0)
        >>> wider = with_proposal(
        ...     ssm,
        ...     lambda key, c, t: 0.9 * c + 1.5 * random.normal(key),
        ...     lambda c, x, t: norm.logpdf(x, 0.9 * c, 1.5))
        >>> particle_filter(random.key(0), wider, 100).ess.shape
        (3,)
    """

    def propose(key, carry, t, is_reference, reference):
        latents = _reference_or(sample(key, carry, t), is_reference, reference)
        factors = ssm.evaluate(carry, latents, t)
        log_ratio = factors.log_transition - log_prob(carry, latents, t)
        return Proposed(latents, factors.carry, factors.log_likelihood + log_ratio)

    return ssm._replace(propose=propose)


def _reference_or(drawn: Latents, is_reference: Bool[Array, ""], reference: Latents) -> Latents:
    return jax.tree.map(lambda own, new: jnp.where(is_reference, own, new), reference, drawn)
