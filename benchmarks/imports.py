"""What `import emberwalk.infer` costs beside `import numpyro`: CPU time of fresh processes, in turn."""

import os
import sys
from functools import partial

from measure import Clocked, Row, alternate, child, median_ms, ratio, report

PAIRS = 9
PROGRAM = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print('{{"wall": %r, "cpu": %r}}' % (time.perf_counter() - wall, time.process_time() - cpu))
"""


def importing(module: str) -> Clocked:
    """Seconds of one import in a new process, interpreter start apart."""
    return Clocked(**child(sys.executable, PROGRAM.format(module=module)))


def main() -> list[Row]:
    """One row: the ratio of the CPU times."""
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # nobody who is told to keep no bytecode asks how long it takes
    modules = ("emberwalk.infer", "numpyro")
    times = alternate({module: partial(importing, module) for module in modules}, repeats=PAIRS)
    ours, numpyro = times["emberwalk.infer"], times["numpyro"]
    cost = ratio(ours, numpyro)
    each = f"{median_ms(ours.cpu):.0f} against {median_ms(numpyro.cpu):.0f} ms"
    note = f"CPU time of {PAIRS} pairs, {each}"
    return [Row("import emberwalk.infer / import numpyro", cost.median, at_most=1.15, spread=cost, note=note)]


if __name__ == "__main__":
    sys.exit(report("imports", main()))
