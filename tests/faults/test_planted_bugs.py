"""Bugs planted in a copy of the project: a test of that copy fails for each of them, and none fails without.

The copy is tested in a process of its own, which imports nothing from here.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.planted import Planted
from tests.faults.planted_disk import IN_TRAINING, ON_DISK
from tests.faults.planted_study import AROUND_IT, IN_THE_STUDY
from tests.faults.table import Fault, Row, is_whole

PLANTED = (*ON_DISK, *IN_TRAINING, *IN_THE_STUDY, *AROUND_IT)
# Two that are found in a blink.
CHEAP = tuple(bug for bug in PLANTED if bug.name in ("dropout is no part of a run's key", "checksums are not looked at"))
ROOT = Path(__file__).parents[2]
COPIED = ("harness", "models", "reports", "tests", "studies", "pyproject.toml")
# Variables that say how these tests run, not how those of the copy do.
OURS = ("PYTEST", "FAULTS", "HARNESS", "PYTHONPATH")
LIMIT_S, LIMIT_OF_ALL_S = 280, 1800
TESTS_FAILED = 1
# Read before any test of the copy: without a test, an import from elsewhere ends the session.
GUARD = """
from pathlib import Path
import harness, models, reports, tests
for package in (harness, models, reports, tests):
    assert Path(package.__file__).is_relative_to(Path(__file__).parent), package.__file__
"""
# A change that only crashes is no bug that would have gone unseen.
CRASH = re.compile(
    r"^E +(NameError|AttributeError|ImportError|ModuleNotFoundError|SyntaxError|TypeError|UnboundLocalError)\b", re.MULTILINE
)


def copy_of_the_project(folder: Path) -> Path:
    """All that the tests need, and the guard."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / "conftest.py").write_text(GUARD, encoding="utf-8")
    return folder


def plant(bug: Planted, folder: Path) -> None:
    path = folder / bug.file
    path.write_text(path.read_text(encoding="utf-8").replace(bug.before, bug.after), encoding="utf-8")


def outcome_of(folder: Path, tests: Iterable[str], limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    """The copy's own tests, to the first that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(folder / "temporary"), *tests]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)


@pytest.mark.parametrize("bug", PLANTED if is_whole() else CHEAP, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Planted, tmp_path: Path, fault: Fault) -> None:
    fault(Row.PLANTED)
    copy = copy_of_the_project(tmp_path / "copy")
    plant(bug, copy)
    ended = outcome_of(copy, bug.tests)
    assert ended.returncode == TESTS_FAILED, ended.stdout + ended.stderr
    # Errors alone, of fixtures, would end it with the same code.
    assert re.search(r"^FAILED tests/", ended.stdout, re.MULTILINE), ended.stdout
    assert not CRASH.search(ended.stdout), ended.stdout


@pytest.mark.timeout(LIMIT_OF_ALL_S)
@pytest.mark.skipif(not is_whole(), reason="minutes: set FAULTS")
def test_without_a_bug_nothing_is_found(tmp_path: Path) -> None:
    named = dict.fromkeys(test for bug in PLANTED for test in bug.tests)
    ended = outcome_of(copy_of_the_project(tmp_path / "copy"), named, LIMIT_OF_ALL_S)
    assert ended.returncode == 0 and "passed" in ended.stdout, ended.stdout + ended.stderr


def test_there_are_enough_and_each_has_its_place() -> None:
    """A change of the source that moves a bug's place changes the bug."""
    assert len({bug.name for bug in PLANTED}) == len(PLANTED) >= 20
    places = {bug.name: (ROOT / bug.file).read_text(encoding="utf-8").count(bug.before) for bug in PLANTED}
    assert {name: count for name, count in places.items() if count != 1} == {}
    assert all(bug.before != bug.after for bug in PLANTED)
