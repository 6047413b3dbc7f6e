"""Child process: seconds of conditional sweeps with backward sampling in `particles`, one chain.

    python particles_sweep.py NUM_PARTICLES NUM_SWEEPS PHI "[y_0, y_1, ...]"

The sweep is that of `particles.mcmc.ParticleGibbs.update_states` with `backward_step=True`: its CSMC
as it comes (multinomial resampling when the ESS falls below N / 2), then one path by backward
sampling. The first sweep, unconditional, and the second, which meets compiled code, are not counted.
"""

import json
import sys
import time

import numpy as np
import particles
from particles import distributions, state_space_models
from particles.mcmc import CSMC


class LinearGaussian(state_space_models.StateSpaceModel):
    """x_t ~ N(phi x_{t-1}, 1) from its stationary law, y_t ~ N(x_t, 1)."""

    def PX0(self):
        return distributions.Normal(scale=1 / np.sqrt(1 - self.phi**2))

    def PX(self, t, xp):
        return distributions.Normal(loc=self.phi * xp, scale=1.0)

    def PY(self, t, xp, x):
        return distributions.Normal(loc=x, scale=1.0)


def first_path(model, num_particles):
    """A path to start from, by an unconditional filter."""
    smc = particles.SMC(fk=model, N=num_particles, store_history=True)
    smc.run()
    return smc.hist.backward_sampling_ON2(1)


def sweep(model, num_particles, path):
    """The next path, given the last."""
    smc = CSMC(fk=model, N=num_particles, xstar=path)
    smc.run()
    return smc.hist.backward_sampling_ON2(1)


def main(num_particles, num_sweeps, phi, y):
    """Prints the seconds of `num_sweeps` sweeps, one after another."""
    model = state_space_models.Bootstrap(ssm=LinearGaussian(phi=phi), data=y)
    path = sweep(model, num_particles, first_path(model, num_particles))
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_sweeps):
        path = sweep(model, num_particles, path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), np.array(json.loads(sys.argv[4])))
