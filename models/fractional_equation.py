"""A stochastic differential equation driven by fractional noise, as it stands in one trace of a model.

    dX = b(t, X) dt + s(t, X) dB^H,   B^H from a bank:   z = (x, y) is Markov, z+ = F_n(z, e_n)           (1)
    z_0 = (x_0, L0 b),   b, e_0, ..., e_{N-1} ~ N(0, I)                                                   (2)

Daems et al. (2024). `FractionalSDE` is (1) and (2) for whoever wants the law of the noises given data: a guide. It
gets the equation by `taken_over`, which is all that inference knows of this model.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ..kernels.fractional import BankState, BankStep, Coefficients, Linear
from ..kernels.fractional import step as bank_step
from .fractional_increments import Bank
from .fractional_inputs import Grid
from .fractional_solver import Solver
from .fractional_start import Start, from_normal, is_affine

type Hook = Callable[["FractionalSDE"], Array]

_THREAD = threading.local()


@contextmanager
def taken_over(hook: Hook) -> Iterator[None]:
    """Within, `fractional_sde` hands its equation to `hook`, samples nothing, and returns what the hook returns.

    For one thread; within another of its kind, the inner one holds.

    Args:
        hook: `FractionalSDE` -> the path as `FractionalSDE.record` returns it.

    Examples:
        >>> from emberwalk.models import fractional_sde
        >>> from emberwalk.models.fractional import taken_over
        >>> with taken_over(lambda equation: equation.site_shapes):
        ...     fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, np.arange(11.0), 0.3)
        {'x_bank': (1, 8), 'x_noise': (10, 1, 5)}
    """
    before = current_hook()
    _THREAD.hook = hook
    try:
        yield
    finally:
        _THREAD.hook = before


def current_hook() -> Hook | None:
    """What `taken_over` has set in this thread."""
    return getattr(_THREAD, "hook", None)


@dataclass(frozen=True, eq=False)
class State:
    """What a path is called, how its state is shaped, where it starts and which of it is shown.

    Attributes:
        name: of the site.
        grid: times of the solver, and which of them are outputs.
        batch: shape of the plates around it; () outside.
        shape: of the user's state, () or (d,). Here a scalar is a state of d = 1.
        y0: x_0 or its law, as the user gave it.
        save_path: whether the fine grid is recorded.
    """

    name: str
    grid: Grid
    batch: tuple[int, ...]
    shape: tuple[int, ...]
    y0: Start
    save_path: bool

    @property
    def size(self) -> int:
        """d."""
        return self.shape[0] if self.shape else 1

    @property
    def start_sites(self) -> dict[str, tuple[int, ...]]:
        """The site of a random x_0, and its shape within the plate."""
        return {f"{self.name}_init": self.shape} if isinstance(self.y0, dist.Distribution) else {}

    def start(self, z: Float[Array, "*B d"] | None) -> Float[Array, "*B d"]:
        """x_0, of standard normals where it is random."""
        if isinstance(self.y0, dist.Distribution):
            x0 = from_normal(self.y0, jnp.asarray(z).reshape(self.batch + self.shape))
        else:
            x0 = jnp.asarray(self.y0, jnp.result_type(float))
        return jnp.broadcast_to(x0, self.batch + self.shape).reshape((*self.batch, self.size))

    def record(self, x: Float[Array, "N+1 *B d"]) -> Array:
        """The deterministic sites of a path on the fine grid; returns `[*B, M + 1, *shape]`, at the outputs."""
        if self.save_path:
            numpyro.deterministic(f"{self.name}_path", self._shown(x))
        return numpyro.deterministic(self.name, self._shown(x[self.grid.outputs]))

    def _shown(self, x: Float[Array, "T *B d"]) -> Array:
        x = jnp.moveaxis(x, 0, -2)
        return x if self.shape else x[..., 0]


class StepInputs(NamedTuple):
    """What steps differ by, with a leading axis N for all of them.

    Attributes:
        t: time before the step.
        dt: its length.
        bank: factors of the bank.
    """

    t: Float[Array, "*N"]
    dt: Float[Array, "*N"]
    bank: BankStep


@dataclass(frozen=True, eq=False)
class FractionalSDE:
    """Equations (1) and (2) of the module: the contract between `fractional_sde` and a guide.

    z is `[*B, n]`, n = d + P K: x, then the banks of P noises with K modes each; e is `[*B, P r]`; b is `[*B, R]`, R =
    P r0, and d more where x_0 is random. *B are the plates around the call. Outside of plates `start` and `step` are
    what the filter wants: `simulate(key, gains, equation.start, equation.step, equation.inputs)`.

    **Linearisation** is that of the solver's own step, so that Heun and noise that depends on the state are no cases
    of their own. In a plate drift and diffusion see all sequences at once and cannot be mapped over them; but
    sequences do not meet, and a shift that all share gives the Jacobian of each for the price of one, `[*B, n, n]`:

        jax.jacfwd(lambda dz: equation.step(z + dz, e, inputs))(jnp.zeros(n))

    `linear` does it, for all steps and the start; `jax.vmap(backward)` then filters the plate.

    **Sites**: `site_shapes`, all standard normals a priori; `to_sites` and `from_sites` go between them and (b, e).
    `record` makes the deterministic ones, and returns what the hook has to return.

    **Closures** hold the values of the trace in which the equation was made: H, drift, diffusion, y0. Use it there.

    Attributes:
        state: name, grid, plates, y0, what is recorded.
        solver: drift, diffusion and scheme; here a scalar state has the axis d that the user's functions do not see.
        bank: factors of each step and of the start, weights at H.
        hurst: H as it was given, () or `[P]`; out of range the bank has it at the nearest end.
        coefficients: of the bank.
        coefficients_given: whether the user passed them; otherwise another ts has another bank.
        checkpoint: what the user asked for.

    Examples:
        >>> from emberwalk.kernels.fractional import Sites, backward
        >>> from emberwalk.models import fractional_sde
        >>> from emberwalk.models.fractional import taken_over
        >>> def hook(equation):  # the evidence of x(t_10) = 0 +- .1, of a linear equation: anywhere is the same
        ...     z, e = jnp.zeros((11, 1 + 8)), jnp.zeros((10, equation.num_step_noises))
        ...     seen = Sites(jnp.zeros((11, 1)), jnp.zeros((11, 1, 1)).at[10].set(100.0))
        ...     return jax.jit(lambda z, e: backward(equation.linear(z, e), seen).log_evidence)(z, e)
        >>> with taken_over(hook):
        ...     found = fractional_sde("x", lambda t, x: 0.0, lambda t, x: 1.0, np.linspace(0.0, 1.0, 11), 0.3)
        >>> bool(abs(found + jnp.log(101.0) / 2) < 0.01)  # Var x(1) is 1
        True
    """

    state: State
    solver: Solver
    bank: Bank
    hurst: Array
    coefficients: Coefficients
    coefficients_given: bool
    checkpoint: bool

    @property
    def name(self) -> str:
        """Of the path's site."""
        return self.state.name

    @property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """Sample sites and their shapes within the plate, in the order in which the model samples them."""
        noises = {f"{self.name}_bank": self.bank.start_shape, f"{self.name}_noise": self.bank.noise_shape}
        return self.state.start_sites | noises

    @property
    def num_start_noises(self) -> int:
        """R."""
        P, r0 = self.bank.start_shape
        return P * r0 + (self.state.size if self.state.start_sites else 0)

    @property
    def num_step_noises(self) -> int:
        """P r."""
        _, P, r = self.bank.noise_shape
        return P * r

    @property
    def inputs(self) -> StepInputs:
        """Of all steps."""
        dtype, grid = jnp.result_type(float), self.state.grid
        return StepInputs(jnp.asarray(grid.fine[:-1], dtype), jnp.asarray(grid.steps, dtype), self.bank.steps)

    def start(self, b: Float[Array, "*B R"]) -> Float[Array, "*B n"]:
        """z_0, equation (2)."""
        bank, init = self._parts(b)
        return _joined(self.state.start(init), self.bank.start(bank))

    def step(
        self, z: Float[Array, "*B n"], e: Float[Array, "*B Pr"], inputs: StepInputs
    ) -> Float[Array, "*B n"]:
        """z+, equation (1); `inputs` are of this step, without the leading axis."""
        d, (P, K) = self.state.size, self.bank.weights.shape
        x, y = z[..., :d], z[..., d:].reshape(*z.shape[:-1], P, K)
        noise = e.reshape(*e.shape[:-1], P, -1)
        bank, dB = bank_step(BankState(y), noise, inputs.bank, self.bank.weights)
        return _joined(self.solver.advance(x, dB, inputs.t, inputs.dt), bank.y)

    def path(self, b: Float[Array, "*B R"], e: Float[Array, "N *B Pr"]) -> Float[Array, "N+1 *B d"]:
        """x on the fine grid, as `start` and `step` make it, with the bank's part done for all steps at once."""
        bank, init = self._parts(b)
        noise = e.reshape(*e.shape[:-1], bank.shape[-2], -1)
        dB = self.bank.increments(bank, noise)
        return self.solver.path(self.state.start(init), dB, self.state.grid.fine, self.checkpoint)

    @property
    def has_linear_start(self) -> bool:
        """Whether z_0 is known to be linear in b: x_0 is given, or its law is a normal."""
        y0 = self.state.y0
        return not isinstance(y0, dist.Distribution) or is_affine(y0)

    def linear_start(self, b: Float[Array, "*B R"]) -> tuple[Float[Array, "*B n"], Float[Array, "*B n R"]]:
        """(c, L), the tangent c + L b of the start there."""
        factor = jax.jacfwd(lambda db: self.start(b + db))(jnp.zeros(b.shape[-1], b.dtype))
        return self.start(b) - _times(factor, b), factor

    def linear(self, z: Float[Array, "N+1 *B n"], e: Float[Array, "N *B Pr"]) -> Linear:
        """The tangent of all steps at (z_n, e_n), and of the start at b = 0, `[*B, ...]`.

        The start has one of its own, `linear_start`, for a law that is not normal.

        In a plate each field has the batch before it: `jax.vmap(backward)(equation.linear(z, e), sites)`.
        """

        def tangent(z, e, inputs):
            def shifted(dz, de):
                return self.step(z + dz, e + de, inputs)

            M, L = jax.jacfwd(shifted, (0, 1))(jnp.zeros_like(z, shape=n), jnp.zeros_like(e, shape=r))
            return M, shifted(0.0, 0.0) - _times(M, z) - _times(L, e), L

        n, r = z.shape[-1:], e.shape[-1:]
        over_time = len(self.state.batch)
        M, c, L = (jnp.moveaxis(x, 0, over_time) for x in jax.vmap(tangent)(z[:-1], e, self.inputs))
        b = jnp.zeros((*self.state.batch, self.num_start_noises), z.dtype)
        return Linear(M, c, L, *self.linear_start(b))

    def record(self, x: Float[Array, "N+1 *B d"]) -> Array:
        """The deterministic sites of a path, `z[..., :d]`; returns it as the model has it, see `State.record`."""
        return self.state.record(x)

    def to_sites(self, b: Float[Array, "*B R"], e: Float[Array, "N *B Pr"]) -> dict[str, Array]:
        """Values of the sample sites."""
        bank, init = self._parts(b)
        values = dict.fromkeys(self.state.start_sites, init)
        values |= {f"{self.name}_bank": bank, f"{self.name}_noise": jnp.moveaxis(e, 0, -2)}
        return {
            site: values[site].reshape(self.state.batch + shape) for site, shape in self.site_shapes.items()
        }

    def from_sites(self, values: dict[str, Array]) -> tuple[Float[Array, "*B R"], Float[Array, "N *B Pr"]]:
        """(b, e) of the values of the sample sites."""
        batch = self.state.batch
        starts = [values[f"{self.name}_bank"], *(values[site] for site in self.state.start_sites)]
        b = jnp.concatenate([value.reshape(*batch, -1) for value in starts], -1)
        e = jnp.moveaxis(values[f"{self.name}_noise"], -3, 0)
        return b, e.reshape(len(e), *batch, -1)

    def _parts(self, b: Float[Array, "*B R"]) -> tuple[Float[Array, "*B P r0"], Float[Array, "*B rest"]]:
        """Noises of the banks, and of a random x_0."""
        P, r0 = self.bank.start_shape
        return b[..., : P * r0].reshape(*b.shape[:-1], P, r0), b[..., P * r0 :]


def _joined(x: Float[Array, "*B d"], y: Float[Array, "*B P K"]) -> Float[Array, "*B n"]:
    return jnp.concatenate([x, y.reshape(*y.shape[:-2], -1)], -1)


def _times(matrix: Float[Array, "*B n m"], vector: Float[Array, "*B m"]) -> Float[Array, "*B n"]:
    return jnp.einsum("...nm,...m->...n", matrix, vector)
