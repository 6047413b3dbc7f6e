"""Particle Gibbs for NumPyro models: the path by conditional SMC, the parameters by NUTS, both by their noise.

How a model becomes a state-space model, file by file:

    capture.py           runs a model with its scan taken out; runs one step of the scan
    structure.py         finds the path: initial sites, latents, Markov order (`dataflow.py`)
    path_model.py        what the kernels know of it: `scan_model.py` and `state_space_model.py`
    location_scale.py    latents as standardised noise
    time_parallel.py     the density of a given path, all times at once

and what is done with it: `particle_gibbs.py` (path), `interweave.py` (path and parameters),
`ppg.py` (all of it), `paris_smoother.py` (sums over the path, parameters known), `report.py` and
`plots.py` (what a user sees).
"""
