"""`DeepEnsemble`: optima of a model's density, each found by itself, as draws.

    z_m = argmin U_0(z),    m = 1, ..., M,    U_0 the limit T -> 0 of the tempered potentials       (1)
    "posterior"     U_0 = U_prior + U_lik     the mode of the constrained density p(x, y)
    "likelihood"    U_0 = U_lik               maximum likelihood: the prior says only where to start

The Jacobian of the support transforms, whose weight is T (`tempering.py`), is gone: a scale under Gamma(3, 1)
without data ends at 2, the mode of its density, and not at 3, that of the density of its logarithm. Members differ
by where they start, by the order of their batches and, with a bootstrap, by their data (Lakshminarayanan,
Pritzel and Blundell 2017).

What a reader would get wrong: members are no posterior draws. Where the density has one mode they all end there,
however wide it is; of a network their spread is that of its modes alone. `rescale_factor` says what it is worth.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, Key
from numpyro.infer import init_to_uniform

from ..contract import identity_of
from ..datatree import build_tree
from ..optimisers import as_numpyro_optim
from .bootstrap import resampled
from .bound import bind
from .kernel import TEMPERINGS, check_at_least, check_choice
from .members import MemberPrograms, optimised
from .minibatch import BATCHINGS, Batching
from .rows import HostRows
from .target import Values
from .tempering import Tempering

if TYPE_CHECKING:
    import xarray as xr


class DeepEnsemble:
    """M optima of a NumPyro model, found together by stochastic gradients: the baseline of SG-MCMC.

    The model is one that `SGMCMC` takes, with the rows of a batch those of its `plate(..., subsample_size=b)`.
    The loss is the sum over all rows, not their mean: it matters to optimisers that are not scale-free, SGD for one.

    Args:
        model: the NumPyro model; its latent sites continuous and outside the subsampled plates.
        optim: an optax optimiser, or one that `SVI` takes; it steps in unconstrained coordinates. Batches have
            noise: let its step fall towards 0 (`optax.cosine_decay_schedule`) where optima are to be exact.
        num_members: M. The mean of 4 to 8 is most of what more would give; spreads need more (`rescale_factor`).
        init_strategy: as in NumPyro, a key of its own for each member; for networks `init_to_module`.
        tempering: what is maximised, equation (1): "posterior" or "likelihood".
        batching: "epoch" for a new order of all rows in each epoch, or "replacement".
        data: `HostRows` for data larger than memory; its arrays are then arguments of the model that are not
            given to `run`.
        bootstrap: whether each member has N rows of its own, drawn from all N with replacement, in every subsampled
            plate: members then differ also where there is one mode, as the data would have it.

    Raises:
        ValueError, TypeError: for arguments that cannot be meant, at once; for models that `SGMCMC` cannot
            sample either, and a bootstrap of a model without a subsampled plate, by `run`.

    Examples:
        >>> import optax
        >>> from emberwalk.infer import DeepEnsemble
        >>> def model(y, b=20):
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", len(y), subsample_size=b):
        ...         numpyro.sample("y", dist.Normal(m, 1.0), obs=numpyro.subsample(y, event_dim=0))
        >>> ensemble = DeepEnsemble(model, optax.adam(0.1), num_members=3)
        >>> ensemble = ensemble.run(random.key(0), 200, jnp.ones(99), progress_bar=False)
        >>> [round(float(m), 2) for m in ensemble.get_samples()["m"]]  # 99 / (99 + 1)
        [0.99, 0.99, 0.99]
        >>> ensemble.losses.shape
        (3, 200)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        optim: Any,
        num_members: int,
        *,
        init_strategy: Callable = init_to_uniform,
        tempering: Tempering = "posterior",
        batching: Batching = "epoch",
        data: HostRows | None = None,
        bootstrap: bool = False,
    ):
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}.")
        check_at_least("num_members", num_members, 1)
        check_choice("tempering", tempering, TEMPERINGS)
        check_choice("batching", batching, BATCHINGS)
        if data is not None and not isinstance(data, HostRows):
            raise TypeError(f"data must be a HostRows, got {type(data).__name__}.")
        self.model = model if data is None else partial(model, **data.first_rows())
        self.optim, self.num_members, self.init_strategy = as_numpyro_optim(optim), num_members, init_strategy
        self.tempering, self.batching, self.data, self.bootstrap = tempering, batching, data, bootstrap
        self._programs: MemberPrograms | None = None
        self._same: tuple | None = None
        self._found: _Found | None = None

    def run(
        self, rng_key: Key[Array, ""], num_steps: int, *args: Any, progress_bar: bool = True, **kwargs: Any
    ) -> "DeepEnsemble":
        """Finds the members anew. A second run with the same arguments (the same arrays) compiles nothing.

        Args:
            rng_key: of starts, batches and bootstraps; split into one key a member.
            num_steps: gradients of each member. An epoch has N // b.
            args: of the model, as `kwargs` are.
            progress_bar: whether to show one, with the mean loss of the last steps and its range over members.
            kwargs: of the model.

        Returns:
            The ensemble itself.

        Raises:
            ValueError: for a `num_steps` below 1, and for models that cannot be optimised so.
        """
        check_at_least("num_steps", num_steps, 1)
        programs = self._programs_for(args, kwargs)
        members = programs.start(random.split(rng_key, self.num_members))
        members, losses = optimised(programs, members, num_steps, progress_bar)
        z, samples = programs.values(members)
        self._found = _Found(z, samples, losses, np.asarray(members.num_nonfinite))
        _warn_of_refusals(self._found.num_nonfinite, num_steps)
        return self

    @property
    def losses(self) -> Float[np.ndarray, "member step"]:
        """U_0 of each member before each step, estimated on its batch."""
        return self._result().losses

    def get_samples(self, group_by_chain: bool = False) -> Values:
        """Constrained values of the latent sites, `(member, ...)`, for `predict` and NumPyro's `Predictive`.

        Args:
            group_by_chain: whether each member is a chain of one draw, `(member, 1, ...)`.
        """
        samples = self._result().samples
        return jax.tree.map(lambda leaf: leaf[:, None], samples) if group_by_chain else samples

    def init_params(self, num_chains: int) -> Values:
        """Unconstrained values for `mcmc.run(..., init_params=...)`, each chain at a member of its own.

        Args:
            num_chains: of the `MCMC`, at most as many as members; its first axis, which one chain has not.
        """
        check_at_least("num_chains", num_chains, 1)
        if num_chains > self.num_members:
            raise ValueError(
                f"num_chains must be at most the {self.num_members} members, got {num_chains}: two chains that start "
                "at one member say nothing of its neighbours. Raise num_members."
            )
        z = self._result().z
        return jax.tree.map(lambda leaf: leaf[0] if num_chains == 1 else leaf[:num_chains], z)

    def to_datatree(self, **kwargs: Any) -> "xr.DataTree":
        """The members as chains of one draw, and their losses in a group `optimization`; as `to_datatree(self)`.

        Args:
            kwargs: as for `emberwalk.infer.to_datatree`.
        """
        self._result()
        return build_tree(_AsRun(self), **kwargs)

    def _programs_for(self, args: tuple, kwargs: dict[str, Any]) -> MemberPrograms:
        """Those of the last run where its arguments were the same; the target holds them, so that their ids stay."""
        same = identity_of((0, args, kwargs))
        if self._programs is None or self._same != same:
            bound = bind(
                self.model, args, kwargs, tempering=self.tempering, batching=self.batching, data=self.data
            )
            if self.bootstrap:
                bound = bound._replace(target=resampled(bound.target))
            self._programs = MemberPrograms(bound, self.optim, self.init_strategy, self.num_members)
            self._same = same
        return self._programs

    def _result(self) -> "_Found":
        if self._found is None:
            raise RuntimeError("This DeepEnsemble has not run: call its run method first.")
        return self._found


class _Found(NamedTuple):
    """Result of a run; leading axis the members."""

    z: Values
    samples: Values
    losses: Float[np.ndarray, "member step"]
    num_nonfinite: Int[np.ndarray, " member"]


def _warn_of_refusals(num_nonfinite: Int[np.ndarray, " member"], num_steps: int) -> None:
    refused = [f"{num_nonfinite[m]} of member {m}" for m in np.flatnonzero(num_nonfinite)]
    if refused:
        warnings.warn(
            f"Of {num_steps} steps a member, those were refused whose loss, gradient or end was NaN or infinite: "
            f"{', '.join(refused)}. Take smaller steps (optim), start elsewhere (init_strategy), or look for log(0) or "
            "an overflow in the model.",
            UserWarning,
            stacklevel=3,
        )


class _AsRun:
    """An ensemble as `datatree.py` reads a run."""

    sample_field = "z"

    def __init__(self, ensemble: DeepEnsemble):
        self.sampler, self.model, self.ensemble = self, ensemble.model, ensemble
        target = ensemble._programs.bound.target  # type: ignore[union-attr]
        self._args, self._kwargs = target.model_args, target.model_kwargs
        self.get_samples = ensemble.get_samples

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, Any]:
        return {"num_nonfinite": self.ensemble._result().num_nonfinite[:, None]}

    def groups(self, run: Any) -> "dict[str, xr.Dataset]":
        import xarray as xr

        losses = self.ensemble.losses
        coords = {"chain": np.arange(losses.shape[0]), "step": np.arange(losses.shape[1])}
        return {"optimization": xr.Dataset({"loss": (("chain", "step"), losses)}, coords=coords)}
