"""Who may import whom: models <- harness <- reports, and each heavy library behind one door."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Libraries that reports must not pull in, not even by way of the harness.
HEAVY = {"torch", "mlflow", "optuna"}
FRONT_DOORS = {"harness.run", "harness.__main__"}
MODELS_MAY = {"torch", "models"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in ("models", "harness", "reports") for path in sorted((ROOT / package).rglob("*.py"))}


def nodes(tree: ast.AST, late: bool) -> Iterator[ast.AST]:
    """The statements of a module; without `late` those inside functions and under TYPE_CHECKING are left out."""
    for child in ast.iter_child_nodes(tree):
        is_late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if late or not (is_late or is_typing):
            yield child
            yield from nodes(child, late)


@cache
def imports(name: str, late: bool = True) -> frozenset[str]:
    """Full names that a module imports: `a.b` for `import a.b`, and `a.b` and `a.b.c` for `from a.b import c`."""
    found: set[str] = set()
    for node in nodes(ast.parse(MODULES[name].read_text(encoding="utf-8")), late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def tops(name: str) -> set[str]:
    return {imported.split(".")[0] for imported in imports(name)}


def of(package: str) -> list[str]:
    return [name for name in MODULES if name.split(".")[0] == package]


def own_closure(name: str) -> set[str]:
    """The project's modules that importing this one runs, packages on the way included."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        if one in seen or one not in MODULES:
            continue
        seen.add(one)
        todo += [*imports(one, late=False), *(one.rsplit(".", n)[0] for n in range(1, one.count(".") + 1))]
    return seen


def test_the_walk_sees_imports() -> None:
    assert len(of("models")) > 1 and len(of("harness")) > 30 and len(of("reports")) > 10
    assert "torch" in tops("harness.step") and "harness.data.batches.Order" in imports("harness.train")
    assert "mlflow.MlflowClient" in imports("harness.tracking_store") - imports("harness.tracking_store", late=False)
    assert "harness.analysis.learning_rate" in own_closure("harness.stages")


@pytest.mark.parametrize("name", of("models"))
def test_models_import_torch_and_the_standard_library_only(name: str) -> None:
    kernels = {"triton"} if name == "models._fused" else set()
    assert tops(name) <= MODELS_MAY | kernels | sys.stdlib_module_names


@pytest.mark.parametrize("name", of("harness"))
def test_only_the_front_doors_of_the_harness_know_reports(name: str) -> None:
    if name not in FRONT_DOORS:
        assert "reports" not in tops(name)


@pytest.mark.parametrize("name", of("reports"))
def test_reports_stay_light(name: str) -> None:
    assert not tops(name) & (HEAVY | {"models", "scipy", "yaml"})
    for module in own_closure(name):
        early = {imported.split(".")[0] for imported in imports(module, late=False)}
        assert not early & HEAVY, f"{name} imports {module}, which imports {early & HEAVY}"
    assert not own_closure(name) & FRONT_DOORS


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("optuna", {"harness.search", "harness.search_export"}),
        ("mlflow", {"harness.tracking", "harness.tracking_store"}),
        ("yaml", {"harness.spec", "harness._yaml", "harness.study_file"}),
        ("matplotlib", {"reports."}),
        ("typst", {"reports.pdf"}),
        ("scipy", {"harness.analysis.", "harness.data.sources."}),
        ("datasets", {"harness.data.sources.hub"}),
        ("rich", {"harness.console", "harness.terminal"}),
        ("triton", {"models._fused"}),
    ],
)
def test_each_heavy_library_has_its_own_door(library: str, doors: set[str]) -> None:
    users = {name for name in MODULES if library in tops(name)}
    strangers = {name for name in users if name not in doors and not any(door.endswith(".") and name.startswith(door) for door in doors)}
    assert not strangers


def test_mlflow_is_imported_late() -> None:
    assert all(not any(i.split(".")[0] == "mlflow" for i in imports(name, late=False)) for name in MODULES)


def test_kernels_are_imported_late() -> None:
    assert "models._fused" in imports("models._cuda")
    assert all("models._fused" not in imports(name, late=False) for name in MODULES)


def test_the_analysis_knows_no_plots_and_nothing_of_how_runs_are_made() -> None:
    for name in (name for name in MODULES if name.startswith("harness.analysis")):
        assert tops(name) <= {"numpy", "pandas", "scipy", "harness"} | sys.stdlib_module_names
        assert all(i.startswith("harness.analysis") for i in imports(name) if i.split(".")[0] == "harness")
