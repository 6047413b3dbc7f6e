"""What is `PPG`'s own: its use of `Gibbs`, its inner kernels, the innovations move, its start, its words.

That its draws are exact is in `test_smc_exact.py`, and what every kernel must do in `tests/laws`.
"""

import logging
import pickle
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import HMC, NUTS, Gibbs
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned
from numpyro.infer.util import potential_energy

from emberwalk.infer import PPG, ParticleGibbs, moment
from emberwalk.infer.smc import particle_gibbs
from emberwalk.models import StateSpace, emission
from tests.metropolis import Metropolis, MetropolisState, location_scale

KEY, Y = random.key(1), jnp.array([0.5, 1.2, -0.3])
KEYS = random.split(KEY, 4)
WARMUP, DRAWS = 5, 9

pytestmark = pytest.mark.xdist_group("smc-ppg")  # its runs are made once


def shown(y, phi=0.8):
    """An autoregression with a deterministic site before, in and after its scan."""
    sx = numpyro.sample("sx", dist.HalfNormal(1.0))
    numpyro.deterministic("precision", sx**-2)
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(phi * x, sx))
        numpyro.deterministic("twice", 2 * x)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, x

    _, x = scan(step, x0, y)
    numpyro.deterministic("last_square", x[-1] ** 2)


def two_parameters(y):
    shown(y, numpyro.sample("phi", dist.Uniform(-1.0, 1.0)))


def without_parameters(y):
    handlers.condition(shown, {"sx": jnp.array(0.7)})(y)


def narrow(y, width=1.4):
    """No particle farther than `width` from y_t is possible."""
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.factor("near", jnp.where(jnp.abs(x - y_t) < width, 0.0, -jnp.inf))
        return x, None

    scan(step, x0, y)


def begin(kernel, key=KEY, init_params=None, y=Y, num_warmup=WARMUP, **kwargs):
    return kernel.init(key, num_warmup, init_params, model_args=(y,), model_kwargs=kwargs)


def go_on(kernel, state, draws=DRAWS):
    """All states of `draws` moves."""

    def move(state, _):
        state = kernel.sample(state, (Y,), {})
        return state, state

    return jax.jit(lambda state: jax.lax.scan(move, state, length=draws)[1])(state)


@pytest.fixture(scope="module")
def joint():
    """A kernel with the innovations move, and its states through warm-up and after."""
    kernel = PPG(shown, 4, interweave="joint", interweave_steps=3)
    first = begin(kernel)
    return SimpleNamespace(kernel=kernel, first=first, states=go_on(kernel, first))


# Gibbs.


def test_smc_ppg_uses_these_private_members_of_gibbs():
    """NumPyro may rename them: this test and the cap on its version in pyproject.toml belong together."""
    inner = HMC(location_scale, num_steps=1, trajectory_length=None)
    kernel = Gibbs([(inner, ["m"]), (inner, None)])
    assert kernel._specs == (("m",), None)
    assert (kernel._sites, kernel._has_deterministic, kernel._sample_fn) == ((), False, None)
    state = jax.jit(partial(begin, kernel))(KEY)
    assert kernel._sites == (("m",), ("s",))
    assert kernel._model is location_scale
    assert kernel._kernels == tuple(block for block, _ in kernel.blocks)
    assert kernel._sample_fn == kernel._sample_one
    assert kernel._state_cls is type(state)
    assert kernel._merge_z(state.block_states) == state.z
    move = jax.jit(lambda state: kernel._sample_one(state, (Y,), {}))
    # the reason why PPG sets the keys of its blocks: Gibbs leaves them to themselves
    assert move(state).z == move(state._replace(rng_key=random.key(9))).z


@pytest.mark.nightly
def test_smc_ppg_nested_in_gibbs_starts_at_constrained_values_and_moves():
    inner = HMC(two_parameters, num_steps=2, trajectory_length=None, step_size=0.3)
    path = PPG(two_parameters, 4, interweave=None, inner_kernel=inner)
    given = {"sx": jnp.array(2.0), "x0": jnp.array(0.1), "x": jnp.array([0.2, 0.3, 0.4])}
    state = begin(path, init_params=given, **{GIBBS_SITES_KWARG: {"phi": jnp.array(0.5)}})
    assert set(state.z) == set(given)
    np.testing.assert_allclose(state.z["sx"], jnp.log(2.0), rtol=1e-6)

    kernel = Gibbs([(path, ["x0", "x", "sx"]), (inner, None)])
    states = go_on(kernel, jax.jit(partial(begin, kernel))(KEY))
    for site in ("phi", *given):
        assert np.isfinite(states.z[site]).all()
        assert len(np.unique(np.asarray(states.z[site]).reshape(DRAWS, -1)[:, 0])) > 2, site


def test_smc_ppg_wrapped_or_pickled_has_not_started(joint):
    wrapped = joint.kernel.wrap_model(conditioned)
    assert wrapped.model is not shown
    assert joint.kernel.model is shown
    for copy in (wrapped, pickle.loads(pickle.dumps(joint.kernel))):
        assert (copy._start, copy._sample_fn) == (None, None)
        assert (copy.interweave, copy.path_block.num_particles) == ("joint", 4)
    assert joint.kernel._start is not None


# Deterministic sites.


def test_smc_ppg_deterministic_sites_are_those_of_numpyros_replay(joint):
    ours = joint.kernel.postprocess_fn((Y,), {})
    replay = Gibbs.postprocess_fn(joint.kernel, (Y,), {})
    draws = jax.jit(jax.vmap(ours))(joint.states.z)
    assert set(draws) == {"sx", "x0", "x", "precision", "twice", "last_square"}
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5), draws, jax.jit(jax.vmap(replay))(joint.states.z)
    )
    np.testing.assert_allclose(draws["precision"], draws["sx"] ** -2, rtol=1e-5)
    np.testing.assert_allclose(draws["twice"], 2 * draws["x"], rtol=1e-5)
    np.testing.assert_allclose(draws["last_square"], draws["x"][:, -1] ** 2, rtol=1e-5)


# The start.


def test_smc_ppg_starts_where_it_is_told(joint):
    given = {"sx": jnp.log(2.0), "x0": jnp.array(0.1), "x": jnp.array([0.2, 0.3, 0.4])}
    state = begin(joint.kernel, init_params=given)
    jax.tree.map(np.testing.assert_array_equal, state.z, given)
    jax.tree.map(np.testing.assert_array_equal, state.block_states[0].z, {n: given[n] for n in ("x0", "x")})
    model = handlers.condition(shown, {n: given[n] for n in ("x0", "x")})
    exact = potential_energy(model, (Y,), {}, {"sx": given["sx"]})
    np.testing.assert_allclose(state.potential_energy, exact, rtol=1e-5)


@pytest.mark.nightly
def test_smc_ppg_failed_first_filter_is_tried_with_more_particles(monkeypatch):
    kernel, many = ParticleGibbs(narrow, 2), random.split(KEY, 16)
    fails = jax.jit(jax.vmap(lambda key: kernel.failed(begin(kernel, key))))(many)
    keys = many[jnp.array([jnp.argmin(fails), jnp.argmax(fails)])]
    seen, failed = [], kernel.failed
    monkeypatch.setattr(kernel, "failed", lambda state: seen.append(failed(state)) or seen[-1])
    together = begin(kernel, keys)
    assert seen[0].tolist() == [False, True]
    assert np.all(np.abs(together.z["x"] - Y) < 1.4)
    assert together.num_nonfinite.tolist() == [0, 0]


@pytest.mark.nightly
def test_smc_ppg_vectorized_chains_go_on_after_one_was_started_again(monkeypatch):
    kernel = PPG(narrow, 2)
    second = jnp.array([False, True])
    monkeypatch.setattr(
        kernel.path_block, "failed", lambda state: second if state.num_nonfinite.ndim else second[0]
    )
    state = begin(kernel, KEYS[:2])
    moved = jax.eval_shape(lambda state: kernel.sample(state, (Y,), {}), state)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, state)
    begin(kernel)  # for one chain
    with pytest.raises(ValueError, match="post_warmup_state"):
        kernel.sample(state, (Y,), {})


def test_smc_ppg_refuses_a_start_of_the_path_of_another_shape():
    with pytest.raises(
        ValueError, match=r"init_params gives path site 'x' the shape \(2,\), but it has \(3,\)"
    ):
        begin(PPG(shown, 4), init_params={"x": jnp.zeros(2)})


@pytest.mark.nightly
def test_smc_ppg_that_finds_no_path_names_the_time_and_the_site(monkeypatch):
    monkeypatch.setattr(particle_gibbs, "_MAX_DOUBLINGS", 1)
    words = r"at stage 2 of 3: with 4 particles every weight of \['near'\] was 0.*all -inf.*init_params"
    with pytest.raises(RuntimeError, match=words):
        begin(ParticleGibbs(narrow, 2), KEYS, y=Y.at[1].set(90.0))


@pytest.mark.nightly
def test_smc_ppg_refuses_nan_data_of_vectorized_chains():
    kernel = PPG(shown, 4, inner_kernel=Metropolis, interweave=None)
    with pytest.raises(ValueError, match=r"Observed site 'y'.* NaN .*first at 1.*handlers\.mask"):
        begin(kernel, KEYS[:2], y=Y.at[1].set(jnp.nan))


# The innovations move.


def test_smc_ppg_joint_move_adapts_in_warm_up_and_is_frozen_after_it(joint):
    adaptation = joint.states.interweave.adaptation
    step_size = np.append(joint.first.interweave.adaptation.step_size, adaptation.step_size)
    changes = np.diff(step_size) != 0
    assert changes[:WARMUP].all()
    assert not changes[WARMUP:].any()
    for leaf in jax.tree.leaves(adaptation._replace(num_moves=None)):
        for frozen in leaf[WARMUP:]:
            np.testing.assert_array_equal(frozen, leaf[WARMUP - 1])
    accept_prob = joint.states.interweave_accept_prob
    assert np.all((accept_prob >= 0) & (accept_prob <= 1))
    assert np.any(accept_prob > 0.1)


def test_smc_ppg_joint_move_writes_the_path_and_the_parameters_into_their_blocks(joint):
    states = joint.states
    path, inner = states.block_states
    for site, values in states.z.items():
        np.testing.assert_array_equal(values, (path.z if site in path.z else inner.z)[site])
    last = jax.tree.map(lambda leaf: leaf[-1], states.z)
    model = handlers.condition(shown, {n: last[n] for n in ("x0", "x")})
    exact = potential_energy(model, (Y,), {}, {"sx": last["sx"]})
    np.testing.assert_allclose(states.potential_energy[-1], exact, rtol=1e-5)


def from_zero(y):
    """A walk from a fixed start."""
    sx = numpyro.sample("sx", dist.HalfNormal(1.0))
    start = dist.Delta(jnp.array(0.0))
    x = numpyro.sample("x", StateSpace(start, lambda prev, t: dist.Normal(prev, sx), y.shape[0]))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


@pytest.fixture(scope="module")
def from_zero_states():
    """Its states under a kernel with the innovations move whose inner kernel is of our own contract."""
    inner = partial(Metropolis, step_size=0.3)
    kernel = PPG(from_zero, 4, inner_kernel=inner, interweave="joint", interweave_steps=3)
    return go_on(kernel, begin(kernel))


def test_smc_ppg_joint_move_leaves_a_fixed_start_where_it_is(from_zero_states):
    assert not from_zero_states.z["x"][:, 0].any()
    assert from_zero_states.interweave_accept_prob.mean() > 0.3
    assert np.unique(from_zero_states.z["sx"]).size > DRAWS // 2


def test_smc_ppg_without_parameters_moves_the_path_alone_and_says_so_once(caplog):
    kernel = PPG(without_parameters, 4)
    with caplog.at_level(logging.INFO, logger="emberwalk"):
        state = begin(kernel)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("emberwalk")]
    assert said == ["PPG makes no innovations move: the model has no parameters."]
    states = go_on(kernel, state)
    assert set(states.z) == {"x0", "x"}
    assert states.interweave is None
    assert states.interweave_accept_prob.tolist() == [0.0] * DRAWS
    assert len(np.unique(states.z["x0"])) > 2


# The inner kernel.


def test_smc_ppg_inner_kernel_is_the_default_a_class_a_factory_or_an_instance():
    instance = HMC(shown, num_steps=2, trajectory_length=None)
    kinds = {
        NUTS: PPG(shown),
        HMC: PPG(shown, inner_kernel=HMC),
        Metropolis: PPG(shown, inner_kernel=partial(Metropolis, step_size=0.3)),
    }
    for kind, kernel in kinds.items():
        assert type(kernel.blocks[1][0]) is kind
    assert kinds[NUTS].blocks[1][0]._max_tree_depth == 3
    assert kinds[Metropolis].blocks[1][0].step_size == 0.3
    assert PPG(shown, inner_kernel=instance).blocks[1][0]._num_steps == 2


def test_smc_ppg_default_fields_are_those_that_its_state_has():
    sweep = {"z", "particle_ess", "particle_ess_min", "path_update_rate", "log_evidence", "num_nonfinite"}
    hmc = {"potential_energy", "accept_prob", "num_steps", "diverging"}
    assert set(PPG(shown).default_fields) == sweep | hmc | {"interweave_accept_prob", "last_carry"}
    assert set(PPG(shown, interweave=None).default_fields) == sweep | hmc | {"last_carry"}
    alone = PPG(shown, interweave=None, inner_kernel=Metropolis, functionals={"x2": moment("x", 2)})
    assert set(alone.default_fields) == sweep | {"last_carry", "functionals", "path_functionals"}


def test_smc_ppg_runs_with_a_kernel_of_our_own_contract_inside(from_zero_states):
    inner = from_zero_states.block_states[1]
    assert type(inner) is MetropolisState
    assert inner.num_nonfinite[-1] == 0
    # it holds unconstrained parameters, so that they move jointly too
    assert from_zero_states.interweave is not None
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(from_zero_states.z))
    assert np.any((inner.accept_prob > 0) & (inner.accept_prob < 1))


# NUTS starts there daily too, in `test_smc_ppg_starts_where_it_is_told`
@pytest.mark.parametrize("inner", [pytest.param(None, marks=pytest.mark.nightly), Metropolis])
def test_smc_ppg_starts_where_init_params_say_whatever_moves_the_parameters(inner):
    """Unconstrained, as for NUTS: to log sx = log 1/2 and not to sx = log 1/2, which is impossible."""
    given = {"sx": jnp.log(0.5), "x0": jnp.array(0.1), "x": jnp.array([0.2, 0.3, 0.4])}
    kernel = PPG(shown, 4, interweave=None, inner_kernel=inner)
    state = begin(kernel, init_params=given)
    for name, value in given.items():
        np.testing.assert_allclose(state.z[name], value, rtol=1e-6)


# What it says.


def test_smc_ppg_progress_bar_text(joint):
    last = jax.tree.map(lambda leaf: leaf[-1], joint.states)
    text = joint.kernel.get_diagnostics_str(last)
    for words in ("path renewed=", "particle ESS=", "acc. prob=", "innovations acc. prob="):
        assert words in text
    assert "nonfinite" not in text
    assert text.endswith(f"innovations acc. prob={last.interweave_accept_prob:.2f}")
    block, inner = last.block_states
    spoilt = last._replace(block_states=(block._replace(num_nonfinite=jnp.array(7)), inner))
    assert "nonfinite=7" in joint.kernel.get_diagnostics_str(spoilt)


def sentences(joint, **fields):
    """What the kernel would say if its last state had these fields."""
    last = jax.tree.map(lambda leaf: leaf[-1], joint.states)
    block, inner = last.block_states
    changed = last._replace(block_states=(block._replace(**fields), inner))
    return joint.kernel.warnings(SimpleNamespace(last_state=changed))


def test_smc_ppg_warns_of_too_few_particles_of_nonfinite_weights_and_of_traced_paths(joint):
    sweeps = DRAWS - WARMUP
    renewed = {"update_counts": jnp.full(4, sweeps)}
    assert sentences(joint, **renewed) == []

    (few,) = sentences(joint, update_counts=jnp.array([sweeps, sweeps, 0, sweeps]))
    assert few.startswith("The particles renewed the state at time 1 in only 0% of the sweeps.")
    assert "innovations move renews it too; raise num_particles (now 4)" in few

    (nonfinite,) = sentences(joint, **renewed, num_nonfinite=jnp.array(7))
    assert nonfinite.startswith("7 particle weights were NaN or infinite")
    assert "['y']" in nonfinite

    (traced,) = sentences(joint, **renewed, tracing_counts=jnp.full(3, sweeps))
    assert "chose the ancestor in more than 99% of the draws" in traced
    assert "latent site" in traced
