"""Child process: memory of `SGMCMC` on rows that stay on disk.

    python streamed_rows.py GRADIENT NUM_ROWS NUM_COLUMNS NUM_STEPS    minibatch or control_variates

Logistic regression on memmaps of a temporary folder; control variates find their centre from gradients of all rows,
five times. Prints by how many bytes the anonymous memory of the process, pages of the files apart, was at most above
what it had been with everything imported: the compiler's share is in it.
"""

import json
import sys
import tempfile
import threading
from pathlib import Path

import blackjax.util  # noqa: F401, which emberwalk imports when it first needs it
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from logistic import read_data, streamed_model, write_data
from numpyro.infer import MCMC, init_to_value

from emberwalk.infer import SGMCMC, HostRows, control_variates
from emberwalk.kernels.sgmcmc import baoab

BATCH, PER_DRAW, NUM_WARMUP = 500, 100, 8


def anonymous_bytes() -> int:
    """What only this process holds: resident memory less that of files."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


class Peak(threading.Thread):
    """Largest `anonymous_bytes` in a `with` block, looked at every 20 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest, self._over = anonymous_bytes(), threading.Event()

    def run(self):
        while not self._over.wait(0.02):
            self.largest = max(self.largest, anonymous_bytes())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()


def main(gradient, num_rows, num_columns, num_steps):
    """One run, compilation included."""
    jax.block_until_ready(jnp.zeros(1) + 1)  # the device is there
    before = anonymous_bytes()
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), num_rows, num_columns)
        data = HostRows(read_data(Path(name))._asdict(), plate="rows", batch_size=BATCH)
        with Peak() as peak:
            run(data, gradient, num_columns, num_steps)
    print(json.dumps({"growth": peak.largest - before}))


def run(data, gradient, num_columns, num_steps):
    """BAOAB, its step in proportion to the width of the posterior."""
    h = 1 / np.sqrt(len(data))
    kernel = SGMCMC(
        streamed_model,
        baoab(h, friction=0.5 / h),
        gradient=control_variates() if gradient == "control_variates" else gradient,
        steps_per_sample=PER_DRAW,
        data=data,
        init_strategy=init_to_value(values={"beta": np.zeros(num_columns, np.float32)}),
    )
    mcmc = MCMC(kernel, num_warmup=NUM_WARMUP, num_samples=num_steps // PER_DRAW, progress_bar=False)
    mcmc.run(random.key(0), n=len(data))
    jax.block_until_ready(mcmc.get_samples())


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main(sys.argv[1], *map(int, sys.argv[2:]))
