"""Particle Gibbs against a bare scan, `particles` and NUTS.

    a sweep         conditional filter and backward sampling, linear Gaussian model, T = 500, one chain:
                    both front-ends and the model written by hand over a bare scan; `particles` over ours
    the parameters  of the pound's volatility, T = 750, 4 chains: the smallest ESS of (phi, sigma, mu) a
                    second, ours over NUTS on the non-centred and on the centred model
    compilation     the first run in a new process over that of NUTS; programs that the second compiled

With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import json
import runpy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax import lax, random
from jaxtyping import Array, Float
from measure import (
    ROOT,
    TRIAL,
    Clocked,
    Row,
    Timing,
    alternate,
    child,
    median_ms,
    paired,
    peer_python,
    rate_ratio,
    ratio,
    report,
)
from numpyro import handlers
from numpyro.infer import NUTS
from numpyro.infer.mcmc import MCMCKernel
from peers.bare_scan import bare_sweep

from emberwalk.infer import PPG
from emberwalk.infer.smc.capture import OuterModel
from emberwalk.infer.smc.structure import find_path_model
from emberwalk.kernels.smc import SSM, conditional_sweep
from emberwalk.kernels.smc import Path as StatePath
from emberwalk.models import (
    linear_gaussian,
    linear_gaussian_scan,
    linear_gaussian_ssm,
    load_gbp_usd,
    stochastic_volatility,
)

PEERS = Path(__file__).parent / "peers"
PHI, SX = 0.9, 1.0
NUM_CHAINS = 4


class Sizes(NamedTuple):
    """How much is run.

    Attributes:
        repeats: of sweeps in this process; odd, as those below.
        parameter_repeats: of `draws` draws a chain.
        children: of what runs in processes of its own.
        length: T of the linear Gaussian series.
        sweeps: sweeps a repeat, one after another in one program.
        warmup: draws a chain before the clock counts.
        draws: draws a chain and repeat.
    """

    repeats: int
    parameter_repeats: int
    children: int
    length: int
    sweeps: int
    warmup: int
    draws: int


SIZES = Sizes(3, 1, 1, 50, 3, 20, 20) if TRIAL else Sizes(9, 5, 5, 500, 50, 500, 1000)
SERIES = runpy.run_path(str(ROOT / "tests" / "smc_data.py"))["linear_gaussian_data"](SIZES.length)


def main() -> list[Row]:
    """The table, part by part."""
    return [*sweep_rows(), *particles_rows(), *parameter_rows(), *compilation_rows()]


# A sweep


class Sweep(NamedTuple):
    """A path move.

    Attributes:
        move: (key, path, phi, sx, num_particles) -> path.
        start: a possible path.
    """

    move: Callable[..., Any]
    start: Any


def sweep_rows() -> list[Row]:
    """Front-ends and the model written by hand over the bare scan, for each N."""
    rows = []
    for num in (16, 100, 1000):
        functions = {name: chain_of_sweeps(sweep, num) for name, sweep in all_sweeps().items()}
        times = alternate(functions, SIZES.repeats)
        for name in ("scan", "StateSpace", "by hand"):
            row = sweep_row(f"{name} / bare scan", num, times[name], times["bare scan"])
            rows.append(row._replace(at_most=2.5))
        rows.append(sweep_row("scan / by hand", num, times["scan"], times["by hand"])._replace(at_most=1.6))
    return rows


def sweep_row(name: str, num: int, over: Timing, under: Timing) -> Row:
    """A ratio of CPU times, the ratio of wall times beside it."""
    cost, wall = ratio(over, under), ratio(over, under, "wall")
    times = [median_ms(timing.cpu) / SIZES.sweeps for timing in (over, under)]
    note = f"CPU, {times[0]:.3g} against {times[1]:.3g} ms; wall {wall.median:.3g}x"
    return Row(f"sweep, N = {num}: {name}", cost.median, spread=cost, note=note)


def all_sweeps() -> dict[str, Sweep]:
    """The same move on the same densities, by four ways to write them."""
    y = jnp.asarray(SERIES, jnp.float32)

    def bare(key, path, phi, sx, num):
        return bare_sweep(key, y, path, phi, sx, num)

    by_hand = partial(linear_gaussian_ssm, y)
    return {
        "bare scan": Sweep(bare, y),
        "by hand": Sweep(partial(sweep_of, by_hand), StatePath(y[0], y[1:])),
        "StateSpace": read_from(linear_gaussian, y, {"x": y}),
        "scan": read_from(linear_gaussian_scan, y, {"x0": y[0], "x": y[1:]}),
    }


def sweep_of(make_ssm: Callable[..., SSM], key, path, phi, sx, num: int) -> StatePath:
    """`conditional_sweep` with the model made inside the program, as `PPG` does it."""
    return conditional_sweep(key, make_ssm(phi, sx), path, num).path


def read_from(model: Callable, y: Float[Array, "T"], start: Mapping[str, Array]) -> Sweep:
    """What a front-end reads off a NumPyro model."""

    def given(phi, sx) -> OuterModel:
        return OuterModel(handlers.condition(model, {"phi": phi, "sx": sx}), (y,), {})

    found = find_path_model(given(PHI, SX))
    return Sweep(partial(sweep_of, lambda phi, sx: found.ssm(given(phi, sx))), found.path_of(dict(start)))


def chain_of_sweeps(sweep: Sweep, num: int) -> Callable[[], Any]:
    """`SIZES.sweeps` sweeps in one program, each from the path of the last; the parameters are inputs."""

    @jax.jit
    def run(key, phi, sx):
        def one_sweep(path, key):
            return sweep.move(key, path, phi, sx, num), None

        return lax.scan(one_sweep, sweep.start, random.split(key, SIZES.sweeps))[0]

    return lambda: run(random.key(0), jnp.float32(PHI), jnp.float32(SX))


def particles_rows(num: int = 100) -> list[Row]:
    """As many sweeps of `particles`, in an environment of its own, over ours from the scan."""
    python = peer_python("particles", "particles==0.4", "numpy<2")
    arguments = (str(num), str(SIZES.sweeps), str(PHI), json.dumps(SERIES.tolist()))

    def theirs() -> Clocked:
        return Clocked(**child(python, PEERS / "particles_sweep.py", *arguments))

    ours = chain_of_sweeps(all_sweeps()["scan"], num)
    times = alternate({"ours": ours, "particles": theirs}, SIZES.children)
    return [sweep_row("particles 0.4 / scan", num, times["particles"], times["ours"])._replace(at_least=20)]


# The parameters


def non_centred(y: Float[Array, "T"]) -> None:
    """`stochastic_volatility` in standardised noise, written by hand for NUTS."""
    mu = numpyro.sample("mu", dist.Normal(-1, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    phi = 2 * numpyro.sample("b", dist.Beta(20, 1.5)) - 1
    z0 = numpyro.sample("z0", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(y.shape).to_event(1))

    def step(deviation, z_t):
        deviation = phi * deviation + sigma * z_t
        return deviation, deviation

    _, deviations = lax.scan(step, sigma / jnp.sqrt(1 - phi**2) * z0, z)
    numpyro.sample("y", dist.Normal(0, jnp.exp((mu + deviations) / 2)).to_event(1), obs=y)


class Chains:
    """Vectorized chains after warm-up; each call continues them by `SIZES.draws` draws in one program.

    Args:
        kernel: to be sampled.
        y: the data.
    """

    def __init__(self, kernel: MCMCKernel, y: Float[Array, "T"]):
        state = kernel.init(random.split(random.key(0), NUM_CHAINS), SIZES.warmup, None, (y,), {})

        @partial(jax.jit, static_argnums=1)
        def run(state, num_draws):
            def one_draw(state, _):
                state = kernel.sample(state, (y,), {})
                return state, {name: state.z[name] for name in ("b", "sigma", "mu")}

            return lax.scan(one_draw, state, length=num_draws)

        self.run = run
        self.state = jax.block_until_ready(run(state, SIZES.warmup))[0]

    def __call__(self) -> dict[str, Float[Array, "draws chains"]]:
        """The parameters, unconstrained."""
        self.state, draws = self.run(self.state, SIZES.draws)
        return draws


def min_ess(draws: Mapping[str, Array]) -> float:
    """The smallest bulk ESS: of ranks, so that it is that of phi = 2 b - 1 and of constrained values."""
    return min(array_stats.ess(v, chain_axis=1, draw_axis=0, method="bulk") for v in draws.values())


def parameter_rows(num: int = 16) -> list[Row]:
    """ESS a second over that of NUTS, then what each kernel gives for itself."""
    y = jnp.asarray(load_gbp_usd()[1], jnp.float32)
    ours, peers = f"PPG, N = {num}", {"NUTS, non-centred": 2.0, "NUTS, centred": 5.0}
    kernels = {
        ours: PPG(stochastic_volatility, num_particles=num),
        "NUTS, non-centred": NUTS(non_centred),
        "NUTS, centred": NUTS(stochastic_volatility),
    }
    functions = {name: Chains(kernel, y) for name, kernel in kernels.items()}
    times = alternate(functions, SIZES.parameter_repeats, after=min_ess)
    rows = [
        Row(f"min ESS per {clock} second: {ours} / {peer}", gain.median, at_least=bar, spread=gain)
        for peer, bar in peers.items()
        for clock in ("cpu", "wall")
        for gain in [rate_ratio(times[ours], times[peer], clock)]
    ]
    return [*rows, *(rate_row(name, timing) for name, timing in times.items())]


def rate_row(name: str, timing: Timing) -> Row:
    """Min ESS per CPU second of one kernel, taken apart."""
    rates, draws = timing.per_second(), NUM_CHAINS * SIZES.draws
    per_draw = sum(timing.results) / len(timing.results) / draws
    note = (
        f"{per_draw:.3g} min ESS a draw, {median_ms(timing.cpu) / draws:.3g} ms CPU and "
        f"{median_ms(timing.wall) / draws:.3g} ms wall a draw of one of {NUM_CHAINS} chains"
    )
    spread = f"{min(rates):.3g} to {max(rates):.3g}"
    middle = sorted(rates)[len(rates) // 2]
    return Row(f"min ESS per cpu second: {name}", middle, unit="1/s", spread=spread, note=note)


# Compilation


def compilation_rows(num_draws: int = 20, num: int = 16) -> list[Row]:
    """New processes that keep no programs: the first run of PPG over that of NUTS, and the second run."""

    def first_run(kernel: str) -> Clocked:
        program = PEERS / "first_run.py"
        return Clocked(**child(sys.executable, program, kernel, str(num_draws), str(num)))

    functions = {name: partial(first_run, name) for name in ("ppg", "nuts")}
    times = alternate(functions, SIZES.children, after=lambda second: second)
    ours, nuts = times["ppg"], times["nuts"]
    first, apart = ratio(ours, nuts), paired(less_second(ours), less_second(nuts))
    each = f"{median_ms(ours.cpu) / 1e3:.3g} against {median_ms(nuts.cpu) / 1e3:.3g} s"
    how = f"CPU, one chain, {num_draws} + {num_draws} draws, progress bar on, N = {num}"
    compiled = [max(second["compilations"] for second in timing.results) for timing in (ours, nuts)]
    return [
        Row("first run: PPG / NUTS, centred", first.median, at_most=3, spread=first, note=f"{how}; {each}"),
        Row("first less second run: PPG / NUTS, centred", apart.median, spread=apart, note=how),
        Row("second run of PPG", compiled[0], "programs compiled", at_most=0, note=f"NUTS {compiled[1]}"),
    ]


def less_second(timing: Timing) -> list[float]:
    """CPU seconds that the first run took beyond the second: tracing and compilation."""
    return [first - second["cpu"] for first, second in zip(timing.cpu, timing.results, strict=True)]


if __name__ == "__main__":
    sys.exit(report("smc", main()))
