"""The series on which state-space samplers are compared with exact answers: numpy generators, fixed seeds."""

import numpy as np
from numpy.typing import NDArray


def linear_gaussian_data(length: int) -> NDArray[np.float64]:
    """x_0 ~ N(0, 1 / .19), x_t = .9 x_{t-1} + N(0, 1), y_t = x_t + N(0, 1)."""
    g = np.random.default_rng(0)
    x = np.empty(length)
    x[0] = g.normal() / np.sqrt(1 - 0.81)
    for t in range(1, length):
        x[t] = 0.9 * x[t - 1] + g.normal()
    return x + g.normal(size=length)


def growth_data(length: int = 50) -> NDArray[np.float64]:
    """x_t = x/2 + 25x / (1 + x^2) + 8 cos(1.2 t) + sqrt(10) e_t from x_0 = sqrt(5) e_0; y = x^2 / 20 + w."""
    g = np.random.default_rng(1)
    e, w = g.normal(size=length), g.normal(size=length)
    x = np.empty(length)
    x[0] = np.sqrt(5) * e[0]
    for t in range(1, length):
        previous = x[t - 1]
        x[t] = previous / 2 + 25 * previous / (1 + previous**2) + 8 * np.cos(1.2 * t) + np.sqrt(10) * e[t]
    return x**2 / 20 + w


def counts_data(length: int = 60) -> NDArray[np.int64]:
    """x_0 ~ Poisson(20), x_t ~ Poisson(4 + .8 x_{t-1}), y_t ~ Binomial(x_t, .5)."""
    g = np.random.default_rng(2)
    x = np.empty(length, np.int64)
    x[0] = g.poisson(20.0)
    for t in range(1, length):
        x[t] = g.poisson(4 + 0.8 * x[t - 1])
    return g.binomial(x, 0.5)


def switching_data(length: int = 80) -> NDArray[np.float64]:
    """s_t a chain on {0, 1}, x_t = .9 x_{t-1} + sigma_{s_t} e_t, y_t = x_t + .5 w_t; sigma = (.2, 1.5)."""
    g = np.random.default_rng(3)
    u, e, w = g.random(length), g.normal(size=length), g.normal(size=length)
    prob_one, sigma = (0.05, 0.9), (0.2, 1.5)
    s, x = 0, 0.0
    y = np.empty(length)
    for t in range(length):
        s = int(u[t] < (1 / 3 if t == 0 else prob_one[s]))
        x = (0.9 * x if t else 0.0) + sigma[s] * e[t]
        y[t] = x + 0.5 * w[t]
    return y


def kalman_log_likelihood(y: NDArray[np.float64], phi, sx, sy=1.0):
    """log p(y; phi, sx, sy) of the linear Gaussian model in float64; parameters may be arrays of one shape."""
    mean, variance, total = 0.0, sx**2 / (1 - phi**2), 0.0
    for y_t in y:
        seen = variance + sy**2
        total = total - 0.5 * (np.log(2 * np.pi * seen) + (y_t - mean) ** 2 / seen)
        gain = variance / seen
        mean, variance = phi * (mean + gain * (y_t - mean)), phi**2 * (1 - gain) * variance + sx**2
    return total
