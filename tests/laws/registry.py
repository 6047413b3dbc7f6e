"""Every kernel of the package, as the laws see it: one entry of `CASES`, no test code.

A new kernel is a new entry. What a law must know of it is a field; what a kernel cannot have, by what
it is, is `None` or a reason, and the law is then skipped with that reason.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, NUTS, Gibbs
from numpyro.infer.gibbs import with_conditioning

from emberwalk.infer import (
    PPG,
    SGMCMC,
    SRRW,
    GraphWalk,
    ParticleGibbs,
    PPGState,
    control_variates,
    lag_product,
)
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews
from tests.laws.case import Case, Sampler, Target
from tests.laws.jump_case import JUMP
from tests.metropolis import Metropolis, location_scale


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


# A walk on a triangle with a tail

KITE, KITE_WEIGHTS = [(0, 1), (1, 2), (2, 0), (2, 3)], (1.0, 2.0, 3.0, 4.0)


def kite_exactly(key):
    return {"node": random.categorical(key, jnp.log(jnp.array(KITE_WEIGHTS)))}, ()


def of_kite(latents, args):
    return jax.nn.one_hot(latents["node"], 4)


def three_votes(y):
    share = numpyro.sample("share", dist.DiscreteUniform(1, 3))
    with numpyro.plate("votes", 3):
        vote = numpyro.sample("vote", dist.Bernoulli(share / 4))
        numpyro.sample("y", dist.Normal(vote, 1.0), obs=y)


def votes_exactly(key):
    key_share, key_vote, key_y = random.split(key, 3)
    share = random.randint(key_share, (), 1, 4)
    vote = random.bernoulli(key_vote, share / 4, (3,)).astype(jnp.int32)
    return {"share": share, "vote": vote}, (vote + random.normal(key_y, (3,)),)


def of_votes(latents, args):
    share, vote, (y,) = latents["share"], latents["vote"], args
    alone = [share, share**2, *vote, vote[0] * vote[1]]
    return jnp.stack([jnp.asarray(v, y.dtype) for v in (*alone, share * y.sum(), *(vote * y))])


def steps_of_a_level(y, cut=jnp.inf):
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        step = numpyro.sample("step", dist.DiscreteUniform(1, 2))
        numpyro.sample("y", dist.Normal(level * step, 1.0), obs=y)


def of_steps(latents, args):
    level, step, y = latents["level"], latents["step"], args[0]
    alone = [level, level**2, *(1.0 * step), level * step[0]]
    return jnp.stack([*alone, level * y.sum(), step @ y, jnp.sum((y - level * step) ** 2)])


def data_of_steps(key, latents):
    return latents["level"] * latents["step"] + random.normal(key, (3,))


STEPS_OF_A_LEVEL = Target(SEEN, of_steps, from_prior(steps_of_a_level, ("level", "step"), 3, data_of_steps))
VOTES = Target((jnp.array([0.2, 1.1, -0.4]),), of_votes, votes_exactly)
VOTES_OF_A_MEMORY = Target((jnp.array([0.2, 1.1, -0.4]),), of_votes, None)
NODES = Target((), of_kite, kite_exactly)
NODES_OF_A_MEMORY = Target((), of_kite, None)

# Kernels: NumPyro's own, which shows that the laws are fair; the smallest on our contract; those of the wings.

EXACT, BLOCK = "leaves_exact_draws_exact", "is_a_block_of_gibbs_or_says_why_not"
X64, CALLABLE = "works_in_x64", "callable_chain_method_agrees"
VECTORIZED = ("chain_methods_agree", "chains_differ")
WALK_FIELDS = ("z", "alpha", "revisit_rate", "accept_prob", "num_nonfinite")
SITE_FIELDS = (*WALK_FIELDS, "potential_energy", "num_untracked")
NO_MODEL = "a walk on a graph has no model, and is no block"
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


def walk_without_repellence():
    return GraphWalk(KITE, KITE_WEIGHTS, alpha=0.0, steps_per_draw=100)


def walk_with_repellence():
    return GraphWalk(KITE, KITE_WEIGHTS, alpha=5.0, steps_per_draw=100)


def votes_without_repellence():
    return SRRW(three_votes, 0.0, steps_per_draw=4)


def total(sites):
    return sites["vote"].sum(-1)


def votes_with_repellence():
    return SRRW(three_votes, 5.0, base="mh", history_size=64, steps_per_draw=100, stream=total)


def steps_in_gibbs():
    level = NUTS(steps_of_a_level, max_tree_depth=3, step_size=0.5)
    return Gibbs([(SRRW(steps_of_a_level, 0.0), ["step"]), (level, None)])


def votes_in_gibbs():
    return Gibbs([(votes_with_repellence(), ["vote"]), (SRRW(three_votes, 0.0), ["share"])])


def rows_with_control_variates():
    centre = {"m": 0.5, "s": 0.6}
    return SGMCMC(location_scale_of_rows, leimkuhler_matthews(1e-4), gradient=control_variates(centre))


def rows_in_gibbs():
    return Gibbs([(rows_with_control_variates(), ["s"]), (NUTS(location_scale_of_rows), None)])


def langevin():
    return SGMCMC(location_scale, baoab(0.05, 1.0), temperature=0.5)


def langevin_in_gibbs():
    return Gibbs([(langevin(), ["s"]), (nuts(), None)])


SG_FIELDS = ("z", "potential_energy", "step_size", "temperature", "configurational_temperature")
SG_FIELDS += ("noise_ratio", "num_nonfinite", "diverging")


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
        "walk-graph-alone",
        Sampler(walk_without_repellence, NODES),
        None,
        fields=WALK_FIELDS,
        moves=1,
        replicas=4000,
        skipped={BLOCK: NO_MODEL},
        nightly=frozenset({CALLABLE, X64}),
    ),
    Case(
        "walk-graph",
        Sampler(walk_with_repellence, NODES_OF_A_MEMORY),
        None,
        fields=WALK_FIELDS,
        stationary=False,  # from its second step on; the path law of `test_walk_path_law` stands in
        skipped={BLOCK: NO_MODEL},
    ),
    Case(
        "walk-sites-alone",
        Sampler(votes_without_repellence, VOTES),
        Sampler(steps_in_gibbs, STEPS_OF_A_LEVEL),
        fields=SITE_FIELDS,
        moves=2,
        nightly=frozenset({BLOCK, CALLABLE, X64}),
    ),
    Case(
        "walk-sites",
        Sampler(votes_with_repellence, VOTES_OF_A_MEMORY),
        None,
        fields=SITE_FIELDS,
        refusal=votes_in_gibbs,
        refused_with="SRRW with alpha=5.0 cannot be a block of Gibbs",
        stationary=False,
        nightly=frozenset({CALLABLE, X64}),
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
    JUMP,
]
