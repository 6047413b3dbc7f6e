"""The published weights and guide, beside ours

The divergence of the bank's increments from fractional noise, nats per increment, 200 steps on a unit horizon; and the
gap to the log evidence of the paper's bridge (Euler, five modes, rates from 1/20 to 20, horizon 2, 200 steps, one
observation of sd .1 at the end) that is left after training, 2000 draws. The control has a floor, known in closed form.
"""

import jax
import numpy as np
import optax
from jax import random
from measure import TRIAL, Row
from numpyro.infer import SVI, Trace_ELBO

from emberwalk.infer import AutoFractionalSDE, ControlGuide
from emberwalk.kernels.fractional import Coefficients, fractional_coefficients, kl_per_increment, weights

from .setting import (
    HURSTS,
    NUM_STEPS,
    PAPERS_HORIZON,
    WIDTH,
    Exact,
    elbo_draws,
    exact_of,
    papers_coefficients,
    seen_path,
    svi_steps,
)

_STEPS_OF_SVI = 20 if TRIAL else 1500
_NUM_DRAWS = 50 if TRIAL else 2000


def rows() -> list[Row]:
    """Weights, then guides, by H."""
    return [*_of_weights(), *(row for H in HURSTS for row in _of_guides(H))]


def _of_weights() -> list[Row]:
    banks = {
        "published, 5 modes": papers_coefficients(1.0, NUM_STEPS),
        "ours, 5 modes": fractional_coefficients(1.0, NUM_STEPS, num_modes=5),
        "ours, 8 modes": fractional_coefficients(1.0, NUM_STEPS),
    }
    found = []
    for name, bank in banks.items():
        each = [_divergence(bank, H) for H in HURSTS]
        note = ", ".join(f"{kl:.2g} at H = {H}" for H, kl in zip(HURSTS, each, strict=True))
        found.append(Row(f"weights, {name}: largest divergence", max(each), "nats", note=note))
    return found


def _divergence(bank: Coefficients, H: float) -> float:
    with jax.enable_x64(True):
        w = np.asarray(weights(bank, H), float)
    return kl_per_increment(bank.rates, w, H, NUM_STEPS, 1 / NUM_STEPS)


def _of_guides(H: float) -> list[Row]:
    """Both on the same bridge."""
    bridge = {"horizon": PAPERS_HORIZON, "coefficients": papers_coefficients(), "integrator": "euler"}
    model, y = seen_path(num_seen=1, hurst=H, **bridge)
    exact = exact_of(H, 1, **bridge)
    control, guide = ControlGuide(model, width=WIDTH, initial="prior"), AutoFractionalSDE(model)
    return [
        _gap(
            f"gap of the control, H = {H}", control, y, exact, f"its floor is {float(sum(exact.floor)):.3g}"
        ),
        _gap(f"gap of our guide, H = {H}", guide, y, exact, "not trained", 0),
    ]


def _gap(
    name: str,
    guide: ControlGuide | AutoFractionalSDE,
    y: jax.Array,
    exact: Exact,
    note: str,
    num_steps: int = _STEPS_OF_SVI,
) -> Row:
    """After so many steps of SVI."""
    svi = SVI(guide.model, guide, optax.adam(1e-3), Trace_ELBO(num_particles=32))
    state = svi_steps(svi, num_steps)(svi.init(random.key(0), y), y)
    elbo = elbo_draws(svi, _NUM_DRAWS)(svi.get_params(state), y)
    return Row(name, exact.log_evidence - elbo.value, "nats", spread=f"+- {elbo.error:.2g}", note=note)
