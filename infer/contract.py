"""NumPyro's kernel contract, written once.

`ChainKernel` is the parent of every kernel of ours that is no `Gibbs`: it turns functions of one
chain into what NumPyro 0.22 asks for vectorized chains, and keeps kernels picklable. `ModelKernel`
adds what kernels on the unconstrained continuous sites of a model share. A kernel says only what
is its own: `start` and `move`.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array
from numpyro.infer import init_to_uniform
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import _transforms_from_trace, initialize_model, transform_fn
from numpyro.util import is_prng_key

type InitOne = Callable[[Array, Any, tuple, dict[str, Any]], Any]
type SampleOne = Callable[[Any, tuple, dict[str, Any] | None], Any]


def num_chains_of(rng_key: Array) -> int:
    """Chains that start together: one, or as many as there are keys in a batch."""
    return 1 if is_prng_key(rng_key) else len(rng_key)


def chain_axes(state_class: type, shared_fields: tuple[str, ...]) -> Any:
    """vmap axes of a batch of states: the shared fields are one for all chains.

    A batched step counter would turn `lax.cond(i == ...)` into a select that runs both sides.
    """
    return state_class(**{f: None if f in shared_fields else 0 for f in state_class._fields})  # type: ignore[attr-defined]


class Start:
    """The first state of a kernel, compiled once for the arguments it is started with.

    A start run operation by operation compiles a hundred small programs, and its loops anew at every
    run. `Gibbs` conditions its blocks on other values each time; those are arguments of the program.
    It runs once, so that compiling is what it costs: XLA's backend is asked for a lower level of optimisation.

    Args:
        init_one: (key, init_params, model_args, model_kwargs) -> state of one chain.
        axes: `chain_axes` of the state.
        arguments: (num_warmup, model_args, model_kwargs).
        level: of optimisation, 0 to 3. Of 3 a network's start takes 10 s to compile, of 1 6 s, of 0 4 s. A sweep
            through a long series runs as fast at 1 as at 3, and nine times as long at 0.
    """

    def __init__(
        self, init_one: InitOne, axes: Any, arguments: tuple[int, tuple, dict[str, Any]], level: int = 1
    ):
        _, model_args, model_kwargs = arguments
        self._same, self._held = identity_of(arguments), arguments  # held, so that their ids stay theirs
        rest = {name: value for name, value in model_kwargs.items() if name != GIBBS_SITES_KWARG}

        def init(key, init_params, given):
            return strongly_typed(init_one(key, init_params, model_args, {**rest, **given}))

        chains = jax.vmap(init, in_axes=(0, 0, None), out_axes=axes)
        options = {"xla_backend_optimization_level": level}
        self._alone = jax.jit(init, compiler_options=options), jax.jit(chains, compiler_options=options)
        self._within = jax.jit(init), jax.jit(chains)  # of another program, whose options are its own

    def is_for(self, arguments: tuple[int, tuple, dict[str, Any]]) -> bool:
        """Whether these are the arguments it was made for, the values of a `Gibbs` apart."""
        return self._same == identity_of(arguments)

    def __call__(self, rng_key: Array, init_params: Any, model_kwargs: dict[str, Any]) -> Any:
        """State of one chain, or of the chains of a batch of keys."""
        given = (
            {GIBBS_SITES_KWARG: model_kwargs[GIBBS_SITES_KWARG]} if GIBBS_SITES_KWARG in model_kwargs else {}
        )
        one, chains = self._within if isinstance(rng_key, jax.core.Tracer) else self._alone
        return (one if is_prng_key(rng_key) else chains)(rng_key, init_params, given)


def identity_of(arguments: tuple[int, tuple, dict[str, Any]]) -> tuple:
    """What tells arguments of a model apart: which arrays, not what is in them; values of a `Gibbs` aside."""
    num_warmup, model_args, model_kwargs = arguments
    rest = {name: value for name, value in model_kwargs.items() if name != GIBBS_SITES_KWARG}
    leaves, tree = jax.tree.flatten((model_args, rest))
    return num_warmup, tree, GIBBS_SITES_KWARG in model_kwargs, *(id(leaf) for leaf in leaves)


def vectorized(
    sample_one: SampleOne, axes: Any, rng_key: Array, first_state: Any, sample_chains: SampleOne | None = None
) -> SampleOne:
    """`sample_one` for the chains that `rng_key` was for: one, or a batch; it takes states like the first.

    Args:
        sample_one: next state of one chain.
        axes: `chain_axes` of the state.
        rng_key: one key, or one a chain.
        first_state: of that chain, or of those.
        sample_chains: next states of a batch, where a kernel has better than `jax.vmap(sample_one)`.
    """
    made = _shapes(first_state)

    together = sample_chains or jax.vmap(sample_one, in_axes=(axes, None, None), out_axes=axes)
    move = sample_one if is_prng_key(rng_key) else together

    def checked(state, model_args, model_kwargs):
        _check_made_here(_shapes(state), made)
        return strongly_typed(move(state, model_args, model_kwargs))

    return checked


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its name; keys apart, which may be of any kind."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    return {name: shape for name, shape in leaves.items() if not name.endswith("rng_key")}


def _check_made_here(given: dict[str, tuple[int, ...]], made: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(given.keys() | made.keys()):
        if given.get(name) != made.get(name):
            raise ValueError(
                f"The state (post_warmup_state) is not one of this kernel, model and number of chains: field {name} "
                f"has shape {given.get(name, 'nothing')}, where the kernel makes {made.get(name, 'nothing')}. "
                "Continue from a state of the same MCMC, or warm up again."
            )


def strongly_typed(state: Any) -> Any:
    """The state, every leaf of it an array of a type that does not give way to another's.

    A block may hold one that does (HMC with `num_steps` hands on that Python number, once it has moved):
    the first state would be of another type than the next, and the loop over them compile twice.
    """
    return jax.tree.map(_strong, state)


def _strong(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return array if is_key else lax.convert_element_type(array, array.dtype)


def start_again(
    state: Any,
    failed: Array,
    again: Callable[[Array, Any], Any],
    rng_key: Array,
    init_params: Any,
    shared: tuple[str, ...],
) -> Any:
    """The state with its failed chains started again, one by one and in the open.

    Inside a compiled start nothing can be seen: a chain that failed there says so in its state.

    Args:
        state: of one chain or a batch.
        failed: whether each chain failed; not looked at while it is traced.
        again: (key, init_params) -> state of one chain; raises what is to be raised.
        rng_key: of the first start.
        init_params: of the first start.
        shared: fields that all chains share.
    """
    if isinstance(failed, jax.core.Tracer) or not np.any(failed):
        return state
    if is_prng_key(rng_key):
        return strongly_typed(again(rng_key, init_params))
    kept = dict.fromkeys(shared)
    for chain in np.flatnonzero(failed):
        one = again(rng_key[chain], jax.tree.map(partial(_row, chain=int(chain)), init_params))
        put = partial(_put_row, chain=int(chain))
        state = jax.tree.map(put, state._replace(**kept), one._replace(**kept))._replace(
            **{name: getattr(state, name) for name in shared}
        )
    return state


def first_chain(rng_key: Array, init_params: Any) -> tuple[Array, Any]:
    """Key and initial values of the first chain."""
    if is_prng_key(rng_key):
        return rng_key, init_params
    return rng_key[0], jax.tree.map(partial(_row, chain=0), init_params)


def _row(leaf: Array, chain: int) -> Array:
    return leaf[chain]


def _put_row(batch: Array, one: Array, chain: int) -> Array:
    return batch.at[chain].set(one)


def holds_tracers(kernel: MCMCKernel) -> bool:
    """Whether what a kernel noted in a compiled start would outlive its trace.

    A support with an array in it (`Uniform(jnp.zeros(3), 1.0)`) leaves a tracer in the transforms.
    """
    noted = jax.tree.leaves(getattr(kernel, "_inv_transforms", None))
    return any(isinstance(leaf, jax.core.Tracer) for leaf in noted)


class ChainKernel(MCMCKernel):
    """Base of every kernel of ours that is no `Gibbs`.

    Attributes:
        state_class: NamedTuple type of the state of one chain; it has `rng_key`.
        shared_fields: state fields that all vectorized chains share, such as the step counter.
        fresh: attributes that a start sets anew, with their value before it; they are not pickled
            and not carried to a copy for another model.
        start_level: see `Start`.
        sample_chains: see `vectorized`.
    """

    sample_field = "z"
    state_class: type
    shared_fields: tuple[str, ...] = ("i",)
    start_level = 1
    sample_chains: SampleOne | None = None
    fresh: dict[str, Any] = {"_sample_fn": None, "_start": None}  # noqa: RUF012, never written to

    def __init__(self) -> None:
        self._num_warmup = 0
        self.__dict__.update(self.fresh)

    @abstractmethod
    def init_one(
        self, rng_key: Array, init_params: Any, model_args: tuple, model_kwargs: dict[str, Any]
    ) -> Any:
        """First state of one chain; it keeps a key."""

    @abstractmethod
    def sample_one(self, state: Any, model_args: tuple, model_kwargs: dict[str, Any] | None) -> Any:
        """Next state of one chain; counts its own iterations in `state.i`."""

    def failed(self, state: Any) -> Array:
        """Whether a start failed, for each chain of `state`."""
        return jnp.zeros(jnp.shape(state.rng_key)[:1], bool)

    def init_again(
        self, rng_key: Array, init_params: Any, model_args: tuple, model_kwargs: dict[str, Any]
    ) -> Any:
        """Another try at the first state of one chain whose start failed; may raise."""
        return self.init_one(rng_key, init_params, model_args, model_kwargs)

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """First state of a chain, or of a batch of chains where `rng_key` is a batch of keys."""
        self._num_warmup = num_warmup
        model_kwargs = dict(model_kwargs or {})
        arguments = (num_warmup, model_args, model_kwargs)
        axes = chain_axes(self.state_class, self.shared_fields)
        if self._start is None or not self._start.is_for(arguments):
            self._start = Start(self.init_one, axes, arguments, self.start_level)
        state = self._start(rng_key, init_params, model_kwargs)
        if holds_tracers(self):
            one_key, one_start = first_chain(rng_key, init_params)
            self.init_one(one_key, one_start, model_args, model_kwargs)
        self._sample_fn = vectorized(self.sample_one, axes, rng_key, state, self.sample_chains)
        again = partial(self.init_again, model_args=model_args, model_kwargs=model_kwargs)
        return start_again(state, self.failed(state), again, rng_key, init_params, self.shared_fields)

    def sample(self, state, model_args, model_kwargs):
        """Next state; `init` comes first."""
        return self._sample_fn(state, model_args, model_kwargs)

    def wrap_model(self, wrapper: Callable) -> "ChainKernel":
        """A copy on `wrapper(model)`, as `Gibbs` asks for it of a kernel with a model."""
        wrapped = copy.copy(self)
        wrapped._model = wrapper(self._model)  # type: ignore[attr-defined]
        wrapped.__dict__.update(self.fresh)
        return wrapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **self.fresh}


class ModelKernel(ChainKernel):
    """Base of every kernel on the unconstrained continuous sites `z` of a model.

    A kernel defines `start` and `move`; blocks of `Gibbs` and the change to constrained values are
    here.

    Args:
        model: a NumPyro model whose latent sites are continuous.
        init_strategy: as in NumPyro.
    """

    start_level = 0  # a density or two
    fresh: dict[str, Any] = {  # noqa: RUF012
        **ChainKernel.fresh, "_potential_fn_gen": None, "_postprocess_fn": None, "_inv_transforms": None,
    }  # fmt: skip

    def __init__(self, model: Callable[..., Any], *, init_strategy: Callable = init_to_uniform):
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}.")
        self._model, self._init_strategy = model, init_strategy

    @property
    def model(self) -> Callable[..., Any]:
        """The model, as `Gibbs` asks for it."""
        return self._model

    @abstractmethod
    def start(self, rng_key: Array, z: dict[str, Array], potential_fn: Any) -> Any:
        """First state of one chain at `z`; it keeps `rng_key`."""

    @abstractmethod
    def move(self, state: Any, potential_fn: Any) -> Any:
        """Next state of one chain; counts its own iterations in `state.i`."""

    def init_one(self, rng_key, init_params, model_args, model_kwargs):
        """See `ChainKernel`."""
        key_model, key_chain = random.split(rng_key)
        info, self._potential_fn_gen, self._postprocess_fn, trace = initialize_model(
            key_model, self.model_to_start(model_args, model_kwargs), dynamic_args=True,
            init_strategy=self._init_strategy, model_args=model_args, model_kwargs=model_kwargs,
        )  # fmt: skip
        self._inv_transforms = _transforms_from_trace(trace, raise_warnings=False).inv_transforms
        if init_params is None:
            z = info.z
        elif GIBBS_SITES_KWARG in model_kwargs:  # Gibbs hands its blocks constrained values
            z = transform_fn(self._inv_transforms, init_params, invert=True)
        else:
            z = init_params
        return self.start(key_chain, z, self.potential(model_args, model_kwargs))

    def sample_one(self, state, model_args, model_kwargs):
        """See `ChainKernel`."""
        return self.move(state, self.potential(model_args, model_kwargs or {}))

    def model_to_start(self, model_args: tuple, model_kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The model for which NumPyro finds a first value."""
        return self._model

    def potential(self, model_args: tuple, model_kwargs: dict[str, Any]) -> Any:
        """What `start` and `move` are given: the function z -> potential energy."""
        return self._potential_fn_gen(*model_args, **model_kwargs)

    def postprocess_fn(self, model_args, model_kwargs):
        """Unconstrained to constrained values, deterministic sites included."""
        return self._postprocess_fn(*model_args, **(model_kwargs or {}))

    def get_constrain_fn(self, model_args, model_kwargs):
        """Unconstrained to constrained values of the sites alone."""
        return partial(transform_fn, self._inv_transforms)

    def refresh(self, state, model_args, model_kwargs):
        """The potential at `state.z` for what the model is now conditioned on."""
        potential_fn = self._potential_fn_gen(*model_args, **(model_kwargs or {}))
        return state._replace(potential_energy=potential_fn(state.z))
