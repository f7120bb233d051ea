"""No call that could run what a file holds: the code is walked for unpickling, evaluation, shells and imports by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = [path for package in ("models", "harness", "reports") for path in sorted((ROOT / package).rglob("*.py"))]
# Modules whose files are programs, or that start one through a shell.
NO_IMPORT = {
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "codeop", "pty", "imp",
}  # fmt: skip
NO_CALL = {
    "eval", "exec", "compile", "__import__", "input", "breakpoint", "torch.load", "torch.save", "torch.hub.load", "os.system", "os.popen",
    "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.full_load", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load_all", "yaml.full_load_all", "yaml.add_constructor", "pandas.read_pickle", "pd.read_pickle", "pd.eval",
    "importlib.util.spec_from_file_location", "pkgutil.resolve_name", "tempfile.mktemp", "shutil.unpack_archive", "builtins.eval",
}  # fmt: skip
NO_METHOD = {"read_pickle", "to_pickle", "extractall", "eval", "exec_module", "load_module"}
NO_ARGUMENT = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}
# Who may import by a name that is not written out, and how the name is bound to a package of this project.
IMPORTERS = {"harness/plugins.py", "harness/data/sources/hub.py"}
LOADERS = {"SafeLoader", "CSafeLoader"}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a chain of names; what is not one is `?`."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def aliases(tree: ast.AST) -> dict[str, str]:
    """What a module's imports call things: the name here to the full one."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unsafe(source: str, place: str = "x.py") -> Iterator[str]:
    """A line for everything that is not allowed."""
    tree = ast.parse(source)
    known = aliases(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        yield from (f"{place}:{line}: {what}" for what in named(node, known, place) if what)
        if isinstance(node, ast.keyword) and node.arg in NO_ARGUMENT and not is_other(node.value, NO_ARGUMENT[node.arg]):
            yield f"{place}:{line}: {node.arg}={ast.unparse(node.value)}"


def named(node: ast.AST, known: dict[str, str], place: str) -> Iterator[str]:
    """What a node imports, names or builds on that is not allowed."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from (f"import {name}" for name in names if name.split(".")[0] in NO_IMPORT)
    if isinstance(node, ast.Name | ast.Attribute):
        first, dot, rest = name_of(node).partition(".")
        full = known.get(first, first) + dot + rest
        by_name = full == "importlib.import_module" and place not in IMPORTERS
        if by_name or full in NO_CALL or (isinstance(node, ast.Attribute) and node.attr in NO_METHOD):
            yield full
    if isinstance(node, ast.ClassDef):
        bases = (name_of(base) for base in node.bases)
        yield from (f"class of {base}" for base in bases if base.endswith("Loader") and base.split(".")[-1] not in LOADERS)


def is_other(value: ast.expr, bad: bool) -> bool:
    """Whether an argument is written out, and is not the bad one."""
    return isinstance(value, ast.Constant) and value.value is not bad


def test_the_code_makes_no_unsafe_call() -> None:
    assert len(PATHS) > 60
    found = [line for path in PATHS for line in unsafe(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))]
    # nn.Module.eval() only turns dropout off.
    assert [line for line in found if not line.endswith("model.eval")] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import dill as d", "import joblib.externals", "eval('1')", "x = [exec]",
        "f = compile",
        "import torch\ntorch.load('x')", "import torch as t\nt.load('x')", "from torch import load\nload('x')", "import os\nos.system('x')",
        "from os import system as s\ns('x')", "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess\nsubprocess.run(x, shell=y)",
        "import yaml\nyaml.load(x, yaml.Loader)", "import yaml\nclass L(yaml.FullLoader): pass",
        "from yaml import unsafe_load\nunsafe_load(x)",
        "import numpy\nnumpy.load(x, allow_pickle=True)", "__import__('x')", "import importlib\nimportlib.import_module(x)",
        "from importlib import import_module\nimport_module(x)", "import pandas as pd\npd.read_pickle(x)", "frame.eval('x')",
        "load_dataset(x, trust_remote_code=True)", "load(x, weights_only=False)", "archive.extractall()",
    ],
)  # fmt: skip
def test_the_walk_finds_each_of_them(source: str) -> None:
    assert list(unsafe(source))


@pytest.mark.parametrize(
    "source",
    ["import subprocess\nsubprocess.run(['x'], shell=False)", "import yaml\nclass L(yaml.SafeLoader): pass", "import re\nre.compile('x')",
     "from safetensors.torch import load\nload(x)", "numpy.load(x, allow_pickle=False)"],
)  # fmt: skip
def test_the_walk_passes_what_is_safe(source: str) -> None:
    assert not list(unsafe(source))


def test_imports_by_name_stay_inside_the_project_or_are_written_out() -> None:
    for place in sorted(IMPORTERS):
        for node in ast.walk(ast.parse((ROOT / place).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name_of(node.func) == "importlib.import_module":
                [argument] = node.args
                # A package of the caller's, a plug-in in it whose name was looked up in a list, or a name from a tuple written out there.
                assert ast.unparse(argument) in {"package", "f'{package}.{name}'", "'datasets'", "name"}, ast.unparse(argument)
    assert "for name in ('datasets.config', 'huggingface_hub.constants')" in ast.unparse(
        ast.parse((ROOT / "harness/data/sources/hub.py").read_text(encoding="utf-8"))
    )


def test_the_template_of_the_pdf_evaluates_and_reads_nothing() -> None:
    text = (ROOT / "reports/report.typ").read_text(encoding="utf-8")
    assert "json(bytes(sys.inputs.document))" in text
    assert not any(word in text for word in ("eval(", "read(", "plugin(", "#import", "#include", "import "))
