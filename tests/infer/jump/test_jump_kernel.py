"""`ZeroShotMJP`: acceptance, starts that are nonsense, other data, any parametrisation, what it says of a run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

from emberwalk.infer import diagnose, to_datatree
from emberwalk.infer.jump.kernel import ZeroShotMJP, ZeroShotMJPState
from emberwalk.infer.jump.khat import pareto_khat
from emberwalk.infer.jump.sites import grouped
from emberwalk.infer.jump.start import FlatModel
from emberwalk.kernels.jump import path_statistics, rates_from_vector, simulate_batch
from emberwalk.models import MarkovJumpProcess, flashing_ratchet, load_flashing_ratchet
from tests.infer.chains import chain_means
from tests.infer.jump.jump_cases import (
    THREE,
    THREE_TIMES,
    exact_moments,
    many_rates,
    ratchet,
    ratchet_counts,
    three_state_labels,
    two_state,
    two_state_args,
)
from tests.statistics import assert_caught, assert_exact, moments, optimised, z_scores

LEVELS = np.array([0.0, 1.0, 3.0])
ONE = {"num_chains": 1, "progress_bar": False}


def acceptance_at(num_paths):
    mcmc = MCMC(ZeroShotMJP(many_rates), num_warmup=20, num_samples=150, **ONE)
    with optimised():
        mcmc.run(random.key(0), ratchet_counts(num_paths))
    return float(mcmc.last_state.mean_independence_accept_prob), mcmc


def test_jump_kernel_accepts_its_proposals():
    """30 rates, 300 paths: .88 in the specification."""
    acceptance, mcmc = acceptance_at(300)
    assert acceptance >= 0.7
    # every fourth draw in warm-up, and every sixteenth after one in which most proposals are accepted
    assert int(mcmc.last_state.nuts_every) == 16
    assert np.flatnonzero(mcmc.get_extra_fields()["num_steps"]).tolist() == list(range(12, 150, 16))
    assert diagnose(mcmc) == []
    assert np.isfinite(mcmc.last_state.pareto_khat)
    start = mcmc.sampler.posterior_start["log_rates"]
    draws = mcmc.get_samples()["log_rates"]
    # the mode is below the mean of a log rate, by half its variance
    assert np.abs((draws.mean(0) - start) / draws.std(0)).max() < 1.0


@pytest.mark.nightly
def test_jump_kernel_accepts_its_proposals_at_few_paths():
    assert acceptance_at(30)[0] >= 0.7


# Starts that are nonsense


class Nonsense(ZeroShotMJP):
    """Rates a hundred times too fast."""

    def _begun(self, *args):
        state = super()._begun(*args)
        return state._replace(proposal=state.proposal._replace(mode=state.proposal.mode + jnp.log(100.0)))


@pytest.mark.nightly
def test_jump_kernel_with_a_nonsensical_start_is_right_by_nuts_alone():
    """Proposals are refused, and NUTS takes over for all chains together."""
    found = chain_means(
        Nonsense(two_state),
        lambda state: jnp.column_stack(
            [jax.vmap(moments)(state.z["log_rates"]), jnp.broadcast_to(state.all_nuts, 40)]
        ),
        40, 100, 400, *two_state_args(0.0), init_params={"log_rates": jnp.full(2, 4.0)},
    )  # fmt: skip
    npt.assert_array_equal(found[:, -1], 1)
    assert_exact(z_scores(found[:, :-1], exact_moments(0.0)))


# Other data


def test_jump_kernel_runs_again_on_other_data():
    """Under `jit_model_args` the second run has the posterior of the second data: the first with its states swapped."""
    times, labels, _, grid = two_state_args("clean")
    times, labels, grid = jax.tree.map(jnp.asarray, (times, labels, grid))

    def model(times, labels, grid):
        two_state(times, labels, None, grid)

    mcmc = MCMC(
        ZeroShotMJP(model), num_warmup=10, num_samples=300, num_chains=24, chain_method="vectorized",
        progress_bar=False, jit_model_args=True,
    )  # fmt: skip
    mcmc.run(random.key(0), times, labels, grid)
    before = mcmc.get_samples(group_by_chain=True)["log_rates"]
    mcmc.run(random.key(1), times, 1 - labels, grid)
    after = mcmc.get_samples(group_by_chain=True)["log_rates"]
    # the prior is the same for both rates
    of_each = [np.asarray(jax.vmap(jax.vmap(moments))(x[..., ::-1]), np.float64).mean(1) for x in (before, after)]
    assert_exact(z_scores(of_each[1], exact_moments("clean")))
    assert_caught(z_scores(of_each[0], exact_moments("clean")))


# Any parametrisation


def short_run(model, *args, kernel_options=None, num_warmup=20, num_samples=60):
    mcmc = MCMC(
        ZeroShotMJP(model, **(kernel_options or {})), num_warmup=num_warmup, num_samples=num_samples, **ONE
    )
    mcmc.run(random.key(0), *args)
    return mcmc


def acceptance_of(mcmc):
    return float(mcmc.last_state.mean_independence_accept_prob)


@pytest.mark.nightly
def test_jump_kernel_takes_three_parameters_and_noise():
    times, states, _ = load_flashing_ratchet(1)
    rng = np.random.default_rng(0)
    labels = states[:30, ::5]
    wrong = rng.random(labels.shape) < 0.05
    labels = np.where(wrong, (labels + rng.integers(1, 6, labels.shape)) % 6, labels)
    mcmc = short_run(ratchet, times[::5], labels)
    assert acceptance_of(mcmc) > 0.5
    draws = mcmc.get_samples()
    for name, true in {"V": 1.0, "r": 1.0, "b": 1.0, "rho": 0.05}.items():
        assert abs(draws[name].mean() - true) < 4.5 * draws[name].std(), name
    tree = to_datatree(mcmc, log_likelihood=True)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "paths")
    one = {name: jnp.asarray(values[-1]) for name, values in draws.items()}
    law = MarkovJumpProcess(
        flashing_ratchet(one["V"], one["r"], one["b"]),
        times[::5],
        initial="stationary",
        label_noise=one["rho"],
    )
    npt.assert_allclose(tree["log_likelihood"]["y"][0, -1], law.log_prob(labels), rtol=1e-4)


@pytest.mark.nightly
def test_jump_kernel_takes_covariates_and_subjects():
    """Log rates a_s + b x_k, a hierarchy of two subjects, right labels."""
    x = np.array([-1.0, 0.0, 1.0])
    base = np.array([[0.0, 1.0], [0.6, 0.0]])
    truth = {"a": np.array([0.3, -0.3]), "b": 0.8}
    scale = np.exp(truth["a"][:, None] + truth["b"] * x)
    labels = np.array(
        [[simulate_batch(7 * s + k, scale[s, k] * base, THREE_TIMES, 20) for k in range(3)] for s in range(2)]
    )  # [subject, covariate, path, time]

    def model(labels):
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("subjects", 2, dim=-3):
            a = numpyro.sample("a", dist.Normal(0, 1))
            with numpyro.plate("covariates", 3, dim=-2), numpyro.plate("paths", 20, dim=-1):
                q = jnp.exp(a + b * x[:, None])[..., None, None] * base
                numpyro.sample("y", MarkovJumpProcess(q, THREE_TIMES, initial="stationary"), obs=labels)

    mcmc = short_run(model, labels)
    assert acceptance_of(mcmc) > 0.5
    draws = mcmc.get_samples()
    assert abs(draws["b"].mean() - truth["b"]) < 4.5 * draws["b"].std()
    assert (np.abs(draws["a"].mean(0).ravel() - truth["a"]) < 4.5 * draws["a"].std(0).ravel()).all()


def measured(values, seen=None):
    log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([6]).to_event(1))
    levels = numpyro.sample("levels", dist.Normal(LEVELS, 1.0).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    emission = dist.Normal(levels, sd)
    with numpyro.plate("paths", values.shape[0]):
        law = MarkovJumpProcess(
            rates_from_vector(jnp.exp(log_rates), 3), THREE_TIMES, emission=emission, mask=seen
        )
        numpyro.sample("y", law, obs=values)


@pytest.mark.nightly
def test_jump_kernel_takes_emissions():
    """Levels and noise unknown, some points missing: states are guessed by groups of values."""
    rng = np.random.default_rng(1)
    states = three_state_labels(40)
    seen = rng.random(states.shape) < 0.9
    values = np.where(seen, rng.normal(LEVELS[states], 0.4), np.nan)
    mcmc = short_run(measured, values, seen)
    assert acceptance_of(mcmc) > 0.4
    draws = mcmc.get_samples()
    assert (np.abs(draws["levels"].mean(0) - LEVELS) < 4.5 * draws["levels"].std(0)).all()
    assert abs(draws["sd"].mean() - 0.4) < 4.5 * draws["sd"].std()


@pytest.mark.nightly
def test_jump_kernel_takes_emissions_with_labels():
    """Vectors, whose states are guessed by a function of the user's."""
    rng = np.random.default_rng(2)
    states = three_state_labels(40)
    centres = np.stack([LEVELS, LEVELS[::-1]], -1)
    values = rng.normal(centres[states], 0.5)

    def model(values):
        log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([6]).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))
        emission = dist.Normal(jnp.asarray(centres, float), sd).to_event(1)
        with numpyro.plate("paths", values.shape[0]):
            law = MarkovJumpProcess(rates_from_vector(jnp.exp(log_rates), 3), THREE_TIMES, emission=emission)
            numpyro.sample("y", law, obs=values)

    def nearest(values):
        return np.argmin(((values[..., None, :] - centres) ** 2).sum(-1), -1)

    mcmc = short_run(model, values, kernel_options={"labels": nearest})
    assert acceptance_of(mcmc) > 0.5
    sd = mcmc.get_samples()["sd"]
    assert abs(sd.mean() - 0.5) < 4.5 * sd.std()


@pytest.mark.nightly
def test_jump_kernel_takes_hundreds_of_latents():
    """15 states, 210 rates: L-BFGS, and the diagonal of the curvature, which leaves one proposal in nine."""
    rng = np.random.default_rng(3)
    q = rng.uniform(0.1, 1.0, (15, 15)) * (1 - np.eye(15))
    times = np.linspace(0, 5, 101)
    stats = path_statistics(times, simulate_batch(0, q, times, 300), num_states=15)

    def model(stats):
        many_rates(stats, n=15)

    mcmc = short_run(model, stats, num_samples=200)
    assert not mcmc.last_state.all_nuts
    assert acceptance_of(mcmc) > 0.05
    draws = mcmc.get_samples()["log_rates"]
    z = (draws.mean(0) - np.log(q[~np.eye(15, dtype=bool)])) / draws.std(0)
    assert np.abs(z).max() < 5
    assert np.abs(z).mean() < 1.3


# What is said


def test_jump_kernel_khat_is_that_of_arviz():
    from arviz_stats.base import array_stats

    rng = np.random.default_rng(0)
    for shape in (0.1, 0.5, 1.2):
        log_weights = shape * rng.standard_exponential(1000)
        _, known = array_stats.psislw(-log_weights)
        with jax.enable_x64(True):
            assert float(pareto_khat(jnp.asarray(log_weights))) == pytest.approx(float(known), abs=1e-9)
        assert float(pareto_khat(jnp.asarray(log_weights))) == pytest.approx(float(known), abs=0.02)
    assert float(pareto_khat(jnp.zeros(1000))) == 0
    assert float(pareto_khat(jnp.full(1000, jnp.nan))) == np.inf
    some = jnp.where(jnp.arange(1000) < 10, jnp.nan, jnp.asarray(log_weights))
    assert np.isfinite(pareto_khat(some))


@pytest.mark.nightly
def test_jump_kernel_says_that_proposals_rarely_help_and_goes_on_without():
    """Right labels are counted in the potential, which is that of the model all the same."""
    args = two_state_args(0.0)
    mcmc = MCMC(Nonsense(two_state), num_warmup=10, num_samples=10, **ONE)
    mcmc.run(random.key(0), *args)
    state = mcmc.last_state
    assert state.all_nuts
    assert int(state.nuts_every) == 1
    assert (mcmc.get_extra_fields()["num_steps"] > 0).all()
    plain = potential_energy(two_state, args, {}, state.z)
    assert float(state.potential_energy) == pytest.approx(float(plain), rel=1e-5)
    with pytest.warns(UserWarning, match=r"Independence moves rarely help: 0\.0% .* rest on NUTS"):
        sentences = diagnose(mcmc)
    assert len(sentences) == 1
    assert "independence acc. 0.00" in mcmc.sampler.get_diagnostics_str(state)


class Run(NamedTuple):
    """What `warnings` looks at of a run."""

    last_state: Any


def test_jump_kernel_says_what_was_refused_shortened_or_begun_elsewhere():
    kernel = ZeroShotMJP(two_state)
    known = {
        "mean_independence_accept_prob": 0.8,
        "num_nonfinite": 0,
        "num_clipped_lags": 0,
        "fell_back": False,
        "converged": True,
    }
    quiet = dict.fromkeys(ZeroShotMJPState._fields) | {
        name: jnp.full(2, value) for name, value in known.items()
    }
    assert kernel.warnings(Run(ZeroShotMJPState(**quiet))) == []
    for field, value, words in (
        ("num_nonfinite", 3, "6 proposals had no finite density"),
        ("num_clipped_lags", 1, "1 lags are so long"),
        ("fell_back", True, "start is that of the prior mean"),
        ("converged", False, "mode was not reached at the start, so that proposals are those of another place: 80.0%"),
    ):
        (sentence,) = kernel.warnings(Run(ZeroShotMJPState(**quiet | {field: jnp.full(2, value)})))
        assert words in sentence


def test_jump_kernel_starts_inside_of_another_program():
    """As `chain_method="parallel"` starts chains: the data are known, and the start is computed at once."""
    args = two_state_args("clean")

    @jax.jit
    def begun(key):
        return ZeroShotMJP(two_state).init(key, 5, None, args, {}).potential_energy

    assert np.isfinite(begun(random.key(0)))


def test_jump_kernel_counts_no_paths_that_have_weights_of_their_own():
    """A scale for each path: the density is that of the model all the same."""
    times, labels, *_ = two_state_args("clean")
    weights = jnp.linspace(0.1, 2.0, len(labels))

    def model(labels):
        with numpyro.handlers.scale(scale=weights):
            two_state(times, labels)

    z = {"log_rates": jnp.array([0.3, -0.4])}
    flat = FlatModel(model, None, "here", (labels,), {})
    plain = potential_energy(model, (labels,), {}, z)
    assert float(-flat.log_density(z["log_rates"])) == pytest.approx(float(plain), rel=1e-5)


def test_jump_kernel_groups_measurements_around_rising_means():
    rng = np.random.default_rng(0)
    states = rng.integers(0, 3, (5, 40))
    seen = rng.random(states.shape) < 0.8
    values = np.where(seen, rng.normal(LEVELS[states], 0.1), np.nan)
    found = np.asarray(grouped(jnp.asarray(values), 3, seen))
    npt.assert_array_equal(found[seen], states[seen])


# 30 rates, beside NUTS


def both_posteriors(model, *args, num_draws):
    """First and second moments of all latents by both kernels, one row a chain."""
    found = []
    for kernel, warmup in ((ZeroShotMJP(model), 100), (NUTS(model), 300)):
        mcmc = MCMC(
            kernel, num_warmup=warmup, num_samples=num_draws, num_chains=16, chain_method="vectorized",
            progress_bar=False,
        )  # fmt: skip
        with optimised():
            mcmc.run(random.key(0), *args)
        draws = mcmc.get_samples(group_by_chain=True)
        flat = np.concatenate(
            [np.asarray(v, np.float64).reshape(*v.shape[:2], -1) for v in draws.values()], -1
        )
        found.append(np.concatenate([flat, flat**2], -1).mean(1))
    return found


def z_between(one, other):
    """Of the difference of two sets of chains."""
    error = one.mean(0) - other.mean(0)
    return error / np.sqrt(one.var(0, ddof=1) / len(one) + other.var(0, ddof=1) / len(other))


@pytest.mark.nightly
def test_jump_kernel_and_nuts_agree_on_30_rates():
    assert_exact(z_between(*both_posteriors(many_rates, ratchet_counts(30), num_draws=500)))


@pytest.mark.nightly
def test_jump_kernel_and_nuts_agree_on_30_noisy_rates():
    from tests.infer.jump.jump_cases import many_noisy_rates

    times, states, _ = load_flashing_ratchet(1)
    rng = np.random.default_rng(0)
    labels = states[:30]
    wrong = rng.random(labels.shape) < 0.05
    labels = np.where(wrong, (labels + rng.integers(1, 6, labels.shape)) % 6, labels)
    assert_exact(z_between(*both_posteriors(many_noisy_rates, times, labels, num_draws=300)))


@pytest.mark.nightly
def test_jump_kernel_and_nuts_agree_on_stiff_rates():
    """The look-alike of alanine: rates from .01 to 53."""
    from tests.kernels.jump.processes import ALANINE

    times = 0.002 * np.arange(1000)
    stats = path_statistics(times, simulate_batch(0, ALANINE, times, 100), num_states=6)
    one, other = both_posteriors(many_rates, stats, num_draws=500)
    assert np.isfinite(one).all()
    assert_exact(z_between(one, other))


def test_jump_kernel_planted_true_rates_are_near():
    """The truth of three states is not far in the tails of the draws; its transpose is."""
    stats = path_statistics(THREE_TIMES, three_state_labels(200), num_states=3)

    def model(stats):
        many_rates(stats, n=3)

    draws = short_run(model, stats).get_samples()["log_rates"]
    off = ~np.eye(3, dtype=bool)
    z = (draws.mean(0) - np.log(THREE[off])) / draws.std(0)
    assert np.abs(z).max() < 4.5
    assert np.abs((draws.mean(0) - np.log(THREE.T[off])) / draws.std(0)).max() > 8
