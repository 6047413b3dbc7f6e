"""Which moves the parameters need

`PPG` with and without the innovations move, and with some of its moves left out: the pound's volatility,
T = 750, where the path has one mode, and the growth model of unknown state_sd, T = 50, where it has many.
Theta given the path moves so slowly there that its own ESS is a rough guess.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jax import random
from measure import TRIAL, Row, alternate
from numpyro.infer.gibbs import with_conditioning

from emberwalk.infer import PPG
from emberwalk.models import nonlinear_growth, stochastic_volatility

from .chains import Chains, min_ess, r_hats, rate_row, sites
from .setting import SIZES, growth_y, pound_y


class Ablated(PPG):
    """`PPG` with some of its moves: path given theta, theta given path, both by their noise.

    Args:
        moves: of "path", "theta", "joint".
    """

    def __init__(self, *args: Any, moves: tuple[str, ...], **options: Any):
        super().__init__(*args, **options)
        self.moves = moves

    def _sample_one(self, state, model_args, model_kwargs):
        model_kwargs = dict(model_kwargs or {})
        rng_key, key_path, key_inner, key_joint = random.split(state.rng_key, 4)
        (path_block, inner_kernel), (block, inner) = self._kernels, state.block_states
        if "path" in self.moves:
            constrained = inner_kernel.get_constrain_fn(model_args, model_kwargs)(inner.z)
            given = with_conditioning(model_kwargs, {name: constrained[name] for name in self._sites[1]})
            block = path_block.sample(block._replace(rng_key=key_path), model_args, given)
        if "theta" in self.moves:
            given = with_conditioning(model_kwargs, block.z)
            inner = inner_kernel.refresh(inner._replace(rng_key=key_inner), model_args, given)
            inner = inner_kernel.sample(inner, model_args, given)
        state = state._replace(block_states=(block, inner))
        if "joint" in self.moves:
            state = self._interweave(key_joint, state, model_args, model_kwargs)
        return state._replace(z=self._merge_z(state.block_states), rng_key=rng_key, i=state.i + 1)


def kernels(model, num: int) -> dict[str, PPG]:
    """Every choice of moves; 40 leapfrog steps unless it says another number."""
    noise = partial(PPG, model, num, interweave="theta")
    ablated = partial(Ablated, model, num)
    return {
        "path + theta": PPG(model, num, interweave=None),
        "path + theta + theta given noise, 8 steps": noise(interweave_steps=8),
        "path + theta + theta given noise, 40 steps": noise(interweave_steps=40),
        "path + theta + joint": PPG(model, num, interweave="joint"),
        "path + joint": ablated(moves=("path", "joint")),
        "theta + joint": ablated(moves=("theta", "joint")),
        "joint": ablated(moves=("joint",)),
    }


def rows() -> list[Row]:
    """The pound, then growth."""
    return [*pound_rows(), *growth_rows()]


def pound_rows(num: int = 16) -> list[Row]:
    """Smallest ESS of (phi, sigma, mu)."""
    functions = chains_of(stochastic_volatility, num, pound_y(), "b", "sigma", "mu")
    times = alternate(functions, SIZES.table_repeats, after=min_ess)
    return [rate_row(f"pound, N = {num}, {name}", timing) for name, timing in times.items()]


def growth_rows(num: int = 32) -> list[Row]:
    """ESS of state_sd, and whether the chains agree on the path."""
    functions = chains_of(nonlinear_growth, num, growth_y(), "state_sd", "x")

    def ess(draws: Mapping[str, Any]) -> float:
        return min_ess({"state_sd": draws["state_sd"]})

    times = alternate(functions, SIZES.table_repeats, after=ess)
    found = []
    for name, timing in times.items():
        row = rate_row(f"growth, N = {num}, {name}", timing, "ESS of state_sd")
        largest = r_hats(functions[name].last["x"])
        agree = f"R-hat of x up to {largest.max():.3g}, {(largest > 1.05).sum()} of {largest.size} above 1.05"
        found.append(row._replace(note=f"{agree}; {row.note}"))
    return found


def chains_of(model, num: int, y, *names: str) -> dict[str, Chains]:
    """Of every kernel; of the first and the last in a trial, because each compiles for long."""
    tried = list(kernels(model, num).items())[:: 6 if TRIAL else 1]
    return {name: Chains(kernel, (y,), sites(*names)) for name, kernel in tried}
