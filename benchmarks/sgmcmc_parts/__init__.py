"""The parts of `benchmarks/sgmcmc.py`, one file a part, and what they share: `setting.py`."""
