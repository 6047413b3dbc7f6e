"""What guides of a fractional path refuse, and what they say of it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.infer import AutoFractionalSDE, ControlGuide, FractionalDiagnostics
from emberwalk.models import fractional_sde
from tests.infer.fractional.guided import SD, called, coefficients, nothing, set_up, unit

TS = np.linspace(0, 1, 11)
Y = jnp.zeros(10)
C = coefficients(1.0, 10)


def path(name="x", ts=TS, **options):
    return fractional_sde(name, nothing, unit, ts, 0.3, **{"coefficients": C, **options})


def seen(x, name="y", y=Y):
    numpyro.sample(name, dist.Normal(x[1:], SD), obs=y)


def no_path():
    numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal()), 1.0), obs=1.0)


def by_cholesky():
    seen(path(noise="exact"))


def two_paths():
    seen(path("a") + path("b"))


def taken_name():
    numpyro.sample("x_path", dist.Normal())
    seen(path())


def not_a_number():
    seen(path(), y=Y.at[3].set(jnp.nan))


def two_sites():
    x = path()
    seen(x)
    seen(x, "v", Y + 3)


def unobserved():
    seen(path(), y=None)


def some_rows():
    x = path()
    with numpyro.plate("t", 10, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(x[1:][rows], SD), obs=Y[rows])


def read_nothing(y, mask, ts):
    return y[:, None], jnp.ones((len(ts), 1))


def encoded(model, **options):
    return AutoFractionalSDE(model, encoder=read_nothing, **options)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: AutoFractionalSDE(no_path), ValueError, "has no fractional_sde"),
        (lambda: AutoFractionalSDE(by_cholesky), ValueError, 'Take noise="markov", or NUTS'),
        (lambda: AutoFractionalSDE(two_paths), NotImplementedError, r"\['a', 'b'\]"),
        (lambda: AutoFractionalSDE(taken_name), ValueError, "'x_path'"),
        (lambda: AutoFractionalSDE(not_a_number), ValueError, r"'y' is NaN at \(3,\).*handlers.mask"),
        (lambda: ControlGuide(not_a_number), ValueError, r"'y' is NaN at \(3,\).*handlers.mask"),
        (lambda: AutoFractionalSDE(some_rows), NotImplementedError, "'t' takes 2 of 10 rows"),
        (lambda: AutoFractionalSDE(unobserved), ValueError, "No site is observed"),
        (lambda: encoded(unobserved), ValueError, "No site is observed"),
        (lambda: encoded(two_sites), ValueError, r"\['y', 'v'\].*encoder_site"),
        (lambda: encoded(two_sites, encoder_site="w"), ValueError, "'w'"),
        (lambda: AutoFractionalSDE(no_path, sites="exact"), ValueError, "got 'exact'"),
        (lambda: AutoFractionalSDE(no_path, relinearise=-1), ValueError, "got -1"),
        (lambda: AutoFractionalSDE(no_path, residual=0), ValueError, "got 0"),
        (lambda: AutoFractionalSDE(no_path, encoder_site="y"), ValueError, "there is no encoder"),
        (lambda: ControlGuide(no_path), ValueError, "has no fractional_sde"),
        (lambda: ControlGuide(no_path, width=0), ValueError, "width .* got 0"),
        (lambda: ControlGuide(no_path, initial="zero"), ValueError, "got 'zero'"),
        (lambda: ControlGuide(no_path, encoder_site="y"), ValueError, "there is no encoder"),
    ],
)  # fmt: skip
def test_fractional_guide_bad_input_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        called(make())


@pytest.mark.nightly
def test_fractional_guide_bad_input_one_of_two_sites_can_be_named():
    """Its data are what the guide goes to: 0, or 3 with noise of sd 1."""
    ends = [
        set_up(encoded(two_sites, encoder_site=site)).sample_posterior(
            random.key(0), {}, sample_shape=(200,)
        )["x"]
        for site in ("y", "v")
    ]
    assert abs(ends[0][:, -1].mean()) < 0.3
    assert ends[1][:, -1].mean() > 1.5


def test_fractional_guide_bad_input_sequences_that_do_not_factorise_have_learnt_sites():
    def model():
        x = path()
        numpyro.sample("y", dist.Normal(jnp.cumsum(x)[1:], SD), obs=Y)

    guide = AutoFractionalSDE(model)
    with pytest.warns(UserWarning, match="does not factorise over times"):
        called(guide)
    assert guide._kind == "learnt"


def test_fractional_guide_bad_input_learnt_sites_know_their_times():
    def model(ts, y):
        seen(path(ts=ts, coefficients=coefficients(2.0, 20)), y=y)

    guide = set_up(AutoFractionalSDE(model, sites="learnt"), TS, Y)
    with pytest.raises(ValueError, match=r"11 ts, and is called with 21. Use extend_noise"):
        called(guide, np.linspace(0, 2, 21), jnp.zeros(20))


def test_fractional_guide_bad_input_data_that_are_gone_are_missed():
    """A factor is an observed site too: that some site is observed says nothing of the data."""

    def model(y=None):
        x = path()
        numpyro.factor("other", -(x[3] ** 2))
        seen(x, y=y)

    guide = set_up(AutoFractionalSDE(model), Y)
    with pytest.raises(ValueError, match=r"'y' was observed when the guide was made.*Pass them"):
        guide.sample_posterior(random.key(0), {})


def test_fractional_guide_bad_input_other_times_without_coefficients_are_said_once():
    def model(ts, y):
        seen(fractional_sde("x", nothing, unit, ts, 0.3), y=y)

    guide = set_up(AutoFractionalSDE(model), TS, Y)
    with pytest.warns(UserWarning, match="Pass coefficients=fractional_coefficients"):
        called(guide, TS * 2, Y)


def test_fractional_guide_bad_input_traced_data_are_refused_with_the_way_out():
    def model(y):
        seen(path(), y=y)

    with pytest.raises(TypeError, match="once outside of jit"):
        jax.jit(lambda y: set_up(AutoFractionalSDE(model), y)(y)["x_noise"])(Y)


@pytest.mark.parametrize(
    "make",
    [
        AutoFractionalSDE,
        lambda model: AutoFractionalSDE(model, sites="learnt"),
        lambda model: AutoFractionalSDE(model, encoder=read_nothing),
        ControlGuide,
    ],
    ids=["auto", "learnt", "encoder", "control"],
)
def test_fractional_guide_bad_input_a_first_call_under_jit_is_refused_and_leaves_nothing(make):
    """The key is traced too, and with it the networks and the sites that the guide would keep."""

    def model(y):
        seen(path(), y=y)

    guide = make(model)
    svi = SVI(model, guide, optax.adam(0.01), Trace_ELBO())
    with pytest.raises(TypeError, match="once outside of jit"):
        jax.jit(svi.init)(random.key(0), Y)
    assert guide._name is None
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(vars(guide)))


def test_fractional_guide_bad_input_h_out_of_range_and_infinite_paths_are_counted():
    def model(y):
        H = numpyro.sample("H", dist.Uniform(0.5, 0.99))
        x = fractional_sde("x", lambda t, x: jnp.where(x < -0.05, jnp.nan, -x), unit, TS, H, coefficients=C)
        seen(x, y=y)

    guide = set_up(AutoFractionalSDE(model), Y)
    params = {"auto_loc": jnp.array([6.0]), "auto_scale_tril": 0.1 * jnp.eye(1)}  # H near .99
    found = guide.diagnostics(random.key(0), params, Y, num_samples=64)
    assert found.num_clipped == 64
    assert found.num_nonfinite > 0
    assert "use hurst_prior" in str(found)
    assert "not finite" in str(found)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (FractionalDiagnostics(-61.1, 0.9, -52.49, 0.33, 1.0, 300, 0, 0), ["particle_ess 1 of 300 draws"]),
        (FractionalDiagnostics(-61.1, 0.9, -52.49, 0.33, 80.0, 4000, 0, 0), ["particle_ess 80 of 4000 draws"]),
        (FractionalDiagnostics(-12.1, 1.3, -11.4, 0.2, 200.0, 1000, 0, 0), ["elbo_sd 1.3"]),
        (FractionalDiagnostics(-2.1, 0.3, -2.0, np.nan, 38.0, 40, 0, 0), ["pareto_k is NaN"]),
        (FractionalDiagnostics(-2.1, 0.3, -2.0, 0.1, 90.0, 100, 2, 0), ["elbo and elbo_sd are of the others"]),
        (
            FractionalDiagnostics(-99.0, 30.0, -9.0, 0.9, 1.2, 1000, 0, 0),
            ["pareto_k 0.9: do not trust", "particle_ess 1.2", "elbo_sd 30"],
        ),
        (FractionalDiagnostics(-2.1, 0.3, -2.0, 0.1, 950.0, 1000, 0, 0), []),
        (FractionalDiagnostics(-2.1, 0.3, -2.0, 0.1, 38.0, 40, 0, 0), []),
    ],
    ids=["useless", "small share", "wide", "nan", "not finite", "all", "good", "good and few"],
)  # fmt: skip
def test_fractional_guide_bad_input_a_useless_guide_is_named_whatever_its_pareto_k(found, words):
    assert len(found.advice) == len(words)
    for advice, word in zip(found.advice, words, strict=True):
        assert word in advice
