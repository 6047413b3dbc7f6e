"""Markov jump processes among the laws: a two-state process, seen three times over four points, labels right."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import NUTS, Gibbs

from emberwalk.infer.jump.kernel import ZeroShotMJP
from emberwalk.models import MarkovJumpProcess

from .case import Case, Sampler, Target

TIMES = 0.7 * np.arange(4)


def two_way(labels, cut=jnp.inf):
    """Log rates of both ways; the rates are NaN where the first is above the cut."""
    up = numpyro.sample("up", dist.Normal(0.0, 1.0))
    down = numpyro.sample("down", dist.Normal(0.0, 1.0))
    zero = jnp.zeros(())
    q = jnp.array([[zero, jnp.exp(jnp.where(up > cut, jnp.nan, up))], [jnp.exp(down), zero]])
    with numpyro.plate("paths", 3):
        numpyro.sample("y", MarkovJumpProcess(q, TIMES, initial="stationary"), obs=labels)


def exact_draw(key):
    """Latents from their prior, labels from them."""
    sites = handlers.trace(handlers.seed(two_way, key)).get_trace(None)
    return {name: sites[name]["value"] for name in ("up", "down")}, (sites["y"]["value"], jnp.inf)


def statistics(latents, args):
    up, down, y = latents["up"], latents["down"], args[0]
    risen = jnp.sum((y[:, 1:] > y[:, :-1]), dtype=up.dtype)
    fallen = jnp.sum((y[:, 1:] < y[:, :-1]), dtype=up.dtype)
    share = jnp.mean(y, dtype=up.dtype)
    alone = [up, down, up**2, down**2, up * down]
    return jnp.stack([*alone, up * risen, down * fallen, (up - down) * share, jnp.exp(-up) * risen])


def with_cut(args):
    return args[0], jnp.full_like(args[1], 0.8)


TWO_WAY = Target(
    (jnp.array([[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0]]),),
    statistics,
    exact_draw,
    with_cut,
    lambda latents: latents["up"] > 0.8,
)


def zero_shot():
    return ZeroShotMJP(two_way, num_proposals=2, nuts_every=2, max_tree_depth=4)


def zero_shot_in_gibbs():
    return Gibbs([(zero_shot(), ["up"]), (NUTS(two_way, max_tree_depth=3, step_size=0.7), None)])


JUMP = Case(
    "jump-zero-shot",
    Sampler(zero_shot, TWO_WAY),
    Sampler(zero_shot_in_gibbs, TWO_WAY),
    fields=(
        "z", "potential_energy", "accept_prob", "independence_accept_prob", "num_steps", "diverging", "num_nonfinite",
    ),
    moves=2,
    replicas=2000,
    nightly=frozenset({"is_a_block_of_gibbs_or_says_why_not", "callable_chain_method_agrees", "works_in_x64"}),
)  # fmt: skip
