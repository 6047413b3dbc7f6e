"""Rates of Markov jump processes.

zero_shot.py     `zero_shot`: paths in, rates with uncertainty out
posterior.py     `RatePosterior`: draws of rates, and of what follows from them
report.py        its table, and what it warns of
progress.py      the text of the bar
plots.py         figures
"""
