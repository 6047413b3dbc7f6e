"""Fractional paths seen with noise, as NumPyro models; their guides' weights, and the answers of dense algebra."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro import handlers
from numpyro.infer.util import get_importance_trace

from emberwalk.infer.fractional.model_runs import log_density_of_path, no_noise, read_model
from emberwalk.infer.fractional.reference import centre, gains_of
from emberwalk.infer.fractional.sites import laplace
from emberwalk.kernels.fractional import fbm_covariance, fractional_coefficients
from emberwalk.models import fractional_sde

HURSTS = (0.1, 0.3, 0.5, 0.7, 0.9)
SD = 0.1


@cache
def coefficients(horizon=1.0, num_steps=200, num_modes=8):
    return fractional_coefficients(horizon, num_steps, num_modes=num_modes)


def nothing(t, x):
    return 0.0 * x


def unit(t, x):
    return jnp.ones_like(x)


def bridge(num_steps, at, drift=nothing, diffusion=unit, y0=0.0, ts=None, **options):
    """A model of (H, y): y = x at some of the times, with noise of sd .1."""
    ts = np.linspace(0.0, 1.0, num_steps + 1) if ts is None else ts
    options = {"coefficients": coefficients(float(ts[-1] - ts[0]), num_steps), **options}

    def model(H, y=None):
        x = fractional_sde("x", drift, diffusion, ts, H, y0, **options)
        numpyro.sample("y", dist.Normal(x[at], SD), obs=y)

    return model


def set_up(guide, *args, **kwargs):
    """The guide, as after its first call, but for the draw, which is another program to compile."""
    with handlers.block(), handlers.seed(rng_seed=random.key(9)):
        guide._set_up(args, kwargs)
    return guide


def called(guide, *args, **kwargs):
    """The guide, with a draw."""
    handlers.seed(guide, random.key(9))(*args, **kwargs)
    return guide


def log_weights(model, guide, params=None):
    """(keys, *args) -> log p - log q of a draw for each key; one program for all args of a shape."""
    return _of_draws(model, guide, params, lambda log_weight, trace: log_weight)


def weighted_paths(model, guide, params=None):
    """(keys, *args) -> log p - log q and the path x of a draw for each key."""
    return _of_draws(model, guide, params, lambda log_weight, trace: (log_weight, trace["x"]["value"]))


def _of_draws(model, guide, params, kept):
    """What `kept` makes of the weight of a draw and the model's trace of it, mapped over keys."""
    params = {} if params is None else params

    def one(key, *args):
        seeded = (handlers.seed(fn, key) for fn in (model, guide))
        with handlers.block():
            traces = get_importance_trace(*seeded, args, {}, params)
        p, q = (
            sum(jnp.sum(site["log_prob"]) for site in trace.values() if site["type"] == "sample")
            for trace in traces
        )
        return kept(p - q, traces[0])

    def mapped(keys, *args):
        return jax.vmap(lambda key: one(key, *args))(keys)

    return jax.jit(mapped)


def linear_bridge(model, *args):
    """`Linear` and `Sites` of a linear model of one state without other latents."""
    with handlers.block():
        equation, values, _ = read_model(model, random.key(0), {}, args, {})
    b, e = no_noise(equation)
    z = jnp.zeros((len(e) + 1, *equation.start(b).shape))
    x = jnp.zeros((len(equation.state.grid.ts), 1))
    return equation.linear(z, e), laplace(log_density_of_path(model, values, args, {}), equation, x).on(
        equation
    )


def posterior(model, *args):
    """(mean, sd) of x on the fine grid by the guide's gains, `[N + 1]`; a linear model of one state."""

    def found(*args):
        with handlers.block():
            reading = read_model(model, random.key(0), {}, args, {})
        equation = reading.equation
        log_prob = log_density_of_path(model, reading.values, args, {})
        gains, _ = gains_of(equation, lambda x: laplace(log_prob, equation, x), 0)
        _, e = no_noise(equation)
        z = jnp.zeros((len(e) + 1, *gains.start.G.shape[-1:]))
        return gains, equation.linear(z, e), centre(equation, gains)[0][:, 0]

    gains, linear, mean = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(found)(*args))
    factor = np.linalg.solve(gains.start.chol.T, np.eye(len(gains.start.chol)))
    spread = linear.start_factor @ factor
    covariance, sds = spread @ spread.T, []
    for n in range(len(linear.M) + 1):
        sds.append(np.sqrt(max(covariance[0, 0], 0.0)))
        if n < len(linear.M):
            closed = linear.M[n] + linear.L[n] @ gains.steps.G[n]
            kick = linear.L[n] @ np.linalg.inv(gains.steps.chol[n]).T
            covariance = closed @ covariance @ closed.T + kick @ kick.T
    return mean, np.array(sds)


def exact_gp(prior, at, y, mean=0.0):
    """(log evidence, posterior mean, posterior sd) of a Gaussian vector seen at some entries; float64."""
    mean = np.broadcast_to(mean, len(prior)).astype(float)
    S = prior[np.ix_(at, at)] + SD**2 * np.eye(len(at))
    error, gain = y - mean[at], np.linalg.solve(S, prior[at]).T
    evidence = -(error @ np.linalg.solve(S, error) + np.linalg.slogdet(2 * np.pi * S)[1]) / 2
    variance = np.diag(prior) - np.einsum("ij,ij->i", gain, prior[:, at])
    return evidence, mean + gain @ error, np.sqrt(np.maximum(variance, 0))


def fbm_prior(ts, H):
    """Covariance of x = B at ts, B(ts[0]) = 0."""
    with jax.enable_x64(True):
        return np.asarray(fbm_covariance(ts - ts[0], H))


def through_euler(ts, H, pull, mean, x0, scale=1.0):
    """Mean and covariance of Euler's dx = pull (mean - x) dt + scale dB on exact increments of B."""
    B = fbm_prior(ts, H)
    D = np.eye(len(ts)) - np.eye(len(ts), k=-1)
    increments = (D @ B @ D.T)[1:, 1:]
    dt, N = np.diff(ts), len(ts) - 1
    images, means = [np.zeros(N)], [x0]
    for n in range(N):
        images.append((1 - pull * dt[n]) * images[-1] + scale * np.eye(N)[n])
        means.append(means[-1] + pull * (mean - means[-1]) * dt[n])
    A = np.array(images)
    return np.array(means), A @ increments @ A.T
