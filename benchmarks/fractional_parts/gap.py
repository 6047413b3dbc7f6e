"""The gap to the log evidence, against seconds of training

Fractional Brownian motion on [0, 1], H = .3, 200 steps, seen ten times with noise .1; eight draws a step, Adam, the
largest learning rate of .1, .01 and .001 that ends best; 2000 draws for each ELBO. Seconds are of SVI alone, after
compilation. `sites="learnt"` is given nothing of the likelihood but its first Laplace pass; "laplace", the choice of
`AutoFractionalSDE` here, has nothing to learn.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax import random
from measure import TRIAL, Row
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from emberwalk.infer import AutoFractionalSDE, ControlGuide

from .setting import IMAGES, NUM_SEEN, WIDTH, Exact, elbo_draws, exact_of, seen_path, svi_steps

_HURST = 0.3
_SECONDS = (0.1, 0.2) if TRIAL else (1.0, 5.0, 20.0)
_NUM_DRAWS = 50 if TRIAL else 2000
_RATES = (0.01,) if TRIAL else (0.1, 0.01, 0.001)
_DRAWN_FROM = 1e-4  # nats
_GUIDES: dict[str, Callable[..., Any]] = {
    "AutoFractionalSDE": AutoFractionalSDE,
    "AutoFractionalSDE, learnt sites": lambda model: AutoFractionalSDE(model, sites="learnt"),
    "ControlGuide": lambda model: ControlGuide(model, width=WIDTH),
    "AutoNormal": AutoNormal,
}


class Point(NamedTuple):
    """Where a training is.

    Attributes:
        seconds: of SVI.
        gap: log evidence less ELBO, nats.
        error: of it.
    """

    seconds: float
    gap: float
    error: float


def rows() -> list[Row]:
    """Each guide at each time; the figure beside them."""
    exact = exact_of(_HURST, NUM_SEEN)
    curves = {name: _best(make, exact) for name, make in _GUIDES.items()}
    if not TRIAL:
        _draw(curves, exact)
    return [
        Row(
            f"gap after {seconds:g} s, {name}",
            point.gap,
            "nats",
            spread=f"+- {point.error:.2g}",
            note=f"a control's floor is {float(exact.floor.path):.3g}" if name == "ControlGuide" else "",
        )
        for seconds in _SECONDS
        for name, curve in curves.items()
        for point in [min(curve, key=lambda point, at=seconds: abs(point.seconds - at))]
    ]


def _best(make: Callable[..., Any], exact: Exact) -> list[Point]:
    """Of the learning rates, the one that ends lowest."""
    return min((_curve(make, rate, exact) for rate in _RATES), key=lambda curve: curve[-1].gap)


def _curve(make: Callable[..., Any], rate: float, exact: Exact) -> list[Point]:
    model, y = seen_path(hurst=_HURST)
    svi = SVI(model, make(model), optax.adam(rate), Trace_ELBO(num_particles=8))
    state, steps = svi.init(random.key(0), y), svi_steps(svi, 10)
    jax.block_until_ready(steps(state, y))
    elbo, seconds = elbo_draws(svi, _NUM_DRAWS), 0.0
    mean = elbo(svi.get_params(state), y)
    points, due = [Point(0.0, exact.log_evidence - mean.value, mean.error)], 0.1
    while seconds < _SECONDS[-1]:
        start = time.perf_counter()
        state = jax.block_until_ready(steps(state, y))
        seconds += time.perf_counter() - start
        if seconds >= min(due, _SECONDS[-1]):
            mean = elbo(svi.get_params(state), y)
            points.append(Point(seconds, exact.log_evidence - mean.value, mean.error))
            due *= 1.5
    return points


def _draw(curves: dict[str, list[Point]], exact: Exact) -> None:
    """Gap against seconds, both on logarithmic axes."""
    import matplotlib.pyplot as plt

    from emberwalk.infer.figures import COMPONENTS, GREY, INK, new_axes, title

    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    new_axes(ax, "gap")
    for (name, curve), colour in zip(curves.items(), COMPONENTS, strict=True):
        later = curve[1:]
        seconds, gaps = ([getattr(point, field) for point in later] for field in ("seconds", "gap"))
        ax.plot(
            seconds, [max(gap, _DRAWN_FROM) for gap in gaps], "o-", color=colour, markersize=3, linewidth=1.2
        )
        ax.annotate(name, (seconds[-1], max(gaps[-1], _DRAWN_FROM)), (6, 0), textcoords="offset points", color=colour,
                    va="center", fontsize="small")  # fmt: skip
    ax.axhline(float(exact.floor.path), color=GREY, linewidth=0.8, linestyle=":")
    ax.text(
        0.1, float(exact.floor.path) * 1.1, "floor of any control", color=INK, fontsize="small", va="bottom"
    )
    ax.set(xscale="log", yscale="log", xlabel="seconds of SVI, after compilation [s]", ylabel="gap [nats]")
    ax.margins(x=0.3)
    title(
        ax,
        "A control stays above its floor; the filter's guide begins without a gap",
        f"ten observations, H = .3; gaps below {_DRAWN_FROM:g} are drawn there",
    )
    figure.savefig(IMAGES / "fractional_gap.png", dpi=110)
    plt.close(figure)
