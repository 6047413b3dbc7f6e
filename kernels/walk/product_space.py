"""States of several finite coordinates, as one number or as packed words.

number = sum_d x_d prod_{e > d} K_e,   words = the bits of x_1, x_2, ..., ceil(log2 K_d) of each      (1)
"""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt


@dataclass(frozen=True)
class ProductSpace:
    """The product of D finite sets; coordinate d takes the values 0 to K_d - 1.

    Attributes:
        num_values: K.

    Examples:
        >>> from emberwalk.kernels.walk import ProductSpace
        >>> space = ProductSpace((3, 2))
        >>> space.num_states, int(space.number(jnp.array([2, 1])))
        (6, 5)
    """

    num_values: tuple[int, ...]

    @cached_property
    def num_states(self) -> int:
        """Their product, as large as it may be."""
        total = 1
        for k in self.num_values:
            total *= k
        return total

    @cached_property
    def strides(self) -> np.ndarray:
        """Of equation (1); for fewer than 2^31 states."""
        return np.append(np.cumprod(self.num_values[::-1])[::-1][1:], 1).astype(np.int64)

    @cached_property
    def fields(self) -> np.ndarray:
        """(word, shift, mask) of each coordinate, `[D, 3]`: none lies across two words."""
        places, bit = [], 0
        for k in self.num_values:
            width = max(1, (k - 1).bit_length())
            if bit % 32 + width > 32:
                bit += 32 - bit % 32
            places.append((bit // 32, bit % 32, (1 << width) - 1))
            bit += width
        return np.array(places, np.int64).reshape(-1, 3)

    @property
    def num_words(self) -> int:
        """W."""
        return int(self.fields[-1, 0]) + 1

    def number(self, x: Int[Array, " D"]) -> Int[Array, ""]:
        """One number for a state."""
        return jnp.sum(x * jnp.asarray(self.strides, jnp.int32), dtype=jnp.int32)

    def words(self, x: Int[Array, " D"]) -> UInt[Array, " W"]:
        """A state packed."""
        word, shift, _ = self.fields.T
        bits = x.astype(jnp.uint32) << jnp.asarray(shift, jnp.uint32)
        return jnp.zeros(self.num_words, jnp.uint32).at[word].add(bits)  # fields do not overlap

    def of_numbers(self, numbers: np.ndarray) -> Int[np.ndarray, "n D"]:
        """States of numbers, on the host."""
        return np.asarray(numbers)[:, None] // self.strides % np.asarray(self.num_values)

    def of_words(self, words: np.ndarray) -> Int[np.ndarray, "n D"]:
        """States unpacked, on the host."""
        word, shift, mask = self.fields.T
        return (np.asarray(words, np.int64)[:, word] >> shift) & mask
