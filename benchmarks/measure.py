"""Side-by-side measurements that survive a busy machine.

Times on shared cores move by half from one minute to the next; ratios of times taken in turn do
not. So everything here is taken alternately, in one run: a, b, a, b, ...; a claim is the median
of the paired ratios, with CPU time (which moves less) beside wall time, compilation apart.

A benchmark is a file with `main() -> list[Row]` that ends in

    if __name__ == "__main__":
        sys.exit(report("smc", main()))

and between them calls `alternate`, then `ratio` or `rate_ratio`. One that takes long is cut into parts,
modules with `rows() -> list[Row]`, and ends in `report_parts`: each part's rows are written when it ends.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("emberwalk", "numpyro", "jax", "jaxlib", "numpy", "blackjax", "arviz")
# A trial of a benchmark itself: few repeats, small sizes, nothing kept. For whoever edits it.
TRIAL = os.environ.get("EMBERWALK_SMALL") == "1"
# A change below this share is not spoken of: medians of few repeats move as much.
NOTICEABLE = 0.10


class Clocked(NamedTuple):
    """What a function returns that times itself, such as a child process: counted instead of our clock.

    Attributes:
        wall: seconds.
        cpu: seconds of the process, all threads.
        result: what was computed; what `after` sees.
    """

    wall: float
    cpu: float
    result: Any = None


class Timing(NamedTuple):
    """Repeated calls of one function.

    Attributes:
        wall: seconds of each repeat.
        cpu: seconds of CPU time of each repeat, all threads of the process.
        first_wall: seconds of the first call, which compiled; not among the repeats.
        results: what `after` made of each repeat's result, or None.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    first_wall: float
    results: tuple[Any, ...]

    @property
    def compile_wall(self) -> float:
        """Seconds that the first call took beyond a later one: tracing and compilation."""
        return max(0.0, self.first_wall - float(np.median(self.wall)))

    def per_second(self, clock: str = "cpu") -> tuple[float, ...]:
        """Results over seconds, repeat by repeat: min ESS per second, when `after` gives the min ESS."""
        return tuple(float(r) / s for r, s in zip(self.results, getattr(self, clock), strict=True))


class Ratio(NamedTuple):
    """Median, smallest and largest of paired ratios."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        name: what is measured, the same from run to run: changes are found by it.
        value: the number; None for a row in words, all of them in `note`.
        unit: of the number: "x", "ms", "1/s"; "" for none.
        at_least: bar that the value must reach; None for no such bar.
        at_most: bar that the value must not exceed; None for no such bar.
        spread: how far repeats were apart, in words or as a `Ratio`.
        note: sizes, clock, peer: what a reader needs to repeat it.
    """

    name: str
    value: float | None
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None
    spread: "str | Ratio" = ""
    note: str = ""

    @property
    def bar(self) -> str:
        """The bar in words, empty where there is none."""
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(filter(None, (low, high)))

    @property
    def missed(self) -> bool:
        """Whether a bar is missed; a value that is not finite misses any."""
        if self.value is None:
            return False
        above = self.at_least is None or self.value >= self.at_least
        below = self.at_most is None or self.value <= self.at_most
        return not (above and below)


def alternate(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 5, after: Callable[[Any], Any] | None = None
) -> dict[str, Timing]:
    """Times functions in turn, each waited for until its arrays are there.

    Args:
        functions: name -> function without arguments. Each is called once before the clock
            counts (compilation), then `repeats` times; the order turns round every time.
        repeats: at least 5 for a median, an odd number.
        after: applied to each result with the clock stopped, for an ESS or a check; what it
            returns is in `Timing.results`.
    """
    first = {name: once(function).wall for name, function in functions.items()}
    taken: dict[str, list[Clocked]] = {name: [] for name in functions}
    names = list(functions)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            call = once(functions[name])
            taken[name].append(call._replace(result=after(call.result) if after else None))
    return {name: _timing(taken[name], first[name]) for name in names}


def once(function: Callable[[], Any]) -> Clocked:
    """One call, its arrays waited for; where it times itself, what it says."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result if isinstance(result, Clocked) else Clocked(wall, cpu, result)


def _timing(calls: Sequence[Clocked], first_wall: float) -> Timing:
    wall, cpu, results = zip(*calls, strict=True)
    return Timing(wall, cpu, first_wall, results)


def paired(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Median of over[i] / under[i], both taken in the same turn."""
    ratios = np.asarray(over, float) / np.asarray(under, float)
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def ratio(over: Timing, under: Timing, clock: str = "cpu") -> Ratio:
    """How many times the time of `under` does `over` take: `ratio(peer, ours)` is our speed-up.

    Args:
        over: numerator.
        under: denominator, from the same call of `alternate`.
        clock: "cpu" or "wall".
    """
    return paired(getattr(over, clock), getattr(under, clock))


def rate_ratio(over: Timing, under: Timing, clock: str = "cpu") -> Ratio:
    """How many times the results per second of `under` does `over` give: for ESS per second."""
    return paired(over.per_second(clock), under.per_second(clock))


def median_ms(seconds: Sequence[float]) -> float:
    """Median of seconds, in milliseconds."""
    return 1e3 * float(np.median(seconds))


def peer_python(name: str, *requirements: str) -> Path:
    """Interpreter of an environment of its own, for a peer that does not fit ours; made once.

    Args:
        name: of the environment, `.venv-peers/NAME`; delete the folder to make it anew.
        requirements: as pip reads them, such as "numpy<2".
    """
    folder = ROOT / ".venv-peers" / name
    made, wanted = folder / "made-for.txt", "\n".join(requirements)
    python = folder / "bin" / "python"
    if not (made.exists() and made.read_text() == wanted):
        uv = str(ROOT / ".uv" / "bin" / "uv")
        interpreter = ROOT / ".venv" / "bin" / "python"
        subprocess.run([uv, "venv", "-q", "--clear", "-p", interpreter, folder], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", python, *requirements], check=True)
        made.write_text(wanted)
    return python


def child(python: str | Path, source: str | Path, *args: str) -> Any:
    """Runs a program in another interpreter and returns its last line, read as JSON.

    A child that times itself prints `{"wall": ..., "cpu": ...}`: return
    `Clocked(**child(...))` from a function given to `alternate`.

    Args:
        python: interpreter, `sys.executable` or from `peer_python`.
        source: program text, or the path of a file.
        args: its arguments.
    """
    program = [str(source)] if isinstance(source, Path) else ["-c", source]
    done = subprocess.run([str(python), *program, *args], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"the child process failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Where and with what this was measured: processor, cores, devices, versions."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "x64": bool(jax.config.jax_enable_x64),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report(name: str, rows: Sequence[Row], folder: Path = RESULTS) -> int:
    """Prints a benchmark's table, says what changed, and writes NAME.json and NAME.md.

    A trial (`EMBERWALK_SMALL=1`) is printed and not written, and misses no bar.

    Args:
        name: of the benchmark, such as "smc".
        rows: in the order of the table.
        folder: where the results are kept.

    Returns:
        Number of bars that were missed: the exit status of the benchmark.
    """
    here = machine()
    table = f"{_table(rows)}\n{_said(here)}"
    if TRIAL:
        print(f"\n# {name}: a trial, few repeats of small sizes. Nothing is kept.\n\n{table}", flush=True)
        return 0
    file = folder / f"{name}.json"
    last = json.loads(file.read_text()) if file.exists() else None
    print(f"\n# {name}\n\n{table}\n{_changes(rows, here, last)}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write(file, _kept(rows, here))
    (folder / f"{name}.md").write_text(table)
    return sum(row.missed for row in rows)


def report_parts(
    name: str, parts: Mapping[str, ModuleType], chosen: Sequence[str], folder: Path = RESULTS
) -> int:
    """Runs the chosen parts of a benchmark, all if none is chosen, as `report` does one whole.

    The rows of a part are written when it ends, in place of its own alone: a run that is killed loses
    the part it was in, and the others can be run later. A part that fails is shown, and the next begins;
    one that returns no rows was skipped, and its last result stays.

    Args:
        name: of the benchmark.
        parts: name -> module with `rows()`; the first line of its docstring is the heading of its table.
        chosen: names of parts.
        folder: where the results are kept.

    Returns:
        Number of bars that were missed, plus parts that failed; 2 for an unknown part.
    """
    unknown = sorted(set(chosen) - set(parts))
    if unknown:
        print(f"{name} has no part {', '.join(unknown)}; there are: {', '.join(parts)}.", file=sys.stderr)
        return 2
    missed = 0
    for part in chosen or parts:
        print(f"\nrunning {name}: {part}", flush=True)
        start = time.perf_counter()
        try:
            rows = parts[part].rows()
        except Exception:
            traceback.print_exc()
            missed += 1
            continue
        print(f"{part} took {(time.perf_counter() - start) / 60:.1f} minutes")
        missed += _report_part(name, part, rows, parts, folder)
    return missed


def _report_part(
    name: str, part: str, rows: Sequence[Row], parts: Mapping[str, ModuleType], folder: Path
) -> int:
    if not rows:
        return 0
    if TRIAL:
        print(f"\n# {name}: {part}, a trial. Nothing is kept.\n\n{_table(rows)}", flush=True)
        return 0
    here = machine()
    file = folder / f"{name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    print(f"\n# {name}: {part}\n\n{_table(rows)}\n{_changes(rows, here, kept.get(part))}", flush=True)
    kept[part] = _kept(rows, here)
    kept = {known: kept[known] for known in parts if known in kept}
    folder.mkdir(parents=True, exist_ok=True)
    _write(file, kept)
    (folder / f"{name}.md").write_text(_page(kept, parts))
    return sum(row.missed for row in rows)


def _page(kept: Mapping[str, Any], parts: Mapping[str, ModuleType]) -> str:
    """The tables of all parts; where they were measured once below them all, or below each where that differs."""
    tables, machines = [], [part["machine"] for part in kept.values()]
    one_machine = all(machine == machines[0] for machine in machines)
    for part, result in kept.items():
        heading = (parts[part].__doc__ or part).splitlines()[0].rstrip(".")
        table = _table([Row(**row) for row in result["rows"]])
        tables.append(f"### {heading}\n\n{table}" + ("" if one_machine else f"\n{_said(result['machine'])}"))
    return "\n".join([*tables, *([_said(machines[0])] if one_machine else [])])


def _kept(rows: Sequence[Row], here: Mapping[str, Any]) -> dict[str, Any]:
    return {"machine": here, "rows": [row._asdict() | {"spread": str(row.spread)} for row in rows]}


def _write(file: Path, kept: Any) -> None:
    """All of it or nothing: a killed run must not leave half a file."""
    half = file.with_suffix(".half")
    half.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    half.replace(file)


def _table(rows: Sequence[Row]) -> str:
    lines = ["| what | result | spread | bar | how |", "|---|---|---|---|---|"]
    for row in rows:
        verdict = f"{row.bar} {'missed' if row.missed else 'met'}" if row.bar else ""
        lines.append(f"| {row.name} | {_number(row)} | {row.spread} | {verdict} | {row.note} |")
    return "\n".join(lines) + "\n"


def _number(row: Row) -> str:
    if row.value is None:
        return ""
    return f"{row.value:.3g}" + (row.unit if row.unit == "x" else f" {row.unit}".rstrip())


def _said(here: Mapping[str, Any]) -> str:
    """Where and with what it was measured, in two lines."""
    precision = "float64" if here["x64"] else "float32"
    versions = ", ".join(f"{package} {here[package]}" for package in PACKAGES)
    device = ", ".join(here["devices"])
    return (
        f"{here['processor']}, {here['cores']} cores, {here['system']}; JAX on {device}, {precision};\n"
        f"Python {here['python']}, {versions}.\n"
    )


def _changes(rows: Sequence[Row], here: Mapping[str, Any], last: Mapping[str, Any] | None) -> str:
    """What is different from the last result, in sentences."""
    if last is None:
        return "No earlier result to compare with."
    before = {row["name"]: row["value"] for row in last["rows"]}
    said = []
    there = last["machine"]
    other = [f"{key} {there.get(key)} -> {here[key]}" for key in here if there.get(key) != here[key]]
    if other:
        said.append("Measured elsewhere or with other versions: " + "; ".join(other) + ".")
    for row in rows:
        if row.name not in before:
            said.append(f"New: {row.name}.")
        old = before.pop(row.name, None)
        if None not in (row.value, old) and abs(row.value - old) > NOTICEABLE * abs(old):
            said.append(f"Changed: {row.name}, {old:.3g} -> {row.value:.3g}.")
    said += [f"Gone: {name}." for name in before]
    return "\n".join(said) or f"No number changed by more than {NOTICEABLE:.0%}."
