"""The flashing ratchet: three parameters give the rates that its paths were made with."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.kernels.jump import entropy_production, path_statistics, refine_counts
from emberwalk.models import flashing_ratchet, load_flashing_ratchet
from tests.kernels.jump.processes import ratchet, rmse


@pytest.mark.parametrize("potential", [0, 1])
def test_jump_ratchet_rates_are_those_of_the_file(potential):
    paths = load_flashing_ratchet(potential)
    npt.assert_allclose(flashing_ratchet(float(potential), 1.0, 1.0), paths.rates, atol=1e-7)
    npt.assert_allclose(np.diff(paths.times), 2.5 / 99, rtol=1e-5)
    assert paths.states.max() == 5


def test_jump_ratchet_has_three_parameters(x64):
    """Each where it belongs; with a potential it is driven, without one it is not."""
    npt.assert_allclose(flashing_ratchet(0.7, 2.0, 3.0), ratchet(0.7, 2.0, 3.0), rtol=1e-12)
    slopes = jax.jacfwd(flashing_ratchet, (0, 1, 2))(0.7, 2.0, 3.0)
    assert [int((np.abs(slope) > 0).sum()) for slope in slopes] == [6, 6, 6]
    many = jax.vmap(flashing_ratchet, (0, None, None))(jnp.array([0.0, 1.0]), 1.0, 1.0)
    npt.assert_allclose(entropy_production(many), [0, 0.179194], atol=5e-7)


def test_jump_ratchet_paths_are_paths_of_its_rates():
    """By the refinement of 300 of them: the error of chance is .09."""
    times, states, rates = load_flashing_ratchet(1)
    found = refine_counts(path_statistics(times, states[:300]))
    assert rmse(found.mean, rates) < 0.12
    assert rmse(found.mean, rates.T) > 0.3
