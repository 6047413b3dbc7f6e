"""Particle Gibbs against a bare scan, `particles`, cuthbert and NUTS, part by part.

    python benchmarks/smc.py                     all parts, the rows of each kept when it ends
    python benchmarks/smc.py sweep long_series   these two; the rows of the others stay

With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import sys

from measure import report_parts
from smc_parts import (
    compilation,
    functionals,
    interweaving,
    long_series,
    parameters,
    scaling,
    sweep,
    where_nuts_is_right,
    where_nuts_is_wrong,
)

IN_ORDER = (
    sweep,
    functionals,
    parameters,
    interweaving,
    where_nuts_is_wrong,
    where_nuts_is_right,
    compilation,
    scaling,
    long_series,
)
PARTS = {part.__name__.rpartition(".")[2]: part for part in IN_ORDER}

if __name__ == "__main__":
    sys.exit(report_parts("smc", PARTS, sys.argv[1:]))
