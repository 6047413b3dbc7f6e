"""Chains that go on where they stopped, and what their draws are worth: ESS a second, R-hat."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from arviz_stats.base import array_stats
from jax import lax, random
from jaxtyping import Array, Float
from measure import Row, Timing, median_ms, rate_ratio
from numpyro.infer import Gibbs
from numpyro.infer.mcmc import MCMCKernel

from emberwalk.infer import PPG

from .setting import NUM_CHAINS, SIZES

_AXES = {"chain_axis": 1, "draw_axis": 0}


class Chains:
    """Vectorized chains after warm-up; each call continues them by `draws` draws in one program.

    Args:
        kernel: to be sampled.
        args: of the model.
        collect: state -> dictionary of what is kept of a draw.
        warmup: draws a chain before the first call.
        draws: draws a chain and call.
    """

    def __init__(
        self,
        kernel: MCMCKernel,
        args: tuple[Any, ...],
        collect: Callable[[Any], Mapping[str, Array]],
        warmup: int = SIZES.warmup,
        draws: int = SIZES.draws,
    ):
        init, sample = kernel.init, kernel.sample
        if isinstance(kernel, Gibbs) and not isinstance(kernel, PPG):  # NumPyro's is for one chain
            init = jax.vmap(init, in_axes=(0, None, None, None, None))
            sample = jax.vmap(sample, in_axes=(0, None, None))
        state = init(random.split(random.key(0), NUM_CHAINS), warmup, None, args, {})

        @partial(jax.jit, static_argnums=1)
        def run(state, num_draws):
            def one_draw(state, _):
                state = sample(state, args, {})
                return state, collect(state)

            return lax.scan(one_draw, state, length=num_draws)

        self.run, self.draws = run, draws
        self.state = jax.block_until_ready(run(state, warmup))[0]
        self.last: Mapping[str, Array] = {}

    def __call__(self) -> Mapping[str, Float[Array, "draws chains ..."]]:
        """What was collected; also in `last`."""
        self.state, self.last = self.run(self.state, self.draws)
        return self.last


def sites(*names: str) -> Callable[[Any], Mapping[str, Array]]:
    """`collect` for these sites, the parameters unconstrained."""
    return lambda state: {name: state.z[name] for name in names}


def min_ess(draws: Mapping[str, Array]) -> float:
    """The smallest bulk ESS: of ranks, so that it is that of phi = 2 b - 1 and of constrained values."""
    return min(float(np.min(array_stats.ess(v, method="bulk", **_AXES))) for v in draws.values())


def r_hats(draws: Float[Array, "draws chains sites"]) -> Float[np.ndarray, "sites"]:
    """R-hat of ranks of each site; of one that no chain moves: 1 where they agree, infinite where not."""
    draws = np.asarray(draws, float)
    differ = np.ptp(draws, axis=(0, 1)) > 0
    stuck = np.ptp(draws, axis=0).max(0) == 0
    with np.errstate(all="ignore"):
        ranks, values = (array_stats.rhat(draws, method=method, **_AXES) for method in ("rank", "split"))
    found = np.where(np.isnan(ranks), values, ranks)  # distances of 0 and 1 from .5 have no ranks
    return np.where(differ, np.where(stuck, np.inf, found), 1.0)


def rate_row(name: str, timing: Timing, what: str = "min ESS") -> Row:
    """ESS per CPU second of one kernel, taken apart."""
    rates, draws = timing.per_second(), NUM_CHAINS * SIZES.draws
    per_draw = float(np.median(timing.results)) / draws
    note = (
        f"{np.median(timing.per_second('wall')):.3g} per wall second; {per_draw:.3g} a draw of one of "
        f"{NUM_CHAINS} chains, which takes {median_ms(timing.cpu) / draws:.3g} ms CPU and "
        f"{median_ms(timing.wall) / draws:.3g} ms wall"
    )
    spread = f"{min(rates):.3g} to {max(rates):.3g}"
    return Row(f"{what} per cpu second: {name}", float(np.median(rates)), "1/s", spread=spread, note=note)


def gain_rows(ours: str, times: Mapping[str, Timing], bars: Mapping[str, float]) -> list[Row]:
    """ESS a second of `ours` over that of each peer, by both clocks."""
    return [
        Row(f"min ESS per {clock} second: {ours} / {peer}", gain.median, at_least=bar, spread=gain)
        for peer, bar in bars.items()
        for clock in ("cpu", "wall")
        for gain in [rate_ratio(times[ours], times[peer], clock)]
    ]
