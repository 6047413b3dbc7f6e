"""Self-repellent walks against loops in Python, numpy and networkx, a padded scan, and their base chain, part by part.

    python benchmarks/walk.py                 all parts, the rows of each kept when it ends
    python benchmarks/walk.py steps tokens    these two; the rows of the others stay

The graphs are found through `EMBERWALK_DATA`. With `EMBERWALK_SMALL=1` it is tried at small sizes and keeps nothing.
"""

import sys

from measure import report_parts
from walk_parts import accuracy, chains, memory, steps, tokens

IN_ORDER = (steps, chains, memory, accuracy, tokens)
PARTS = {part.__name__.rpartition(".")[2]: part for part in IN_ORDER}

if __name__ == "__main__":
    sys.exit(report_parts("walk", PARTS, sys.argv[1:]))
