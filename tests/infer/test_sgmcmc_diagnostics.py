"""T8 of SG-MCMC at a model: what a run says of its temperature, and what that costs."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC

from emberwalk.infer import SGMCMC, control_variates, to_datatree
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews, psgld, sghmc, sgld, sgnht
from tests.infer.chains import chain_means
from tests.infer.sgmcmc_models import as_jax, mean_data, mean_model
from tests.statistics import assert_caught, assert_exact, z_scores

T = 0.1


def gaussian():
    """Curvature 1 in 20 coordinates, 4 in 5."""
    numpyro.sample("a", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
    numpyro.sample("b", dist.Normal(0.0, 0.5).expand([5]).to_event(1))


def kinetic(kernel, num_chains=32, num_draws=200):
    return chain_means(kernel, lambda state: state.kinetic_temperature, num_chains, 50, num_draws)


def test_sgmcmc_diagnostics_kinetic_temperature_of_baoab_is_exact_at_any_step(x64):
    """h^2 lam = 1 and 4 * .25: read just before the momentum is refreshed it is T."""
    kernel = SGMCMC(gaussian, baoab(0.5, 1.0), temperature=T, warmup="full", steps_per_sample=2)
    assert_exact(z_scores(kinetic(kernel), [T, T]))


def test_sgmcmc_diagnostics_planted_kinetic_temperature_after_the_half_kick(x64):
    """There it is T (1 - h^2 lam / 4)."""

    class HalfKick(type(baoab(0.5, 1.0))):
        def move(self, rng_key, state, gradient, temperature):
            moved, info = super().move(rng_key, state, gradient, temperature)
            half = jax.tree.map(lambda p, g: p - self.h(state.step) / 2 * g, state.momentum, gradient)
            return moved, info._replace(kinetic_temperature=jax.tree.map(lambda p: jnp.mean(p**2), half))

    kernel = SGMCMC(gaussian, HalfKick(0.9, 1.0), temperature=T, warmup="full")
    assert_caught(z_scores(kinetic(kernel), [T, T]))


def test_sgmcmc_diagnostics_configurational_temperature_is_that_of_the_draws(x64):
    """T for an exact scheme; the centre is the mean of the second half of warm-up."""
    kernel = SGMCMC(gaussian, leimkuhler_matthews(0.2), temperature=T, warmup="full")
    means = chain_means(kernel, lambda state: state.configurational_temperature, 64, 50, 300)
    assert_exact(z_scores(means, [T, T]))


def test_sgmcmc_diagnostics_noise_is_known_after_few_draws():
    """Finite and positive from the first draw on."""
    (y,) = as_jax(mean_data(100))
    kernel = SGMCMC(mean_model, sgld(1e-3), temperature=T)
    state = kernel.init(random.key(0), 0, None, model_args=(y,), model_kwargs={})
    for _ in range(2):
        state = kernel.sample(state, (y,), {})
        assert 0 < float(state.noise_ratio[0]) < np.inf


@pytest.mark.parametrize("batched", [False, True], ids=["shared_counter", "planted_counter_of_each_chain"])
def test_sgmcmc_diagnostics_probe_and_centre_are_a_branch_under_vectorized_chains(batched):
    """Two `cond` in the program of four chains; with a counter of each chain both sides would run."""
    (y,) = as_jax(mean_data(100))

    class Bugged(SGMCMC):
        shared_fields = ()

    kernel = (Bugged if batched else SGMCMC)(mean_model, sgld(1e-4), gradient=control_variates())
    keys = random.split(random.key(0), 4)
    state = kernel.init(keys, 10, None, model_args=(y,), model_kwargs={})
    program = str(jax.make_jaxpr(lambda state: kernel.sample(state, (y,), {}))(state))
    assert program.count("cond[") == (0 if batched else 2)


def two(y, b=25):
    m = numpyro.sample("a", dist.Normal(0.0, 1.0))
    n = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=b):
        numpyro.sample("y", dist.Normal(m + 4 * n, 1.0), obs=numpyro.subsample(y, event_dim=0))


@pytest.mark.parametrize(
    "algorithm",
    [psgld(5e-4), sghmc(0.02, 1.0, "diagonal"), sgnht(0.02, 1.0, "layerwise")],
    ids=["G", "M", "layers"],
)
def test_sgmcmc_diagnostics_preconditioner_is_found_in_warmup_and_frozen(algorithm):
    """Of curvatures 1 and 4 the stiff one has the larger mass, the smaller gain; after warm-up nothing changes."""
    (y,) = as_jax(mean_data(50))
    kernel = SGMCMC(two, algorithm, temperature=0.01, noise_every=5)
    state = kernel.init(random.key(0), 20, None, model_args=(y,), model_kwargs={})

    def draw(state, _):
        state = kernel.sample(state, (y,), {})
        return state, state.inner.precond

    seen = jax.jit(lambda state: jax.lax.scan(draw, state, None, 30))(state)[1]
    a, b = np.asarray(seen["a"]), np.asarray(seen["b"])
    assert (a[-1] > b[-1]) if algorithm.underdamped is False else (a[-1] < b[-1])
    for found in (a, b):
        assert (found[20:] == found[19]).all()
    assert not np.array_equal(a[0] / b[0], a[19] / b[19])


def test_sgmcmc_diagnostics_mass_without_warmup_is_estimated_at_the_start():
    """From 32 minibatches, and not left at 1: of curvatures 1 and 16 the stiff one has the smaller gain."""
    (y,) = as_jax(mean_data(50))
    kernel = SGMCMC(two, psgld(5e-4))
    state = kernel.init(random.key(0), 0, None, model_args=(y,), model_kwargs={})
    assert state.inner.precond["a"] > 2 * state.inner.precond["b"] == 2


def test_sgmcmc_bad_input_log_likelihood_of_a_subsampled_plate_says_what_to_do():
    (y,) = as_jax(mean_data(50))
    mcmc = MCMC(SGMCMC(mean_model, sgld(1e-5)), num_warmup=2, num_samples=4, progress_bar=False)
    mcmc.run(random.key(0), y)
    with pytest.raises(ValueError, match=r"needs the model on all rows.*such as b=None"):
        to_datatree(mcmc, log_likelihood=True)


def test_sgmcmc_diagnostics_reach_the_tree_with_the_names_of_their_sites():
    kernel = SGMCMC(gaussian, baoab(0.3, 1.0), temperature=T)
    mcmc = MCMC(
        kernel, num_warmup=10, num_samples=20, num_chains=2, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(random.key(0))
    stats = to_datatree(mcmc)["sample_stats"]
    assert stats["kinetic_temperature"].dims == ("chain", "draw", "site")
    assert stats["site"].values.tolist() == ["a", "b"]
    assert set(kernel.default_fields) - {"z", "potential_energy"} <= set(stats.data_vars)
    assert kernel.get_diagnostics_str(mcmc.last_state) == "h 0.3 T 0.1 noise 0 nonfinite 0"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGMCMC(mean_model, sgld(1e-3), temperature=0.01), "of the spread of m is minibatch noise"),
        (lambda: SGMCMC(mean_model, sgnht(0.03, 50.0), temperature=0.01), "friction of the thermostat"),
        (lambda: SGMCMC(far_away, sgld(1e-8)), "ulp of its float32 values"),
        (lambda: SGMCMC(steep, sgld(0.5)), "steps were refused"),
    ],
    ids=["noise", "thermostat", "precision", "refused"],
)
def test_sgmcmc_diagnostics_bad_input_warns_with_a_number_and_a_way_out(make, words):
    """The last row of the table of bad input; nothing else is said of a run that has one fault."""
    (y,) = as_jax(mean_data(200))
    kernel = make()
    mcmc = MCMC(kernel, num_warmup=50, num_samples=50, progress_bar=False)
    mcmc.run(random.key(0), y)
    sentences = kernel.warnings(mcmc)
    assert any(words in sentence for sentence in sentences), sentences
    assert all(any(c.isdigit() for c in sentence) for sentence in sentences)


def far_away(y):
    numpyro.sample("m", dist.Normal(1e4, 1e-3))


def steep(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.factor("cliff", jnp.where(m > 0.5, jnp.nan, 0.0) * m)
