"""Child process: seconds of a particle filter and one path by backward sampling in `cuthbert`.

    python cuthbert_sweep.py NUM_PARTICLES NUM_SWEEPS PHI "[y_0, y_1, ...]"

It has no conditional filter: this is the unconditional one, which does as much. Multinomial resampling at
every step as ours (its systematic one takes as long), exact backward sampling. `NUM_SWEEPS` of them run in
one compiled program, as ours do.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
from cuthbert import filter, smoother
from cuthbert.smc import backward_sampler, particle_filter
from cuthbertlib.resampling import multinomial
from cuthbertlib.smc.smoothing import exact_sampling
from jax import lax, random


def log_normal(x, mean):
    """Of sd 1."""
    return -0.5 * (x - mean) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def sweep(key, phi, y, num_particles):
    """x_t ~ N(phi x_{t-1}, 1) from its stationary law, y_t ~ N(x_t, 1): one path; y_0 is left out."""
    key_start, key_filter, key_path = random.split(key, 3)
    filtering = particle_filter.build_filter(
        init_sample=lambda key: random.normal(key) / jnp.sqrt(1 - phi**2),
        propagate_sample=lambda key, x, y_t: phi * x + random.normal(key),
        log_potential=lambda before, x, y_t: log_normal(y_t, x),
        n_filter_particles=num_particles,
        resampling_fn=multinomial.resampling,
    )
    smoothing = backward_sampler.build_smoother(
        log_potential=lambda before, x, y_t: log_normal(x, phi * before) + log_normal(y_t, x),
        backward_sampling_fn=exact_sampling.simulate,
        resampling_fn=multinomial.resampling,
        n_smoother_particles=1,
    )
    states = filter(filtering, y[1:], filtering.init_prepare(key=key_start), key=key_filter)
    return smoother(smoothing, states, y[1:], key=key_path).particles


def main(num_particles, num_sweeps, phi, y):
    """Prints the seconds of `num_sweeps` sweeps, one after another, compilation apart."""

    @jax.jit
    def run(key, phi):
        def one_sweep(total, key):
            return total + sweep(key, phi, y, num_particles), None

        return lax.scan(one_sweep, jnp.zeros((len(y), 1)), random.split(key, num_sweeps))[0]

    jax.block_until_ready(run(random.key(0), phi))
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(random.key(1), phi))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), jnp.array(json.loads(sys.argv[4])))
