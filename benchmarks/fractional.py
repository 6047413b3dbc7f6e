"""Guides of fractional paths against diffrax, the published control and exact algebra, part by part.

    python benchmarks/fractional.py                 all parts, the rows of each kept when it ends
    python benchmarks/fractional.py elbo filter     these two; the rows of the others stay

With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import sys

from fractional_parts import elbo, exact_process, filter, gap, memory, published
from measure import report_parts

IN_ORDER = (elbo, filter, memory, published, gap, exact_process)
PARTS = {part.__name__.rpartition(".")[2]: part for part in IN_ORDER}

if __name__ == "__main__":
    sys.exit(report_parts("fractional", PARTS, sys.argv[1:]))
