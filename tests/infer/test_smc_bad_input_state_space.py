"""What a `StateSpace` and its emissions cannot be is refused with the site and the line to write."""

from functools import partial

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from emberwalk.models import StateSpace, emission
from tests.infer.smc_lowering import Y, find
from tests.infer.test_smc_bad_input import NORMAL, states


def observed_without_emission(y):
    numpyro.sample("y", dist.Normal(states(y), 1.0), obs=y)


def factor_on_the_path(y):
    x = states(y)
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)
    numpyro.factor("tight", -(x**2).sum())


def emission_of_the_whole_path(y):
    x = states(y)
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x.mean(), 1.0), x), obs=y)


def emission_never_observed(y):
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), states(y)))


def emission_of_some_states(y):
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), states(y)[1:]), obs=y[1:])


def emission_under_a_mask_of_the_path(y):
    x = states(y)
    with handlers.mask(mask=x > 0):
        numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)


def in_a(handler):
    def model(y):
        with handler:
            states(y)

    return model


E = ValueError
# what is done, the error, the words that its message must hold
BAD = {
    "start in a batch": (
        lambda: StateSpace(dist.Normal(jnp.zeros(2), 1.0), lambda prev, t: NORMAL, 4),
        E,
        r"initial must have batch shape \(\), got \(2,\).*to_event\(1\)",
    ),
    "transition of another kind": (
        lambda: StateSpace(dist.Poisson(3.0), lambda prev, t: NORMAL, 4),
        E,
        r"initial draws int\d\d and transition draws float\d\d: both must be.*Delta\(jnp.array\(0.0\)\)",
    ),
    "transition of another shape": (
        lambda: StateSpace(NORMAL, lambda prev, t: dist.Normal(jnp.zeros(2), 1.0).to_event(1), 4),
        E,
        r"transition has event shape \(2,\), but initial has \(\)",
    ),
    "transition that is no law": (
        lambda: StateSpace(NORMAL, lambda prev, t: prev, 4),
        TypeError,
        "transition.* must be a numpyro Distribution",
    ),
    "path read by a plain site": (
        partial(find, observed_without_emission, Y),
        E,
        r"Site 'y' depends on the path 'x'.*\n.*emission\(lambda x_t, t",
    ),
    "path read by a factor": (
        partial(find, factor_on_the_path, Y),
        E,
        r"Site 'tight' depends on the path 'x'",
    ),
    "emission without data": (partial(find, emission_never_observed, Y), E, "'y' .*no observed emission"),
    "emission of the whole path": (
        partial(find, emission_of_the_whole_path, Y),
        E,
        r"emission of 'y' uses the whole path 'x'.*\n.*a function of one state",
    ),
    "mask of the path around an emission": (
        partial(find, emission_under_a_mask_of_the_path, Y),
        E,
        r"mask or scale around emission 'y' depends on the path 'x'.*\n.*a function of one state",
    ),
    "emission of some states": (
        partial(find, emission_of_some_states, Y),
        E,
        "Emission 'y' has 3 times, but the path 'x' has 4 states",
    ),
    "StateSpace under a mask": (
        lambda: find(in_a(handlers.mask(mask=False)), Y),
        E,
        "StateSpace site 'x' stands in a MaskedDistribution.*Mask its emissions",
    ),
    "StateSpace in a plate": (
        lambda: find(in_a(numpyro.plate("series", 3)), Y),
        E,
        r"StateSpace site 'x' stands in a ExpandedDistribution.*\.to_event\(1\)",
    ),
    "StateSpace under a scale": (
        lambda: find(in_a(handlers.scale(scale=2.0)), Y),
        E,
        "handlers.scale stands around the latent site 'x'.*observed sites only",
    ),
}


@pytest.mark.parametrize(("do", "error", "words"), BAD.values(), ids=BAD)
def test_smc_bad_input_of_a_state_space_says_what_to_do(do, error, words):
    with pytest.raises(error, match=words):
        do()
