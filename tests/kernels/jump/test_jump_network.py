"""The network: what goes in has no unit and no order of states; and its file of weights holds what it should."""

import subprocess
import sys
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax import random
from scipy import special

from emberwalk.kernels.jump import network, network_features, simulate_batch
from emberwalk.kernels.jump.network import (
    NUM_FEATURES,
    MJPNet,
    NetPrediction,
    base_estimate,
    edge_features,
    load_weights,
    predict,
    save_weights,
)
from emberwalk.kernels.jump.network_statistics import network_statistics
from tests.house import ROOT, imported
from tests.kernels.jump.processes import exact_transitions, random_rates, rmse

N = 4
Q = random_rates(np.random.default_rng(2), N)
TIMES = np.linspace(0, 8, 60)
LABELS = simulate_batch(3, Q, TIMES, 20, label_noise=0.05)
ORDER = np.array([2, 0, 3, 1])
UNIT = 1000.0


def rough(key):
    """A network as if trained: every array matters, and answers are of order 1."""
    net = MJPNet(key)
    leaves, tree = jax.tree.flatten(net)
    keys = random.split(key, len(leaves))
    moved = [x + 0.05 * random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    net = jax.tree.unflatten(tree, moved)
    # of the corrections' factors one is log J
    return eqx.tree_at(lambda net: (net.sd_correction, net.presence_correction), net, replace_fn=lambda x: x / 10)


@pytest.fixture(scope="module")
def net():
    return rough(random.key(1))


@pytest.fixture(scope="module")
def statistics():
    return network_statistics(TIMES, LABELS, num_states=N)


@pytest.fixture(scope="module")
def predicted(net, statistics):
    return predict(net, statistics)


def fresh(net, statistics):
    """`predict`, traced anew: with the features that the module has now."""
    return jax.jit(lambda net, s: network.answer(net, network.prepare(s))[0])(net, statistics)


def test_jump_network_corrections_are_those_of_their_equation(net, statistics):
    """Log odds and log sd, from those of the network without them."""
    names = ("sd_correction", "presence_correction")
    plain = eqx.tree_at(lambda net: [getattr(net, name) for name in names], net, replace_fn=jnp.zeros_like)
    before, after = (fresh(each, statistics) for each in (plain, net))
    links = ~np.eye(N, dtype=bool)
    log_changes = float(network.prepare(statistics).log_changes)
    rho = float(before.label_noise_presence * before.label_noise_mean**2)
    bends = [max(log_changes - at, 0) for at in (4, 7, 10, 13)]
    known = np.array(
        [1, log_changes, *bends, 1 / N, rho, log_changes / N, log_changes * rho, *np.array(bends) / N]
    )
    of_links, of_noise = np.asarray(net.sd_correction) @ known
    constant, slope, above = np.asarray(net.presence_correction) @ known
    odds, found = (np.asarray(special.logit(np.float64(x.presence[links]))) for x in (before, after))
    npt.assert_allclose(found, constant + (1 + slope) * odds + above * np.maximum(odds, 0), atol=1e-4)
    assert np.abs(found - odds).max() > 0.01
    npt.assert_allclose(np.log(after.sqrt_sd[links] / before.sqrt_sd[links]), of_links, atol=1e-4)
    npt.assert_allclose(np.log(after.label_noise_sd / before.label_noise_sd), of_noise, atol=1e-4)
    for name in ("sqrt_mean", "label_noise_mean", "label_noise_presence"):
        npt.assert_array_equal(getattr(after, name), getattr(before, name))


def relabelled(predicted):
    """What another order of states must give."""
    return NetPrediction(
        *(np.asarray(x)[np.ix_(*[ORDER] * np.ndim(x))] if np.ndim(x) else x for x in predicted)
    )


def in_other_unit(predicted):
    """What times in another unit must give."""
    root = UNIT**-0.5
    return predicted._replace(
        sqrt_mean=predicted.sqrt_mean * root, sqrt_sd=predicted.sqrt_sd * root, base=predicted.base / UNIT
    )


def worst(found, exact):
    """The largest difference, relative to the largest number of a field."""
    pairs = zip(found, exact, strict=True)
    return max(np.abs(np.asarray(x) - y).max() / np.abs(np.asarray(y)).max() for x, y in pairs)


def relabelled_data():
    return network_statistics(TIMES, np.argsort(ORDER)[LABELS], num_states=N)


def data_in_other_unit():
    return network_statistics(TIMES * UNIT, LABELS, num_states=N)


def test_jump_network_knows_no_order_of_states(net, predicted):
    assert worst(predict(net, relabelled_data()), relabelled(predicted)) < 1e-5


def test_jump_network_knows_no_unit_of_time(net, predicted):
    assert worst(predict(net, data_in_other_unit()), in_other_unit(predicted)) < 1e-5


def test_jump_network_under_vmap_is_one_by_one(net):
    """Data sets whose times differ; all traced."""
    rng = np.random.default_rng(0)
    times = jnp.float32(np.cumsum(rng.exponential(0.2, (3, 1, 40)), -1))
    labels = jnp.asarray(rng.integers(0, 3, (3, 8, 40)))

    def one(t, y):
        return predict(net, network_statistics(t, y, num_states=3))

    together = jax.jit(jax.vmap(one))(times, labels)
    alone = jax.jit(one)
    for at in range(3):
        assert worst(jax.tree.map(lambda x, at=at: x[at], together), alone(times[at], labels[at])) < 1e-5


def test_jump_network_traced_is_that_of_the_host(net, predicted):
    traced = jax.jit(lambda t, y: predict(net, network_statistics(t, y, num_states=N)))(
        jnp.float32(TIMES), LABELS
    )
    # lags of float32 times
    assert worst(traced, predicted) < 1e-4


def log_features(times, labels, n):
    """The features, from loops and expm in float64, without those of EM."""
    paths, length = labels.shape
    found = np.zeros((n, n, NUM_FEATURES))
    lags = np.diff(times)
    pairs = {k: np.zeros((n, n)) for k in (1, 2, 4)}
    spent = {k: np.zeros(n) for k in (1, 2, 4)}
    dwell, blips, first = np.zeros(n), np.zeros((n, n)), np.zeros(n)
    for y in labels:
        first[y[0]] += 1
        for k in pairs:
            for at in range(length - k):
                pairs[k][y[at], y[at + k]] += 1
                spent[k][y[at]] += times[at + k] - times[at]
        for at, lag in enumerate(lags):
            dwell[y[at]] += lag / 2
            dwell[y[at + 1]] += lag / 2
        for i, j, k in zip(y, y[1:], y[2:], strict=False):
            blips[i, j] += i == k != j
    changes = pairs[1].sum() - np.trace(pairs[1]) + 0.5
    lam = changes / (paths * (times[-1] - times[0]))
    for at, k in enumerate(pairs):
        row = pairs[k].sum(1, keepdims=True)
        lag = spent[k][:, None] / np.where(row > 0, row, 1)
        found[..., 3 * at] = np.log1p(pairs[k])
        found[..., 3 * at + 1] = pairs[k] / (row + 1)
        found[..., 3 * at + 2] = np.log(lag * lam + 1e-3)
    found[..., 9], found[..., 10] = np.log1p(blips), blips / (pairs[1] + 1)
    found[..., 14] = np.log(lam * dwell + 0.1)[:, None]
    found[..., 15] = np.log1p(first)[:, None]
    found[..., 16], found[..., 17] = np.log(changes), np.log(lags.mean() * lam)
    found[..., 18] = np.log(lags.std() * lam + 1e-3)
    found[..., 19], found[..., 20] = n / 6, np.eye(n)
    return 0.3 * found, lam, pairs[1], dwell


UNSEEN = N + 1
IRREGULAR = np.cumsum(np.random.default_rng(4).choice([0.1, 0.2, 0.4], TIMES.shape))
OF_EM = [11, 12, 13]


def features_of(times, labels, n):
    statistics = network_statistics(times, labels, num_states=n)
    return jax.jit(lambda s: network_features.edge_features(s, base_estimate(s)))(statistics)


def test_jump_network_features_are_those_of_a_loop():
    """With a state that was never seen."""
    exact = log_features(IRREGULAR, LABELS, UNSEEN)[0]
    found = np.asarray(features_of(IRREGULAR, LABELS, UNSEEN))
    npt.assert_allclose(np.delete(found, OF_EM, -1), np.delete(exact, OF_EM, -1), rtol=1e-4, atol=1e-5)
    assert np.isfinite(found).all()


def em_with_expm(counts, lag, q, prior_time):
    """One step by the integrals of expm in float64: jumps and dwell times given both ends of each pair."""
    n = len(q)
    grid = np.linspace(0, lag, 401)
    P = exact_transitions(q, grid)
    weight = counts / P[-1]
    # a at time 0, in i at s, jumps to j, in b at the end
    until, after = P, P[::-1]
    inner = np.einsum("sai,ab,sjb->sij", until, weight, after)
    flow = np.trapezoid(inner, grid, axis=0)
    jumps, dwell = q * flow, np.diagonal(flow)
    return (jumps + 0.5) / (dwell[:, None] + prior_time) * (1 - np.eye(n)), jumps


def test_jump_network_base_is_two_steps_of_em(statistics):
    _, lam, pairs, dwell = log_features(TIMES, LABELS, N)
    prior_time = (N - 1) / (2 * lam)
    start = (pairs + 0.5) / (dwell[:, None] + prior_time) * (1 - np.eye(N))
    once, _ = em_with_expm(pairs, TIMES[1], start, prior_time)
    twice, jumps = em_with_expm(pairs, TIMES[1], once, prior_time)
    found = jax.jit(base_estimate)(statistics)
    npt.assert_allclose(found.start, start, rtol=1e-4)
    npt.assert_allclose(found.rates, twice, rtol=1e-3)
    npt.assert_allclose(found.jumps * (1 - np.eye(N)), jumps, rtol=1e-3, atol=1e-3)
    features = 0.3 * np.log([twice / lam + 1e-4, (twice + 1e-6 * lam) / (start + 1e-6 * lam)])
    npt.assert_allclose(
        np.asarray(features_of(TIMES, LABELS, N))[..., [11, 13]], np.moveaxis(features, 0, -1), atol=1e-3
    )


def test_jump_network_base_nears_the_truth_with_the_number_of_paths():
    """Right labels: what the network begins from does not fall behind where there are many."""
    errors = []
    for paths in (30, 3000):
        statistics = network_statistics(TIMES, simulate_batch(5, Q, TIMES, paths))
        errors.append(rmse(jax.jit(base_estimate)(statistics).rates, Q))
    # 3000 paths jump some 6000 times along each link
    assert errors[0] > 3 * errors[1]
    assert errors[1] < 0.05 * Q[~np.eye(N, dtype=bool)].mean()


def test_jump_network_prediction_is_a_law(predicted):
    off = ~np.eye(N, dtype=bool)
    assert (np.asarray(predicted.sqrt_sd)[off] > 0).all()
    assert (np.asarray(predicted.sqrt_mean)[off] > 0).all()
    assert ((np.asarray(predicted.presence)[off] > 0) & (np.asarray(predicted.presence)[off] < 1)).all()
    for field in (predicted.sqrt_mean, predicted.sqrt_sd, predicted.presence, predicted.rates):
        assert np.trace(np.asarray(field)) == 0
    assert float(predicted.initial.sum()) == pytest.approx(1, rel=1e-6)
    exact = predicted.presence * (predicted.sqrt_mean**2 + predicted.sqrt_sd**2)
    npt.assert_allclose(predicted.rates, exact)
    assert float(predicted.label_noise) >= 0


# The mistakes that a set of features invites.
def with_absolute_epsilon(statistics, base):
    found = edge_features(statistics, base)
    return found.at[..., 11].set(0.3 * jnp.log(base.rates + 1e-4))


def with_index_of_state(statistics, base):
    found = edge_features(statistics, base)
    return found.at[..., 19].add(0.1 * jnp.arange(found.shape[0])[:, None])


def with_missing_state_in_mean(statistics, base):
    """Mean lag as the mean over states: one that was never seen counts with a lag of 0."""
    found = edge_features(statistics, base)
    counts = jnp.asarray(statistics.paths.counts, float)
    row = counts.sum((0, 2))
    lags = jnp.tensordot(statistics.paths.lags, counts, 1).sum(1) / jnp.maximum(row, 1)
    return found.at[..., 17].set(0.3 * jnp.log(lags.mean() * base.change_rate))


def test_jump_network_planted_absolute_epsilon_is_caught(monkeypatch, net, statistics):
    monkeypatch.setattr(network_features, "edge_features", with_absolute_epsilon)
    here = fresh(net, statistics)
    assert worst(fresh(net, relabelled_data()), relabelled(here)) < 1e-5
    assert worst(fresh(net, data_in_other_unit()), in_other_unit(here)) > 1e-3


def test_jump_network_planted_index_of_state_is_caught(monkeypatch, net, statistics):
    monkeypatch.setattr(network_features, "edge_features", with_index_of_state)
    here = fresh(net, statistics)
    assert worst(fresh(net, data_in_other_unit()), in_other_unit(here)) < 1e-5
    assert worst(fresh(net, relabelled_data()), relabelled(here)) > 1e-3


def test_jump_network_planted_missing_state_in_a_mean_is_caught(monkeypatch):
    monkeypatch.setattr(network_features, "edge_features", with_missing_state_in_mean)
    exact = log_features(IRREGULAR, LABELS, UNSEEN)[0]
    found = np.asarray(features_of(IRREGULAR, LABELS, UNSEEN))
    assert np.abs(np.delete(found - exact, OF_EM, -1)).max() > 0.05


def test_jump_network_weights_come_back_bit_by_bit(tmp_path, net):
    file = tmp_path / "net.npz"
    digest = save_weights(file, net)
    assert save_weights(tmp_path / "again.npz", net) == digest
    for loaded in (load_weights(file), load_weights(file, digest)):
        assert jax.tree.structure(loaded) == jax.tree.structure(net)
        for x, exact in zip(jax.tree.leaves(loaded), jax.tree.leaves(net), strict=True):
            npt.assert_array_equal(x, exact)


def arrays_of(net, **other):
    return {name: np.asarray(x) for name, x in vars(net).items()} | other


WRONG_ARRAYS = {
    "object": (
        lambda net: arrays_of(net, link_bias=np.array([1, "a", None], object)),
        "no file of arrays alone",
    ),
    "shape": (lambda net: arrays_of(net, link_bias=np.zeros(4, np.float32)), r"link_bias.*\(4,\).*\(3,\)"),
    "dtype": (lambda net: arrays_of(net, link_bias=np.zeros(3)), r"link_bias.*float64"),
    "name": (lambda net: arrays_of(net, more=np.zeros(3)), "more"),
    "missing": (lambda net: {"link_bias": np.zeros(3, np.float32)}, "embed_weight"),
    "NaN": (
        lambda net: arrays_of(net, link_bias=np.full(3, np.nan, np.float32)),
        r"\['link_bias'\].*not finite",
    ),
}


@pytest.mark.parametrize(("arrays", "words"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_jump_network_bad_input_arrays(tmp_path, net, arrays, words):
    file = tmp_path / "net.npz"
    np.savez(file, **arrays(net))
    with pytest.raises(ValueError, match=rf"(?s)SHA-256 [0-9a-f]{{64}}, and none was asked for.*{words}"):
        load_weights(file)


def test_jump_network_bad_input_files(tmp_path, net):
    file = tmp_path / "net.npz"
    digest = save_weights(file, net)
    raw = file.read_bytes()
    changed = bytearray(raw)
    changed[len(raw) // 2] ^= 1
    for other in (changed, raw[: len(raw) // 2], b""):
        file.write_bytes(other)
        with pytest.raises(
            ValueError, match=rf"SHA-256 [0-9a-f]{{64}}, and {digest} was asked for: it was changed"
        ):
            load_weights(file, digest)
        # without a checksum to compare with, the file's own say so
        with pytest.raises(ValueError, match="no file of arrays alone"):
            load_weights(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("link_bias.npy", b"no array")
    with pytest.raises(ValueError, match=r"link_bias.*S8"):
        load_weights(file)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match="one array without a name"):
        load_weights(file)


PART_B = ("network", "network_correction", "network_features", "train")


def test_jump_network_is_imported_by_nothing_else():
    """Of its wing: the refinement knows no network."""
    folder = ROOT / "kernels" / "jump"
    for file in folder.glob("*.py"):
        module = f"emberwalk.kernels.jump.{file.stem}".removesuffix(".__init__")
        names = imported(file.read_text(), module, file.name == "__init__.py")
        parts = {name.split(".")[3] for name in names if name.startswith("emberwalk.kernels.jump.")}
        assert file.stem in PART_B or not parts & set(PART_B), file


def test_jump_network_is_not_loaded_with_infer():
    code = (
        "import sys, emberwalk.infer, emberwalk.kernels.jump\n"
        "parts = ('jump.network', 'jump.network_correction', 'jump.train')\n"
        "print([m for m in sys.modules if m.endswith(parts) or m == 'equinox'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
