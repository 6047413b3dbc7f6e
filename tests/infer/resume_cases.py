"""Runs of `resumable` in a process of their own: `python resume_cases.py begin|finish FOLDER NAME...`.

`begin` makes each run without interruption in FOLDER/NAME/whole, and copies to FOLDER/NAME/cut what a kill
at the end of a segment would leave on the disk. `finish`, in another process, continues that. A kernel is one
entry of `CASES`: a function without arguments that returns (mcmc, arguments of the model).
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import AIES, HMC, HMCECS, MCMC, NUTS, SA, BarkerMH, DiscreteGibbs, DiscreteHMCGibbs, Gibbs
from numpyro.infer.mcmc import MCMCKernel

from emberwalk.infer import PPG, lag_product
from emberwalk.infer.resume import resumable
from emberwalk.infer.segments import host_array

Y = jnp.array([0.3, -0.2, 1.1, 0.4])
KEY = random.key(8)
ROOT = Path(__file__).parents[2]
EVERY = 6
SEGMENTS_BEFORE_THE_CUT = 2


def normal(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.deterministic("m/s", m / s)
    numpyro.sample("y", dist.Normal(m, s), obs=y)


def mixture(y):
    c = numpyro.sample("c", dist.Bernoulli(0.4))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m + c, 1.0), obs=y)


def subsampled(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=2):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, 0))


def path(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(0.8 * x, s))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, 0.0, y)


class WalkState(NamedTuple):
    position: dict
    total: jax.Array
    rng_key: jax.Array


class Walk(MCMCKernel):
    """A random walk whose state is a tree, fast to compile; as kernels may, it binds the data in `init`."""

    sample_field = "position"

    def __init__(self):
        self._sample_fn = None

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        self._sample_fn = partial(self._move, y=model_args[0])
        start = jnp.zeros(2) if init_params is None else init_params
        return WalkState({"walk/x": start, "pair": (start[0], [start])}, jnp.zeros((), int), rng_key)

    def sample(self, state, model_args, model_kwargs):
        return self._sample_fn(state)

    @staticmethod
    def _move(state, y):
        rng_key, key = random.split(state.rng_key)
        x = state.position["walk/x"] + jnp.mean(y) + random.normal(key, (2,))
        return WalkState({"walk/x": x, "pair": (x[0], [x])}, state.total + 1, rng_key)


def mcmc(kernel, progress_bar=True, **options):
    made = MCMC(kernel, num_warmup=8, num_samples=4 * EVERY, progress_bar=False, **options)
    made.progress_bar = progress_bar  # NumPyro turns the bar off under CI, and then compiles in each segment
    return made


def blocks():
    return Gibbs([(NUTS(normal), ["m"]), (NUTS(normal), ["s"])])


def path_and_scale():
    functionals = {"xx": lag_product("x")}
    return PPG(path, num_particles=4, interweave_steps=2, functionals=functionals, path_moments=True)


def two(method, **options):
    return {"num_chains": 2, "chain_method": method, **options}


CASES = {
    "nuts": lambda: (mcmc(NUTS(normal), thinning=3), (Y,)),
    "walk-parallel": lambda: (mcmc(Walk(), False, **two("parallel", thinning=2)), (Y,)),
    "walk-vmap": lambda: (mcmc(Walk(), False, **two(jax.vmap)), (Y,)),
}
# Run by the nightly tests only.
NIGHTLY = {
    "smc-ppg-vectorized": lambda: (mcmc(path_and_scale(), num_chains=3, chain_method="vectorized"), (Y,)),
    "nuts-vectorized": lambda: (mcmc(NUTS(normal), num_chains=3, chain_method="vectorized"), (Y,)),
    "nuts-sequential": lambda: (mcmc(NUTS(normal), **two("sequential")), (Y,)),
    "gibbs": lambda: (mcmc(blocks()), (Y,)),
    "smc-ppg": lambda: (mcmc(path_and_scale()), (Y,)),
    "nuts-bar-off": lambda: (mcmc(NUTS(normal), False), (Y,)),
    "nuts-parallel-bar": lambda: (mcmc(NUTS(normal), **two("parallel")), (Y,)),
    "hmc-dense": lambda: (mcmc(HMC(normal, dense_mass=True)), (Y,)),
    "gibbs-discrete": lambda: (mcmc(Gibbs([(DiscreteGibbs(mixture), ["c"]), (NUTS(mixture), None)])), (Y,)),
    "gibbs-sequential": lambda: (mcmc(blocks(), **two("sequential")), (Y,)),
    "gibbs-vmap": lambda: (mcmc(blocks(), False, **two(jax.vmap)), (Y,)),
    "discrete-hmc-gibbs": lambda: (mcmc(DiscreteHMCGibbs(NUTS(mixture))), (Y,)),
    "ecs": lambda: (mcmc(HMCECS(NUTS(subsampled), num_blocks=2)), (Y,)),
    "nuts-parallel": lambda: (mcmc(NUTS(normal), False, **two("parallel", thinning=2)), (Y,)),
    "nuts-vmap": lambda: (mcmc(NUTS(normal), False, **two(jax.vmap)), (Y,)),
    "barker": lambda: (mcmc(BarkerMH(normal)), (Y,)),
    "barker-parallel": lambda: (mcmc(BarkerMH(normal), False, **two("parallel", thinning=2)), (Y,)),
    "sa": lambda: (mcmc(SA(normal)), (Y,)),
    "aies": lambda: (mcmc(AIES(normal), num_chains=6, chain_method="vectorized"), (Y,)),
}
EXTRA_FIELDS = {
    "nuts": ("adapt_state.step_size", "adapt_state.inverse_mass_matrix", "z.s", "~z.m"),
    "nuts-vectorized": ("potential_energy", "adapt_state.step_size"),
    "gibbs": ("block_states.1.potential_energy",),
}


def child(script, *arguments):
    """Run a script of this folder with the tests' compilation cache and two devices; its output."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # half the time of compilation, which is what these runs cost
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    result = subprocess.run(command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_equal(a, b):
    """Two trees are equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(host_array(one), host_array(other))


def walk(folder, kernel=Walk, every=4, **options):
    """A run of 8 iterations that costs next to nothing."""
    chains = {"num_chains": 2, "chain_method": "sequential"}
    settings = {"num_warmup": 3, "num_samples": 8, "thinning": 2, **chains, **options}
    return resumable(MCMC(kernel(), progress_bar=False, **settings), folder, every=every)


def walk_on(folder, rng_key=KEY, y=Y, extra_fields=("total",), run_options=None, **options):
    """Start or continue that run."""
    run = walk(folder, **options)
    run.run(rng_key, y, extra_fields=extra_fields, **(run_options or {}))
    return run


def copy_before_return(mcmc, runs, source, target):
    """Copy what run number `runs` finds on the disk just before it returns: its segment is not saved yet."""
    run, count = mcmc.run, 0

    def counted(*args, **kwargs):
        nonlocal count
        run(*args, **kwargs)
        count += 1
        if count == runs:
            shutil.copytree(source, target)

    mcmc.run = counted


def resumed(name, folder):
    mcmc, args = (CASES | NIGHTLY)[name]()
    run = resumable(mcmc, folder, every=EVERY)
    return run, lambda: run.run(KEY, *args, extra_fields=EXTRA_FIELDS.get(name, ()))


def begin(name, folder):
    run, start = resumed(name, folder / "whole")
    # The warm-up is a run too.
    copy_before_return(run.mcmc, 1 + SEGMENTS_BEFORE_THE_CUT + 1, folder / "whole", folder / "cut")
    start()


def finish(name, folder):
    _, start = resumed(name, folder / "cut")
    start()


if __name__ == "__main__":
    action, root, *names = sys.argv[1:]
    for name in names:
        {"begin": begin, "finish": finish}[action](name, Path(root) / name)
