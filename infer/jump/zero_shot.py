"""`zero_shot`: the rates of a Markov jump process from paths seen at some times, with uncertainty, in one call.

    labels that are right      counts -> EM -> which links are there -> Newton -> skewed Laplace            (1)
    labels that may be wrong   the same through the filter, with the noise level                            (2)
    method="network"           counts -> one pass of a trained network                                      (3)

(1) and (2) are `refine_counts` and `refine_labels` of `kernels/jump`: the exact likelihood under a written prior, no
network. (3) is for thousands of data sets and for wrong labels in milliseconds.
The name is that of the task: nothing is trained, nothing is tuned, and the answer comes at once. (1) takes
milliseconds, whatever the number of paths; (2) a second for 300 paths of 100 points.

What a reader would get wrong: with clean labels, many paths and no need for uncertainty, plain maximum likelihood is
as accurate. What this adds there is which links are missing, and intervals.
"""

import os
import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ...kernels.jump import (
    LagGrid,
    PathStatistics,
    RatePrior,
    Refined,
    SkewLaplace,
    check_label_noise,
    fit_labels,
    lag_grid,
    path_statistics,
    rates_from_vector,
    refine_counts,
    refine_labels,
)
from ...kernels.jump.counts import together
from ...kernels.jump.laplace import Tell
from ...kernels.jump.paths import is_traced
from ...kernels.jump.refined import mean_of_rates, variance_of_rates
from .posterior import NoiseLevel, RatePosterior
from .progress import refining
from .report import sentences

_PRIOR = RatePrior()
# Fewer wrong labels than this in all: there is none.
_WRONG_LABELS = 1.0
_HERMITE_NODES = 20


class _Paths(NamedTuple):
    """Paths as the filter takes them, `[K, L]`."""

    states: Int[np.ndarray, "K L"]
    mask: Bool[np.ndarray, "K L"]
    grid: LagGrid
    stats: PathStatistics


def zero_shot(
    times: Float[ArrayLike, "*paths L"] | PathStatistics,
    states: Int[ArrayLike, "*paths L"] | None = None,
    mask: Bool[ArrayLike, "*paths L"] | None = None,
    num_states: int | None = None,
    *,
    label_noise: Literal["infer"] | float = "infer",
    prior: RatePrior | None = None,
    method: Literal["refined", "network"] = "refined",
    progress_bar: bool = False,
) -> RatePosterior:
    """The rates of a Markov jump process from its paths, with uncertainty, presence of links and noise level.

    Exact likelihood (Bladt and Sørensen 2005), under the prior of `RatePrior`. For covariates, hierarchies,
    measurements in place of labels, or rates made of few parameters, put `MarkovJumpProcess` into a model.

    Args:
        times: `[L]` for all paths or `[K, L]`, not falling within a path, in any unit; or the counts of
            `kernels.jump.path_statistics`, for streams of paths, with `label_noise=0.0`.
        states: labels from 0 on, `[L]` or `[K, L]`. Paths of other lengths: `kernels.jump.pack_paths`.
        mask: True where a point was seen; the others may hold anything.
        num_states: n; the largest label + 1 without it. Give it where a state may not have been seen.
        label_noise: the probability that a label is wrong, each of the n - 1 others alike. "infer" finds it, and takes
            labels as right where not one is thought wrong; 0.0 takes them as right and is the fastest; a number is
            held.
        prior: of rates and links, on the scale that the data show. The default, `RatePrior()`, suits graphs of which
            some links are missing and the others are of a kind; `reciprocal=0.0` where they are one-way. Where rates
            span decades it takes slow links for none: `RatePrior(shape=0.5, link_probability=0.99)` does not.
        method: "refined", or "network": a network, trained once, that answers in one pass what the data have shown; ten
            or a hundred times as fast with wrong labels, less accurate with many paths, on links that are slow beside
            others, and above 8 states. Under `jax.vmap` and `jax.jit` too, with `num_states=`. Its noise level is
            always inferred, its prior that of its training.
        progress_bar: whether to show one, with step and change; the network needs none.

    Returns:
        What is known of the rates, per unit of the times: `mean`, `sd`, `presence`, `quantile`, `sample`, and
        quantities that follow from them. Printed, a table.

    Raises:
        ValueError: labels that are no states (the value, its path and position), times that fall or are NaN, shapes
            that do not fit, fewer than two points in every path, one state only, a label noise outside
            [0, (n - 1) / n), two labels at one time with `label_noise=0.0`; traced arrays, but for the network with
            `num_states=`; with the network a prior, or a label noise that is given.
        TypeError: a prior that is no `RatePrior`.
        RuntimeError: rates that are not finite.

    Warns:
        UserWarning: states without data; a mode that was not reached; lags that are too long; noise that cannot be told
            from fast jumps; more states than the network was trained on.

    Examples:
        >>> from emberwalk.infer import zero_shot
        >>> from emberwalk.kernels.jump import simulate_batch
        >>> q, times = np.array([[0.0, 1.0], [0.5, 0.0]]), np.linspace(0, 5, 51)
        >>> post = zero_shot(times, simulate_batch(0, q, times, 100), label_noise=0.0)
        >>> bool((abs(post.mean - q) < 3 * post.sd + 1e-9).all())
        True
        >>> print(post)  # doctest: +ELLIPSIS
        RatePosterior of 2 states, labels taken as right, reciprocal with probability ...
             link      mean        sd         90 % interval  presence
           0 -> 1 ...
           1 -> 0 ...
        >>> post.stationary().interval(0.9).shape
        (2, 2)
        >>> many = np.stack([simulate_batch(seed, q, times, 100, label_noise=0.05) for seed in range(8)])
        >>> jax.vmap(lambda y: zero_shot(times, y, num_states=2, method="network").mean)(many).shape
        (8, 2, 2)
    """
    _check_options(label_noise, prior, method)
    prior = prior or _PRIOR
    if method == "network":
        return _by_network(times, states, mask, num_states)
    if is_traced(times, states, mask):
        raise ValueError(
            "times, states and mask are looked at on the host, and these are traced: call zero_shot outside of jit and "
            "vmap, or kernels.jump.refine_counts on counts of path_statistics(..., grid=grid) inside, or pass "
            "method='network' and num_states=."
        )
    with refining(progress_bar) as tell:
        if isinstance(times, PathStatistics):
            stats, refined = times, _from_counts(times, states, mask, num_states, label_noise, prior, tell)
        elif label_noise == 0:
            stats = path_statistics(_host(times), _host(states), mask, num_states)
            refined = refine_counts(stats, prior, tell=tell)
        else:
            paths = _read(times, states, mask, num_states)
            stats, refined = paths.stats, _from_labels(paths, label_noise, prior, tell)
        posterior = _as_posterior(refined, np.asarray(stats.counts).sum((0, 2)) == 0)
    _check_finite(posterior)
    _warn(sentences(posterior))
    return posterior


def _by_network(times: Any, states: Any, mask: Any, num_states: int | None) -> RatePosterior:
    from .from_network import beyond_training, posterior_from_network  # not loaded where nobody asks for it

    posterior = posterior_from_network(times, states, mask, num_states)
    _warn(beyond_training(posterior.num_states))
    if not is_traced(posterior):
        _check_finite(posterior)
        _warn(sentences(posterior))
    return posterior


def _warn(said: list[str]) -> None:
    for sentence in said:
        warnings.warn(sentence, UserWarning, skip_file_prefixes=(os.path.dirname(__file__),))


def _check_options(label_noise: Any, prior: Any, method: Any) -> None:
    if method not in ("refined", "network"):
        raise ValueError(f'method must be "refined" or "network", got {method!r}.')
    number = isinstance(label_noise, int | float | np.number) and not isinstance(label_noise, bool)
    if not number and not (isinstance(label_noise, str) and label_noise == "infer"):
        raise ValueError(
            f'label_noise must be "infer" or a number, got {label_noise!r}. For a matrix put MarkovJumpProcess(..., '
            "label_noise=matrix) into a model."
        )
    if not isinstance(prior, RatePrior | None):
        raise TypeError(f"prior must be a RatePrior, got {type(prior).__name__}.")
    if method == "network" and prior is not None:
        raise ValueError(
            f"prior is {prior}, and the network has that of its training: use method='refined' with a prior of yours."
        )
    if method == "network" and number:
        raise ValueError(
            f"label_noise is {label_noise!r}, and the network infers it: use method='refined' where it is known."
        )


def _host(x: Any) -> np.ndarray:
    if x is None:
        raise ValueError("states are missing: give times and states, or the counts of path_statistics alone.")
    return np.asarray(x)


def _from_counts(
    stats: PathStatistics,
    states: Any,
    mask: Any,
    num_states: int | None,
    label_noise: Any,
    prior: RatePrior,
    tell: Any,
) -> Refined:
    if states is not None or mask is not None:
        raise ValueError("counts hold the states already: give no states and no mask with them.")
    if num_states not in (None, stats.num_states):
        raise ValueError(f"num_states is {num_states}, and the counts are of {stats.num_states} states.")
    if label_noise != 0:
        raise ValueError(
            f"label_noise is {label_noise!r}, and counts cannot say which labels are wrong: pass label_noise=0.0, or "
            "times and states."
        )
    if not np.asarray(stats.counts).sum():
        raise ValueError("counts are all 0: no path has two points that were seen.")
    return refine_counts(stats, prior, tell=tell)


def _read(times: Any, states: Any, mask: Any, num_states: int | None) -> _Paths:
    times, states = _host(times), _host(states)
    stats = path_statistics(times, states, mask, num_states, exact=False)
    at, labels, seen = together(times, states, mask)
    # the precision of the times says which lags are one
    grid = lag_grid(np.broadcast_to(times, at.shape), seen)
    return _Paths(np.where(seen, labels, 0), seen, grid, stats)


def _from_labels(paths: _Paths, label_noise: Any, prior: RatePrior, tell: Tell | None) -> Refined:
    """Through the filter, unless the noise is to be inferred and there is none."""
    states, mask, grid, stats = paths
    given = None
    if label_noise != "infer":
        check_label_noise(label_noise, stats.num_states)
        given = float(label_noise)
    fit = fit_labels(states, grid, stats, mask, prior, label_noise=given, tell=tell)
    wrong = float(fit.parameters.label_noise) * float(stats.num_labels)
    if given is None and wrong < _WRONG_LABELS and not _has_contradictions(paths):
        return refine_counts(stats, prior, tell=tell)
    return refine_labels(states, grid, stats, mask, prior, label_noise=given, fit=fit, tell=tell)


def _has_contradictions(paths: _Paths) -> bool:
    """Whether two labels were seen at one time: one of them is wrong, however few they are."""
    path, position = np.nonzero(paths.mask)
    pair = np.flatnonzero(path[1:] == path[:-1])
    labels, lags = paths.states[path, position], np.asarray(paths.grid.lags)
    index = np.broadcast_to(paths.grid.index, (len(paths.mask), paths.mask.shape[1] - 1))
    # points that were not seen have the time of the one before, so that the last lag is the whole one
    lag = lags[index[path[pair + 1], position[pair + 1] - 1]]
    return bool(((lag == 0) & (labels[pair] != labels[pair + 1])).any())


@jax.jit
def _as_posterior(refined: Refined, no_data: Bool[Array, " n"]) -> RatePosterior:
    n, w, log_rates = refined.mean.shape[0], refined.presence.probability, refined.log_rates
    num_links = n * (n - 1)
    there = rates_from_vector(mean_of_rates(log_rates)[:num_links], n)
    variance = rates_from_vector(variance_of_rates(log_rates)[:num_links], n)
    return RatePosterior(
        mean=refined.mean,
        sd=jnp.sqrt(w * variance + w * (1 - w) * there**2),
        presence=w,
        mode=refined.fit.parameters.rates,
        initial=refined.initial,
        no_data=no_data,
        label_noise=_noise_level(refined),
        converged=refined.converged,
        log_evidence=refined.log_evidence,
        reciprocal=refined.presence.reciprocal,
        num_clipped_lags=refined.num_clipped_lags,
        log_rates=log_rates,
        links=refined.presence,
    )


def _noise_level(refined: Refined) -> NoiseLevel:
    """Moments of the last coordinate on (0, 1), by Gauss and Hermite in its normal score."""
    n, log_rates = refined.mean.shape[0], refined.log_rates
    if log_rates.mode.shape[0] == n * (n - 1):
        return NoiseLevel(refined.label_noise, jnp.zeros_like(refined.label_noise))
    mode, cov, skew_scale, alpha = log_rates
    last = SkewLaplace(mode[-1:], cov[-1:, -1:], skew_scale[-1:], alpha[-1:])
    x, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_NODES)
    rho = jax.nn.sigmoid(last.from_score(jnp.asarray(x, mode.dtype)[:, None])[:, 0])
    share = jnp.asarray(weights / weights.sum(), rho.dtype)
    mean = share @ rho
    return NoiseLevel(mean, jnp.sqrt(share @ (rho - mean) ** 2))


def _check_finite(posterior: RatePosterior) -> None:
    wrong = ~np.isfinite(np.asarray(posterior.mean))
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        raise RuntimeError(
            f"zero_shot found no finite rate from state {i} to state {j}: {float(posterior.mean[i, j])}. Give times in "
            "a unit in which lags are near 1, or enable float64 (jax.config.update('jax_enable_x64', True))."
        )
