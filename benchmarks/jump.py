"""Rates of Markov jump processes beside counts, maximum likelihood, published figures, a network and NUTS.

    python benchmarks/jump.py                    all parts, the rows of each kept when it ends
    python benchmarks/jump.py ratchet refinement these two; the rows of the others stay

With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import sys

from jump_parts import calibration, kernel, lags, memory, network, noise, ratchet, refinement
from measure import report_parts

IN_ORDER = (ratchet, noise, refinement, lags, kernel, memory, network, calibration)
PARTS = {part.__name__.rpartition(".")[2]: part for part in IN_ORDER}

if __name__ == "__main__":
    sys.exit(report_parts("jump", PARTS, sys.argv[1:]))
