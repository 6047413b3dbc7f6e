"""`MarkovJumpProcess`: fixed numbers, each path of a batch against that path alone, draws against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import log_likelihood
from numpyro.infer.util import log_density

from emberwalk.kernels.jump import forward_backward, lag_grid, transition_matrices
from emberwalk.models import MarkovJumpProcess, jump
from tests.kernels.jump.processes import INITIAL3, LABELS3, Q3, TIMES3, exact_transitions, random_rates
from tests.statistics import assert_caught, assert_exact, z_scores

LEVELS, SD, CURRENT = np.array([0.0, 1.0, 3.0]), 0.5, np.array([[0.2, 2.7, 1.4, 0.9]])
FIXED = {"labels": -7.520295, "noise": -5.641921, "emission": -5.986320}
KINDS = list(FIXED)


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def precision(request):
    """Half a unit of the sixth digit, and what float32 adds to a number of size 7."""
    with jax.enable_x64(request.param):
        yield 5e-7 if request.param else 3e-6


def levels():
    return dist.Normal(jnp.asarray(LEVELS, float), SD)


def seen_as(kind):
    """How states are seen, and the value."""
    if kind == "emission":
        return {"emission": levels()}, CURRENT
    return {"label_noise": {"labels": None, "noise": 0.15}[kind]}, LABELS3


@pytest.mark.parametrize("kind", KINDS)
def test_jump_fixed_log_prob_of_a_process(kind, precision):
    options, value = seen_as(kind)
    law = MarkovJumpProcess(Q3, TIMES3[0], initial=INITIAL3, **options)
    found = law.log_prob(value)
    assert found.shape == (1,)
    assert found.dtype == jnp.result_type(float)
    assert float(found[0]) == pytest.approx(FIXED[kind], abs=precision)


# A batch of everything: two subjects, three paths of each, six points, irregular and not all seen

RNG = np.random.default_rng(11)
SUBJECTS, PATHS, LENGTH, N = 2, 3, 6, 3
RATES = np.stack([random_rates(RNG, N) for _ in range(SUBJECTS)])[:, None]
TIMES = np.cumsum(RNG.choice([0.2, 0.5, 1.3], (PATHS, LENGTH)), 1)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 0]], bool)
INITIAL = RNG.dirichlet(np.ones(N), PATHS)
NOISE = np.array([[0.1], [0.3]])
MEANS = np.sort(RNG.normal(0, 2, (SUBJECTS, 1, N)), -1)
LABELS = RNG.integers(0, N, (SUBJECTS, PATHS, LENGTH))
HIDDEN = np.where(MASK, LABELS, -7)
MEASURED = np.where(MASK, RNG.normal(0, 2, (SUBJECTS, PATHS, LENGTH)), np.nan)


def batch(kind, **options):
    """The law of all paths, and a value."""
    how = {
        "labels": {},
        "noise": {"label_noise": NOISE},
        "emission": {"emission": dist.Normal(jnp.asarray(MEANS), 0.7)},
    }[kind]
    law = MarkovJumpProcess(RATES, TIMES, initial=INITIAL, mask=MASK, **how, **options)
    return law, MEASURED if kind == "emission" else HIDDEN


def alone(kind, s, k):
    """Log-likelihood of one path, its unseen points cut out."""
    seen = MASK[k]
    how = {
        "labels": {},
        "noise": {"label_noise": float(NOISE[s, 0])},
        "emission": {"emission": dist.Normal(jnp.asarray(MEANS[s, 0]), 0.7)},
    }[kind]
    law = MarkovJumpProcess(RATES[s, 0], TIMES[k, seen], initial=INITIAL[k], **how)
    return law.log_prob((MEASURED if kind == "emission" else HIDDEN)[s, k, seen])


def one_by_one(kind):
    return np.array([[alone(kind, s, k) for k in range(PATHS)] for s in range(SUBJECTS)])


@pytest.mark.parametrize("kind", KINDS)
def test_jump_each_path_of_a_batch_is_that_path_alone(kind, x64):
    law, value = batch(kind)
    assert law.batch_shape == (SUBJECTS, PATHS)
    assert law.event_shape == (LENGTH,)
    npt.assert_allclose(law.log_prob(value), one_by_one(kind), rtol=1e-11)


def test_jump_planted_table_of_the_first_subject_for_all_is_caught(x64, monkeypatch):
    law, value = batch("noise")
    rows = law._rows

    def first_table(shape):
        found = rows(shape)
        return found._replace(index=found.index % len(law.grid.lags))

    monkeypatch.setattr(law, "_rows", first_table)
    assert np.abs(law.log_prob(value) - one_by_one("noise")).max() > 0.1


def test_jump_planted_pairs_across_unseen_points_are_caught(x64, monkeypatch):
    """Neighbours in the array instead of points seen in a row: right where everything is seen."""
    law, value = batch("labels")
    right = jump.seen_pairs

    def neighbours(labels, seen):
        pairs = right(labels, seen)
        return pairs._replace(before=np.clip(labels, 0, None)[..., :-1])

    monkeypatch.setattr(jump, "seen_pairs", neighbours)
    assert np.abs(law.log_prob(value) - one_by_one("labels")).max() > 0.01


def test_jump_right_labels_are_noise_of_zero_with_the_same_derivative(x64):
    """Two ways to one number: a sum over pairs, and the filter."""

    def total(rates, noise):
        law = MarkovJumpProcess(rates, TIMES, initial="stationary", mask=MASK, label_noise=noise)
        return law.log_prob(HIDDEN).sum()

    both = [jax.value_and_grad(total)(jnp.asarray(RATES), noise) for noise in (None, 0.0)]
    npt.assert_allclose(both[0][0], both[1][0], rtol=1e-11)
    npt.assert_allclose(both[0][1], both[1][1], atol=1e-9)
    assert np.abs(both[0][1]).max() > 0.1


def test_jump_derivatives_are_finite_where_nothing_was_seen():
    def total(means, sd):
        emission = dist.Normal(means, sd)
        law = MarkovJumpProcess(jnp.float32(RATES), TIMES, mask=MASK, emission=emission)
        return law.log_prob(jnp.float32(MEASURED)).sum()

    slopes = jax.grad(total, (0, 1))(jnp.float32(MEANS), jnp.float32(0.7))
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_jump_starts_have_three_kinds_of_law(x64):
    """Right labels: the uniform law is a constant, so that the process is conditioned on its first state."""
    found = {
        name: float(MarkovJumpProcess(Q3, TIMES3[0], initial=initial).log_prob(LABELS3[0]))
        for name, initial in {"uniform": None, "given": INITIAL3, "stationary": "stationary"}.items()
    }
    conditional = FIXED["labels"] - np.log(INITIAL3[0])
    assert found["uniform"] == pytest.approx(conditional - np.log(3), abs=5e-7)
    assert found["stationary"] == pytest.approx(conditional + np.log(12 / 35), abs=5e-7)
    assert found["given"] == pytest.approx(FIXED["labels"], abs=5e-7)


def test_jump_noise_may_be_a_matrix_or_one_for_each_path(x64):
    rho = 0.15
    matrix = np.full((3, 3), rho / 2) + (1 - 1.5 * rho) * np.eye(3)
    for noise in (matrix, np.stack([matrix] * 2), np.full(2, rho)):
        law = MarkovJumpProcess(Q3, TIMES3[0], initial=INITIAL3, label_noise=noise)
        npt.assert_allclose(law.log_prob(np.tile(LABELS3, (2, 1))), FIXED["noise"], atol=5e-7)
    skewed = np.array([[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.3, 0.1, 0.6]])
    right, transposed = (
        float(MarkovJumpProcess(Q3, TIMES3[0], initial=INITIAL3, label_noise=E).log_prob(LABELS3[0]))
        for E in (skewed, skewed.T / skewed.sum(0)[:, None])
    )
    alpha, P = INITIAL3 * skewed[:, 0], exact_transitions(Q3, np.diff(TIMES3[0]))
    for table, label in zip(P, LABELS3[0, 1:], strict=True):
        alpha = (alpha @ table) * skewed[:, label]
    assert right == pytest.approx(np.log(alpha.sum()), abs=1e-10)
    assert abs(transposed - right) > 0.1


def test_jump_emissions_may_be_vectors(x64):
    """Two currents at once: with independent ones the log densities add."""
    both = np.stack([CURRENT[0], CURRENT[0][::-1]], -1)
    law = MarkovJumpProcess(Q3, TIMES3[0], emission=levels())
    of_vector = dist.MultivariateNormal(jnp.stack([LEVELS, LEVELS], -1), SD**2 * jnp.eye(2))
    vector = MarkovJumpProcess(Q3, TIMES3[0], initial=INITIAL3, emission=of_vector)
    assert vector.event_shape == (4, 2)
    one, other = (law.log_emission(both[:, i]) for i in range(2))
    npt.assert_allclose(vector.log_emission(both), one + other, rtol=1e-10)
    assert vector.sample(random.key(0), (5,)).shape == (5, 4, 2)


def test_jump_log_emission_is_what_smoothers_take(x64):
    law = MarkovJumpProcess(Q3, TIMES3[0], initial=INITIAL3, emission=levels())
    P = transition_matrices(jnp.asarray(Q3), law.grid.lags)
    known = forward_backward(law.log_emission(CURRENT), P, law.grid.index[None], law.initial_law)
    npt.assert_allclose(known.log_likelihood, FIXED["emission"], atol=5e-7)


# As a NumPyro distribution


def test_jump_plates_masks_and_events_work():
    def model(value):
        with numpyro.plate("subjects", SUBJECTS, dim=-2), numpyro.plate("paths", PATHS, dim=-1):
            numpyro.sample("y", MarkovJumpProcess(RATES, TIMES[0]), obs=value)

    law, labels = MarkovJumpProcess(RATES, TIMES[0]), LABELS
    each = law.log_prob(labels)
    assert law.batch_shape == (SUBJECTS, 1)
    npt.assert_allclose(log_density(model, (labels,), {}, {})[0], each.sum(), rtol=1e-6)
    wide = law.expand((4, SUBJECTS, PATHS))
    npt.assert_allclose(wide.log_prob(labels), np.broadcast_to(each, (4, SUBJECTS, PATHS)), rtol=1e-6)
    together = law.expand((SUBJECTS, PATHS)).to_event(1)
    assert (together.batch_shape, together.event_shape) == ((SUBJECTS,), (PATHS, LENGTH))
    npt.assert_allclose(together.log_prob(labels), each.sum(1), rtol=1e-6)
    some = np.array([True, False, True])
    npt.assert_allclose(law.mask(some).log_prob(labels), np.where(some, each, 0), rtol=1e-6)
    assert wide.sample(random.key(0), (5,)).shape == (5, 4, SUBJECTS, PATHS, LENGTH)


@pytest.mark.parametrize("kind", KINDS)
def test_jump_laws_are_trees(kind):
    """Through jit and back, and as the output of a vmap."""
    law, value = batch(kind)
    through = jax.jit(lambda law: law)(law)
    assert (through.batch_shape, through.event_shape) == (law.batch_shape, law.event_shape)
    found = jax.jit(lambda law, value: law.log_prob(value))(law, value)
    npt.assert_allclose(found, law.log_prob(value), rtol=1e-5)
    npt.assert_allclose(through.log_prob(value), found, rtol=1e-5)
    many = jax.vmap(lambda scale: MarkovJumpProcess(scale * RATES, TIMES, mask=MASK))(jnp.ones(4))
    assert many.rates.shape == (4, *RATES.shape)


def test_jump_log_likelihood_is_that_of_each_path():
    def model(value):
        q = numpyro.sample("scale", dist.LogNormal(0, 1)) * jnp.asarray(Q3)
        with numpyro.plate("paths", 2):
            numpyro.sample("y", MarkovJumpProcess(q, TIMES3[0]), obs=value)

    labels = np.concatenate([LABELS3, [[1, 1, 0, 2]]])
    scales = jnp.array([0.5, 1.0, 2.0])
    found = log_likelihood(model, {"scale": scales}, labels)["y"]
    each = [MarkovJumpProcess(float(s) * Q3, TIMES3[0]).log_prob(labels) for s in scales]
    npt.assert_allclose(found, np.stack(each), rtol=1e-5)


def test_jump_support_is_states_or_that_of_the_emission():
    law = MarkovJumpProcess(Q3, TIMES3[0])
    assert law.support.is_discrete
    assert law.support(np.array([[0, 1, 2, 2], [0, 1, 3, 0]])).tolist() == [True, False]
    assert not law.has_rsample
    measured = MarkovJumpProcess(Q3, TIMES3[0], emission=levels())
    assert not measured.support.is_discrete
    assert measured.support.event_dim == 1


# Times that are traced


def test_jump_grid_stands_for_traced_times(x64):
    law, value = batch("noise")
    grid = lag_grid(TIMES, MASK)

    @jax.jit
    def traced(times, mask, grid, value):
        law = MarkovJumpProcess(RATES, times, initial=INITIAL, mask=mask, label_noise=NOISE, grid=grid)
        return law.log_prob(value), law.sample(random.key(0))

    found, drawn = traced(TIMES, MASK, grid, value)
    npt.assert_allclose(found, law.log_prob(value), rtol=1e-11)
    assert drawn.shape == (SUBJECTS, PATHS, LENGTH)


def test_jump_right_labels_may_be_traced(x64):
    law, value = batch("labels")
    npt.assert_allclose(jax.jit(law.log_prob)(value), law.log_prob(value), rtol=1e-11)
    npt.assert_allclose(jax.jit(law.log_prob)(LABELS), law.log_prob(LABELS), rtol=1e-11)


def test_jump_grid_of_some_paths_is_taken():
    law, _ = batch("labels")
    rows = jnp.array([2, 0])

    @jax.jit
    def of(rows):
        times, mask, initial, labels = (jnp.asarray(x) for x in (TIMES, MASK, INITIAL, HIDDEN))
        some = MarkovJumpProcess(
            RATES, times[rows], initial=initial[rows], mask=mask[rows], grid=law.grid.take(rows)
        )
        return some.log_prob(labels[:, rows])

    npt.assert_allclose(of(rows), law.log_prob(HIDDEN)[:, rows], rtol=1e-5)


# Draws

SHORT = np.array([0.0, 0.4, 1.4])
PAIR = np.array([[0.0, 1.2], [0.5, 0.0]])
START = np.array([0.7, 0.3])
DRAWS = 20_000


def path_law(q=PAIR):
    """All paths of three points, and their probabilities."""
    P = exact_transitions(q, np.diff(SHORT))
    paths = np.array(list(itertools.product(range(2), repeat=3)))
    weights = np.array([START[a] * P[0, a, b] * P[1, b, c] for a, b, c in paths])
    return paths, weights


def which(paths):
    """Which of all paths each one is, as indicators."""
    paths = np.asarray(paths)
    return (paths @ [4, 2, 1])[..., None] == np.arange(8)


def test_jump_draws_of_right_labels_have_the_law_of_the_process():
    rates = jnp.stack([jnp.asarray(PAIR), 2 * jnp.asarray(PAIR)])
    draws = MarkovJumpProcess(rates, SHORT, initial=START).sample(random.key(0), (DRAWS,))
    assert draws.shape == (DRAWS, 2, 3)
    assert draws.dtype == jnp.int32
    for i, q in enumerate((PAIR, 2 * PAIR)):
        assert_exact(z_scores(which(draws[:, i]), path_law(q)[1]))
    assert_caught(z_scores(which(draws[:, 0]), path_law(2 * PAIR)[1]))


def test_jump_draws_with_noise_have_the_law_of_labels():
    noise = np.array([0.1, 0.4])
    draws = MarkovJumpProcess(PAIR, SHORT, initial=START, label_noise=noise).sample(random.key(1), (DRAWS,))
    paths, weights = path_law()

    def of_labels(rho):
        wrong = (paths[:, None] != paths[None]).sum(-1)
        return weights @ (rho**wrong * (1 - rho) ** (3 - wrong))

    for k, rho in enumerate(noise):
        assert_exact(z_scores(which(draws[:, k]), of_labels(rho)))
    assert_caught(z_scores(which(draws[:, 1]), of_labels(0.2)))  # "replaced by any of two"
    skewed = np.array([[0.9, 0.1], [0.4, 0.6]])
    of_matrix = MarkovJumpProcess(PAIR, SHORT, initial=START, label_noise=skewed).sample(random.key(2), (DRAWS,))
    given = np.prod(skewed[paths[:, None], paths[None]], -1)
    assert_exact(z_scores(which(of_matrix), weights @ given))


def test_jump_draws_of_an_emission_have_its_moments():
    means = np.array([[-1.0, 2.0], [0.0, 5.0]])
    emission = dist.Normal(jnp.asarray(means), 0.5)
    draws = np.asarray(MarkovJumpProcess(PAIR, SHORT, initial=START, emission=emission).sample(random.key(3), (DRAWS,)))
    assert draws.shape == (DRAWS, 2, 3)
    paths, weights = path_law()
    for k, levels_of_path in enumerate(means):
        at = levels_of_path[paths]
        first, second = weights @ at, weights @ (at[:, :, None] * at[:, None]).reshape(8, 9)
        products = (draws[:, k, :, None] * draws[:, k, None]).reshape(DRAWS, 9)
        assert_exact(z_scores(draws[:, k], first))
        assert_exact(z_scores(products, second + 0.25 * np.eye(3).ravel()))


def test_jump_draws_repeat_the_state_where_nothing_is_seen():
    mask = np.array([False, True, False, True, False])
    times = np.array([9.0, 0.0, np.nan, 1.0, -3.0])
    draws = np.asarray(MarkovJumpProcess(PAIR, times, mask=mask).sample(random.key(4), (500,)))
    assert (draws[:, [0, 2]] == draws[:, [1]]).all()
    assert (draws[:, 4] == draws[:, 3]).all()
    assert (draws[:, 1] != draws[:, 3]).any()
