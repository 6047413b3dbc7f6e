"""Child process: logistic regression on tall data from nothing, everything counted but imports and data.

    python tall_data.py KERNEL NUM_WARMUP NUM_SAMPLES KEY NUM_ROWS NUM_COLUMNS BATCH

One chain from zeros by `MCMC.run`, no progress bar, no program kept from an earlier process: compilation, start,
warm-up and the search for a centre are in the seconds. Prints them with the errors of the draws against the
Laplace posterior. HMCECS gets the mode that its proxy needs for nothing.
"""

import json
import sys
import time

import blackjax.util  # noqa: F401, which emberwalk imports when it first needs it; imports are not counted
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from logistic import laplace, make_data, model
from numpyro.infer import HMCECS, MCMC, NUTS, init_to_value

from emberwalk.infer import SGMCMC, control_variates
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews, sgld

ALGORITHMS = {
    "leimkuhler_matthews": leimkuhler_matthews(2e-5),
    "baoab": baoab(5e-3, friction=150.0),
    "sgld": sgld(1e-5),
}
NUM_BLOCKS = 50


def kernel_of(name, zeros, mode):
    """By its name on the command line."""
    start = init_to_value(values={"beta": zeros})
    if name == "nuts":
        return NUTS(model, init_strategy=start)
    if name == "hmcecs":
        proxy = HMCECS.taylor_proxy({"beta": mode}, degree=2)
        return HMCECS(NUTS(model, init_strategy=start), num_blocks=NUM_BLOCKS, proxy=proxy)
    return SGMCMC(model, ALGORITHMS[name], gradient=control_variates(), init_strategy=start)


def main(name, num_warmup, num_samples, key, num_rows, num_columns, batch):
    """One run."""
    data = make_data(num_rows, num_columns)
    exact = laplace(data)
    X, y = jax.block_until_ready(tuple(map(jnp.asarray, data)))
    zeros, mode = np.zeros(num_columns, np.float32), jnp.asarray(exact.mode, jnp.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    kernel = kernel_of(name, zeros, mode)
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
    mcmc.run(random.key(key), X, y, b=None if name == "nuts" else batch)
    draws = np.asarray(mcmc.get_samples()["beta"], np.float64)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "result": exact.errors(draws)}))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1], *map(int, sys.argv[2:]))
