"""What a `RatePosterior` says of itself: its table, and what there is to be careful about."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...kernels.jump import rates_to_vector

if TYPE_CHECKING:
    from .posterior import RatePosterior

# Of up to 7 states all links are shown, of more those that are likely there.
_ALL_LINKS, _MOST_LINKS = 42, 60
_CORRELATED = 0.8


def table(posterior: "RatePosterior") -> str:
    """A line for each link: mean, sd, 90 % interval, presence; then what holds for all."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(posterior)):
        return f"RatePosterior of {posterior.num_states} states, traced"
    if posterior.mean.ndim != 2:
        return f"{len(posterior.mean)} times RatePosterior of {posterior.num_states} states"
    low, high = (np.asarray(posterior.quantile(p)) for p in (0.05, 0.95))
    mean, sd, presence = (np.asarray(x) for x in (posterior.mean, posterior.sd, posterior.presence))
    links = shown_links(presence)
    lines = [_headline(posterior), f"{'link':>9} {'mean':>9} {'sd':>9} {'90 % interval':>21} {'presence':>9}"]
    for i, j in links:
        span = f"{low[i, j]:.3g} to {high[i, j]:.3g}"
        mark = "  no data" if bool(posterior.no_data[i]) else ""
        numbers = f"{mean[i, j]:9.3g} {sd[i, j]:9.3g} {span:>21} {presence[i, j]:9.2f}"
        lines.append(f"{f'{i} -> {j}':>9} {numbers}{mark}")
    hidden = presence.size - len(presence) - len(links)
    if hidden:
        lines.append(f"and {hidden} links that are less likely there")
    return "\n".join(lines)


def shown_links(presence: Float[np.ndarray, "n n"]) -> list[tuple[int, int]]:
    """(from, to) of the links that a table or a figure has room for, row by row.

    Args:
        presence: probability of each link.

    Examples:
        >>> from emberwalk.infer.jump.report import shown_links
        >>> shown_links(np.zeros((2, 2)))
        [(0, 1), (1, 0)]
    """
    n = len(presence)
    links = [(i, j) for i in range(n) for j in range(n) if i != j]
    if len(links) <= _ALL_LINKS:
        return links
    likely = sorted(links, key=lambda link: -presence[link])[:_MOST_LINKS]
    return sorted(link for link in likely if presence[link] > 0.5)


def _headline(posterior: "RatePosterior") -> str:
    noise = posterior.label_noise
    wrong = "labels taken as right"
    if float(noise.mean) > 0:
        wrong = f"label noise {float(noise.mean):.2g} (sd {float(noise.sd):.1g})"
    ended = "" if bool(posterior.converged) else ", not converged"
    how = "by the network"
    if posterior.reciprocal is not None:
        how = f"reciprocal with probability {float(posterior.reciprocal):.2f}"
    return f"RatePosterior of {posterior.num_states} states, {wrong}, {how}{ended}"


def sentences(posterior: "RatePosterior") -> list[str]:
    """What `zero_shot` warns of: one sentence each, with the number and the way out."""
    found = []
    empty = np.flatnonzero(np.asarray(posterior.no_data))
    if len(empty):
        found.append(
            f"No pair of points begins in the states {empty.tolist()}: the rates out of them are those of the prior "
            "(no_data). Leave their rows out, or number the states anew."
        )
    if not bool(posterior.converged):
        found.append(
            "Newton's steps did not reach the mode: rates and intervals are those of its last step. Look at the data "
            "for states that are left within a lag, or sample with ZeroShotMJP."
        )
    if int(posterior.num_clipped_lags):
        found.append(
            f"{int(posterior.num_clipped_lags)} lags are so long for the fastest rate that they were shortened: they "
            "say nothing of it. Enable float64, or leave them out by a mask."
        )
    correlation = noise_correlation(posterior)
    if abs(correlation) > _CORRELATED:
        found.append(
            f"Label noise and the largest exit rate have the correlation {correlation:.2f}: wrong labels cannot be "
            "told from jumps forth and back within a lag. Give label_noise=, or points that are closer in time."
        )
    return found


def noise_correlation(posterior: "RatePosterior") -> float:
    """Posterior correlation of logit label noise with the logarithm of the largest exit rate; 0 for a noise given.

    And for the network, which says nothing of it.
    """
    if posterior.log_rates is None:
        return 0.0
    n, cov = posterior.num_states, posterior.log_rates.cov
    if cov.shape[-1] == n * (n - 1):
        return 0.0
    return float(_noise_correlation(posterior.mean, cov))


@jax.jit
def _noise_correlation(mean: Float[Array, "n n"], cov: Float[Array, "d d"]) -> Float[Array, ""]:
    """An exit rate is a sum of rates: its logarithm changes by their shares in it."""
    of_row = jnp.arange(mean.shape[0]) == jnp.argmax(mean.sum(1))
    shares = rates_to_vector(jnp.where(of_row[:, None], mean, 0))
    shares = shares / shares.sum()
    covariance = cov[:-1, :-1]
    return shares @ cov[:-1, -1] / jnp.sqrt(shares @ covariance @ shares * cov[-1, -1])
