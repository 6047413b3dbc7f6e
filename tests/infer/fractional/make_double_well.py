"""Makes `double_well.json`: posterior means of the path between two wells, by NUTS in float64.

    JAX_ENABLE_X64=1 python -m tests.infer.fractional.make_double_well

Four chains of 2000 draws for each H: ten minutes. A mean's MCSE is ArviZ's, and R-hat must be below 1.01.
"""

import json

import jax
import numpy as np
from arviz_stats.base import array_stats
from jax import random
from numpyro.infer import MCMC, NUTS

from tests.infer.fractional.double_well import EVERY, STORED, Stored, double_well, drawn

HURSTS = (0.3, 0.7)


def main(num_warmup=500, num_samples=2000):
    """Writes the file anew."""
    found = {}
    for H in HURSTS:
        model = double_well()
        with jax.enable_x64(False):  # the data of the tests, which are float32
            y = np.asarray(drawn(model, H))
        mcmc = MCMC(
            NUTS(model),
            num_warmup=num_warmup,
            num_samples=num_samples,
            num_chains=4,
            chain_method="sequential",
            progress_bar=False,
        )
        mcmc.run(random.key(0), H, y)
        paths = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])[..., EVERY::EVERY]
        axes = {"chain_axis": 0, "draw_axis": 1}
        r_hat, mcse = (getattr(array_stats, name)(paths, **axes) for name in ("rhat", "mcse"))
        print(
            f"H = {H}: largest R-hat {np.max(r_hat):.4f}, largest MCSE / sd {np.max(mcse / paths.std((0, 1))):.3f}"
        )
        if np.max(r_hat) > 1.01:
            raise SystemExit("The chains do not agree: raise num_warmup and num_samples.")
        answer = Stored(y.astype(float), paths.mean((0, 1)), paths.std((0, 1)), mcse)
        found[str(H)] = {name: np.round(value, 7).tolist() for name, value in answer._asdict().items()}
    STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
