"""The innovations move leaves the joint law of parameters and path given the data invariant.

    (theta, x, y) ~ prior x model;   (theta, x) -> (theta', x') by 20 moves given y             (1)

(theta', x', y) then has the law of (theta, x, y) again, whatever y was drawn: Geweke (2004), Gandy
and Scott (2021). So every mean of f(theta', x') - f(theta, x) is 0, and no posterior is needed.
The path move and the draw of theta given x stay away: they would repair a wrong innovations move.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.scipy.stats import norm

from emberwalk.kernels.smc import Path, from_noise, innovations_hmc, to_noise
from emberwalk.kernels.smc.innovations import path_log_density
from emberwalk.models.ssm_examples import linear_gaussian_ssm
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

LENGTH, MOVES, COUNT = 6, 20, 5_000


class Rules(NamedTuple):
    """What the move does right; a planted bug is one of them broken.

    Attributes:
        log_scale: how often log |scale| of the transitions stands in the target.
        initial_normaliser: how often the normaliser of x_0 stands in it.
        makes_path_anew: whether x is made of the new parameters and the new noise.
    """

    log_scale: float = 1.0
    initial_normaliser: float = 1.0
    makes_path_anew: bool = True


def model(theta: Array, y: Array):
    """phi = tanh(theta_0), sx = exp(theta_1), theta ~ N((.5, 0), .5^2); stationary x_0, sy = 1."""
    return linear_gaussian_ssm(y, jnp.tanh(theta[0]), jnp.exp(theta[1]))


def initial_sd(theta: Array) -> Array:
    return jnp.exp(theta[1]) * jnp.cosh(theta[0])  # sx / sqrt(1 - tanh^2)


def draw_jointly(key: Array) -> tuple[Array, Path, Array]:
    """(theta, x, y), all of them from the prior and the model."""
    key_theta, key_noise, key_y = random.split(key, 3)
    theta = jnp.array([0.5, 0.0]) + 0.5 * random.normal(key_theta, (2,))
    noise = random.normal(key_noise, (LENGTH,))
    path, _, _ = from_noise(model(theta, jnp.zeros(LENGTH)), initial_sd(theta) * noise[0], noise[1:])
    return theta, path, jnp.append(path.initial, path.latents) + random.normal(key_y, (LENGTH,))


def move(key: Array, theta: Array, path: Path, y: Array, rules: Rules) -> tuple[Array, Path]:
    """One innovations move with the first, never adapted step size."""
    kernel = innovations_hmc(num_warmup=0)

    def log_density(theta, noise):
        ssm = model(theta, y)
        path, before, log_scale = from_noise(ssm, initial_sd(theta) * noise[0], noise[1:])
        initial = ssm.init_logpdf(path.initial) + (1 - rules.initial_normaliser) * jnp.log(initial_sd(theta))
        prior = norm.logpdf(theta, jnp.array([0.5, 0.0]), 0.5).sum()
        stages = path_log_density(ssm, path, before) + rules.log_scale * log_scale
        return prior + initial + jnp.log(initial_sd(theta)) + ssm.init_loglik(path.initial) + stages

    noise = jnp.append(path.initial / initial_sd(theta), to_noise(model(theta, y), path))
    theta, noise, _, _ = kernel.step(key, kernel.init(theta), theta, noise, log_density, 8)
    anew, _, _ = from_noise(model(theta, y), initial_sd(theta) * noise[0], noise[1:])
    return theta, jax.tree.map(lambda new, old: jnp.where(rules.makes_path_anew, new, old), anew, path)


def statistics(theta: Array, path: Path, y: Array) -> Array:
    """Moments of theta, of x_0 and x_T, across, and the scaled noise of the path."""
    x = jnp.append(path.initial, path.latents)
    ends = x[jnp.array([0, -1])]
    noise = to_noise(model(theta, y), path)
    across = [theta[1] * ends**2, theta[0] * x[:-1] * x[1:], ends * y[jnp.array([0, -1])]]
    return jnp.concatenate([theta, theta**2, ends, ends**2, *across, noise**2])


@jax.jit
@partial(jax.vmap, in_axes=(0, None))
def changes(key: Array, rules: Rules) -> Array:
    """f after the moves minus f before."""
    key_draw, key_moves = random.split(key)
    theta, path, y = draw_jointly(key_draw)

    def step(i, state):
        return move(random.fold_in(key_moves, i), *state, y, rules)

    return statistics(*jax.lax.fori_loop(0, MOVES, step, (theta, path)), y) - statistics(theta, path, y)


def drift(rules: Rules) -> np.ndarray:
    """`changes` of many replicas, one row each."""
    with optimised():
        rows = changes(random.split(random.key(0), COUNT), jax.tree.map(jnp.asarray, rules))
    return np.asarray(rows, np.float64)


BUGS = {
    "density keeping -T log sx": Rules(log_scale=0.0),
    "density without the normaliser of the initial state": Rules(initial_normaliser=0.0),
    "path not made anew": Rules(makes_path_anew=False),
}


def test_innovations_move_keeps_the_joint_law_and_planted_bugs_do_not():
    # one test, because right and wrong are one program with other numbers, compiled once
    right = drift(Rules())
    assert_exact(z_scores(right, 0.0))
    assert right[:, 0].std() > 0.2  # theta has left where it was
    for rules in BUGS.values():
        assert_caught(z_scores(drift(rules), 0.0))


def test_adaptation_ends_with_the_warm_up():
    kernel = innovations_hmc(num_warmup=50)

    def step(carry, key):
        theta, noise, state, _ = kernel.step(key, carry[2], carry[0], carry[1], log_density, 4)
        return (theta, noise, state), (state.step_size, state.inverse_mass)

    def log_density(theta, noise):
        return -0.5 * (theta @ theta / 9 + noise @ noise)

    start = (jnp.zeros(1), jnp.zeros(3), kernel.init(jnp.zeros(1)))
    _, (step_sizes, inverse_masses) = jax.lax.scan(step, start, random.split(random.key(0), 80))
    for adapted in (step_sizes, inverse_masses[:, 0]):
        assert len(np.unique(adapted[20:50])) > 5
        assert len(np.unique(adapted[49:])) == 1


def test_density_that_is_nan_is_refused():
    kernel = innovations_hmc(num_warmup=10)
    theta, noise = jnp.ones(1), jnp.ones(2)
    _, moved_noise, state, info = kernel.step(
        random.key(0),
        kernel.init(theta),
        theta,
        noise,
        lambda theta, noise: jnp.where(noise[0] == 1.0, 0.0, jnp.nan) - noise @ noise,
        2,
    )
    assert info.accept_prob == 0.0
    np.testing.assert_array_equal(moved_noise, noise)
    assert jnp.isfinite(state.step_size)
