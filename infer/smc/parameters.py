"""A model whose parameters are learned: which sites they are, and the model at given values of them.

    theta    unconstrained values of `numpyro.param` sites, and with objective "map" of the latent
             sample sites outside the path; a site's value is bijection(theta)                     (1)

The model at theta is built anew inside each function that is differentiated, so that gradients
reach supports and scan closures too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.initialization import init_to_median, init_to_sample
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

from ...kernels.smc import SSM, Path
from .capture import OuterModel, Sites, latent_sites, run_body
from .path_model import PathModel, SiteValues
from .scan_model import ScanModel
from .structure import find_path_model

OBJECTIVES = ("mle", "map")


@dataclass(frozen=True)
class ParametricModel:
    """A model as a function of theta, equation (1).

    Attributes:
        outer: the model and its arguments.
        path: its path.
        parameters: names of the sites that theta holds.
    """

    outer: OuterModel
    path: PathModel
    parameters: tuple[str, ...]

    def at(self, theta: SiteValues) -> OuterModel:
        """The model with the sites of theta given."""
        return self.outer._replace(model=_AtUnconstrained(self.outer.model, theta))

    def ssm(self, theta: SiteValues) -> SSM:
        """Its state-space model."""
        return self.path.ssm(self.at(theta))

    def constrained(self, theta: SiteValues) -> SiteValues:
        """Values of the sites of theta."""
        sites = self.at(theta).run(init_to_sample).sites
        return {name: sites[name]["value"] for name in self.parameters}

    def first(self, key: Array, given: SiteValues) -> SiteValues:
        """theta to begin with: given values, those of `param` sites, medians of 15 draws of the prior."""
        sites = self.outer._replace(model=handlers.substitute(self.outer.model, data=given)).run(
            init_to_median, key
        ).sites  # fmt: skip
        theta = {name: bijection(sites[name])._inverse(sites[name]["value"]) for name in self.parameters}
        # a weak type would be strong after one step, and the loop over the steps compile twice
        return {name: lax.convert_element_type(leaf, jnp.result_type(leaf)) for name, leaf in theta.items()}

    def log_joint(self, theta: SiteValues, path: Path) -> Float[Array, ""]:
        """log p(x_{0:T}, y; theta), priors in constrained space; all times at once where the order is 1."""
        model = handlers.seed(self.at(theta).model, jax.random.key(0))
        given = handlers.substitute(model, data=self.path.values_of(path))
        given = self.path.over_all_times(given)
        return jnp.asarray(log_density(given, self.outer.args, self.outer.kwargs, {})[0])


class _AtUnconstrained(Messenger):
    """Gives the sites of theta their values; innermost, so that nothing else gives them another."""

    def __init__(self, fn: Callable, theta: SiteValues):
        self.theta = theta
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] in ("param", "sample") and msg["name"] in self.theta:
            msg["value"] = bijection(msg)(self.theta[msg["name"]])


def bijection(site: dict[str, Any]):
    """From unconstrained values to those of a `param` or a sample site."""
    is_param = site["type"] == "param"
    return biject_to(site["kwargs"].get("constraint", constraints.real) if is_param else site["fn"].support)


def find_parameters(outer: OuterModel, objective: str) -> ParametricModel:
    """The model as a function of its parameters.

    Raises:
        ValueError: where there is no path or no parameter, or a latent site that nothing moves; the
            message names the sites and says what to write.
    """
    path = find_path_model(outer)
    found: list[tuple[tuple[str, ...], dict[str, bool]]] = []
    jax.eval_shape(lambda: found.append(_sites_outside(outer, path)))
    ((params, samples),) = found
    if objective == "mle":
        _check_mle(params, tuple(samples))
        return ParametricModel(outer, path, params)
    _check_map(samples)
    return ParametricModel(outer, path, (*params, *samples))


def _sites_outside(outer: OuterModel, path: PathModel) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Names of `param` sites, and of latent sites outside the path with whether they are discrete."""
    run = outer.run(init_to_sample)
    if isinstance(path, ScanModel):
        call = run.call
        _check_no_param(run_body(call, call.init, jnp.array(0), init_to_sample).sites)
    samples = {n: bool(s["fn"].support.is_discrete) for n, s in latent_sites(run.sites).items()}
    return (
        tuple(name for name, site in run.sites.items() if site["type"] == "param"),
        {name: discrete for name, discrete in samples.items() if name not in path.sites},
    )


def _check_no_param(body: Sites) -> None:
    inside = [name for name, site in body.items() if site["type"] == "param"]
    if inside:
        raise ValueError(
            f"The param sites {inside} stand in the scan body, where NumPyro lets nothing reach them. Put them before "
            "the scan, and let the body close over them."
        )


def _check_mle(params: tuple[str, ...], samples: tuple[str, ...]) -> None:
    if samples:
        raise ValueError(
            f'objective="mle" learns param sites, here {list(params)}, and nothing moves the latent sites '
            f'{list(samples)}. Write them as numpyro.param, or take objective="map".'
        )
    if not params:
        raise ValueError(
            'objective="mle" learns param sites, and the model has none. Write them as '
            'numpyro.param("phi", 0.5, constraint=...) outside the scan.'
        )


def _check_map(samples: dict[str, bool]) -> None:
    if not samples:
        raise ValueError(
            'objective="map" learns the sample sites outside the path, and the model has none. Give the parameters '
            'priors, numpyro.sample("phi", ...), or take objective="mle" for param sites.'
        )
    discrete = [name for name, is_discrete in samples.items() if is_discrete]
    if discrete:
        raise ValueError(
            f"The sites {discrete} are discrete, and there is no gradient along them. Condition on them, or sample "
            "them with PPG."
        )
