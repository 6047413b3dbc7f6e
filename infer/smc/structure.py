"""Where the path of a model is: found by running the model, never by names.

For a scan, one jaxpr answers every question. Its inputs are the latents outside the scan, a carry,
the latents of one step, and stand-ins for the outputs of the scan; its outputs are the first
carry, the next carry, the factors of one step, and the log-density of every site outside:

    initial site      <=>  the first carry depends on it, and the step (the closure) does not
    part of g_0       <=>  log p of an outer site depends on an initial site
    refused           <=>  log p of an outer site depends on outputs of the scan
    Markov order      <=   dependence of the next carry on the carry (`dataflow.py`)
"""

import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.infer.initialization import init_to_sample

from ...kernels.smc import PathMove
from ...models.state_space import StateSpace
from .capture import OuterModel, OuterRun, Sites, latent_sites, run_body, sum_log_prob
from .dataflow import (
    MAX_ORDER,
    dependence,
    markov_order,
    never_forgotten,
    rows_of,
    stochastic_leaves,
)
from .location_scale import noise_map
from .path_model import PathModel, assign_from
from .scan_model import ScanModel
from .state_space_model import StateSpaceModel, unwrap_emission

HOW_TO_WRITE = """
A path is either a scan of NumPyro with a latent site in its body,
    from numpyro.contrib.control_flow import scan
    def step(h, y_t):
        h = numpyro.sample("h", dist.Normal(phi * h, sigma))
        numpyro.sample("y", dist.Normal(h, 1.0), obs=y_t)
        return h, None
    scan(step, h0, y)
or a StateSpace site with emissions,
    from emberwalk.models import StateSpace, emission
    x = numpyro.sample("x", StateSpace(dist.Normal(0.0, 1.0), lambda prev, t: dist.Normal(phi * prev, sigma), T))
    numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)
"""


def find_path_model(
    outer: OuterModel, *, init_sites: tuple[str, ...] | None = None, sites: tuple[str, ...] | None = None
) -> PathModel:
    """The path of a model.

    Args:
        outer: the model with its arguments.
        init_sites: sites outside the scan that start the path; None: found by dataflow.
        sites: the names the path is to have; None: whatever is found.

    Raises:
        ValueError: where no path is found, or one that the particle kernels cannot take; the
            message names the site and says what to write.
    """
    found: list[PathModel] = []
    # shapes are enough: nothing is computed, and nothing compiled
    jax.eval_shape(lambda: found.append(_find(outer, init_sites, sites)))
    return found[0]


def check_owns_latents(outer: OuterModel, model: PathModel) -> None:
    """Refuse latent sites that are neither part of the path nor conditioned: they would be drawn anew each time."""
    others: list[str] = []
    jax.eval_shape(lambda: others.extend(latent_sites(outer.run(init_to_sample).sites)))
    others = [name for name in others if name not in model.sites]
    if others:
        raise ValueError(
            f"ParticleGibbs moves the path {list(model.sites)}, and no kernel moves the latent sites {others}. Use "
            f"PPG(model), or Gibbs([(ParticleGibbs(model), {list(model.sites)}), (NUTS(model), None)])."
        )


def _find(outer: OuterModel, init_sites: tuple[str, ...] | None, sites: tuple[str, ...] | None) -> PathModel:
    run = outer.run(init_to_sample)
    latents = latent_sites(run.sites)
    state_spaces = [n for n, s in latents.items() if _is_state_space(n, s["fn"])]
    if len(state_spaces) + (run.scan is not None) > 1:
        found = [*state_spaces, *(["a scan"] if run.scan is not None else [])]
        raise ValueError(
            f"The model has more than one path ({', '.join(found)}); the particle kernels take one."
        )
    if state_spaces:
        if init_sites:
            raise ValueError(
                f"init_sites={list(init_sites)} are for scans; the StateSpace site {state_spaces[0]!r} holds its start "
                "itself. Leave init_sites out."
            )
        model: PathModel = _read_state_space(outer, run, state_spaces[0])
    elif run.scan is not None:
        model = _read_scan(outer, run, init_sites)
    else:
        raise ValueError(
            f"No path found: the model has neither a scan nor a latent StateSpace site, only {_some(latents)}."
            + HOW_TO_WRITE
        )
    if sites is not None and set(sites) != set(model.sites):
        raise ValueError(
            f"The path of the model consists of the sites {list(model.sites)}, but sites={list(sites)} was asked "
            "for. Parameters belong to the inner kernel; init_sites= says which outer sites start the path."
        )
    return model


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_state_space(name: str, law: Any) -> bool:
    inner = law
    while not isinstance(inner, StateSpace) and hasattr(inner, "base_dist"):
        inner = inner.base_dist
    if isinstance(inner, StateSpace) and inner is not law:
        raise ValueError(
            f"The StateSpace site {name!r} stands in a {type(law).__name__} (a mask, a plate, or .expand around it). "
            "Mask its emissions instead, and make several series one state: a vector with .to_event(1)."
        )
    return inner is law and isinstance(law, StateSpace)


def _read_scan(outer: OuterModel, run: OuterRun, init_sites: tuple[str, ...] | None) -> ScanModel:
    call = run.call
    body = run_body(call, call.init, jnp.array(0), lambda msg: None).sites
    latents = latent_sites(body)
    _check_body(body, latents, call.around)
    outer_latents = {name: site["value"] for name, site in latent_sites(run.sites).items()}
    flow = _Flow(outer, run, outer_latents, {name: site["value"] for name, site in latents.items()})
    if init_sites is None:
        init_sites = flow.init_sites()
        flow.warn_of_parameters_in_carry(init_sites)
    flow.check_init_sites(init_sites)
    for name in init_sites:
        _check_drawable(name, run.sites[name])
    flow.check_after_scan()
    order, stochastic = flow.order(init_sites)
    in_body = tuple(n for n, s in body.items() if s["type"] == "deterministic")
    discrete = {
        n
        for n, s in {**latents, **run.sites}.items()
        if s["type"] == "sample" and s["fn"].support.is_discrete
    }
    return ScanModel(
        sites=(*init_sites, *latents),
        init_sites=init_sites,
        observed=tuple(n for n, s in body.items() if s["type"] == "sample" and n not in latents),
        likelihood_sites=flow.sites_after(init_sites),
        discrete=frozenset(discrete & {*init_sites, *latents}),
        length=call.length,
        order=order,
        stochastic=stochastic,
        never_forgotten=flow.never_forgotten(init_sites),
        time_deterministic=in_body,
        replay=bool(in_body) or flow.depends(flow.rows["shown"], flow.outputs),
        without_noise=tuple(
            (n, type(s["fn"]).__name__)
            for n, s in latents.items()
            if n not in discrete and noise_map(s["fn"]) is None
        ),
    )


def _check_body(body: Sites, latents: Sites, around: list[Any]) -> None:
    if not latents:
        raise ValueError(
            f"No path found: the body of the scan has no latent site, only {list(body)}." + HOW_TO_WRITE
        )
    for name, site in body.items():
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise ValueError(
                f"Plate {name!r} in the scan body subsamples {site['args'][1]} of {site['args'][0]}; "
                "the particle kernels need the whole likelihood. Remove subsample_size."
            )
    for name, site in latents.items():
        # obs_mask masks its unobserved half where there is an observation, and the value is not used there
        of_obs_mask = name.endswith("_unobserved") and f"{name.removesuffix('unobserved')}observed" in body
        _check_drawable(name, site, may_be_masked=of_obs_mask)
    for handler in around:
        config = getattr(handler, "config", None)
        if isinstance(config, dict) and not set(config) & set(body):
            continue  # reparametrises sites outside the scan only
        raise ValueError(
            f"The handler {type(handler).__name__!r} stands around the scan of {list(latents)}, where NumPyro does "
            "not apply it step by step. Move it into the scan body."
        )


def _check_drawable(name: str, site: dict[str, Any], *, may_be_masked: bool = False) -> None:
    """The law that a particle is drawn from must be the factor that the site has in the density."""
    law = site["fn"]
    while hasattr(law, "base_dist") and not isinstance(law, dist.MaskedDistribution):
        law = law.base_dist
    masked = not may_be_masked and isinstance(law, dist.MaskedDistribution) and law._mask is not True
    if masked or site["scale"] is not None:
        raise ValueError(
            f"handlers.{'mask' if masked else 'scale'} stands around the latent site {name!r}, and particles are drawn "
            "from the law without it. Put it around observed sites only."
        )


class _Flow:
    """The jaxpr of the module's first lines, asked."""

    def __init__(self, outer: OuterModel, run: OuterRun, outer_latents, latents):
        call = run.call

        def everything(outer_values, carry, values, outputs):
            again = outer.run(assign_from(outer_values), outputs=outputs)
            step = run_body(again.call, carry, jnp.array(0), assign_from(values))
            factors = {n: sum_log_prob([s]) for n, s in step.sites.items() if s["type"] == "sample"}
            sites = {n: sum_log_prob([s]) for n, s in again.sites.items() if s["type"] == "sample"}
            shown = {n: s["value"] for n, s in again.sites.items() if s["type"] == "deterministic"}
            return {
                "init": again.call.init,
                "carry": step.carry,
                "factors": factors,
                "sites": sites,
                "shown": shown,
            }

        self.matrix, shapes, columns = dependence(everything, outer_latents, call.init, latents, run.outputs)
        self.rows = rows_of(shapes)
        outer_columns, self.carry, self.latents, self.outputs = columns
        self.outer = {name: outer_columns[name] for name in outer_latents}  # jax sorts what a model orders
        paths = jax.tree_util.tree_leaves_with_path(call.init)
        self.carry_names = [f"carry{jax.tree_util.keystr(path)}" for path, _ in paths]

    def depends(self, rows, columns) -> bool:
        """Whether any of the outputs depends on any of the inputs."""
        return bool(self.matrix[np.ix_(jax.tree.leaves(rows), jax.tree.leaves(columns))].any())

    def init_sites(self) -> tuple[str, ...]:
        starts = (n for n, column in self.outer.items() if self.depends(self.rows["init"], column))
        return tuple(name for name in starts if not self.in_closure(name))

    def in_closure(self, name: str) -> bool:
        """Whether the step itself depends on a site outside the scan."""
        return self.depends((self.rows["carry"], self.rows["factors"]), self.outer[name])

    def check_init_sites(self, init_sites: tuple[str, ...]) -> None:
        """Refuse names given by a user that cannot start a path."""
        unknown = [name for name in init_sites if name not in self.outer]
        if unknown:
            raise ValueError(
                f"init_sites={unknown} are no latent sites outside the scan; those are {list(self.outer)}."
            )
        used = [name for name in init_sites if self.in_closure(name)]
        if used:
            raise ValueError(
                f"init_sites={used} are used by every step of the scan, so that they are parameters. Leave them out, "
                "or hand them on in the carry."
            )

    def sites_after(self, init_sites: tuple[str, ...]) -> tuple[str, ...]:
        """Sites outside the scan, not initial ones, that depend on an initial site."""
        columns = [self.outer[name] for name in init_sites]
        rows = self.rows["sites"].items()
        return tuple(name for name, row in rows if name not in init_sites and self.depends(row, columns))

    def check_after_scan(self) -> None:
        for name, row in self.rows["sites"].items():
            if self.depends(row, self.outputs):
                raise ValueError(
                    f"Site {name!r} uses outputs of the scan: it would have to be in the particle weights of every "
                    "time. Move it into the scan body, to the time that it belongs to."
                )

    def order(self, init_sites: tuple[str, ...]) -> tuple[int | None, tuple[bool, ...]]:
        """Markov order, and which leaves of the carry depend on a latent."""
        on_carry = self._on_carry()
        stochastic = stochastic_leaves(on_carry, self._on_latents(init_sites))
        return markov_order(on_carry, stochastic), tuple(bool(leaf) for leaf in stochastic)

    def never_forgotten(self, init_sites: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the carry leaves that make the order None."""
        on_carry = self._on_carry()
        stochastic = stochastic_leaves(on_carry, self._on_latents(init_sites))
        return tuple(self.carry_names[leaf] for leaf in never_forgotten(on_carry, stochastic))

    def _on_carry(self) -> np.ndarray:
        after, before = jax.tree.leaves(self.rows["carry"]), jax.tree.leaves(self.carry)
        return self.matrix[np.ix_(after, before)]

    def _on_latents(self, init_sites: tuple[str, ...]) -> np.ndarray:
        latents = jax.tree.leaves(self.latents)
        starts = jax.tree.leaves([self.outer[name] for name in init_sites])
        after, first = jax.tree.leaves(self.rows["carry"]), jax.tree.leaves(self.rows["init"])
        return self.matrix[np.ix_(after, latents)].any(1) | self.matrix[np.ix_(first, starts)].any(1)

    def warn_of_parameters_in_carry(self, init_sites: tuple[str, ...]) -> None:
        """A carry leaf that only ever hands on what an initial site put there, changed or not, is no state."""
        after, before = jax.tree.leaves(self.rows["carry"]), jax.tree.leaves(self.carry)
        first, latents = jax.tree.leaves(self.rows["init"]), jax.tree.leaves(self.latents)
        for name in init_sites:
            own = [k for k, row in enumerate(first) if self.depends(row, self.outer[name])]
            constant = [
                k for k in own
                if self.matrix[after[k], before[k]] and not self.matrix[after[k], latents].any()
                and self.matrix[after[k], before].sum() == 1
            ]  # fmt: skip
            if own and own == constant:
                warnings.warn(
                    f"Site {name!r} is passed through the carry of the scan where no latent reaches it, and is taken "
                    "for the start of the path. If it is a parameter, let the body close over it (PPG and "
                    "ParticleGibbs also take init_sites=).",
                    stacklevel=2,
                )


def _read_state_space(outer: OuterModel, run: OuterRun, site: str) -> StateSpaceModel:
    law, value = run.sites[site]["fn"], run.sites[site]["value"]
    emissions = {
        name: s for name, s in run.sites.items()
        if s["type"] == "sample" and s["is_observed"] and unwrap_emission(s["fn"])[0] is not None
    }  # fmt: skip
    _check_drawable(site, run.sites[site])
    _check_reads_of_path(outer, run, site, tuple(emissions))
    following = law.transition(jax.tree.map(lambda leaf: leaf[0], value), jnp.array(1))
    discrete = bool(law.support.is_discrete)
    missing = not discrete and noise_map(following) is None
    return StateSpaceModel(
        sites=(site,),
        observed=tuple(emissions),
        length=law.length - 1,
        discrete=discrete,
        shape=tuple(value.shape),
        dtype=str(value.dtype),
        without_noise=((site, type(following).__name__),) if missing else (),
    )


def _check_reads_of_path(outer: OuterModel, run: OuterRun, site: str, emissions: tuple[str, ...]) -> None:
    """Only emissions may depend on the path, and only on the state that they are given."""
    others = {name: s["value"] for name, s in latent_sites(run.sites).items() if name != site}
    for name in emissions:
        emission, _ = unwrap_emission(run.sites[name]["fn"])
        assert emission is not None
        if emission.batch_shape != (run.sites[site]["fn"].length,):
            raise ValueError(
                f"Emission {name!r} has {emission.batch_shape[0]} times, but the path {site!r} has "
                f"{run.sites[site]['fn'].length} states."
            )

    def everything(path, one_state):
        sites = outer.run(assign_from({**others, site: path})).sites
        rest = {
            n: sum_log_prob([s]) for n, s in sites.items()
            if s["type"] == "sample" and n != site and n not in emissions
        }  # fmt: skip
        alone = {n: _emission_at(sites[n], one_state) for n in emissions}
        return rest, alone, {n: _handlers_of(sites[n]) for n in emissions}

    path = run.sites[site]["value"]
    matrix, shapes, columns = dependence(everything, path, path[0])
    line = (
        f'\nWrite: numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), {site}), obs=y), '
        "a function of one state and its time."
    )
    rest, alone, around = rows_of(shapes)
    for name, row in rest.items():
        if matrix[row, columns[0]]:
            raise ValueError(
                f"Site {name!r} depends on the path {site!r} and is no observed emission." + line
            )
    for name, row in alone.items():
        if matrix[row, columns[0]]:
            raise ValueError(
                f"The emission of {name!r} uses the whole path {site!r}, not its own state alone." + line
            )
    for name, row in around.items():
        if matrix[row, columns[0]]:
            raise ValueError(
                f"The mask or scale around emission {name!r} depends on the path {site!r}, and the particles could not "
                "see it. Put what depends on the state into the emission's own law." + line
            )


def _emission_at(site: dict[str, Any], one_state) -> Any:
    emission, _ = unwrap_emission(site["fn"])
    assert emission is not None
    return jnp.sum(emission.fn(one_state, jnp.array(0)).log_prob(site["value"][0]))


def _handlers_of(site: dict[str, Any]) -> Any:
    """What the handlers around an emission multiply its density by, as one number that depends on all of it."""
    _, mask = unwrap_emission(site["fn"])
    scale = 1.0 if site["scale"] is None else site["scale"]
    return jnp.sum(jnp.asarray(mask, float)) + jnp.sum(scale)


def possible_path_move(model: PathModel, path_move: PathMove) -> PathMove:
    """`path_move`, or "trace" where the Markov order does not allow "backward"."""
    return path_move if model.order is not None and model.order <= MAX_ORDER else "trace"


def check_path_move(model: PathModel, path_move: PathMove) -> PathMove:
    """`possible_path_move`, with a warning where it is another than was asked for."""
    possible = possible_path_move(model, path_move)
    if possible == path_move:
        return path_move
    if model.order is None:
        names = ", ".join(model.never_forgotten)  # type: ignore[attr-defined]
        reason = (
            f"{names} never forgets (a running sum, several lags in one array, or a non-centred body). Write the "
            "transition centred, carry lags as separate leaves; PPG makes the innovations move itself"
        )
    else:
        reason = f"its Markov order is {model.order}, more than {MAX_ORDER}"
    warnings.warn(
        f"The path of {list(model.sites)} is drawn by path_move='trace', which hardly renews early states: {reason}.",
        stacklevel=2,
    )
    return possible
