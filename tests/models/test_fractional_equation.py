"""The equation that a guide gets: its step is the model's, its tangent exact, and the filter on it the posterior."""

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.handlers import block, seed, substitute, trace

from emberwalk.kernels.fractional import Sites, backward, fractional_coefficients, simulate
from emberwalk.models import fractional_sde
from emberwalk.models.fractional import taken_over
from tests.kernels.fractional.bridges import (
    block_diagonal,
    conditioned,
    dense,
    site_density,
    standard_normal,
)

TS = np.array([0.5, 0.6, 1.0, 1.1, 2.0])
RATES = np.array([0.5, 1.5])


def taken(model, key=0):
    """The equation of a model's `fractional_sde`."""
    with taken_over(lambda equation: equation):
        return seed(model, key)()


def linear():
    """Two mixed states, a random start, irregular times."""
    A, S = jnp.array([[1.0, -0.5], [0.3, 2.0]]), jnp.array([[0.5, 0.2, -0.1], [0.0, 0.4, 0.3]])
    y0 = dist.Normal(jnp.array([0.7, -1.0]), 0.3)
    hurst = jnp.array([0.2, 0.5, 0.8])
    return fractional_sde(
        "x", lambda t, x: (1.0 - x) @ A.T, lambda t, x: S, TS, hurst, y0, noise_dim=3, substeps=2
    )


def nonlinear():
    """Scalar, Heun, time in the drift."""
    return fractional_sde(
        "x",
        lambda t, x: jnp.sin(t) - x**3,
        lambda t, x: 0.5 + 0.2 * jnp.cos(x),
        TS,
        0.3,
        0.4,
        substeps=[1, 3, 1, 2],
        save_path=True,
    )


def plated():
    """Two sequences with rates of their own, Heun, a law for the start."""
    with numpyro.plate("seq", 2):
        k = jnp.asarray(RATES)
        return fractional_sde(
            "x", lambda t, x: -k * x, lambda t, x: 0.3 + 0.1 * k * x**2, TS, 0.7, dist.LogNormal(0.1, 0.2)
        )


MODELS = {"linear": linear, "nonlinear": nonlinear, "plated": plated}


def noises(equation, key=0):
    key_b, key_e = random.split(random.key(key))
    batch, N = equation.state.batch, len(equation.state.grid.steps)
    b = random.normal(key_b, (*batch, equation.num_start_noises))
    return b, random.normal(key_e, (N, *batch, equation.num_step_noises))


def by_steps(equation, b, e):
    def advance(z, inputs):
        z = equation.step(z, *inputs)
        return z, z

    start = equation.start(b)
    _, z = lax.scan(advance, start, (e, equation.inputs))
    return jnp.concatenate([start[None], z])


def at_its_path(equation):
    """Noises, the path that they drive, and the tangent there, in one program."""

    def everything(b, e):
        z = by_steps(equation, b, e)
        return z, equation.linear(z, e)

    b, e = noises(equation)
    return b, e, *jax.jit(everything)(b, e)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_model_is_the_steps_of_its_equation(model):
    equation = taken(model)
    b, e = noises(equation)
    x, path = jax.jit(lambda b, e: (by_steps(equation, b, e), equation.path(b, e)))(b, e)
    x = x[..., : equation.state.size]
    np.testing.assert_allclose(path, x, atol=2e-5)
    found = trace(substitute(seed(model, 1), equation.to_sites(b, e))).get_trace()
    sampled = {name: site["value"].shape for name, site in found.items() if site["type"] == "sample"}
    batch = equation.state.batch
    assert sampled == {site: batch + shape for site, shape in equation.site_shapes.items()}
    shown = jnp.moveaxis(x[equation.state.grid.outputs], 0, -2)
    np.testing.assert_allclose(
        found["x"]["value"], shown if equation.state.shape else shown[..., 0], atol=2e-5
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_noises_and_sites_are_inverse(model):
    equation = taken(model)
    b, e = noises(equation)
    for made, given in zip(equation.from_sites(equation.to_sites(b, e)), (b, e), strict=True):
        np.testing.assert_array_equal(made, given)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_tangent_is_that_of_the_steps(model, x64):
    """By differences, of each sequence alone."""
    equation = taken(model)
    b, e, z, tangent = at_its_path(equation)
    move_z, move_e = (1e-6 * random.normal(random.key(5), x.shape[1:]) for x in (z, e))
    M, c, L = (jnp.moveaxis(x, len(equation.state.batch), 0) for x in tangent[:3])
    moved = jax.jit(jax.vmap(equation.step))(z[:-1] + move_z, e + move_e, equation.inputs)
    by_tangent = times(M, z[:-1] + move_z) + c + times(L, e + move_e)
    np.testing.assert_allclose(moved, by_tangent, atol=1e-10)
    assert np.abs(moved - z[1:]).max() > 1e-7
    move_b = 1e-6 * random.normal(random.key(6), b.shape)
    start = tangent.start_mean + times(tangent.start_factor, move_b)
    np.testing.assert_allclose(equation.start(move_b), start, atol=1e-10)


def times(matrix, vector):
    return jnp.einsum("...nm,...m->...n", matrix, vector)


def sites_of(equation, key=3):
    """Some of the times seen, with dense precisions."""
    N, d = len(equation.state.grid.fine), equation.state.size
    rng = np.random.default_rng(key)
    roots = rng.normal(size=(N, d, d)) * (rng.random(N) < 0.5)[:, None, None]
    return Sites(jnp.asarray(rng.normal(size=(N, d)) * roots[:, 0]), jnp.asarray(2 * roots @ roots.mT))


def test_the_filter_on_the_tangent_has_the_evidence_of_dense_algebra(x64):
    equation = taken(linear)
    *_, tangent = at_its_path(equation)
    sites = sites_of(equation)
    exact, *_ = conditioned(*dense(tangent, equation.state.size), *block_diagonal(sites))
    assert float(jax.jit(backward)(tangent, sites).log_evidence) == pytest.approx(exact, abs=1e-9)


def test_every_draw_of_the_guide_weighs_the_evidence(x64):
    """log p(sites, noises) - log q(noises) does not vary: start, step and inputs are what `simulate` wants."""
    equation = taken(linear)
    *_, tangent = at_its_path(equation)
    sites = sites_of(equation)
    gains = jax.jit(backward)(tangent, sites)

    def log_weight(key):
        draw = simulate(key, gains, equation.start, equation.step, equation.inputs)
        prior = standard_normal(draw.b) + standard_normal(draw.e)
        return site_density(sites, draw.z) + prior - draw.log_prob

    weights = jax.jit(jax.vmap(log_weight))(random.split(random.key(0), 20))
    np.testing.assert_allclose(weights, gains.log_evidence, atol=1e-9)


def test_a_plate_of_linear_equations_is_filtered_at_once(x64):
    """The gradient of one sequence's evidence in the other's rate is 0, and each is what it is alone."""

    def model(rates):
        with numpyro.plate("seq", len(rates)):
            return fractional_sde(
                "x", lambda t, x: rates * (1.0 - x), lambda t, x: 0.4, TS, 0.3, dist.Normal(0.7, 0.3)
            )

    def evidence(rates):
        equation = taken(partial(model, rates))
        b, e = (jnp.zeros_like(x) for x in noises(equation))
        z = by_steps(equation, b, e)
        sites = sites_of(taken(partial(model, jnp.ones(1))))
        each = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(rates), *x.shape)), sites)
        return jax.vmap(backward)(equation.linear(z, e), each).log_evidence

    both, slopes = jax.jit(lambda rates: (evidence(rates), jax.jacfwd(evidence)(rates)))(jnp.asarray(RATES))
    one = jax.jit(evidence)
    alone = jnp.concatenate([one(jnp.asarray(RATES[i : i + 1])) for i in range(2)])
    np.testing.assert_allclose(both, alone, atol=1e-10)
    assert abs(both[0] - both[1]) > 1e-3
    assert slopes[0, 1] == slopes[1, 0] == 0
    assert jnp.abs(jnp.diag(slopes)).min() > 1e-4


# The hook


def test_the_hook_is_handed_the_equation_and_its_value_returned():
    found = []

    def hook(equation):
        found.append(equation)
        return equation.record(equation.path(*noises(equation)))

    with taken_over(hook):
        recorded = trace(seed(nonlinear, 0)).get_trace()
    assert list(recorded) == ["x_path", "x"]
    assert recorded["x"]["value"].shape == (5,)
    (equation,) = found
    assert equation.name == "x"
    assert equation.state.y0 == 0.4
    assert float(equation.hurst) == pytest.approx(0.3)
    np.testing.assert_array_equal(equation.state.grid.fine[equation.state.grid.outputs], TS)
    assert not equation.coefficients_given


def test_the_hook_knows_of_given_coefficients():
    C = fractional_coefficients(horizon=2.0, num_steps=64)
    equation = taken(lambda: fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, TS, 0.3, coefficients=C))
    assert equation.coefficients_given
    assert equation.coefficients is C


def test_an_inner_hook_holds_and_an_error_gives_the_outer_back():
    with taken_over(lambda equation: "outer"):
        with taken_over(lambda equation: "inner"):
            assert seed(nonlinear, 0)() == "inner"
        with pytest.raises(RuntimeError), taken_over(lambda equation: "failed"):
            raise RuntimeError
        assert seed(nonlinear, 0)() == "outer"
    assert seed(nonlinear, 0)().shape == (5,)


def test_a_hook_is_of_one_thread():
    found = []
    with taken_over(lambda equation: "here"):
        thread = threading.Thread(target=lambda: found.append(seed(nonlinear, 0)()))
        thread.start()
        thread.join()
    assert found[0].shape == (5,)


def test_parameters_of_the_model_reach_the_equation_through_a_block():
    """As a guide calls it: params pass, all else is hidden."""

    def model():
        k = numpyro.param("k", 0.5)
        s = numpyro.sample("s", dist.HalfNormal())
        return fractional_sde("x", lambda t, x: -k * x, lambda t, x: s, TS, numpyro.param("hurst", 0.6))

    def guide():
        with taken_over(lambda equation: (equation.hurst, equation.solver.diffusion(0.0, jnp.zeros(1)))):
            shown = ("param", "mutable")
            return block(substitute(model, {"s": 2.0}), hide_fn=lambda msg: msg.get("type") not in shown)()

    with trace() as found:
        hurst, s = substitute(seed(guide, 0), {"hurst": 0.8})()
    assert set(found) == {"k", "hurst"}
    assert (float(hurst), float(s[0])) == (pytest.approx(0.8), 2.0)


def test_out_of_range_h_is_kept_to_be_counted():
    """Traced, so that it is clipped where it is used."""

    def clipped(H):
        equation = taken(lambda: fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, TS, H))
        return equation.hurst, equation.bank.weights

    hurst, weights = jax.jit(clipped)(1.2)
    assert float(hurst) == pytest.approx(1.2)
    np.testing.assert_allclose(weights, jax.jit(clipped)(0.98)[1])
