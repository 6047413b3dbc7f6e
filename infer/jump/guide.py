"""`AutoMJP`: a normal guide for a model with a Markov jump process that begins where training would end.

    u ~ N(m, S),   S the inverse curvature at the refined mode of the posterior, m the mean of its skewed marginals  (1)

u is the vector of all latents, unconstrained; both are those of `start.py`, and are then trained like those of any
guide. For the logarithm of a Gamma variable, as the log rate of a process that is watched is, (1) is the optimum of the
evidence bound itself to second order: the curvature's variance, not the posterior's, and the mean, not the mode.
"""

import warnings
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.transforms import LowerCholeskyAffine
from numpyro.infer import init_to_median
from numpyro.infer.autoguide import AutoMultivariateNormal

from ...kernels.jump.paths import is_traced
from .sites import Labels, Model
from .start import FlatModel, Refinement, check_refined, refine, runner

_WHO = "AutoMJP"


class AutoMJP(AutoMultivariateNormal):
    """A normal guide, begun at the refined posterior of the rates, equation (1) of the module.

    Args:
        model: the NumPyro model; see `ZeroShotMJP` for what it may be.
        site: name of the jump process, where there are several.
        labels: as for `ZeroShotMJP`.
        full_rank: True learns all covariances; False one scale for each latent, for thousands of them.
        prefix: of the names of params.

    Raises:
        ValueError: for models as `ZeroShotMJP`, when the guide is first called.
        TypeError: if it is first called with traced arguments.

    Examples:
        >>> import optax
        >>> from emberwalk.infer import AutoMJP
        >>> from emberwalk.kernels.jump import path_statistics, rates_from_vector, simulate_batch
        >>> from emberwalk.models import MarkovJumpCounts
        >>> from numpyro.infer import SVI, Trace_ELBO
        >>> times = np.linspace(0.0, 5.0, 26)
        >>> labels = simulate_batch(0, np.array([[0.0, 1.0], [0.5, 0.0]]), times, num_paths=1000)
        >>> def model(stats):
        ...     log_rates = numpyro.sample("log_rates", dist.Normal(0, 1).expand([2]).to_event(1))
        ...     law = MarkovJumpCounts(rates_from_vector(jnp.exp(log_rates), 2), stats)
        ...     numpyro.sample("counts", law, obs=stats.counts)
        >>> guide = AutoMJP(model)
        >>> svi = SVI(model, guide, optax.adam(1e-3), Trace_ELBO())
        >>> result = svi.run(random.key(0), 20, path_statistics(times, labels), progress_bar=False)
        >>> bool(jnp.abs(jnp.exp(guide.median(result.params)["log_rates"]) - jnp.array([1.0, 0.5])).max() < 0.1)
        True
    """

    def __init__(
        self,
        model: Model,
        *,
        site: str | None = None,
        labels: Labels = None,
        full_rank: bool = True,
        prefix: str = "auto",
    ):
        super().__init__(model, prefix=prefix, init_loc_fn=init_to_median)
        self.site, self.labels, self.full_rank = site, labels, full_rank
        self._first_tril: Any = None
        self._first_scale: Any = None

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        if is_traced(args, kwargs):
            raise TypeError(
                f"{_WHO} looks at the data when it is first called, and they are traced. Call svi.init (or the guide) "
                "once outside of jit."
            )
        flat, known = self._refined(args, kwargs)
        check_refined(known, flat.site, _WHO)
        if not known.converged:
            warnings.warn(
                f"{_WHO}: the mode of the posterior was not reached, and the guide begins somewhere below: train it "
                "as long as one that knows nothing, and look whether the ELBO still rises.",
                UserWarning,
                stacklevel=2,
            )
        super()._setup_prototype(*args, **kwargs)
        fit = known.fit
        # the refined vector has its sites by name, the guide as they are sampled
        places = flat.unravel(jnp.arange(self.latent_dim, dtype=fit.mode.dtype))
        order = jnp.concatenate([jnp.ravel(places[name]) for name in self._init_locs]).astype(int)
        self._init_latent = fit.mean[order]
        half = known.half[order]
        cov = half @ half.T
        self._first_tril = jnp.linalg.cholesky(cov)
        # the best of those without covariances: narrower than the marginals
        self._first_scale = 1 / jnp.sqrt(jnp.diagonal(jnp.linalg.inv(cov)))

    def _refined(self, args: tuple, kwargs: dict[str, Any]) -> tuple[FlatModel, Refinement]:
        read: list[FlatModel] = []

        def make() -> FlatModel:
            read.append(FlatModel(self.model, self.site, _WHO, args, kwargs))
            return read[-1]

        with handlers.block():  # of whatever the guide is called in
            known = refine(make, self.labels, _WHO, runner((args, kwargs)))
        return read[-1], known

    def _get_posterior(self) -> dist.Distribution:
        loc = numpyro.param(f"{self.prefix}_loc", self._init_latent)
        if self.full_rank:
            tril = numpyro.param(
                f"{self.prefix}_scale_tril", self._first_tril, constraint=self.scale_tril_constraint
            )
            return dist.MultivariateNormal(loc, scale_tril=tril)
        scale = numpyro.param(
            f"{self.prefix}_scale", self._first_scale, constraint=dist.constraints.positive
        )
        return dist.Normal(loc, scale).to_event(1)

    def get_transform(self, params: dict[str, Array]) -> LowerCholeskyAffine:
        """Standard normals to u."""
        return LowerCholeskyAffine(params[f"{self.prefix}_loc"], self._tril(params))

    def _tril(self, params: dict[str, Array]) -> Float[Array, "d d"]:
        if self.full_rank:
            return params[f"{self.prefix}_scale_tril"]
        return jnp.diag(params[f"{self.prefix}_scale"])
