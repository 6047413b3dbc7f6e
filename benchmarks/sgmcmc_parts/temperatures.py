"""Which temperature is sampled, at T = 1, 0.1 and 0.01, beside blackjax

N(0, I) in 200 dimensions with its exact gradient, h = 0.05: the variance of the draws over T, which is 1 but for
the step. Ours against the exact law of each algorithm at this step (`kernels/sgmcmc/theory.py`), psgld with a
preconditioner of 4 and 1; z is of 32 independent chains. blackjax is given T as its `temperature`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Key
from measure import TRIAL, Row
from numpy.typing import NDArray

from emberwalk.kernels.sgmcmc import (
    baoab,
    leimkuhler_matthews,
    psgld,
    sghmc,
    sgld,
    sgnht,
    stationary_variance,
)
from emberwalk.kernels.sgmcmc.base import SGAlgorithm, build

_DIMENSION, _STEP_SIZE, _FRICTION = 200, 0.05, 1.0
_TEMPERATURES = (1.0, 0.1, 0.01)
_NUM_CHAINS, _NUM_WARMUP, _NUM_STEPS = (4, 20, 50) if TRIAL else (32, 4000, 4000)
_LARGEST_Z = 4.5
# Of the gradients, as psgld is told: its steps then are 4 h and h.
_SECOND_MOMENT = jnp.resize(jnp.array([1.0, 16.0]), _DIMENSION)

OURS = {
    "sgld": sgld(_STEP_SIZE),
    "psgld": psgld(_STEP_SIZE),
    "leimkuhler_matthews": leimkuhler_matthews(_STEP_SIZE),
    "sghmc": sghmc(_STEP_SIZE, _FRICTION),
    "baoab": baoab(_STEP_SIZE, _FRICTION),
    "sgnht": sgnht(_STEP_SIZE, _FRICTION),
}
QUOTED = {
    "posteriors 0.1.3": "sgld 1.026 at T = 1, 1.022 at T = 0.1; sghmc 1.058 and 1.061; baoa .996 and 1.005; sgnht .974 "
    "and .973",
    "SGMCMCJax 0.2.13": "baoab samples variance T^2, badodab 193, near d, whatever T",
    "jax-sgmc 0.1.5": "SGHMC at T = 1 samples .455, 1.005 and 4.008 at friction .25, 1 and 4",
}


class Chain(NamedTuple):
    """An algorithm at one temperature.

    Attributes:
        init: (key, position) -> state.
        step: (key, state) -> state.
        position: state -> position.
    """

    init: Callable[[Key[Array, ""], Array], Any]
    step: Callable[[Key[Array, ""], Any], Any]
    position: Callable[[Any], Array]


def rows() -> list[Row]:
    """Ours with bars, blackjax live, then what was measured of packages that do not fit beside ours."""
    unfit = "quoted, not run: it does not install beside these versions"
    found = [row for name, algorithm in OURS.items() for row in ours_rows(name, algorithm)]
    found += [row for name in blackjax_chains(1.0) for row in blackjax_rows(name)]
    return [
        *found,
        *(Row(f"variance / T: {name}", None, note=f"{unfit}; {said}") for name, said in QUOTED.items()),
    ]


def ours_rows(name: str, algorithm: SGAlgorithm) -> list[Row]:
    """A row a temperature."""
    found = []
    precond = our_chain(algorithm, 1.0).init(random.key(0), jnp.zeros(_DIMENSION)).precond
    for T, ratios in zip(_TEMPERATURES, variances(lambda T: our_chain(algorithm, T)), strict=True):
        laws = stationary_variance(algorithm, 1.0, T, precond=1.0 if precond is None else precond)
        exact = float(jnp.mean(laws)) / T
        z = (ratios.mean() - exact) / (ratios.std(ddof=1) / np.sqrt(len(ratios)))
        note = f"variance / T {ratios.mean():.4f}, exact {exact:.4f}"
        row = Row(f"{name}, T = {T:g}: absolute z of the variance", abs(z), "", at_most=_LARGEST_Z, note=note)
        found.append(row)
    return found


def our_chain(algorithm: SGAlgorithm, T: float | Array) -> Chain:
    """An algorithm with its gradient and, where it adapts one, a preconditioner."""
    kernel = build(algorithm, lambda key, q: q, T)

    def init(key, q):
        return algorithm.adapt(kernel.init(key, q), _SECOND_MOMENT)

    return Chain(init, lambda key, state: kernel.step(key, state)[0], lambda state: state.position)


def blackjax_rows(name: str) -> list[Row]:
    """A row a temperature, without a bar."""
    found = variances(lambda T: blackjax_chains(T)[name])
    return [
        Row(f"variance / T, T = {T:g}: blackjax {name}", ratios.mean(), "")
        for T, ratios in zip(_TEMPERATURES, found, strict=True)
    ]


def blackjax_chains(T: float | Array) -> dict[str, Chain]:
    """SGHMC of blackjax draws its momentum anew from N(0, I) before every ten steps, whatever T is."""

    def gradient(q, batch):
        return -q

    langevin, hamiltonian = blackjax.sgld(gradient), blackjax.sghmc(gradient, 10, alpha=0.01)
    thermostat = blackjax.sgnht(gradient, alpha=1.0)

    def step_of(algorithm):
        return lambda key, state: algorithm.step(key, state, None, _STEP_SIZE, T)

    return {
        "sgld": Chain(lambda key, q: q, step_of(langevin), lambda state: state),
        "sghmc": Chain(lambda key, q: q, step_of(hamiltonian), lambda state: state),
        "sgnht": Chain(
            lambda key, q: thermostat.init(q, key, None), step_of(thermostat), lambda state: state.position
        ),
    }


def variances(chain_at: Callable[[Array], Chain]) -> NDArray[np.float64]:
    """Mean of q^2 / T over steps and coordinates, (temperature, chain), after as many steps of warm-up."""

    def one_chain(key, T):
        chain = chain_at(T)
        key_start, key_chain, key_steps = random.split(key, 3)
        state = chain.init(key_chain, jnp.sqrt(T) * random.normal(key_start, (_DIMENSION,)))

        def step(carry, i):
            state, total = carry
            state = chain.step(random.fold_in(key_steps, i), state)
            square = jnp.mean(chain.position(state) ** 2) / T
            return (state, total + jnp.where(i < _NUM_WARMUP, 0, square)), None

        (_, total), _ = lax.scan(step, (state, 0.0), jnp.arange(_NUM_WARMUP + _NUM_STEPS))
        return total / _NUM_STEPS

    temperatures = jnp.asarray(_TEMPERATURES)
    keys = random.split(random.key(0), (len(temperatures), _NUM_CHAINS))
    all_chains = jax.vmap(jax.vmap(one_chain, (0, None)))
    return np.asarray(jax.jit(all_chains)(keys, temperatures), np.float64)
