"""What a path block tells a user: sentences, diagnostics by time, the name of its time axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .path_model import PathModel

_ENOUGH, _TOO_FEW, _TRACING = 0.5, 0.2, 0.99


def path_warnings(kernel: Any, state: Any) -> list[str]:
    """Sentences on too few particles, weights that were no numbers, and paths that are only traced.

    Args:
        kernel: a `ParticleGibbs` that has run.
        state: its last state, with or without an axis of chains.
    """
    model: PathModel = kernel.path_model
    sentences = []
    draws = _draws(kernel, state)
    if draws:
        rates = update_rates(kernel, state).mean(0)
        worst = int(rates.argmin())
        if rates[worst] < _TOO_FEW:
            sentences.append(
                f"The state at time {worst} was renewed in only {rates[worst]:.0%} of the sweeps. Raise num_particles "
                f"(now {kernel.num_particles}) until the smallest rate is at least {_ENOUGH:.0%}; plot_update_rate "
                "shows it."
            )
        traced = _by_chain(state.tracing_counts).sum(0) / (draws * _num_chains(state))
        if kernel.path_move == "backward" and model.order is not None and np.mean(traced > _TRACING) > 0.5:
            sentences.append(
                f"Backward sampling chose the ancestor in more than {_TRACING:.0%} of the draws at most times: the "
                "transition is (almost) deterministic. Make its random part the latent site and carry the rest."
            )
    count = int(np.sum(state.num_nonfinite))
    if count:
        sentences.append(
            f"{count} particle weights were NaN or infinite, or all zero at a time; such a sweep kept its path. "
            f"Look for log(0) or an overflow in the likelihood of {list(model.observed)}."
        )
    return sentences


def path_groups(kernel: Any, state: Any) -> dict[str, Any]:
    """Group `path_diagnostics`: update rate and particle ESS, dims (chain, time)."""
    import xarray as xr

    draws = max(_draws(kernel, state), 1)
    stages = slice(1 - kernel.path_model.offset, None)
    ess = _by_chain(state.ess_sums)[:, stages] / draws
    data = {
        "update_rate": (("chain", "time"), update_rates(kernel, state)),
        "particle_ess": (("chain", "time"), ess),
    }
    coords = {"chain": np.arange(ess.shape[0]), "time": np.arange(ess.shape[1])}
    attributes = {"num_particles": kernel.num_particles, "sweeps": draws}
    return {"path_diagnostics": xr.Dataset(data, coords=coords, attrs=attributes)}


def path_dims(model: PathModel | None) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """(coords, dims): the axis "time" of the path sites, of what is observed of them and deterministic in them."""
    if model is None:
        return {}, {}
    named = (*model.time_sites, *model.time_deterministic, *model.observed)
    return {"time": np.arange(model.num_times)}, {name: ["time"] for name in named}


def update_rates(kernel: Any, state: Any) -> np.ndarray:
    """Share of the sweeps after warm-up that renewed each time, shape (chains, time)."""
    counts = _by_chain(state.update_counts)[:, 1 - kernel.path_model.offset :]
    return counts / max(_draws(kernel, state), 1)


def _draws(kernel: Any, state: Any) -> int:
    return max(int(np.max(state.i)) - kernel._num_warmup, 0)


def _num_chains(state: Any) -> int:
    return _by_chain(state.update_counts).shape[0]


def _by_chain(values: jax.Array) -> np.ndarray:
    return np.asarray(jnp.atleast_2d(values))
