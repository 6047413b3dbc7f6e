"""What a fractional model is given, checked before anything is traced, and the context in which it is called.

A function refuses one thing, names the site it is for, the value seen, and the way out. Times are float64 on the
host: step lengths decide the factors of the bank, and a difference of float32 times is not a step length.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.handlers import block, infer_config, trace
from numpyro.primitives import _PYRO_STACK, plate
from numpyro.util import not_jax_tracer

from ..kernels.fractional import Coefficients, fractional_coefficients
from ..kernels.fractional.coefficients import HURST_RANGE
from ..kernels.fractional.tables import DESIGN_STEPS

# a number or an array of them, traced or not
type Number = jax.typing.ArrayLike

SUFFIXES = ("", "_init", "_bank", "_noise", "_path")
# of float32 at the ends of the range, and of step lengths in a sum of many
_SLACK = 1e-6


class Grid(NamedTuple):
    """Times of a path, float64 on the host.

    Attributes:
        fine: where the solver is, `[N + 1]`.
        outputs: which of them the user asked for, `[M + 1]`.
        rounding: how far a time may be off, by the precision in which it was given.
    """

    fine: Float[np.ndarray, " N+1"]
    outputs: Int[np.ndarray, " M+1"]
    rounding: float = 0.0

    @property
    def ts(self) -> Float[np.ndarray, " M+1"]:
        """Times that the user asked for."""
        return self.fine[self.outputs]

    @property
    def steps(self) -> Float[np.ndarray, " N"]:
        """Lengths of the steps."""
        return np.diff(self.fine)


def concrete_times(name: str, ts: ArrayLike | Array, at_least: int = 2) -> Float[np.ndarray, " M"]:
    """Times as they are on the host.

    Raises:
        TypeError: for a traced array.
        ValueError: for too few times, or at the first that is not finite or not after the one before.
    """
    if not not_jax_tracer(ts):
        raise TypeError(f"{name}: ts must be a concrete array: pass it by closure or static kwargs.")
    times = np.asarray(ts, np.float64)
    if times.ndim != 1 or len(times) < at_least:
        raise ValueError(f"{name}: ts must be a row of at least {at_least} times, got shape {times.shape}.")
    wrong = ~np.isfinite(times)
    wrong[1:] |= ~(np.diff(times) > 0)
    if wrong.any():
        i = int(wrong.argmax())
        before = f" after ts[{i - 1}] = {times[i - 1]}" if i else ""
        raise ValueError(
            f"{name}: ts must be finite and increasing, got ts[{i}] = {times[i]}{before}. "
            "Sort the times and merge equal ones."
        )
    return times


def make_grid(name: str, ts: ArrayLike | Array, substeps: ArrayLike = 1) -> Grid:
    """Each interval of ts in `substeps` equal steps, a number for all or one each.

    Raises:
        TypeError: as `concrete_times`.
        ValueError: as `concrete_times`, and for substeps that are no whole numbers above 0, or not one an interval.
    """
    times = concrete_times(name, ts)
    counts, num = np.asarray(substeps), len(times) - 1
    if not (np.issubdtype(counts.dtype, np.integer) and counts.shape in ((), (num,)) and (counts >= 1).all()):
        raise ValueError(
            f"{name}: substeps must be a whole number of at least 1, or [{num}] of them, one for each interval "
            f"of ts, got {substeps!r}."
        )
    outputs = np.append(0, np.cumsum(np.broadcast_to(counts, num)))
    given = np.asarray(ts).dtype
    precision = np.finfo(given if np.issubdtype(given, np.floating) else float).eps
    rounding = float(precision * np.abs(times).max())
    return Grid(np.interp(np.arange(outputs[-1] + 1), outputs, times), outputs, rounding)


def checked_hurst(name: str, hurst: Number, shapes: tuple[tuple[int, ...], ...]) -> None:
    """H of one of the shapes, in its range where it is concrete; what is traced is clipped where it is used.

    Raises:
        ValueError: for another shape, or a value out of range.
    """
    if jnp.shape(hurst) not in shapes:
        wanted = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"{name}: hurst has shape {jnp.shape(hurst)}, expected {wanted}.")
    check_hurst_range(name, hurst)


def hurst_of_noises(name: str, hurst: Number, num_noises: int, batch: tuple[int, ...]) -> Number:
    """H of a path, () or `[P]`; in a plate of P paths too, where `[P]` may be one of each path.

    Raises:
        ValueError: as `checked_hurst`, and for a draw of shape `[P]` in a plate of that size.
    """
    shape, of_noises = jnp.shape(hurst), (*(1,) * len(batch), num_noises)
    if batch and shape == of_noises:
        hurst = jnp.reshape(hurst, num_noises)
    elif num_noises > 1 and shape == batch[-1:] == (num_noises,) and isinstance(hurst, jax.Array):
        raise ValueError(
            f"{name}: hurst has shape {shape} in a plate of {num_noises} paths. For one H a noise, the same for all "
            f"paths, draw it outside of the plate and give it shape {of_noises}; for one H a path, write the paths "
            "one by one."
        )
    checked_hurst(name, hurst, ((), (num_noises,)))
    return hurst


def check_hurst_range(name: str, hurst: Number) -> None:
    """Refuse concrete H out of range; what is traced is let through.

    Raises:
        ValueError: naming the first value.
    """
    if not not_jax_tracer(hurst):
        return
    values = np.asarray(hurst, np.float64).ravel()
    low, high = HURST_RANGE
    wrong = ~((values >= low - _SLACK) & (values <= high + _SLACK))
    if wrong.any():
        raise ValueError(
            f"{name}: hurst must be in [{low}, {high}], got {values[wrong.argmax()]:.6g}: "
            f"use hurst_prior or constraints.interval({low}, {high})."
        )


def in_range(hurst: Number) -> Float[Array, "..."]:
    """H, moved to the nearest end of its range; in the working precision."""
    return jnp.clip(jnp.asarray(hurst, jnp.result_type(float)), *HURST_RANGE)


def coefficients_for(
    name: str, grid: Grid, num_modes: int, coefficients: Coefficients | None
) -> Coefficients:
    """The user's coefficients where they serve the grid, or those made for it.

    Raises:
        TypeError: for traced coefficients.
        ValueError: for times beyond their horizon, steps shorter than they were made for, or kind II.
    """
    span, gap = grid.fine[-1] - grid.fine[0], grid.steps.min()
    # two times of a gap, each rounded
    slack = _SLACK + 2 * grid.rounding / gap
    if coefficients is None:
        needed = int(np.ceil(span / gap * (1 - slack)))
        if needed > DESIGN_STEPS[-1]:
            raise ValueError(
                f"{name}: ts spans {span:g} and its smallest gap is {gap:.3g}, which makes {needed} steps, but at "
                f"most {DESIGN_STEPS[-1]} can be had. Merge times that are close, or take fewer substeps."
            )
        return fractional_coefficients(span, needed, num_modes=num_modes)
    if not not_jax_tracer(coefficients.rates):
        raise TypeError(f"{name}: coefficients must be concrete: pass them by closure.")
    if coefficients.kind != "I":
        raise ValueError(f'{name}: coefficients are of kind {coefficients.kind!r}, expected kind "I".')
    horizon, design = coefficients.horizon, coefficients.design_steps
    if span > horizon * (1 + _SLACK) + 2 * grid.rounding:
        raise ValueError(
            f"{name}: ts spans {span:g}, but the coefficients reach {horizon:g}. Make them for the longest time, "
            f"forecasts included: fractional_coefficients(horizon={span:g}, ...)."
        )
    if horizon / gap > design * (1 + slack):
        raise ValueError(
            f"{name}: the smallest gap of ts is {gap:.3g}, {horizon / gap:.4g} steps in the horizon {horizon:g} of "
            f"the coefficients, which are made for {design}. Merge times, or give fractional_coefficients a larger "
            "num_steps."
        )
    return coefficients


def one_of(name: str, what: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse an option that is not there.

    Raises:
        ValueError: naming what there is.
    """
    if value not in allowed:
        raise ValueError(f"{name}: {what} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def plate_shape(name: str) -> tuple[int, ...]:
    """Batch shape that the plates around the call give to its sites.

    Raises:
        NotImplementedError: in a plate that subsamples, or within NumPyro's `scan`.
    """
    sizes: dict[int, int] = {}
    for handler in _PYRO_STACK:
        if isinstance(handler, plate):
            if handler.size != handler.subsample_size:
                raise NotImplementedError(
                    f"{name}: the plate {handler.name!r} subsamples {handler.subsample_size} of {handler.size}; a "
                    "path has noises of its own for each of them. Take the plate without subsample_size."
                )
            sizes[handler.dim] = handler.size
        elif isinstance(handler, infer_config) and _is_of_scan(handler.config_fn):
            raise NotImplementedError(
                f"{name}: a fractional path remembers all that came before, and cannot be made within numpyro's "
                "scan. Call it outside, with all times in ts."
            )
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))


def _is_of_scan(config_fn: Any) -> bool:
    """NumPyro's `scan` runs its body under an `infer_config` of its own, and tells nobody else."""
    return getattr(config_fn, "__module__", None) == scan_wrapper.__module__


def check_names(name: str) -> None:
    """Refuse a site of the user that has a name of ours; what comes later NumPyro's own trace refuses.

    Raises:
        ValueError: naming the site.
    """
    ours = {f"{name}{suffix}" for suffix in SUFFIXES}
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, block):
            return
        if isinstance(handler, trace) and (taken := ours & handler.trace.keys()):
            raise ValueError(
                f"{name}: the model has a site {min(taken)!r} already, which is one of {sorted(ours)} that belong to "
                f"{name!r}. Rename one of the two."
            )
