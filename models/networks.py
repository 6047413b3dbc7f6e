"""Networks inside a NumPyro model: how they are made, what is believed of them, where they start.

    w ~ p(. / s) / s,    s = scale / sqrt(fan_in)                                                 (1)

for each tensor of the network, p a normal, Laplace or Student-t density: a sum over `fan_in` inputs of order 1 is
of order `scale`, whatever the width (Neal 1996). Place a network by `numpyro.contrib.module.random_eqx_module`
or `random_nnx_module` with `prior=scaled_normal()`: both give one site a tensor, `net/layers[0].weight` or
`net/l1.kernel`.

Two things a reader would get wrong. NumPyro starts the sites of a network from U(-2, 2), whatever tensors the
module holds, several times as far from 0 as a module would itself: start it with `init_to_module`. And a kernel
pickles only what functions of a module are, no lambda: what is made here, priors and strategies, pickles.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key
from numpyro.infer import init_to_uniform

if TYPE_CHECKING:
    import equinox as eqx

__all__ = ["fan_in", "init_to_module", "laplace_prior", "mlp", "scaled_normal", "student_t_prior"]

type Prior = Callable[[str, tuple[int, ...]], dist.Distribution]


def mlp(
    in_size: int,
    out_size: int,
    *,
    width: int,
    depth: int,
    activation: Callable[[Array], Array] = jax.nn.silu,
    final_bias: bool = True,
    key: Key[Array, ""],
) -> "eqx.nn.MLP":
    """A fully connected network of equinox, for one input: `jax.vmap` it over rows.

    Args:
        in_size: numbers that go in, `(in_size,)`.
        out_size: numbers that come out, `(out_size,)`.
        width: units of each hidden layer.
        depth: hidden layers; 0 is a linear map.
        activation: silu is smooth: a sampler that follows gradients takes larger steps than with relu.
        final_bias: whether the last layer has one; False where only derivatives of the output are seen.
        key: of the weights it begins with, which `init_to_module` draws anew.

    Examples:
        >>> from emberwalk.models import mlp
        >>> net = mlp(64, 10, width=32, depth=2, key=random.key(0))
        >>> jax.vmap(net)(jnp.zeros((5, 64))).shape
        (5, 10)
    """
    from equinox.nn import MLP

    return MLP(in_size, out_size, width, depth, activation, use_final_bias=final_bias, key=key)


def fan_in(name: str, shape: tuple[int, ...]) -> int:
    """How many inputs each unit of a layer adds up, told by the name of its tensor.

    `weight` (equinox): all axes but the first, which counts the units; a convolution's `(out, in, *window)` too.
    `kernel` (flax): all but the last, of a matrix `(in, out)` or of a convolution's `(*window, in, out)` over two
    or more axes. Biases, and all that has at most one axis: 1.

    Args:
        name: of the tensor, with or without what it is part of: `layers[0].weight`.
        shape: of the tensor.

    Raises:
        ValueError: for any other name, and for a kernel of three axes, which may be a convolution's or an attention's.

    Examples:
        >>> from emberwalk.models.networks import fan_in
        >>> fan_in("layers[0].weight", (32, 36)), fan_in("l1.kernel", (36, 32)), fan_in("l1.bias", (32,))
        (36, 36, 1)
    """
    last = name.rsplit(".", 1)[-1]
    if len(shape) <= 1 or last == "bias":
        return 1
    if last == "weight":
        return math.prod(shape[1:])
    if last == "kernel" and len(shape) != 3:
        return math.prod(shape[:-1])
    raise ValueError(
        f"The fan-in of the tensor {name!r} of shape {shape} is unknown: it is told for a 'weight' of equinox, and for "
        "a 'kernel' of flax whose axes are not three. Give this tensor a prior of its own: a function (name, shape) -> "
        "Distribution that answers for it and asks this prior for the others."
    )


def scaled_normal(sd: float | Array = 1.0) -> Prior:
    """Normal prior, equation (1): for `random_eqx_module("net", module, prior=scaled_normal())`.

    Args:
        sd: of a weight times sqrt(fan_in), and of a bias. 1 is a good start; relu halves the mean square from
            layer to layer, which sqrt(2) makes up for. It may be a site of the model, for a hierarchical prior.

    Returns:
        A function (name, shape) -> Distribution that pickles.

    Raises:
        ValueError: for an sd that is not above 0; when it is called, for a tensor of unknown `fan_in`.

    Examples:
        >>> from emberwalk.models import scaled_normal
        >>> float(scaled_normal(sd=3.0)("layers[0].weight", (32, 36)).scale)
        0.5
    """
    return partial(_normal, _positive("sd", sd))


def laplace_prior(scale: float | Array = 1.0) -> Prior:
    """Laplace prior, equation (1): sharper at 0 and heavier in the tails than a normal one.

    Args:
        scale: of a weight times sqrt(fan_in), and of a bias; 1 / sqrt(2) has the sd of `scaled_normal()`.

    Returns:
        A function (name, shape) -> Distribution that pickles.

    Raises:
        ValueError: for a scale that is not above 0; when it is called, for a tensor of unknown `fan_in`.

    Examples:
        >>> from emberwalk.models import laplace_prior
        >>> float(laplace_prior(0.5)("l1.kernel", (4, 8)).scale)
        0.25
    """
    return partial(_laplace, _positive("scale", scale))


def student_t_prior(df: float | Array = 3.0, scale: float | Array = 1.0) -> Prior:
    """Student-t prior, equation (1): tails that fall like a power, for few large weights among small ones.

    Fortuin et al. (2022) find the weights of trained fully connected networks to be heavy-tailed. Under
    `SGMCMC(..., tempering="posterior")` at T > 1 it needs df > T - 1.

    Args:
        df: degrees of freedom; below 2 there is no variance.
        scale: of a weight times sqrt(fan_in), and of a bias; sqrt((df - 2) / df) has the sd of `scaled_normal()`.

    Returns:
        A function (name, shape) -> Distribution that pickles.

    Raises:
        ValueError: for df or a scale that is not above 0; when it is called, for a tensor of unknown `fan_in`.

    Examples:
        >>> from emberwalk.models import student_t_prior
        >>> float(student_t_prior(df=4.0)("layers[0].weight", (8, 4)).scale)
        0.5
    """
    return partial(_student_t, _positive("df", df), _positive("scale", scale))


# The priors themselves: functions of this module, because a partial of them pickles.


def _normal(sd: float | Array, name: str, shape: tuple[int, ...]) -> dist.Distribution:
    return dist.Normal(0.0, sd / math.sqrt(fan_in(name, shape)))


def _laplace(scale: float | Array, name: str, shape: tuple[int, ...]) -> dist.Distribution:
    return dist.Laplace(0.0, scale / math.sqrt(fan_in(name, shape)))


def _student_t(
    df: float | Array, scale: float | Array, name: str, shape: tuple[int, ...]
) -> dist.Distribution:
    return dist.StudentT(df, 0.0, scale / math.sqrt(fan_in(name, shape)))


def _positive(argument: str, value: float | Array) -> float | Array:
    if isinstance(value, int | float) and not 0 < value < math.inf:
        raise ValueError(f"{argument} must be a positive number, got {value}.")
    return value


def init_to_module(
    name: str, build: Callable[[Key[Array, ""]], Any], site: dict[str, Any] | None = None
) -> Any:
    """Start the sites of a network at tensors that its module itself draws; NumPyro would draw from U(-2, 2).

    An init strategy for `SGMCMC`, `NUTS`, `DeepEnsemble` and the guides of NumPyro. Each site under `name` takes its
    own tensor from `build(key of the site)`: tensors are drawn independently of each other, so that mixing the
    modules of several keys is right. Every other site starts as by `init_to_uniform`.

    Args:
        name: of the network in the model, as given to `random_eqx_module` or `random_nnx_module`; inside a scope
            with its prefix, `"outer/net"`.
        build: key -> module of equinox or flax.nnx, or nested dict of tensors, such as the "params" of
            flax.linen. A function of a module where the kernel is to be pickled, no lambda.
        site: left out; NumPyro gives it.

    Returns:
        The strategy: `NUTS(model, init_strategy=init_to_module("net", build))`.

    Raises:
        TypeError: if `build` is no function, or returns something else.
        ValueError: when the model runs, for a site under `name` that the module has not, or has in another shape.

    Examples:
        >>> from numpyro.contrib.module import random_eqx_module
        >>> from emberwalk.models import init_to_module, mlp, scaled_normal
        >>> def build(key):
        ...     return mlp(2, 1, width=4, depth=1, key=key)
        >>> def model(x, y):
        ...     net = random_eqx_module("net", build(random.key(0)), prior=scaled_normal())
        ...     numpyro.sample("y", dist.Normal(jax.vmap(net)(x)[:, 0], 0.1), obs=y)
        >>> kernel = NUTS(model, init_strategy=init_to_module("net", build))
        >>> mcmc = MCMC(kernel, num_warmup=2, num_samples=2, progress_bar=False)
        >>> mcmc.run(random.key(1), jnp.ones((3, 2)), jnp.zeros(3))
        >>> mcmc.get_samples()["net/layers[0].weight"].shape
        (2, 4, 2)
    """
    if site is None:
        if not callable(build):
            raise TypeError(f"build must be a function key -> module, got {type(build).__name__}.")
        return partial(init_to_module, name, build)
    prefix = f"{name}/"
    if site["type"] != "sample" or site["is_observed"] or not site["name"].startswith(prefix):
        return init_to_uniform(site)
    tensors = _tensors(build(site["kwargs"]["rng_key"]))
    own = site["name"].removeprefix(prefix)
    _check_tensor(site, own, tensors)
    # in the float that NumPyro draws in: flax makes float32 even under x64, and a chain must keep its dtype
    return jnp.asarray(tensors[own], jnp.result_type(float))


def _tensors(module: Any) -> dict[str, Float[Array, "..."]]:
    """The tensors of a module under the names that NumPyro gives to their sites."""
    import equinox as eqx
    from numpyro.contrib.module import eqx_to_dict

    if isinstance(module, eqx.Module):
        return eqx_to_dict(eqx.filter(module, eqx.is_inexact_array))
    nnx = sys.modules.get("flax.nnx")  # whoever built such a module has imported it
    if nnx is not None and isinstance(module, nnx.Module):
        module = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    if not isinstance(module, dict):
        raise TypeError(
            f"build must return a module of equinox or flax.nnx, or a dict of tensors, got {type(module).__name__}."
        )
    leaves = jax.tree_util.tree_leaves_with_path(module)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _check_tensor(site: dict[str, Any], own: str, tensors: dict[str, Array]) -> None:
    if own not in tensors:
        raise ValueError(
            f"init_to_module: the module from build has no tensor {own!r} for the site {site['name']!r}; it has "
            f"{sorted(tensors)}. build must make the network that the model holds."
        )
    if jnp.shape(tensors[own]) != site["fn"].shape():
        raise ValueError(
            f"init_to_module: the site {site['name']!r} has shape {site['fn'].shape()}, but the tensor from build has "
            f"{jnp.shape(tensors[own])}. build must make the network that the model holds."
        )
