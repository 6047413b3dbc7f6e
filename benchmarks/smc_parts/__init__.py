"""The parts of `benchmarks/smc.py`, one file a part, and what they share: `setting.py` and `chains.py`."""
