"""SG-MCMC against a bare scan, NUTS, HMCECS, blackjax and its own theory, part by part.

    python benchmarks/sgmcmc.py                    all parts, the rows of each kept when it ends
    python benchmarks/sgmcmc.py steps tall_data    these two; the rows of the others stay

With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import sys

from measure import report_parts
from sgmcmc_parts import ethanol, host_rows, memory, minibatch_noise, steps, tall_data, temperatures

IN_ORDER = (steps, tall_data, temperatures, minibatch_noise, host_rows, memory, ethanol)
PARTS = {part.__name__.rpartition(".")[2]: part for part in IN_ORDER}

if __name__ == "__main__":
    sys.exit(report_parts("sgmcmc", PARTS, sys.argv[1:]))
