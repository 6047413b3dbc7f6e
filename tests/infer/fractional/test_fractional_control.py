"""`ControlGuide` against the floor that no control passes; `AutoFractionalSDE` is below it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.infer import AutoFractionalSDE, ControlGuide
from emberwalk.kernels.fractional import control_floor
from tests.infer.fractional.guided import bridge, exact_gp, fbm_prior, linear_bridge, log_weights, set_up


def gap(model, guide, params, exact, *args, num=2000):
    """Evidence minus ELBO, and its error."""
    found = np.asarray(log_weights(model, guide, params)(random.split(random.key(5), num), *args), float)
    return exact - found.mean(), found.std() / np.sqrt(num)


@pytest.mark.parametrize("initial", ["learnt", pytest.param("prior", marks=pytest.mark.nightly)])
def test_fractional_control_evidence_falls_to_its_floor_and_not_below(initial):
    at, num = np.array([25, 50]), 50
    model, y = bridge(num, at), jnp.zeros(2)
    guide = ControlGuide(model, width=32, initial=initial)
    svi = SVI(model, guide, optax.adam(0.01), Trace_ELBO(num_particles=8))
    params = svi.run(random.key(0), 300, 0.3, y, progress_bar=False).params
    exact = exact_gp(fbm_prior(np.linspace(0, 1, num + 1), 0.3), at, np.zeros(2))[0]
    floor = control_floor(*linear_bridge(model, 0.3, y))
    bound = float(floor.path + floor.initial) if initial == "prior" else float(floor.path)
    found, error = gap(model, guide, params, exact, 0.3, y)
    assert found > bound - 4.5 * error - 0.02  # the bank is not exact: .02 nats of it
    untrained = set_up(ControlGuide(model, width=32, initial=initial), 0.3, y)
    first = svi.get_params(svi.init(random.key(0), 0.3, y))
    assert found < gap(model, untrained, first, exact, 0.3, y)[0] / 4
    ours, _ = gap(model, set_up(AutoFractionalSDE(model), 0.3, y), {}, exact, 0.3, y, num=10)
    assert abs(ours) < 0.05 < bound


def test_fractional_control_reads_the_data_by_its_encoder():
    """Without a network of the data one guide cannot serve two of them."""
    at = np.arange(1, 21)
    model = bridge(20, at)

    def encoder(y, mask, ts):
        return jnp.stack([y, mask * 1.0], -1)

    guide = set_up(ControlGuide(model, encoder=encoder, width=8), 0.3, jnp.sin(at / 3.0))
    y = jnp.sin(at / 3.0)
    svi = SVI(model, guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(0), 0.3, y))
    # the last layer begins as 0, and with it all that the encoder says
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    one, other = (guide.sample_posterior(random.key(1), params, 0.3, data)["x"] for data in (y, -y))
    assert np.abs(np.asarray(one - other)).max() > 0.1
