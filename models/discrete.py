"""Models whose latent sites are all discrete: spins in a field, and variables in or out of a regression."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve
from jaxtyping import Array, Float


def ising(couplings: Float[Array, "D D"], fields: Float[Array, " D"]) -> None:
    """Spins s in {-1, 1} with log p(s) = s' J s + h' s + constant; the site `up` is (s + 1) / 2.

    Args:
        couplings: J; only s' J s matters, so that a triangle will do.
        fields: h.

    Examples:
        >>> from emberwalk.infer import SRRW, support_average
        >>> from emberwalk.models import ising
        >>> options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
        >>> mcmc = MCMC(SRRW(ising), num_warmup=10, num_samples=200, **options)
        >>> mcmc.run(random.key(0), jnp.zeros((3, 3)), jnp.array([0.0, 0.5, 1.0]))
        >>> up = support_average(mcmc, lambda sites: sites["up"], method="distinct").mean
        >>> bool(abs(up[2] - 1 / (1 + jnp.exp(-2.0))) < 1e-5)
        True
    """
    with numpyro.plate("spins", fields.shape[0]):
        up = numpyro.sample("up", dist.Bernoulli(0.5))
    s = 2.0 * up - 1.0
    numpyro.factor("energy", s @ couplings @ s + fields @ s)


def g_prior_selection(
    X: Float[Array, "n p"], y: Float[Array, " n"], g: float | None = None, inclusion: float = 0.5
) -> None:
    """Which variables of a linear regression are in it; coefficients, mean and noise summed out in closed form.

        y = a + X_u b + e,  e ~ N(0, s^2),  p(a, s) prop. to 1 / s,  b | s ~ N(0, g s^2 (X_u' X_u)^-1)     (1)
        p(y | u) / p(y | none) = (1 + g)^((n - 1 - |u|) / 2) / (1 + g (1 - R_u^2))^((n - 1) / 2)           (2)

    Zellner (1986); (2) as in Liang and others (2008). Columns and y are centred here; R_u^2 is that of least squares.

    Args:
        X: one column a variable.
        y: what is explained.
        g: prior scale of the coefficients, in units of one observation; None: n, as much as one observation says.
        inclusion: prior probability of each variable.

    Examples:
        >>> from emberwalk.models import g_prior_selection
        >>> X = random.normal(random.key(0), (50, 12))
        >>> y = 2 * X[:, 0] + random.normal(random.key(1), (50,))
        >>> from emberwalk.infer import SRRW, support_average
        >>> options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
        >>> mcmc = MCMC(SRRW(g_prior_selection), num_warmup=50, num_samples=300, **options)
        >>> mcmc.run(random.key(2), X, y)
        >>> bool(support_average(mcmc, lambda sites: sites["use"]).mean[0] > 0.99)
        True
    """
    num, p = X.shape
    with numpyro.plate("variables", p):
        use = numpyro.sample("use", dist.Bernoulli(inclusion))
    numpyro.factor("evidence", log_bayes_factor(X, y, use.astype(X.dtype), num if g is None else g))


def log_bayes_factor(
    X: Float[Array, "n p"], y: Float[Array, " n"], use: Float[Array, " p"], g: float
) -> Float[Array, ""]:
    """The logarithm of equation (2) of `g_prior_selection`.

    Args:
        X: one column a variable.
        y: what is explained.
        use: 1 for a variable that is in, else 0.
        g: prior scale.
    """
    X, y = X - X.mean(0), y - y.mean()
    # a variable that is out has a row of the identity, and no part in the solution
    gram = use[:, None] * (X.T @ X) * use + jnp.diag(1 - use)
    moments = use * (X.T @ y)
    explained = moments @ solve(gram, moments, assume_a="pos") / (y @ y)
    num = X.shape[0]
    shrunk = (num - 1) / 2 * jnp.log1p(g * (1 - explained))
    return (num - 1 - use.sum()) / 2 * jnp.log1p(g) - shrunk
