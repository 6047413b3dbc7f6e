"""`ZeroShotMJP` beside NUTS

All 30 rates of the ratchet, V = 1, log-normal; 1000 draws a chain, NUTS from its default start. Clean: counts of 300
paths; noisy: 100 paths, 5 % of the labels wrong, through the filter, the noise level a latent too. "All counted": a new
`MCMC`, with compilation and warm-up; of one chain, and of the four, one after the other, that convergence is judged by.
ESS is the smallest bulk ESS over the latents.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax import lax, random
from measure import TRIAL, Row, alternate, median_ms, rate_ratio
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import ZeroShotMJP
from emberwalk.kernels.jump import path_statistics, rates_from_vector
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess

from .setting import NUM_STATES, blocks, paths_of, with_wrong_labels

_NUM_LINKS = NUM_STATES * (NUM_STATES - 1)
_REPEATS = 1 if TRIAL else 3
_DRAWS = 40 if TRIAL else 1000
_WARMUP = {"NUTS": 20 if TRIAL else 500, "ZeroShotMJP": 10 if TRIAL else 100}


def _rates():
    log_rates = numpyro.sample("log_rates", dist.Normal(-1, 1.5).expand([_NUM_LINKS]).to_event(1))
    return rates_from_vector(jnp.exp(log_rates), NUM_STATES)


def _clean(stats):
    numpyro.sample("counts", MarkovJumpCounts(_rates(), stats), obs=stats.counts)


def _noisy(times, labels):
    rates, rho = _rates(), numpyro.sample("rho", dist.Beta(1.5, 10.5))
    with numpyro.plate("paths", len(labels)):
        numpyro.sample("labels", MarkovJumpProcess(rates, times, label_noise=rho), obs=labels)


_KERNELS: dict[str, Callable[[Any], Any]] = {"ZeroShotMJP": ZeroShotMJP, "NUTS": NUTS}


def rows() -> list[Row]:
    """Counts, then the filter."""
    times = paths_of(1).times
    stats = path_statistics(times, blocks(1, 30 if TRIAL else 300, 1)[0], num_states=NUM_STATES)
    labels = with_wrong_labels(blocks(1, 5 if TRIAL else 100, 1)[0], 0.05)
    return [
        *_beside("clean counts", _clean, (stats,), steady=1.5),
        *_beside("5 % wrong", _noisy, (times, labels), steady=None),
    ]


def _beside(name: str, model: Callable, args: tuple, steady: float | None) -> list[Row]:
    found = []
    for num_chains, chains in ((1, "one chain"), (4, "four chains")):
        khat: list[float] = []
        whole = alternate(
            {kernel: partial(_whole_run, kernel, model, args, num_chains, khat) for kernel in _KERNELS},
            _REPEATS,
            after=_min_ess,
        )
        what = f"{name}, {chains}, all counted: ESS a second, ZeroShotMJP / NUTS"
        found.append(_row(what, whole, 2.0, f"k-hat {max(khat):.2f}; "))
    later = alternate(
        {kernel: _Continued(kernel, model, args) for kernel in _KERNELS}, _REPEATS, after=_min_ess
    )
    return [*found, _row(f"{name}, steady: ESS a second, ZeroShotMJP / NUTS", later, steady, "")]


def _row(name: str, times: dict, bar: float | None, said: str) -> Row:
    gain, cpu = (rate_ratio(times["ZeroShotMJP"], times["NUTS"], clock) for clock in ("wall", "cpu"))
    parts = [
        f"{kernel} ESS {np.median(timing.results):.0f} in {median_ms(timing.wall) / 1e3:.3g} s"
        for kernel, timing in times.items()
    ]
    note = f"{said}wall; CPU {cpu.median:.3g}x; {'; '.join(parts)}"
    return Row(name, gain.median, "x", at_least=bar, spread=gain, note=note)


def _mcmc(kernel: str, model: Callable, num_chains: int = 1) -> MCMC:
    return MCMC(
        _KERNELS[kernel](model),
        num_warmup=_WARMUP[kernel],
        num_samples=_DRAWS,
        num_chains=num_chains,
        chain_method="sequential",
        progress_bar=False,
    )


def _whole_run(kernel: str, model: Callable, args: tuple, num_chains: int, khat: list[float]) -> dict[str, Any]:
    mcmc = _mcmc(kernel, model, num_chains)
    fields = ("pareto_khat",) if kernel == "ZeroShotMJP" else ()
    mcmc.run(random.key(len(khat)), *args, extra_fields=fields)
    if fields:
        khat.append(float(mcmc.get_extra_fields()["pareto_khat"].max()))
    return mcmc.get_samples(group_by_chain=True)


class _Continued:
    """Draws that follow those before, in one program that is compiled once."""

    def __init__(self, kernel: str, model: Callable, args: tuple):
        mcmc = _mcmc(kernel, model)
        mcmc.warmup(random.key(0), *args)
        self.state, sample = mcmc.post_warmup_state, mcmc.sampler.sample

        @jax.jit
        def run(state):
            def one_draw(state, _):
                state = sample(state, args, {})
                return state, state.z

            return lax.scan(one_draw, state, length=_DRAWS)

        self.run = run

    def __call__(self) -> dict[str, Any]:
        self.state, draws = self.run(self.state)
        return jax.tree.map(lambda x: x[None], draws)


def _min_ess(draws: dict[str, Any]) -> float:
    """Over all latents, `[chain, draw, ...]`; bulk, so that it is that of constrained values too."""
    values = (np.asarray(value, float).reshape(*value.shape[:2], -1) for value in draws.values())
    return min(float(np.min(array_stats.ess(v, method="bulk", chain_axis=0, draw_axis=1))) for v in values)
