"""The filter, and what comes before the first step

The backward filter of five modes and one state, n = 6, a site every tenth step, compiled; then the guide of eight modes
with H a latent: what set-up and compilation cost, against a step of SVI.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import random
from measure import TRIAL, Row, alternate, median_ms
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.infer import AutoFractionalSDE
from emberwalk.kernels.fractional import Linear, Sites, backward, fractional_coefficients
from emberwalk.models import fractional_sde, hurst_prior
from emberwalk.models.fractional import taken_over

from .setting import NUM_STEPS, REPEATS, SD, Compiled, pulled, seen_path, tangent

_LENGTHS = (20, 200) if TRIAL else (200, 2000, 20_000)


def rows() -> list[Row]:
    """By length and device, then the guide."""
    return [*(row for platform in ("cpu", "gpu") for row in _on(platform)), *_first_step()]


def _on(platform: str) -> list[Row]:
    """All lengths on the first device of a platform; none where there is no such device."""
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        return []
    functions = {f"{num}": partial(_program(), *jax.device_put(_path_of(num), device)) for num in _LENGTHS}
    times = alternate(functions, REPEATS)
    return [
        Row(
            f"filter on {device.device_kind}, {num} steps",
            median_ms(timing.wall),
            "ms",
            note=f"wall; {1e3 * median_ms(timing.wall) / int(num):.3g} us a step; "
            f"{median_ms(timing.cpu):.3g} ms CPU",
        )
        for num, timing in times.items()
    ]


def _program():
    return jax.jit(lambda linear, sites: backward(linear, sites).log_evidence)


def _path_of(num_steps: int) -> tuple[Linear, Sites]:
    """The step of a path of unit length and 200 steps, so many times: what a step is does not change its cost."""
    bank = fractional_coefficients(1.0, 200, num_modes=5)
    with taken_over(tangent):
        one = fractional_sde("x", pulled, lambda t, x: 1.0, [0.0, 1 / 200], 0.3, coefficients=bank)
    repeated = (jnp.repeat(x, num_steps, 0) for x in one[:3])
    seen = jnp.arange(num_steps + 1) % 10 == 9
    return Linear(*repeated, *one[3:]), Sites(jnp.zeros((num_steps + 1, 1)), seen[:, None, None] / SD**2)


def _first_step() -> list[Row]:
    """A step of SVI of four draws, and what is before the first."""
    model, y = seen_path(num_seen=NUM_STEPS, hurst=hurst_prior(2.0, 2.0), drift=pulled)

    def fitted() -> Callable[[], Any]:
        svi = SVI(model, AutoFractionalSDE(model), optax.adam(1e-2), Trace_ELBO(num_particles=4))
        state, update = svi.init(random.key(0), y), jax.jit(svi.update)
        return lambda: update(state, y)

    step = alternate({"step": Compiled(fitted)}, REPEATS)["step"]
    how = f"wall; H a latent, {NUM_STEPS} observations, eight modes, four draws a step"
    return [
        Row("guide: set-up and first step of SVI", step.first_wall, "s", note=how),
        Row(
            "guide: a later step", median_ms(step.wall), "ms", note=f"wall; {median_ms(step.cpu):.3g} ms CPU"
        ),
    ]
