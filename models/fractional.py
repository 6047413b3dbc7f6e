"""Stochastic differential equations driven by fractional noise, inside a NumPyro model.

    dX = b(t, X) dt + s(t, X) dB^H                                                                       (1)

B^H is fractional Brownian motion with Var B(t) = t^2H: above H = 1/2 a trend goes on, below it turns back, at 1/2 it
is Brownian. It is made of standard normals that are the sites of the model, through a bank of Ornstein-Uhlenbeck
processes (Daems, Opper, Crevecoeur and Birdal 2024; weights by the law of the increments) or exactly. So (1) runs
under NUTS, SVI and `Predictive` as it stands, and H is learnt like any other number.

    fractional_noise.py       noise that is itself seen: two distributions, and the prior of H
    fractional_path.py        B^H as a path
    fractional_equation.py    (1) as a guide gets it: what a step is, what is sampled, what is recorded
    fractional_solver.py      a step of (1): Euler or Heun
    fractional_increments.py  dB of normals
    fractional_start.py       x_0 of normals
    fractional_inputs.py      what is refused

What a reader would get wrong: (1) has no limit of Ito's kind unless H = 1/2. Noise that depends on the state is
Stratonovich's, by Heun.
"""

import csv
import warnings
from importlib import resources
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike
from numpyro.util import not_jax_tracer

from ..kernels.fractional import Coefficients
from ..kernels.fractional.ou_bank import Integrator
from .fractional_equation import FractionalSDE, State, current_hook, taken_over
from .fractional_increments import increments_by_cholesky, make_bank, standard_normal
from .fractional_inputs import (
    Number,
    check_names,
    coefficients_for,
    hurst_of_noises,
    make_grid,
    one_of,
    plate_shape,
)
from .fractional_noise import FractionalBrownianMotion, FractionalGaussianNoise, hurst_prior
from .fractional_path import fbm_path
from .fractional_solver import Field, Solver, checked_field
from .fractional_start import Start, state_shape

__all__ = [
    "FractionalBrownianMotion",
    "FractionalGaussianNoise",
    "FractionalSDE",
    "extend_noise",
    "fbm_path",
    "fractional_sde",
    "hurst_prior",
    "load_nile",
    "taken_over",
]

type Convention = Literal["stratonovich", "ito"]
type Noise = Literal["markov", "exact"]


def fractional_sde(
    name: str,
    drift: Field,
    diffusion: Field,
    ts: ArrayLike,
    hurst: Number,
    y0: Start = 0.0,
    *,
    substeps: ArrayLike = 1,
    noise: Noise = "markov",
    num_modes: int = 8,
    coefficients: Coefficients | None = None,
    integrator: Integrator = "exact",
    convention: Convention = "stratonovich",
    noise_dim: int | None = None,
    checkpoint: bool = False,
    save_path: bool = False,
) -> Float[Array, "..."]:
    """The path of a stochastic differential equation driven by fractional noise, equation (1) of the module.

    Args:
        name: of the path, a deterministic site.
        drift: b, (t, x) -> `[d]`; parameters and networks by closure, sampled before.
        diffusion: s, (t, x) -> `[d]`, a noise of its own for each state; with `noise_dim=P` (t, x) -> `[d, P]`.
        ts: `[M + 1]`, increasing, any spacing, concrete (NumPy). The path starts at ts[0].
        hurst: H in [.02, .98], one for all noises or `[P]` (in a plate of P paths `[1, P]`): a sample of
            `hurst_prior`, or `numpyro.param("hurst", 0.5, constraint=constraints.interval(.02, .98))`.
        y0: x(ts[0]): a number for a scalar state, without the axis d everywhere; `[d]`; or a law, such as a Normal.
        substeps: solver steps in each interval of ts, or `[M]` of them; more where the drift is fast.
        noise: "markov", by a bank, N P r normals (r is 4 or 5 for 8 modes) at a cost linear in N, and what
            `AutoFractionalSDE` wants; "exact", N P normals by a Cholesky factor: for NUTS up to N = 1000.
        num_modes: of the bank. 8; 5 recovers H as well and suits NUTS; see `fractional_coefficients`.
        coefficients: of the bank, from `fractional_coefficients` with the longest horizon. To be passed where the
            model is used at another ts too (a forecast): otherwise the bank would be another there.
        integrator: of the bank: "exact", or "euler" as published.
        convention: of noise that depends on the state: "stratonovich" (Heun), or "ito" (Euler), for H = 1/2 only.
            Without such noise both are Euler.
        noise_dim: P, the number of noises, where they are mixed.
        checkpoint: True keeps less for derivatives and computes drift and diffusion twice: for networks.
        save_path: records the solver's grid too, as `{name}_path`.

    Returns:
        x at ts, `[M + 1, d]`, `[M + 1]` for a scalar state. In `numpyro.plate("seq", B)` `[B, M + 1, d]`: y0 is
        `[B, d]`, or one number or law for all; H is shared, and drift and diffusion see the batch, x `[B, d]`.

    Sites: `{name}_init` where y0 is a law, `{name}_bank` `[P, r0]`, `{name}_noise` `[N, P, r]` ("exact": `[N, P]`), all
    standard normals; `{name}` and `{name}_path`, deterministic.

    A horizon T enters through the unit of time: x moves by s T^H in it. Choose the prior of s with that in mind.

    Raises:
        TypeError: for traced ts or coefficients.
        ValueError: for bad times or substeps, shapes that do not fit, a hurst out of range, more steps than the
            coefficients are made for, a name that is taken, an option that is not there.
        NotImplementedError: in a plate that subsamples, or in NumPyro's scan.

    Warns:
        UserWarning: for Ito's convention with noise that depends on the state, H not being fixed at 1/2; and for mixed
            noises that depend on the state, with H not above 1/2.

    Examples:
        >>> from emberwalk.models import fractional_sde, hurst_prior
        >>> ts = np.linspace(0.0, 1.0, 21)
        >>> def model(y):
        ...     H = numpyro.sample("H", hurst_prior())
        ...     k, s = (numpyro.sample(name, dist.HalfNormal()) for name in ("k", "s"))
        ...     x = fractional_sde("x", lambda t, x: -k * x, lambda t, x: s, ts, H, dist.Normal(), noise="exact")
        ...     numpyro.sample("y", dist.Normal(x[1:], 0.1), obs=y)
        >>> mcmc = MCMC(NUTS(model), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.sin(ts[1:]))
        >>> mcmc.get_samples()["x"].shape
        (5, 21)
    """
    _check_options(name, noise, integrator, convention, noise_dim)
    hook = current_hook()
    if hook is None:
        check_names(name)
    elif noise == "exact":
        raise ValueError(
            f'{name}: noise="exact" has no bank that a guide could filter. Take noise="markov", or NUTS.'
        )
    grid, batch = make_grid(name, ts, substeps), plate_shape(name)
    state = State(name, grid, batch, state_shape(name, y0, batch), y0, save_path)
    num_noises = noise_dim or state.size
    hurst = hurst_of_noises(name, hurst, num_noises, batch)
    solver = _solver(state, drift, diffusion, hurst, convention, noise_dim)
    if noise == "exact":
        return _exact_path(state, solver, jnp.asarray(hurst), num_noises, checkpoint)
    chosen = coefficients_for(name, grid, num_modes, coefficients)
    bank = make_bank(chosen, grid.steps, jnp.asarray(hurst), num_noises, integrator)
    equation = FractionalSDE(
        state, solver, bank, jnp.asarray(hurst), chosen, coefficients is not None, checkpoint
    )
    return _sampled_path(equation) if hook is None else hook(equation)


def extend_noise(
    rng_key: Key[Array, ""], samples: dict[str, Array], name: str, num_steps: int
) -> dict[str, Array]:
    """Draws of a path, continued: fresh normals behind the noise that was inferred.

    The noise is independent a priori, so that `Predictive(model, extended)(key, longer_ts)` is the forecast. The model
    must have been given its `coefficients`, for the longer horizon.

    Args:
        rng_key: of the fresh normals.
        samples: draws with `{name}_noise`, any leading axes, and whatever else the model samples.
        name: of the `fractional_sde`, or of an `fbm_path` of at most 1024 times or by "markov".
        num_steps: steps of the solver to add, substeps counted.

    Returns:
        The draws, `{name}_noise` longer, and by a bank as wide as steps of any length need; without the paths `{name}`
        and `{name}_path`, which `Predictive` makes anew.

    Raises:
        ValueError: if `{name}_noise` is not among the samples, or num_steps is no whole number above 0.

    Examples:
        >>> from emberwalk.kernels.fractional import fractional_coefficients
        >>> from emberwalk.models import extend_noise, fractional_sde
        >>> from numpyro.infer import Predictive
        >>> C = fractional_coefficients(horizon=15.0, num_steps=30)
        >>> def model(ts):
        ...     fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, ts, 0.3, substeps=2, coefficients=C)
        >>> seen = Predictive(model, num_samples=7)(random.key(0), np.arange(11.0))
        >>> longer = extend_noise(random.key(1), seen, "x", num_steps=10)
        >>> fan = Predictive(model, longer)(random.key(2), np.arange(16.0))["x"]
        >>> fan.shape, bool(jnp.allclose(fan[:, :11], seen["x"], atol=1e-5))
        ((7, 16), True)
    """
    site = f"{name}_noise"
    if site not in samples:
        raise ValueError(
            f"extend_noise: {site!r} is not among the samples {sorted(samples)}. Keep the noise when sampling; a path "
            "without it cannot be continued."
        )
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"extend_noise: num_steps must be a whole number of at least 1, got {num_steps!r}.")
    noise, bank = jnp.asarray(samples[site]), samples.get(f"{name}_bank")
    if bank is None:
        *batch, N, P = noise.shape
        longer = random.normal(rng_key, (*batch, N + num_steps, P), noise.dtype).at[..., :N, :].set(noise)
    else:
        # steps of other lengths may have more noises, at most as many as the start; they are 0 for those before
        *batch, N, P, r = noise.shape
        wide = (*batch, N + num_steps, P, max(r, bank.shape[-1]))
        longer = random.normal(rng_key, wide, noise.dtype).at[..., :N, :, :r].set(noise)
    kept = {key: value for key, value in samples.items() if key not in (name, f"{name}_path")}
    return kept | {site: longer}


def load_nile() -> tuple[Int[np.ndarray, "663"], Float[np.ndarray, "663"]]:
    """Yearly minima of the Nile near Cairo, 622 to 1284: the best known series with long memory.

    From the public project LongMemory.jl (MIT licence), examples/NileRiverMin.csv.

    Returns:
        The years, and the minima, 663 each, without a gap.

    Examples:
        >>> from emberwalk.models import load_nile
        >>> years, minima = load_nile()
        >>> len(years), int(years[0]), float(minima[0]), round(float(minima.mean()), 2)
        (663, 622, 1157.0, 1148.13)
    """
    file = resources.files(__package__) / "data" / "nile_minima.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    years = np.array([int(row["Year"]) for row in rows])
    return years, np.array([float(row["NileMin"]) for row in rows])


def _check_options(name: str, noise: str, integrator: str, convention: str, noise_dim: int | None) -> None:
    one_of(name, "noise", noise, ("markov", "exact"))
    one_of(name, "integrator", integrator, ("exact", "euler"))
    one_of(name, "convention", convention, ("stratonovich", "ito"))
    if noise_dim is not None and (not isinstance(noise_dim, int) or noise_dim < 1):
        raise ValueError(f"{name}: noise_dim must be a whole number of at least 1, got {noise_dim!r}.")


def _solver(
    state: State,
    drift: Field,
    diffusion: Field,
    hurst: Number,
    convention: Convention,
    noise_dim: int | None,
) -> Solver:
    columns = () if noise_dim is None else (noise_dim,)
    b = checked_field(state.name, "drift", drift, state.batch, state.shape)
    s = checked_field(state.name, "diffusion", diffusion, state.batch, state.shape, columns)
    if s.uses_state:
        _warn_of_the_limit(state.name, convention, hurst, is_mixed=(noise_dim or 1) > 1)
    is_heun = s.uses_state and convention == "stratonovich"
    return Solver(b.field, s.field, noise_dim is not None, is_heun)


def _warn_of_the_limit(name: str, convention: Convention, hurst: Number, is_mixed: bool) -> None:
    """Where the noise depends on the state: what is known of the limit of small steps."""
    known = np.asarray(hurst) if not_jax_tracer(hurst) else None
    if convention == "ito" and not (known is not None and (known == 0.5).all()):
        warnings.warn(
            f'{name}: with noise that depends on the state, convention="ito" diverges with smaller steps for hurst '
            'below 1/2, and for hurst above it has no correction. Take "stratonovich", or fix hurst at .5.',
            UserWarning,
            stacklevel=4,
        )
    if is_mixed and not (known is not None and (known > 0.5).all()):
        warnings.warn(
            f"{name}: mixed noises that depend on the state have no one limit of small steps for hurst of 1/2 and "
            "below, unless they commute. Take a noise for each state (noise_dim=None), or hurst above 1/2.",
            UserWarning,
            stacklevel=4,
        )


def _sampled_path(equation: FractionalSDE) -> Array:
    """The model as it is without a guide."""
    batch, noise = equation.state.batch, f"{equation.name}_noise"
    values = {
        site: standard_normal(site, shape, batch, may_be_wider=site == noise)
        for site, shape in equation.site_shapes.items()
    }
    return equation.record(equation.path(*equation.from_sites(values)))


def _exact_path(state: State, solver: Solver, hurst: Array, num_noises: int, checkpoint: bool) -> Array:
    z = [standard_normal(site, shape, state.batch) for site, shape in state.start_sites.items()]
    e = standard_normal(f"{state.name}_noise", (len(state.grid.steps), num_noises), state.batch)
    dB = increments_by_cholesky(jnp.moveaxis(e, -2, 0), state.grid.fine, hurst)
    x0 = state.start(z[0] if z else None)
    return state.record(solver.path(x0, dB, state.grid.fine, checkpoint))
