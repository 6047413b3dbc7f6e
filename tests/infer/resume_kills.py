"""`python resume_kills.py FOLDER SEED...`: save segments without pause, be killed, look at what is left.

One kill a seed, all on the same directory: each process goes on from what the last one left. The savers are
forked before JAX starts a device, so that none of them pays for an import. Prints, for each kill, how many
segments were reported saved before it and how many can be read after it.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emberwalk.infer import segments
from emberwalk.infer.resume import read_directory

CHAINS, EVERY = 2, 50


class State(NamedTuple):
    i: np.ndarray
    rng_key: np.ndarray


def manifest():
    counts = {"num_chains": CHAINS, "num_warmup": 0, "num_samples": EVERY * 10**6, "every": EVERY}
    leaves = {leaf.name: "" for leaf in segments.describe(state(0))}
    return segments.Manifest({"kernel": "none", "thinning": 1, "leaves": leaves, **counts})


def state(number):
    return State(np.full(1000, number), np.zeros(2, np.uint32))


def draws(number):
    """Draws of segment `number`, from 1: what a reader finds tells which segment it is."""
    return {"samples": {"x": np.full((CHAINS, EVERY, 20), number, np.float32)}, "extra_fields": {}}


def save_forever(folder, report):
    now = segments.read_manifest(folder)
    while True:
        number = len(now.segments) + 1
        now = segments.save_segment(folder, now, draws(number), state(number))
        os.write(report, b".")


def killed_after(folder, delay):
    """Segments that a saver reported before SIGKILL came, `delay` seconds after its first."""
    reports, report = os.pipe()
    process = os.fork()
    if process == 0:
        save_forever(folder, report)
    os.close(report)
    reported = len(os.read(reports, 1))
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while more := os.read(reports, 4096):
        reported += len(more)
    os.close(reports)
    return reported


def check_what_is_left(folder):
    """Number of segments that count, after reading every one of them and the state."""
    now = segments.read_manifest(folder)
    saved = len(now.segments)
    last = segments.state_arrays(folder, segments.describe(state(0)))
    assert (last[0] == saved).all(), f"the state is that of segment {last[0][0]}, {saved} segments count"
    x = read_directory(folder).get_samples(group_by_chain=True)["x"]
    assert (x == np.repeat(np.arange(1, saved + 1), EVERY)[None, :, None]).all()
    return saved


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    segments.save_state(folder, manifest(), state(0))
    before = 0
    for seed in sys.argv[2:]:
        reported = killed_after(folder, random.Random(int(seed)).uniform(0.0, 0.03))
        saved = check_what_is_left(folder)
        print(reported, saved - before, flush=True)
        before = saved
