"""Initial sites, Markov orders and clocks are read off the model, never off names."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from emberwalk.infer.smc import dataflow
from emberwalk.infer.smc.structure import check_path_move, possible_path_move
from tests.infer.smc_lowering import Y, chain, find, observe, phi_and_x0, plain, sample_x


def lags(phi, carry, y_t):
    x = sample_x(phi * carry[0] + 0.1 * carry[1])
    observe(x, y_t)
    return x, carry[0]


def clock(phi, carry, y_t):
    x, t = carry
    x = sample_x(phi * x + 0.1 * t)
    observe(x, y_t)
    return x, t + 1


def running_sum(phi, carry, y_t):
    x, total = carry
    x = sample_x(phi * x)
    total = total + x
    observe(total, y_t)
    return x, total


def packed_lags(phi, carry, y_t):
    x = sample_x(phi * carry[0] + 0.1 * carry[1])
    observe(x, y_t)
    return jnp.stack([x, carry[0]])


def non_centred(phi, x, y_t):
    x = phi * x + numpyro.sample("e", dist.Normal(0.0, 1.0))
    observe(x, y_t)
    return x


def forgetful(phi, carry, y_t):
    x = sample_x(phi)
    observe(x, y_t)
    return ()


def swapped_lags(phi, carry, y_t):
    before, last, _ = carry
    x = sample_x(phi * last + 0.1 * before)
    observe(x, y_t)
    return last, x, before


# model, Markov order, which leaves are stochastic, which are never forgotten
ORDERS = {
    "LGSSM": (plain, 1, (True,), ()),
    "AR(2), a leaf a lag": (chain(lags, lambda x0: (x0, x0)), 2, (True, True), ()),
    "deterministic counter": (chain(clock, lambda x0: (x0, 0)), 1, (True, False), ()),
    "running sum": (chain(running_sum, lambda x0: (x0, 0.0)), None, (True, True), ("carry[1]",)),
    "lags packed in one array": (chain(packed_lags, lambda x0: jnp.stack([x0, x0])), None, (True,), ("carry",)),
    "non-centred": (chain(non_centred), None, (True,), ("carry",)),
    "nothing carried": (chain(forgetful, lambda x0: ()), 1, (), ()),
    "three lags, shuffled": (chain(swapped_lags, lambda x0: (x0, x0, x0)), 3, (True, True, True), ()),
}  # fmt: skip


@pytest.mark.parametrize(("model", "order", "stochastic", "never_forgotten"), ORDERS.values(), ids=ORDERS)
def test_smc_markov_order_is_that_of_the_carry(model, order, stochastic, never_forgotten):
    found = find(model, Y)
    assert (found.order, found.stochastic, found.never_forgotten) == (order, stochastic, never_forgotten)


@pytest.mark.parametrize("name", ["running sum", "lags packed in one array", "non-centred"])
def test_smc_path_without_an_order_is_traced_with_a_warning_that_names_the_leaf(name):
    model, _, _, (leaf,) = ORDERS[name]
    with pytest.warns(
        UserWarning, match=rf"path_move='trace'.* {leaf.replace('[', r'\[')} never forgets.*centred"
    ):
        assert check_path_move(find(model, Y), "backward") == "trace"


def test_smc_path_that_is_traced_anyway_gives_no_warning():
    assert check_path_move(find(ORDERS["running sum"][0], Y), "trace") == "trace"


def test_smc_order_above_8_is_traced_with_a_warning():
    def nine_lags(phi, carry, y_t):
        x = sample_x(phi * carry[-1])
        observe(x, y_t)
        return (x, *carry[:-1])

    found = find(chain(nine_lags, lambda x0: (x0,) * 9), Y)
    assert found.order == 9
    with pytest.warns(UserWarning, match="Markov order is 9, more than 8"):
        assert check_path_move(found, "backward") == "trace"
    assert possible_path_move(found, "backward") == "trace"  # what `diagnose` looks at


def test_smc_dataflow_has_jax_internals_that_mean_what_it_takes_them_for():
    # dce_jaxpr(jaxpr, used_outputs) -> (jaxpr, used_inputs): semi-internal to JAX
    assert dataflow.dce_jaxpr.__module__ == "jax._src.interpreters.partial_eval"
    closed = jax.make_jaxpr(lambda a, b, c: (a + b, c, 3.0 * b))(1.0, 2.0, 3.0)
    used = [dataflow.dce_jaxpr(closed.jaxpr, [i == j for j in range(3)])[1] for i in range(3)]
    assert used == [[True, True, False], [False, False, True], [False, True, False]]


def test_smc_dependence_goes_through_loops_and_branches():
    def everything(a, b, c, d):
        looped, _ = jax.lax.scan(lambda carry, x: ((carry[0] + x, carry[1]), None), (a, b), c)
        return {"looped": looped[0], "untouched": looped[1], "branch": jnp.where(b > 0, d, a)}

    matrix, shapes, columns = dataflow.dependence(everything, 1.0, 2.0, jnp.ones(3), 4.0)
    rows = dataflow.rows_of(shapes)
    assert columns == (0, 1, 2, 3)
    assert matrix[rows["untouched"]].tolist() == [False, True, False, False]
    assert matrix[rows["branch"]].tolist() == [True, True, False, True]
    assert matrix[rows["looped"]][[0, 2]].all()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_smc_markov_order_is_the_nilpotency_index(size):
    lags = np.eye(size, k=-1, dtype=bool)
    everything = np.ones(size, bool)
    assert dataflow.markov_order(lags, everything) == size
    assert dataflow.markov_order(lags | np.eye(size, dtype=bool), everything) is None
    assert dataflow.markov_order(np.zeros((size, size), bool), everything) == 1


def test_smc_leaf_fed_by_a_stochastic_leaf_is_stochastic():
    carry_on_carry = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    assert dataflow.stochastic_leaves(carry_on_carry, np.array([True, False, False])).tolist() == [1, 1, 0]


def two_starts(y):
    """The start is a mean and a deviation, and one of the two is used by every step as well."""
    level = numpyro.sample("level", dist.Normal(0, 1))
    spread = numpyro.sample("spread", dist.HalfNormal(1))
    deviation = numpyro.sample("deviation", dist.Normal(0, 1))
    unrelated = numpyro.sample("unrelated", dist.Normal(0, 1))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(level + 0.5 * (x - level), 1.0))
        numpyro.sample("y", dist.Normal(x, jnp.exp(unrelated)), obs=y_t)
        return x, None

    scan(step, level + spread * deviation, y)


def test_smc_init_sites_are_what_only_the_first_carry_depends_on():
    assert find(plain, Y).init_sites == ("x0",)
    assert find(two_starts, Y).init_sites == ("spread", "deviation")
    assert find(two_starts, Y).sites == ("spread", "deviation", "x")


def test_smc_start_that_every_step_uses_is_a_parameter():
    def model(y):
        phi, x0 = phi_and_x0()
        scan(lambda x, y_t: (observe(x := sample_x(phi * x + x0), y_t), (x, None))[1], x0, y)

    assert find(model, Y).init_sites == ()


def test_smc_site_that_a_later_step_alone_uses_is_a_parameter():
    def model(y):
        phi, x0 = phi_and_x0()
        times = jnp.arange(y.shape[0])

        def step(x, inputs):
            y_t, t = inputs
            x = sample_x(phi * x + jnp.where(t == 3, x0, 0.0))
            observe(x, y_t)
            return x, None

        scan(step, x0, (y, times))

    assert find(model, Y).init_sites == ()


def test_smc_start_reached_through_the_inputs_of_the_scan_is_a_parameter():
    def model(y):
        phi, x0 = phi_and_x0()

        def step(x, inputs):
            y_t, u = inputs
            x = sample_x(phi * x + u)
            observe(x, y_t)
            return x, None

        scan(step, x0, (y, x0 * jnp.ones_like(y)))

    assert find(model, Y).init_sites == ()


def test_smc_init_sites_override_the_dataflow():
    assert find(two_starts, Y, init_sites=("deviation",)).sites == ("deviation", "x")
    assert find(plain, Y, init_sites=()).sites == ("x",)


def test_smc_parameter_in_the_carry_is_warned_of_and_named_away():
    def model(y):
        phi, x0 = phi_and_x0()

        def step(carry, y_t):
            x, phi = carry
            x = sample_x(phi * x)
            observe(x, y_t)
            return (x, phi), None

        scan(step, (x0, phi), y)

    with pytest.warns(
        UserWarning,
        match="Site 'phi' is passed through the carry.*close over it .PPG and ParticleGibbs also take init_sites=",
    ):
        assert find(model, Y).order is None
    found = find(model, Y, init_sites=("x0",))
    assert (found.order, found.stochastic, found.sites) == (1, (True, False), ("x0", "x"))
