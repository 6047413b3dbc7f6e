"""Fractional noise that is itself observed, as distributions with an exact density, and a prior for H.

    x_i = loc + scale (B(t_i + dt) - B(t_i)),   Cov = scale^2 dt^2H R(|i - j|)                           (1)
    x_i = scale B(t_i) + obs_noise e_i                                                                   (2)
    x_i - x_{i-1}:   Cov = scale^2 Cov(dB) + obs_noise^2 D D',   D the first difference                  (3)

(1) on a uniform grid, by Durbin and Levinson's recursion in O(N^2), drawn by Davies and Harte (1987). (2) at any
times, by a Cholesky factor of (3) in O(M^3): differences are better conditioned than values, and their Jacobian is 1.
Mandelbrot and Van Ness (1968); the covariances are those of `kernels/fractional/exact.py`.

What a reader would get wrong: H and the scale are confounded over a short range, since the scale is the sd of an
increment over one unit of time: choose the unit within the range of the lags that are seen.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key
from numpy.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.util import is_prng_key, not_jax_tracer

from ..kernels.fractional import circulant_increments, fgn_log_density, increment_covariance
from ..kernels.fractional.coefficients import HURST_RANGE
from .fractional_inputs import Number, check_hurst_range, concrete_times, in_range

__all__ = ["FractionalBrownianMotion", "FractionalGaussianNoise", "hurst_prior"]

_HURST = constraints.interval(*HURST_RANGE)


def hurst_prior(concentration1: Number = 2.0, concentration0: Number = 2.0) -> dist.Distribution:
    """A Beta law moved to [.02, .98], the range of H that emberwalk's weights are made for.

    Args:
        concentration1: of values near .98; Beta(2, 2) excludes neither rough nor smooth paths, Beta(5, 15) smooth ones.
        concentration0: of values near .02.

    Examples:
        >>> from emberwalk.models import hurst_prior
        >>> H = hurst_prior(2.0, 2.0).sample(random.key(0), (1000,))
        >>> bool((H > 0.02).all() and (H < 0.98).all())
        True
    """
    low, high = HURST_RANGE
    move = dist.transforms.AffineTransform(low, high - low, domain=constraints.unit_interval)
    return dist.TransformedDistribution(dist.Beta(concentration1, concentration0), move)


class FractionalGaussianNoise(dist.Distribution):
    """Increments of fractional Brownian motion on a uniform grid, equation (1): event shape `(num_steps,)`.

    Args:
        hurst: H in [.02, .98]: above 1/2 increments go on as they were, below they turn back.
        scale: sd of an increment over one unit of time.
        loc: mean of an increment.
        num_steps: N. A density costs N^2.
        dt: length of a step, in units of time.

    Batches of hurst, scale and loc broadcast.

    Raises:
        ValueError: for a hurst out of range, or a number or length of steps that is not positive.

    Examples:
        >>> from emberwalk.models import FractionalGaussianNoise, hurst_prior, load_nile
        >>> def nile(y):
        ...     H = numpyro.sample("H", hurst_prior())
        ...     s = 100.0 * numpyro.sample("s", dist.HalfNormal(2.0))
        ...     mu = 1150.0 + 100.0 * numpyro.sample("mu", dist.Normal())
        ...     numpyro.sample("y", FractionalGaussianNoise(H, s, mu, num_steps=len(y)), obs=y)
        >>> mcmc = MCMC(NUTS(nile), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(random.key(0), jnp.asarray(load_nile()[1][:50]))
        >>> mcmc.get_samples()["H"].shape
        (5,)
    """

    arg_constraints = {"hurst": _HURST, "scale": constraints.positive, "loc": constraints.real}  # noqa: RUF012
    reparametrized_params = ["hurst", "scale", "loc"]  # noqa: RUF012
    support = constraints.real_vector
    pytree_aux_fields = ("num_steps", "dt")

    def __init__(
        self,
        hurst: Number,
        scale: Number = 1.0,
        loc: Number = 0.0,
        *,
        num_steps: int,
        dt: float = 1.0,
        validate_args: bool | None = None,
    ):
        check_hurst_range("FractionalGaussianNoise", hurst)
        if not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(
                f"FractionalGaussianNoise: num_steps must be a whole number of at least 1, got {num_steps!r}."
            )
        if not 0 < dt < np.inf:
            raise ValueError(f"FractionalGaussianNoise: dt must be a positive length of time, got {dt!r}.")
        self.hurst, self.scale, self.loc = hurst, scale, loc
        self.num_steps = num_steps
        self.dt = float(dt)
        batch = lax.broadcast_shapes(*map(jnp.shape, (hurst, scale, loc)))
        super().__init__(batch, (num_steps,), validate_args=validate_args)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draws of shape `sample_shape + batch_shape + (num_steps,)`, in O(N log N) each."""
        assert is_prng_key(key)
        e = random.normal(key, (*sample_shape, *self.batch_shape, 2 * self.num_steps))
        increments = jnp.vectorize(partial(circulant_increments, dt=self.dt), signature="(m),()->(n)")
        return _behind(self.loc) + _behind(self.scale) * increments(e, in_range(self.hurst))

    def log_prob(self, value: Array, intermediates=None) -> Float[Array, "..."]:
        """Exact, with a derivative in hurst, scale, loc and value."""
        _check_length(self, value)
        density = jnp.vectorize(partial(fgn_log_density, dt=self.dt), signature="(n),(),()->()")
        return density(jnp.asarray(value) - _behind(self.loc), in_range(self.hurst), self.scale)

    @property
    def mean(self) -> Float[Array, "..."]:
        """loc, at every step."""
        return jnp.broadcast_to(_behind(self.loc), self.shape())

    @property
    def variance(self) -> Float[Array, "..."]:
        """scale^2 dt^2H, at every step."""
        sd = jnp.asarray(self.scale) * self.dt ** in_range(self.hurst)
        return jnp.broadcast_to(_behind(sd) ** 2, self.shape())


class FractionalBrownianMotion(dist.Distribution):
    """Fractional Brownian motion seen at given times, with or without noise, equation (2): event shape `(M,)`.

    Args:
        hurst: H in [.02, .98].
        scale: sd of the path after one unit of time.
        ts: `[M]`, times since the origin, where the path is 0; increasing, any spacing, concrete. Above 0, since a
            path without noise is known at 0. A density costs M^3.
        obs_noise: sd of independent noise on every value.

    Batches of hurst, scale and obs_noise broadcast.

    Raises:
        TypeError: for traced ts.
        ValueError: for a hurst out of range, or times that are no increasing row.

    Examples:
        >>> from emberwalk.models import FractionalBrownianMotion
        >>> path = FractionalBrownianMotion(0.3, 2.0, np.array([0.5, 1.0, 4.0]), obs_noise=0.1)
        >>> [round(float(v), 3) for v in path.variance]  # 4 t^.6 + .01
        [2.649, 4.01, 9.2]
        >>> path.log_prob(path.sample(random.key(0), (5,))).shape
        (5,)
    """

    arg_constraints = {  # noqa: RUF012
        "hurst": _HURST,
        "scale": constraints.positive,
        "obs_noise": constraints.nonnegative,
    }
    reparametrized_params = ["hurst", "scale", "obs_noise"]  # noqa: RUF012
    support = constraints.real_vector
    pytree_aux_fields = ("_times",)

    def __init__(
        self,
        hurst: Number,
        scale: Number,
        ts: ArrayLike,
        obs_noise: Number = 0.0,
        *,
        validate_args: bool | None = None,
    ):
        check_hurst_range("FractionalBrownianMotion", hurst)
        times = concrete_times("FractionalBrownianMotion", ts, at_least=1)
        is_exact = not_jax_tracer(obs_noise) and np.any(np.asarray(obs_noise) == 0)
        if times[0] < 0 or (times[0] == 0 and is_exact):
            raise ValueError(
                f"FractionalBrownianMotion: ts are times since the origin, where the path is 0; ts[0] = {times[0]}. "
                "Leave the origin out, or give obs_noise."
            )
        self.hurst, self.scale, self.obs_noise = hurst, scale, obs_noise
        # a tuple compares and hashes, as what is no array in a pytree must
        self._times = tuple(times.tolist())
        batch = lax.broadcast_shapes(*map(jnp.shape, (hurst, scale, obs_noise)))
        super().__init__(batch, times.shape, validate_args=validate_args)

    @property
    def ts(self) -> Float[np.ndarray, " M"]:
        """Times since the origin."""
        return np.array(self._times)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draws of shape `sample_shape + batch_shape + (M,)`."""
        assert is_prng_key(key)
        e = random.normal(key, (*sample_shape, *self.shape()))

        def path(e, hurst, scale, obs_noise):
            return jnp.cumsum(self._factor(hurst, scale, obs_noise) @ e)

        return jnp.vectorize(path, signature="(m),(),(),()->(m)")(e, *self._parameters())

    def log_prob(self, value: Array, intermediates=None) -> Float[Array, "..."]:
        """Exact, with a derivative in hurst, scale, obs_noise and value."""
        _check_length(self, value)

        def density(x, hurst, scale, obs_noise):
            factor = self._factor(hurst, scale, obs_noise)
            e = solve_triangular(factor, jnp.diff(x, prepend=0.0), lower=True)
            return -jnp.sum(e**2 + jnp.log(2 * jnp.pi)) / 2 - jnp.sum(jnp.log(jnp.diagonal(factor)))

        return jnp.vectorize(density, signature="(m),(),(),()->()")(jnp.asarray(value), *self._parameters())

    @property
    def mean(self) -> Float[Array, "..."]:
        """0."""
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> Float[Array, "..."]:
        """scale^2 t^2H + obs_noise^2."""
        hurst, scale, obs_noise = (_behind(x) for x in self._parameters())
        path = (scale * jnp.asarray(self.ts, hurst.dtype) ** hurst) ** 2
        return jnp.broadcast_to(path + obs_noise**2, self.shape())

    def _parameters(self) -> tuple[Array, Array, Array]:
        hurst = in_range(self.hurst)
        return hurst, jnp.asarray(self.scale, hurst.dtype), jnp.asarray(self.obs_noise, hurst.dtype)

    def _factor(self, hurst: Array, scale: Array, obs_noise: Array) -> Float[Array, "M M"]:
        """Cholesky factor of equation (3)."""
        D = np.eye(len(self._times)) - np.eye(len(self._times), k=-1)
        if self._times[0] > 0:
            increments = increment_covariance(np.append(0.0, self.ts), hurst)
        else:
            increments = jnp.pad(increment_covariance(self.ts, hurst), ((1, 0), (1, 0)))
        return jnp.linalg.cholesky(scale**2 * increments + obs_noise**2 * jnp.asarray(D @ D.T, hurst.dtype))


def _behind(x: Number) -> Array:
    """A batch, with an axis for time behind it."""
    return jnp.asarray(x, jnp.result_type(float))[..., None]


def _check_length(law: dist.Distribution, value: Array) -> None:
    if jnp.shape(value)[-1:] != law.event_shape:
        raise ValueError(
            f"{type(law).__name__}: a value has shape {jnp.shape(value)}, expected {law.event_shape[0]} steps."
        )
