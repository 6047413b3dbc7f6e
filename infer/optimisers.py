"""Optimisers: what users give to a learner, as NumPyro's own kind, which all learners step with.

state = optim.init(theta);   state = optim.update(gradient, state, value=loss);   theta = optim.get_params(state)
"""

from typing import Any

from jax.example_libraries import optimizers
from numpyro.optim import Minimize, _NumPyroOptim, optax_to_numpyro


def as_numpyro_optim(optim: Any) -> _NumPyroOptim:
    """What `SVI` takes, as NumPyro's own kind of optimiser."""
    import optax

    if isinstance(optim, _NumPyroOptim) and not isinstance(optim, Minimize):
        return optim
    if isinstance(optim, optimizers.Optimizer):
        return _NumPyroOptim(lambda *functions: functions, *optim)
    if isinstance(optim, optax.GradientTransformation):
        return optax_to_numpyro(optim)
    raise TypeError(
        "optim must be an optax optimiser or one of numpyro.optim that takes a gradient a step, such as "
        f"optax.adam(0.01), got {type(optim).__name__}."
    )
