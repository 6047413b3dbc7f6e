"""What the tests know about the house: its files, its modules, its floors, and which import points upwards.

Everything here works on text and names, so that `test_house.py` can show it planted sources.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ("infer", "models", "kernels")
WINGS = ("smc", "sgmcmc", "walk", "fractional", "jump")
# Modules beside the wings are shared by all of them, so they may know none; the demo is not shared.
SHARE_NOTHING = ("emberwalk.infer.demo",)


def module_files() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    files = {"emberwalk": ROOT / "emberwalk" / "__init__.py"}
    for floor in FLOORS:
        for file in sorted((ROOT / floor).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            files[".".join(("emberwalk", *parts)).removesuffix(".__init__")] = file
    return files


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that a module imports, lazily or not, relative ones resolved.

    `from a import b` counts as `a.b`, because only an import would tell a name from a module.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value)
    return names


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def floor_and_wing(name: str) -> tuple[str | None, str | None]:
    """('infer', 'smc') of `emberwalk.infer.smc.ppg`; None for what a name does not have."""
    parts = [*name.split("."), "", "", ""]
    floor = parts[1] if parts[0] == "emberwalk" and parts[1] in FLOORS else None
    wing = parts[2] if floor in ("infer", "kernels") and parts[2] in WINGS else None
    return floor, wing


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """One sentence for each import of `module` that the design forbids.

    An arrow never points upwards (infer, models, kernels, from top to bottom), `kernels` knows
    no NumPyro, no wing knows another, and what all wings share knows none.
    """
    floor, wing = floor_and_wing(module)
    above = {"kernels": ("infer", "models"), "models": ("infer",)}.get(floor or "", ())
    # `emberwalk.infer.contract`, but not `emberwalk.infer` itself, which re-exports every wing.
    beside_wings = floor == "infer" and module.count(".") == 2 and wing is None
    shared = beside_wings and module not in SHARE_NOTHING
    found = []
    for name in sorted(imported(source, module, is_package)):
        its_floor, its_wing = floor_and_wing(name)
        top = name.split(".")[0]
        if top in FLOORS:
            found.append(f"{module} imports {name}: the floors are imported as emberwalk.{top}.")
        elif its_floor in above:
            found.append(f"{module} imports {name}: {floor} stands below {its_floor}.")
        elif floor == "kernels" and top == "numpyro":
            found.append(f"{module} imports {name}: kernels must be usable without NumPyro.")
        elif floor and top == "emberwalk" and not its_floor and name != "emberwalk.__version__":
            found.append(f"{module} imports {name}: the package's front is above every floor.")
        elif wing and its_wing and wing != its_wing:
            found.append(f"{module} imports {name}: no wing imports another.")
        elif its_wing and shared:
            found.append(f"{module} imports {name}: what all wings share knows none of them.")
    return found
