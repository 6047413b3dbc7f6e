"""A model run with its scan taken out: what stands around the scan, and the scan itself.

    OuterModel(model, args, kwargs).run(assign)  ->  OuterRun(sites outside the scan, ScanCall)
    run_body(call, carry, index, assign)         ->  BodyRun(sites of one step, new carry)

`assign(message)` gives a latent site its value, or None: then it is drawn. One run of the body is
one step of `numpyro.contrib.control_flow.scan`, with the same handlers in the same order.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PyTree
from numpyro import handlers
from numpyro.contrib.control_flow.scan import _subs_wrapper, scan_wrapper
from numpyro.infer.initialization import init_to_sample
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

type Assign = Callable[[dict[str, Any]], Array | None]
type Sites = dict[str, dict[str, Any]]

# Handlers that change what stands inside them, and that NumPyro's scan does not hand to its body.
_CHANGES_BODY = (handlers.mask, handlers.scale, handlers.reparam, handlers.scope, handlers.lift)


class ScanCall(NamedTuple):
    """A call of `scan`, not run.

    Attributes:
        body: f(carry, x) -> (carry, y).
        init: the first carry, as arrays.
        xs: scanned inputs, leading axis `length`.
        length: number of steps.
        substitute_stack: what `condition` and `substitute` around the scan ask of the body.
        around: handlers between the model and its scan that would change the body.
        site_names: its sample sites, in order.
    """

    body: Callable
    init: PyTree[Array]
    xs: PyTree[Array]
    length: int
    substitute_stack: list[tuple[str, Any]]
    around: list[Messenger]
    site_names: tuple[str, ...]


class OuterRun(NamedTuple):
    """A model run with the scan taken out.

    Attributes:
        sites: trace of everything outside the scan.
        scan: the call, None if the model has none.
        outputs: (last carry, stacked outputs) that the model was given in its place.
    """

    sites: Sites
    scan: ScanCall | None
    outputs: PyTree[Array]

    @property
    def call(self) -> ScanCall:
        """The scan of a model that is known to have one."""
        assert self.scan is not None
        return self.scan


class OuterModel(NamedTuple):
    """A model with its arguments, to be run without its scan.

    Attributes:
        model: the NumPyro model.
        args: positional arguments.
        kwargs: keyword arguments.
    """

    model: Callable
    args: tuple
    kwargs: dict[str, Any]

    def run(self, assign: Assign, key: Array | None = None, outputs: PyTree[Array] | None = None) -> OuterRun:
        """Run the model; latents outside the scan are what `assign` says, or drawn with `key`.

        `outputs` stand in for the results of the scan; zeros of the right shape if None.
        """
        seeded = handlers.seed(self.model, random.key(0) if key is None else key)
        capture = CaptureScan(AssignLatents(seeded, assign), outputs)
        with handlers.trace() as sites:
            capture(*self.args, **self.kwargs)
        return OuterRun(sites, capture.call, capture.outputs)

    def has_param(self) -> bool:
        """Whether a `param` or `mutable` site stands outside the scan."""
        kinds: list[str] = []
        jax.eval_shape(lambda: kinds.extend(site["type"] for site in self.run(init_to_sample).sites.values()))
        return bool({"param", "mutable"} & set(kinds))


class BodyRun(NamedTuple):
    """One step of a scan.

    Attributes:
        sites: trace of the step.
        carry: what the step hands on.
    """

    sites: Sites
    carry: PyTree[Array]


def run_body(
    call: ScanCall, carry: PyTree[Array], index: Array, assign: Assign, key: Array | None = None
) -> BodyRun:
    """Run step `index` (from 0) of a scan; its latents are what `assign` says, or drawn with `key`."""
    step = _at_index(call.body, index)
    step = handlers.seed(step, random.key(0) if key is None else key)
    for kind, values in call.substitute_stack:
        substitution = partial(_subs_wrapper, values, index, call.length)
        if kind == "condition":
            step = handlers.condition(step, condition_fn=substitution)
        elif kind == "substitute":
            step = handlers.substitute(step, substitute_fn=substitution)
    inputs = jax.tree.map(lambda leaf: leaf[index], call.xs)
    return _run_step(call, step, carry, inputs, assign)


def simulate_body(
    call: ScanCall, carry: PyTree[Array], index: Array, inputs: PyTree[Array], assign: Assign, key: Array
) -> BodyRun:
    """Run a step on inputs of its own, its observed sites drawn like its latents; `index` may lie beyond the scan."""
    step = handlers.seed(handlers.uncondition(_at_index(call.body, index)), key)
    return _run_step(call, step, carry, inputs, assign)


def _at_index(body: Callable, index: Array) -> Callable:
    return handlers.infer_config(body, config_fn=lambda msg: {"_scan_current_index": index})


def _run_step(call: ScanCall, step: Callable, carry: PyTree[Array], inputs, assign: Assign) -> BodyRun:
    # outside `condition`: what a condition observes is no latent any more
    with handlers.trace() as sites, _RefuseNestedScan(call.site_names), AssignLatents(None, assign):
        carry_after, _ = step(carry, inputs)
    return BodyRun(sites, jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), carry_after, carry))


def latent_sites(sites: Sites) -> dict[str, dict[str, Any]]:
    """The sample sites of a trace that are not observed, in order."""
    return {
        name: site for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]
    }


def sum_log_prob(sites: Iterable[dict[str, Any]]) -> Float[Array, ""]:
    """sum of log p over sample sites, with their masks and scales."""
    total = jnp.zeros(())
    for site in sites:
        # intermediates let a transformed law avoid inverting its transform; they are of a drawn value
        args = (site["intermediates"],) if site["intermediates"] else ()
        log_prob = jnp.sum(site["fn"].log_prob(site["value"], *args))
        total = total + (log_prob if site["scale"] is None else jnp.sum(site["scale"] * log_prob))
    return total


class AssignLatents(Messenger):
    """Gives latent sample sites the values that `assign` names; stands outside `seed`, whose keys it may use."""

    def __init__(self, fn: Callable | None, assign: Assign):
        self.assign = assign
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None:
            msg["value"] = self.assign(msg)


class CaptureScan(Messenger):
    """Outermost but for the trace: notes the scan instead of running it, and hands placeholders on."""

    def __init__(self, fn: Callable, outputs: PyTree[Array] | None):
        self.call: ScanCall | None = None
        self.outputs = outputs
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] != "control_flow" or msg["fn"] is not scan_wrapper:
            return
        body, init, xs, length, reverse = msg["args"]
        length = _checked_length(xs, length)
        outputs, values = _scan_shapes(body, init, xs, length, reverse, msg["kwargs"])
        self._refuse(tuple(values), reverse)
        _check_conditioned_length(values, msg["kwargs"]["substitute_stack"], length)
        if self.outputs is None:
            self.outputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)
        init = jax.tree.map(lambda leaf, shape: jnp.asarray(leaf, shape.dtype), init, outputs[0])
        inside = _PYRO_STACK[_PYRO_STACK.index(self) + 1 :]
        self.call = ScanCall(
            body, init, jax.tree.map(jnp.asarray, xs), length, list(msg["kwargs"]["substitute_stack"]),
            [handler for handler in inside if isinstance(handler, _CHANGES_BODY)], tuple(values),
        )  # fmt: skip
        carry, ys = self.outputs
        msg["value"] = (length, msg["kwargs"]["rng_key"], carry), (PytreeTrace({}), ys)

    def _refuse(self, names: tuple[str, ...], reverse: bool) -> None:
        if self.call is not None:
            raise ValueError(
                f"The model has two scans, of {list(self.call.site_names)} and of {list(names)}, and a path is made "
                "by one. Put both chains into one scan body that carries a tuple."
            )
        if reverse:
            raise ValueError(
                f"scan(..., reverse=True) of {list(names)} cannot be a path: NumPyro gives it its substituted values "
                "in iteration order and stacks them in the order of xs. Reverse xs and scan forwards."
            )


def _scan_shapes(body, init, xs, length, reverse, kwargs) -> tuple[PyTree, dict[str, tuple[int, ...]]]:
    """Shapes of (last carry, stacked outputs), and those of the values of the sample sites in the body."""
    values: dict[str, tuple[int, ...]] = {}

    def results(init, xs):
        (_, _, last_carry), (trace, ys) = scan_wrapper(body, init, xs, length, reverse, **kwargs)
        samples = {name: site for name, site in trace.trace.items() if site["type"] == "sample"}
        values.update({name: jnp.shape(site["value"]) for name, site in samples.items()})
        return last_carry, ys

    return jax.eval_shape(results, init, xs), values


def _check_conditioned_length(
    values: dict[str, tuple[int, ...]], substitute_stack: list[tuple[str, Any]], length: int
) -> None:
    """Values shorter than the scan would be followed by draws that count as observed."""
    for _, given in substitute_stack:
        for name in values.keys() & (given.keys() if isinstance(given, dict) else ()):
            shape = jnp.shape(given[name])
            if len(shape) == len(values[name]) and shape[0] != length:
                raise ValueError(
                    f"Site {name!r} is conditioned on {shape[0]} values, but the scan has {length} steps. Shorten the "
                    "scan, or leave the rest out with handlers.mask inside the body."
                )


class _RefuseNestedScan(Messenger):
    def __init__(self, site_names: tuple[str, ...]):
        self.site_names = site_names
        super().__init__()

    def process_message(self, msg):
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            raise ValueError(
                f"A scan stands inside the body of the scan of {list(self.site_names)}. Write the inner one as a "
                "Python loop or a vmap."
            )


def _checked_length(xs: PyTree[Array], length: int | None) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(xs)]
    lengths = {shape[:1] for shape in shapes} | ({(length,)} if length is not None else set())
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"The inputs of scan must share one leading length, got shapes {shapes} and length={length}."
        )
    ((only,),) = lengths
    if only < 2:
        raise ValueError(
            f"A path needs at least 2 steps, but the scan has {only} (inputs of shapes {shapes})."
        )
    return int(only)
