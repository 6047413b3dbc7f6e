"""Runs the benchmarks one after another, each in a process of its own.

    python benchmarks/run.py             all of them
    python benchmarks/run.py smc walk    these two
    python benchmarks/smc.py             one, alone

Each prints its table and what changed, and writes it to benchmarks/results. The exit status is 1
if a bar was missed or a benchmark failed.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FRAME = {"run", "measure", "make_ethanol"}  # make_ethanol makes data and measures nothing


def benchmarks() -> list[str]:
    """Names of the benchmark files."""
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem not in FRAME)


def main(names: list[str]) -> int:
    """Runs the named benchmarks, all if none is named."""
    known = benchmarks()
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    # Flushed, or the children's tables would come first in a log.
    ended = {}
    for name in names or known:
        print(f"running {name}", flush=True)
        ended[name] = subprocess.run([sys.executable, HERE / f"{name}.py"]).returncode
    bad = [name for name, status in ended.items() if status]
    if bad:
        print(f"\nA bar was missed, or it failed: {', '.join(bad)}.", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
