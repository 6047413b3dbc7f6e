"""Draws of quantities that follow from rates, and what is said of them.

What a reader would get wrong: a draw in which a state is not reached is infinite; it is counted, and never left out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False, repr=False)
class DerivedDraws:
    """Draws of a quantity that follows from the rates.

    Attributes:
        values: `[num_draws, ...]`, in the order of the draws: at the same place of each quantity the same rates.

    Examples:
        >>> from emberwalk.infer import DerivedDraws
        >>> draws = DerivedDraws(np.array([1.0, 2.0, 3.0, np.inf]))
        >>> draws.num_infinite, draws.interval(0.5).tolist()
        (1, [1.0, 3.0])
    """

    values: Float[np.ndarray, "draws *shape"]

    @property
    def num_infinite(self) -> int:
        """Draws in which some value is infinite: a link is there in one direction alone, or a state is not reached."""
        return int(np.isinf(self.values).reshape(len(self.values), -1).any(1).sum())

    @property
    def mean(self) -> Float[np.ndarray, "*shape"]:
        """Over the draws; infinite where one of them is."""
        return self.values.mean(0)

    @property
    def sd(self) -> Float[np.ndarray, "*shape"]:
        """Over the draws; infinite where one of them is."""
        infinite = np.isinf(self.values).any(0)
        return np.where(infinite, np.inf, np.where(infinite, 0, self.values).std(0))

    def interval(self, prob: float = 0.9) -> Float[np.ndarray, "2 *shape"]:
        """The central interval that holds a share of the draws, `[2, ...]`: its lower and its upper end.

        Args:
            prob: the share, between 0 and 1.

        Raises:
            ValueError: another share.
        """
        if not 0 < prob < 1:
            raise ValueError(f"prob must be between 0 and 1, got {prob!r}.")
        # single draws, not points between them: between two infinite ones there is none
        return np.quantile(self.values, [(1 - prob) / 2, (1 + prob) / 2], axis=0, method="inverted_cdf")

    def __repr__(self) -> str:
        low, high = self.interval(0.9)
        infinite = f", {self.num_infinite} of them infinite" if self.num_infinite else ""
        with np.printoptions(precision=4, suppress=True):
            return f"mean\n{self.mean}\n90 % interval from\n{low}\nto\n{high}\n{len(self.values)} draws{infinite}"


@dataclass(frozen=True, eq=False, repr=False)
class RelaxationDraws(DerivedDraws):
    """Draws of relaxation times, the longest first.

    Attributes:
        oscillating: `[n - 1]`, the share of draws in which a time is one of a complex pair, which turns as it decays.
    """

    oscillating: Float[np.ndarray, " m"]
