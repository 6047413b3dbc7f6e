"""Every kernel with `chain_method="parallel"` against "sequential": `python -m tests.laws.parallel_chains`.

It needs two devices, which JAX makes once, before anything else: hence a process of its own.
"""

import jax

from .registry import CASES
from .runs import make_mcmc, run
from .test_laws import check_close

if __name__ == "__main__":
    assert jax.local_device_count() == 2
    for case in CASES:
        one, other = (run(make_mcmc(case, method, chains=2), case) for method in ("sequential", "parallel"))
        check_close(one, other, case.agreement)
        print(case.name)
