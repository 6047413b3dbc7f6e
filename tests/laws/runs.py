"""The programs of a kernel, each compiled once and read by many laws.

    sequential   no warm-up, progress bar on: one chain, run again and again, then three
    vectorized   the same chains as one batch
    mapped       the same chains under `jax.vmap`
    moved        exact draws, moved by the kernel: one jitted vmap over replicas, the arguments given
    moved        the same for the kernel beside NUTS in a `Gibbs`

Without a warm-up chain methods can be compared draw by draw; adaptation amplifies rounding.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.infer import MCMC

from .registry import Case, Sampler

CHAINS, DRAWS = 3, 10
KEY, OTHER = random.key(2), random.key(3)
COMPILATION = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The compilations that happen inside, read from a cache or not."""
    seen: list[str] = []

    def listen(event: str, duration: float, **kwargs: Any) -> None:
        if event == COMPILATION:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Run(NamedTuple):
    """One call of `MCMC.run`.

    Attributes:
        draws: of all sites, leading axes (chains, draws).
        fields: extra fields, with the same axes.
        last_state: of all chains.
        num_compiled: compilations while it ran.
    """

    draws: Any
    fields: dict[str, Any]
    last_state: Any
    num_compiled: int


class SequentialRuns(NamedTuple):
    """What one `MCMC` gave, run again and again: one chain, but for the last.

    Attributes:
        mcmc: the object, for laws that go on with it; what it holds are `chains`.
        first: with KEY.
        again: with KEY once more.
        other: with another key.
        continued: from the last state of `first`, with KEY.
        continued_other: from there, with another key.
        chains: three chains, with KEY.
    """

    mcmc: MCMC
    first: Run
    again: Run
    other: Run
    continued: Run
    continued_other: Run
    chains: Run


def make_mcmc(case: Case, method: Any, num_warmup: int = 0, bar: bool = False, chains: int = CHAINS) -> MCMC:
    """An `MCMC` on a fresh kernel; NumPyro turns the bar off under CI, so that it is forced on here."""
    options = {"num_chains": chains, "chain_method": method, "progress_bar": False}
    mcmc = MCMC(case.alone.kernel(), num_warmup=num_warmup, num_samples=DRAWS, **options)
    mcmc.progress_bar = bar
    return mcmc


def run(mcmc: MCMC, case: Case, key: jax.Array = KEY) -> Run:
    """`mcmc.run`, and what it gave."""
    with compilations() as seen, warnings.catch_warnings():
        # NumPyro donates a buffer that a callable chain method makes unusable
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        mcmc.run(key, *case.alone.target.args)
        jax.block_until_ready(mcmc.last_state)
    draws, fields = mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)
    return Run(draws, fields, mcmc.last_state, len(seen))


@cache
def sequential(case: Case) -> SequentialRuns:
    """Program 1. One chain where compilations are counted: NumPyro compiles a little more for several."""
    mcmc = make_mcmc(case, "sequential", bar=True, chains=1)
    first, again, other = (run(mcmc, case, key) for key in (KEY, KEY, OTHER))
    continued = []
    for key in (KEY, OTHER):
        mcmc.post_warmup_state = first.last_state
        continued.append(run(mcmc, case, key))
    mcmc.post_warmup_state, mcmc.num_chains = None, CHAINS
    return SequentialRuns(mcmc, first, again, other, *continued, run(mcmc, case))


@cache
def vectorized(case: Case) -> Run:
    """Program 2."""
    return run(make_mcmc(case, "vectorized"), case)


@cache
def mapped(case: Case) -> Run:
    """Program 3."""
    return run(make_mcmc(case, jax.vmap), case)


class Moved(NamedTuple):
    """Draws moved by a kernel, leading axis replicas.

    Attributes:
        draws: after the moves.
        num_nonfinite: what the kernel counted, None where it has no such field.
    """

    draws: Any
    num_nonfinite: Any


@cache
def moving(sampler: Sampler) -> Callable[..., Moved]:
    """Programs 4 and 5: (keys, latents, args, number of moves) -> Moved."""

    def one(key, latents, args, num_moves):
        kernel = sampler.kernel()
        state = kernel.init(key, 0, sampler.start(latents), model_args=args, model_kwargs={})
        state = sampler.place(kernel, state, latents, args)
        state = jax.lax.fori_loop(0, num_moves, lambda _, s: kernel.sample(s, args, {}), state)
        draws = kernel.postprocess_fn(args, {})(getattr(state, kernel.sample_field))
        return Moved(draws, getattr(state, "num_nonfinite", None))

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))


def exact_draws(sampler: Sampler, num: int) -> tuple[Any, tuple]:
    """`num` exact draws and their arguments."""
    draw = sampler.target.exact_draw
    assert draw is not None
    return jax.jit(jax.vmap(draw))(random.split(KEY, num))


class Exact(NamedTuple):
    """Exact draws, and the same draws as the kernel starts with them and as it leaves them.

    Attributes:
        latents: the exact draws.
        started: what the kernel has before its first move.
        before: test functions of the exact draws, a row a replica.
        after: of the moved ones.
    """

    latents: Any
    started: Any
    before: Any
    after: Any


def move_exact_draws(case: Case, sampler: Sampler) -> Exact:
    """Exact draws moved `case.moves` times."""
    latents, args = exact_draws(sampler, case.replicas)
    keys, program = random.split(OTHER, case.replicas), moving(sampler)
    draws = [program(keys, latents, args, moves).draws for moves in (0, case.moves)]
    if isinstance(latents, dict):  # a kernel may draw more than what was given to it
        draws = [{name: all_sites[name] for name in latents} for all_sites in draws]
    started, moved = draws
    statistics = jax.vmap(sampler.target.statistics)
    return Exact(latents, started, statistics(latents, args), statistics(moved, args))


def move_beside_nan(case: Case) -> Moved:
    """Draws outside the region of NaN, moved where the density is NaN inside it."""
    target = case.alone.target
    assert target.nan_args is not None
    assert target.in_nan is not None
    latents, args = exact_draws(case.alone, case.replicas)
    outside = np.flatnonzero(~np.asarray(target.in_nan(latents)))
    rows = jnp.asarray(np.resize(outside, case.replicas))
    latents, args = jax.tree.map(lambda leaf: leaf[rows], (latents, args))
    return moving(case.alone)(random.split(OTHER, case.replicas), latents, target.nan_args(args), case.moves)
