"""`AutoFractionalSDE`: a guide of a fractional path that is its exact posterior where the model is linear and Gaussian.

    e_n | z_n, theta ~ N(m_n + G_n z_n + f(t_n, z_n), S_n^-1)                                            (1)

m, G and S are those of the posterior of the linearised equation given Gaussian sites (`reference.py`, `sites.py`,
`kernels/fractional/gaussian_filter.py`); f is a network, 0 at first, where a residual is asked for. The variance of the
noise is learnt with the mean, and so is the start of the bank, which a control leaves as it was (`control.py`).

Where the likelihood is Gaussian the sites are recomputed at every theta: the path is integrated out, and every single
draw has the evidence for its weight. Known to be right by that (`tests/infer/fractional`).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_median

from ...kernels.fractional import simulate
from ...models.fractional import FractionalSDE
from .data import encoder_data
from .linearity import is_linear
from .model_runs import Model, Reading, Values, no_noise, read_model
from .networks import Features, declared, features_of, over_batch, residual_network
from .path_guide import PathDraw, PathGuide, check_observed
from .reference import at_outputs, gains_of
from .sites import Factors, LogProb, change_of_curvature, encoded, laplace, learnt, probe_error

type SiteKind = Literal["auto", "laplace", "learnt"]

_SAME = 1e-3
_FIRST_PASSES = 5  # from which learnt sites begin


class AutoFractionalSDE(PathGuide):
    """A guide for models with one `fractional_sde`, equation (1) of the module.

    Use it with `Trace_ELBO`: its weights vary little or not at all, which an analytic KL would spoil.

    Args:
        model: with one `fractional_sde(..., noise="markov")`, drift and diffusion of any form, any other latents.
        prefix: of the names of params.
        sites: what stands for the likelihood of the path. "laplace": its curvature at the current values of the other
            latents, exact for Gaussian data; "learnt": params; "auto": the first where the curvature does not depend on
            the path, else the second.
        inner: guide class for the other latents. H and scales are correlated: None is `AutoMultivariateNormal`.
        relinearise: passes that put the linearisation on the guide's own path; a linear model takes none.
        residual: None; or the width of a network that learns what the linearisation lacks; or an equinox module of your
            own, a vector -> `[P r]`.
        encoder: (y `[M, ...]`, mask, ts `[M]`) -> (value, precision), `[M, d]` each: sites from the data by a network
            (an equinox module is trained), for plates of many short sequences.
        encoder_site: name of the observed site that it reads, where there are several.
        checkpoint: True keeps less for derivatives and computes it anew: with a residual a third of the memory.
        init_loc_fn: where the other latents begin.

    Raises:
        ValueError, TypeError, NotImplementedError: for options at once; for models when first called, by name.

    Examples:
        >>> import optax
        >>> from emberwalk.infer import AutoFractionalSDE
        >>> from emberwalk.models import fractional_sde, hurst_prior
        >>> from numpyro.infer import SVI, Trace_ELBO
        >>> ts = np.linspace(0.0, 1.0, 21)
        >>> def model(y=None):
        ...     H = numpyro.sample("H", hurst_prior())
        ...     x = fractional_sde("x", lambda t, x: -x, lambda t, x: 1.0, ts, H)
        ...     numpyro.sample("y", dist.Normal(x[1:], 0.1), obs=y)
        >>> guide = AutoFractionalSDE(model)
        >>> svi = SVI(model, guide, optax.adam(0.01), Trace_ELBO())
        >>> result = svi.run(random.key(0), 20, jnp.sin(ts[1:]), progress_bar=False)
        >>> guide.sample_posterior(random.key(1), result.params, jnp.sin(ts[1:]), sample_shape=(7,))["x"].shape
        (7, 21)
    """

    def __init__(
        self,
        model: Model,
        *,
        prefix: str = "auto",
        sites: SiteKind = "auto",
        inner: type[AutoGuide] | None = None,
        relinearise: int = 2,
        residual: Any = None,
        encoder: Callable[..., tuple[Array, Array]] | None = None,
        encoder_site: str | None = None,
        checkpoint: bool = False,
        init_loc_fn: Callable[..., Any] = init_to_median,
    ):
        super().__init__(model, prefix=prefix, inner=inner, init_loc_fn=init_loc_fn)
        if sites not in ("auto", "laplace", "learnt"):
            raise ValueError(f'sites must be "auto", "laplace" or "learnt", got {sites!r}.')
        if not isinstance(relinearise, int) or relinearise < 0:
            raise ValueError(f"relinearise must be a whole number from 0 on, got {relinearise!r}.")
        if isinstance(residual, int) and residual < 1:
            raise ValueError(f"residual must be None, a width of at least 1 or a module, got {residual!r}.")
        if encoder_site is not None and encoder is None:
            raise ValueError("encoder_site names what an encoder reads, and there is no encoder.")
        self.sites, self.relinearise, self.residual = sites, relinearise, residual
        self.encoder, self.encoder_site, self.checkpoint = encoder, encoder_site, checkpoint
        self._kind = "encoded" if encoder is not None else sites
        self._passes = relinearise
        self._sites_are_data = encoder is not None
        self._residual: Any = None
        self._first: Factors | None = None

    def look_at(self, reading: Reading, args: tuple, kwargs: Values) -> None:
        """See `PathGuide`."""
        equation, log_prob = reading.equation, self.log_density_of_path(reading, args, kwargs)
        check_observed(reading)
        key, is_quadratic = numpyro.prng_key(), True
        if self._kind in ("auto", "laplace"):
            is_quadratic, self._kind = self._looked_at(equation, log_prob, key)
            self._sites_are_data = is_quadratic and self._kind == "laplace"
        if self.residual is not None:
            self._residual = residual_network(self.residual, equation, key)
        sites_stay = is_quadratic or self._kind != "laplace"  # wherever the path is
        # a network may begin as zero and not stay so
        if sites_stay and not any(site["type"] == "param" for site in reading.trace.values()):
            self._passes = 0 if self._is_linear(reading, args, kwargs) else self.relinearise
        if self._kind == "learnt":
            factors_at = partial(laplace, log_prob, equation)
            first = partial(gains_of, equation, factors_at, _FIRST_PASSES, through_sites=False)
            self._first = jax.jit(first)()[1]

    def draw_path(self, key: Any, reading: Reading, args: tuple, kwargs: Values) -> PathDraw:
        """See `PathGuide`."""
        equation = reading.equation
        gains, factors = self.in_one(
            partial(
                gains_of,
                equation,
                self._factors_at(reading, args, kwargs),
                self._passes,
                through_sites=self._sites_are_data,
                checkpoint=self.checkpoint,
            )
        )()
        shift, features = None, None
        if self._residual is not None:
            network = over_batch(
                declared(f"{self.prefix}_residual", self._residual), len(equation.state.batch)
            )
            shift, features = partial(_shift, network), features_of(equation, factors)
        step = lambda z, e, inputs: equation.step(z, e, inputs[0])  # noqa: E731
        inputs = equation.inputs, features
        drawn = partial(simulate, start=equation.start, step=step, shift=shift, checkpoint=self.checkpoint)
        draw = self.in_one(drawn)(key, gains, inputs=inputs)
        return PathDraw(draw.b, draw.e, draw.z[..., : equation.state.size], draw.log_prob)

    def _factors_at(self, reading: Reading, args: tuple, kwargs: Values) -> Callable[[Array], Factors]:
        equation = reading.equation
        if self._kind == "laplace":
            check_observed(reading)
            return partial(laplace, self.log_density_of_path(reading, args, kwargs), equation)
        if self._kind == "learnt":
            assert self._first is not None
            self._check_length(equation)
            factors = learnt(self.prefix, self._first)
        else:
            y, mask = encoder_data(reading, check_observed(reading), self.encoder_site)
            network = declared(f"{self.prefix}_encoder", self.encoder)
            ts = jnp.asarray(equation.state.grid.ts[1:], jnp.result_type(float))
            factors = encoded(network, y, mask, ts, len(equation.state.batch))
        return lambda x: factors

    def _check_length(self, equation: FractionalSDE) -> None:
        num, known = len(equation.state.grid.ts), len(self._ts) or len(equation.state.grid.ts)
        if num != known:
            raise ValueError(
                f"{equation.name}: the guide has learnt sites for {known} ts, and is called with {num}. Use "
                "extend_noise to forecast."
            )

    def _is_linear(self, reading: Reading, args: tuple, kwargs: Values) -> bool:
        """At a draw from the prior: where a guide begins, a coefficient may be 0 that is not to stay so."""
        equation = read_model(self.model, numpyro.prng_key(), {}, args, kwargs).equation
        log_prob, through_data = self.log_density_of_path(reading, args, kwargs), self._kind == "laplace"

        def look(key: Any) -> Array:
            x = at_outputs(equation, equation.path(*no_noise(equation)))
            return is_linear(equation, laplace(log_prob, equation, x) if through_data else None, key)

        return bool(jax.jit(look)(numpyro.prng_key()))

    def _looked_at(self, equation: FractionalSDE, log_prob: LogProb, key: Any) -> tuple[bool, SiteKind]:
        """Whether the curvature of the likelihood is the same everywhere, and what sites to take."""
        x = at_outputs(equation, equation.path(*no_noise(equation)))
        look = lambda x: tuple(f(log_prob, equation, x, key) for f in (probe_error, change_of_curvature))  # noqa: E731
        probe, change = jax.jit(look)(x)
        is_quadratic = float(change) <= _SAME
        if float(probe) > _SAME:
            warnings.warn(
                f"{equation.name}: the likelihood does not factorise over times (by {float(probe):.2g}); its sites "
                "will be learnt.",
                UserWarning,
                stacklevel=2,
            )
            return is_quadratic, "learnt"
        return is_quadratic, "laplace" if is_quadratic or self.sites == "laplace" else "learnt"


def _shift(network: Callable[[Array], Array], z: Array, inputs: tuple[Any, Features]) -> Array:
    """f of equation (1)."""
    return network(inputs[1].beside(z))
