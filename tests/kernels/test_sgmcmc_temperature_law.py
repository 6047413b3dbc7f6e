"""Every algorithm has the stationary law of its finite step, at T = 1, 0.1 and 0.01.

On U = lam q^2 / 2 a step is linear, x' = A x + B w with w ~ N(0, I), and its stationary covariance S solves

    S = A S A' + B B'                                                                             (1)

where x is q alone, q and p, or q and the noise that the next step shares. Nothing of `theory.py` is used;
it is compared with (1) in a test of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov

from emberwalk.kernels.sgmcmc import (
    baoab,
    leimkuhler_matthews,
    psgld,
    sghmc,
    sgld,
    sgnht,
    stationary_variance,
)
from emberwalk.kernels.sgmcmc.baoab import Baoab
from emberwalk.kernels.sgmcmc.base import SGAlgorithm, SGInfo, normal_like
from emberwalk.kernels.sgmcmc.momentum import drift, kick
from emberwalk.kernels.sgmcmc.psgld import Psgld
from emberwalk.kernels.sgmcmc.sghmc import Sghmc
from emberwalk.kernels.sgmcmc.sgld import LeimkuhlerMatthews, Sgld
from tests.statistics import assert_caught, assert_exact, optimised, z_scores

EACH = 50
CURVATURES = np.array([0.5, 1.0, 2.0, 4.0])
TEMPERATURES = np.array([1.0, 0.1, 0.01])
H_OVERDAMPED = 0.1
# b = .305 and c = .499: at b = .98 wrong noise is off by 1 % only
H, FRICTION = 0.5, 1.39
GAINS = np.array([1.0, 4.0, 1.0, 4.0])


class Linear(NamedTuple):
    """Equation (1); the first element of x is q."""

    matrix: NDArray[np.float64]
    noise: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        return solve_discrete_lyapunov(self.matrix, self.noise @ self.noise.T)


def of_sgld(lam: float, T: float, gain: float) -> Linear:
    h = H_OVERDAMPED * gain
    return Linear(np.array([[1 - h * lam]]), np.array([[np.sqrt(2 * h * T)]]))


def of_leimkuhler_matthews(lam: float, T: float, gain: float) -> Linear:
    h = H_OVERDAMPED
    share = np.sqrt(h * T / 2)
    return Linear(np.array([[1 - h * lam, share], [0.0, 0.0]]), np.array([[share], [1.0]]))


KICK = {lam: np.array([[1.0, 0.0], [-H * lam, 1.0]]) for lam in (0.0, *CURVATURES)}


def drift_by(h: float, mass: float) -> NDArray[np.float64]:
    return np.array([[1.0, h / mass], [0.0, 1.0]])


def of_sghmc(lam: float, T: float, gain: float) -> Linear:
    b = 1 - FRICTION * H
    into_p = np.array([[0.0], [np.sqrt(2 * (1 - b) * T * gain)]])
    drifted = drift_by(H, gain)
    return Linear(drifted @ (KICK[lam] - np.diag([0.0, 1 - b])), drifted @ into_p)


def of_baoab(lam: float, T: float, gain: float) -> Linear:
    c = np.exp(-FRICTION * H)
    into_p = np.array([[0.0], [np.sqrt((1 - c**2) * T * gain)]])
    half = drift_by(H / 2, gain)
    return Linear(half @ np.diag([1.0, c]) @ half @ KICK[lam], half @ into_p)


def of_sgnht(lam: float, T: float, gain: float) -> Linear:
    """No linear step: its thermostat; what it settles at has the law of x at these variances."""
    return Linear(np.zeros((2, 2)), np.diag([np.sqrt(T / lam), np.sqrt(T * gain)]))


class Scheme(NamedTuple):
    """An algorithm; its equation (1); whether x is (q, p); G or M of the four curvatures."""

    algorithm: SGAlgorithm
    linear: Callable[[float, float, float], Linear]
    has_momentum: bool = False
    gains: NDArray[np.float64] = np.ones(4)


SCHEMES = {
    "sgld": Scheme(sgld(H_OVERDAMPED), of_sgld),
    "psgld": Scheme(psgld(H_OVERDAMPED), of_sgld, gains=GAINS),
    "leimkuhler_matthews": Scheme(leimkuhler_matthews(H_OVERDAMPED), of_leimkuhler_matthews),
    "sghmc": Scheme(sghmc(H, FRICTION, mass="identity"), of_sghmc, has_momentum=True, gains=GAINS),
    "baoab": Scheme(baoab(H, FRICTION), of_baoab, has_momentum=True, gains=GAINS),
    "sgnht": Scheme(sgnht(0.3, 1.0), of_sgnht, has_momentum=True, gains=GAINS),
}
LAM = np.repeat(CURVATURES, EACH)  # of NumPy, so that it is float64 under x64


def exact_start(scheme: Scheme, T: float, key: jax.Array) -> jax.Array:
    """x of every coordinate from its stationary law, (rows of x, coordinates)."""
    roots = [
        np.linalg.cholesky(scheme.linear(lam, T, gain).covariance)
        for lam, gain in zip(CURVATURES, scheme.gains, strict=True)
    ]
    root = jnp.asarray(np.repeat(np.array(roots), EACH, axis=0))
    return jnp.einsum("cij,jc->ic", root, random.normal(key, (root.shape[1], LAM.size)))


class Seen(NamedTuple):
    """Means over a chain and the coordinates of a curvature, (temperature, chain, curvature).

    Attributes:
        q2: of q^2.
        p2: of p^2 at the end of a step; 0 without a momentum.
        kinetic: T_kin of all coordinates, (temperature, chain).
    """

    q2: NDArray[np.float64]
    p2: NDArray[np.float64]
    kinetic: NDArray[np.float64]


def run(scheme: Scheme, num_chains: int, num_steps: int, algorithm: SGAlgorithm | None = None) -> Seen:
    """Chains from the exact law, T an axis of one program; `algorithm` stands in for the right one."""
    algorithm = algorithm or scheme.algorithm
    keys = random.split(random.key(1), num_chains)
    starts = jnp.stack([jnp.stack([exact_start(scheme, T, key) for key in keys]) for T in TEMPERATURES])

    def chain(key, start, T):
        state = algorithm.init(key, start[0], T)
        if scheme.has_momentum:
            state = state._replace(momentum=start[1])
        elif len(start) == 2:
            state = state._replace(extra=start[1])
        if scheme.gains is GAINS:
            state = state._replace(precond=jnp.asarray(np.repeat(GAINS, EACH)))

        def step(carry, key):
            state, sums = carry
            state, info = algorithm.update(key, state, LAM * state.position, T)
            p = jnp.zeros_like(LAM) if state.momentum is None else state.momentum
            kinetic = jnp.zeros(()) if info.kinetic_temperature is None else info.kinetic_temperature
            seen = (state.position**2, p**2, kinetic)
            return (state, jax.tree.map(jnp.add, sums, seen)), None

        zeros = (jnp.zeros_like(LAM), jnp.zeros_like(LAM), jnp.zeros(()))
        (_, (q2, p2, kinetic)), _ = lax.scan(step, (state, zeros), random.split(key, num_steps))
        of_curvature = [x.reshape(len(CURVATURES), EACH).mean(1) / num_steps for x in (q2, p2)]
        return *of_curvature, kinetic / num_steps

    over_chains = jax.vmap(chain, in_axes=(0, 0, None))
    with optimised():
        return Seen(*map(np.asarray, jax.jit(jax.vmap(over_chains, in_axes=(None, 0, 0)))(
            keys, starts, jnp.asarray(TEMPERATURES)
        )))  # fmt: skip


def z_of(scheme: Scheme, seen: Seen) -> NDArray[np.float64]:
    """z of Var q, and of Var p where there is one: (temperature, curvature)."""
    z = []
    for T, q2, p2 in zip(TEMPERATURES, seen.q2, seen.p2, strict=True):
        exact = [
            np.diag(scheme.linear(lam, T, gain).covariance)
            for lam, gain in zip(CURVATURES, scheme.gains, strict=True)
        ]
        z.append(z_scores(q2, [variances[0] for variances in exact]))
        if scheme.has_momentum:
            z.append(z_scores(p2, [variances[1] for variances in exact]))
    return np.array(z)


@pytest.mark.parametrize(
    ("num_chains", "num_steps"), [(32, 2000), pytest.param(64, 4000, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_sgmcmc_temperature_law(scheme, num_chains, num_steps, x64):
    seen = run(scheme, num_chains, num_steps)
    assert_exact(z_of(scheme, seen))
    if scheme.algorithm in (SCHEMES["baoab"].algorithm, SCHEMES["sgnht"].algorithm):
        # read before the momentum is refreshed, it is T at any step
        assert_exact([z_scores(kinetic, T) for kinetic, T in zip(seen.kinetic, TEMPERATURES, strict=True)])
    elif scheme.has_momentum:
        b = 1 - FRICTION * H
        shrunk = 1 - H**2 * CURVATURES / (2 * (1 + b) * GAINS)
        exact = np.mean(2 / ((1 + b) * shrunk))
        z = [z_scores(kinetic, T * exact) for kinetic, T in zip(seen.kinetic, TEMPERATURES, strict=True)]
        assert_exact(z)


NOISY = {"sgld": of_sgld, "leimkuhler_matthews": of_leimkuhler_matthews, "sghmc": of_sghmc, "baoab": of_baoab}


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_sgmcmc_temperature_law_formulas_solve_the_lyapunov_equation(name, noise, x64):
    """With noise of variance V in the gradient: what multiplies q in A then multiplies sqrt(V) w too."""
    scheme = SCHEMES[name]
    masses = (1.0, 4.0) if scheme.has_momentum else (1.0,)
    for T, lam, mass in product(TEMPERATURES, CURVATURES, masses):
        linear, still = scheme.linear(lam, T, mass), scheme.linear(0.0, T, mass)
        # A = A_0 - lam G e_1': the column that the gradient enters by
        column = (still.matrix - linear.matrix)[:, :1] / lam
        noisy = linear._replace(noise=np.hstack([linear.noise, np.sqrt(noise) * column]))
        found = stationary_variance(scheme.algorithm, lam, T, noise, precond=mass)
        np.testing.assert_allclose(found, noisy.covariance[0, 0], rtol=1e-10)


# Planted bugs


@dataclass(frozen=True)
class NoiseOfT(Sgld):
    """sqrt(2 h) T for sqrt(2 h T): the same at T = 1."""

    def move(self, rng_key, state, gradient, temperature):
        return super().move(rng_key, state, gradient, temperature**2)


@dataclass(frozen=True)
class Uphill(Sgld):
    """A gradient to ascend, as optax's sign is easily taken."""

    def move(self, rng_key, state, gradient, temperature):
        return super().move(rng_key, state, -gradient, temperature)


@dataclass(frozen=True)
class TwiceTheStep(Sgld):
    """h of papers that write h / 2 before the gradient, in the noise alone."""

    def move(self, rng_key, state, gradient, temperature):
        return super().move(rng_key, state, gradient, temperature / 2)


@dataclass(frozen=True)
class FreshPairs(LeimkuhlerMatthews):
    """Two new noises each step: half the temperature."""

    def move(self, rng_key, state, gradient, temperature):
        key, other = random.split(rng_key)
        return super().move(
            key, state._replace(extra=normal_like(other, state.position)), gradient, temperature
        )


@dataclass(frozen=True)
class OneNoise(LeimkuhlerMatthews):
    """sqrt(2 h T) xi: plain SGLD."""

    def move(self, rng_key, state, gradient, temperature):
        moved, info = super().move(
            rng_key, state._replace(extra=jnp.zeros_like(state.extra)), gradient, 4 * temperature
        )
        return moved, info


@dataclass(frozen=True)
class NoGainInTheNoise(Psgld):
    def move(self, rng_key, state, gradient, temperature):
        flat = state._replace(precond=jnp.ones_like(state.precond))
        moved, info = super().move(rng_key, flat, state.precond * gradient, temperature)
        return moved._replace(precond=state.precond), info


@dataclass(frozen=True)
class NoiseOfExactDecay(Sghmc):
    """(1 - b^2) T for 2 (1 - b) T: too cold by (1 + b) / 2."""

    def move(self, rng_key, state, gradient, temperature):
        b = 1 - self.friction * self.h(state.step)
        return super().move(rng_key, state, gradient, temperature * (1 + b) / 2)


@dataclass(frozen=True)
class OldMomentum(Sghmc):
    """Explicit Euler: the position moves by the momentum of before."""

    def move(self, rng_key, state, gradient, temperature):
        moved, info = super().move(rng_key, state, gradient, temperature)
        h = self.h(state.step)
        return moved._replace(position=drift(state.position, state.momentum, state.precond, h)), info


@dataclass(frozen=True)
class ReadAfterTheKick(Baoab):
    """T_kin after a half kick instead of just before the momentum is refreshed."""

    def move(self, rng_key, state, gradient, temperature):
        moved, info = super().move(rng_key, state, gradient, temperature)
        half = kick(state.momentum, gradient, self.h(state.step) / 2)
        return moved, SGInfo(info.step_size, jnp.mean(half**2 / state.precond), info.finite)


@dataclass(frozen=True)
class NoMassInTheNoise(Baoab):
    """sqrt(v) xi for sqrt(v M) xi, beside p / M: right where M is 1."""

    def move(self, rng_key, state, gradient, temperature):
        return super().move(rng_key, state, gradient, temperature / state.precond)


@dataclass(frozen=True)
class NoMassInTheDrift(Sghmc):
    """q + h p for q + h p / M."""

    def move(self, rng_key, state, gradient, temperature):
        moved, info = super().move(rng_key, state, gradient, temperature)
        flat = jnp.ones_like(state.precond)
        return moved._replace(position=drift(state.position, moved.momentum, flat, self.h(state.step))), info


BUGS = {
    "noise T": ("sgld", NoiseOfT(H_OVERDAMPED)),
    "twice the step": ("sgld", TwiceTheStep(H_OVERDAMPED)),
    "a fresh pair of noises": ("leimkuhler_matthews", FreshPairs(H_OVERDAMPED)),
    "one noise": ("leimkuhler_matthews", OneNoise(H_OVERDAMPED)),
    "no gain in the noise": ("psgld", NoGainInTheNoise(H_OVERDAMPED)),
    "noise (1 - b^2) T": ("sghmc", NoiseOfExactDecay(H, FRICTION, "identity")),
    "no mass in the noise": ("baoab", NoMassInTheNoise(H, FRICTION)),
    "no mass in the drift": ("sghmc", NoMassInTheDrift(H, FRICTION, "identity")),
    "explicit Euler": ("sghmc", OldMomentum(H, FRICTION, "identity")),
}


@pytest.mark.parametrize(("name", "bug"), BUGS.values(), ids=BUGS)
def test_sgmcmc_temperature_law_planted(name, bug, x64):
    scheme = SCHEMES[name]
    assert_caught(z_of(scheme, run(scheme, 16, 500, bug)))


def test_sgmcmc_temperature_law_planted_uphill(x64):
    """It leaves every bound."""
    seen = run(SCHEMES["sgld"], 2, 200, Uphill(H_OVERDAMPED))
    assert np.all(seen.q2.max(-1) > 1e6)


def test_sgmcmc_temperature_law_planted_kinetic_temperature_after_a_kick(x64):
    seen = run(SCHEMES["baoab"], 16, 500, ReadAfterTheKick(H, FRICTION))
    assert_caught([z_scores(kinetic, T) for kinetic, T in zip(seen.kinetic, TEMPERATURES, strict=True)])


def test_sgmcmc_temperature_law_first_momentum_has_the_temperature(x64):
    """A long run would hide a momentum that is drawn from N(0, I) whatever T is."""

    def momentum(key, T):
        return baoab(H, FRICTION).init(key, jnp.zeros(()), T).momentum

    keys = random.split(random.key(0), 4000)
    drawn = np.asarray(jax.vmap(jax.vmap(momentum, (0, None)), (None, 0))(keys, jnp.asarray(TEMPERATURES)))
    assert_exact([z_scores(p**2, T) for p, T in zip(drawn, TEMPERATURES, strict=True)])
    assert_caught(z_scores(drawn[1] ** 2, 1.0))
