"""Targets of a walk on a graph as users give them, and whether the base chain has to be made lazy for them."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .graph import Graph, named
from .row_table import Base, is_periodic

type GraphTarget = Literal["uniform", "degree"] | ArrayLike | Mapping[Any, float] | Callable

LAZY = 0.1


def log_target(graph: Graph, target: GraphTarget) -> Float[np.ndarray, " N"] | None:
    """log mu of every node, unnormalised; None for a uniform target.

    Args:
        graph: to walk on.
        target: "uniform"; "degree"; positive weights `[N]`; a dict from label to weight; or a function of the node
            numbers `[N]` that returns LOG weights, called once.

    Raises:
        ValueError: weights of another length, not above 0 or not finite, by the label; a dict that misses nodes.

    Examples:
        >>> from emberwalk.kernels.walk import from_edges, log_target
        >>> log_target(from_edges([(0, 1), (1, 2)]), "degree").round(3).tolist()
        [0.0, 0.693, 0.0]
    """
    if isinstance(target, str):
        if target not in ("uniform", "degree"):
            raise ValueError(
                f'target must be "uniform", "degree", weights, a dict or a function, got {target!r}.'
            )
        return None if target == "uniform" else np.log(graph.degree)
    if callable(target):
        log_mu = np.asarray(target(np.arange(graph.num_nodes)), np.float64)
        _check(
            graph,
            log_mu,
            log_mu,
            np.isfinite(log_mu) if log_mu.ndim else np.array(False),
            "finite log weights",
        )
        return log_mu
    weights = node_values(graph, target, "target")
    _check(graph, weights, weights, np.isfinite(weights) & (weights > 0), "finite weights above 0")
    return np.log(weights)


def node_values(graph: Graph, values: Any, name: str) -> Float[np.ndarray, "N *shape"]:
    """One value a node, from an array or a dict by label."""
    if not isinstance(values, Mapping):
        array = np.asarray(values, np.float64)
        if array.shape[:1] != (graph.num_nodes,):
            raise ValueError(
                f"{name} must have one value a node, {graph.num_nodes}, got shape {array.shape}."
            )
        return array
    missing = np.flatnonzero([label not in values for label in graph.labels.tolist()])
    if missing.size:
        raise ValueError(f"{name} misses {missing.size} nodes: {named(graph, missing)}.")
    return np.array([values[label] for label in graph.labels.tolist()], np.float64)


def laziness(
    graph: Graph, log_mu: Float[np.ndarray, " N"] | None, base: Base, lazy: float | Literal["auto"]
) -> float:
    """The laziness in force: what is given, or for "auto" .1 where the base chain swings between two sides.

    Warns in both cases of a chain that swings.
    """
    periodic = is_periodic(graph, log_mu, base)
    if lazy == "auto":
        if periodic:
            warnings.warn(
                f"graph: the base chain swings between the two sides of a bipartite graph; lazy={LAZY} was put on it. "
                "Pass lazy=0 to keep it.",
                stacklevel=3,
            )
        return LAZY if periodic else 0.0
    if not isinstance(lazy, (int, float, np.number)):
        raise TypeError(f'lazy must be "auto" or a number, got {lazy!r}.')
    if periodic and lazy == 0:
        warnings.warn(
            "lazy=0: the base chain swings between the two sides of a bipartite graph. Averages are right; single "
            "draws alternate between the sides.",
            stacklevel=3,
        )
    return float(lazy)


def _check(graph: Graph, values: np.ndarray, weights: np.ndarray, good: np.ndarray, what: str) -> None:
    if values.shape != (graph.num_nodes,):
        raise ValueError(f"target must give one weight a node, {graph.num_nodes}, got shape {values.shape}.")
    bad = np.flatnonzero(~good)
    if bad.size:
        raise ValueError(f"target must be {what}: node {graph.labels[bad[0]]} has {weights[bad[0]]}.")
