"""`ControlGuide`: the published guide, a control of the noise by a network, as the baseline.

    e_n ~ N(u(t_n, z_n, context), I),   u an MLP that is 0 at first                                      (1)
    b ~ N(m, diag s^2) learnt, or the prior N(0, I), as published                                        (2)

Daems, Opper, Crevecoeur and Birdal (2024). (1) moves the mean of the noise and leaves its variance, and has a floor on
its gap whatever the network: 3.4 nats for one observation at H = .1 and 200 steps
(`kernels.fractional.control_floor`). `AutoFractionalSDE` has none.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro
from jax import random
from jaxtyping import Array
from numpyro.distributions import constraints
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_median

from ...kernels.fractional import simulate_control
from ...models.fractional import FractionalSDE
from .data import encoder_data
from .model_runs import Model, Reading, Values
from .networks import Features, clock_of, declared, network_of, over_batch
from .path_guide import PathDraw, PathGuide, check_observed

type Initial = Literal["learnt", "prior"]


class ControlGuide(PathGuide):
    """Equations (1) and (2) of the module.

    Args:
        model: with one `fractional_sde(..., noise="markov")`.
        prefix: of the names of params.
        encoder: (y `[M, ...]`, mask, ts `[M]`) -> context `[M, C]`, of which the control sees the value at its time,
            on straight lines between ts; None: time and state alone.
        encoder_site: name of the observed site that it reads, where there are several.
        width: of the network.
        depth: its hidden layers.
        initial: law of the bank's start (and of a random x_0), "learnt" or "prior".
        inner: guide class for the other latents; None: `AutoMultivariateNormal`.
        init_loc_fn: where the other latents begin.

    Raises:
        ValueError: for options at once; for models when first called, by name.

    Examples:
        >>> import optax
        >>> from emberwalk.infer import ControlGuide
        >>> from emberwalk.models import fractional_sde
        >>> from numpyro.infer import SVI, Trace_ELBO
        >>> ts = np.linspace(0.0, 1.0, 21)
        >>> def model(y=None):
        ...     x = fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, ts, 0.3)
        ...     numpyro.sample("y", dist.Normal(x[-1], 0.1), obs=y)
        >>> svi = SVI(model, ControlGuide(model, width=16), optax.adam(0.01), Trace_ELBO())
        >>> svi.run(random.key(0), 20, jnp.array(1.0), progress_bar=False).losses.shape
        (20,)
    """

    def __init__(
        self,
        model: Model,
        *,
        prefix: str = "auto",
        encoder: Callable[..., Array] | None = None,
        encoder_site: str | None = None,
        width: int = 64,
        depth: int = 2,
        initial: Initial = "learnt",
        inner: type[AutoGuide] | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
    ):
        super().__init__(model, prefix=prefix, inner=inner, init_loc_fn=init_loc_fn)
        for name, value in (("width", width), ("depth", depth)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}.")
        if initial not in ("learnt", "prior"):
            raise ValueError(f'initial must be "learnt" or "prior", got {initial!r}.')
        if encoder_site is not None and encoder is None:
            raise ValueError("encoder_site names what an encoder reads, and there is no encoder.")
        self.encoder, self.encoder_site = encoder, encoder_site
        self.width, self.depth, self.initial = width, depth, initial
        self._network: Any = None
        self._reads_data = encoder is not None

    def look_at(self, reading: Reading, args: tuple, kwargs: Values) -> None:
        """See `PathGuide`."""
        check_observed(reading)
        equation = reading.equation
        size = self._context(reading).shape[-1]
        P, K = equation.bank.weights.shape
        num_in = 2 + equation.state.size + P * K + size
        num_out = equation.num_step_noises
        self._network = network_of(num_in, num_out, self.width, self.depth, numpyro.prng_key())

    def draw_path(self, key: Any, reading: Reading, args: tuple, kwargs: Values) -> PathDraw:
        """See `PathGuide`."""
        equation = reading.equation
        key_start, key_steps = random.split(key)
        b, log_start = self._start(key_start, equation)
        shape = (len(equation.state.grid.steps), *equation.state.batch, equation.num_step_noises)
        noise = random.normal(key_steps, shape)
        network = over_batch(declared(f"{self.prefix}_control", self._network), len(equation.state.batch))
        features = Features(clock_of(equation), self._context(reading))
        step = lambda z, e, inputs: equation.step(z, e, inputs[0])  # noqa: E731
        path = simulate_control(
            noise, partial(_control, network), step, equation.start(b), (equation.inputs, features)
        )
        log_prob = log_start + _log_normal(noise).sum(0)
        return PathDraw(b, path.e, path.z[..., : equation.state.size], log_prob)

    def _start(self, key: Any, equation: FractionalSDE) -> tuple[Array, Array]:
        """A draw of (2), and its log density."""
        shape = (*equation.state.batch, equation.num_start_noises)
        xi = random.normal(key, shape)
        if self.initial == "prior":
            return xi, _log_normal(xi)
        loc = numpyro.param(f"{self.prefix}_start_loc", jnp.zeros(shape))
        scale = numpyro.param(
            f"{self.prefix}_start_scale", jnp.ones(shape), constraint=constraints.softplus_positive
        )
        return loc + scale * xi, _log_normal(xi) - jnp.sum(jnp.log(scale), -1)

    def _context(self, reading: Reading) -> Array:
        """What the encoder says at the time of each step, `[N, *B, C]`."""
        equation = reading.equation
        grid, batch = equation.state.grid, equation.state.batch
        if self.encoder is None:
            return jnp.zeros((len(grid.steps), *batch, 0))
        y, mask = encoder_data(reading, check_observed(reading), self.encoder_site)
        ts = jnp.asarray(grid.ts[1:], jnp.result_type(float))
        network = declared(f"{self.prefix}_encoder", self.encoder)
        read = lambda y, mask: network(y, mask, ts)  # noqa: E731
        line = lambda values: jnp.interp(equation.inputs.t, ts, values)  # noqa: E731
        along = lambda context: jax.vmap(line, 1, 1)(context)  # noqa: E731
        for _ in batch:
            read, along = jax.vmap(read), jax.vmap(along, out_axes=1)
        return along(read(y, mask))


def _control(network: Callable[[Array], Array], z: Array, inputs: tuple[Any, Features]) -> Array:
    return network(inputs[1].beside(z))


def _log_normal(xi: Array) -> Array:
    return -(jnp.sum(xi**2, -1) + xi.shape[-1] * math.log(2 * math.pi)) / 2
