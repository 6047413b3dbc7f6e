"""The discrete sites of a model, as coordinates of a finite product space.

A coordinate is one element of a site, its value a number of its support: NumPyro's own samplers index by the value
itself, so that `DiscreteUniform(3, 5)` under them stays at 4. Supports are those of the prior model; a support that
depends on another site is refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int
from numpyro import handlers
from numpyro.infer.gibbs import subsample_plate_sizes
from numpyro.infer.util import log_density

from ...kernels.walk.product_space import ProductSpace

type Values = dict[str, Array]

_PRIOR_TRACES = 8


class DiscreteSite(NamedTuple):
    """One site.

    Attributes:
        name: of the site.
        shape: of its values.
        support: its values in order, `[K]`.
    """

    name: str
    shape: tuple[int, ...]
    support: np.ndarray

    @property
    def size(self) -> int:
        """Number of its coordinates."""
        return int(np.prod(self.shape, dtype=int))


class DiscreteSites(NamedTuple):
    """All sites of a model; their elements in a row are the coordinates."""

    sites: tuple[DiscreteSite, ...]

    @property
    def space(self) -> ProductSpace:
        """Of the states."""
        return ProductSpace(tuple(len(site.support) for site in self.sites for _ in range(site.size)))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sites."""
        return tuple(site.name for site in self.sites)

    def values(self, x: Int[Array, "*b D"]) -> Values:
        """Values of the sites at states."""
        found, at = {}, 0
        for site in self.sites:
            numbers = x[..., at : at + site.size].reshape(*x.shape[:-1], *site.shape)
            found[site.name], at = jnp.asarray(site.support)[numbers], at + site.size
        return found

    def state(self, values: Values) -> Int[Array, " D"]:
        """The state at values, which `check` has seen; what is no value of its site becomes one beside it."""
        numbers = [
            jnp.searchsorted(jnp.asarray(site.support), jnp.ravel(values[site.name])) for site in self.sites
        ]
        state = jnp.concatenate(numbers).astype(jnp.int32)
        return jnp.minimum(state, jnp.asarray(self.space.num_values) - 1)

    def check(self, init_params: Values) -> None:
        """Refuses a start that lacks a site or has a value outside its support; of one chain or several."""
        missing = [name for name in self.names if name not in init_params]
        if missing:
            raise ValueError(f"init_params must have a value for every site; {missing} are missing.")
        for site in self.sites:
            value = init_params[site.name]
            if isinstance(value, jax.core.Tracer):
                continue
            outside = np.setdiff1d(np.asarray(value), site.support)
            if outside.size:
                raise ValueError(
                    f"init_params: {outside[0]} is no value of site {site.name!r}, whose support is "
                    f"{np.array2string(site.support, threshold=10)}."
                )


def read_sites(model: Callable[..., Any], model_args: tuple, model_kwargs: dict[str, Any]) -> DiscreteSites:
    """The discrete sites of a model.

    Raises:
        ValueError: continuous latents, an infinite or changing support, events, subsampled plates; by the site.
    """
    with jax.ensure_compile_time_eval():  # supports are numbers, also where a start is traced
        traces = [
            handlers.trace(handlers.seed(model, random.key(number))).get_trace(*model_args, **model_kwargs)
            for number in range(_PRIOR_TRACES)
        ]
        latent = [_latent(trace) for trace in traces]
        _check_latents(latent[0], traces[0])
        sites = tuple(_site(name, site) for name, site in sorted(latent[0].items()))
        for others in latent[1:]:
            for one in sites:
                _check_same(one, others.get(one.name))
    return DiscreteSites(sites)


def read_supports(
    model: Callable[..., Any], model_args: tuple, model_kwargs: dict[str, Any]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Supports of the discrete latent sites of a model, and the names of its continuous ones."""
    with jax.ensure_compile_time_eval():
        trace = handlers.trace(handlers.seed(model, random.key(0))).get_trace(*model_args, **model_kwargs)
        latent = _latent(trace)
        discrete = {name: site for name, site in latent.items() if site["fn"].support.is_discrete}
        supports = {name: _site(name, site).support for name, site in discrete.items()}
    return supports, tuple(name for name in latent if name not in supports)


def log_joint(
    model: Callable[..., Any], sites: DiscreteSites, model_args: tuple, model_kwargs: dict[str, Any]
) -> Callable[[Int[Array, " D"]], Float[Array, ""]]:
    """x -> log of the joint density of model and data there."""

    def log_mu(x: Int[Array, " D"]) -> Float[Array, ""]:
        # a seed for what the density does not depend on, such as a sample site under a mask
        seeded = handlers.seed(model, random.key(0))
        return log_density(seeded, model_args, model_kwargs, sites.values(x))[0]

    return log_mu


def prior_draw(
    model: Callable[..., Any], sites: DiscreteSites, key: Any, model_args: tuple, model_kwargs: dict[str, Any]
) -> Int[Array, " D"]:
    """A state drawn from the prior."""
    trace = handlers.trace(handlers.seed(model, key)).get_trace(*model_args, **model_kwargs)
    return sites.state({name: trace[name]["value"] for name in sites.names})


def _latent(trace: dict[str, Any]) -> dict[str, Any]:
    return {
        name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]
    }


def _check_latents(latent: dict[str, Any], trace: dict[str, Any]) -> None:
    if not latent:
        raise ValueError("SRRW: the model has no latent site, and nothing to walk on.")
    continuous = [name for name, site in latent.items() if not site["fn"].support.is_discrete]
    if continuous:
        raise ValueError(
            f"SRRW: the sites {continuous} are continuous. The tilt needs the probability of a whole state, which with "
            "continuous sites beside is an unknown integral. Use NUTS on them and score_control_variate after it, sum "
            'the discrete sites out (infer={"enumerate": "parallel"}), or take SRRW(model, alpha=0.0) as a block of '
            "Gibbs."
        )
    cut = list(subsample_plate_sizes(trace))
    if cut:
        raise ValueError(f"SRRW: the plates {cut} are subsampled, and a state needs its density on all rows.")


def _site(name: str, site: dict[str, Any]) -> DiscreteSite:
    fn = site["fn"]
    if fn.event_shape:
        raise ValueError(
            f"SRRW: site {name!r} has events of shape {fn.event_shape} ({type(fn).__name__}); values must be scalars."
        )
    if not fn.has_enumerate_support:
        raise ValueError(f"SRRW: site {name!r} ({type(fn).__name__}) has no finite support to enumerate.")
    try:
        support = np.asarray(fn.enumerate_support(expand=False))
    except (NotImplementedError, ValueError, jax.errors.JAXTypeError) as error:
        raise ValueError(
            f"SRRW: NumPyro cannot enumerate the support of site {name!r} ({type(fn).__name__}): {error} Give its "
            "bounds as numbers, the same for all its elements."
        ) from error
    values = support.reshape(len(support), -1)
    return DiscreteSite(name, jnp.shape(site["value"]), np.sort(values[:, 0]))


def _check_same(site: DiscreteSite, other: dict[str, Any] | None) -> None:
    same = other is not None and jnp.shape(other["value"]) == site.shape
    if same:
        again = _site(site.name, other)  # type: ignore[arg-type]
        same = np.array_equal(again.support, site.support)
    if not same:
        raise ValueError(
            f"SRRW: the support of site {site.name!r} changes from one draw of the prior to another; it must not "
            "depend on other sites."
        )
