"""Rows that stay on disk need no memory of their size: `HostRows` in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "peers" / "streamed_rows.py"
MB = 1_000_000


def growth(num_rows: int) -> int:
    """Bytes of anonymous memory that a run of 10,000 steps needs at most, compilation included."""
    command = [sys.executable, str(PROGRAM), "minibatch", str(num_rows), "50", "10000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])["growth"]


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_sgmcmc_memory_is_flat_in_the_rows_of_a_memmap():
    """800 MB of rows against 80 MB; most of it is what compilation needs."""
    many = growth(4_000_000)
    assert many < 150 * MB
    assert many - growth(400_000) < 40 * MB
