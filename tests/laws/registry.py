"""Every kernel of the package, as the laws see it: one entry of `CASES`, no test code.

A new kernel is a new entry. What a law must know of it is a field; what a kernel cannot have, by what
it is, is `None` or a reason, and the law is then skipped with that reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, NUTS, Gibbs
from numpyro.infer.gibbs import with_conditioning

from emberwalk.infer import PPG, SGMCMC, ParticleGibbs, PPGState, control_variates, lag_product
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews
from tests.metropolis import Metropolis, location_scale


def same(latents: Any) -> Any:
    """What `init` takes, where that is the latents as they are."""
    return latents


def as_started(kernel: Any, state: Any, latents: Any, args: tuple) -> Any:
    """The state of a kernel that starts where it is told."""
    return state


@dataclass(frozen=True, eq=False)
class Target:
    """What is sampled: a tiny model, a graph, whatever `run` takes as arguments.

    Attributes:
        args: arguments of `MCMC.run`.
        statistics: (latents, args) -> vector. Its mean over exact draws must not change when they move.
        exact_draw: key -> (latents, args), latents given args drawn exactly from the target. Either the
            args are always the same (conjugacy, enumeration, a grid), or the data are drawn with the
            latents from the prior: then the latents are an exact draw given those data, whatever the
            model, and statistics that join both see a wrong likelihood. None where no draw can be exact.
        nan_args: args -> args under which the density is NaN where `in_nan`; None where that cannot be.
        in_nan: latents -> whether they lie where the density is NaN.
    """

    args: tuple
    statistics: Callable[[Any, tuple], Any]
    exact_draw: Callable[[Any], tuple[Any, tuple]] | None
    nan_args: Callable[[tuple], tuple] | None = None
    in_nan: Callable[[Any], Any] | None = None


@dataclass(frozen=True, eq=False)
class Sampler:
    """A kernel on a target.

    Attributes:
        kernel: builds a fresh kernel.
        target: what it samples.
        start: latents -> `init_params` of the kernel (unconstrained where it asks for that).
        place: (kernel, state, latents, args) -> state at the latents, where `init` does not take them.
    """

    kernel: Callable[[], Any]
    target: Target
    start: Callable[[Any], Any] = same
    place: Callable[[Any, Any, Any, tuple], Any] = as_started


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel as the laws see it.

    Attributes:
        name: shown in the test id; it holds the wing's word.
        alone: the kernel by itself.
        block: a `Gibbs` that holds the kernel beside NUTS; None where it may not be a block.
        refusal: builds that `Gibbs` where `block` is None; it must raise.
        refused_with: what the ValueError then says.
        fields: the default fields it must collect.
        moves: moves of each exact draw.
        replicas: exact draws; raise it where a planted bug would not be seen.
        stationary: False for a kernel that does not leave its target invariant, by construction (an
            approximate kernel, a self-interacting walk): its own tests know its law.
        agreement: how far chain methods may differ over 10 draws in float32.
        skipped: law (its test without "test_") -> why it is not asked of this kernel, beyond what the
            other fields say.
        nightly: laws that cost too much for every run of the tests; True: all of them.
    """

    name: str
    alone: Sampler
    block: Sampler | None
    fields: tuple[str, ...]
    refusal: Callable[[], Any] | None = None
    refused_with: str = ""
    moves: int = 5
    replicas: int = 8000
    stationary: bool = True
    agreement: float = 1e-5
    skipped: dict[str, str] = field(default_factory=dict)
    nightly: frozenset[str] | bool = frozenset()


def from_prior(model: Callable, names: tuple[str, ...], length: int, data: Callable) -> Callable:
    """`exact_draw`: latents of the model from their prior, then (data(key, latents), no cut) as its args."""

    def exact_draw(key):
        key_latents, key_data = random.split(key)
        sites = handlers.trace(handlers.seed(model, key_latents)).get_trace(jnp.zeros(length))
        latents = {name: sites[name]["value"] for name in names}
        return latents, (data(key_data, latents), jnp.inf)

    return exact_draw


def with_cut(cut: float) -> Callable[[tuple], tuple]:
    """`nan_args` of a model whose second argument is the cut."""
    return lambda args: (args[0], jnp.full_like(args[1], cut))


def with_log(site: str) -> Callable[[dict], dict]:
    """`start` of a kernel that takes the logarithm of one positive site."""
    return lambda latents: {**latents, site: jnp.log(latents[site])}


# A location and a scale, seen four times.


def of_location_scale(latents, args):
    m, s, y = latents["m"], latents["s"], args[0]
    return jnp.stack([m, s, m**2, s**2, m * y.mean(), s * jnp.var(y), ((y - m) ** 2).mean() / s**2])


def data_of_location_scale(key, latents):
    return latents["m"] + latents["s"] * random.normal(key, (4,))


LOCATION_SCALE = Target(
    (jnp.array([0.5, 1.2, -0.3, 0.8]),),
    of_location_scale,
    from_prior(location_scale, ("m", "s"), 4, data_of_location_scale),
    with_cut(0.5),
    lambda latents: latents["m"] > 0.5,
)

# The same, two rows at a time.


def location_scale_of_rows(y, cut=jnp.inf):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("rows", y.shape[0], subsample_size=2):
        law = dist.Normal(jnp.where(m > cut, jnp.nan, m), s)
        numpyro.sample("y", law, obs=numpyro.subsample(y, event_dim=0))


# An autoregression seen through noise, its scale unknown or given; x_0 stands outside the scan.


def autoregression(y, cut=jnp.inf, sx=None):
    sx = numpyro.sample("sx", dist.HalfNormal(1.0)) if sx is None else sx
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(0.8 * x, sx))
        numpyro.sample("y", dist.Normal(jnp.where(x > cut, jnp.nan, x), 1.0), obs=y_t)
        return x, None

    scan(step, x0, y)


def autoregression_of_known_scale(y, cut=jnp.inf):
    autoregression(y, cut, 0.7)


def of_path(latents, args):
    x, y = jnp.append(latents["x0"], latents["x"]), args[0]
    ends = [x[0], x[0] ** 2, x[-1], x[-1] ** 2]
    return jnp.stack([*ends, x[0] * x[-1], x[0] * y[0], x[-1] * y[-1], jnp.sum((y - x[1:]) ** 2)])


def of_autoregression(latents, args):
    sx, y = latents["sx"], args[0]
    x = jnp.append(latents["x0"], latents["x"])
    noise = (x[1:] - 0.8 * x[:-1]) / sx
    return jnp.append(
        of_path(latents, args), jnp.stack([sx, sx**2, sx * y[-1] ** 2, jnp.sum(noise**2), sx * x[0] ** 2])
    )


def data_of_path(key, latents):
    return latents["x"] + random.normal(key, (3,))


def beyond_cut(latents):
    return jnp.any(latents["x"] > 0.8, -1)


SEEN = (jnp.array([0.5, 1.2, -0.3]),)
AUTOREGRESSION = Target(
    SEEN,
    of_autoregression,
    from_prior(autoregression, ("sx", "x0", "x"), 3, data_of_path),
    with_cut(0.8),
    beyond_cut,
)
PATH_ALONE = Target(
    SEEN,
    of_path,
    from_prior(autoregression_of_known_scale, ("x0", "x"), 3, data_of_path),
    with_cut(0.8),
    beyond_cut,
)

# Two regimes, calm at 0 and raised to an unknown level; the first one stands outside the scan.


def regimes(y, cut=jnp.inf):
    level = numpyro.sample("level", dist.Normal(1.0, 1.0))
    s0 = numpyro.sample("s0", dist.Bernoulli(0.5))

    def step(s, y_t):
        s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, 0.8, 0.3)))
        mean = level * s
        numpyro.sample("y", dist.Normal(jnp.where(mean > cut, jnp.nan, mean), 1.0), obs=y_t)
        return s, None

    scan(step, s0, y)


def data_of_regimes(key, latents):
    return latents["level"] * latents["s"] + random.normal(key, (3,))


def of_regimes(latents, args):
    level, y = latents["level"], args[0]
    s = jnp.append(latents["s0"], latents["s"]).astype(y.dtype)
    alone = [level, level**2, s[0], s[-1], jnp.sum(s[1:] * s[:-1])]
    return jnp.stack([*alone, s[0] * y[0], s[-1] * y[-1], level * s[-1] * y[-1], level * y.mean()])


REGIMES = Target(
    SEEN,
    of_regimes,
    from_prior(regimes, ("level", "s0", "s"), 3, data_of_regimes),
    with_cut(1.5),
    lambda latents: jnp.any(latents["level"][..., None] * latents["s"] > 1.5, -1),
)


# Kernels: NumPyro's own, which shows that the laws are fair; the smallest on our contract; those of the wings.


EXACT, BLOCK = "leaves_exact_draws_exact", "is_a_block_of_gibbs_or_says_why_not"
X64, CALLABLE = "works_in_x64", "callable_chain_method_agrees"
VECTORIZED = ("chain_methods_agree", "chains_differ")
SWEEP_FIELDS = ("particle_ess", "particle_ess_min", "path_update_rate", "log_evidence", "num_nonfinite")
HMC_FIELDS = ("potential_energy", "accept_prob", "num_steps", "diverging")


def nuts():
    return NUTS(location_scale, step_size=0.3, max_tree_depth=4)


def nuts_in_blocks():
    return Gibbs([(nuts(), ["m"]), (nuts(), None)])


def metropolis():
    return Metropolis(location_scale)


def metropolis_in_gibbs():
    return Gibbs([(metropolis(), ["s"]), (nuts(), None)])


def ppg():
    return PPG(autoregression, num_particles=6, interweave_steps=4)


def ppg_in_gibbs():
    path = PPG(autoregression, num_particles=6, interweave_steps=4)
    return Gibbs([(path, ["x0", "x"]), (NUTS(autoregression, max_tree_depth=3, step_size=0.5), None)])


def ppg_of_regimes():
    inner = HMC(regimes, step_size=0.3, num_steps=3, trajectory_length=None)
    return PPG(regimes, num_particles=4, interweave=None, inner_kernel=inner)


def regimes_in_gibbs():
    path = PPG(regimes, num_particles=4, interweave=None)
    return Gibbs([(path, ["s0", "s"]), (NUTS(regimes, max_tree_depth=3, step_size=0.5), None)])


def path_alone():
    functionals = {"xx": lag_product("x")}
    return ParticleGibbs(autoregression_of_known_scale, num_particles=6, functionals=functionals)


def path_in_gibbs():
    path = ParticleGibbs(autoregression, num_particles=6)
    return Gibbs([(path, ["x0", "x"]), (NUTS(autoregression, max_tree_depth=3, step_size=0.5), None)])


def put_path(kernel, state, latents, args):
    """The path block of a `Gibbs` starts from a filter: values from there are no user's, but prior draws."""
    block, parameters = state.block_states
    path = {site: latents[site] for site in block.z}
    if isinstance(block, PPGState):
        sweep, inner = block.block_states
        block = block._replace(block_states=(sweep._replace(z=path), inner))
    parameters = kernel.blocks[1][0].refresh(parameters, args, with_conditioning({}, path))
    return state._replace(z={**state.z, **path}, block_states=(block._replace(z=path), parameters))


def rows_with_control_variates():
    centre = {"m": 0.5, "s": 0.6}
    return SGMCMC(location_scale_of_rows, leimkuhler_matthews(1e-4), gradient=control_variates(centre))


def rows_in_gibbs():
    return Gibbs([(rows_with_control_variates(), ["s"]), (NUTS(location_scale_of_rows), None)])


def langevin():
    return SGMCMC(location_scale, baoab(0.05, 1.0), temperature=0.5)


def langevin_in_gibbs():
    return Gibbs([(langevin(), ["s"]), (nuts(), None)])


SG_FIELDS = (
    "z", "potential_energy", "step_size", "temperature", "configurational_temperature", "noise_ratio",
    "num_nonfinite", "diverging",
)  # fmt: skip


CASES = [
    Case(
        "nuts",
        Sampler(nuts, LOCATION_SCALE, with_log("s")),
        Sampler(nuts_in_blocks, LOCATION_SCALE, with_log("s")),
        fields=("z", "diverging"),
        # not ours: daily it shows that the laws of one run are fair, `metropolis` that the others are
        nightly=frozenset({EXACT, BLOCK, X64, CALLABLE, "no_silent_nan", *VECTORIZED}),
    ),
    Case(
        "metropolis",
        Sampler(metropolis, LOCATION_SCALE, with_log("s")),
        Sampler(metropolis_in_gibbs, LOCATION_SCALE),
        fields=("z", "accept_prob", "num_nonfinite"),
        nightly=frozenset({BLOCK, X64}),
    ),
    Case(
        "smc-ppg",
        Sampler(ppg, AUTOREGRESSION, with_log("sx")),
        Sampler(ppg_in_gibbs, AUTOREGRESSION, with_log("sx"), put_path),
        fields=("z", *SWEEP_FIELDS, "interweave_accept_prob", *HMC_FIELDS, "last_carry"),
        # vectorized chains have exact laws daily in `tests/infer/test_smc_exact.py`
        nightly=frozenset({BLOCK, CALLABLE, X64, *VECTORIZED}),
    ),
    Case(
        "smc-ppg-discrete",
        Sampler(ppg_of_regimes, REGIMES),
        Sampler(regimes_in_gibbs, REGIMES, place=put_path),
        fields=("z", *SWEEP_FIELDS, *HMC_FIELDS, "last_carry"),
        nightly=True,
    ),
    Case(
        "smc-particle-gibbs",
        Sampler(path_alone, PATH_ALONE),
        Sampler(path_in_gibbs, AUTOREGRESSION, with_log("sx"), put_path),
        fields=("z", *SWEEP_FIELDS, "functionals", "path_functionals"),
        # its sweep is that of `smc-ppg`, which daily is exact and never silent about a NaN
        nightly=frozenset({EXACT, BLOCK, CALLABLE, X64, "no_silent_nan", *VECTORIZED}),
    ),
    Case(
        "sgmcmc-control-variates",
        Sampler(rows_with_control_variates, LOCATION_SCALE, with_log("s")),
        None,
        fields=SG_FIELDS,
        refusal=rows_in_gibbs,
        refused_with="A block of Gibbs sees all data at once",
        stationary=False,
        nightly=frozenset({CALLABLE, X64}),
    ),
    Case(
        "sgmcmc-baoab",
        Sampler(langevin, LOCATION_SCALE, with_log("s")),
        Sampler(langevin_in_gibbs, LOCATION_SCALE),
        fields=(*SG_FIELDS, "kinetic_temperature"),
        stationary=False,
        nightly=frozenset({BLOCK, CALLABLE, X64}),
    ),
]
