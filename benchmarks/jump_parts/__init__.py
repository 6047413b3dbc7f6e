"""The parts of `benchmarks/jump.py`, one file a part, and what they share: `setting.py`."""
