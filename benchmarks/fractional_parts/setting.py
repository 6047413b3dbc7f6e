"""The path that most parts look at, how much is run, and the ELBO as one program: shared by the parts."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import lax, random
from measure import ROOT, TRIAL, Row, Timing, median_ms, ratio
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.kernels.fractional import (
    Coefficients,
    Floor,
    Linear,
    Sites,
    backward,
    control_floor,
    fractional_coefficients,
)
from emberwalk.models import fractional_sde
from emberwalk.models.fractional import FractionalSDE, taken_over

IMAGES = ROOT / "docs" / "images"
REPEATS = 3 if TRIAL else 15
NUM_STEPS = 100 if TRIAL else 200
NUM_SEEN = 10
WIDTH = 8 if TRIAL else 64
SD = 0.1
HURSTS = (0.1, 0.3, 0.5, 0.7, 0.9)
PAPERS_HORIZON, PAPERS_MODES = 2.0, 5


def papers_coefficients(horizon: float = 3 * PAPERS_HORIZON, num_steps: int = 3 * NUM_STEPS) -> Coefficients:
    """As in the published code: rates from 1/20 to 20, weights by the error of the path.

    Args:
        horizon: up to which they are fitted; published: thrice the length of the path.
        num_steps: in it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="5 modes are")  # which is what a table shows
        return fractional_coefficients(
            horizon, num_steps, num_modes=PAPERS_MODES, criterion="path", grid="paper"
        )


def still(t, x):
    """No drift: the path is fractional Brownian motion."""
    return jnp.zeros_like(x)


def pulled(t, x):
    """Drift of a fractional Ornstein-Uhlenbeck process."""
    return -x


def seen_path(
    num_steps: int = NUM_STEPS,
    num_seen: int = NUM_SEEN,
    horizon: float = 1.0,
    *,
    hurst: float | dist.Distribution | None = None,
    drift: Callable[..., Any] = still,
    **options: Any,
) -> tuple[Callable[..., None], jax.Array]:
    """A path of unit scale from 0, seen at equal distances with noise of sd .1, and data that are all 0.

    Args:
        num_steps: N.
        num_seen: how often it is seen.
        horizon: length of time.
        hurst: H, or its prior; None: a param that begins at .3, so that whatever depends on it has to be computed.
        drift: of the path.
        options: of `fractional_sde`.
    """
    ts = np.linspace(0.0, horizon, num_steps + 1)
    at = np.arange(num_steps // num_seen, num_steps + 1, num_steps // num_seen)

    def model(y):
        if hurst is None:
            H = numpyro.param("hurst", 0.3, constraint=constraints.interval(0.02, 0.98))
        else:
            H = numpyro.sample("H", hurst) if isinstance(hurst, dist.Distribution) else hurst
        x = fractional_sde("x", drift, lambda t, x: 1.0, ts, H, **options)
        numpyro.sample("y", dist.Normal(x[at], SD), obs=y)

    return model, jnp.zeros(len(at))


class Objective:
    """The ELBO and its gradient in all params, one compiled program.

    Args:
        model: see `seen_path`.
        guide: of it.
        y: data.
        num_particles: paths.

    Attributes:
        memory: bytes that the program needs beside its arguments and results.
    """

    def __init__(self, model: Callable[..., None], guide: Any, y: jax.Array, num_particles: int):
        loss = Trace_ELBO(num_particles=num_particles)
        svi = SVI(model, guide, optax.adam(1e-3), loss)
        params = svi.optim.get_params(svi.init(random.key(0), y).optim_state)

        def negative_elbo(params, key, y):
            return loss.loss(key, svi.constrain_fn(params), model, guide, y)

        self._arguments = (params, random.key(1), y)
        self._run = jax.jit(jax.value_and_grad(negative_elbo)).lower(*self._arguments).compile()
        self.memory = self._run.memory_analysis().temp_size_in_bytes

    def __call__(self) -> Any:
        return self._run(*self._arguments)


class Compiled:
    """A function of no arguments that is made when first called, so that its compilation is in the first call."""

    def __init__(self, make: Callable[..., Callable[[], Any]], *args: Any, **kwargs: Any):
        self._make, self._made = partial(make, *args, **kwargs), None

    def __call__(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made()


class Mean(NamedTuple):
    """Of independent draws.

    Attributes:
        value: mean.
        error: of it.
    """

    value: float
    error: float


def elbo_draws(svi: SVI, num_draws: int) -> Callable[[dict[str, Any], jax.Array], Mean]:
    """(params, y) -> the ELBO, one program for all params."""
    one = Trace_ELBO()

    @jax.jit
    def draws(params, y):
        def draw(key):
            return -one.loss(key, params, svi.model, svi.guide, y)

        return lax.map(draw, random.split(random.key(2), num_draws), batch_size=50)

    def mean(params, y):
        values = np.asarray(draws(params, y), float)
        return Mean(values.mean(), values.std(ddof=1) / num_draws**0.5)

    return mean


def svi_steps(svi: SVI, num_steps: int) -> Callable[[Any, jax.Array], Any]:
    """(state, y) -> state, so many steps later, in one program."""

    @jax.jit
    def run(state, y):
        return lax.fori_loop(0, num_steps, lambda _, state: svi.update(state, y)[0], state)

    return run


class Exact(NamedTuple):
    """What is known of `seen_path` without drift, at a given H and data that are all 0.

    Attributes:
        log_evidence: nats.
        floor: what a control loses.
    """

    log_evidence: float
    floor: Floor


def exact_of(hurst: float, num_seen: int, horizon: float = 1.0, **options: Any) -> Exact:
    """By the filter, in which a linear model is exact."""
    ts = np.linspace(0.0, horizon, NUM_STEPS + 1)
    with taken_over(tangent):
        linear = fractional_sde("x", still, lambda t, x: 1.0, ts, hurst, **options)
    at = np.arange(NUM_STEPS + 1)
    seen = jnp.asarray((at > 0) & (at % (NUM_STEPS // num_seen) == 0), jnp.result_type(float))
    sites = Sites(jnp.zeros((len(ts), 1)), seen[:, None, None] / SD**2)
    evidence, floor = jax.jit(lambda *args: (backward(*args).log_evidence, control_floor(*args)))(
        linear, sites
    )
    return Exact(float(evidence) - num_seen * float(np.log(2 * np.pi * SD**2)) / 2, floor)


def tangent(equation: FractionalSDE) -> Linear:
    """The step of a linear equation: the same at every path."""
    e = jnp.zeros((len(equation.state.grid.steps), equation.num_step_noises))
    z = equation.start(jnp.zeros(equation.num_start_noises))
    return equation.linear(jnp.zeros((len(e) + 1, *z.shape)), e)


def compared(
    name: str, over: Timing, under: Timing, at_least: float | None = None, at_most: float | None = None
) -> list[Row]:
    """A ratio of times by both clocks, with both times."""
    found = []
    for clock in ("wall", "cpu"):
        each = ratio(over, under, clock)
        times = [median_ms(getattr(timing, clock)) for timing in (over, under)]
        note = f"{times[0]:.3g} against {times[1]:.3g} ms"
        found.append(Row(f"{name}, {clock}", each.median, "x", at_least, at_most, each, note))
    return found
