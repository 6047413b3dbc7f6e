"""What a chain says of the temperature that it samples at.

    T_kin  = p . M^-1 p / d                                                                       (1)
    T_conf = (z - z_c) . g / d,      E T_conf = T for any fixed z_c                               (2)
    r      = f V,                    T_effective = T (1 + r) where the scheme is exact            (3)

per leaf, of d elements. (1) has its exact mean just before the momentum is refreshed (BAOAB, SGNHT: T), and
after the step 2 T / ((1 + b) D) for SGHMC. (2) has least noise where z_c is the mean of z: at z_c = 0 it is
larger by |z| / sd. V is the variance of the gradient of U, not of U / T; f is the algorithm's own. None of
them is a proof that the chain has converged.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def kinetic_temperature(momentum: Any, masses: Any) -> Any:
    """Equation (1) for each leaf.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import kinetic_temperature
        >>> float(kinetic_temperature(jnp.array([1.0, 3.0]), jnp.array(2.0)))
        2.5
    """
    return jax.tree.map(lambda p, m: jnp.mean(p**2 / m), momentum, masses)


def configurational_temperature(position: Any, centre: Any, gradient: Any) -> Any:
    """Equation (2) for each leaf; the gradient is at that position, of a minibatch that did not move it.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import configurational_temperature
        >>> float(configurational_temperature(jnp.array([1.0, 3.0]), jnp.array(2.0), jnp.array([-1.0, 1.0])))
        1.0
    """
    return jax.tree.map(lambda z, c, g: jnp.mean((z - c) * g), position, centre, gradient)


def noise_ratio(factor: Any, variance: Any, temperature: Float[Array, ""]) -> Any:
    """Equation (3) for each leaf: the mean over its elements.

    Args:
        factor: `algorithm.noise_factor(state)`.
        variance: V of each element.
        temperature: T; where it is 0 the ratio is infinite.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import noise_ratio
        >>> float(noise_ratio(jnp.array(0.5), jnp.array([0.5, 1.5]), jnp.array(0.25)))
        2.0
    """
    return jax.tree.map(lambda f, v: jnp.mean(f * v) / temperature, factor, variance)


def temperature_interval(temperature: float, size: int, share: float = 0.99) -> tuple[float, float]:
    """Where T_kin of `size` independent elements lies with probability `share`: T chi2_d / d.

    Examples:
        >>> from emberwalk.kernels.sgmcmc import temperature_interval
        >>> low, high = temperature_interval(0.1, size=1000)
        >>> round(low, 4), round(high, 4)
        (0.0889, 0.1119)
    """
    from scipy.stats import chi2

    tail = (1 - share) / 2
    low, high = chi2(size).ppf([tail, 1 - tail]) / size
    return float(temperature * low), float(temperature * high)
