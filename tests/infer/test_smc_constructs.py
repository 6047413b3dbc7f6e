"""The table of constructs: a row that works has the density of the model.

It is lowered, and the sum over its SSM must be NumPyro's `log_density`; the slot of the reference
keeps the reference, and its noise gives the path back. `test_smc_refused.py` has the rows that raise.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, MCMC
from numpyro.infer.reparam import LocScaleReparam

from emberwalk.infer import PPG
from emberwalk.models import StateSpace, emission
from tests.infer.smc_lowering import (
    Y,
    chain,
    find,
    lowered,
    observe,
    phi_and_x0,
    plain,
    plain_step,
    sample_x,
)

SEEN = jnp.array([True, False, True, True])
GAPS = jnp.where(SEEN, Y, jnp.nan)
PAIRS = jnp.stack([Y, -Y], axis=1)


def conditioned_later(y):
    """y is no argument of its site: `condition` observes it."""
    phi, x0 = phi_and_x0()

    def step(x, _):
        x = sample_x(phi * x)
        numpyro.sample("y", dist.Normal(x, 1.0))
        return x, None

    scan(step, x0, None, length=4)


def obs_mask(y, seen):
    phi, x0 = phi_and_x0()

    def step(x, inputs):
        y_t, seen_t = inputs
        x = sample_x(phi * x)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t, obs_mask=seen_t)
        return x, None

    scan(step, x0, (y, seen))


def masked_gaps(phi, x, y_t):
    x = sample_x(phi * x)
    with handlers.mask(mask=~jnp.isnan(y_t)):
        observe(x, y_t)
    return x


def plate_in_body(y):
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 2.0).to_event(1))

    def step(x, y_t):
        with numpyro.plate("series", 2):
            x = numpyro.sample("x", dist.Normal(phi * x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, x0, y)


def latents_in_turn(phi, carry, y_t):
    """v first, then x whose scale is v; a factor and a deterministic site beside them."""
    x, t = carry
    v = numpyro.sample("v", dist.LogNormal(0.1 * x, 0.5))
    x = numpyro.sample("x", dist.Laplace(phi * x, v))
    numpyro.deterministic("shifted", x + t)
    numpyro.factor("soft", -0.1 * x**2)
    numpyro.sample("y", dist.Normal(x, 1.0 + 0.1 * t), obs=y_t)
    return x, t + 1


def discrete(y):
    stay = numpyro.sample("stay", dist.Uniform(0, 1))
    s0 = numpyro.sample("s0", dist.Bernoulli(0.3))

    def step(s, y_t):
        s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, stay, 1 - stay)))
        numpyro.sample("y", dist.Normal(s, 1.0), obs=y_t)
        return s, None

    scan(step, s0, y)


def mixed(y):
    """A discrete latent that chooses the scale of a continuous one."""
    phi, x0 = phi_and_x0()

    def step(x, y_t):
        s = numpyro.sample("s", dist.Categorical(probs=jnp.array([0.7, 0.3])))
        x = numpyro.sample("x", dist.Normal(phi * x, jnp.array([0.2, 1.5])[s]))
        observe(x, y_t)
        return x, None

    scan(step, x0, y)


def with_history(y):
    phi, x0 = phi_and_x0()

    def step(carry, y_t):
        x, before = carry
        x = sample_x(phi * x + 0.1 * before)
        observe(x, y_t)
        return (x, carry[0]), x

    scan(step, (x0, x0), y, history=2)


def integer_start(y):
    """The weakly typed 0 becomes a float in the scan."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    scan(lambda carry, y_t: ((plain_step(phi, carry[0], y_t), carry[1] + 1), None), (0, 0), y)


def observed_start(y):
    """y0 sees x0; sd has a law that depends on x0; level has one that does not."""
    phi, x0 = phi_and_x0()
    level = numpyro.sample("level", dist.Normal(0, 1))
    sd = numpyro.sample("sd", dist.LogNormal(0.1 * x0, 0.5))
    numpyro.sample("y0", dist.Normal(x0 + level, 1.0), obs=y[0])
    numpyro.sample("other", dist.Normal(level, 1.0), obs=0.2)

    def step(x, y_t):
        x = sample_x(phi * x)
        numpyro.sample("y", dist.Normal(x, sd), obs=y_t)
        return x, None

    scan(step, x0, y[1:])


def positive_start(y):
    """The start has no location and scale: it moves in unconstrained coordinates."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    s0 = numpyro.sample("s0", dist.HalfNormal(1.0))
    scan(lambda x, y_t: (plain_step(phi, x, y_t), None), s0, y)


def scaled_observation(phi, x, y_t):
    x = sample_x(phi * x)
    with handlers.scale(scale=0.5):
        observe(x, y_t)
    return x


def emission_of_the_state_before(phi, x, y_t):
    observe(0.5 * x, y_t)
    return sample_x(phi * x)


def state_space(observe_path):
    def model(y):
        phi = numpyro.sample("phi", dist.Uniform(-1, 1))
        law = StateSpace(dist.Normal(0.0, 2.0), lambda prev, t: dist.Normal(phi * prev + 0.1 * t, 1.0), 4)
        observe_path(numpyro.sample("x", law), y)

    return model


def normal_emission(x):
    return emission(lambda x_t, t: dist.Normal(x_t + 0.1 * t, 1.0), x)


@state_space
def emission_alone(x, y):
    numpyro.sample("y", normal_emission(x), obs=y)


@state_space
def emission_in_a_plate(x, y):
    with numpyro.plate("time", 4):
        numpyro.sample("y", normal_emission(x), obs=y)


@state_space
def emission_under_masks(x, y):
    with handlers.mask(mask=~jnp.isnan(y)), handlers.mask(mask=jnp.array(True)):
        numpyro.sample("y", normal_emission(x), obs=y)


@state_space
def emission_never_seen(x, y):
    with handlers.mask(mask=False):
        numpyro.sample("y", normal_emission(x), obs=y)


@state_space
def emission_with_scales(x, y):
    with handlers.scale(scale=jnp.array([1.0, 0.5, 2.0, 1.0])), handlers.scale(scale=0.5):
        numpyro.sample("y", normal_emission(x), obs=y)


@state_space
def two_emissions(x, y):
    numpyro.sample("y", normal_emission(x), obs=y)
    numpyro.sample("sign", emission(lambda x_t, t: dist.Bernoulli(logits=x_t), x), obs=(y > 0).astype(int))


def vector_state(y):
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    start = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]]))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(phi * prev, 1.0).to_event(1), 4))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t.sum(), 1.0), x), obs=y)


WORKS = {
    "condition in place of obs": (handlers.condition(conditioned_later, {"y": Y}), (Y,)),
    "nothing observed": (conditioned_later, (Y,)),
    "obs_mask": (obs_mask, (Y, SEEN)),
    "mask over NaN": (chain(masked_gaps), (GAPS,)),
    "plate in body": (plate_in_body, (PAIRS,)),
    "latents that depend on each other, counter": (chain(latents_in_turn, lambda x0: (x0, 0)), (Y,)),
    "discrete latents": (discrete, (Y,)),
    "discrete and continuous latents": (mixed, (Y,)),
    "history=2": (with_history, (Y,)),
    "start outside": (plain, (Y,)),
    "start observed outside": (observed_start, (Y,)),
    "start without location": (positive_start, (Y,)),
    "start that is an integer": (integer_start, (Y,)),
    "scale on an observation": (chain(scaled_observation), (Y,)),
    "emission of the state before": (chain(emission_of_the_state_before), (Y,)),
    "reparam of an outer site": (handlers.reparam(plain, config={"x0": LocScaleReparam(0)}), (Y,)),
    "StateSpace": (emission_alone, (Y,)),
    "StateSpace, emission in a plate": (emission_in_a_plate, (Y,)),
    "StateSpace, masks over NaN": (emission_under_masks, (GAPS,)),
    "StateSpace, mask=False": (emission_never_seen, (GAPS,)),
    "StateSpace, scales": (emission_with_scales, (Y,)),
    "StateSpace, two emissions": (two_emissions, (Y,)),
    "StateSpace, vector state": (vector_state, (Y,)),
}


@pytest.mark.parametrize(("model", "args"), WORKS.values(), ids=WORKS)
def test_smc_construct_that_works_has_the_density_of_the_model(model, args):
    low = lowered(model, *args)
    assert jnp.isfinite(low.exact).all()
    np.testing.assert_allclose(low.pieces, low.exact, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, low.kept, low.reference)
    assert_other_values(low.drawn, low.reference)
    np.testing.assert_allclose(low.proposed, low.evaluated, rtol=1e-5, atol=1e-6)
    if low.again is not None:
        jax.tree.map(lambda x, again: np.testing.assert_allclose(again, x, atol=2e-5), low.path, low.again)


def assert_other_values(drawn, reference):
    for own, new in zip(jax.tree.leaves(reference), jax.tree.leaves(drawn), strict=True):
        if jnp.issubdtype(own.dtype, jnp.floating):  # two discrete values may be the same
            assert np.all(own != new)


def test_smc_sites_outside_that_see_the_start_make_its_likelihood():
    assert set(find(observed_start, Y).likelihood_sites) == {"y0", "sd"}


def test_smc_obs_mask_puts_the_unobserved_values_into_the_path():
    found = find(obs_mask, Y, SEEN)
    assert (found.sites, found.observed) == (("x0", "x", "y_unobserved"), ("y_observed",))


@pytest.mark.nightly
def test_smc_constructs_together_run():
    def model(seen, y):
        phi, x0 = phi_and_x0()

        def step(carry, inputs):
            x, t = carry
            v = numpyro.sample("v", dist.LogNormal(0.1 * x, 0.5))
            x = numpyro.sample("x", dist.Normal(phi * x, v))
            numpyro.deterministic("shifted", x + t)
            numpyro.sample("y", dist.Normal(x, 1.0), obs=inputs[0], obs_mask=inputs[1])
            numpyro.sample("w", dist.Normal(x, 1.0))
            return (x, t + 1), x

        _, x = scan(step, (x0, 0), (y, seen))
        numpyro.deterministic("mean", x.mean())

    quick = partial(HMC, step_size=0.1, num_steps=1, trajectory_length=None)
    kernel = PPG(handlers.condition(model, {"w": Y}), 4, inner_kernel=quick, interweave=None)
    mcmc = MCMC(kernel, num_warmup=1, num_samples=3, progress_bar=False)
    mcmc.run(random.key(0), SEEN, Y)
    samples = mcmc.get_samples()
    in_time = dict.fromkeys(("x", "v", "y", "y_unobserved", "shifted"), (4,))
    assert {n: s.shape[1:] for n, s in samples.items()} == {"phi": (), "x0": (), "mean": (), **in_time}
    assert all(jnp.isfinite(values).all() for values in samples.values())
    np.testing.assert_allclose(samples["shifted"], samples["x"] + jnp.arange(4), rtol=1e-6)
    np.testing.assert_allclose(samples["mean"], samples["x"].mean(1), rtol=1e-5)
    np.testing.assert_array_equal(samples["y"][:, SEEN], jnp.broadcast_to(Y[SEEN], (3, 3)))
    np.testing.assert_array_equal(samples["y"][:, ~SEEN], samples["y_unobserved"][:, ~SEEN])


def test_smc_centred_twin_of_a_reparametrised_body_has_an_order():
    def inside(phi, x, y_t):
        with handlers.reparam(config={"x": LocScaleReparam(0)}):
            x = sample_x(phi * x)
        observe(x, y_t)
        return x

    found = find(chain(inside), Y)
    assert (found.order, found.sites) == (None, ("x0", "x_decentered"))
    assert find(plain, Y).order == 1
    low = lowered(chain(inside), Y)
    np.testing.assert_allclose(low.pieces, low.exact, rtol=1e-5)


def test_smc_model_that_shows_its_path_is_replayed():
    def shows(y):
        phi, x0 = phi_and_x0()
        _, x = scan(lambda x, y_t: (plain_step(phi, x, y_t),) * 2, x0, y)
        numpyro.deterministic("mean", x.mean())

    assert find(shows, Y).replay
    assert not find(plain, Y).replay
