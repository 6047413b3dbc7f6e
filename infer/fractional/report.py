"""What a fitted guide is worth: its ELBO beside the evidence, and the weights of its draws.

w = p(y, theta, b, e) / q(theta, b, e),   ELBO = E log w,   log evidence = log E w                   (1)
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro import handlers
from numpyro.infer.util import get_importance_trace
from scipy.special import logsumexp

from ...kernels.fractional.coefficients import HURST_RANGE

_GOOD, _BAD = 0.5, 0.7
_FEW, _SMALL_SHARE, _WIDE = 50, 0.05, 1.0


@dataclass(frozen=True)
class FractionalDiagnostics:
    """What `guide.diagnostics` returns; printed, it says what to do.

    Attributes:
        elbo: mean of log w over the draws that are finite, nats. Where some are not, the ELBO itself is -inf.
        elbo_sd: sd of log w over the same draws, nats.
        log_evidence: of the model, by importance sampling with the guide's draws, nats; one that is not finite has
            weight 0. Right where pareto_k < .7 and many draws have weight: a guide that is nowhere near the posterior
            may have a small pareto_k, for it sees none of the tail.
        pareto_k: shape of the tail of w (Vehtari and others 2024), of draws that are finite: below .5 good, from .7 on
            not to be trusted; 0 where the largest are all the same, NaN where there are too few to tell.
        particle_ess: draws from the posterior that those of the guide are worth.
        num_samples: draws.
        num_nonfinite: draws whose weight is NaN or 0: a drift or diffusion that is not finite on their path.
        num_clipped: draws with H outside (.02, .98), where the bank stays at the end.

    Examples:
        >>> from emberwalk.infer import FractionalDiagnostics
        >>> found = FractionalDiagnostics(-10.2, 0.4, -10.1, 0.83, 40.0, 1000, 0, 0)
        >>> found.advice[0].partition(":")[0]
        'pareto_k 0.83'
    """

    elbo: float
    elbo_sd: float
    log_evidence: float
    pareto_k: float
    particle_ess: float
    num_samples: int
    num_nonfinite: int
    num_clipped: int

    def __str__(self) -> str:
        lines = [
            f"ELBO {self.elbo:.2f} (sd of a draw {self.elbo_sd:.2g}), log evidence {self.log_evidence:.2f}: a gap of "
            f"{self.log_evidence - self.elbo:.2g} nats",
            f"Pareto k {self.pareto_k:.2f}, particle ESS {self.particle_ess:.0f} of {self.num_samples}",
        ]
        return "\n".join([*lines, *self.advice])

    @property
    def advice(self) -> list[str]:
        """Sentences, where something is wrong."""
        found = []
        if np.isnan(self.pareto_k):
            found.append(
                "pareto_k is NaN: too few draws to tell what log_evidence is worth. Take more of them."
            )
        elif not self.pareto_k < _BAD:
            found.append(
                f"pareto_k {self.pareto_k:.2g}: do not trust log_evidence or weighted draws. Train longer, raise "
                "relinearise or add a residual."
            )
        elif self.pareto_k >= _GOOD:
            found.append(f"pareto_k {self.pareto_k:.2g}: weighted draws converge slowly; take more of them.")
        if self.particle_ess < max(min(_FEW, self.num_samples / 2), _SMALL_SHARE * self.num_samples):
            found.append(
                f"particle_ess {self.particle_ess:.2g} of {self.num_samples} draws: log_evidence may be far too low, "
                "and weighted draws are few, whatever pareto_k is. Train longer, raise relinearise or add a residual."
            )
        if self.elbo_sd > _WIDE:
            found.append(
                f"elbo_sd {self.elbo_sd:.2g}: log w varies by more than a nat, and draws without weights are not of "
                "the posterior. Train longer, raise relinearise or add a residual."
            )
        if self.num_nonfinite:
            found.append(
                f"{self.num_nonfinite} of {self.num_samples} draws are not finite: drift or diffusion left their "
                "domain. elbo and elbo_sd are of the others. Take more substeps, or another variable."
            )
        if self.num_clipped:
            found.append(
                f"{self.num_clipped} of {self.num_samples} draws have H outside (.02, .98), where the bank stays at "
                "the end: use hurst_prior or constraints.interval(.02, .98)."
            )
        return found


def diagnosed(
    guide: Any, key: Any, params: dict[str, Any], args: tuple, kwargs: dict[str, Any], num_samples: int
) -> FractionalDiagnostics:
    """See `PathGuide.diagnostics`."""
    from arviz_stats.base import array_stats

    def draw(key: Any, params: dict[str, Any]) -> tuple[Any, Any]:
        seeded = (handlers.seed(fn, key) for fn in (guide.model, guide))
        with handlers.block():
            traces = get_importance_trace(*seeded, args, kwargs, params)
        model, ours = (
            sum(jnp.sum(site["log_prob"]) for site in trace.values() if site["type"] == "sample")
            for trace in traces
        )
        H = traces[1][guide.hurst_site]["value"]
        return model - ours, jnp.any((HURST_RANGE[0] > H) | (HURST_RANGE[1] < H))

    draws = guide.program("diagnostics", draw, key, args, kwargs)
    log_w, clipped = (np.asarray(x, float) for x in draws(random.split(key, num_samples), params))
    finite = np.isfinite(log_w)
    if not finite.any():
        return FractionalDiagnostics(
            -np.inf, np.nan, -np.inf, np.inf, 0.0, num_samples, num_samples, int(clipped.sum())
        )
    good = log_w[finite]
    total = float(logsumexp(good))
    try:
        _, pareto_k = array_stats.psislw(good)
    except ValueError:  # the largest weights are all the same: there is no tail
        pareto_k = 0.0
    return FractionalDiagnostics(
        elbo=float(good.mean()),
        elbo_sd=float(good.std()),
        log_evidence=total - float(np.log(num_samples)),
        pareto_k=float(pareto_k),
        particle_ess=float(np.exp(2 * total - logsumexp(2 * good))),
        num_samples=num_samples,
        num_nonfinite=int((~finite).sum()),
        num_clipped=int(clipped.sum()),
    )
