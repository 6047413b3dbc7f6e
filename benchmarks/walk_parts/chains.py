"""Sixty-four chains in one program, and the cost of `MCMC`

ego-Facebook, alpha 5: all steps of all chains a CPU second, over those of one chain of the bare kernel; four chains on
a million nodes; and one chain of HDT inside `MCMC`, with and without its bar.
"""

import warnings
from functools import partial

import jax
from jax import lax, random
from measure import TRIAL, Row, alternate
from numpyro.infer import MCMC

from emberwalk.infer import GraphWalk
from emberwalk.kernels.walk import hdt_graph, srrw
from emberwalk.models import barabasi_albert

from .setting import REPEATS, STEPS, facebook, per_second, times_as_fast
from .steps import walker

_NUM_CHAINS = 4 if TRIAL else 64
_PER_DRAW = (1, 10, 1000)
_ALL = 4000 if TRIAL else 640_000


def rows() -> list[Row]:
    """Both methods, two graphs, and inside `MCMC`."""
    large = barabasi_albert(2000 if TRIAL else 1_000_000, 5, seed=0)
    return [
        *together("HDT", "hdt", facebook(), _NUM_CHAINS, _PER_DRAW, bar=0.8),
        *together("SRRW", "srrw", facebook(), _NUM_CHAINS, _PER_DRAW[1:]),
        *together("HDT, a million nodes", "hdt", large, 4, _PER_DRAW[::2]),
        *in_mcmc(facebook()),
    ]


def together(name: str, method: str, graph, num_chains: int, per_draw, bar: float | None = None) -> list[Row]:
    """Draws of some lengths; the bar is for those of 10 steps or more."""
    functions = {"one": walker((hdt_graph if method == "hdt" else srrw)(graph, alpha=5.0))}
    for num in per_draw:
        functions[f"{num}"] = chains(graph, method, num_chains, num, _draws(num, num_chains))
    times = alternate(functions, 3 * REPEATS)  # ratios near 1: five pairs do not tell .75 from .9
    return [
        times_as_fast(
            f"{name}: {num_chains} chains, {num} steps a draw / one chain of the kernel",
            times[f"{num}"],
            times["one"],
            (_draws(num, num_chains) * num * num_chains, STEPS),
            bar if num >= 10 else None,
        )
        for num in per_draw
    ]


def _draws(per_draw: int, num_chains: int) -> int:
    return _ALL // (per_draw * num_chains) or 1


def chains(graph, method: str, num_chains: int, per_draw: int, num_draws: int):
    """A function that draws from all chains, in one compiled scan; their last state is kept, as `MCMC` keeps it."""
    kernel = GraphWalk(graph, alpha=5.0, method=method, steps_per_draw=per_draw)
    keys = random.split(random.key(0), num_chains)
    state = kernel.init(keys, 0, None, model_args=(), model_kwargs={})

    @jax.jit
    def run(state):
        return lax.scan(lambda s, _: (kernel.sample(s, (), {}), s.z["node"]), state, None, num_draws)

    return partial(run, state)


def in_mcmc(graph) -> list[Row]:
    """One chain inside `MCMC`, from the slope between two lengths: it compiles at every run."""
    from sgmcmc_parts.setting import Slope, kept_programs

    def run(per_draw: int, bar: bool, num_draws: int):
        kernel = GraphWalk(graph, alpha=5.0, method="hdt", steps_per_draw=per_draw)
        mcmc = MCMC(kernel, num_warmup=0, num_samples=num_draws, progress_bar=bar)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mcmc.run(random.key(0))
        return mcmc.get_samples()

    shorter = 100 if TRIAL else 1  # the longer run takes half a second more than the shorter, or more
    settings = {  # steps a draw, bar, draws of the shorter run
        "1 step a draw": (1, False, 80_000 // shorter),
        "100 steps a draw": (100, False, 8000 // shorter),
        "1000 steps a draw": (1000, False, 800 // shorter),
        "1 step a draw, with its bar": (1, True, 800 // shorter),
        "1000 steps a draw, with its bar": (1000, True, 800 // shorter),
    }
    functions = {"one": walker(hdt_graph(graph, alpha=5.0))}
    for name, (per_draw, bar, short) in settings.items():
        functions[name] = Slope(partial(run, per_draw, bar), short, 6 * short)
    with kept_programs():
        times = alternate(functions, REPEATS)
    ours = per_second(times["one"], STEPS)
    found = []
    for name, (per_draw, _, short) in settings.items():
        inside = per_second(times[name], 5 * short * per_draw)
        bar = 2 if name == "100 steps a draw" else None
        note = f"{inside:.3g} steps a CPU second inside"
        found.append(Row(f"bare kernel / inside MCMC, {name}", ours / inside, "x", at_most=bar, note=note))
    return found
