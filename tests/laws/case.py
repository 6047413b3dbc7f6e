"""What the laws know of a kernel: `registry.py` has one `Case` for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def same(latents: Any) -> Any:
    """What `init` takes, where that is the latents as they are."""
    return latents


def as_started(kernel: Any, state: Any, latents: Any, args: tuple) -> Any:
    """The state of a kernel that starts where it is told."""
    return state


@dataclass(frozen=True, eq=False)
class Target:
    """What is sampled: a tiny model, a graph, whatever `run` takes as arguments.

    Attributes:
        args: arguments of `MCMC.run`.
        statistics: (latents, args) -> vector. Its mean over exact draws must not change when they move.
        exact_draw: key -> (latents, args), latents given args drawn exactly from the target. Either the
            args are always the same (conjugacy, enumeration, a grid), or the data are drawn with the
            latents from the prior: then the latents are an exact draw given those data, whatever the
            model, and statistics that join both see a wrong likelihood. None where no draw can be exact.
        nan_args: args -> args under which the density is NaN where `in_nan`; None where that cannot be.
        in_nan: latents -> whether they lie where the density is NaN.
    """

    args: tuple
    statistics: Callable[[Any, tuple], Any]
    exact_draw: Callable[[Any], tuple[Any, tuple]] | None
    nan_args: Callable[[tuple], tuple] | None = None
    in_nan: Callable[[Any], Any] | None = None


@dataclass(frozen=True, eq=False)
class Sampler:
    """A kernel on a target.

    Attributes:
        kernel: builds a fresh kernel.
        target: what it samples.
        start: latents -> `init_params` of the kernel (unconstrained where it asks for that).
        place: (kernel, state, latents, args) -> state at the latents, where `init` does not take them.
    """

    kernel: Callable[[], Any]
    target: Target
    start: Callable[[Any], Any] = same
    place: Callable[[Any, Any, Any, tuple], Any] = as_started


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel as the laws see it.

    Attributes:
        name: shown in the test id; it holds the wing's word.
        alone: the kernel by itself.
        block: a `Gibbs` that holds the kernel beside NUTS; None where it may not be a block.
        refusal: builds that `Gibbs` where `block` is None; it must raise.
        refused_with: what the ValueError then says.
        fields: the default fields it must collect.
        moves: moves of each exact draw.
        replicas: exact draws; raise it where a planted bug would not be seen.
        stationary: False for a kernel that does not leave its target invariant, by construction (an
            approximate kernel, a self-interacting walk): its own tests know its law.
        agreement: how far chain methods may differ over 10 draws in float32.
        skipped: law (its test without "test_") -> why it is not asked of this kernel, beyond what the
            other fields say.
        nightly: laws that cost too much for every run of the tests; True: all of them.
    """

    name: str
    alone: Sampler
    block: Sampler | None
    fields: tuple[str, ...]
    refusal: Callable[[], Any] | None = None
    refused_with: str = ""
    moves: int = 5
    replicas: int = 8000
    stationary: bool = True
    agreement: float = 1e-5
    skipped: dict[str, str] = field(default_factory=dict)
    nightly: frozenset[str] | bool = frozenset()
