"""Averages of an `SRRW` over the states it has visited, or over their visits.

    visits     sum_x c(x) f(x) / sum_x c(x)                     every step counts                        (1)
    distinct   sum_{x visited} mu(x) f(x) / sum mu(x)           no noise; what is missing is missing     (2)
    stream     sum of f over all steps / their number           the same as (1), of what is summed       (3)

Visited states are read back from the counts or the table; the draws are not looked at. The posterior mass that (2)
has not seen is estimated by the share of new states in the last tenth of the run: a lower bound, up to five times too
low where there are several modes.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...kernels.walk.history import as_int
from ...kernels.walk.table import HashHistory
from ..blocks import check_begun
from .discrete_sites import log_joint
from .estimators import Average, average_of, counted
from .srrw import SRRW

_AT_ONCE = 4096  # states whose density is evaluated in one program


class Visited(NamedTuple):
    """What one chain has visited.

    Attributes:
        x: states, `[n, D]`.
        counts: visits after warm-up.
        log_mu: log density, up to a constant; None where it was not asked for.
    """

    x: Int[np.ndarray, "n D"]
    counts: Int[np.ndarray, " n"]
    log_mu: Float[np.ndarray, " n"] | None


class SupportAverage(NamedTuple):
    """An average over discrete states.

    Attributes:
        mean: over the chains.
        mcse: sd of the chains' means over the root of their number; NaN for one chain.
        per_chain: `[C, ...]`.
        num_visited: states each chain has visited, `[C]`.
        num_steps: behind each chain's average, `[C]`.
        missing_mass: share of the steps of the last tenth of the run that met a new state: a lower bound of the
            posterior mass that was not visited.
    """

    mean: Float[np.ndarray, "*f"]
    mcse: Float[np.ndarray, "*f"]
    per_chain: Float[np.ndarray, "C *f"]
    num_visited: Int[np.ndarray, " C"]
    num_steps: Int[np.ndarray, " C"]
    missing_mass: float

    def __str__(self) -> str:
        plain = Average(self.mean, self.mcse, self.per_chain, self.num_visited, self.num_steps)
        words = str(plain).rsplit("; coverage", 1)[0]
        return (
            f"{words}; {self.num_visited.mean():.0f} states, missing mass at least {self.missing_mass:.2g})"
        )


def support_average(
    mcmc: Any, f: Callable[[dict[str, Array]], Any], *, method: Literal["visits", "distinct"] = "visits"
) -> SupportAverage:
    """The posterior mean of f, from a run of `SRRW`, equation (1) or (2).

    Args:
        mcmc: an `MCMC` or `ResumableRun` after its run.
        f: values of the sites, with a leading axis of states -> array with that axis.
        method: "visits", or "distinct": without Monte Carlo noise, exact once all that matters was visited, and 30 to
            1000 times better than any time average where `missing_mass` is below .006; bad where much is missing.

    Raises:
        TypeError: for a run of another kernel.
        ValueError: f of another length; an unknown method; a run that has not begun.

    Examples:
        >>> from emberwalk.infer import SRRW, support_average
        >>> def model():
        ...     with numpyro.plate("variables", 3):
        ...         numpyro.sample("use", dist.Bernoulli(0.3))
        >>> options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
        >>> mcmc = MCMC(SRRW(model), num_warmup=10, num_samples=300, **options)
        >>> mcmc.run(random.key(0))
        >>> support_average(mcmc, lambda sites: sites["use"], method="distinct").mean.round(3).tolist()
        [0.3, 0.3, 0.3]
    """
    kernel = _kernel_of(mcmc)
    if method not in ("visits", "distinct"):
        raise ValueError(f'method must be "visits" or "distinct", got {method!r}.')
    chains = visited_states(mcmc, densities=method == "distinct")
    per_chain = np.array([_average(kernel, chain, f, method) for chain in chains])
    num_steps = np.array([chain.counts.sum() for chain in chains])
    num_visited = np.array([len(chain.counts) for chain in chains])
    plain = average_of(per_chain, num_visited, num_steps)
    return SupportAverage(plain.mean, plain.mcse, per_chain, num_visited, num_steps, missing_mass(mcmc))


def visited_states(mcmc: Any, *, densities: bool = True) -> list[Visited]:
    """The states each chain has visited since the end of warm-up; their densities cost an evaluation each."""
    kernel = _kernel_of(mcmc)
    history, space = jax.device_get(mcmc.last_state.history), kernel.sites.space
    counts = counted(mcmc).counts
    used = [np.flatnonzero(row > 0) for row in counts]
    if isinstance(history, HashHistory):
        keys = history.keys.reshape(len(counts), *history.keys.shape[-2:])
        log_mu = np.atleast_2d(history.log_mu)
        return [
            Visited(space.of_words(np.asarray(keys[c][slots])), counts[c][slots], log_mu[c][slots])
            for c, slots in enumerate(used)
        ]
    if not densities:
        return [Visited(space.of_numbers(ids), counts[c][ids], None) for c, ids in enumerate(used)]
    density = jax.jit(
        jax.vmap(log_joint(kernel.model, kernel.sites, _mcmc_of(mcmc)._args, _mcmc_of(mcmc)._kwargs))
    )
    everything = np.unique(np.concatenate(used))
    log_mu = np.full(space.num_states, -np.inf)
    log_mu[everything] = _in_blocks(density, space.of_numbers(everything))
    return [Visited(space.of_numbers(ids), counts[c][ids], log_mu[ids]) for c, ids in enumerate(used)]


def missing_mass(mcmc: Any) -> float:
    """Share of the steps of the last tenth of the kept draws that met a new state; a mean over the chains."""
    rate = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["revisit_rate"], np.float64)
    steps = np.atleast_1d(as_int(jax.device_get(mcmc.last_state.history.steps))).astype(np.float64)
    num, per_draw = rate.shape[1], _mcmc_of(mcmc).thinning * mcmc.sampler.steps_per_draw
    tenth = max(1, num // 10)
    at_draw = steps[:, None] - per_draw * np.arange(num - 1, -1, -1)  # recorded by then, since the last reset
    new = (1 - rate) * at_draw
    if num == tenth:  # one draw
        return float(np.mean(new[:, -1] / steps))
    return float(np.mean((new[:, -1] - new[:, -tenth - 1]) / (per_draw * tenth)))


def streamed(mcmc: Any) -> Average:
    """The mean of `stream` over all inner steps after warm-up, equation (3).

    Args:
        mcmc: an `MCMC` of `SRRW(stream=...)` after its run; one array is streamed.

    Raises:
        ValueError: for a kernel that streams nothing.

    Examples:
        >>> from emberwalk.infer import SRRW, streamed
        >>> def model():
        ...     numpyro.sample("k", dist.Bernoulli(0.5))
        >>> kernel = SRRW(model, stream=lambda sites: sites["k"])
        >>> options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
        >>> mcmc = MCMC(kernel, num_warmup=10, num_samples=400, **options)
        >>> mcmc.run(random.key(0))
        >>> bool(abs(streamed(mcmc).mean - 0.5) < 0.1)
        True
    """
    kernel = _kernel_of(mcmc)
    if kernel.stream is None:
        raise ValueError(
            "This SRRW streams nothing: give it stream=f, a function of the values of the sites."
        )
    total, lost = (np.asarray(part, np.float64) for part in jax.device_get(mcmc.last_state.streamed))
    _, steps, _ = counted(mcmc)
    total = (total - lost) if np.ndim(mcmc.last_state.alpha) else (total - lost)[None]
    per_chain = total / steps.reshape(-1, *[1] * (total.ndim - 1))
    return average_of(per_chain, np.full(len(steps), np.nan), steps)


def _average(kernel: SRRW, chain: Visited, f: Callable, method: str) -> np.ndarray:
    values = np.asarray(f(kernel.sites.values(jnp.asarray(chain.x))), np.float64)
    if values.shape[:1] != (len(chain.x),):
        raise ValueError(
            f"f must return an array with one entry a state, {len(chain.x)}, got shape {values.shape}."
        )
    if method == "visits":
        share = chain.counts
    else:
        assert chain.log_mu is not None
        share = np.exp(chain.log_mu - chain.log_mu.max())
    return np.tensordot(share, values, 1) / share.sum()


def _in_blocks(density: Callable, x: np.ndarray) -> np.ndarray:
    """Densities of many states by one program for blocks of one size."""
    padded = np.resize(x, (-(-len(x) // _AT_ONCE) * _AT_ONCE, x.shape[1]))
    blocks = [
        np.asarray(density(jnp.asarray(block, jnp.int32)))
        for block in padded.reshape(-1, _AT_ONCE, x.shape[1])
    ]
    return np.concatenate(blocks)[: len(x)].astype(np.float64)


def _mcmc_of(run: Any) -> Any:
    """The `MCMC` of a `ResumableRun`; an `MCMC` as it is."""
    return getattr(run, "mcmc", run)


def _kernel_of(mcmc: Any) -> SRRW:
    kernel = getattr(mcmc, "sampler", None)
    if not isinstance(kernel, SRRW):
        found = type(mcmc if kernel is None else kernel).__name__
        raise TypeError(f"Averages over a support are those of a run of SRRW: give its MCMC, got {found}.")
    check_begun(mcmc)
    return kernel
