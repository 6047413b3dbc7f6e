"""What `ZeroShotMJP` and `AutoMJP` cannot do is said when they are made or begun: the site, the value, the way out."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import MCMC, SVI, Trace_ELBO

from emberwalk.infer import diagnose
from emberwalk.infer.jump.guide import AutoMJP
from emberwalk.infer.jump.kernel import ZeroShotMJP
from emberwalk.kernels.jump import path_statistics
from emberwalk.models import MarkovJumpCounts, MarkovJumpProcess
from tests.infer.jump.jump_cases import two_rates, two_state
from tests.kernels.jump.two_state import LABELS2, TIMES2

TIMES = TIMES2[0]
KNOWN = np.array([[0.0, 1.0], [1.0, 0.0]])


def seen(rates, name="y", **options):
    with numpyro.plate(f"paths_{name}", 2):
        numpyro.sample(name, MarkovJumpProcess(rates, TIMES, **options), obs=LABELS2)


def without_process():
    numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal()), 1.0), obs=0.0)


def two_processes():
    q = two_rates()
    seen(q, "y")
    seen(q, "x")


def not_observed():
    numpyro.sample("y", MarkovJumpProcess(two_rates(), TIMES))


def discrete_latent():
    numpyro.sample("k", dist.Bernoulli(0.5))
    seen(two_rates())


def known_rates():
    numpyro.sample("m", dist.Normal())
    seen(KNOWN)


def without_latents():
    seen(KNOWN)


def subsampled():
    q = two_rates()
    with numpyro.plate("paths", 4, subsample_size=2):
        numpyro.sample("y", MarkovJumpProcess(q, TIMES), obs=LABELS2)


def of_emission(emission, value):
    q = two_rates()
    with numpyro.plate("paths", 2):
        numpyro.sample("y", MarkovJumpProcess(q, TIMES, emission=emission), obs=value)


def vector_emission():
    of_emission(dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1), jnp.zeros((2, 5, 3)))


def poisson_emission():
    of_emission(dist.Poisson(jnp.array([1.0, 5.0])), jnp.zeros((2, 5), int))


MODELS = {
    "no process": (
        without_process,
        {},
        r"no MarkovJumpProcess and no MarkovJumpCounts among its sites \['m', 'y'\]",
    ),
    "two processes": (two_processes, {}, r"jump processes \['x', 'y'\]; pass site="),
    "another site": (two_processes, {"site": "z"}, r"site='z' is no jump process .* \['x', 'y'\]"),
    "latent": (without_process, {"site": "m"}, r"no MarkovJumpProcess"),
    "not observed": (not_observed, {}, r"'y' is not observed; .*obs="),
    "discrete latent": (discrete_latent, {}, r"latent site 'k' is discrete; sum it out"),
    "known rates": (known_rates, {}, r"rates of 'y' depend on no latent site"),
    "no latents": (without_latents, {}, r"no latent site, and there is nothing to sample"),
    "subsampled": (subsampled, {}, r"plates \['paths'\] are subsampled"),
    "vectors": (vector_emission, {}, r"Normal with event shape \(3,\).*Pass labels="),
    "Poisson": (poisson_emission, {}, r"emission is Poisson .*Pass labels="),
    "labels": (
        poisson_emission,
        {"labels": np.zeros((2, 4), int)},
        r"labels must have the shape \(2, 5\) of the measurements, got \(2, 4\)",
    ),
}


def begun(kernel, *args):
    return kernel.init(random.key(0), 5, None, model_args=args, model_kwargs={})


@pytest.mark.parametrize(("model", "options", "words"), MODELS.values(), ids=MODELS)
def test_jump_bad_input_of_a_kernel_is_refused(model, options, words):
    with pytest.raises(ValueError, match=f"ZeroShotMJP: .*{words}"):
        begun(ZeroShotMJP(model, **options))


@pytest.mark.parametrize("name", ["two processes", "known rates", "subsampled"])
def test_jump_bad_input_of_a_guide_is_refused(name):
    model, options, words = MODELS[name]
    svi = SVI(model, AutoMJP(model, **options), optax.adam(0.01), Trace_ELBO())
    with pytest.raises(ValueError, match=f"AutoMJP: .*{words}"):
        svi.init(random.key(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_proposals": 0}, "num_proposals must be a whole number from 1 on, got 0"),
        ({"nuts_every": 2.0}, r"nuts_every must be a whole number from 1 on, got 2\.0"),
        ({"max_tree_depth": -1}, "max_tree_depth must be .* got -1"),
        ({"target_accept_prob": 1.0}, r"target_accept_prob must be between 0 and 1, got 1\.0"),
    ],
)
def test_jump_bad_input_options_are_refused_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        ZeroShotMJP(two_state, **options)


def test_jump_bad_input_one_of_two_processes_is_taken():
    kernel = ZeroShotMJP(two_processes, site="x")
    assert np.isfinite(begun(kernel).potential_energy)
    assert set(kernel.posterior_start) == {"log_rates"}


def test_jump_bad_input_posterior_start_comes_with_the_start():
    with pytest.raises(ValueError, match="posterior_start is there once sampling has started"):
        ZeroShotMJP(two_state).posterior_start  # noqa: B018


def nowhere():
    """Rates that are NaN wherever one looks."""
    seen(two_rates() * jnp.nan)


def test_jump_bad_input_without_any_density_names_the_site():
    with (
        pytest.warns(UserWarning, match="start is that of the prior mean"),
        pytest.raises(RuntimeError, match=r"density is not finite at the refined start.*'y'"),
    ):
        begun(ZeroShotMJP(nowhere))


def excluded(stats):
    """Data say rates of several; the law of the first state is NaN above .3, and the prior is centred at .1."""
    rates = numpyro.sample("rates", dist.LogNormal(jnp.log(0.1), 0.2).expand([2]).to_event(1))
    q = jnp.array([[0.0, rates[0]], [rates[1], 0.0]])
    start = jnp.where(rates.max() > 0.3, jnp.nan, jnp.ones(2) / 2)
    numpyro.sample("y", MarkovJumpCounts(q, stats, initial=start), obs=stats.counts)


@pytest.mark.nightly
def test_jump_bad_input_a_start_without_density_falls_back_to_the_prior_mean():
    times = np.linspace(0, 5, 26)
    labels = np.tile([[0, 1]], (400, 13))
    kernel = ZeroShotMJP(excluded)
    mcmc = MCMC(kernel, num_warmup=10, num_samples=10, progress_bar=False)
    with pytest.warns(UserWarning, match=r"'y' lead, and the start is that of the prior mean"):
        mcmc.run(random.key(0), path_statistics(times, labels))
    assert np.isfinite(mcmc.get_samples()["rates"]).all()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        diagnose(mcmc)
    assert any("prior mean" in str(warning.message) for warning in said)


def test_jump_bad_input_a_guide_is_first_called_outside_of_jit():
    svi = SVI(two_state, AutoMJP(two_state), optax.adam(0.01), Trace_ELBO())
    with pytest.raises(TypeError, match=r"Call svi\.init .* once outside of jit"):
        jax.jit(lambda labels: svi.init(random.key(0), TIMES, labels).optim_state)(LABELS2)
