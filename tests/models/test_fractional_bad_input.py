"""What a fractional model cannot mean is refused before anything is traced, by name, value and way out."""

import re
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.handlers import seed, trace
from numpyro.infer import Predictive

from emberwalk.kernels.fractional import fractional_coefficients
from emberwalk.models import (
    FractionalBrownianMotion,
    FractionalGaussianNoise,
    extend_noise,
    fbm_path,
    fractional_sde,
)
from emberwalk.models.fractional import taken_over
from emberwalk.models.fractional_inputs import coefficients_for, make_grid

TS = np.linspace(0.0, 1.0, 11)


def ou(ts=TS, hurst=0.3, y0=0.0, drift=lambda t, x: -x, diffusion=lambda t, x: 1.0, **options):
    return fractional_sde("x", drift, diffusion, ts, hurst, y0, **options)


def ran(model, *args, **options):
    return lambda: trace(seed(model, 0)).get_trace(*args, **options)


def in_plate(model, size, subsample=None, **options):
    def plated():
        with numpyro.plate("seq", size, subsample):
            model(**options)

    return plated


def in_scan():
    scan(lambda carry, _: (carry, ou()), 0.0, None, length=3)


def after_a_site(name, call=ou):
    def model():
        numpyro.sample(name, dist.Normal())
        call()

    return model


def twice():
    ou()
    ou()


def with_hook():
    with taken_over(lambda equation: equation):
        ou(noise="exact")


def by_traced(call):
    return lambda: jax.jit(call)(TS)


def with_traced_coefficients():
    C = fractional_coefficients(1.0, 64)
    return jax.jit(lambda C: seed(ou, 0)(coefficients=C))(C)


def with_a_nan(i):
    ts = TS.copy()
    ts[i] = np.nan
    return ts


def forecast_without_extending():
    samples = Predictive(ou, num_samples=2)(random.key(0))
    Predictive(ou, samples)(random.key(0), np.linspace(0.0, 2.0, 21))


def kind_two():
    return fractional_coefficients(1.0, 64, kind="II", criterion="path")


SHORT = partial(fractional_coefficients, 1.0, 64)
USE = r"use hurst_prior or constraints\.interval\(0\.02, 0\.98\)"

BAD = {
    # concrete hurst out of range
    "hurst": (ran(ou, hurst=1.2), ValueError, rf"x: hurst must be in \[0.02, 0.98\], got 1.2: {USE}"),
    "hurst of a path": (ran(fbm_path, "B", TS, 0.01), ValueError, rf"B: hurst .* got 0.01: {USE}"),
    "hurst NaN": (ran(ou, hurst=np.nan), ValueError, rf"x: hurst .* got nan: {USE}"),
    "one hurst of two": (
        ran(ou, hurst=np.array([0.5, 0.99]), y0=np.zeros(2), diffusion=lambda t, x: jnp.ones(2)),
        ValueError,
        r"got 0\.99",
    ),
    "hurst of noise": (
        partial(FractionalGaussianNoise, 1.0, num_steps=3),
        ValueError,
        rf"FractionalGaussianNoise: hurst .* got 1: {USE}",
    ),
    "hurst of motion": (
        partial(FractionalBrownianMotion, np.array([0.5, 0.0]), 1.0, TS[1:]),
        ValueError,
        rf"FractionalBrownianMotion: hurst .* got 0: {USE}",
    ),
    # times and substeps
    "times fall": (
        ran(ou, TS[::-1]),
        ValueError,
        r"x: ts must be .* increasing, got ts\[1\] = 0.9 after ts\[0\] = 1",
    ),
    "times repeat": (ran(ou, [0.0, 1.0, 1.0, 0.5]), ValueError, r"ts\[2\] = 1.0 after ts\[1\] = 1.0"),
    "time NaN": (ran(ou, with_a_nan(4)), ValueError, r"ts\[4\] = nan"),
    "first time NaN": (ran(ou, with_a_nan(0)), ValueError, r"ts\[0\] = nan"),
    "time infinite": (ran(ou, [0.0, np.inf]), ValueError, r"ts\[1\] = inf"),
    "one time": (ran(ou, [0.0]), ValueError, r"x: ts must be a row of at least 2 times, got shape \(1,\)"),
    "a matrix of times": (ran(ou, np.ones((2, 3))), ValueError, r"got shape \(2, 3\)"),
    "times of a path": (ran(fbm_path, "B", [1.0, 0.0], 0.3), ValueError, r"B: ts .* ts\[1\] = 0.0"),
    "times of motion": (
        partial(FractionalBrownianMotion, 0.3, 1.0, [2.0, 1.0]),
        ValueError,
        r"FractionalBrownianMotion: ts .* ts\[1\] = 1.0",
    ),
    "motion before its origin": (
        partial(FractionalBrownianMotion, 0.3, 1.0, [-1.0, 1.0], 0.1),
        ValueError,
        r"ts\[0\] = -1",
    ),
    "motion at its origin": (
        partial(FractionalBrownianMotion, 0.3, 1.0, [0.0, 1.0]),
        ValueError,
        r"ts\[0\] = 0.* Leave the origin out, or give obs_noise",
    ),
    "no substeps": (
        ran(ou, substeps=0),
        ValueError,
        r"x: substeps must be .* at least 1, or \[10\] of them, .* got 0",
    ),
    "half a substep": (ran(ou, substeps=1.5), ValueError, r"substeps .* got 1.5"),
    "substeps of too many": (ran(ou, substeps=np.ones(11, int)), ValueError, r"substeps .* \[10\] of them"),
    "substeps with a 0": (ran(ou, substeps=[1] * 9 + [0]), ValueError, "substeps"),
    # traced times
    "times traced": (
        by_traced(lambda ts: seed(ou, 0)(ts)),
        TypeError,
        r"x: ts must be a concrete array: pass it by closure or static kwargs",
    ),
    "times of a path traced": (
        by_traced(lambda ts: seed(fbm_path, 0)("B", ts, 0.3)),
        TypeError,
        r"B: ts must be a concrete array",
    ),
    "times of motion traced": (
        by_traced(lambda ts: FractionalBrownianMotion(0.3, 1.0, ts).mean),
        TypeError,
        r"ts must be a concrete array",
    ),
    "coefficients traced": (
        with_traced_coefficients,
        TypeError,
        r"x: coefficients must be concrete: .* by closure",
    ),
    # shapes
    "hurst of three": (
        ran(ou, hurst=np.full(3, 0.5)),
        ValueError,
        r"x: hurst has shape \(3,\), expected \(\) or \(1,\)",
    ),
    "hurst of a path in a row": (
        ran(fbm_path, "B", TS, np.full(1, 0.5)),
        ValueError,
        r"B: hurst has shape \(1,\), expected \(\)",
    ),
    "hurst of two in a plate of two": (
        ran(in_plate(ou, 2, hurst=jnp.full(2, 0.5), y0=np.zeros((2, 2)), diffusion=lambda t, x: jnp.ones(2))),
        ValueError,
        r"x: hurst has shape \(2,\) in a plate of 2 paths.* give it shape \(1, 2\)",
    ),
    "hurst in a plate": (ran(in_plate(ou, 3, hurst=np.full(3, 0.5))), ValueError, r"hurst has shape \(3,\)"),
    "drift": (ran(ou, y0=np.zeros(2)), ValueError, r"x: diffusion returned shape \(\), expected \(2,\)"),
    "drift of another size": (
        ran(ou, drift=lambda t, x: jnp.zeros(3)),
        ValueError,
        r"x: drift returned shape \(3,\), expected \(\)",
    ),
    "diffusion of a scalar": (
        ran(ou, diffusion=lambda t, x: jnp.ones(1)),
        ValueError,
        r"x: diffusion returned shape \(1,\), expected \(\)",
    ),
    "diffusion without columns": (
        ran(ou, y0=np.zeros(2), diffusion=lambda t, x: jnp.ones(2), noise_dim=3),
        ValueError,
        r"x: diffusion returned shape \(2,\), expected \(2, 3\)",
    ),
    "drift in a plate": (
        ran(in_plate(ou, 4, y0=np.zeros((4, 2)), drift=lambda t, x: jnp.zeros((3, 2)))),
        ValueError,
        r"x: drift returned shape \(3, 2\), expected \(4, 2\)",
    ),
    "start of two axes": (
        ran(ou, y0=np.zeros((2, 2))),
        ValueError,
        r"x: y0 has shape \(2, 2\), expected \(\) for a",
    ),
    "start in a plate": (
        ran(in_plate(ou, 4, y0=np.zeros(2))),
        ValueError,
        r"x: y0 has shape \(2,\), expected \(4,\) for a scalar state or \(4, 'd'\) .* or \(\) for all",
    ),
    "law of the start in a plate": (
        ran(in_plate(ou, 4, y0=dist.Normal(np.zeros(3), 1.0))),
        ValueError,
        r"y0 has shape \(3,\), expected \(4,\)",
    ),
    "law of the start": (
        ran(ou, y0=dist.Poisson(3.0)),
        ValueError,
        r"x: y0 is a Poisson, .* sample y0 before",
    ),
    "law of two starts": (ran(ou, y0=dist.Dirichlet(np.ones(2))), ValueError, r"x: y0 is a Dirichlet"),
    "value of motion": (
        lambda: FractionalBrownianMotion(0.3, 1.0, [1.0, 2.0]).log_prob(jnp.zeros(3)),
        ValueError,
        r"value has shape \(3,\), expected 2 steps",
    ),
    "value of noise": (
        lambda: FractionalGaussianNoise(0.3, num_steps=2).log_prob(jnp.zeros(3)),
        ValueError,
        r"value has shape \(3,\), expected 2 steps",
    ),
    "noise of another length": (
        forecast_without_extending,
        ValueError,
        r"x_noise has shape \(10, 1, \d\), expected \(20, 1, \d\): .* extend_noise continues",
    ),
    # the bank
    "Euler": (
        ran(ou, integrator="euler"),
        ValueError,
        r"rate .* times the step 0.1 must be below 0.5. Take steps below",
    ),
    "too many steps": (
        ran(ou, np.append(np.linspace(0.0, 1.0, 11), 1.0001)),
        ValueError,
        r"x: ts spans 1.0001 and its smallest gap is 0.0001, which makes 10001 steps, but at most 4096 .* Merge times",
    ),
    "too many steps of a path": (
        ran(fbm_path, "B", [0.0, 1.0, 1.0001], 0.3, method="markov"),
        ValueError,
        r"B: ts spans 1.0001",
    ),
    "steps too short for the coefficients": (
        ran(ou, coefficients=SHORT(), substeps=10),
        ValueError,
        r"x: the smallest gap of ts is 0.01, 100 steps in the horizon 1 .* made for 64",
    ),
    "times beyond the horizon": (
        ran(ou, 2 * TS, coefficients=SHORT()),
        ValueError,
        r"x: ts spans 2, but the coefficients reach 1\. .* fractional_coefficients\(horizon=2",
    ),
    "coefficients of kind II": (
        ran(ou, coefficients=kind_two()),
        ValueError,
        r'kind .II., expected kind "I"',
    ),
    # where it is called
    "in scan": (ran(in_scan), NotImplementedError, r"x: .* cannot be made within numpyro's scan"),
    "in a plate that subsamples": (
        ran(in_plate(ou, 6, 3)),
        NotImplementedError,
        r"x: the plate 'seq' subsamples 3 of 6",
    ),
    "taken over with exact noise": (
        with_hook,
        ValueError,
        r'x: noise="exact" .* Take noise="markov", or NUTS',
    ),
    **{
        f"site {name}": (ran(after_a_site(name)), ValueError, rf"x: the model has a site '{name}' already")
        for name in ("x", "x_init", "x_bank", "x_noise", "x_path")
    },
    "a site of a path": (
        ran(after_a_site("B_noise", lambda: fbm_path("B", TS, 0.3))),
        ValueError,
        r"B: the model has a site 'B_noise' already",
    ),
    "a name twice": (ran(twice), ValueError, r"x: the model has a site 'x' already"),
    # options
    "noise": (ran(ou, noise="white"), ValueError, r"x: noise must be one of 'markov', 'exact', got 'white'"),
    "integrator": (ran(ou, integrator="heun"), ValueError, r"x: integrator must be one of .* got 'heun'"),
    "convention": (ran(ou, convention="Itô"), ValueError, r"x: convention must be one of .* got 'Itô'"),
    "method": (
        ran(fbm_path, "B", TS, 0.3, method="fft"),
        ValueError,
        r"B: method must be one of .* got 'fft'",
    ),
    "noise_dim": (ran(ou, noise_dim=0), ValueError, r"x: noise_dim must be .* got 0"),
    "no steps of noise": (
        partial(FractionalGaussianNoise, 0.3, num_steps=0),
        ValueError,
        r"num_steps must be .* got 0",
    ),
    "steps of length 0": (
        partial(FractionalGaussianNoise, 0.3, num_steps=2, dt=0.0),
        ValueError,
        r"dt must be a positive length of time, got 0",
    ),
    "noise that was not kept": (
        partial(extend_noise, random.key(0), {"x": TS}, "x", 3),
        ValueError,
        r"'x_noise' is not among the samples \['x'\]",
    ),
    "no steps to add": (
        partial(extend_noise, random.key(0), {"x_noise": np.ones((3, 1))}, "x", 0),
        ValueError,
        r"num_steps must be .* got 0",
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, error, says):
    with pytest.raises(error, match=re.compile(says, re.DOTALL)):
        call()


def test_fractional_bad_input_is_not_the_rounding_of_float32_times():
    """The gaps of `jnp.linspace` differ in the last digits, and are as many as the coefficients are made for."""
    for horizon in (0.3, 0.7, 1.3):
        for num in (64, 1024):
            ts = jnp.linspace(0.0, horizon, num + 1)
            given = fractional_coefficients(horizon, num)
            x = ran(ou, ts, coefficients=given)()["x"]["value"]
            assert x.shape == (num + 1,)
            assert coefficients_for("x", make_grid("x", ts), 8, None).design_steps == given.design_steps


def test_fractional_bad_input_hurst_of_each_noise_has_an_axis_for_a_plate():
    hurst = jnp.array([0.3, 0.7])
    options = {"y0": np.zeros((2, 2)), "diffusion": lambda t, x: jnp.ones(2)}
    plated = ran(in_plate(ou, 2, hurst=hurst[None], **options))()
    each = ran(in_plate(ou, 2, hurst=np.asarray(hurst), **options))()
    np.testing.assert_array_equal(plated["x"]["value"], each["x"]["value"])


def multiplicative(hurst, **options):
    return ou(hurst=hurst, diffusion=lambda t, x: 1 + x / 2, **options)


def mixed(hurst):
    return ou(
        hurst=hurst,
        y0=np.zeros(2),
        diffusion=lambda t, x: jnp.outer(x, jnp.ones(3)),
        noise_dim=3,
        drift=lambda t, x: x,
    )


WARNED = {
    "ito": (partial(multiplicative, convention="ito"), 0.3, r'x: .* convention="ito" diverges'),
    "ito above one half": (partial(multiplicative, convention="ito"), 0.7, r'convention="ito"'),
    "mixed": (mixed, 0.5, r"x: mixed noises that depend on the state have no one limit"),
}


@pytest.mark.parametrize(("model", "hurst", "says"), WARNED.values(), ids=WARNED)
def test_bad_input_is_warned_of(model, hurst, says):
    with pytest.warns(UserWarning, match=says) as found:
        seed(model, 0)(hurst)
    assert found[0].filename == __file__


def test_bad_input_is_warned_of_where_h_is_traced():
    for model, says in ((partial(multiplicative, convention="ito"), "ito"), (mixed, "mixed noises")):
        with pytest.warns(UserWarning, match=says):
            jax.jit(seed(model, 0))(0.5)


SILENT = {
    "ito at one half": (partial(multiplicative, convention="ito"), 0.5),
    "ito of additive noise": (partial(ou, convention="ito"), 0.3),
    "mixed above one half": (mixed, 0.6),
    "ends of the range": (ou, 0.02),
    "an end in float32": (ou, np.float32(0.98)),
}


@pytest.mark.parametrize(("model", "hurst"), SILENT.values(), ids=SILENT)
def test_good_input_is_let_through(model, hurst):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(seed(model, 0)(hurst=hurst)).all()


def test_traced_h_out_of_range_is_clipped():
    def end(hurst, noise):
        return seed(ou, 0)(hurst=hurst, noise=noise)[-1]

    for noise in ("markov", "exact"):
        at = jax.jit(partial(end, noise=noise))
        assert at(1.3) == at(0.98) != at(0.9)


def test_a_site_hidden_by_a_block_is_no_clash():
    def model():
        numpyro.sample("x_noise", dist.Normal())
        with numpyro.handlers.block():
            return ou()

    assert list(trace(seed(model, 0)).get_trace()) == ["x_noise"]
