"""From a model with a jump process to a proposal for all its latents: the rates first, then whatever they are made of.

    EM on the data           ->  sqrt(q_ij) = m_ij +- s_ij,   s_ij = (R_i + b)^(-1/2) / 2                   (1)
    pulled back              ->  u_0 = argmin -log prior(u) + sum_ij ((sqrt q_ij(u) - m_ij) / s_ij)^2 / 2   (2)
    a climb on the posterior ->  its mode, curvature and skewness in u, by gradients alone                  (3)

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
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logit
from jaxtyping import Array, Bool, Float, Int
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_mean
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
    rates_to_vector,
    tabled,
)
from ...kernels.jump.climb import Climbed, climb, gradients_at_once
from ...kernels.jump.paths import is_traced
from ...models import MarkovJumpCounts, MarkovJumpProcess
from ...models.jump_inputs import is_matrix
from .khat import pareto_khat
from .sites import ByCounts, Hidden, Labels, Law, Model, find_site, hard_labels, is_exact, paths_of

type Flat = Float[Array, " d"]
# (part, whether it runs long, its inputs) -> its outputs
type Call = Callable[..., Any]
type Run = Callable[[Callable[[Call], Refinement]], Refinement]

_EM_STEPS, _EM_STEPS_OF_FILTER, _FIRST_NOISE = 5, 10, 0.05
_PULL_STEPS, _MODE_STEPS = 30, 20
_FEW_LAGS = 4  # up to which matrices are squared and not made of shared powers
_MOST_OF_NEWTON = 200  # latents; beyond, L-BFGS and the diagonal of the curvature
_LBFGS_STEPS, _NEARLY = 300, 0.1
_DRAWS = 1000
_MANY_LABELS = 5_000


def runner(arguments: Any) -> Run:
    """How the parts of a start are run: compiled beside each other, or as they are where data are traced.

    A start runs once, so that compiling is what it costs. Its parts are asked of the compiler at its lowest level, but
    for those that go through many labels many times; and each is traced on the shapes of those before it, while they
    are compiled in threads of their own. Called without tracers they run at once, also within a program.

    Args:
        arguments: of the model.
    """
    if is_traced(arguments):
        return lambda parts: parts(lambda part, _, *inputs: part(*inputs))
    largest = max((jnp.size(leaf) for leaf in jax.tree.leaves(arguments)), default=0)

    def run(parts: Callable[[Call], Refinement]) -> Refinement:
        programs: dict[Callable[..., Any], Future[jax.stages.Compiled]] = {}
        threads = ThreadPoolExecutor()

        def ahead(part: Callable[..., Any], is_long: bool, *shapes: Any) -> Any:
            traced = jax.jit(part).trace(*shapes)
            level = int(is_long and largest > _MANY_LABELS)
            options = {"xla_backend_optimization_level": level}
            programs[part] = threads.submit(traced.lower().compile, options)
            return traced.out_info

        try:
            parts(ahead)
            return parts(lambda part, _, *inputs: programs[part].result()(*inputs))
        finally:
            # a model that is refused is refused at once, and not when what was begun is compiled
            threads.shutdown(wait=False, cancel_futures=True)

    return run


def _gradients_at_once(law: Law) -> int | None:
    """All, where there are few counts; else one on a CPU: together all squarings of all matrices would run."""
    lags = law.statistics.lags if isinstance(law, MarkovJumpCounts) else law.grid.lags
    if is_exact(law) and jnp.shape(lags)[-1] <= _FEW_LAGS:
        return None
    return gradients_at_once()


class Refinement(NamedTuple):
    """What a kernel or guide begins with.

    Attributes:
        fit: density on u.
        half: L `[d, d]`, with L L' the inverse curvature at its mode.
        proposal: the same with tails, for a sampler.
        starts: 1000 draws of it for chains to begin at, `[1000, d]`; the likeliest instead of those without a density.
        energies: minus their log densities `[1000]`.
        pareto_khat: of these draws.
        rates: of EM, `[n, n]`.
        label_noise: of EM; 0 for labels that are right.
        num_clipped_lags: lags too long for the fastest rate at the mode.
        fell_back: whether the climb began at the prior mean, since the density was not finite at (2).
        converged: whether the climb did.
        depends: whether rates at a draw are other than at the prior mean.
        estimate: constrained values of all latents at the mode.
    """

    fit: SkewLaplace
    half: Float[Array, "d d"]
    proposal: Proposal
    starts: Float[Array, "S d"]
    energies: Float[Array, " S"]
    pareto_khat: Float[Array, ""]
    rates: Float[Array, "n n"]
    label_noise: Float[Array, ""]
    num_clipped_lags: Int[Array, ""]
    fell_back: Bool[Array, ""]
    converged: Bool[Array, ""]
    depends: Bool[Array, ""]
    estimate: dict[str, Array]


def _to_middle(site: Any) -> Any:
    """Of a prior, without a draw: programs that draw are long to compile."""
    value = init_to_mean(site)
    if value is None:
        return None
    feasible = biject_to(site["fn"].support)(jnp.zeros_like(biject_to(site["fn"].support).inv(value)))
    return jnp.where(jnp.isfinite(value), value, feasible)


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
        middle: of the prior, as u: its mean, or 0 where that is not finite.
        unravel: u -> unconstrained values by site.
        inv_transforms: unconstrained to constrained, by site.
        replays: whether the model is run to constrain values.
        prepared: the model with its params and a key, right labels counted.
    """

    def __init__(self, model: Model, site: str | None, who: str, args: tuple, kwargs: dict[str, Any]):
        self.args, self.kwargs = args, kwargs
        seeded = handlers.substitute(handlers.seed(model, random.key(0)), substitute_fn=_to_middle)
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
        self.middle, self.unravel = ravel_pytree(z)
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


def refine(make: Callable[[], FlatModel], labels: Labels, who: str, run: Run) -> Refinement:
    """Equations (1) to (3), once for all chains.

    Args:
        make: of the model, in each part anew: a program holds what it is made of.
        labels: see `hard_labels`.
        who: asks, for the words of errors.
        run: of `runner`.
    """

    def of_data() -> tuple[Fit, Climbed, Array]:
        flat = make()
        _, law, value = flat.apart(flat.middle)
        known = _rates_of_data(law, value, labels, who)
        return known.fit, _pulled_back(flat, known), jnp.asarray(law.rates)

    def of_posterior(pulled: Climbed) -> Climbed:
        flat = make()
        _, law, _ = flat.apart(flat.middle)
        return _posterior(flat, pulled, _gradients_at_once(law))

    def of_proposal(fit: SkewLaplace, rates: Array) -> tuple[Proposal, Array, Array, _Looked]:
        flat, proposal = make(), tabled(fit)
        draws = proposal.sample(random.key(1), (_DRAWS,))
        (_, at_mode, _), (_, at_draw, _) = flat.apart(fit.mode), flat.apart(draws[0])
        estimate = transform_fn(flat.inv_transforms, flat.unravel(fit.mode))
        depends = jnp.any(jnp.asarray(at_draw.rates) != rates)
        looked = _Looked(depends, jnp.max(at_mode.num_clipped_lags), estimate)
        return proposal, draws, proposal.log_prob(draws), looked

    def of_draws(draws: Array, log_q: Array) -> tuple[Array, Array, Array]:
        log_densities = lax.map(make().log_density, draws)
        finite = jnp.isfinite(log_densities)
        likeliest = jnp.argmax(jnp.where(finite, log_densities, -jnp.inf))
        at = jnp.where(finite, jnp.arange(_DRAWS), likeliest)
        return draws[at], -log_densities[at], pareto_khat(log_densities - log_q)

    def parts(call: Call) -> Refinement:
        em_fit, pulled, rates = call(of_data, False)
        begin = call(of_posterior, True, pulled)
        proposal, draws, log_q, looked = call(of_proposal, False, begin.fit, rates)
        starts, energies, khat = call(of_draws, True, draws, log_q)
        return Refinement(
            fit=begin.fit,
            half=begin.half,
            proposal=proposal,
            starts=starts,
            energies=energies,
            pareto_khat=khat,
            rates=em_fit.parameters.rates,
            label_noise=em_fit.parameters.label_noise,
            num_clipped_lags=looked.num_clipped_lags,
            fell_back=begin.fell_back,
            converged=begin.converged,
            depends=looked.depends,
            estimate=looked.estimate,
        )

    return run(parts)


class _Looked(NamedTuple):
    """At the mode, and whether rates at a draw are others than in the middle of the prior."""

    depends: Bool[Array, ""]
    num_clipped_lags: Int[Array, ""]
    estimate: dict[str, Array]


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
        "prior mean: look for priors that exclude what the data say."
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


def _pulled_back(flat: FlatModel, known: _Known) -> Climbed:
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

    if flat.middle.size > _MOST_OF_NEWTON:
        position = _lbfgs(log_density, flat.middle)
        nothing, one = jnp.full_like(position, jnp.inf), jnp.eye(position.size, dtype=position.dtype)
        zero = jnp.zeros((), jnp.int32)
        return Climbed(SkewLaplace(position, one, nothing, nothing), one, zero, zero > 0, zero > 0)
    return climb(log_density, flat.middle, max_steps=_PULL_STEPS, skew=False)


def _mean_square(away: Array, size: int) -> Float[Array, ""]:
    """Half the sum of squares, once for all groups of paths together."""
    return jnp.sum(away**2) * size / (2 * away.size)


def _log_density_of_measurements(law: MarkovJumpProcess, value: Any, labels: Array) -> Float[Array, ""]:
    log_emission = law.log_emission(value)
    states = jnp.broadcast_to(labels, log_emission.shape[:-1])[..., None]
    each = jnp.take_along_axis(log_emission, states, -1)[..., 0]
    return jnp.sum(each if law.seen is None else jnp.where(jnp.asarray(law.seen), each, 0))


def _posterior(flat: FlatModel, pulled: Climbed, batch_size: int | None) -> Climbed:
    """Equation (3); a normal of unit variance where there is no curvature to be had."""
    start = pulled.fit.mode
    if start.size > _MOST_OF_NEWTON:
        found = _by_lbfgs(flat.log_density, start, flat.middle, batch_size)
    else:
        climbing = partial(climb, flat.log_density, second_start=flat.middle, half=pulled.half)
        found = climbing(start, max_steps=_MODE_STEPS, batch_size=batch_size)
    nothing, one = jnp.full_like(start, jnp.inf), jnp.eye(start.size, dtype=start.dtype)
    plain = SkewLaplace(jnp.where(found.fell_back, flat.middle, start), one, nothing, nothing)
    fit = jax.tree.map(lambda a, b: jnp.where(found.usable, a, b), found.fit, plain)
    return found._replace(fit=fit, half=jnp.where(found.usable, found.half, one))


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


def _by_lbfgs(log_density: Callable[[Flat], Array], start: Flat, middle: Flat, batch_size: int | None) -> Climbed:
    """The mode, with the diagonal of the curvature alone."""
    fell_back = ~jnp.isfinite(log_density(start))
    position = _lbfgs(log_density, jnp.where(fell_back, middle, start))
    value, gradient = jax.value_and_grad(log_density)(position)

    def curvature(i: Array) -> Array:
        direction = jnp.zeros_like(position).at[i].set(1)
        return -jax.jvp(jax.grad(log_density), (position,), (direction,))[1][i]

    precision = jnp.diag(lax.map(curvature, jnp.arange(position.size), batch_size=_MOST_OF_NEWTON))
    # as `climb` has it: what the next step would gain
    converged = gradient @ (gradient / jnp.maximum(jnp.diagonal(precision), 1e-8)) / 2 < _NEARLY
    zero = jnp.zeros((), jnp.int32)
    mode = Mode(position, value, gradient, precision, zero + _LBFGS_STEPS, converged)
    fit = laplace(log_density, mode, batch_size=batch_size or _MOST_OF_NEWTON)
    half = jnp.diag(jnp.maximum(jnp.diagonal(precision), 1e-8) ** -0.5)
    return Climbed(fit, half, mode.num_steps, converged, fell_back)
