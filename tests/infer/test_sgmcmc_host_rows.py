"""T9 of SG-MCMC: rows that are read on the host give the draws of rows in memory."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.infer import MCMC, init_to_value

from emberwalk.infer import SGMCMC, HostRows, control_variates
from emberwalk.infer.sgmcmc import rows as host_rows
from emberwalk.infer.sgmcmc.minibatch import over_all_rows
from emberwalk.infer.sgmcmc.rows import ReadRows, even_reads
from emberwalk.kernels.sgmcmc import baoab, leimkuhler_matthews
from tests.infer.sgmcmc_models import mean_data, mean_model, streamed_mean_model

N, B = 60, 10
START = init_to_value(values={"m": 0.0})


@pytest.fixture
def on_disk(tmp_path):
    """A memmap of N rows in float64, which becomes what JAX is set to."""
    np.save(tmp_path / "y.npy", mean_data(N))
    return np.load(tmp_path / "y.npy", mmap_mode="r")


def draws(kernel, num_chains, *args, **kwargs):
    mcmc = MCMC(
        kernel,
        num_warmup=8,
        num_samples=8,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0), *args, **kwargs)
    return mcmc.get_samples(group_by_chain=True)["m"]


@pytest.mark.parametrize("batching", ["replacement", "epoch"])
@pytest.mark.parametrize("gradient", ["minibatch", control_variates()], ids=["minibatch", "control_variates"])
def test_sgmcmc_host_rows_give_the_draws_of_rows_in_memory(batching, gradient, on_disk):
    """Bit for bit, two vectorized chains, the centre's full gradient too."""
    options = {"gradient": gradient, "batching": batching, "steps_per_sample": 3, "init_strategy": START}
    in_memory = SGMCMC(mean_model, leimkuhler_matthews(1e-3), **options)
    streamed = SGMCMC(
        streamed_mean_model,
        leimkuhler_matthews(1e-3),
        data=HostRows({"y": on_disk}, plate="rows", batch_size=B),
        **options,
    )
    expected = draws(in_memory, 2, jnp.asarray(np.asarray(on_disk), float))
    np.testing.assert_array_equal(draws(streamed, 2, n=N), expected)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_sgmcmc_host_rows_are_read_in_parts_of_a_draw(at_once, on_disk, monkeypatch):
    """Bit for bit, whatever is read at once: 5 steps one by one, or by 2, 2 and 1, by 3 and 2, or together."""
    data = HostRows({"y": on_disk}, plate="rows", batch_size=B)
    monkeypatch.setattr(host_rows, "_READ_BYTES", at_once * data.batch_bytes)
    read, shapes = data._read, set()
    monkeypatch.setattr(data, "_read", lambda rows: shapes.add(rows.shape) or read(rows))
    options = {"steps_per_sample": 5, "init_strategy": START}
    expected = draws(
        SGMCMC(mean_model, baoab(0.01, 10.0), **options), 2, jnp.asarray(np.asarray(on_disk), float)
    )
    streamed = SGMCMC(streamed_mean_model, baoab(0.01, 10.0), data=data, **options)
    np.testing.assert_array_equal(draws(streamed, 2, n=N), expected)
    shapes -= {(B,), (2, B), (2, 8, B)}  # of the model, of one step, of a probe
    assert shapes == ({(2, at_once, B)} if at_once > 1 else set())


def test_sgmcmc_host_rows_reads_of_a_draw_are_about_as_large():
    """100 steps of at most 29 batches are four reads of 25, not three of 29 and one of 13."""
    assert [even_reads(100, at_once) for at_once in (1, 29, 60, 100, 400)] == [1, 25, 50, 100, 100]
    assert even_reads(jnp.asarray(100), 29) == 1


def test_sgmcmc_host_rows_of_vectorized_chains_are_those_of_one_chain_each(on_disk):
    rows = HostRows({"y": on_disk}, plate="rows", batch_size=B)
    kernel = SGMCMC(
        streamed_mean_model, baoab(0.01, 10.0), steps_per_sample=2, data=rows, init_strategy=START
    )
    keys = random.split(random.key(3), 3)

    def moved(key):
        return kernel.sample(kernel.init(key, 0, None, model_args=(), model_kwargs={"n": N}), (), {"n": N}).z[
            "m"
        ]

    together = jax.jit(moved)(keys)
    apart = jax.lax.map(jax.jit(moved), keys)
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_sgmcmc_host_rows_gradient_of_all_rows_is_that_in_memory():
    """Two blocks and a shorter third: each scales its mean square to all rows, and weighed they are the sum."""
    num_rows = 20_011  # a prime: no equal blocks
    y = mean_data(num_rows)
    rows = ReadRows(HostRows({"y": y}, plate="rows", batch_size=B), "replacement")
    total = over_all_rows(rows, lambda batch: num_rows * jnp.mean(batch["y"] ** 2))
    np.testing.assert_allclose(total, np.sum(y**2), rtol=1e-5)


def test_sgmcmc_host_rows_come_in_the_order_of_their_indices():
    """Read in ascending order, given back as asked; a dtype that JAX lacks becomes the one it has."""
    ids = np.arange(N, dtype=np.int64)
    data = HostRows({"id": ids, "X": ids[:, None] * np.ones(3)}, plate="rows", batch_size=4)
    asked = np.array([[7, 3, 3], [59, 0, 12]])
    read = data._read(asked)
    np.testing.assert_array_equal(read["id"], asked)
    np.testing.assert_array_equal(read["X"][..., 0], asked)
    assert read["id"].dtype == np.int32
    assert read["X"].shape == (2, 3, 3)
    assert read["X"].dtype == jnp.result_type(float)


class RefusesRepeats:
    """An HDF5 dataset, as far as it matters: rows in ascending order, each once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert (np.diff(rows) > 0).all(), "Indexing elements must be in increasing order"
        return self.array[rows]


def test_sgmcmc_host_rows_of_a_file_that_refuses_repeated_rows():
    data = HostRows({"y": RefusesRepeats(mean_data(N))}, plate="rows", batch_size=4)
    asked = np.array([7, 3, 3, 59, 7])
    np.testing.assert_allclose(data._read(asked)["y"], mean_data(N)[asked], rtol=1e-6)


def test_sgmcmc_host_rows_are_not_copied_with_their_kernel(on_disk):
    """A copy of a memmap is the whole file in memory; a resumable run copies its kernel."""
    kernel = SGMCMC(
        streamed_mean_model, baoab(0.01, 10.0), data=HostRows({"y": on_disk}, plate="rows", batch_size=B)
    )
    assert copy.deepcopy(kernel).data is kernel.data


def test_sgmcmc_host_rows_in_blocks_lie_together_and_are_as_probable(x64):
    """Blocks of 5 at any place, around the end: each row in b / N of the batches."""
    rows = ReadRows(
        HostRows({"y": mean_data(N)}, plate="rows", batch_size=B, order="blocks", block_size=5), "replacement"
    )
    keys = random.split(random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: rows.indices(key, key, 0)["rows"])(keys))
    blocks = drawn.reshape(-1, 5)
    assert ((np.diff(blocks, axis=1) % N) == 1).all()
    counts = np.bincount(blocks[:, 0], minlength=N)
    assert abs((counts - counts.mean()) / np.sqrt(counts.mean())).max() < 4.5
