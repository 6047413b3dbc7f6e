"""Particle Gibbs for NumPyro models: the path by conditional SMC, the parameters by NUTS, both by their noise.

How a model becomes a state-space model, file by file:

    capture.py           runs a model with its scan taken out; runs one step of the scan
    structure.py         finds the path: initial sites, latents, Markov order (`dataflow.py`)
    path_model.py        what the kernels know of it: `scan_model.py` and `state_space_model.py`
    location_scale.py    latents as standardised noise
    time_parallel.py     the density of a given path, all times at once

and what is done with it: `particle_gibbs.py` (path), `interweave.py` (path and parameters),
`ppg.py` (all of it, `ppg_state.py` its state), `path_moments.py`, `proposal.py`, `functionals.py` and
`estimates.py` (sums over the path), `prediction.py`, `paris_smoother.py` (sums, parameters known),
`report.py` and `plots.py` (what a user sees). Learning, without a posterior of the parameters or
with a guide for it:

    parameters.py        which sites are learned, and the model at given values of them
    score.py             the gradient of the likelihood, from sweeps
    ascent.py            optimiser, loop and programs of `score_ascent.py` and `score_climbing.py`
    without_path.py      a model of its parameters alone
"""
