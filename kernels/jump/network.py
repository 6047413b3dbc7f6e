"""Rates, presence of links and noise level by a network that was trained once, from counts, in one pass.

    q_b, R: the base estimate of `network_features.py`                                                     (1)
    h_ij <- h_ij + W2 silu(W1 [y_ij, y_ji, r_i, c_j, d_i + r_j, d_j + g, (1/n) sum_k y_ik y_kj]),
    y = LayerNorm(h),   r, c, d, g: means of rows and columns, diagonal, mean of all                       (2)
    sqrt(q_ij) | there ~ N(sqrt(q_b,ij) e^u, ((R_i + 1/2m)^(-1/2) e^v / 2)^2),   P(there) = sigmoid(w)     (3)
    sqrt(rho) | rho > 0 ~ N(mean, sd^2),   P(rho > 0) = sigmoid(w')                                        (4)

u, v and w are heads on the last h, and so are those of (4), on its mean; v, w and the sd of (4) are corrected after
training (`network_correction.py`). What goes in has no unit, and no entry of (2)
knows which state is which: another order of states permutes the answer, and another unit of time scales it. (1) is
consistent where labels are right, so that the answer does not fall behind where there are more paths than were trained
on.

The posterior of a network, not of the data: where labels are right, `refine_counts` is exact and more accurate. What a
reader would get wrong: the answer is a posterior under the prior of its training (`training_prior.py`), and knows no
other.

Zero-shot inference of Markov jump processes: Berghaus, Cvejoski, Seifner, Ojeda and Sánchez (2024), arXiv 2406.06419;
the network here is another one, equivariant and on statistics that do not grow with the number of paths.
"""

import hashlib
import io
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Key

from ..shipped import check_arrays
from .counts import with_float_counts
from .network_correction import NUM_BASIS, NUM_ODDS, correction_basis, odds_basis
from .network_features import (
    NUM_FEATURES,
    Base,
    Prepared,
    base_estimate,
    edge_features,
    num_changes,
    prepare,
)
from .network_statistics import NetworkStatistics, network_statistics
from .sqrt_normal import SqrtNormal

__all__ = [
    "NUM_BASIS",
    "NUM_FEATURES",
    "SHIPPED",
    "SHIPPED_SHA256",
    "Base",
    "LogOdds",
    "MJPNet",
    "NetPrediction",
    "NetworkStatistics",
    "Prepared",
    "answer",
    "base_estimate",
    "correction_basis",
    "edge_features",
    "load_weights",
    "network_statistics",
    "num_changes",
    "predict",
    "prepare",
    "save_weights",
]

SHIPPED = "weights/jump-1.npz"
SHIPPED_SHA256 = "2424abeeb5d0a6ef21a04b6e86c7579e5bf58b761b33110bb18aa617eba180a8"
_WIDTH, _LAYERS, _NORM_EPSILON = 48, 3, 1e-5
# Heads are thrice a number of order 1, from these on, and within these.
_TYPICAL_LOG_NOISE = -2.0
_LOG_MEAN, _LOG_SD, _LOG_NOISE = (-6.0, 3.0), (-5.0, 4.0), (-7.0, 0.5)


class NetPrediction(NamedTuple):
    """What `predict` returns.

    Attributes:
        sqrt_mean: mean of sqrt(q_ij) if the link is there `[n, n]`, zeros on the diagonal.
        sqrt_sd: its standard deviation `[n, n]`.
        presence: probability of each link `[n, n]`, zeros on the diagonal.
        initial: law of the first label `[n]`.
        label_noise_mean: mean of sqrt(rho) if labels may be wrong at all, rho the probability that one is.
        label_noise_sd: its standard deviation.
        label_noise_presence: the probability that labels may be wrong at all.
        base: q_b `[n, n]`, the estimate that the network begins from.
    """

    sqrt_mean: Float[Array, "*batch n n"]
    sqrt_sd: Float[Array, "*batch n n"]
    presence: Float[Array, "*batch n n"]
    initial: Float[Array, "*batch n"]
    label_noise_mean: Float[Array, "*batch"]
    label_noise_sd: Float[Array, "*batch"]
    label_noise_presence: Float[Array, "*batch"]
    base: Float[Array, "*batch n n"]

    @property
    def rates(self) -> Float[Array, "*batch n n"]:
        """Posterior mean of the rates, presence (mean^2 + sd^2), per unit of time."""
        return self.presence * SqrtNormal(self.sqrt_mean, self.sqrt_sd).mean

    @property
    def label_noise(self) -> Float[Array, "*batch"]:
        """Posterior mean of rho."""
        return self.label_noise_presence * SqrtNormal(self.label_noise_mean, self.label_noise_sd).mean


class LogOdds(NamedTuple):
    """Of presence; what training needs beside a `NetPrediction`.

    Attributes:
        links: `[n, n]`.
        label_noise: `[]`.
    """

    links: Float[Array, "*batch n n"]
    label_noise: Float[Array, "*batch"]


class MJPNet(eqx.Module):
    """The network of equation (2); 57,000 parameters, whatever the number of states.

    Args:
        key: of the weights before training.

    Examples:
        >>> from emberwalk.kernels.jump.network import MJPNet
        >>> sum(x.size for x in jax.tree.leaves(MJPNet(random.key(0))))
        57436
    """

    embed_weight: Float[Array, "features width"]
    embed_bias: Float[Array, " width"]
    norm_scale: Float[Array, "layers width"]
    norm_shift: Float[Array, "layers width"]
    in_weight: Float[Array, "layers inputs width"]
    in_bias: Float[Array, "layers width"]
    out_weight: Float[Array, "layers width width"]
    out_bias: Float[Array, "layers width"]
    link_weight: Float[Array, "width 3"]
    link_bias: Float[Array, " 3"]
    noise_weight: Float[Array, "double 3"]
    noise_bias: Float[Array, " 3"]
    # fitted after training, see `correction_basis`: of log sd of links, and of the noise level
    sd_correction: Float[Array, "2 basis"]
    # of the log odds of links, see `odds_basis`
    presence_correction: Float[Array, "3 basis"]

    def __init__(self, key: Key[Array, ""]) -> None:
        keys = iter(random.split(key, 5))

        def scaled(*shape: int) -> Float[Array, "..."]:
            return random.normal(next(keys), shape, jnp.float32) / shape[-2] ** 0.5

        def zeros(*shape: int) -> Float[Array, "..."]:
            return jnp.zeros(shape, jnp.float32)

        inputs = 7 * _WIDTH
        self.embed_weight, self.embed_bias = scaled(NUM_FEATURES, _WIDTH), zeros(_WIDTH)
        self.norm_scale, self.norm_shift = 1 + zeros(_LAYERS, _WIDTH), zeros(_LAYERS, _WIDTH)
        self.in_weight, self.in_bias = scaled(_LAYERS, inputs, _WIDTH), zeros(_LAYERS, _WIDTH)
        self.out_weight, self.out_bias = scaled(_LAYERS, _WIDTH, _WIDTH), zeros(_LAYERS, _WIDTH)
        # the first answers are near the base estimate
        self.link_weight, self.link_bias = scaled(_WIDTH, 3) / 100, zeros(3)
        self.noise_weight, self.noise_bias = scaled(2 * _WIDTH, 3) / 100, zeros(3)
        self.sd_correction = zeros(2, NUM_BASIS)
        self.presence_correction = zeros(NUM_ODDS, NUM_BASIS)

    def __call__(
        self, features: Float[Array, "n n features"]
    ) -> tuple[Float[Array, "n n 3"], Float[Array, " 3"]]:
        """Heads of each link, and of the noise level.

        Args:
            features: of `edge_features`.
        """
        h = features @ self.embed_weight + self.embed_bias
        layers = (
            self.norm_scale,
            self.norm_shift,
            self.in_weight,
            self.in_bias,
            self.out_weight,
            self.out_bias,
        )
        h, _ = lax.scan(_layer, h, layers)
        pooled = jnp.concatenate([h.mean((0, 1)), _diagonal(h).mean(0)])
        return 3 * (h @ self.link_weight + self.link_bias), 3 * (pooled @ self.noise_weight + self.noise_bias)


def _diagonal(h: Float[Array, "n n width"]) -> Float[Array, "n width"]:
    return jnp.diagonal(h).T


def _layer(
    h: Float[Array, "n n width"], weights: tuple[Array, ...]
) -> tuple[Float[Array, "n n width"], None]:
    """Equation (2)."""
    scale, shift, in_weight, in_bias, out_weight, out_bias = weights
    centred = h - h.mean(-1, keepdims=True)
    y = scale * centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + _NORM_EPSILON) + shift
    row, column, d, g = y.mean(1), y.mean(0), _diagonal(y), y.mean((0, 1))
    through = jnp.einsum("ikc,kjc->ijc", y, y) / y.shape[0]
    parts = (
        y,
        y.transpose(1, 0, 2),
        row[:, None],
        column[None],
        d[:, None] + row[None],
        (d + g)[None],
        through,
    )
    inputs = jnp.concatenate([jnp.broadcast_to(part, y.shape) for part in parts], -1)
    return h + jax.nn.silu(inputs @ in_weight + in_bias) @ out_weight + out_bias, None


def answer(net: MJPNet, prepared: Prepared) -> tuple[NetPrediction, LogOdds]:
    """Equations (3) and (4).

    Args:
        net: the network.
        prepared: of `prepare`.
    """
    link, noise = net(prepared.features)
    base = prepared.base
    n = base.rates.shape[0]
    links = ~jnp.eye(n, dtype=bool)
    noise_mean, noise_log_sd = jnp.clip(_TYPICAL_LOG_NOISE + noise[:2], *_LOG_NOISE)
    noise_mean, noise_presence = jnp.exp(noise_mean), jax.nn.sigmoid(noise[2])
    known = lax.stop_gradient(correction_basis(prepared.log_changes, n, noise_presence * noise_mean**2))
    link_correction, noise_correction = net.sd_correction @ known
    said = link[..., 2]
    log_odds = said + sum(c * part for c, part in zip(net.presence_correction @ known, odds_basis(said), strict=True))
    # the square root's derivative at 0 is infinite: nothing is asked there
    root = jnp.sqrt(jnp.where(links, base.rates, 1))
    scale = lax.rsqrt(base.dwell + base.prior_time)[:, None] / 2
    predicted = NetPrediction(
        sqrt_mean=jnp.where(links, root * jnp.exp(jnp.clip(link[..., 0], *_LOG_MEAN)), 0),
        sqrt_sd=jnp.where(links, scale * jnp.exp(jnp.clip(link[..., 1], *_LOG_SD) + link_correction), 0),
        presence=jnp.where(links, jax.nn.sigmoid(log_odds), 0),
        initial=prepared.initial,
        label_noise_mean=noise_mean,
        label_noise_sd=jnp.exp(noise_log_sd + noise_correction),
        label_noise_presence=noise_presence,
        base=base.rates,
    )
    return predicted, LogOdds(log_odds, noise[2])


def predict(net: MJPNet, statistics: NetworkStatistics) -> NetPrediction:
    """Rates, presence of links and noise level of a data set, equations (1) to (4); milliseconds.

    May be traced, and mapped over data sets by `jax.vmap`. A program is compiled for each number of states.

    Args:
        net: of `load_weights`.
        statistics: of `network_statistics`.

    Examples:
        >>> from emberwalk.kernels.jump.network import MJPNet, network_statistics, predict
        >>> statistics = network_statistics(np.arange(100.0), np.arange(100)[None] // 4 % 3)
        >>> found = predict(MJPNet(random.key(0)), statistics)  # of a network that was not trained
        >>> found.rates.shape, bool(found.presence[0, 1] > 0)
        ((3, 3), True)
    """
    # edges of bins are not used, and would make another program
    return _predict(net, with_float_counts(statistics._replace(paths=statistics.paths._replace(lag_bins=None))))


@jax.jit
def _predict(net: MJPNet, statistics: NetworkStatistics) -> NetPrediction:
    return answer(net, prepare(statistics))[0]


def save_weights(file: str | PathLike[str], net: MJPNet) -> str:
    """Write the weights, without pickle; the same weights make the same bytes.

    Args:
        file: an npz file.
        net: the network.

    Returns:
        The SHA-256 of the file, to give to `load_weights`.
    """
    buffer = io.BytesIO()
    arrays = {name: np.asarray(array, np.float32) for name, array in _arrays(net).items()}
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    Path(file).write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _arrays(net: Any) -> dict[str, Any]:
    return dict(vars(net))


def load_weights(file: str | PathLike[str] | None = None, sha256: str | None = None) -> MJPNet:
    """A network from a file of weights; nothing in it is executed.

    Args:
        file: of `save_weights`; None for the network that ships with the package.
        sha256: what the file is known by, in hexadecimal digits; without it only names, types and shapes are compared.

    Raises:
        ValueError: if the file is another one, was cut short, or holds objects, other names, types or shapes, or
            numbers that are not finite.

    Examples:
        >>> from emberwalk.kernels.jump.network import load_weights
        >>> load_weights().link_weight.shape
        (48, 3)
        >>> load_weights("setup.npz")
        Traceback (most recent call last):
            ...
        FileNotFoundError: [Errno 2] No such file or directory: 'setup.npz'
    """
    if file is None:
        file, sha256 = Path(__file__).parent / SHIPPED, SHIPPED_SHA256
    raw = Path(file).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    known = f"{file} has SHA-256 {digest}, and {sha256 or 'none'} was asked for"
    if sha256 is not None and digest != sha256:
        raise ValueError(f"{known}: it was changed or cut short, or is another one. Fetch it anew.")
    try:
        content = np.load(io.BytesIO(raw), allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name")
        # what is no array comes as bytes
        arrays = {name: np.asarray(content[name]) for name in content}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{known}: it is no file of arrays alone ({error}). Fetch it anew.") from error
    like = eqx.filter_eval_shape(MJPNet, random.key(0))
    expected = {name: (np.dtype(np.float32), x.shape) for name, x in _arrays(like).items()}
    check_arrays(known, arrays, expected)
    bad = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if bad:
        raise ValueError(f"{known}: {bad} hold numbers that are not finite. Fetch it anew.")
    names = list(expected)
    return eqx.tree_at(
        lambda net: [getattr(net, name) for name in names], like, [jnp.asarray(arrays[x]) for x in names]
    )
