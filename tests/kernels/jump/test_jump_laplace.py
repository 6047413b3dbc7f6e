"""Quantiles of log-Gamma variables against scipy; the skewed Laplace density: exact cases, total mass, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random
from jax.scipy.special import gammaln
from scipy import special

from emberwalk.kernels.jump import SkewLaplace, laplace, log_gamma_quantile, log_gamma_score, newton, tabled
from emberwalk.kernels.jump.log_gamma import log_gamma_log_density
from emberwalk.kernels.jump.proposal import _log_gamma_quantiles
from emberwalk.kernels.jump.refined import mean_of_rates, variance_of_rates
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

ALPHAS = np.array([0.02, 0.1, 0.5, 0.99, 1.0, 1.01, 2.0, 7.3, 19.0, 21.0, 60.0, 99.0, 101.0, 400.0, 3e3, 1e4])
SCORES = np.array([-5, -4, -2.5, -1, -0.3, 0, 0.2, 1, 2.5, 4, 5.0])


def exact_quantile(alpha, x):
    """By scipy, with the series where exp(l) would underflow."""
    low = (special.log_ndtr(x) + special.gammaln(alpha + 1)) / alpha
    if low < -600:
        return low
    g = (
        special.gammaincinv(alpha, special.ndtr(x))
        if x < 0
        else special.gammainccinv(alpha, special.ndtr(-x))
    )
    return np.log(g) if g > 0 else low


EXACT = np.array([[exact_quantile(alpha, x) for x in SCORES] for alpha in ALPHAS])


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_jump_log_gamma_quantile_is_that_of_scipy(double):
    with jax.enable_x64(double):
        found = jax.jit(log_gamma_quantile)(jnp.asarray(ALPHAS[:, None], float), jnp.asarray(SCORES, float))
        found = np.asarray(found, np.float64)
    error = np.abs(found - EXACT) / np.maximum(1, np.abs(EXACT))
    assert error.max() < 1e-5, (ALPHAS[error.max(1).argmax()], SCORES[error.max(0).argmax()], error.max())


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_jump_log_gamma_score_is_the_inverse(double):
    with jax.enable_x64(double):
        found = jax.jit(log_gamma_score)(jnp.asarray(ALPHAS[:, None], float), jnp.asarray(EXACT, float))
        found = np.asarray(found, np.float64)
    # float32 knows a large alpha's l only to 1e-6 of its sd
    npt.assert_allclose(found, np.broadcast_to(SCORES, EXACT.shape), atol=1e-5 if double else 3e-3)


def test_jump_log_gamma_score_is_finite_and_monotone_far_out():
    for alpha in (0.02, 0.7, 5.0, 80.0, 2000.0):
        sd = float(np.sqrt(special.polygamma(1, alpha)))
        at = jnp.float32(np.log(alpha) + sd * np.linspace(-25, 25, 301))
        x = np.asarray(log_gamma_score(jnp.float32(alpha), jnp.minimum(at, 80.0)))
        assert np.isfinite(x).all(), alpha
        assert (np.diff(x) >= -1e-3).all(), alpha


def test_jump_log_gamma_density_is_that_of_scipy():
    at = EXACT[:, 1:-1]
    exact = ALPHAS[:, None] * at - np.exp(at) - special.gammaln(ALPHAS)[:, None]
    found = log_gamma_log_density(jnp.float32(ALPHAS[:, None]), jnp.float32(at))
    npt.assert_allclose(found, exact, rtol=1e-5, atol=3e-3)
    with jax.enable_x64(True):
        found = log_gamma_log_density(jnp.asarray(ALPHAS[:, None]), jnp.asarray(at))
    npt.assert_allclose(found, exact, rtol=1e-9, atol=1e-8)


# Newton


def test_jump_newton_finds_the_mode_from_afar(x64):
    """Where the density is not concave the floor of the eigenvalues points upwards still."""

    def log_density(t):
        return -jnp.log1p(jnp.sum((t - 3.0) ** 2)) - 0.01 * jnp.sum(t**2)

    mode = jax.jit(lambda t: newton(log_density, t, max_steps=60, tolerance=1e-10))(jnp.array([-8.0, 9.0]))
    assert mode.converged
    npt.assert_allclose(mode.gradient, 0, atol=1e-5)
    npt.assert_allclose(mode.position, 2.9702, atol=1e-4)


def test_jump_newton_does_not_step_onto_nan():
    mode = jax.jit(lambda t: newton(lambda t: jnp.log(t[0]) - t[0], t))(jnp.array([0.01]))
    assert float(mode.position[0]) == pytest.approx(1.0, abs=1e-2)


# The density

SHAPES, RATES = np.array([0.7, 2.0, 30.0]), np.array([1.0, 0.2, 3.0])


def independent(t):
    """log q for q ~ Gamma(shape, rate): what the fit is exact for."""
    return jnp.sum(SHAPES * t - RATES * jnp.exp(t))


def fit_of(log_density, d):
    return jax.jit(
        lambda t: laplace(log_density, newton(log_density, t, max_steps=30, tolerance=1e-12), nested=True)
    )(jnp.zeros(d))


@pytest.mark.parametrize("number", [0.7, 30.0, 180.0, 5000.0, 1e6])
def test_jump_laplace_in_float32_knows_the_variance_of_a_rate(number):
    """Of a rate after so many jumps, g / number, number after number."""
    one = jnp.ones(1)
    fit = SkewLaplace(0 * one, one[None] / number, one, number * one)
    npt.assert_allclose(mean_of_rates(fit), 1, rtol=1e-6)
    npt.assert_allclose(variance_of_rates(fit), 1 / number, rtol=2e-3)


def test_jump_laplace_of_a_tail_without_a_mean_has_a_mean_and_a_spread():
    one = jnp.ones(1)
    fit = SkewLaplace(0 * one, one[None], -1.2 * one, one)
    assert np.isinf(fit.mean_exp())
    assert float(mean_of_rates(fit)[0]) == pytest.approx(float(jnp.exp(3 * fit.sd)[0]), rel=1e-5)
    assert float(variance_of_rates(fit)[0]) > 0


def test_jump_laplace_planted_difference_of_moments_loses_the_variance():
    alpha = jnp.float32(5000.0)
    first, second = (jnp.exp(gammaln(alpha + k) - gammaln(alpha) - k * jnp.log(alpha)) for k in (1, 2))
    assert abs(float(second - first**2) * 5000 - 1) > 0.1


def test_jump_laplace_is_exact_for_independent_gammas(x64):
    fit = fit_of(independent, 3)
    npt.assert_allclose(fit.alpha, SHAPES, rtol=1e-9)
    npt.assert_allclose(fit.mean, special.digamma(SHAPES) - np.log(RATES), rtol=1e-9)
    npt.assert_allclose(fit.sd, np.sqrt(special.polygamma(1, SHAPES)), rtol=1e-9)
    npt.assert_allclose(fit.mean_exp(), SHAPES / RATES, rtol=1e-9)
    t = np.random.default_rng(0).normal(0, 1.5, (20, 3)) + np.asarray(fit.mode)
    exact = np.sum(SHAPES * t - RATES * np.exp(t) + SHAPES * np.log(RATES) - special.gammaln(SHAPES), 1)
    npt.assert_allclose(fit.log_prob(t), exact, rtol=1e-9, atol=1e-9)
    npt.assert_allclose(np.exp(fit.quantile(0.25)), special.gammaincinv(SHAPES, 0.25) / RATES, rtol=1e-8)


def test_jump_laplace_has_the_variance_of_students_t(x64):
    """nu / (nu - 2): the curvature alone has nu / (nu + 1)."""
    nu = np.array([7.0, 30.0])
    fit = fit_of(lambda t: -jnp.sum((nu + 1) / 2 * jnp.log1p(t**2 / nu)), 2)
    npt.assert_allclose(fit.sd**2, nu / (nu - 2), rtol=1e-9)
    npt.assert_allclose(fit.mean, 0, atol=1e-9)


def mirrored(t):
    return independent(-t)


def test_jump_laplace_turns_a_marginal_that_leans_to_the_right(x64):
    left, right = fit_of(independent, 3), fit_of(mirrored, 3)
    assert (right.skew_scale < 0).all()
    t = np.random.default_rng(1).normal(0, 1.5, (9, 3))
    npt.assert_allclose(right.log_prob(t), left.log_prob(-t), rtol=1e-9)
    npt.assert_allclose(right.quantile(0.1), -np.asarray(left.quantile(0.9)), rtol=1e-8)
    npt.assert_allclose(right.mean, -np.asarray(left.mean), rtol=1e-9)


def correlated(skew=(0.8, -2.5), alpha=(1.3, 40.0), rho=0.7):
    """Two marginals, one turned round, that depend on each other."""
    sd = np.abs(skew) / np.sqrt(alpha)
    cov = np.outer(sd, sd) * np.array([[1, rho], [rho, 1]])
    return SkewLaplace(*(jnp.asarray(x, float) for x in ([0.3, -0.2], cov, skew, alpha)))


def normal_pair(fit):
    """The second marginal normal, as with alpha above 1e4."""
    return fit._replace(alpha=fit.alpha.at[1].set(jnp.inf), skew_scale=fit.skew_scale.at[1].set(jnp.inf))


def plane(fit, width=14, size=240):
    """Points around both means, so many standard deviations to each side, and the area of each."""
    axes = [
        np.linspace(m - width * s, m + width * s, size)
        for m, s in zip(np.asarray(fit.mean), fit.sd, strict=True)
    ]
    area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2), float(area)


def total_mass(log_prob, fit):
    t, area = plane(fit)
    return density(log_prob, t).sum() * area


def density(log_prob, t):
    with optimised():
        return np.exp(np.asarray(jax.jit(log_prob)(jnp.asarray(t))))


FITS = {"skew": lambda: correlated(), "one normal": lambda: normal_pair(correlated())}


@pytest.mark.parametrize("make", FITS.values(), ids=FITS)
def test_jump_laplace_density_has_mass_1(make, x64):
    fit = make()
    assert total_mass(fit.log_prob, fit) == pytest.approx(1, abs=1e-4)


WRONG_DENSITIES = {
    "without the copula's normal terms": lambda fit, t: (
        fit.log_prob(t) - jnp.sum(fit._score(t)[0] ** 2, -1) / 2
    ),
    "without log s": lambda fit, t: fit.log_prob(t) + jnp.sum(jnp.log(jnp.abs(fit.skew_scale))),
}


@pytest.mark.parametrize("wrong", WRONG_DENSITIES.values(), ids=WRONG_DENSITIES)
def test_jump_laplace_planted_densities_have_another_mass(wrong, x64):
    fit = correlated()
    assert abs(total_mass(lambda t: wrong(fit, t), fit) - 1) > 0.05


def test_jump_laplace_planted_normal_marginal_without_its_term_has_another_mass(x64):
    """What a marginal above alpha = 1e4 has in place of the Gamma's density."""
    fit = normal_pair(correlated())
    x = lambda t: (t[..., 1] - fit.mode[1]) / jnp.sqrt(fit.cov[1, 1])  # noqa: E731

    def forgotten(t):
        return fit.log_prob(t) + (x(t) ** 2 + jnp.log(2 * jnp.pi)) / 2 + jnp.log(fit.cov[1, 1]) / 2

    assert abs(total_mass(forgotten, fit) - 1) > 0.05


def z_of_moments(fit, draws):
    """First two moments of the draws, and E exp(-|x|^2 / 2) whose exact value quadrature over the density has."""
    t, _ = plane(fit)
    weights = density(fit.log_prob, t)
    weights /= weights.sum()

    def features(t):
        t = np.asarray(t, np.float64)
        squares = np.stack([t[:, 0] ** 2, t[:, 1] ** 2, t[:, 0] * t[:, 1], np.exp(-(t**2).sum(1) / 2)], 1)
        return np.concatenate([t, squares], 1)

    return z_scores(features(draws), weights @ features(t))


@pytest.mark.parametrize("make", FITS.values(), ids=FITS)
def test_jump_laplace_draws_have_the_moments_of_the_density(make, x64):
    fit = make()
    with optimised():
        draws = jax.jit(lambda key: fit.sample(key, (20_000,)))(random.key(1))
    assert_exact(z_of_moments(fit, draws))


def test_jump_laplace_planted_draws_without_correlation_are_caught(x64):
    fit = correlated()
    alone = fit._replace(cov=jnp.diag(jnp.diagonal(fit.cov)))
    with optimised():
        draws = jax.jit(lambda key: alone.sample(key, (20_000,)))(random.key(1))
    assert_caught(z_of_moments(fit, draws))


def test_jump_laplace_of_many_jumps_is_normal():
    fit = fit_of(lambda t: 5e4 * t[0] - jnp.exp(t[0]), 1)
    assert fit.normal.all()
    assert float(fit.sd[0]) == pytest.approx(5e4**-0.5, rel=1e-3)
    assert jnp.isfinite(fit.log_prob(fit.sample(random.key(0), (100,)))).all()
    flat = fit_of(lambda t: -jnp.sum(t**2) / 2, 2)  # no third derivative at all
    npt.assert_allclose(flat.mean, 0, atol=1e-6)
    npt.assert_allclose(flat.sd, 1, rtol=1e-6)


def test_jump_laplace_has_no_nan_far_from_its_mode():
    fit = jax.tree.map(jnp.float32, fit_of(independent, 3))
    t = fit.mode + jnp.array([[-40.0, 0, 0], [4.0, 0, 0], [0, -30.0, 5.0], [0, 0, -9.0]])
    assert jnp.isfinite(fit.log_prob(t)).all()


# With tails


def test_jump_proposal_has_mass_1_and_the_moments_of_its_draws(x64):
    fit = correlated()
    proposal = tabled(fit)
    t, cell = plane(fit, 40, 250)
    weights = density(proposal.log_prob, t)
    assert weights.sum() * cell == pytest.approx(1, abs=1e-3)

    def features(t):
        t = np.asarray(t, np.float64)
        return np.stack([np.exp(-(t**2).sum(1) / 2), np.abs(t[:, 0]) > 3, np.tanh(t[:, 0] * t[:, 1])], 1)

    with optimised():
        draws = jax.jit(lambda key: proposal.sample(key, (20_000,)))(random.key(2))
    assert_exact(z_scores(features(draws), (weights * cell) @ features(t) / (weights.sum() * cell)))


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_jump_proposal_by_its_table_is_the_fit(double):
    """Density and draws, but for what lies between the scores of the table."""
    with jax.enable_x64(double):
        fit = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), correlated())
        proposal = tabled(fit)
        t = fit.sample(random.key(3), (500,))
        npt.assert_allclose(proposal.skew_log_prob(t), fit.log_prob(t), atol=0.03)
        x, _ = proposal.score(t)
        npt.assert_allclose(proposal.mode + proposal._away(x), t, atol=1e-5)
        npt.assert_allclose(x, fit._score(t)[0], atol=3e-3)


@pytest.mark.parametrize("alpha", [0.02, 0.3, 5.0, 200.0, 9e3])
def test_jump_proposal_has_the_quantiles_of_log_gamma(alpha):
    """In float32, against scipy: closer than the acceptance of a proposal can tell."""
    from scipy.stats import gamma, norm

    scores = np.linspace(-6, 6, 49)
    found = np.asarray(_log_gamma_quantiles(jnp.float32(alpha), jnp.float32(scores)), np.float64)
    known = np.where(scores < 0, gamma.logcdf(np.exp(found), alpha), gamma.logsf(np.exp(found), alpha))
    resolved = np.exp(found) > 1e-30  # scipy's logarithm of an argument that is 0
    wanted = norm.logcdf(-np.abs(scores))
    slope = np.abs(scores) + 1
    assert (np.abs(known - wanted) / slope)[resolved].max() < 0.02
    assert resolved.sum() > 20


def test_jump_proposal_reaches_where_the_skewed_density_does_not():
    proposal = tabled(jax.tree.map(jnp.float32, fit_of(independent, 3)))
    far = proposal.mode + jnp.array([500.0, 300.0, 100.0])
    assert jnp.isfinite(proposal.log_prob(far))
    assert jnp.isfinite(proposal.log_prob(-far))


def test_jump_newton_that_is_stuck_says_so():
    """Uphill to where there is no density: no step is left to make, and none was the last."""
    mode = newton(lambda t: jnp.where(t[0] < 1, 100 * t[0], jnp.nan), jnp.zeros(1), max_steps=50)
    assert 0.9 < float(mode.position[0]) < 1
    assert not mode.converged
