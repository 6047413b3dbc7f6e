"""Memory of a run on rows in a file

Logistic regression, d = 50, b = 500, BAOAB, 100 steps a draw: how far the anonymous memory of a new process
grows at most (RssAnon; mapped pages of the file would count in RSS). What the compiler needs is in it, and is most.
glibc keeps some 10 MB more or less for its threads, by chance.
"""

import sys

from measure import TRIAL, Row, child

from .setting import PEERS, SIZES

_FEW, _MANY = (2000, 20_000) if TRIAL else (400_000, 4_000_000)
_NUM_STEPS = 200 if TRIAL else 10_000
_MB = 1e6
_MORE = 4 * (_MANY - _FEW) * SIZES.columns / _MB


def rows() -> list[Row]:
    """Both lengths, and what the longer needs beyond the shorter; control variates read all rows besides."""
    found = []
    for gradient, at_most in {"minibatch": 150, "control_variates": None}.items():
        few, many = (growth(gradient, num_rows) / _MB for num_rows in (_FEW, _MANY))
        name = f"growth of RssAnon, {gradient}, N = "
        found += [
            Row(f"{name}{_FEW}", few, "MB", at_most=at_most, note=f"peak, {_NUM_STEPS} steps"),
            Row(f"{name}{_MANY}", many, "MB", at_most=at_most, note=f"peak, {_NUM_STEPS} steps"),
            Row(
                f"{name}{_MANY}, beyond the other",
                many - few,
                "MB",
                at_most=40,
                note=f"rows of {_MORE:.0f} MB more",
            ),
        ]
    return found


def growth(gradient: str, num_rows: int) -> float:
    """Bytes, in a process of its own."""
    arguments = map(str, (num_rows, SIZES.columns, _NUM_STEPS))
    return child(sys.executable, PEERS / "streamed_rows.py", gradient, *arguments)["growth"]
