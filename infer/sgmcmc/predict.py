"""Predictions of many draws, block by block, under one compiled function.

    prediction_s = model(args; theta_s, key_s),      s = 1, ..., S                                (1)
    carry <- update(carry, prediction_s),            result(carry) in place of all S              (2)

(1) is NumPyro's `Predictive`, with its keys, so that the numbers are the same. `Predictive` takes one draw after the
other, or (`parallel=True`) all S at once, with all that stands between the layers of S networks. Here
`batch_draws` of them are taken together, and with a `reduce`, equation (2), only the carry is kept: memory
does not grow with S.

What a reader would get wrong: a plate that is subsampled predicts *other* rows for each draw. It is refused;
models of SG-MCMC are called with their subsample size None.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Int, Key, PyTree
from numpyro.infer import Predictive
from numpyro.primitives import Messenger

__all__ = ["MeanAndVariance", "Reduction", "mean_and_variance", "predict"]


class Reduction(NamedTuple):
    """A fold over draws, equation (2); `mean_and_variance` is one.

    Attributes:
        init: zeros of the prediction of one draw, a dict of sites -> carry. It is called once.
        update: (carry, prediction of one draw) -> carry of the same shapes and dtypes.
        result: carry -> what `predict` returns.
    """

    init: Callable[[dict[str, Array]], Any]
    update: Callable[[Any, dict[str, Array]], Any]
    result: Callable[[Any], Any]


class MeanAndVariance(NamedTuple):
    """Moments over draws, each a dict of sites.

    Attributes:
        mean: over the draws.
        variance: unbiased (divisor S - 1); 0 where there is one draw.
    """

    mean: dict[str, Array]
    variance: dict[str, Array]


def mean_and_variance() -> Reduction:
    """Mean and variance over draws without the draws: Welford (1962), no difference of large numbers.

    Returns:
        For `predict(..., reduce=...)`, which then returns a `MeanAndVariance`.

    Examples:
        >>> from emberwalk.infer import mean_and_variance
        >>> init, update, result = mean_and_variance()
        >>> carry = init({"y": jnp.zeros(())})
        >>> for draw in (1.0, 2.0, 6.0):
        ...     carry = update(carry, {"y": jnp.array(draw)})
        >>> float(result(carry).mean["y"]), float(result(carry).variance["y"])
        (3.0, 7.0)
    """
    return Reduction(_no_draws, _one_more, _moments)


def _no_draws(prediction):
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf, float)), prediction)
    return jnp.array(0), zeros, zeros


def _one_more(carry, prediction):
    count, mean, squares = carry
    count = count + 1
    new = jax.tree.map(lambda m, x: m + (x - m) / count, mean, prediction)
    squares = jax.tree.map(lambda s, x, m, n: s + (x - m) * (x - n), squares, prediction, mean, new)
    return count, new, squares


def _moments(carry):
    count, mean, squares = carry
    return MeanAndVariance(mean, jax.tree.map(lambda s: s / jnp.maximum(count - 1, 1), squares))


def predict(
    model: Callable[..., Any],
    samples: Mapping[str, Array | np.ndarray],
    rng_key: Key[Array, ""],
    *args: Any,
    batch_ndims: int = 1,
    batch_draws: int = 16,
    reduce: Reduction | None = None,
    return_sites: Sequence[str] | None = None,
    **kwargs: Any,
) -> Any:
    """What a model says for each posterior draw, equation (1): deterministic sites, and sites not in `samples`.

    The model is traced with the arguments as they are given: numbers, None and modules are static, and numpy can
    look at arrays. Draws may lie on the host (numpy, memmap); a block at a time is read.

    Args:
        model: a NumPyro model.
        samples: posterior draws by site, `(draw, ...)`, or `(chain, draw, ...)` with `batch_ndims=2`, as
            `get_samples(group_by_chain=True)` returns them. Deterministic sites among them are computed anew.
        rng_key: of what is drawn here; split into one key a draw, as `Predictive` does.
        args: of the model; data to predict are left out, or None.
        batch_ndims: leading axes of `samples` that count draws.
        batch_draws: draws predicted together, rounded so that all blocks are alike. More are faster until the values
            between the layers of `batch_draws` networks, for all rows, fill the memory.
        reduce: keeps a summary in place of the draws, such as `mean_and_variance()`; it runs over the last
            axis of draws, so that with `batch_ndims=2` each chain has its own.
        return_sites: names of sites; None: the deterministic ones, and those drawn here.
        kwargs: of the model, such as `b=None` for its subsample size.

    Returns:
        A dict of sites, each with the axes of draws in front; with `reduce` its result, with the axes of the
        chains in front of each array.

    Raises:
        ValueError: for samples without sites or without a common shape of draws, a site in `return_sites` that
            the model has not, or a plate that is subsampled.

    Examples:
        >>> from emberwalk.infer import mean_and_variance, predict
        >>> def model(x, y=None, b=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", x.shape[0], subsample_size=b):
        ...         mean = numpyro.deterministic("mean", slope * numpyro.subsample(x, event_dim=0))
        ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> samples = {"slope": random.normal(random.key(0), (2, 50))}  # (chain, draw)
        >>> drawn = predict(model, samples, random.key(1), jnp.arange(3.0), b=None, batch_ndims=2)
        >>> drawn["mean"].shape, drawn["y"].shape
        ((2, 50, 3), (2, 50, 3))
        >>> moments = predict(model, samples, random.key(1), jnp.arange(3.0), batch_ndims=2, reduce=mean_and_variance())
        >>> moments.variance["mean"].shape
        (2, 3)
    """
    _check_arguments(batch_ndims, batch_draws, return_sites)
    shape = _batch_shape(samples, batch_ndims)
    keys, draws = _flat(samples, shape, rng_key)

    def one(key: Array, draw: dict[str, Array]) -> dict[str, Array]:
        predictive = Predictive(_WholePlates(model), draw, batch_ndims=0, return_sites=return_sites)
        predicted = predictive(key, *args, **kwargs)
        _check_sites(predicted, return_sites)
        return predicted

    if reduce is None:
        return _collect(one, keys, draws, shape, batch_draws)
    return _reduce(one, reduce, keys, draws, shape, batch_draws)


def _collect(
    one: Callable, keys: Array, draws: Any, shape: tuple[int, ...], batch_draws: int
) -> dict[str, Array]:
    """Every prediction, the axes of draws as they were."""
    num = math.prod(shape)
    blocks = list(_blocks(num, batch_draws))
    program = _compiled(jax.vmap(one), *_take((keys, draws), blocks[0]))
    predicted = [program(*_take((keys, draws), block)) for block in blocks]

    def join(*parts: Array) -> Array:
        return jnp.concatenate(parts)[:num].reshape(shape + parts[0].shape[1:])

    return jax.tree.map(join, *predicted)


def _reduce(
    one: Callable, reduce: Reduction, keys: Array, draws: Any, shape: tuple[int, ...], batch_draws: int
) -> Any:
    """Equation (2) over the last axis of draws, for each of the others apart."""
    *chains, num = shape
    blocks = list(_blocks(num, batch_draws))
    zeros = jax.tree.map(_zeros, jax.eval_shape(one, *_take((keys, draws), 0)))
    # a Python number has a weak type, what a program returns has none: the second block would compile again
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), reduce.init(zeros))

    def fold(carry, keys, draws, real):
        def step(carry, seen):
            prediction, real = seen
            # the last block is filled up with copies of the last draw, which do not count
            return _where(real, reduce.update(carry, prediction), carry), None

        return lax.scan(step, carry, (jax.vmap(one)(keys, draws), real))[0]

    program = _compiled(fold, start, *_take((keys, draws), blocks[0]), blocks[0] < num)
    results = []
    for chain in range(math.prod(chains)):
        carry = start
        for block in blocks:
            rows = chain * num + np.minimum(block, num - 1)
            carry = program(carry, *_take((keys, draws), rows), block < num)
        results.append(reduce.result(carry))

    def join(*parts: Array) -> Array:
        return jnp.stack(parts).reshape((*chains, *jnp.shape(parts[0])))

    return jax.tree.map(join, *results)


class _WholePlates(Messenger):
    """The model, refused where a plate is subsampled."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "plate":
            return
        size, subsample_size = msg["args"]
        if subsample_size not in (None, size):
            raise ValueError(
                f"The plate {msg['name']!r} has {subsample_size} of {size} rows: each draw would be predicted on other "
                "rows. Call the model with its subsample size None (such as b=None), or, where the rows are the "
                f"subsample, with a plate of size {subsample_size}."
            )


def _compiled(fn: Callable, *example: Any) -> Callable:
    """`fn` compiled once, for arguments like these.

    The model sees its own arguments as they are, not as tracers; their arrays become constants of the jaxpr, and are
    handed over here because XLA takes seconds over constants of some megabytes.
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*example)
    constants = jax.device_put(closed.consts)

    @jax.jit
    def run(constants, leaves):
        out = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return lambda *arguments: run(constants, jax.tree.leaves(arguments))


def _blocks(num: int, most: int) -> Iterator[Int[np.ndarray, " block"]]:
    """Indices of blocks of one length, at most `most`; in the last some may lie beyond `num`."""
    count = math.ceil(num / most)
    size = math.ceil(num / count)
    for k in range(count):
        yield np.arange(k * size, (k + 1) * size)


def _take(tree: PyTree, rows: int | Int[np.ndarray, " block"]) -> PyTree:
    """Rows of each leaf; beyond the end the last one again."""
    return jax.tree.map(lambda leaf: leaf[np.minimum(rows, len(leaf) - 1)], tree)


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _zeros(leaf: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def _flat(samples: Mapping[str, Any], shape: tuple[int, ...], rng_key: Array) -> tuple[Array, dict[str, Any]]:
    """Keys as `Predictive` makes them, and the draws along one axis."""
    num = math.prod(shape)
    keys = random.split(rng_key, num) if num > 1 else rng_key[None]
    return keys, {name: leaf.reshape(num, *leaf.shape[len(shape) :]) for name, leaf in samples.items()}


def _batch_shape(samples: Mapping[str, Any], batch_ndims: int) -> tuple[int, ...]:
    shapes = {name: np.shape(leaf)[:batch_ndims] for name, leaf in samples.items()}
    if not shapes:
        raise ValueError("samples hold no site. For draws from the prior use numpyro.infer.Predictive.")
    first, shape = next(iter(shapes.items()))
    for name, other in shapes.items():
        if other != shape or len(other) < batch_ndims or not math.prod(other):
            raise ValueError(
                f"samples must have the same {batch_ndims} leading axes (batch_ndims) at every site, none empty, but "
                f"{first!r} has {shape} and {name!r} has {other}."
            )
    return shape


def _check_arguments(batch_ndims: int, batch_draws: int, return_sites: Any) -> None:
    for argument, value in {"batch_ndims": batch_ndims, "batch_draws": batch_draws}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}.")
    if isinstance(return_sites, str):
        raise ValueError(
            f"return_sites must be a list of names, got the string {return_sites!r}: write [{return_sites!r}]."
        )


def _check_sites(predicted: Mapping[str, Array], return_sites: Sequence[str] | None) -> None:
    missing = sorted(set(return_sites or ()) - set(predicted))
    if missing:
        raise ValueError(
            f"return_sites names {missing}, which the model has not; leave it None to see what there is."
        )
