"""How often the network is right

Fresh processes of its training prior, 2000 for each number of states and of paths; 10 states were never trained on.
Each row is the largest distance over the numbers of paths: of the share of links that are there inside their 50 % and
90 % intervals, likewise of noise levels that are not 0, and of presence, in four bins with a thousand links or more,
from the share of links that are there. By rho: six states, 60 paths.
"""

from collections.abc import Callable

import jax
import numpy as np
from measure import TRIAL, Row

from emberwalk.kernels.jump.network import NetPrediction, load_weights, predict
from emberwalk.kernels.jump.sqrt_normal import SqrtNormal
from emberwalk.kernels.jump.training_prior import Process, TrainingPrior, process_statistics, stacked

_NUM_PATHS = (1, 60) if TRIAL else (1, 4, 16, 60, 200, 1000, 10_000)
_NUM_STATES = (2, 10) if TRIAL else (2, 3, 4, 5, 6, 8, 10)
_NUM_DRAWS = 50 if TRIAL else 2000
_PROBS = np.array([0.5, 0.9])
_BINS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01))
_FEWEST_LINKS = 1000
_NOISE_BINS = ((0.0, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2))


class _Drawn:
    """Processes, and what the network says of their paths."""

    def __init__(self, num_states: int, num_paths: int, changed: Callable[[Process], Process] | None = None):
        rng, prior = np.random.default_rng([11, num_states, num_paths]), TrainingPrior()
        processes: list[Process] = [prior.process(rng, num_states) for _ in range(_NUM_DRAWS)]
        if changed is not None:
            processes = [changed(process) for process in processes]
        statistics = stacked(process_statistics(rng, process, num_paths) for process in processes)
        self.found: NetPrediction = _predicted(statistics)
        self.rates = np.array([process.rates for process in processes])
        self.noise = np.array([process.label_noise for process in processes])
        self.links = np.broadcast_to(~np.eye(num_states, dtype=bool), self.rates.shape)

    def of_links(self, chosen: np.ndarray | None = None) -> np.ndarray:
        mean, sd = np.asarray(self.found.sqrt_mean), np.asarray(self.found.sqrt_sd)
        rows = slice(None) if chosen is None else chosen
        return _held(mean[rows], sd[rows], self.rates[rows])

    def of_noise(self) -> np.ndarray:
        return _held(np.asarray(self.found.label_noise_mean), np.asarray(self.found.label_noise_sd), self.noise)

    def of_presence(self) -> np.ndarray:
        """By bin, what there is less what was said, and its standard error, in which links of a process are one."""
        w = np.asarray(self.found.presence, np.float64)
        away, found = (self.rates > 0) - w, []
        for low, high in _BINS:
            chosen = self.links & (w >= low) & (w < high)
            number, total = chosen.sum((1, 2)), np.where(chosen, away, 0).sum((1, 2))
            if number.sum() < min(_FEWEST_LINKS, self.links.sum() // 10):
                found.append((np.nan, np.nan))
                continue
            mean = total.sum() / number.sum()
            found.append((mean, np.sqrt(np.sum((total - mean * number) ** 2)) / number.sum()))
        return np.array(found)

    def errors(self) -> tuple[float, float]:
        return tuple(
            float(np.sqrt(np.mean((np.asarray(q) - self.rates)[self.links] ** 2)))
            for q in (self.found.rates, self.found.base)
        )  # type: ignore[return-value]


def _predicted(statistics) -> NetPrediction:
    net = load_weights()
    return jax.jit(jax.vmap(lambda s: predict(net, s)))(statistics)


def _held(mean: np.ndarray, sd: np.ndarray, values: np.ndarray) -> np.ndarray:
    density, found = SqrtNormal(mean, sd), []
    for prob in _PROBS:
        low, high = (np.asarray(density.quantile((1 + side * prob) / 2)) for side in (-1, 1))
        found.append(((low <= values) & (values <= high))[values > 0].mean())
    return np.array(found)


def rows() -> list[Row]:
    """By number of states, then by noise level."""
    return [row for n in _NUM_STATES for row in _of_states(n)] + [*_of_noise_levels(), *_outside_of_training()]


def _of_states(num_states: int) -> list[Row]:
    drawn = {num_paths: _Drawn(num_states, num_paths) for num_paths in _NUM_PATHS}
    trained = num_states <= 8
    links = {k: d.of_links() for k, d in drawn.items()}
    noise = {k: d.of_noise() for k, d in drawn.items()}
    presence = {k: d.of_presence() for k, d in drawn.items()}
    away, error = max(np.concatenate(list(presence.values())), key=lambda x: np.nan_to_num(abs(x[0])))
    found = [
        _row(f"{num_states} states: links", links, 0.06),
        _row(f"{num_states} states: noise level", noise, 0.05 if trained else None),
        Row(
            f"{num_states} states: presence",
            abs(away),
            "",
            at_most=0.05 if trained else None,
            note=f"{away:+.3f} with a standard error of {error:.3f}; "
            + "; ".join(f"{k}: {_signed(x[:, 0])}" for k, x in presence.items()),
        ),
    ]
    if not trained:
        errors = {k: d.errors() for k, d in drawn.items()}
        least = min(float(x[1]) for x in noise.values())
        found.append(Row(f"{num_states} states: noise level in its 90 % interval, least", least, "", at_least=0.77))
        found.append(
            Row(
                f"{num_states} states: error / that of the base estimate, largest",
                max(net / base for net, base in errors.values()),
                "",
                at_most=1.0,
                note="; ".join(f"{k}: {net:.2f} and {base:.2f}" for k, (net, base) in errors.items()),
            )
        )
    return found


def _of_noise_levels() -> list[Row]:
    drawn = _Drawn(6, 60)
    found = {"right": drawn.of_links(drawn.noise == 0)}
    for low, high in _NOISE_BINS:
        found[f"{low:g} to {high:g}"] = drawn.of_links((drawn.noise > low) & (drawn.noise <= high))
    return [_row("6 states, 60 paths, by noise level: links", found, None)]


def _outside_of_training() -> list[Row]:
    """More wrong labels, all paths from one state, a third of the links a thousand times slower."""
    slow = (np.add.outer(np.arange(6), np.arange(6)) % 3) == 0
    others = {
        "label noise .3": _Drawn(6, 60, lambda process: process._replace(label_noise=0.3)),
        "all paths from one state": _Drawn(6, 60, lambda process: process._replace(initial=np.eye(6)[0])),
    }
    found = {name: each.of_links() for name, each in others.items()}
    slowed = _Drawn(6, 60, lambda process: process._replace(rates=np.where(slow, 1e-3, 1) * process.rates))
    there = slowed.rates > 0
    of_fast = _held(*(np.where(slow, 1, np.asarray(x)) for x in slowed.found[:2]), np.where(slow, 0, slowed.rates))
    believed = np.asarray(slowed.found.presence)
    note = f"of slow links that are there {believed[there & slow].mean():.2f} are believed in, of fast ones "
    note += f"{believed[there & ~slow].mean():.2f}, of none {believed[~there & slowed.links].mean():.2f}"
    return [
        _row("6 states, 60 paths, outside of training: links", found, None),
        Row(
            "6 states, 60 paths, a third of the links 1000 times slower: fast links",
            float(np.abs(of_fast - _PROBS).max()),
            "",
            note=f"{of_fast[0]:.2f}, {of_fast[1]:.2f}; {note}",
        ),
    ]


def _row(name: str, shares: dict, bar: float | None) -> Row:
    away = max(float(np.abs(x - _PROBS).max()) for x in shares.values())
    note = "; ".join(f"{k}: {x[0]:.2f}, {x[1]:.2f}" for k, x in shares.items())
    return Row(name, away, "", at_most=bar, note=note)


def _signed(x: np.ndarray) -> str:
    return " ".join("few" if np.isnan(value) else f"{value:+.3f}" for value in x)
