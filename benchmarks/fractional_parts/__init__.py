"""The parts of `benchmarks/fractional.py`, one file a part, and what they share: `setting.py`."""
