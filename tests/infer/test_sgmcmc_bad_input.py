"""T12 and section 8 of SG-MCMC: what cannot be meant is refused, by name, value and way out."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from jax import random
from numpyro.contrib.module import random_nnx_module
from numpyro.infer import MCMC, Gibbs, init_to_value

from emberwalk.infer import SGMCMC, HostRows, control_variates
from emberwalk.kernels.sgmcmc import baoab, cyclical, psgld, sghmc, sgld
from tests.infer.sgmcmc_models import mean_model, streamed_mean_model

Y = jnp.arange(20.0)


def start(kernel, *args, num_warmup=1, **kwargs):
    return kernel.init(random.key(0), num_warmup, None, model_args=args, model_kwargs=kwargs)


def latent_in_plate(y, b=5):
    with numpyro.plate("rows", len(y), subsample_size=b):
        m = numpyro.sample("local", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, event_dim=0))


def discrete(y):
    k = numpyro.sample("kind", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def network_with(layer):
    """A model with a network of flax whose last layer keeps a state."""
    net = nnx.Sequential(nnx.Linear(1, 3, rngs=nnx.Rngs(0)), layer(rngs=nnx.Rngs(0)))

    def model(y):
        out = random_nnx_module("net", net, dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y), subsample_size=5):
            rows = numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", dist.Normal(out(rows[:, None]).sum(-1), 1.0), obs=rows)

    return model


def prior_alone(law):
    def model(y):
        numpyro.sample("shape", law)

    return model


def on(model, **options):
    return SGMCMC(model, sgld(1e-3), **options)


def rows(y=np.arange(20.0), **options):  # noqa: B008
    return HostRows({"y": y}, plate="rows", **{"batch_size": 5, **options})


MODEL = mean_model
CASES = {
    "temperature of zero": (
        lambda: on(MODEL, temperature=0.0),
        "temperature .* 0.0; T = 0 is optimisation: use DeepEnsemble",
    ),
    "temperature not finite": (
        lambda: on(MODEL, temperature=float("nan")),
        "temperature must be positive and finite, got nan",
    ),
    "temperature schedule": (
        lambda: on(MODEL, temperature=optax.linear_schedule(1.0, -1.0, 100)),
        "temperature must be positive and finite, got .* at count 100",
    ),
    "step size schedule": (lambda: SGMCMC(MODEL, sgld(lambda k: 1.0 - k)), "step_size .* got 0.0 at count 1"),
    "step size of zero": (lambda: SGMCMC(MODEL, sgld(0.0)), "step_size must be positive and finite, got 0.0"),
    "friction of zero": (lambda: SGMCMC(MODEL, baoab(0.1, 0.0)), "friction must be positive"),
    "friction too large": (
        lambda: SGMCMC(MODEL, sghmc(0.5, 4.0)),
        r"friction \* step_size must be below 1 for sghmc, got 2",
    ),
    "tempering": (
        lambda: on(MODEL, tempering="both"),
        "tempering must be one of .*'posterior', 'likelihood'.* got 'both'",
    ),
    "factors": (lambda: on(MODEL, factors="none"), "factors must be one of"),
    "gradient": (lambda: on(MODEL, gradient="full"), "gradient must be 'minibatch' or control_variates"),
    "batching": (lambda: on(MODEL, batching="shuffled"), "batching must be one of"),
    "warmup": (lambda: on(MODEL, warmup="long"), "warmup must be one of"),
    "mass": (
        lambda: SGMCMC(MODEL, baoab(0.1, 1.0, mass="full")),
        "mass must be one of .*'layerwise'.* got 'full'",
    ),
    "course of a cycle": (
        lambda: cyclical(sgld(0.1), 10, temperature="cosine"),
        "temperature of a cycle must be one of",
    ),
    "steps per sample": (
        lambda: on(MODEL, steps_per_sample=0),
        "steps_per_sample must be a whole number from 1 on, got 0",
    ),
    "noise batches": (
        lambda: on(MODEL, noise_batches=1),
        "noise_batches must be a whole number from 2 on, got 1",
    ),
    "latent in a plate": (
        lambda: start(on(latent_in_plate), Y),
        "'local' lies in the subsampled plate 'rows'",
    ),
    "discrete latent": (lambda: start(on(discrete), Y), "'kind' is discrete.*DiscreteGibbs"),
    "BatchNorm": (
        lambda: start(on(network_with(partial(nnx.BatchNorm, 3))), Y),
        r"'net\$state'.*BatchNorm, Dropout",
    ),
    "Dropout": (
        lambda: start(on(network_with(partial(nnx.Dropout, 0.5))), Y),
        r"'net\$state'.*BatchNorm, Dropout",
    ),
    "improper prior": (
        lambda: start(on(prior_alone(dist.Gamma(0.5, 1.0)), temperature=0.1), Y),
        "prior of 'shape', Gamma with 0.5, is improper.*no observed site depends on it",
    ),
    "improper beta": (
        lambda: start(on(prior_alone(dist.Beta(2.0, 0.5)), temperature=0.1), Y),
        "'shape', Beta with 0.5",
    ),
    "improper dirichlet": (
        lambda: start(on(prior_alone(dist.Dirichlet(jnp.array([0.5, 2.0]))), temperature=0.1), Y),
        "'shape', Dirichlet with 0.5",
    ),
    "improper student": (
        lambda: start(on(prior_alone(dist.StudentT(2.0)), temperature=4.0), Y),
        "'shape', StudentT with 2.*df > T - 1 = 3",
    ),
    "control variates on all rows": (
        lambda: start(on(MODEL, gradient=control_variates({"m": 0.0})), Y, b=20),
        "need a plate with subsample_size",
    ),
    "cycles with steps": (
        lambda: SGMCMC(MODEL, cyclical(sgld(0.1), 10), steps_per_sample=2),
        "steps_per_sample=2",
    ),
    "cycles with warmup": (lambda: SGMCMC(MODEL, cyclical(sgld(0.1), 10), warmup="ramp"), "warmup='ramp'"),
    "linear cycles": (
        lambda: cyclical(sgld(0.1), 10, temperature="linear", draws_per_cycle=2),
        'temperature="linear" keeps one draw',
    ),
    "center without a site": (
        lambda: start(on(MODEL, gradient=control_variates({"x": 0.0})), Y),
        r"center must have a value .*\['m'\], got \['x'\]",
    ),
    "center of another shape": (
        lambda: start(on(MODEL, gradient=control_variates({"m": jnp.zeros(2)})), Y),
        r"center\['m'\] must have the shape \(\)",
    ),
    "center outside the support": (
        lambda: start(on(positive, gradient=control_variates({"s": -1.0})), Y),
        r"center\['s'\] must be a constrained value",
    ),
    "warm-up that finds a center otherwise": (
        lambda: on(MODEL, gradient=control_variates(), warmup="full"),
        "finds its center in a warm-up of 'descent'",
    ),
    "no warm-up to find a center": (
        lambda: start(on(MODEL, gradient=control_variates()), Y, num_warmup=0),
        "num_warmup is 0: give a center, or warm up",
    ),
    "too short a warm-up to find a center": (
        lambda: start(on(MODEL, gradient=control_variates()), Y, num_warmup=7),
        r"num_warmup is 7: give a center, or warm up for some hundred draws \(at least 8\)",
    ),
    "center in cycles": (
        lambda: SGMCMC(MODEL, cyclical(sgld(0.1), 10), gradient=control_variates()),
        "the warm-up of cyclical is of whole cycles: give a center",
    ),
    "no cycle": (
        lambda: cyclical(sgld(0.1), 0),
        "cycle_length must be a whole number of steps from 1 on, got 0",
    ),
    "broken cycle": (lambda: cyclical(sgld(0.1), 20.5), r"cycle_length must be .*, got 20\.5"),
    "power of a preconditioner": (
        lambda: psgld(0.1, power=-1.0),
        r"power above 0 and at most 1, got 1e-07 and -1\.0",
    ),
    "rows of two lengths": (
        lambda: HostRows({"X": np.ones((3, 2)), "y": np.ones(4)}, plate="rows", batch_size=2),
        "{'X': 3, 'y': 4}",
    ),
    "batch larger than the rows": (
        lambda: rows(batch_size=21),
        "batch_size must be from 1 to the 20 rows, got 21",
    ),
    "order of rows": (lambda: rows(order="sorted"), "order must be one of"),
    "block of rows": (
        lambda: rows(order="blocks", block_size=3),
        "block_size must divide batch_size = 5, got 3",
    ),
    "epoch of blocks": (
        lambda: start(on(streamed_mean_model, data=rows(order="blocks"), batching="epoch"), n=20),
        "goes through single rows",
    ),
    "plate missing": (
        lambda: start(
            on(streamed_mean_model, data=HostRows({"y": np.arange(20.0)}, plate="data", batch_size=5)), n=20
        ),
        "{'data': .20, 5.}, but the subsampled plates of the model are {'rows': .20, 5.}",
    ),
    "plate of another size": (
        lambda: start(on(streamed_mean_model, data=rows()), n=30),
        "model are {'rows': .30, 5.}",
    ),
    "array given twice": (
        lambda: start(on(streamed_mean_model, data=rows()), n=20, y=Y),
        r"passes \['y'\] to the model: leave them out of run",
    ),
    "block of Gibbs with data": (
        lambda: Gibbs([(on(streamed_mean_model, data=rows()), ["m"])]),
        "A block of Gibbs sees all data at once",
    ),
}


def positive(y, b=5):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(y), subsample_size=b):
        numpyro.sample("y", dist.Normal(0.0, s), obs=numpyro.subsample(y, event_dim=0))


@pytest.mark.parametrize("case", CASES)
def test_sgmcmc_bad_input_is_refused_by_name(case):
    do, words = CASES[case]
    with pytest.raises(ValueError, match=f"(?s){words}"):
        do()


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda: SGMCMC(MODEL, "sgld"), "algorithm must be one of emberwalk.kernels.sgmcmc, got str"),
        (lambda: on(MODEL, data=np.zeros(3)), "data must be a HostRows, got ndarray"),
        (lambda: on("model"), "model must be callable"),
    ],
)
def test_sgmcmc_bad_input_of_another_type(do, words):
    with pytest.raises(TypeError, match=words):
        do()


def test_sgmcmc_bad_input_improper_prior_that_the_data_may_bound_warns():
    def model(y):
        tau = numpyro.sample("tau", dist.Gamma(0.5, 1.0))
        numpyro.sample("y", dist.Normal(0.0, tau**-0.5), obs=y)

    with pytest.warns(
        UserWarning, match="prior of 'tau', Gamma with 0.5, is improper.*or make sure that the data bound it"
    ):
        start(on(model, temperature=0.1), Y)


def test_sgmcmc_bad_input_deterministic_sites_are_named_once():
    def model(y):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        numpyro.deterministic("double", 2 * m)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def samples(**options):
        mcmc = MCMC(on(model, **options), num_warmup=1, num_samples=3, progress_bar=False)
        mcmc.run(random.key(0), Y)
        return mcmc.get_samples()

    with pytest.warns(UserWarning, match=r"\['double'\] are not collected.*use predict") as seen:
        assert set(samples()) == {"m"}
    assert len(seen) == 1
    kept = samples(keep_deterministic=True)
    np.testing.assert_allclose(kept["double"], 2 * kept["m"])


def test_sgmcmc_support_that_depends_on_another_site_is_constrained_by_its_own_draw():
    def model():
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        numpyro.sample("u", dist.Uniform(0.0, a))

    mcmc = MCMC(SGMCMC(model, baoab(0.1, 1.0)), num_warmup=10, num_samples=200, progress_bar=False)
    mcmc.run(random.key(0))
    draws = mcmc.get_samples()
    assert ((draws["u"] > 0) & (draws["u"] < draws["a"])).all()


def beside_nan():
    """A density whose gradient is NaN where q > 3."""
    q = numpyro.sample("q", dist.Normal(2.0, 1.0))
    numpyro.factor("wall", jnp.where(q > 3, jnp.nan, 0.0) * q)


@pytest.mark.parametrize("algorithm", [sgld(0.2), baoab(0.5, 1.0)], ids=["sgld", "baoab"])
def test_sgmcmc_nan_never_reaches_a_draw(algorithm):
    """Refused, counted and flagged; no draw lies where the density is NaN, and the chain goes on."""
    kernel = SGMCMC(beside_nan, algorithm, init_strategy=init_to_value(values={"q": 2.0}))
    mcmc = MCMC(kernel, num_warmup=10, num_samples=500, progress_bar=False)
    mcmc.run(random.key(0))
    q, fields = np.asarray(mcmc.get_samples()["q"]), mcmc.get_extra_fields()
    assert np.isfinite(q).all()
    assert q.max() <= 3
    assert len(np.unique(q)) > 200
    assert fields["num_nonfinite"][-1] > 0
    assert fields["diverging"].any()
    refused = np.flatnonzero(np.asarray(fields["diverging"]))
    refused = refused[refused > 0]
    np.testing.assert_array_equal(q[refused], q[refused - 1])
