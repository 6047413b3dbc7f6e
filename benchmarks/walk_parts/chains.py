"""Sixty-four chains in one program, and the cost of `MCMC`

ego-Facebook, HDT, alpha 5: all steps of all chains a CPU second, over those of one chain of the bare kernel; and one
chain inside `MCMC` without a bar.
"""

from functools import partial

import jax
from jax import lax, random
from measure import TRIAL, Row, alternate
from numpyro.infer import MCMC

from emberwalk.infer import GraphWalk
from emberwalk.kernels.walk import hdt_graph

from .setting import REPEATS, STEPS, facebook, per_second, times_as_fast
from .steps import walker

_NUM_CHAINS = 4 if TRIAL else 64
_PER_DRAW = (1, 10, 1000)
_ALL = 4000 if TRIAL else 640_000


def rows() -> list[Row]:
    """Draws of 1, 10 and 1000 steps."""
    graph = facebook()
    functions = {"one": walker(hdt_graph(graph, alpha=5.0))}
    for num in _PER_DRAW:
        functions[f"{num}"] = chains(graph, num, _ALL // (num * _NUM_CHAINS) or 1)
    times = alternate(functions, REPEATS)
    found = []
    for num in _PER_DRAW:
        steps = (_ALL // (num * _NUM_CHAINS) or 1) * num * _NUM_CHAINS
        name = f"{_NUM_CHAINS} chains, {num} steps a draw / one chain of the kernel"
        found.append(
            times_as_fast(name, times[f"{num}"], times["one"], (steps, STEPS), 0.8 if num >= 10 else None)
        )
    return [*found, *in_mcmc(graph, times["one"])]


def chains(graph, per_draw: int, num_draws: int):
    """A function that draws from all chains, in one compiled scan."""
    kernel = GraphWalk(graph, alpha=5.0, method="hdt", steps_per_draw=per_draw)
    keys = random.split(random.key(0), _NUM_CHAINS)
    state = kernel.init(keys, 0, None, model_args=(), model_kwargs={})

    @jax.jit
    def run(state):
        return lax.scan(lambda s, _: (kernel.sample(s, (), {}), s.z["node"]), state, None, num_draws)[1]

    return partial(run, state)


def in_mcmc(graph, one) -> list[Row]:
    """One chain inside `MCMC`, from the slope between two lengths: it compiles at every run."""
    from sgmcmc_parts.setting import Slope, kept_programs

    per_draw, short = 100, STEPS // 1000
    kernel = GraphWalk(graph, alpha=5.0, method="hdt", steps_per_draw=per_draw)

    def run(num_draws: int):
        mcmc = MCMC(kernel, num_warmup=0, num_samples=num_draws, progress_bar=False)
        mcmc.run(random.key(0))
        return mcmc.get_samples()

    with kept_programs():
        timing = alternate({"mcmc": Slope(run, short, 21 * short)}, REPEATS)["mcmc"]
    steps = 20 * short * per_draw
    ours = per_second(one, STEPS)
    inside = per_second(timing, steps)
    return [
        Row(
            "one chain: bare kernel / inside MCMC, 100 steps a draw",
            ours / inside,
            "x",
            at_most=2,
            note=f"{inside:.3g} steps a CPU second inside",
        )
    ]
