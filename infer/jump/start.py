"""From a model with a jump process to a proposal for all its latents: the rates first, then whatever they are made of.

    EM on the data           ->  sqrt(q_ij) = m_ij +- s_ij,   s_ij = (R_i + b)^(-1/2) / 2                   (1)
    pulled back              ->  u_0 = argmin -log prior(u) + sum_ij ((sqrt q_ij(u) - m_ij) / s_ij)^2 / 2   (2)
    Newton on the posterior  ->  its mode, curvature and skewness in u                                      (3)

u is the vector of all latents, unconstrained. (1) knows nothing of how rates are made, (2) nothing of the data but
(1): so log rates, three parameters of a mechanism, covariates and hierarchies are all begun alike, and (3) has a start
from which it converges. sqrt q is what (1) knows equally well at all rates. The prior of the process in (1) is
`RatePrior`, which is left behind in (3).

Where labels may be wrong, (1) is EM through the filter with the noise inferred, and (2) has a term for it; where there
are measurements, guessed labels stand for them and (2) has their log density. Rates that differ between paths are
begun as the same for all.

What a reader would get wrong: nothing here depends on a key of a chain, so that chains together do this once.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logit
from jaxtyping import Array, Bool, Float, Int
from numpyro import handlers
from numpyro.infer import init_to_median
from numpyro.infer.util import (
    _prepare_model_for_potential,
    _transforms_from_trace,
    potential_energy,
    transform_fn,
)

from ...kernels.jump import (
    Fit,
    Mode,
    Parameters,
    PathStatistics,
    Proposal,
    RatePrior,
    SkewLaplace,
    change_rate,
    counts_likelihood,
    dwell_times,
    em,
    labels_likelihood,
    laplace,
    newton,
    rates_to_vector,
    tabled,
)
from ...models import MarkovJumpCounts, MarkovJumpProcess
from ...models.jump_inputs import is_matrix
from .khat import pareto_khat
from .sites import ByCounts, Hidden, Labels, Law, Model, find_site, hard_labels, is_exact, paths_of

type Flat = Float[Array, " d"]

_EM_STEPS, _EM_STEPS_OF_FILTER, _FIRST_NOISE = 5, 10, 0.05
_PULL_STEPS, _MODE_STEPS = 30, 20
_COLUMNS = 8  # of a Hessian through the filter at once
_MOST_OF_NEWTON = 200  # latents; beyond, L-BFGS and the diagonal of the curvature
_LBFGS_STEPS = 300
_DRAWS = 1000
_MANY_LABELS = 30_000


def once(arguments: Any) -> dict[str, Any]:
    """Options of the compiler for a start, which runs once: compiling is most of it, unless there are many labels."""
    largest = max((jnp.size(leaf) for leaf in jax.tree.leaves(arguments)), default=0)
    return {"xla_backend_optimization_level": int(largest > _MANY_LABELS)}


class Refinement(NamedTuple):
    """What a kernel or guide begins with.

    Attributes:
        fit: density on u.
        proposal: the same with tails, for a sampler.
        starts: 1000 draws of it for chains to begin at, `[1000, d]`; the mode instead of those without a density.
        pareto_khat: of these draws.
        rates: of EM, `[n, n]`.
        label_noise: of EM; 0 for labels that are right.
        num_clipped_lags: lags too long for the fastest rate at the mode.
        fell_back: whether Newton began at the prior median, since the density was not finite at (2).
        converged: whether Newton did.
        depends: whether rates at a draw are other than at the prior median.
        estimate: constrained values of all latents at the mode.
    """

    fit: SkewLaplace
    proposal: Proposal
    starts: Float[Array, "S d"]
    pareto_khat: Float[Array, ""]
    rates: Float[Array, "n n"]
    label_noise: Float[Array, ""]
    num_clipped_lags: Int[Array, ""]
    fell_back: Bool[Array, ""]
    converged: Bool[Array, ""]
    depends: Bool[Array, ""]
    estimate: dict[str, Array]


class FlatModel:
    """A model as functions of all its latents in one unconstrained vector.

    Args:
        model: with one jump process that is observed.
        site: its name, or None for the only one.
        who: asks, for the words of errors.
        args: of the model.
        kwargs: of the model.

    Attributes:
        site: name of the jump process.
        median: of the prior, as u.
        unravel: u -> unconstrained values by site.
        inv_transforms: unconstrained to constrained, by site.
        replays: whether the model is run to constrain values.
        prepared: the model with its params and a key, right labels counted.
    """

    def __init__(self, model: Model, site: str | None, who: str, args: tuple, kwargs: dict[str, Any]):
        self.args, self.kwargs = args, kwargs
        seeded = handlers.substitute(handlers.seed(model, random.key(0)), substitute_fn=init_to_median)
        trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        self.site = find_site(trace, site, who)
        self.inv_transforms, has_deterministic, dynamic, _ = _transforms_from_trace(trace)
        self.replays = has_deterministic or dynamic
        latents = {
            name: message["value"]
            for name, message in trace.items()
            if message["type"] == "sample" and not message["is_observed"]
        }
        if not latents:
            raise ValueError(f"{who}: the model has no latent site, and there is nothing to sample.")
        z = transform_fn(self.inv_transforms, latents, invert=True)
        self.median, self.unravel = ravel_pytree(z)
        self._plain = _prepare_model_for_potential(model, trace, enum=False)
        self.prepared = _prepare_model_for_potential(ByCounts(model, self.site), trace, enum=False)

    def log_density(self, u: Flat) -> Float[Array, ""]:
        """Of the posterior, up to the evidence."""
        return -potential_energy(self.prepared, self.args, self.kwargs, self.unravel(u))

    def apart(self, u: Flat) -> tuple[Float[Array, ""], Law, Any]:
        """Log density of all but the jump process, its law, and the observed value."""
        hidden = Hidden(self._plain, self.site)
        log_prior = -potential_energy(hidden, self.args, self.kwargs, self.unravel(u))
        return log_prior, hidden.law, hidden.value


def refine(flat: FlatModel, labels: Labels, who: str) -> Refinement:
    """Equations (1) to (3), once for all chains.

    Args:
        flat: the model.
        labels: see `hard_labels`.
        who: asks, for the words of errors.
    """
    _, law, value = flat.apart(flat.median)
    known = _rates_of_data(law, value, labels, who)
    columns = None if is_exact(law) else _COLUMNS
    pulled = _pulled_back(flat, known)
    usable = jnp.isfinite(flat.log_density(pulled))
    mode, fit = _posterior(flat.log_density, jnp.where(usable, pulled, flat.median), columns)
    proposal = tabled(fit)
    draws = proposal.sample(random.key(1), (_DRAWS,))
    log_densities = lax.map(flat.log_density, draws)
    log_weights = log_densities - proposal.log_prob(draws)
    (_, at_mode, _), (_, at_draw, _) = flat.apart(mode.position), flat.apart(draws[0])
    return Refinement(
        fit=fit,
        proposal=proposal,
        starts=jnp.where(jnp.isfinite(log_densities)[:, None], draws, fit.mode),
        pareto_khat=pareto_khat(log_weights),
        rates=known.fit.parameters.rates,
        label_noise=known.fit.parameters.label_noise,
        num_clipped_lags=jnp.max(at_mode.num_clipped_lags),
        fell_back=~usable,
        converged=mode.converged,
        depends=jnp.any(jnp.asarray(at_draw.rates) != jnp.asarray(law.rates)),
        estimate=transform_fn(flat.inv_transforms, flat.unravel(fit.mode)),
    )


def check_refined(known: Refinement, site: str | None, who: str) -> None:
    """Refuse rates that nothing infers; say where the start is no refined one.

    Args:
        known: once it is computed.
        site: name of the jump process.
        who: asks, for the words.

    Raises:
        ValueError: rates that depend on no latent.
    """
    if not known.depends:
        raise ValueError(
            f"{who}: the rates of {site!r} depend on no latent site; there is nothing to infer of them. Sample them, "
            "or use NUTS for the rest."
        )
    if known.fell_back:
        warnings.warn(fell_back(site, who), UserWarning, stacklevel=4)


def fell_back(site: str | None, who: str) -> str:
    """What is said where the start is no refined one."""
    return (
        f"{who}: the density was not finite where the refined rates of {site!r} lead, and the start is that of the "
        "prior median: look for priors that exclude what the data say."
    )


class _Known(NamedTuple):
    """Equation (1), and what stands for the data in (2).

    Attributes:
        fit: of EM.
        mean: of sqrt q, as `rates_to_vector` has it.
        sd: likewise.
        labels: guessed states of measurements, else None.
    """

    fit: Fit
    mean: Float[Array, " m"]
    sd: Float[Array, " m"]
    labels: Int[Array, "..."] | None


def _rates_of_data(law: Law, value: Any, labels: Labels, who: str) -> _Known:
    n, states = law.num_states, None
    if isinstance(law, MarkovJumpCounts):
        stats, exact = _pooled(law.statistics), True
    else:
        states, exact = hard_labels(law, value, labels, who), is_exact(law)
        paths = paths_of(law, states)
        stats = paths.statistics(n, exact)
    log_likelihood = counts_likelihood(stats) if exact else labels_likelihood(paths.labels, paths.grid, paths.seen)
    slab = RatePrior().slab(change_rate(stats), n)
    q = (jnp.asarray(stats.counts, float).sum(0) + slab.shape) / (dwell_times(stats)[:, None] + slab.rate)
    q = jnp.where(jnp.eye(n, dtype=bool), 0, q)
    start = Parameters(q, jnp.full(n, 1 / n), jnp.asarray(0.0 if exact else _FIRST_NOISE))
    steps = _EM_STEPS if exact else _EM_STEPS_OF_FILTER
    fit = em(log_likelihood, start, slab.shape, slab.rate, min_steps=steps, max_steps=steps)
    sd = jnp.broadcast_to(0.5 / jnp.sqrt(fit.expected.dwell + slab.rate)[:, None], q.shape)
    measured = isinstance(law, MarkovJumpProcess) and law.emission is not None
    mean = jnp.sqrt(rates_to_vector(fit.parameters.rates))
    return _Known(fit, mean, rates_to_vector(sd), states if measured else None)


def _pooled(stats: PathStatistics) -> PathStatistics:
    """Counts of several sets of paths as those of one."""
    counts, n = jnp.asarray(stats.counts), stats.num_states
    lags = jnp.broadcast_to(jnp.asarray(stats.lags), counts.shape[:-2]).ravel()
    return stats._replace(
        lags=lags,
        counts=counts.reshape(-1, n, n),
        first=jnp.asarray(stats.first).reshape(-1, n).sum(0),
        total_time=jnp.sum(jnp.asarray(stats.total_time)),
    )


def _pulled_back(flat: FlatModel, known: _Known) -> Flat:
    """Equation (2)."""

    def log_density(u: Flat) -> Float[Array, ""]:
        log_prior, law, value = flat.apart(u)
        q = rates_to_vector(law.rates)
        # links that are never there have no slope
        root = jnp.where(q > 0, jnp.sqrt(jnp.where(q > 0, q, 1)), 0)
        total = log_prior - _mean_square((root - known.mean) / known.sd, known.mean.size)
        if known.labels is not None:
            assert isinstance(law, MarkovJumpProcess)
            return total + _log_density_of_measurements(law, value, known.labels)
        noise = None if isinstance(law, MarkovJumpCounts) else law.label_noise
        if noise is None or is_matrix(noise, law.num_states):
            return total
        found = logit(jnp.clip(known.fit.parameters.label_noise, 1e-6, 0.999))
        away = logit(jnp.clip(noise, 1e-6, 0.999)) - found
        return total - _mean_square(away * jnp.sqrt(known.fit.expected.wrong_labels + 0.5), 1)

    return _climbed(log_density, flat.median, _PULL_STEPS)


def _mean_square(away: Array, size: int) -> Float[Array, ""]:
    """Half the sum of squares, once for all groups of paths together."""
    return jnp.sum(away**2) * size / (2 * away.size)


def _log_density_of_measurements(law: MarkovJumpProcess, value: Any, labels: Array) -> Float[Array, ""]:
    log_emission = law.log_emission(value)
    states = jnp.broadcast_to(labels, log_emission.shape[:-1])[..., None]
    each = jnp.take_along_axis(log_emission, states, -1)[..., 0]
    return jnp.sum(each if law.seen is None else jnp.where(jnp.asarray(law.seen), each, 0))


def _climbed(log_density: Callable[[Flat], Array], start: Flat, steps: int) -> Flat:
    if start.size > _MOST_OF_NEWTON:
        return _lbfgs(log_density, start)
    return newton(log_density, start, max_steps=steps).position


def _posterior(log_density: Callable[[Flat], Array], start: Flat, columns: int | None) -> tuple[Mode, SkewLaplace]:
    """Equation (3); a normal of unit variance where there is no curvature to be had."""
    if start.size > _MOST_OF_NEWTON:
        mode, columns = _with_diagonal(log_density, _lbfgs(log_density, start)), columns or _MOST_OF_NEWTON
    else:
        mode = newton(log_density, start, max_steps=_MODE_STEPS, batch_size=columns)
    fit = laplace(log_density, mode, batch_size=columns)
    usable = jnp.isfinite(mode.position).all() & jnp.isfinite(fit.cov).all()
    nothing = jnp.full_like(start, jnp.inf)
    plain = SkewLaplace(start, jnp.eye(start.size, dtype=start.dtype), nothing, nothing)
    return mode, jax.tree.map(lambda a, b: jnp.where(usable, a, b), fit, plain)


def _lbfgs(log_density: Callable[[Flat], Array], start: Flat) -> Flat:
    import optax

    def loss(u: Flat) -> Array:
        return -log_density(u)

    solver, value_and_slope = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Flat, Any], _: None) -> tuple[tuple[Flat, Any], None]:
        u, state = carry
        value, slope = value_and_slope(u, state=state)
        updates, state = solver.update(slope, state, u, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(u, updates), state), None

    return lax.scan(step, (start, solver.init(start)), length=_LBFGS_STEPS)[0][0]


def _with_diagonal(log_density: Callable[[Flat], Array], position: Flat) -> Mode:
    """The mode with the diagonal of the curvature alone."""
    value, gradient = jax.value_and_grad(log_density)(position)

    def curvature(i: Array) -> Array:
        direction = jnp.zeros_like(position).at[i].set(1)
        return -jax.jvp(jax.grad(log_density), (position,), (direction,))[1][i]

    precision = jnp.diag(lax.map(curvature, jnp.arange(position.size), batch_size=_MOST_OF_NEWTON))
    zero = jnp.zeros((), jnp.int32)
    return Mode(position, value, gradient, precision, zero + _LBFGS_STEPS, jnp.isfinite(value))
