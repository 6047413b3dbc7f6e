"""Laws of linear models with fractional noise: read off a NumPyro model, and by dense algebra.

    x_{n+1} = x_n + A (m - x_n) D_n + S dB_n,   E dB_n^p dB_m^q = [p = q] R^p_nm                         (1)

A model of linear equations is affine in the normals that are its sites: its path has the mean at 0, and the images of
unit vectors as a root of its covariance. Nothing is drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace

from emberwalk.kernels.fractional import increment_covariance


def normal_sites(model, *args):
    """Shapes of the latent sites of a model, in the order in which it samples them; nothing is computed."""
    shapes = {}

    def run():
        for name, site in trace(seed(model, 0)).get_trace(*args).items():
            if site["type"] == "sample" and not site["is_observed"]:
                shapes[name] = jnp.shape(site["value"])

    jax.eval_shape(run)
    return shapes


def as_function(model, *args):
    """A model's value as a function of all its latent sites in one vector and its arguments, and their number."""
    shapes = normal_sites(model, *args)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]

    def value(flat, *args):
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        sites = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return substitute(seed(model, 0), sites)(*args)

    return value, sum(sizes)


def affine_law(model, *args):
    """Mean and covariance of all that a linear model returns, flat."""
    value, size = as_function(model, *args)

    def mean_and_images(flat):
        return value(flat, *args), jax.jacfwd(value)(flat, *args)

    mean, images = (np.asarray(x) for x in jax.jit(mean_and_images)(jnp.zeros(size)))
    images = images.reshape(-1, size)
    return np.ravel(mean), images @ images.T


def linear_law(fine, outputs, A, m, S, hursts, x0, V0=0.0):
    """Equation (1) of the x at `outputs`, `[(M + 1) d]`; x_0 ~ N(x0, V0)."""
    x0, S, A = np.atleast_1d(x0), np.atleast_2d(S), np.atleast_2d(A)
    d, steps, N = len(x0), np.diff(fine), len(fine) - 1
    roots = [np.linalg.cholesky(np.asarray(increment_covariance(fine, H))) for H in hursts]
    noise = np.stack([S[:, p, None] * root[:, None, :] for p, root in enumerate(roots)], 2)  # [N, d, P, N]
    noise = noise.reshape(N, d, -1)
    width = noise.shape[-1]
    means = [x0.astype(float)]
    images = [np.concatenate([np.zeros((d, width)), _root(V0, d)], 1)]
    for D, kick in zip(steps, noise, strict=True):
        means.append(means[-1] + A @ (m - means[-1]) * D)
        images.append(images[-1] - A @ images[-1] * D + np.pad(kick, ((0, 0), (0, d))))
    images = np.concatenate([images[n] for n in outputs])
    return np.concatenate([means[n] for n in outputs]), images @ images.T


def _root(V, d):
    V = np.broadcast_to(V, (d, d)) if np.ndim(V) == 2 else V * np.eye(d)
    values, vectors = np.linalg.eigh(V)
    return vectors * np.sqrt(np.maximum(values, 0))


def gaussian_kl(mean, covariance, other_mean, other_covariance):
    """KL(N(mean, covariance) || N(other)), nats."""
    ratio = np.linalg.solve(other_covariance, covariance)
    gap = other_mean - mean
    distance = gap @ np.linalg.solve(other_covariance, gap)
    return (np.trace(ratio) - len(ratio) - np.linalg.slogdet(ratio)[1] + distance) / 2


def drawn(model, key, *args):
    """One draw of what a model returns, in one program."""
    return jax.jit(lambda key: seed(model, key)(*args))(key)
