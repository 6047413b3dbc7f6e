"""The parts of `benchmarks/walk.py`, one file a part, and what they share: `setting.py`."""
