"""A network potential: a step of SG-MCMC beside one of Adam

Forces of ethanol by `DistancePotential`, 2272 parameters, 200 geometries, batches of 20: BAOAB with layerwise mass in
`MCMC`, over a jitted scan of optax's Adam on the squared error of the forces of as many geometries.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random
from measure import TRIAL, Row, alternate

from emberwalk.infer import SGMCMC
from emberwalk.kernels.sgmcmc import baoab
from emberwalk.models import DistancePotential, force_matching, init_to_module, load_ethanol

from .setting import SIZES, Slope, kept_programs, sampled, step_row

_NUM_GEOMETRIES, _BATCH = 200, 20
_SHORT, _LONG = (20, 120) if TRIAL else (1000, 11_000)
_STEP_SIZE = 6e-5


@kept_programs()
def rows() -> list[Row]:
    """Reported, without a bar."""
    train = load_ethanol().train
    positions, forces = (jnp.asarray(array[:_NUM_GEOMETRIES]) for array in (train.positions, train.forces))

    def build(key):
        return DistancePotential(train.positions[:_NUM_GEOMETRIES], energy_scale=1.0, key=key)

    net, scale = build(random.key(0)), float(np.sqrt(np.mean(forces**2)))
    kernel = SGMCMC(
        partial(force_matching, net=net, subsample_size=_BATCH, force_scale=scale),
        baoab(_STEP_SIZE, friction=0.05 / _STEP_SIZE, mass="layerwise"),
        init_strategy=init_to_module("net", build),
    )
    functions = {
        "ours": Slope(sampled(kernel, (positions, forces)), _SHORT, _LONG),
        "adam": Slope(adam(net, positions, forces), _SHORT, _LONG),
    }
    times = alternate(functions, SIZES.repeats)
    name = "step of SGMCMC(baoab) / step of Adam, the same batch"
    return [step_row(name, times["ours"], times["adam"], num_steps=_LONG - _SHORT)]


def adam(net: DistancePotential, positions, forces) -> Callable[[int], Any]:
    """Number of steps -> losses."""
    optimiser = optax.adam(1e-3)
    start, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(parameters, batch):
        predicted = jax.vmap(eqx.combine(parameters, static).forces)(positions[batch])
        return jnp.mean((predicted - forces[batch]) ** 2)

    def step(carry, key):
        parameters, state = carry
        batch = random.randint(key, (_BATCH,), 0, len(positions))
        value, gradient = jax.value_and_grad(loss)(parameters, batch)
        updates, state = optimiser.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    @partial(jax.jit, static_argnums=0)
    def run(num_steps):
        return lax.scan(step, (start, optimiser.init(start)), random.split(random.key(0), num_steps))[1]

    return run
