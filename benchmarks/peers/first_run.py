"""Child process: what the first `MCMC.run` of a kernel costs, compilation included, and the second.

    python first_run.py ppg|nuts NUM_DRAWS NUM_PARTICLES

One chain on the returns of the pound, `NUM_DRAWS` to warm up and as many to keep, progress bar on, no
program kept from an earlier process. Prints seconds of the first run, and of the second the
seconds and the number of programs it compiled.
"""

import json
import sys
import time

import jax
import numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS

from emberwalk.infer import PPG
from emberwalk.models import load_gbp_usd, stochastic_volatility

KERNELS = {
    "ppg": lambda num: PPG(stochastic_volatility, num_particles=num),
    "nuts": lambda num: NUTS(stochastic_volatility),
}


def timed(mcmc, key, y):
    """Seconds of one run, and what it drew waited for."""
    wall, cpu = time.perf_counter(), time.process_time()
    mcmc.run(key, y)
    jax.block_until_ready(mcmc.get_samples())
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main(kernel, num_draws, num_particles):
    """Runs twice and prints both."""
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    _, returns = load_gbp_usd()
    y = np.asarray(returns, np.float32)
    mcmc = MCMC(KERNELS[kernel](num_particles), num_warmup=num_draws, num_samples=num_draws)
    mcmc.progress_bar = True  # NumPyro leaves it out under some environments
    jax.monitoring.register_event_duration_secs_listener(listen)
    first = timed(mcmc, random.key(0), y)
    compiled.clear()
    second = timed(mcmc, random.key(1), y) | {"compilations": len(compiled)}
    print(json.dumps(first | {"result": second}))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
