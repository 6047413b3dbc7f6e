"""Many lags: one table of transition matrices against an exponential for each

9000 distinct lags and their counts, six states, value and gradient of the log-likelihood. `jax.vmap` of
`jax.scipy.linalg.expm` runs all its branches. Lam t is the fastest rate times the longest lag.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from measure import TRIAL, Row, alternate, median_ms, ratio

from emberwalk.kernels.jump import generator, transition_matrices

from .setting import REPEATS, paths_of

_NUM_LAGS = 90 if TRIAL else 9000
# the longest lag times the fastest rate: without squarings, and with all of them
_LONGEST = {"Lam t <= 21, no squaring": (20.0, 10.0), "Lam t = 1e4, all squarings": (9.9e3, 1.5)}


def rows() -> list[Row]:
    """Short lags, and lags up to the cap."""
    return [_row(name, *setting) for name, setting in _LONGEST.items()]


def _row(name: str, longest: float, bar: float) -> Row:
    rates = jnp.asarray(paths_of(1).rates, jnp.float32)
    fastest = 1.02 * float(rates.sum(1).max())
    rng = np.random.default_rng(0)
    lags = jnp.asarray(np.sort(rng.uniform(0.01, 1, _NUM_LAGS)) * longest / fastest, jnp.float32)
    counts = jnp.asarray(rng.integers(0, 3, (_NUM_LAGS, 6, 6)), jnp.float32)
    functions = {
        method: partial(_value_and_slope, rates, lags, counts, method) for method in ("table", "expm")
    }
    times = alternate(functions, REPEATS, after=lambda found: np.asarray(found[1]))
    cost, cpu = ratio(times["expm"], times["table"], "wall"), ratio(times["expm"], times["table"])
    slopes = [times[method].results[0] for method in ("table", "expm")]
    apart = np.abs(slopes[0] - slopes[1]).max() / np.abs(slopes[1]).max()
    note = (
        f"wall; CPU {cpu.median:.3g}x; {median_ms(times['table'].wall):.3g} against "
        f"{median_ms(times['expm'].wall):.4g} ms; gradients differ by {apart:.1g}"
    )
    return Row(
        f"{_NUM_LAGS} lags, {name}: vmapped expm / ours",
        cost.median,
        "x",
        at_least=bar,
        spread=cost,
        note=note,
    )


@partial(jax.jit, static_argnames="method")
def _value_and_slope(rates, lags, counts, method: str):
    def loss(rates):
        if method == "table":
            P = transition_matrices(rates, lags)
        else:
            P = jax.vmap(jax.scipy.linalg.expm)(generator(rates) * lags[:, None, None])
        return jnp.sum(counts * jnp.log(jnp.maximum(P, 1e-30)))

    return jax.value_and_grad(loss)(rates)
