"""`MarkovScoreClimbing`: a guide fitted to the posterior by the divergence that covers it.

    minimise KL(p(z | y) || q_lambda) = const - E_p[log q_lambda(z)]
    z_k ~ K(z_{k-1}, .),   lambda_k = lambda_{k-1} + update(grad_lambda log q_lambda(z_k))          (1)

K leaves p(z | y) invariant: one step or more of an MCMC kernel. Naesseth, Lindsten and Blei (2020).
The divergence of `SVI` is the other one, KL(q || p): its guides are too narrow, because they pay for
mass where the posterior has none and not for mass that they leave out. The Gaussian that minimises
this one has the mean and the covariance of the posterior.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import autoguide
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import log_density

from ...kernels.smc.types import check_count
from ..contract import strongly_typed
from .ascent import Ascent, Bound, Step, check_model
from .capture import latent_sites
from .parameters import bijection
from .path_model import SiteValues
from .ppg import PPG

_WITHOUT_DENSITY = (
    autoguide.AutoDelta, autoguide.AutoLaplaceApproximation, autoguide.AutoDAIS, autoguide.AutoSemiDAIS,
)  # fmt: skip


class MarkovScoreClimbing(Ascent):
    """Fits a guide to the posterior by the inclusive Kullback-Leibler divergence, along a Markov chain.

    Each iteration moves z by an MCMC kernel and the guide's parameters along grad log q(z) (equation 1;
    Naesseth, Lindsten and Blei 2020). Discrete latents and guides without reparametrised samples are
    allowed: nothing is differentiated but log q. `init`, `update` and `run` are those of NumPyro's `SVI`;
    `losses` are -log q(z), whose mean at the optimum is the cross-entropy of the posterior and the guide.

    Args:
        model: the NumPyro model.
        guide: any guide whose latent sites are among the model's, or an AutoGuide. One on parameters
            alone is made by `AutoMultivariateNormal(without_path(model))`.
        optim: an optax optimiser, or one that `SVI` takes. The chain never stands still, so that the guide
            follows it with steps of constant size; let them decrease, by 10 to 100 in a run, to what
            accuracy is wanted: `optax.adam(optax.exponential_decay(0.02, 1000, 0.5))`.
        kernel: what moves z, on the same model; None: `PPG(model)`.
        num_mcmc: its steps an iteration. More of them where the chain mixes slowly, since the guide only
            sees the last.
        num_warmup: steps of the kernel, from the first on, in which it adapts; the guide learns already.

    Raises:
        ValueError, TypeError: for arguments that cannot be meant, at once; for a guide without parameters,
            or with latent sites that the model has not, when it begins. What the kernel refuses, too.

    Examples:
        >>> import optax
        >>> from numpyro.infer.autoguide import AutoMultivariateNormal
        >>> from emberwalk.infer import MarkovScoreClimbing
        >>> def model(y):
        ...     numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> kernel, guide = NUTS(model, max_tree_depth=2), AutoMultivariateNormal(model)
        >>> climbing = MarkovScoreClimbing(model, guide, optax.adam(0.01), kernel, num_warmup=5)
        >>> climbing.run(random.key(0), 5, jnp.array(1.5), progress_bar=False).params["auto_loc"].shape
        (1,)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Any,
        kernel: MCMCKernel | None = None,
        *,
        num_mcmc: int = 1,
        num_warmup: int = 500,
    ):
        super().__init__(optim, average=0.0)
        check_count("num_mcmc", num_mcmc, 1)
        check_count("num_warmup", num_warmup, 0)
        if not callable(guide):
            raise TypeError(f"guide must be callable, got {type(guide).__name__}.")
        if isinstance(guide, _WITHOUT_DENSITY):
            raise ValueError(
                f"guide {type(guide).__name__} has no density to climb. Use AutoMultivariateNormal, AutoNormal, or a "
                "guide of your own."
            )
        self.model, self.guide = check_model(model), guide
        self.kernel = PPG(model) if kernel is None else _checked_kernel(kernel, model)
        self.num_mcmc, self.num_warmup = num_mcmc, num_warmup

    def bind(self, args: tuple, kwargs: dict[str, Any]) -> Bound:
        """See `Ascent`."""
        return _BoundClimbing(self, args, kwargs)


class _BoundClimbing(Bound):
    """A guide and a kernel at the arguments of their model.

    Attributes:
        bijections: of the guide's `param` sites.
        flat: whether its density is that of all its sites in one unconstrained row.
        sites: its latent sites, in the order of that row.
    """

    def __init__(self, learner: MarkovScoreClimbing, args: tuple, kwargs: dict[str, Any]):
        self.learner, self.args, self.kwargs = learner, args, kwargs
        # an AutoGuide keeps what it meets at its first call: with a key of its own, nothing traced is kept
        trace = self._trace(random.key(0), {})
        self.bijections = {name: bijection(site) for name, site in trace.items() if site["type"] == "param"}
        if not self.bijections:
            raise ValueError(
                "The guide has no param sites, and there is nothing to learn. Use numpyro.param."
            )
        guide: Any = learner.guide
        self.flat = isinstance(guide, autoguide.AutoContinuous)
        self.sites = tuple(guide._unpack_latent(guide._init_latent) if self.flat else latent_sites(trace))

    def _trace(self, key: Array, given: SiteValues) -> dict[str, dict[str, Any]]:
        guide = handlers.seed(handlers.substitute(self.learner.guide, data=given), key)
        return handlers.trace(guide).get_trace(*self.args, **self.kwargs)

    def first(self, key: Array, given: SiteValues) -> tuple[SiteValues, Any]:
        """Unconstrained parameters of the guide, and the first state of the kernel."""
        key_guide, key_kernel = random.split(key)
        sites = self._trace(key_guide, given)
        theta = {name: to._inverse(sites[name]["value"]) for name, to in self.bijections.items()}
        state = self.learner.kernel.init(
            key_kernel, self.learner.num_warmup, None, model_args=self.args, model_kwargs=self.kwargs
        )
        latents = getattr(state, self.learner.kernel.sample_field)
        unknown = [name for name in self.sites if name not in latents]
        if unknown:
            raise ValueError(
                f"The guide has the sites {unknown}, which are no latent sites of the model; those are "
                f"{list(latents)}. Name each site of the guide after the one it stands for."
            )
        return theta, state

    def step(self, key: Array, theta: SiteValues, chain: Any) -> Step:
        """See `Bound`; the kernel brings its own keys."""
        kernel = self.learner.kernel

        def move(state, _):
            return strongly_typed(kernel.sample(state, self.args, self.kwargs)), None

        moved = move(chain, None)[0]
        if self.learner.num_mcmc > 1:
            moved, _ = lax.scan(move, moved, length=self.learner.num_mcmc - 1)
        values = kernel.postprocess_fn(self.args, self.kwargs)(getattr(moved, kernel.sample_field))
        values = {name: values[name] for name in self.sites}
        loss, gradient = jax.value_and_grad(lambda theta: -self.log_prob(self.constrained(theta), values))(
            theta
        )
        return Step(gradient, loss, moved, _nonfinite(moved) - _nonfinite(chain))

    def log_prob(self, params: SiteValues, values: SiteValues) -> Float[Array, ""]:
        """log q of constrained values; of an AutoContinuous that of the unconstrained ones, a constant apart."""
        guide: Any = self.learner.guide
        if not self.flat:
            guide = handlers.seed(guide, random.key(0))
            return jnp.asarray(log_density(guide, self.args, self.kwargs, {**params, **values})[0])
        supports = {name: guide.prototype_trace[name]["fn"].support for name in self.sites}
        rows = [jnp.ravel(biject_to(to)._inverse(values[name])) for name, to in supports.items()]
        return jnp.sum(guide.get_posterior(params).log_prob(jnp.concatenate(rows)))

    def constrained(self, theta: SiteValues) -> SiteValues:
        """See `Bound`."""
        return {name: to(theta[name]) for name, to in self.bijections.items()}


def _nonfinite(state: Any) -> Array:
    """Weights of the kernel that were no numbers; 0 for a kernel that does not count them."""
    return jnp.asarray(getattr(state, "num_nonfinite", 0), jnp.int32)


def _checked_kernel(kernel: Any, model: Callable) -> MCMCKernel:
    if not isinstance(kernel, MCMCKernel):
        raise TypeError(f"kernel must be an MCMC kernel such as PPG(model), got {kernel!r}.")
    if getattr(kernel, "model", None) is not model:
        raise ValueError(
            f"kernel {type(kernel).__name__} is on another model than the one given. Build both on the same function."
        )
    return kernel
