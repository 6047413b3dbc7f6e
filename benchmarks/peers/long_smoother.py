"""Child process: PaRIS over a series of any length.

    python long_smoother.py memory Y.npy NUM_PARTICLES    peak memory and seconds of `paris_smoother`
    python long_smoother.py sums Y.npy NUM_PARTICLES      what rounding does to its sums

Linear Gaussian model at (phi, sx) = (.9, 1), the sum of x_{t-1} x_t. "sums" runs the smoother twice with
the same particles: all that is drawn and weighed is float32 both times, and under x64 the functional is
summed in float64. Without the same particles two runs differ by chance, not by rounding.
"""

import json
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.stats import norm

from emberwalk.infer import lag_product, paris_smoother
from emberwalk.kernels.smc import SSM, Evaluation, additive, online_paris
from emberwalk.models import linear_gaussian

PHI, KEY = 0.9, 0


def memory(y, num_particles):
    """One run, compilation included: what a user's process needs."""

    def run(key):
        at = {"phi": PHI, "sx": 1.0}
        functionals = {"xx": lag_product("x")}
        result = paris_smoother(key, linear_gaussian, at, functionals, y, num_particles=num_particles)
        return float(result.estimates["xx"]), float(result.log_evidence)

    y = jnp.asarray(y)
    wall, cpu = time.perf_counter(), time.process_time()
    run(random.key(KEY))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Largest resident set of this process. `ru_maxrss` counts that of the parent too, from before the `exec`."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_float32(y) -> SSM:
    """The same numbers and the same draws whether x64 is on or not."""
    y = jnp.asarray(y, jnp.float32)

    def normal(key):
        return random.normal(key, dtype=jnp.float32)

    return SSM(
        init=lambda key: normal(key) / jnp.float32(np.sqrt(1 - PHI**2)),
        init_logpdf=norm.logpdf,
        init_carry=lambda x: x,
        init_loglik=lambda x: norm.logpdf(y[0], x),
        sample=lambda key, c, t: PHI * c + normal(key),
        evaluate=lambda c, x, t: Evaluation(norm.logpdf(x, PHI * c), norm.logpdf(y[t], x), x),
        length=y.shape[0] - 1,
    )


def smoothed(y, num_particles):
    """The functional, log Zhat, and the log mean weights that log Zhat is the sum of."""
    ssm = in_float32(y)
    smoother = online_paris(ssm, additive(lambda previous, current, t: previous * current), num_particles)

    @jax.jit
    def run(key):
        def step(state, t):
            state, stats = smoother.step(random.fold_in(key, t), state)
            return state, stats.log_mean_weight

        first = smoother.init(random.fold_in(key, 0))
        state, terms = lax.scan(step, first, jnp.arange(1, ssm.length + 1))
        return smoother.estimate(state), state.log_evidence, first.log_evidence, terms

    functional, log_evidence, first, terms = run(random.key(KEY))
    return functional, float(log_evidence), np.append(np.asarray(first), np.asarray(terms))


def sums(y, num_particles):
    """Errors of float32: relative of the functional, absolute of the log-evidence."""
    functional, log_evidence, terms = smoothed(y, num_particles)
    with jax.enable_x64(True):
        in_double, _, same = smoothed(y, num_particles)
    if functional.dtype != jnp.float32 or in_double.dtype != np.float64 or not np.array_equal(terms, same):
        raise AssertionError("the two runs do not have the same particles, or not two precisions")
    exact = float(in_double)
    return {
        "functional": abs(float(functional) - exact) / abs(exact),
        "log_evidence": abs(log_evidence - float(terms.astype(np.float64).sum())),
    }


if __name__ == "__main__":
    what, file, num = sys.argv[1:]
    print(json.dumps({"memory": memory, "sums": sums}[what](np.load(file), int(num))))
