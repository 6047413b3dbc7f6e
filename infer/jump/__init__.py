"""Rates of Markov jump processes.

zero_shot.py     `zero_shot`: paths in, rates with uncertainty out
from_network.py  the same by the trained network
posterior.py     `RatePosterior`: draws of rates, and of what follows from them
derived.py       such draws: mean, intervals
report.py        its table, and what it warns of
progress.py      the text of the bar
plots.py         figures
kernel.py        `ZeroShotMJP`: models with a jump process, sampled (moves.py, transition.py: its moves)
guide.py         `AutoMJP`: the same by variational inference
start.py         what both begin with (sites.py: the process in the model; khat.py: how good the start is)
"""
