"""What a path block tells a user: sentences, diagnostics by time, the name of its time axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .path_model import PathModel
from .path_moments import PathMoments
from .structure import possible_path_move

_ENOUGH, _TOO_FEW, _TRACING = 0.5, 0.2, 0.99


def path_warnings(kernel: Any, state: Any, *, innovations_move: bool = False) -> list[str]:
    """Sentences on too few particles, weights that were no numbers, and paths that are only traced.

    Args:
        kernel: a `ParticleGibbs` that has run.
        state: its last state, with or without an axis of chains.
        innovations_move: whether the innovations move renews the path too.
    """
    model: PathModel = kernel.path_model
    sentences = []
    draws = _draws(state)
    if draws:
        rates = update_rates(kernel, state).mean(0)
        worst = int(rates.argmin())
        if rates[worst] < _TOO_FEW:
            sentences.append(_renewed_too_rarely(kernel.num_particles, worst, rates[worst], innovations_move))
        renewed = _by_chain(state.update_counts)[:, 1:].sum(0)
        traced = _by_chain(state.tracing_counts).sum(0) / np.maximum(renewed, 1)
        if possible_path_move(model, kernel.path_move) == "backward" and np.mean(traced > _TRACING) > 0.5:
            sentences.append(
                f"Backward sampling chose the ancestor in more than {_TRACING:.0%} of the draws at most times: the "
                "transition is (almost) deterministic. Make its random part the latent site and carry the rest."
            )
    if kernel.path_move == "backward" and model.order is None:
        sentences.append(
            "The Markov order of the model is unknown, so that paths were traced and their early states hardly move. "
            "Let the carry hold what the next steps need of the past, each lag a leaf of its own."
        )
    count = int(np.sum(state.num_nonfinite))
    if count:
        sentences.append(
            f"{count} particle weights were NaN or infinite and counted as zero, or all were zero at a time, where the "
            "sweep kept its path. "
            f"Look for log(0) or an overflow in the likelihood of {list(model.observed)}."
        )
    return sentences


def _renewed_too_rarely(num_particles: int, time: int, rate: float, innovations_move: bool) -> str:
    seen = f"The particles renewed the state at time {time} in only {rate:.0%} of the sweeps. "
    if innovations_move:
        way_out = (
            f"The innovations move renews it too; raise num_particles (now {num_particles}) if arviz.summary shows "
            "too low an ESS there"
        )
    else:
        way_out = (
            f"Raise num_particles (now {num_particles}) until the smallest rate is at least {_ENOUGH:.0%}"
        )
    return f"{seen}{way_out}; plot_update_rate shows every time."


def path_groups(kernel: Any, state: Any, moments: PathMoments | None = None) -> dict[str, Any]:
    """Group `path_diagnostics`: update rate and particle ESS, mean and sd of the path; dims (chain, time)."""
    import xarray as xr

    draws = max(_draws(state), 1)
    stages = slice(1 - kernel.path_model.offset, None)
    ess = _by_chain(state.ess_sums)[:, stages] / draws
    data = {
        "update_rate": (("chain", "time"), update_rates(kernel, state)),
        "particle_ess": (("chain", "time"), ess),
    }
    if moments is not None:
        data |= _moments(moments, kernel.path_model.time_sites, many=state.ess_sums.ndim > 1)
    coords = {"chain": np.arange(ess.shape[0]), "time": np.arange(ess.shape[1])}
    attributes = {"num_particles": kernel.num_particles, "sweeps": draws}
    return {"path_diagnostics": xr.Dataset(data, coords=coords, attrs=attributes)}


def _moments(moments: PathMoments, sites: tuple[str, ...], *, many: bool) -> dict[str, Any]:
    """`x_mean` and `x_sd` of each path site, dims (chain, time, ...)."""
    if not many:
        moments = jax.tree.map(lambda leaf: leaf[None], moments)
    num = np.asarray(moments.num_draws)
    data = {}
    for site in sites:
        mean, m2 = np.asarray(moments.mean[site]), np.asarray(moments.m2[site])
        dims = ("chain", "time", *(f"{site}_dim_{k}" for k in range(mean.ndim - 2)))
        by_chain = num.reshape(-1, *[1] * (m2.ndim - 1))
        data[f"{site}_mean"] = (dims, mean)
        data[f"{site}_sd"] = (dims, np.sqrt(m2 / np.maximum(by_chain - 1, 1)))
    return data


def path_dims(model: PathModel | None) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """(coords, dims): the axis "time" of the path sites, of what is observed of them and deterministic in them."""
    if model is None:
        return {}, {}
    named = (*model.time_sites, *model.time_deterministic, *model.observed)
    return {"time": np.arange(model.num_times)}, {name: ["time"] for name in named}


def update_rates(kernel: Any, state: Any) -> np.ndarray:
    """Share of the sweeps after warm-up that renewed each time, shape (chains, time)."""
    counts = _by_chain(state.update_counts)[:, 1 - kernel.path_model.offset :]
    return counts / max(_draws(state), 1)


def _draws(state: Any) -> int:
    return int(np.max(state.num_sweeps))


def _by_chain(values: jax.Array) -> np.ndarray:
    return np.asarray(jnp.atleast_2d(values))
