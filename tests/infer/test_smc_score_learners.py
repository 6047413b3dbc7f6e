"""`ScoreAscent` and `MarkovScoreClimbing` as a user meets them: like `SVI`, and clear about what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from jax.example_libraries import optimizers
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import NUTS, init_to_value
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from emberwalk.infer import PPG, MarkovScoreClimbing, ScoreAscent, without_path
from emberwalk.models import StateSpace, emission, linear_gaussian, stochastic_volatility
from tests.laws.runs import compilations
from tests.metropolis import Metropolis

Y = jnp.array([1.5, -0.5, 2.0, 0.3])
OPTIM = optax.adam(0.02)


def observe(y, phi, sd=1.0):
    x = numpyro.sample(
        "x", StateSpace(dist.Normal(0, 1), lambda prev, t: dist.Normal(phi * prev, 1.0), y.shape[0])
    )
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, sd), x), obs=y)


def learned(y):
    """One parameter to learn."""
    observe(y, numpyro.param("phi", 0.5, constraint=constraints.interval(-1, 1)))


def ascent(**options) -> ScoreAscent:
    return ScoreAscent(learned, OPTIM, 4, score="path", **options)


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def key_apart(state):
    return state._replace(rng_key=random.key_data(state.rng_key))


def test_smc_score_ascent_is_like_svi_and_compiles_once():
    learner = ascent(average=0.0)
    state, losses = learner.init(random.key(0), Y), []
    update = jax.jit(lambda state: learner.update(state, Y))
    for _ in range(3):
        state, loss = update(state)
        losses.append(loss)
    result = learner.run(random.key(0), 3, Y, progress_bar=False)
    assert result._fields == ("params", "state", "losses")
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(result.params["phi"], learner.get_params(state)["phi"], rtol=1e-5)
    assert result.state.num_nonfinite == 0
    with compilations() as seen:
        again = learner.run(random.key(0), 3, Y, progress_bar=False)
    assert seen == []
    assert_same(again.losses, result.losses)


def test_smc_score_ascent_goes_on_from_a_state_with_a_bar():
    learner = ascent()
    whole = learner.run(random.key(0), 4, Y, init_params={"phi": jnp.array(0.1)})
    first = learner.run(random.key(0), 2, Y, init_params={"phi": jnp.array(0.1)})
    rest = learner.run(random.key(1), 2, Y, init_state=first.state)
    assert_same(jnp.append(first.losses, rest.losses), whole.losses)
    assert_same(key_apart(rest.state), key_apart(whole.state))
    assert learner._last.one._cache_size() == 1
    # the mean of the last two of four iterates, in unconstrained coordinates
    third = learner.run(random.key(0), 3, Y, init_params={"phi": jnp.array(0.1)})
    iterates = [float(learner.get_params(run.state)["phi"]) for run in (third, whole)]
    assert np.arctanh(whole.params["phi"]) == pytest.approx(np.arctanh(iterates).mean(), rel=1e-4)


def test_smc_score_learners_take_the_optimisers_that_svi_takes():
    triple = optimizers.sgd(0.1)
    same = (optax.sgd(0.1), numpyro.optim.SGD(0.1), triple)
    gradient, theta = {"phi": jnp.array(2.0)}, {"phi": jnp.array(1.0)}
    for given in same:
        optim = ScoreAscent(learned, given).optim
        stepped = optim.get_params(optim.update(gradient, optim.init(theta), value=jnp.array(0.0)))
        assert float(stepped["phi"]) == pytest.approx(0.8)


def sudden(y):
    """A likelihood that is no number where phi has left its start."""
    phi = numpyro.param("phi", 0.5)
    observe(y, phi, jnp.where(phi == 0.5, 1.0, jnp.nan))


@pytest.mark.parametrize("score", ["path", pytest.param("paris", marks=pytest.mark.nightly)])
def test_smc_score_ascent_stays_where_a_gradient_is_none_and_says_so(score):
    learner = ScoreAscent(sudden, optax.sgd(0.1), 4, score=score, average=0.0)
    once = learner.run(random.key(0), 1, Y)
    with pytest.warns(UserWarning, match=r"of the 4 iterations were NaN or infinite.*smaller steps"):
        result = learner.run(random.key(0), 4, Y)
    assert result.params["phi"] == once.params["phi"] != 0.5


# What is refused


BAD_ARGUMENTS = {
    "objective": ({"objective": "ml"}, r"objective must be one of \('mle', 'map'\), got 'ml'"),
    "score": ({"score": "fisher"}, r"score must be one of \('paris', 'path'\), got 'fisher'"),
    "paris": ({"paris": "exact"}, r"paris must be one of \('auto', 'imh', 'dense'\), got 'exact'"),
    "num_particles": ({"num_particles": 1}, r"num_particles must be a whole number of at least 2.*got 1"),
    "num_sweeps": ({"num_sweeps": 0}, "num_sweeps must be a whole number of at least 1, got 0"),
    "num_backward": ({"num_backward": 1.5}, "num_backward must be a whole number of at least 1, got 1.5"),
    "burn_in": ({"burn_in": -1}, "burn_in must be a whole number of at least 0, got -1"),
    "no sweep": ({"num_sweeps": 2, "burn_in": 2}, "burn_in=2 leaves none of num_sweeps=2"),
    "average": ({"average": 1.5}, r"average must be a share between 0 and 1, got 1.5"),
}


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_smc_score_ascent_bad_input_argument(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreAscent(learned, OPTIM, **options)


@pytest.mark.parametrize("optim", [0.01, numpyro.optim.Minimize(), None])
def test_smc_score_learners_need_an_optimiser(optim):
    with pytest.raises(TypeError, match=r"optim must be an optax optimiser.*optax.adam\(0.01\), got"):
        ScoreAscent(learned, optim)


def nothing_to_learn(y):
    observe(y, 0.5)


def half_learned(y):
    observe(y, numpyro.param("phi", 0.5), numpyro.sample("sd", dist.HalfNormal(1)))


def coin(y):
    observe(y, jnp.array([0.5, 0.9])[numpyro.sample("which", dist.Bernoulli(0.5))])


def no_path(y):
    numpyro.sample("y", dist.Normal(numpyro.param("phi", 0.5), 1.0), obs=y)


def param_in_body(y):
    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(numpyro.param("phi", 0.5) * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, numpyro.param("start", 0.0), y)


def two_lags(y):
    phi = numpyro.param("phi", 0.5)

    def step(carry, y_t):
        x = numpyro.sample("x", dist.Normal(phi * carry[0] + 0.3 * carry[1], 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return (x, carry[0]), None

    scan(step, (0.0, 0.0), y)


BAD_MODELS = {
    "no param": (nothing_to_learn, "mle", "the model has none. Write them as numpyro.param"),
    "sample sites": (half_learned, "mle", r"nothing moves the latent sites \['sd'\].*objective=\"map\""),
    "no sample sites": (learned, "map", r"the model has none. Give the parameters priors"),
    "discrete": (coin, "map", r"The sites \['which'\] are discrete"),
    "no path": (no_path, "mle", "No path found"),
    "param in the body": (param_in_body, "mle", r"param sites \['phi'\] stand in the scan body"),
    "order 2": (two_lags, "mle", r"Markov order 1, but that of \['x'\] has order 2. Use score=\"path\""),
}


@pytest.mark.parametrize(("model", "objective", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_smc_score_ascent_bad_input_model(model, objective, message):
    with pytest.raises(ValueError, match=message):
        ScoreAscent(model, OPTIM, 4, objective=objective).init(random.key(0), Y)


def test_smc_score_ascent_bad_input_start():
    with pytest.raises(ValueError, match=r"init_params=\['rho'\] are no parameters.*\['phi'\]"):
        ascent().init(random.key(0), Y, init_params={"rho": 0.1})
    with pytest.raises(ValueError, match=r"num_steps must be a whole number of at least 1, got 0"):
        ascent().run(random.key(0), 0, Y)
    with pytest.raises(RuntimeError, match="has not begun"):
        ascent().get_params(None)
    with pytest.raises(ValueError, match=r"Observed site 'y' is NaN or infinite at 1 of its 4 times"):
        ascent().init(random.key(0), Y.at[1].set(jnp.nan))


def guide_of_another(y):
    numpyro.sample("rho", dist.Normal(numpyro.param("loc", 0.0), 1.0))


def guide_without_param(y):
    numpyro.sample("phi", dist.Uniform(-1, 1))


def gaussian(y):
    """A model without a path."""
    numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def nan_in_the_middle(y):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("cut", jnp.where(jnp.abs(x) < 0.7, 0.0, jnp.nan))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def test_smc_score_climbing_hands_on_what_its_kernel_counts():
    kernel = Metropolis(nan_in_the_middle, step_size=1.0, init_strategy=init_to_value(values={"x": 0.1}))
    climbing = MarkovScoreClimbing(
        nan_in_the_middle, AutoNormal(nan_in_the_middle), OPTIM, kernel, num_mcmc=3
    )
    with pytest.warns(UserWarning, match="NaN or infinite"):
        result = climbing.run(random.key(0), 6, jnp.array(0.2), progress_bar=False)
    assert result.state.num_nonfinite == result.state.chain.num_nonfinite > 0


BAD_GUIDES = {
    "other sites": (
        guide_of_another,
        ValueError,
        r"The guide has the sites \['rho'\], which are no latent sites",
    ),
    "no param": (guide_without_param, ValueError, "The guide has no param sites"),
    "no density": (AutoDelta(gaussian), ValueError, "guide AutoDelta has no density to climb"),
    "no guide": ("normal", TypeError, "guide must be callable, got str"),
}


@pytest.mark.parametrize(("guide", "error", "message"), BAD_GUIDES.values(), ids=BAD_GUIDES)
def test_smc_score_climbing_bad_input_guide(guide, error, message):
    with pytest.raises(error, match=message):
        MarkovScoreClimbing(gaussian, guide, OPTIM, NUTS(gaussian)).init(random.key(0), 1.0)


def test_smc_score_climbing_bad_input_kernel():
    with pytest.raises(ValueError, match="kernel NUTS is on another model"):
        MarkovScoreClimbing(gaussian, guide_of_another, OPTIM, NUTS(linear_gaussian))
    with pytest.raises(TypeError, match=r"kernel must be an MCMC kernel such as PPG\(model\), got 3"):
        MarkovScoreClimbing(gaussian, guide_of_another, OPTIM, 3)
    for argument in ("num_mcmc", "num_warmup"):
        with pytest.raises(ValueError, match=f"{argument} must be a whole number of at least .*, got -1"):
            MarkovScoreClimbing(gaussian, guide_of_another, OPTIM, NUTS(gaussian), **{argument: -1})
    assert isinstance(MarkovScoreClimbing(linear_gaussian, guide_of_another, OPTIM).kernel, PPG)


# Guides, and models without a path


def unusual(y):
    """Sites of several shapes and supports, not in alphabetical order."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    b = numpyro.sample("b", dist.HalfNormal(1.0).expand([2]).to_event(1))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b.sum(), w[0]), obs=y)


@pytest.mark.nightly
def test_smc_score_climbing_density_of_an_auto_guide_is_that_of_its_draws():
    guide = AutoMultivariateNormal(unusual)
    bound = MarkovScoreClimbing(unusual, guide, OPTIM, NUTS(unusual)).bind((1.0,), {})
    scale = jnp.tril(jnp.full((5, 5), 0.1)) + jnp.diag(jnp.arange(1.0, 6.0))
    params = {"auto_loc": jnp.linspace(-1, 1, 5), "auto_scale_tril": scale}
    flat = jnp.array([0.3, -0.2, 0.5, 1.0, -1.0])
    drawn = jax.jit(guide._unpack_and_constrain)(flat, params)
    values = {name: drawn[name] for name in bound.sites}
    exact = dist.MultivariateNormal(params["auto_loc"], scale_tril=scale).log_prob(flat)
    assert float(jax.jit(bound.log_prob)(params, values)) == pytest.approx(float(exact), rel=1e-4)
    # a guide of sites: the same law in constrained space, with its Jacobian
    guide = AutoNormal(gaussian)
    bound = MarkovScoreClimbing(gaussian, guide, OPTIM, NUTS(gaussian)).bind((1.0,), {})
    at_x = jax.jit(bound.log_prob)(
        {"x_auto_loc": jnp.array(1.0), "x_auto_scale": jnp.array(2.0)}, {"x": jnp.array(0.5)}
    )
    assert float(at_x) == pytest.approx(float(dist.Normal(1.0, 2.0).log_prob(0.5)), rel=1e-5)


def test_smc_score_climbing_is_like_svi_and_compiles_once():
    learner = MarkovScoreClimbing(
        gaussian, AutoNormal(gaussian), OPTIM, NUTS(gaussian, max_tree_depth=2), num_mcmc=2, num_warmup=3
    )
    y = jnp.array(1.5)
    result = learner.run(random.key(0), 4, y, progress_bar=False)
    assert result._fields == ("params", "state", "losses")
    assert set(result.params) == {"x_auto_loc", "x_auto_scale"}
    state, losses = learner.init(random.key(0), y), []
    update = jax.jit(lambda state: learner.update(state, y))
    for _ in range(4):
        state, loss = update(state)
        losses.append(loss)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert int(state.chain.i) == 8
    with compilations() as seen:
        learner.run(random.key(1), 4, y, progress_bar=False)
    assert seen == []


def test_smc_score_without_path_shows_parameters_alone():
    seeded = handlers.seed(without_path(stochastic_volatility), random.key(0))
    sites = handlers.trace(seeded).get_trace(Y)
    assert list(sites) == ["mu", "sigma", "b", "phi"]
    assert sites["phi"]["value"] == 2 * sites["b"]["value"] - 1
    others = handlers.trace(handlers.seed(without_path(linear_gaussian), random.key(1))).get_trace(Y)
    assert list(others) == ["phi", "sx"]
    # the parameters are drawn with the keys of whoever asks
    again = handlers.trace(handlers.seed(without_path(linear_gaussian), random.key(2))).get_trace(Y)
    assert others["phi"]["value"] != again["phi"]["value"]
    with pytest.raises(TypeError, match="model must be callable, got int"):
        without_path(3)
    with pytest.raises(ValueError, match="No path found"):
        handlers.seed(without_path(gaussian), random.key(0))(1.0)


@pytest.mark.nightly
def test_smc_score_example_of_the_specification():
    """A guide of the parameters of a model whose path PPG moves, and score ascent on the same data."""
    guide = AutoMultivariateNormal(without_path(stochastic_volatility))
    climb = MarkovScoreClimbing(stochastic_volatility, guide, optax.adam(0.01)).run(random.key(1), 5, Y)
    assert climb.params["auto_loc"].shape == (3,)
    drawn = guide.sample_posterior(random.key(2), climb.params, sample_shape=(4,))
    assert set(drawn) == {"mu", "sigma", "b", "phi"}
    mle = ScoreAscent(learned, optax.adam(0.02), num_particles=64).run(random.key(0), 5, Y)
    assert mle.losses.shape == (5,)
