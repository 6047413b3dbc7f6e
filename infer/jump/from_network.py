"""`zero_shot(..., method="network")`: counts, one pass of the trained network, a `RatePosterior`.

A rate whose link is there has a normal square root, and so has the noise level if labels may be wrong at all; what the
network says of each by itself is all it says.

May be traced and mapped: nothing is looked at on the host there. Weights are read once.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...kernels.jump import PathStatistics, Presence
from ...kernels.jump.network import MJPNet, NetPrediction, load_weights, predict
from ...kernels.jump.network_statistics import NetworkStatistics, network_statistics
from ...kernels.jump.sqrt_normal import SqrtNormal
from .posterior import NoiseLevel, RatePosterior, RootPosterior

_MOST_STATES = 8


def posterior_from_network(times: Any, states: Any, mask: Any, num_states: int | None) -> RatePosterior:
    """What the shipped network says of paths.

    Args:
        times: as for `zero_shot`, or `NetworkStatistics`.
        states: as for `zero_shot`; None with statistics.
        mask: likewise.
        num_states: likewise.

    Raises:
        ValueError: counts of `path_statistics`, which lack what the network needs; states beside statistics, or
            another number of states than theirs; and as `network_statistics`.
    """
    if isinstance(times, PathStatistics):
        raise ValueError(
            "the network needs more than these counts: give times and states, or the counts of "
            "kernels.jump.network.network_statistics."
        )
    if isinstance(times, NetworkStatistics):
        if states is not None or mask is not None:
            raise ValueError("counts hold the states already: give no states and no mask with them.")
        if num_states not in (None, times.num_states):
            raise ValueError(f"num_states is {num_states}, and the counts are of {times.num_states} states.")
        statistics = times
    elif states is None:
        raise ValueError("states are missing: give times and states, or the counts of network_statistics alone.")
    else:
        statistics = network_statistics(times, states, mask, num_states)
    pairs = jnp.asarray(statistics.paths.counts).sum((0, 2))
    return _as_posterior(predict(trained(), statistics), pairs == 0)


@cache
def trained() -> MJPNet:
    """The network that ships with the package."""
    with jax.ensure_compile_time_eval():  # kept beyond whatever trace asks first
        return load_weights()


def beyond_training(num_states: int) -> list[str]:
    """What `zero_shot` warns of beside what it always does.

    Args:
        num_states: n.
    """
    if num_states <= _MOST_STATES:
        return []
    return [
        f"The network was trained on 2 to {_MOST_STATES} states, and these are {num_states}: its rates are still near, "
        "its intervals less so. Compare with method='refined'."
    ]


@jax.jit
def _as_posterior(found: NetPrediction, no_data: Array) -> RatePosterior:
    rates = SqrtNormal(found.sqrt_mean, found.sqrt_sd)
    noise = SqrtNormal(found.label_noise_mean, found.label_noise_sd)
    w, zero = found.presence, jnp.zeros((), found.presence.dtype)
    return RatePosterior(
        mean=found.rates,
        sd=_sd_of_mixture(w, rates),
        presence=w,
        mode=rates.loc**2,
        initial=found.initial,
        no_data=no_data,
        label_noise=NoiseLevel(found.label_noise, _sd_of_mixture(found.label_noise_presence, noise)),
        converged=jnp.ones((), bool),
        log_evidence=None,
        reciprocal=None,
        num_clipped_lags=jnp.zeros((), jnp.int32),
        log_rates=None,
        links=Presence(w, zero, zero, w, w),
        by_roots=RootPosterior(rates, noise, found.label_noise_presence),
    )


def _sd_of_mixture(w: Array, there: SqrtNormal) -> Array:
    """Of what is 0 with probability 1 - w."""
    return jnp.sqrt(w * there.variance + w * (1 - w) * there.mean**2)
