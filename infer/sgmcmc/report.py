"""What `SGMCMC` says after a run: minibatch noise, a centre that is off, a thermostat or a float that gave up."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ...kernels.sgmcmc.base import SGAlgorithm
from ...kernels.sgmcmc.cyclical import Cyclical
from ...kernels.sgmcmc.sgnht import Sgnht
from .state import SGMCMCState

# Bounds from which the sentences speak.
_NOISE, _SDS_FROM_CENTRE, _THERMOSTAT, _ULPS = 0.1, 3.0, 0.5, 8.0
# Fewer draws than these do not know the width of the posterior.
_DRAWS_OF_A_WIDTH = 100


def run_warnings(kernel: Any, run: Any) -> list[str]:
    """Sentences on the last state and the draws of a run.

    Args:
        kernel: the `SGMCMC`.
        run: an `MCMC` or what has its methods.
    """
    state: SGMCMCState = run.last_state
    sentences = _of_noise(kernel, state) + _of_centre(kernel, run, state)
    return sentences + _of_thermostat(kernel, state) + precision_warnings(kernel, state) + _of_refusals(state)


def _of_noise(kernel: Any, state: SGMCMCState) -> list[str]:
    sentences = []
    ratios = np.atleast_2d(state.noise_ratio).mean(0)
    temperature = float(np.mean(state.temperature))
    worst = int(np.argmax(ratios))
    r = float(ratios[worst])
    if r > _NOISE:
        at_most = kernel.batching == "epoch" or isinstance(kernel.algorithm, Cyclical)
        bound = "at most " if at_most else ""
        variance = np.asarray(state.noise.variance[kernel.site_names[worst]])
        unequal = float(np.max(variance) / np.mean(variance))
        cut = f"{r / _NOISE:.2g}x"
        ways = [f"Cut step_size {cut}", f"raise the batch {cut}"]
        ways += [] if kernel.control is not None else ["use control_variates"]
        ways += [] if kernel.batching == "epoch" else ['use batching="epoch"']
        sentences.append(
            f"At T = {temperature:.3g}, {bound}{r / (1 + r):.0%} of the spread of {kernel.site_names[worst]} is "
            f"minibatch noise (ratio {r:.2g}): its effective temperature is {bound}{temperature * (1 + r):.2g}, and "
            f"its noisiest element has {unequal:.2g}x that noise. "
            f"{', '.join(ways[:-1])}, or {ways[-1]}."
        )
    return sentences


def _of_centre(kernel: Any, run: Any, state: SGMCMCState) -> list[str]:
    distances = {} if state.anchor is None else centre_distances(kernel, run, state)
    if not distances:
        return []
    worst = max(distances, key=lambda name: distances[name])
    if distances[worst] <= _SDS_FROM_CENTRE:
        return []
    return [
        f"The draws of {worst} lie {distances[worst]:.2g} posterior sds from the centre of the control variates, where "
        "their noise is no longer small. Warm up longer (the centre is found there), or give a center nearer the mode."
    ]


def centre_distances(kernel: Any, run: Any, state: SGMCMCState) -> dict[str, float]:
    """Mean of |z - centre| / sd over the draws and elements of each site, on the unconstrained scale;
    empty where there are too few draws to know.
    """
    distances = {}
    for name, values in kernel.unconstrained(run.get_samples(group_by_chain=True)).items():
        if values.shape[1] < _DRAWS_OF_A_WIDTH:
            return {}
        centre = np.asarray(state.anchor.centre[name])  # type: ignore[union-attr]
        away = np.abs(values - centre.reshape(values.shape[0], 1, *values.shape[2:])).mean(1)
        distances[name] = float(np.mean(away / np.maximum(values.std(1), np.finfo(values.dtype).tiny)))
    return distances


def _of_thermostat(kernel: Any, state: SGMCMCState) -> list[str]:
    algorithm = plain(kernel.algorithm)
    if not isinstance(algorithm, Sgnht):
        return []
    product = float(np.mean(np.asarray(state.inner.extra) * np.asarray(state.step_size)))
    if product <= _THERMOSTAT:
        return []
    return [
        f"The friction of the thermostat times the step is {product:.2g}: above {_THERMOSTAT} it no longer keeps the "
        "temperature. Cut step_size, or raise the batch."
    ]


def precision_warnings(kernel: Any, state: SGMCMCState) -> list[str]:
    """Increments of a few ulp are rounded away, and the spread with them."""
    cycles, algorithm = isinstance(kernel.algorithm, Cyclical), plain(kernel.algorithm)
    step = float(kernel.algorithm.sampling_step_size if cycles else np.min(state.step_size))
    temperature = float(np.min(state.temperature))
    sentences = []
    for name in kernel.site_names:
        z = np.asarray(state.z[name])
        scale = np.asarray(1.0 if state.inner.precond is None else state.inner.precond[name], float)
        if algorithm.underdamped:
            increment = step * np.sqrt(temperature / np.max(scale))
        else:
            increment = np.sqrt(2 * step * temperature * np.min(scale))
        size = np.max(np.abs(z), initial=increment)  # a start at 0 is soon as far as a step
        ulps = float(increment / np.spacing(size.astype(z.dtype)))
        if ulps < _ULPS:
            sentences.append(
                f"The steps of {name} are {ulps:.2g} ulp of its {z.dtype} values: below {_ULPS:.0f} they are rounded "
                "away. Run in x64 (numpyro.enable_x64()), or centre the parameter."
            )
    return sentences


def _of_refusals(state: SGMCMCState) -> list[str]:
    refused = int(np.sum(state.num_nonfinite))
    if not refused:
        return []
    return [
        f"{refused} steps were refused because the gradient or the position was not finite. Cut step_size, or look for "
        "log(0) or an overflow in the model."
    ]


def plain(algorithm: SGAlgorithm) -> SGAlgorithm:
    """The algorithm under the cycles."""
    return algorithm.algorithm if isinstance(algorithm, Cyclical) else algorithm


def progress_text(state: SGMCMCState) -> str:
    """For the progress bar: the worst noise of the sites, and all refusals."""
    noise = float(jnp.max(state.noise_ratio))
    refused = int(jnp.sum(state.num_nonfinite))
    step, temperature = float(jnp.ravel(state.step_size)[0]), float(jnp.ravel(state.temperature)[0])
    return f"h {step:.2g} T {temperature:.2g} noise {noise:.2g} nonfinite {refused}"
