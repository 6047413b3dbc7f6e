"""Guides of a path driven by fractional noise.

path_guide.py    what they share: the other latents by a guide of NumPyro, draws, diagnostics
guide.py         `AutoFractionalSDE`: the exact posterior of the linearised model
control.py       `ControlGuide`: the published control, as the baseline
model_runs.py    the user's model, run for its equation and for what it says of a path
sites.py         what that is, as Gaussian factors
reference.py     the path to linearise about
networks.py      what a residual or a control sees
data.py          what an encoder reads
report.py        evidence, Pareto k and advice
plots.py         figures
"""
