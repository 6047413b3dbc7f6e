"""What guides of a fractional path share: the other latents by a guide of NumPyro, the path by a law of its noises.

    q(theta, b, e) = q(theta) q(b, e | theta),   theta all other latents, b and e the noises of the path   (1)

A guide call draws theta, reads the equation at theta from the user's model (`model_runs.py`), and asks the subclass
for a draw of (b, e) and its log density. They become Delta sites that carry it, as in NumPyro's own guides.
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jaxtyping import Array, Float, Key
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide, AutoMultivariateNormal
from numpyro.infer.initialization import init_to_median

from ...models.fractional import FractionalSDE
from .model_runs import (
    Model,
    NoOtherLatent,
    Reading,
    Values,
    WithoutNoise,
    is_concrete,
    log_density_of_path,
    path_sites,
    read_model,
)
from .programs import Draw, Program, known_by, over_keys
from .report import FractionalDiagnostics, diagnosed

_PROGRAMS = 8  # kept; of the data that came last


class PathDraw(NamedTuple):
    """Noises of a path from a guide.

    Attributes:
        b: of the start, `[*B, R]`.
        e: of the steps, `[N, *B, P r]`.
        x: the path that they drive, `[N + 1, *B, d]`.
        log_prob: log q(b, e | theta), `[*B]`.
    """

    b: Float[Array, "*B R"]
    e: Float[Array, "N *B Pr"]
    x: Float[Array, "N+1 *B d"]
    log_prob: Float[Array, "*B"]


class PathGuide(AutoGuide):
    """Equation (1); `AutoFractionalSDE` and `ControlGuide` say what q(b, e | theta) is.

    Args:
        model: with one `fractional_sde(..., noise="markov")`.
        prefix: of the names of params.
        inner: guide class for the other latents; None: `AutoMultivariateNormal`.
        init_loc_fn: where the other latents begin.
    """

    def __init__(
        self,
        model: Model,
        *,
        prefix: str = "auto",
        inner: type[AutoGuide] | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
    ):
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)
        self.inner = AutoMultivariateNormal if inner is None else inner
        self._theta: AutoGuide | None = None
        self._name: str | None = None
        self._ts = np.empty(0)
        self._warned_of_ts = False
        self._programs: dict[Hashable, Program] = {}
        self._reads_data, self._first_call = True, False
        self._observed: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        """Compiled programs do not pickle, and are made again."""
        return {**super().__getstate__(), "_programs": {}}

    # What a subclass is

    @abstractmethod
    def draw_path(self, key: Key[Array, ""], reading: Reading, args: tuple, kwargs: Values) -> PathDraw:
        """A draw of q(b, e | theta); params of the guide are declared here."""

    def look_at(self, reading: Reading, args: tuple, kwargs: Values) -> None:
        """Called once, before the first draw: what is decided from the model and the data."""

    # What NumPyro calls

    def __call__(self, *args, **kwargs) -> Values:
        """A draw, `{site: value}`; inside SVI, or under `handlers.seed`."""
        return self._drawn(args, kwargs)[0]

    def sample_posterior(
        self,
        rng_key: Key[Array, ""],
        params: Values,
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> Values:
        """Draws of all latents, and of the path at ts.

        They carry the noise of the path, from which `Predictive(model, samples)` makes it again: without the noise it
        would draw the path from the prior, as it ignores deterministic sites.

        Args:
            rng_key: of the draws.
            params: `svi.get_params(state)`, or `result.params`.
            args: of the model, the data among them.
            sample_shape: of the draws.
            kwargs: of the model.

        Returns:
            The other latents, `{name}_init`, `{name}_bank`, `{name}_noise` and `{name}`, each `[*sample_shape, ...]`.
        """

        def one(key: Key[Array, ""], params: Values) -> Values:
            with handlers.block(), handlers.seed(rng_seed=key), handlers.substitute(data=params):
                values, draw, reading = self._drawn(args, kwargs)
                return values | {reading.equation.name: reading.equation.record(draw.x)}

        keys = random.split(rng_key, int(np.prod(sample_shape, dtype=int)))
        draws = self.program("sample_posterior", one, rng_key, args, kwargs)(keys, params)
        return jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), draws)

    def paths(self, samples: Values) -> Values:
        """Draws without their noise: what ArviZ should see."""
        hidden = {f"{self._name}_{part}" for part in ("init", "bank", "noise")}
        return {name: value for name, value in samples.items() if name not in hidden}

    def median(self, params: Values) -> Values:
        """Medians of the other latents; of the path take those of `sample_posterior`."""
        return {} if self._theta is None else self._theta.median(params)

    def quantiles(self, params: Values, quantiles: Any) -> Values:
        """Quantiles of the other latents; of the path take those of `sample_posterior`."""
        return {} if self._theta is None else self._theta.quantiles(params, quantiles)

    def diagnostics(
        self, rng_key: Key[Array, ""], params: Values, *args: Any, num_samples: int = 1000, **kwargs: Any
    ) -> FractionalDiagnostics:
        """What the fitted guide is worth; print it for advice.

        Args:
            rng_key: of the draws.
            params: as for `sample_posterior`.
            args: of the model, the data among them.
            num_samples: draws.
            kwargs: of the model.
        """
        return diagnosed(self, rng_key, params, args, kwargs, num_samples)

    @property
    def hurst_site(self) -> str:
        """Where a guide call leaves H, for `diagnostics`."""
        return f"_{self.prefix}_hurst"

    # How

    def program(self, name: str, draw: Draw, key: Key[Array, ""], args: tuple, kwargs: Values) -> Program:
        """`draw` for many keys, compiled once for each name and data of the model; sets the guide up.

        Like any jitted function it keeps what else the model read when it was first called.
        """
        if self._name is None:
            with handlers.block(), handlers.seed(rng_seed=key):
                self._set_up(args, kwargs)
        if not is_concrete((args, kwargs)):
            return over_keys(draw)
        known = name, known_by((args, kwargs))
        if known not in self._programs:
            while len(self._programs) >= _PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[known] = over_keys(draw)
        return self._programs[known]

    def in_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function; as one program where a guide is first called, which is hundreds to compile if none is made."""
        return jax.jit(function) if self._first_call else function

    def _drawn(self, args: tuple, kwargs: Values) -> tuple[Values, PathDraw, Reading]:
        self._first_call = self._name is None
        if self._first_call:
            with handlers.block():
                self._set_up(args, kwargs)
        theta = {} if self._theta is None else self._theta(*args, **kwargs)
        reading = read_model(self.model, numpyro.prng_key(), theta, args, kwargs)
        equation = reading.equation
        self._look_at_times(equation)
        if self._reads_data:
            self._check_still_observed(reading)
        numpyro.deterministic(self.hurst_site, equation.hurst)
        draw = self.draw_path(numpyro.prng_key(), reading, args, kwargs)
        values = equation.to_sites(draw.b, draw.e)
        for site, value in values.items():
            # the last of them carries the log density of all
            log_prob = draw.log_prob if site == f"{equation.name}_noise" else jnp.zeros_like(draw.log_prob)
            law = dist.Delta(value, log_prob, event_dim=jnp.ndim(value) - len(equation.state.batch))
            numpyro.sample(site, law)
        return theta | values, draw, reading

    def _set_up(self, args: tuple, kwargs: Values) -> None:
        """Once: which latents there are besides, and what the subclass wants to know."""
        key = numpyro.prng_key()
        reading = read_model(self.model, key, {}, args, kwargs)
        name = reading.equation.name
        _check_concrete(name, (key, args, kwargs, [site["value"] for site in reading.trace.values()]))
        others = [site for site, m in reading.trace.items() if m["type"] == "sample" and not m["is_observed"]]
        if others:
            rest = handlers.block(WithoutNoise(self.model), hide_fn=NoOtherLatent(path_sites(name)))
            self._theta = self.inner(rest, prefix=self.prefix, init_loc_fn=self.init_loc_fn)
            theta = self._theta(*args, **kwargs)
            reading = read_model(self.model, numpyro.prng_key(), theta, args, kwargs)
        self.look_at(reading, args, kwargs)
        self._observed = frozenset(_observed_sites(reading))
        self._name, self._ts = name, reading.equation.state.grid.ts

    def _look_at_times(self, equation: FractionalSDE) -> None:
        """A bank that the model makes anew for other times is another one."""
        ts = equation.state.grid.ts
        same = len(ts) == len(self._ts) and np.array_equal(ts, self._ts)
        if not same and not equation.coefficients_given and not self._warned_of_ts:
            self._warned_of_ts = True
            warnings.warn(
                f"{equation.name}: the guide meets other ts than it was made with, and the model makes another bank "
                "for them. Pass coefficients=fractional_coefficients(...) with the longest horizon to fractional_sde.",
                UserWarning,
                stacklevel=3,
            )

    def _check_still_observed(self, reading: Reading) -> None:
        missing = sorted(self._observed - set(_observed_sites(reading)))
        if missing:
            raise ValueError(
                f"Site {missing[0]!r} was observed when the guide was made, and is not now. {_PASS_DATA}"
            )

    def log_density_of_path(self, reading: Reading, args: tuple, kwargs: Values):
        """See `model_runs.log_density_of_path`."""
        return log_density_of_path(self.model, reading.values, args, kwargs)


def _check_concrete(name: str, seen: Any) -> None:
    """What a guide keeps from its first call, networks and sites, outlives a trace, and decisions need numbers."""
    if not is_concrete(seen):
        raise TypeError(
            f"{name}: the guide looks at the data when it is first called, and they or the key are traced. Call "
            "svi.init (or the guide) once outside of jit."
        )


_PASS_DATA = (
    "This guide reads the data. Pass them: samples = guide.sample_posterior(key, params, ts, y); "
    "Predictive(model, samples)(key, ts)."
)


def _observed_sites(reading: Reading) -> dict[str, dict[str, Any]]:
    return {
        name: site for name, site in reading.trace.items() if site["type"] == "sample" and site["is_observed"]
    }


def check_observed(reading: Reading) -> dict[str, dict[str, Any]]:
    """The observed sites; refuses a guide that would read the data, and is called without.

    Raises:
        ValueError: no site is observed, or data are NaN and not masked.
    """
    observed = _observed_sites(reading)
    if not observed:
        raise ValueError(f"No site is observed. {_PASS_DATA}")
    for name, site in observed.items():
        value = site["value"]
        if (
            value is None
            or not is_concrete(value)
            or not jnp.issubdtype(jnp.result_type(value), jnp.floating)
        ):
            continue
        mask = mask_of(site)
        bad = np.isnan(np.asarray(value)) & (np.asarray(mask) if is_concrete(mask) else False)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"Site {name!r} is NaN at {first}. Mark what is missing with handlers.mask, and fill it with any "
                "number."
            )
    return observed


def mask_of(site: dict[str, Any]) -> Any:
    """True where a datum counts, in the shape of the data."""
    mask, fn = jnp.asarray(True), site["fn"]
    while True:
        if isinstance(fn, dist.MaskedDistribution):
            own = jnp.asarray(fn._mask)
            mask = mask & own.reshape(own.shape + (1,) * fn.event_dim)
        if not hasattr(fn, "base_dist"):
            return jnp.broadcast_to(mask, jnp.shape(site["value"]))
        fn = fn.base_dist
