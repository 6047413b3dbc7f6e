"""`ScoreAscent`: maximum likelihood, or the posterior mode, of the parameters of a state-space model.

    theta_k = theta_{k-1} + update(S_k),   S_k the score by conditional sweeps at theta_{k-1}        (1)

`score.py` makes S_k, `ascent.py` the loop. The path of the last sweep is the reference of the next:
theta moves little in a step, so that the path stays nearly a draw of p(x | y; theta), and the score
is nearly without bias for any number of particles. Cardoso and others (2023).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import random
from jaxtyping import Array

from ...kernels.smc import Path, SweepResult, unconditional_sweep
from ...kernels.smc.paris import PARIS, Paris
from ...kernels.smc.types import check_count
from .ascent import Ascent, Bound, Step, check_model
from .capture import OuterModel
from .parameters import OBJECTIVES, ParametricModel, find_parameters
from .particle_gibbs import sweep_with_more
from .path_model import SiteValues
from .score import SCORES, Score, SweepOptions, score_of_sweeps
from .structure import check_path_move


class ScoreAscent(Ascent):
    """Maximum likelihood or MAP for a state-space model, by stochastic gradient ascent along its score.

    The score grad log p(y; theta) is the smoothed mean of the gradient of the log joint density (Fisher's
    identity), here from conditional particle filters (equation 1; Cardoso and others 2023). `init`,
    `update` and `run` are those of NumPyro's `SVI`; `losses` are -log_evidence of the sweeps, noisy
    and about half the variance of log Zhat below -log p(y; theta).

    Args:
        model: a NumPyro model with one `scan` or one `StateSpace` site.
        optim: an optax optimiser, or one that `SVI` takes; it steps in unconstrained coordinates.
            `optax.adam(0.02, b2=0.97)` finds the neighbourhood of the optimum in a few hundred steps, and
            the mean of the last iterates has little of its noise: the default b2 remembers the large
            first gradients for a thousand steps and held phi at .889 after 600, where the optimum was .897.
            Steps that decrease to nothing (`optax.exponential_decay(0.05, 100, 0.5)`) make the rest vanish.
        num_particles: N >= 2. 16 to 64 for states of one or two dimensions: N decides the noise of a
            step more than its bias.
        objective: "mle" learns `numpyro.param` sites; "map" learns the latent sample sites outside
            the path, at the mode of their density in constrained space as `AutoDelta` does (and
            `param` sites beside them).
        score: "paris" smooths the gradient on the clouds (M N gradients a time; the path must have Markov
            order 1); "path" takes one gradient at the drawn path, all times at once: cheaper and
            noisier, by 1.5 at N = 25 and by 2.3 at N = 100 for the lag products of an autoregression.
            "path" is for large models, such as networks, and for other orders.
        num_sweeps: conditional sweeps a step. 1 is best where steps are small; more of them with
            `burn_in` where the path lags behind the parameters.
        burn_in: how many of them are left out of the score.
        average: share of the last iterates whose mean is the result; 0 takes the last one alone.
        paris: backward kernel of the statistic, "imh", "dense", or "auto" for the faster.
        num_backward: backward draws a particle of "imh", M.

    Raises:
        ValueError, TypeError: for arguments that cannot be meant, at once; for a model without a path,
            without parameters, or with latent sites that nothing moves, when it begins.
        RuntimeError: if no particle can explain the data at the first parameters.

    Examples:
        >>> import optax
        >>> from emberwalk.infer import ScoreAscent
        >>> from emberwalk.models import StateSpace, emission
        >>> def linear(y):
        ...     phi = numpyro.param("phi", 0.5, constraint=dist.constraints.interval(-1, 1))
        ...     x = numpyro.sample("x", StateSpace(
        ...         dist.Normal(0.0, 1.0), lambda prev, t: dist.Normal(phi * prev, 1.0), y.shape[0]))
        ...     numpyro.sample("y", emission(lambda x_t, t: dist.Normal(x_t, 1.0), x), obs=y)
        >>> ascent = ScoreAscent(linear, optax.adam(0.02), num_particles=8)
        >>> mle = ascent.run(random.key(0), 5, jnp.array([1.5, -0.5, 2.0]), progress_bar=False)
        >>> mle.losses.shape, list(mle.params)
        ((5,), ['phi'])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        optim: Any,
        num_particles: int = 64,
        *,
        objective: str = "mle",
        score: Score = "paris",
        num_sweeps: int = 1,
        burn_in: int = 0,
        average: float = 0.5,
        paris: Paris = "auto",
        num_backward: int = 2,
    ):
        check_count("num_particles", num_particles, 2)
        for argument, value, allowed in (
            ("objective", objective, OBJECTIVES), ("score", score, SCORES), ("paris", paris, PARIS)
        ):  # fmt: skip
            if value not in allowed:
                raise ValueError(f"{argument} must be one of {allowed}, got {value!r}.")
        check_count("num_sweeps", num_sweeps, 1)
        check_count("burn_in", burn_in, 0)
        check_count("num_backward", num_backward, 1)
        if burn_in >= num_sweeps:
            raise ValueError(
                f"burn_in={burn_in} leaves none of num_sweeps={num_sweeps} for the score. Raise num_sweeps."
            )
        if isinstance(average, bool) or not isinstance(average, int | float) or not 0 <= average <= 1:
            raise ValueError(f"average must be a share between 0 and 1, got {average!r}.")
        super().__init__(optim, average)
        self.model, self.objective = check_model(model), objective
        self.options = SweepOptions(
            num_particles, score, num_sweeps, burn_in, paris=paris, num_backward=num_backward
        )

    def bind(self, args: tuple, kwargs: dict[str, Any]) -> Bound:
        """See `Ascent`."""
        model = find_parameters(OuterModel(self.model, args, kwargs), self.objective)
        if self.options.score == "paris" and model.path.order != 1:
            raise ValueError(
                f'score="paris" needs a path of Markov order 1, but that of {list(model.path.sites)} has order '
                f'{model.path.order}. Use score="path".'
            )
        path_move = check_path_move(model.path, "backward")
        return _BoundScore(model, self.options._replace(path_move=path_move))


class _BoundScore(Bound):
    def __init__(self, model: ParametricModel, options: SweepOptions):
        self.model, self.options = model, options
        self._first_theta = jax.jit(model.first)
        self._first_sweep = jax.jit(self._sweep, static_argnums=0)

    def first(self, key: Array, given: SiteValues) -> tuple[SiteValues, Path]:
        """theta, and a path from an unconditional filter at it."""
        unknown = [name for name in given if name not in self.model.parameters]
        if unknown:
            raise ValueError(
                f"init_params={unknown} are no parameters of the model; those are {list(self.model.parameters)}."
            )
        key_theta, key_path = random.split(key)
        theta, num = self._first_theta(key_theta, given), self.options.num_particles
        sweep = self._first_sweep(num, key_path, theta)
        if not isinstance(sweep.num_nonfinite, jax.core.Tracer) and sweep.num_nonfinite > 0:
            again = partial(self._sweep, theta=theta)
            sweep = sweep_with_more(again, num, key_path, self.model.at(theta), self.model.path)
        return theta, sweep.path

    def _sweep(self, num: int, key: Array, theta: SiteValues) -> SweepResult:
        return unconditional_sweep(key, self.model.ssm(theta), num, path_move=self.options.path_move)

    def step(self, key: Array, theta: SiteValues, chain: Path) -> Step:
        """See `Bound`."""
        found = score_of_sweeps(key, self.model, theta, chain, self.options)
        gradient = jax.tree.map(lambda leaf: -leaf, found.score)
        return Step(gradient, -found.log_evidence, found.path, found.num_nonfinite)

    def constrained(self, theta: SiteValues) -> SiteValues:
        """See `Bound`."""
        return self.model.constrained(theta)
