"""Trains the network: `python -m emberwalk.kernels.jump.train --seed 0 --steps 28000 --out DIR`, an hour.

    loss = mean over links there of [log(s / sqrt(lam)) + z^2 / 2],   z = (sqrt(q) - mean) / s
         + mean over links of the cross entropy of presence
         + .1 of the same two for sqrt(rho), means over processes                                           (1)

Processes of a batch have as many states, and each its own number of paths, from 1 to 10^5. A batch depends on the
seed and the step alone, whichever process makes it: a run that is killed and resumed ends with the weights of one that
was not, bit by bit, on the same machine. Steps drive the schedule, not time.

What a reader would get wrong: z^2 is bounded by 100, else processes of 10^5 paths dominate; but bounded as
min(z^2, 100) it would have no derivative there, log s would still have one, and the network would grow surer where it
is most wrong. So it is z^2 with a weight that is held: the value is bounded, and the derivative points the right way.

What is learnt is right on average over the training processes. After training, spreads and the presence of links are
corrected on fresh ones (`network_correction.py`).
"""

import argparse
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random
from jaxtyping import Array, Bool, Float

from .network import MJPNet, NetPrediction, Prepared, answer, prepare, save_weights
from .network_correction import correction_basis, fit_log_odds, fit_log_scale
from .network_statistics import NetworkStatistics
from .training_prior import TrainingPrior, process_statistics, stacked

CHECKPOINT, WEIGHTS = "checkpoint.npz", "net.npz"
_SAVE_EVERY, _TELL_EVERY = 500, 100
_BATCH = 64
_PEAK, _WARM_UP, _CLIP = 2.5e-3, 0.03, 1.0
_LARGEST_SQUARE, _NOISE_SHARE = 100.0, 0.1
_QUEUE = 12
# Streams of random numbers of one seed.
_TRAINING, _CORRECTION = 0, 1


class Batch(NamedTuple):
    """Processes with as many states, and what their paths show.

    Attributes:
        statistics: with a leading axis `[B]`.
        rates: q `[B, n, n]`, zeros where no link is.
        label_noise: rho `[B]`.
    """

    statistics: NetworkStatistics
    rates: Float[Array | np.ndarray, "B n n"]
    label_noise: Float[Array | np.ndarray, " B"]


class Plan(NamedTuple):
    """What decides a run.

    Attributes:
        seed: of weights and batches.
        steps: of the optimiser, in all; the schedule ends with them.
        max_states: the largest number of states.
        batch_size: processes in a step.
        correction_draws: processes that spreads and presence are corrected with, at the end.
    """

    seed: int
    steps: int
    max_states: int = 8
    batch_size: int = _BATCH
    correction_draws: int = 60_000

    @property
    def prior(self) -> TrainingPrior:
        """The processes."""
        return TrainingPrior(tuple(n for n in TrainingPrior().num_states if n <= self.max_states))


def draw_batch(plan: Plan, index: int, stream: int = _TRAINING) -> Batch:
    """The processes of a step: alike, wherever and whenever it is called.

    Args:
        plan: of the run.
        index: of the step.
        stream: 0 for training; 1 for the processes of the corrections.
    """
    rng = np.random.default_rng([plan.seed, stream, index])
    prior = plan.prior
    n = prior.draw_num_states(rng)
    processes = [prior.process(rng, n) for _ in range(plan.batch_size)]
    statistics = stacked(process_statistics(rng, process, prior.draw_num_paths(rng)) for process in processes)
    rates = np.array([process.rates for process in processes], np.float32)
    return Batch(statistics, rates, np.array([process.label_noise for process in processes], np.float32))


def bounded_square(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """z^2, at most 100; where it is bounded, the derivative is that of z^2 times 100 / z^2.

    Args:
        z: any numbers.

    Examples:
        >>> from emberwalk.kernels.jump.train import bounded_square
        >>> bounded_square(jnp.array([2.0, 50.0])).tolist(), float(jax.grad(bounded_square)(50.0))
        ([4.0, 100.0], 4.0)
    """
    square = z**2
    return square * lax.stop_gradient(jnp.minimum(1, _LARGEST_SQUARE / jnp.maximum(square, 1)))


def scores(predicted: NetPrediction, rates: Any, label_noise: Any) -> tuple[Array, Array]:
    """z of sqrt(q) `[..., n, n]` of links that are there, and of sqrt(rho) `[...]` where it is not 0; else 0.

    Args:
        predicted: for a batch.
        rates: q, the true ones.
        label_noise: rho, the true one.
    """
    z = _score(rates, predicted.sqrt_mean, predicted.sqrt_sd)
    return z, _score(label_noise, predicted.label_noise_mean, predicted.label_noise_sd)


def _score(squared: Any, mean: Array, sd: Array) -> Array:
    # no derivative is asked for where nothing is
    there = squared > 0
    away = jnp.where(there, jnp.sqrt(jnp.where(there, squared, 1)) - mean, 0)
    return away / jnp.where(there, sd, 1)


def loss(
    net: MJPNet, prepared: Prepared, rates: Float[Array, "B n n"], label_noise: Float[Array, " B"]
) -> Array:
    """Equation (1).

    Args:
        net: the network; its corrections are not learnt here.
        prepared: of a batch.
        rates: q, the true ones.
        label_noise: rho, the true one.
    """
    net = eqx.tree_at(_corrections, net, replace_fn=lax.stop_gradient)
    predicted, log_odds = jax.vmap(partial(answer, net))(prepared)
    z, z_noise = scores(predicted, rates, label_noise)
    unit = jnp.sqrt(prepared.base.change_rate)[:, None, None]
    of_links = _mean_where(rates > 0, _normal_loss(z, predicted.sqrt_sd / unit))
    of_noise = _mean_where(label_noise > 0, _normal_loss(z_noise, predicted.label_noise_sd))
    links = ~jnp.eye(rates.shape[-1], dtype=bool)
    of_presence = jnp.mean(_cross_entropy(log_odds.links, rates > 0), where=links)
    of_noise += jnp.mean(_cross_entropy(log_odds.label_noise, label_noise > 0))
    return of_links + of_presence + _NOISE_SHARE * of_noise


def _normal_loss(z: Array, sd: Array) -> Array:
    return jnp.log(jnp.where(sd > 0, sd, 1)) + bounded_square(z) / 2


def _mean_where(chosen: Array, values: Array) -> Array:
    return jnp.sum(jnp.where(chosen, values, 0)) / jnp.maximum(chosen.sum(), 1)


def _cross_entropy(log_odds: Array, there: Array) -> Array:
    return jax.nn.softplus(jnp.where(there, -log_odds, log_odds))


def optimiser(steps: int) -> optax.GradientTransformation:
    """AdamW, gradients clipped at 1, with a cosine from 2.5e-3 to 0 after 3 % of the steps.

    Args:
        steps: in all.
    """
    warm_up = max(round(_WARM_UP * steps), 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, _PEAK, warm_up, max(steps, warm_up + 1))
    return optax.chain(optax.clip_by_global_norm(_CLIP), optax.adamw(schedule))


class Run(NamedTuple):
    """A run between two steps.

    Attributes:
        net: the network.
        optimiser: state of the optimiser.
        step: made so far.
    """

    net: MJPNet
    optimiser: Any
    step: int


def begin(plan: Plan) -> Run:
    """Before the first step.

    Args:
        plan: of the run.
    """
    net = MJPNet(random.key(plan.seed))
    return Run(net, optimiser(plan.steps).init(net), 0)


@partial(jax.jit, static_argnames="steps")
def _step(net: MJPNet, state: Any, batch: Batch, steps: int) -> tuple[MJPNet, Any, Array]:
    prepared = jax.vmap(prepare)(batch.statistics)
    value, gradient = jax.value_and_grad(loss)(net, prepared, batch.rates, batch.label_noise)
    updates, state = optimiser(steps).update(gradient, state, net)
    return optax.apply_updates(net, updates), state, value


def save_checkpoint(folder: Path, plan: Plan, run: Run) -> None:
    """Write a run, whole or not at all.

    Args:
        folder: which has room for two.
        plan: of the run.
        run: between two steps.
    """
    arrays = {f"leaf_{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves((run.net, run.optimiser)))}
    part = folder / f"part_of_{CHECKPOINT}"
    np.savez(part, allow_pickle=False, plan=np.array(plan), step=np.array(run.step), **arrays)  # type: ignore[arg-type]
    os.replace(part, folder / CHECKPOINT)


def load_checkpoint(folder: Path, plan: Plan) -> Run:
    """The run as it was saved.

    Args:
        folder: with a checkpoint.
        plan: which must be that of the checkpoint.

    Raises:
        ValueError: no checkpoint in the folder, or one of another plan.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        raise ValueError(f"{folder} holds no {CHECKPOINT} to resume from: leave --resume out to begin a run.")
    with np.load(file, allow_pickle=False) as arrays:
        saved = Plan(*(int(x) for x in arrays["plan"]))
        if saved != plan:
            raise ValueError(
                f"{file} is of {saved}, not of {plan}: resume with the same, or begin in another folder."
            )
        like, structure = jax.tree.flatten(begin(plan)[:2])
        leaves = [jnp.asarray(arrays[f"leaf_{i}"]) for i in range(len(like))]
        net, state = jax.tree.unflatten(structure, leaves)
        return Run(net, state, int(arrays["step"]))


def batches(
    plan: Plan, first: int, last: int, pool: Executor | None, stream: int = _TRAINING
) -> Iterator[Batch]:
    """Batches of some steps in their order, made ahead by a pool.

    Args:
        plan: of the run.
        first: step.
        last: step, not included.
        pool: of processes; None makes each here when it is needed.
        stream: as for `draw_batch`.
    """
    if pool is None:
        yield from (draw_batch(plan, index, stream) for index in range(first, last))
        return
    ahead = deque(
        pool.submit(draw_batch, plan, index, stream) for index in range(first, min(first + _QUEUE, last))
    )
    for index in range(first + len(ahead), last + len(ahead)):
        if index < last:
            ahead.append(pool.submit(draw_batch, plan, index, stream))
        yield ahead.popleft().result()


def advance(plan: Plan, run: Run, folder: Path, until: int, pool: Executor | None = None) -> Run:
    """Steps of the optimiser, with a checkpoint every 500 and at the end.

    Args:
        plan: of the run.
        run: where it stands.
        folder: of the checkpoint.
        until: the step to end at.
        pool: as for `batches`.
    """
    began, losses = time.perf_counter(), []
    for batch in batches(plan, run.step, until, pool):
        net, state, value = _step(run.net, run.optimiser, batch, plan.steps)
        run = Run(net, state, run.step + 1)
        losses.append(float(value))
        if run.step % _TELL_EVERY == 0:
            minutes = (time.perf_counter() - began) / 60
            print(
                f"step {run.step}: loss {np.mean(losses[-_TELL_EVERY:]):.4f}, {minutes:.1f} min", flush=True
            )
        if run.step % _SAVE_EVERY == 0 or run.step == until:
            save_checkpoint(folder, plan, run)
    return run


def _corrections(net: MJPNet) -> tuple[Array, Array]:
    return net.sd_correction, net.presence_correction


@jax.jit
def _scored(net: MJPNet, batch: Batch) -> tuple[Array, Array, Array, Array]:
    """z of links and of the noise level, log odds of links, and what is known of each process."""
    prepared = jax.vmap(prepare)(batch.statistics)
    predicted, log_odds = jax.vmap(partial(answer, net))(prepared)
    rho = predicted.label_noise_presence * predicted.label_noise_mean**2
    known = jax.vmap(correction_basis, (0, None, 0))(prepared.log_changes, batch.rates.shape[-1], rho)
    return *scores(predicted, batch.rates, batch.label_noise), log_odds.links, known


def fit_corrections(plan: Plan, net: MJPNet, pool: Executor | None = None) -> MJPNet:
    """The network with spreads and presence corrected on fresh processes, each of which counts the same.

    Args:
        plan: of the run.
        net: as trained, without corrections.
        pool: as for `batches`.
    """
    links, noises, presence = [], [], []
    number = -(-plan.correction_draws // plan.batch_size)
    for batch in batches(plan, 0, number, pool, _CORRECTION):
        z, z_noise, log_odds, known = (np.asarray(x) for x in _scored(net, batch))
        there, noisy = np.asarray(batch.rates) > 0, np.asarray(batch.label_noise) > 0
        possible = np.broadcast_to(~np.eye(there.shape[-1], dtype=bool), there.shape)
        links.append((z[there], *_of_each(there, known)))
        presence.append((log_odds[possible], there[possible], *_of_each(possible, known)))
        noises.append((z_noise[noisy], known[noisy], np.ones(noisy.sum())))

    of_sd = jnp.stack([fit_log_scale(*_together(rows)) for rows in (links, noises)])
    return eqx.tree_at(_corrections, net, (of_sd, fit_log_odds(*_together(presence))))


def _together(rows: Sequence[tuple[np.ndarray, ...]]) -> Iterator[np.ndarray]:
    return map(np.concatenate, zip(*rows, strict=True))


def _of_each(
    chosen: Bool[np.ndarray, "B n n"], known: Float[np.ndarray, "B basis"]
) -> tuple[np.ndarray, np.ndarray]:
    """For each chosen link what is known of its process, and its share of the chosen ones there."""
    number = chosen.sum((1, 2))
    return tuple(np.repeat(x, number, axis=0) for x in (known, 1 / np.maximum(number, 1)))  # type: ignore[return-value]


def train(plan: Plan, folder: Path, resume: bool = False, num_workers: int = 2) -> str:
    """The whole run: steps, corrections, file of weights.

    Args:
        plan: of the run.
        folder: of checkpoint and weights; made where it is not there.
        resume: go on from the checkpoint in the folder.
        num_workers: processes that make batches; 0 makes them here.

    Returns:
        The SHA-256 of the file of weights.

    Raises:
        ValueError: nothing to resume, or another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = load_checkpoint(folder, plan) if resume else begin(plan)
    # their matrices are small: threads of BLAS would only wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(num_workers, get_context("spawn")) if num_workers else None
    try:
        run = advance(plan, run, folder, plan.steps, pool)
        net = fit_corrections(plan, run.net, pool)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return save_weights(folder / WEIGHTS, net)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m emberwalk.kernels.jump.train", description="Trains the network."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=28_000)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and weights")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in that folder")
    parser.add_argument("--max-states", type=int, default=8)
    arguments = parser.parse_args()
    plan = Plan(arguments.seed, arguments.steps, arguments.max_states)
    digest = train(plan, arguments.out, arguments.resume)
    print(f"{arguments.out / WEIGHTS}: SHA-256 {digest}")


if __name__ == "__main__":
    main()
