"""What `zero_shot` says does not depend on the names of states, the unit of time, or the order of paths."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from emberwalk.infer import RatePrior, zero_shot
from emberwalk.kernels.jump import Slab
from tests.infer.jump.front_end import CLEAN, NOISY, TIMES, clean

pytestmark = pytest.mark.xdist_group("jump-equivariance")  # what is fitted once serves all

ORDER = np.array([2, 0, 1])  # the new name of each state
BACK = np.argsort(ORDER)
DATA = {"clean": (CLEAN, 0.0), "noisy": (NOISY, "infer")}
MATRICES = ("mean", "sd", "presence")


@pytest.fixture(scope="module", params=DATA)
def case(request):
    labels, noise = DATA[request.param]
    with jax.enable_x64(True):
        return labels, noise, zero_shot(TIMES, labels, label_noise=noise)


def renamed(matrix):
    return np.asarray(matrix)[np.ix_(BACK, BACK)]


def test_jump_equivariance_of_zero_shot_under_new_names(case, x64):
    labels, noise, plain = case
    found = zero_shot(TIMES, ORDER[labels], label_noise=noise)
    for name in MATRICES:
        npt.assert_allclose(getattr(found, name), renamed(getattr(plain, name)), rtol=1e-5, atol=1e-7)
    for p in (0.05, 0.9):
        npt.assert_allclose(found.quantile(p), renamed(plain.quantile(p)), rtol=1e-5, atol=1e-7)
    npt.assert_allclose(found.initial, np.asarray(plain.initial)[BACK], rtol=1e-5)
    npt.assert_allclose(found.label_noise, plain.label_noise, rtol=1e-5, atol=1e-9)
    assert float(found.log_evidence) == pytest.approx(float(plain.log_evidence), rel=1e-5)


def test_jump_equivariance_of_zero_shot_under_another_unit_of_time(case, x64):
    labels, noise, plain = case
    found = zero_shot(1000 * TIMES, labels, label_noise=noise)
    for name in ("mean", "sd"):
        npt.assert_allclose(
            1000 * np.asarray(getattr(found, name)), getattr(plain, name), rtol=1e-5, atol=1e-7
        )
    npt.assert_allclose(1000 * np.asarray(found.quantile(0.9)), plain.quantile(0.9), rtol=1e-5, atol=1e-7)
    npt.assert_allclose(found.presence, plain.presence, rtol=1e-5, atol=1e-9)
    npt.assert_allclose(found.label_noise, plain.label_noise, rtol=1e-5, atol=1e-9)


def test_jump_equivariance_of_zero_shot_under_the_order_of_paths(case, x64):
    labels, noise, plain = case
    found = zero_shot(TIMES, labels[::-1], label_noise=noise)
    for name in MATRICES:
        npt.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-6, atol=1e-9)


def test_jump_equivariance_of_zero_shot_in_float32_where_nothing_is_iterated_to_the_last_digit():
    plain = clean()
    found, slow = (
        zero_shot(TIMES, ORDER[CLEAN], label_noise=0.0),
        zero_shot(1000 * TIMES, CLEAN, label_noise=0.0),
    )
    npt.assert_allclose(found.mean, renamed(plain.mean), rtol=1e-4, atol=1e-5)
    npt.assert_allclose(1000 * np.asarray(slow.mean), plain.mean, rtol=1e-4, atol=1e-5)


class AbsolutePrior(RatePrior):
    """Planted: a scale in absolute units."""

    def slab(self, change_rate, num_states):
        return Slab(self.shape, jnp.asarray(2.0), jnp.asarray(1e-3))


def test_jump_equivariance_planted_absolute_scale_is_caught():
    prior = AbsolutePrior()
    plain, slow = (zero_shot(t * TIMES, CLEAN, label_noise=0.0, prior=prior) for t in (1, 1000))
    assert np.abs(1000 * np.asarray(slow.mean) / np.asarray(plain.mean + np.eye(3)) - 1).max() > 1e-2
