"""The house: floors, no circles, Flower in its rooms, no file that could run code, nothing too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"phcc_model": ".", "phcc_server": "server", "phcc_client": "client", "phcc_simulation": "simulation"}
BELOW = {
    "phcc_model": set(),
    "phcc_server": {"phcc_model"},
    "phcc_client": {"phcc_model"},
    "phcc_simulation": {"phcc_model", "phcc_server", "phcc_client"},
}
FLOWER_ROOMS = {
    "app.py",
    "clientapp.py",
    "records.py",
    "strategy.py",
    "launcher.py",
    "supernode.py",
    "superlink.py",
    "patient_superlink.py",
}
RUNS_CODE = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

FILES = {
    ".".join(file.relative_to(ROOT / home).with_suffix("").parts).removesuffix(".__init__"): file
    for package, home in HOMES.items()
    for file in sorted((ROOT / home / package).rglob("*.py"))
}
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in FILES.items()}


def nodes(tree: ast.AST, *, at_import: bool = False) -> Iterator[ast.AST]:
    """Every node; ``at_import`` leaves out what runs in a call only, or for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        in_a_call = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (at_import and (in_a_call or for_types)):
            yield node
            yield from nodes(node, at_import=at_import)


def package(module: str) -> str:
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def imports(module: str, *, at_import: bool = False) -> set[str]:
    """Full names of the modules that a module imports."""
    found: set[str] = set()
    for node in nodes(TREES[module], at_import=at_import):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package(module).split(".")[: 1 - node.level or None] if node.level else []
            whole = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{whole}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else whole for name in inner}
    return found


def test_every_package_is_found() -> None:
    assert {module.partition(".")[0] for module in FILES} == set(HOMES)


@pytest.mark.parametrize("module", FILES)
def test_a_module_keeps_to_its_floor_and_flower_to_its_rooms(module: str) -> None:
    top = module.partition(".")[0]
    roots = {name.partition(".")[0] for name in imports(module)}
    assert roots & set(HOMES) <= BELOW[top] | {top}
    assert not roots & RUNS_CODE
    if "flwr" in roots:
        assert FILES[module].name in FLOWER_ROOMS
        assert top != "phcc_model"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: imports(module, at_import=True) & set(FILES) - {module} for module in FILES}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_no_package_depends_on_one_that_depends_on_it() -> None:
    graph: dict[str, set[str]] = {}
    for module in FILES:
        here = package(module)
        there = {package(name) for name in imports(module) & set(FILES)}
        # A package and the packages inside it are one house: between those, the circle test above is enough.
        graph.setdefault(here, set()).update(
            p for p in there if not f"{p}.".startswith(f"{here}.") and not f"{here}.".startswith(f"{p}.")
        )
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", FILES)
def test_no_file_is_opened_that_could_run_code(module: str) -> None:
    for node in nodes(TREES[module]):
        if isinstance(node, ast.Attribute | ast.Name):
            assert ast.unparse(node) not in ("torch.load", "torch.save", "eval", "exec"), (
                f"line {node.lineno}"
            )
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert not {alias.name for alias in node.names} & {"load", "save"}, f"line {node.lineno}"


@pytest.mark.parametrize("module", FILES)
def test_no_file_and_no_function_is_too_long(module: str) -> None:
    source = FILES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in nodes(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1 - told
            assert lines <= LONGEST_FUNCTION, (
                f"{node.name} in line {node.lineno}: {lines} lines without docstring"
            )
