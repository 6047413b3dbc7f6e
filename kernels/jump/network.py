"""Rates, presence of links and noise level by a network that was trained once, from counts, in one pass.

    q_b, N, R = two steps of EM on the counts, labels taken as right                                       (1)
    h_ij <- h_ij + W2 silu(W1 [y_ij, y_ji, r_i, c_j, d_i + r_j, d_j + g, (1/n) sum_k y_ik y_kj]),
    y = LayerNorm(h),   r, c, d, g: means of rows and columns, diagonal, mean of all                       (2)
    sqrt(q_ij) | there ~ N(sqrt(q_b,ij) e^u, ((R_i + 1/2m)^(-1/2) e^v / 2)^2),   P(there) = sigmoid(w)     (3)
    sqrt(rho + 1e-4) ~ N(mean, sd^2)                                                                       (4)

u, v and w are heads on the last h. What goes in has no unit, and no entry of (2) knows which state is which: another
order of states permutes the answer, and another unit of time scales it. (1) is consistent where labels are right,
so that the answer does not fall behind where there are more paths than were trained on.

The posterior of a network, not of the data: where labels are right, `refine_counts` is exact and more accurate. What a
reader would get wrong: means over states and points of data in which a state was never seen (its counts are 0, and are
divided by at least 1).

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
from .counts import change_rate, dwell_times
from .network_statistics import NetworkStatistics, network_statistics
from .refine import Parameters, counts_likelihood, em

__all__ = [
    "NOISE_FLOOR",
    "NUM_FEATURES",
    "Base",
    "MJPNet",
    "NetPrediction",
    "NetworkStatistics",
    "Prepared",
    "answer",
    "base_estimate",
    "edge_features",
    "load_weights",
    "network_statistics",
    "num_changes",
    "predict",
    "prepare",
    "save_weights",
]

NUM_FEATURES = 21
_WIDTH, _LAYERS, _NORM_EPSILON = 48, 3, 1e-5
# rho = 0 has a square root with a spread too
NOISE_FLOOR = 1e-4
# Heads are thrice a number of order 1, from these on, and within these.
_TYPICAL_LOG_NOISE = -2.0
_LOG_MEAN, _LOG_SD, _LOG_NOISE = (-6.0, 3.0), (-5.0, 4.0), (-7.0, 0.5)


class Base(NamedTuple):
    """Equation (1); see `base_estimate`.

    Attributes:
        rates: q_b `[n, n]`, zeros on the diagonal.
        start: the rates before EM `[n, n]`.
        jumps: N `[n, n]`, expected.
        dwell: R `[n]`: time in each state, were each jump in the middle of its lag.
        change_rate: lam, the unit of time of the data.
        prior_time: 1 / 2m `[]`, m = lam / (n - 1): the time that the prior of EM, Gamma(1/2, 1/2m), is worth.
    """

    rates: Float[Array, "n n"]
    start: Float[Array, "n n"]
    jumps: Float[Array, "n n"]
    dwell: Float[Array, " n"]
    change_rate: Float[Array, ""]
    prior_time: Float[Array, ""]


class NetPrediction(NamedTuple):
    """What `predict` returns.

    Attributes:
        sqrt_mean: mean of sqrt(q_ij) if the link is there `[n, n]`, zeros on the diagonal.
        sqrt_sd: its standard deviation `[n, n]`.
        presence: probability of each link `[n, n]`, zeros on the diagonal.
        initial: law of the first label `[n]`.
        label_noise_mean: mean of sqrt(rho + 1e-4), rho the probability that a label is wrong.
        label_noise_sd: its standard deviation.
        base: q_b `[n, n]`, the estimate that the network begins from.
    """

    sqrt_mean: Float[Array, "*batch n n"]
    sqrt_sd: Float[Array, "*batch n n"]
    presence: Float[Array, "*batch n n"]
    initial: Float[Array, "*batch n"]
    label_noise_mean: Float[Array, "*batch"]
    label_noise_sd: Float[Array, "*batch"]
    base: Float[Array, "*batch n n"]

    @property
    def rates(self) -> Float[Array, "*batch n n"]:
        """Posterior mean of the rates, presence (mean^2 + sd^2), per unit of time."""
        return self.presence * (self.sqrt_mean**2 + self.sqrt_sd**2)

    @property
    def label_noise(self) -> Float[Array, "*batch"]:
        """Posterior mean of rho, at least 0."""
        return jnp.maximum(self.label_noise_mean**2 + self.label_noise_sd**2 - NOISE_FLOOR, 0)


class MJPNet(eqx.Module):
    """The network of equation (2); 57,000 parameters, whatever the number of states.

    Args:
        key: of the weights before training.

    Examples:
        >>> from emberwalk.kernels.jump.network import MJPNet
        >>> sum(x.size for x in jax.tree.leaves(MJPNet(random.key(0))))
        57277
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
    noise_weight: Float[Array, "double 2"]
    noise_bias: Float[Array, " 2"]
    # of log sd of links, and of the noise level, in (1, log J, n, rho): fitted after training
    sd_correction: Float[Array, "2 4"]

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
        self.noise_weight, self.noise_bias = scaled(2 * _WIDTH, 2) / 100, zeros(2)
        self.sd_correction = zeros(2, 4)

    def __call__(
        self, features: Float[Array, "n n features"]
    ) -> tuple[Float[Array, "n n 3"], Float[Array, " 2"]]:
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


def base_estimate(statistics: NetworkStatistics) -> Base:
    """Equation (1): two steps of EM with Gamma(1/2, 1/2m) priors, labels taken as right.

    Args:
        statistics: of `network_statistics`.
    """
    stats = statistics.paths
    n, lam = stats.num_states, change_rate(stats)
    prior_time = (n - 1) / (2 * lam)
    dwell = dwell_times(stats)
    pairs = jnp.asarray(stats.counts, float).sum(0)
    start = (pairs + 0.5) / (dwell[:, None] + prior_time) * ~jnp.eye(n, dtype=bool)
    begin = Parameters(start, _initial(statistics), jnp.zeros(()))
    fit = em(counts_likelihood(stats), begin, 0.5, prior_time, min_steps=2, max_steps=2)
    return Base(fit.parameters.rates, start, fit.expected.jumps, dwell, lam, prior_time)


def _initial(statistics: NetworkStatistics) -> Float[Array, " n"]:
    first = jnp.asarray(statistics.paths.first, float) + 0.5
    return first / first.sum()


def num_changes(statistics: NetworkStatistics) -> Float[Array, ""]:
    """J + 1/2, J the number of pairs of points in a row with different labels."""
    return change_rate(statistics.paths) * jnp.asarray(statistics.paths.total_time, float)


def edge_features(statistics: NetworkStatistics, base: Base) -> Float[Array, "n n features"]:
    """What the network sees of each link, and of its states; without units, and of order 1.

    Args:
        statistics: of `network_statistics`.
        base: of `base_estimate`.
    """
    stats, n, lam = statistics.paths, statistics.num_states, base.change_rate
    counts, lags = jnp.asarray(stats.counts, float), jnp.asarray(stats.lags, float)
    pairs, time = counts.sum(0), jnp.tensordot(lags, counts, 1)
    far = ((statistics.pair2, statistics.time2), (statistics.pair4, statistics.time4))
    blips = jnp.asarray(statistics.blips, float)
    number = counts.sum((1, 2))
    mean_lag = jnp.sum(number * lags) / number.sum()
    sd_lag = jnp.sqrt(jnp.sum(number * (lags - mean_lag) ** 2) / number.sum())
    columns = [feature for pair, t in ((pairs, time), *far) for feature in _lag_features(pair, t, lam)]
    columns += [
        jnp.log1p(blips),
        blips / (pairs + 1),
        jnp.log(base.rates / lam + 1e-4),
        jnp.log1p(base.jumps),
        jnp.log((base.rates + 1e-6 * lam) / (base.start + 1e-6 * lam)),
        jnp.log(lam * base.dwell + 0.1)[:, None],
        jnp.log1p(jnp.asarray(stats.first, float))[:, None],
        jnp.log(num_changes(statistics)),
        jnp.log(mean_lag * lam),
        jnp.log(sd_lag * lam + 1e-3),
        jnp.asarray(n / 6),
        jnp.eye(n),
    ]
    return 0.3 * jnp.stack([jnp.broadcast_to(column, (n, n)) for column in columns], -1)


def _lag_features(pairs: Any, time: Any, lam: Array) -> tuple[Array, ...]:
    """Of pairs so many places apart: their number, share of their row, and the mean lag of the row."""
    pairs, time = jnp.asarray(pairs, float), jnp.asarray(time, float)
    row = pairs.sum(1, keepdims=True)
    # a state that was never left has no lag
    mean_lag = time.sum(1, keepdims=True) / jnp.maximum(row, 1)
    return jnp.log1p(pairs), pairs / (row + 1), jnp.log(mean_lag * lam + 1e-3)


class Prepared(NamedTuple):
    """What the network needs of a data set, and training only once.

    Attributes:
        features: of `edge_features`.
        base: of `base_estimate`.
        initial: law of the first label `[n]`.
        log_changes: log (J + 1/2).
    """

    features: Float[Array, "n n features"]
    base: Base
    initial: Float[Array, " n"]
    log_changes: Float[Array, ""]


def prepare(statistics: NetworkStatistics) -> Prepared:
    """All that does not depend on the weights.

    Args:
        statistics: of `network_statistics`.
    """
    base = base_estimate(statistics)
    features = edge_features(statistics, base)
    return Prepared(features, base, _initial(statistics), jnp.log(num_changes(statistics)))


def answer(net: MJPNet, prepared: Prepared) -> tuple[NetPrediction, Float[Array, "n n"]]:
    """Equations (3) and (4), and the log odds of each link.

    Args:
        net: the network.
        prepared: of `prepare`.
    """
    link, noise = net(prepared.features)
    base = prepared.base
    n = base.rates.shape[0]
    links = ~jnp.eye(n, dtype=bool)
    noise_mean, noise_log_sd = jnp.clip(_TYPICAL_LOG_NOISE + noise, *_LOG_NOISE)
    noise_mean = jnp.exp(noise_mean)
    rho = jnp.maximum(noise_mean**2 - NOISE_FLOOR, 0)
    known = jnp.stack([jnp.ones(()), prepared.log_changes, jnp.asarray(float(n)), rho])
    link_correction, noise_correction = net.sd_correction @ lax.stop_gradient(known)
    # the square root's derivative at 0 is infinite: nothing is asked there
    root = jnp.sqrt(jnp.where(links, base.rates, 1))
    scale = lax.rsqrt(base.dwell + base.prior_time)[:, None] / 2
    return (
        NetPrediction(
            sqrt_mean=jnp.where(links, root * jnp.exp(jnp.clip(link[..., 0], *_LOG_MEAN)), 0),
            sqrt_sd=jnp.where(links, scale * jnp.exp(jnp.clip(link[..., 1], *_LOG_SD) + link_correction), 0),
            presence=jnp.where(links, jax.nn.sigmoid(link[..., 2]), 0),
            initial=prepared.initial,
            label_noise_mean=noise_mean,
            label_noise_sd=jnp.exp(noise_log_sd + noise_correction),
            base=base.rates,
        ),
        link[..., 2],
    )


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
    return _predict(net, statistics._replace(paths=statistics.paths._replace(lag_bins=None)))


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


def load_weights(file: str | PathLike[str], sha256: str | None = None) -> MJPNet:
    """A network from a file of weights; nothing in it is executed.

    Args:
        file: of `save_weights`.
        sha256: what the file is known by, in hexadecimal digits; without it only names, types and shapes are compared.

    Raises:
        ValueError: if the file is another one, was cut short, or holds objects, other names, types or shapes, or
            numbers that are not finite.

    Examples:
        >>> import tempfile
        >>> from emberwalk.kernels.jump.network import MJPNet, load_weights, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digest = save_weights(f"{folder}/net.npz", MJPNet(random.key(0)))
        ...     net = load_weights(f"{folder}/net.npz", digest)
        >>> net.link_weight.shape
        (48, 3)
    """
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
