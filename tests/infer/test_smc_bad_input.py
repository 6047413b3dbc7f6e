"""What cannot be meant is refused with its name, the value seen, and the way out."""

from functools import partial

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, MCMC, NUTS, BarkerMH

from emberwalk.infer import PPG, ParticleGibbs, lag_product
from emberwalk.infer.smc import particle_gibbs
from emberwalk.infer.smc.capture import OuterModel
from emberwalk.infer.smc.observations import check_observed
from emberwalk.models import StateSpace, emission
from tests.infer.smc_lowering import Y, find, phi_and_x0, plain, plain_step

WITH_NAN = Y.at[jnp.array([1, 3])].set(jnp.nan)
NORMAL = dist.Normal(0.0, 1.0)


def run(kernel, *args):
    MCMC(kernel, num_warmup=0, num_samples=1, progress_bar=False).run(random.key(0), *args)


def fixed(y, y0=0.1):
    """No parameter: the path kernel alone samples it."""
    x0 = numpyro.sample("x0", NORMAL)
    numpyro.sample("y0", dist.Normal(x0, 1.0), obs=y0)
    scan(lambda x, y_t: (plain_step(0.9, x, y_t), None), x0, y)


def states(y, transition=lambda prev, t: dist.Normal(0.9 * prev, 1.0), initial=NORMAL):
    return numpyro.sample("x", StateSpace(initial, transition, y.shape[0]))


def fixed_states(y):
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), states(y)), obs=y)


def of_known_length(y, steps):
    phi, x0 = phi_and_x0()
    scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y, length=steps)


def two_inputs(y, z):
    phi, x0 = phi_and_x0()
    scan(lambda x, inputs: (plain_step(phi, x, sum(inputs)), None), x0, (y, z))


def beyond_the_support(y):
    """A negative count is impossible for every particle, at its time alone."""
    x0 = numpyro.sample("x0", NORMAL)

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("count", dist.Poisson(jnp.exp(x), validate_args=False), obs=y_t)
        return x, None

    scan(step, x0, y)


def gamma_steps(y):
    shape = numpyro.sample("shape", dist.HalfNormal(1.0))
    x = states(y, lambda prev, t: dist.Gamma(shape, 1.0), dist.Gamma(1.0, 1.0))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.Uniform(0, 1))
    x = states(y, lambda prev, t: dist.Poisson(1 + rate * prev), dist.Poisson(2.0))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def start_used_by_every_step(y):
    phi, x0 = phi_and_x0()
    scan(lambda x, y_t: (plain_step(phi, x + x0, y_t), None), x0, y)


def plain_twin(y):
    plain(y)


def states_and_scan(y):
    fixed_states(y)
    scan(lambda w, _: (numpyro.sample("w", dist.Normal(w, 1.0)), None), 0.0, y)


def no_path(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", NORMAL), 1.0), obs=y)


def no_latent_in_the_body(y):
    phi, x0 = phi_and_x0()
    scan(lambda x, y_t: (phi * x, numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)), x0, y)


def second_order(y):
    def step(carry, y_t):
        x = numpyro.sample("x", dist.Normal(0.5 * carry[0] + 0.3 * carry[1], 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return (x, carry[0]), None

    scan(step, (jnp.array(0.0), jnp.array(0.0)), y)


def propose(law, carry, t):
    return {"x": law}


def proposal_of(law=NORMAL):
    """At the top of a module in all its parts: a lambda would be warned of."""
    return partial(propose, law)


def propose_nothing(carry, t):
    return {}


def propose_a_value(carry, t):
    return {"x": carry}


def bounded(y):
    transition = lambda prev, t: dist.Uniform(-1.0, 1.0)  # noqa: E731
    x = numpyro.sample("x", StateSpace(dist.Uniform(-1.0, 1.0), transition, y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def discrete_parameter(y):
    loud = numpyro.sample("loud", dist.Bernoulli(0.5))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0 + loud), states(y)), obs=y)


def shorter_condition(y):
    def model(y):
        phi, x0 = phi_and_x0()

        def step(x, _):
            x = numpyro.sample("x", dist.Normal(phi * x, 1.0))
            return x, numpyro.sample("y", dist.Normal(x, 1.0))

        scan(step, x0, None, length=6)

    return handlers.condition(model, {"y": y})(y)


E = ValueError
# what is done, the error, the words that its message must hold
BAD = {
    "N of 1": (partial(PPG, plain, 1), E, "num_particles.* at least 2.*got 1"),
    "N no whole number": (partial(ParticleGibbs, plain, 2.5), E, "num_particles.* whole number.*got 2.5"),
    "N a truth value": (partial(PPG, plain, True), E, "num_particles.* whole number.*got True"),
    "path move": (
        partial(PPG, plain, path_move="forward"),
        E,
        r"path_move.*'backward', 'trace'.*got 'forward'",
    ),
    "checkpoint": (
        partial(ParticleGibbs, plain, checkpoint="always"),
        E,
        r"checkpoint.*'auto', True, False.*got 'always'",
    ),
    "interweave": (
        partial(PPG, plain, interweave="asis"),
        E,
        r"interweave.*'auto', 'joint', 'theta', None.*got 'asis'",
    ),
    "paris": (partial(PPG, plain, paris="exact"), E, "paris must be one of.*'imh', 'dense'.*got 'exact'"),
    "no backward draws": (
        partial(ParticleGibbs, plain, num_backward=0),
        E,
        "num_backward.* at least 1, got 0",
    ),
    "functionals no dictionary": (
        partial(PPG, plain, functionals=[lag_product("x")]),
        E,
        r"functionals must be a dictionary.*\(previous, current, t\).*got list",
    ),
    "functional no function": (
        partial(PPG, plain, functionals={"xx": 3}),
        E,
        r"functionals\['xx'\] must be a function.*got 3",
    ),
    "functional of a path of order 2": (
        lambda: run(ParticleGibbs(second_order, 4, functionals={"xx": lag_product("x")}), Y),
        E,
        r"functionals \['xx'\] need a model of Markov order 1.*order 2",
    ),
    "proposal no function": (partial(PPG, plain, proposal=3), E, r"proposal must be a function.*got 3"),
    "proposal without a site": (
        lambda: run(ParticleGibbs(fixed, 4, proposal=propose_nothing), Y),
        E,
        r"proposal.*a Distribution for each of \['x'\], got \[\]",
    ),
    "proposal no law": (
        lambda: run(ParticleGibbs(fixed, 4, proposal=propose_a_value), Y),
        E,
        r"proposal.*gives site 'x' a .*write a Distribution",
    ),
    "proposal of another shape": (
        lambda: run(ParticleGibbs(fixed, 4, proposal=proposal_of(NORMAL.expand((2,)))), Y),
        E,
        r"proposal.*site 'x' a law of shape \(2,\), but the site has \(\)",
    ),
    "proposal of another support": (
        lambda: run(ParticleGibbs(fixed_states, 4, proposal=proposal_of(dist.HalfNormal(1.0))), Y),
        E,
        r"proposal.*site 'x' the support Positive.*its law in the model has Real",
    ),
    "proposal of narrower support": (
        lambda: run(ParticleGibbs(bounded, 4, proposal=proposal_of(dist.Uniform(0.0, 1.0))), Y),
        E,
        r"proposal.*site 'x' the support.*lower_bound=0.*its law in the model has.*lower_bound=-1",
    ),
    "HMC on a discrete parameter": (
        lambda: run(PPG(discrete_parameter, 4), Y),
        E,
        r"Discrete latent sites \['loud'\] cannot be sampled by an HMC",
    ),
    "theta without location and scale": (
        lambda: run(PPG(gamma_steps, 4, interweave="theta"), Y),
        E,
        r"interweave=\"theta\".*'x' is Gamma.*Normal, StudentT.*Use interweave=None",
    ),
    "no leapfrog steps": (partial(PPG, plain, interweave_steps=0), E, "interweave_steps.* at least 1.*got 0"),
    "no model": (partial(PPG, 3), TypeError, "model must be callable, got int"),
    "inner kernel no kernel": (
        partial(PPG, plain, inner_kernel=3),
        TypeError,
        "inner_kernel must be a kernel.*got 3",
    ),
    "inner kernel on another model": (
        partial(PPG, plain, inner_kernel=NUTS(plain_twin)),
        E,
        "inner_kernel NUTS is on another model.*same function",
    ),
    "inner kernel without refresh": (
        partial(PPG, plain, inner_kernel=BarkerMH),
        E,
        "inner_kernel BarkerMH does not implement refresh.*Use NUTS",
    ),
    "inner kernel with a bound heuristic": (
        lambda: PPG(plain, inner_kernel=HMC(plain, find_heuristic_step_size=True)),
        E,
        "inner_kernel HMC has find_heuristic_step_size=True.*Leave it False",
    ),
    "joint without location and scale": (
        lambda: run(PPG(gamma_steps, 4, interweave="joint"), Y),
        E,
        r"interweave=\"joint\".*'x' is Gamma.*Normal, StudentT.*Use interweave=None",
    ),
    "joint on a discrete path": (
        lambda: run(PPG(counts, 4, interweave="joint"), Y),
        E,
        r"interweave=\"joint\" cannot be had: the path is discrete.*Use interweave=None",
    ),
    "no path": (partial(find, no_path, Y), E, r"(?s)No path found.*only mu.*scan\(step, h0, y\).*StateSpace"),
    "no latent in the body": (partial(find, no_latent_in_the_body, Y), E, r"no latent site, only \['y'\]"),
    "two paths": (partial(find, states_and_scan, Y), E, r"more than one path \(x, a scan\).*take one"),
    "latents without an owner": (
        lambda: run(ParticleGibbs(plain, 4), Y),
        E,
        r"moves the path \['x0', 'x'\].*no kernel moves the latent sites \['phi'\].*Use PPG",
    ),
    "sites that are no path": (
        lambda: find(plain, Y, sites=("x", "phi")),
        E,
        r"consists of the sites \['x0', 'x'\], but sites=\['x', 'phi'\]",
    ),
    "initial site unknown": (
        partial(find, plain, Y, init_sites=("z0",)),
        E,
        r"init_sites=\['z0'\].*\['phi', 'x0'\]",
    ),
    "initial site used by every step": (
        partial(find, start_used_by_every_step, Y, init_sites=("x0",)),
        E,
        r"init_sites=\['x0'\] are used by every step.*Leave them out",
    ),
    "initial site of a StateSpace": (
        partial(find, fixed_states, Y, init_sites=("x",)),
        E,
        r"init_sites=\['x'\] are for scans.*'x'.*Leave init_sites out",
    ),
    "inputs of unequal length": (
        partial(find, two_inputs, Y, Y[:3]),
        E,
        r"one leading length, got shapes \[\(4,\), \(3,\)\]",
    ),
    "inputs without a time axis": (partial(find, two_inputs, Y, 1.0), E, r"got shapes \[\(4,\), \(\)\]"),
    "length that is not the inputs'": (
        partial(find, of_known_length, Y, 6),
        E,
        r"shapes \[\(4,\)\] and length=6",
    ),
    "inputs of length 1": (
        partial(find, plain, Y[:1]),
        E,
        r"at least 2 steps, but the scan has 1.*\[\(1,\)\]",
    ),
    "inputs of length 0": (
        partial(find, plain, Y[:0]),
        E,
        r"at least 2 steps, but the scan has 0.*\[\(0,\)\]",
    ),
    "conditioned on too few": (
        partial(find, shorter_condition, Y),
        E,
        "Site 'y' is conditioned on 4 values, but the scan has 6.*handlers.mask",
    ),
    "NaN in the scan": (
        lambda: check_observed(OuterModel(fixed, (WITH_NAN,), {}), find(fixed, Y)),
        E,
        "Observed site 'y' is NaN or infinite at 2 of its 4 times, first at 1.*handlers.mask",
    ),
    "NaN before the scan": (
        lambda: check_observed(OuterModel(fixed, (Y, jnp.array(jnp.nan)), {}), find(fixed, Y)),
        E,
        "Observed site 'y0' is NaN or infinite at 1 of its 1 times.*handlers.mask",
    ),
    "infinity under an emission": (
        lambda: check_observed(OuterModel(fixed_states, (Y.at[2].set(jnp.inf),), {}), find(fixed_states, Y)),
        E,
        "Observed site 'y' is NaN or infinite at 1 of its 4 times, first at 2.*handlers.mask",
    ),
    "impossible data": (
        lambda: run(ParticleGibbs(beyond_the_support, 4), jnp.array([1, 0, -1, 2])),
        RuntimeError,
        r"stage 3 of 4: with 4 particles.*\['count'\].*log-weights all -inf.*init_params",
    ),
    "scan state of other data": (
        lambda: find(fixed, Y).ssm(OuterModel(fixed, (Y[:3],), {})),
        E,
        r"path has 4 transitions, but the model now makes 3.*post_warmup_state.*Warm up again",
    ),
    "StateSpace state of other data": (
        lambda: find(fixed_states, Y).ssm(OuterModel(fixed_states, (Y[:3],), {})),
        E,
        r"path has 3 transitions, but the model now makes 2.*post_warmup_state.*Warm up again",
    ),
    "sites as a string": (
        lambda: ParticleGibbs(fixed, 4, sites="x0"),
        E,
        r"sites must be a list of site names, got the string 'x0': write \['x0'\]",
    ),
}


@pytest.mark.parametrize(("do", "error", "words"), BAD.values(), ids=BAD)
def test_smc_bad_input_says_what_to_do(do, error, words, monkeypatch):
    monkeypatch.setattr(particle_gibbs, "_MAX_DOUBLINGS", 0)
    with pytest.raises(error, match=words):
        do()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"functionals": {"x2": lambda previous, current, t: current["x"] ** 2}}, r"functionals \['x2'\] are lambdas"),
     ({"proposal": lambda carry, t: {"x": NORMAL}}, "proposal is a lambda")],
    ids=["functionals", "proposal"],
)  # fmt: skip
def test_smc_bad_input_that_keeps_a_kernel_from_being_pickled_is_warned_of(options, words):
    with pytest.warns(UserWarning, match=words):
        ParticleGibbs(fixed, 4, **options)
