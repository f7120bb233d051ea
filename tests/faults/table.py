"""What the fault tests report and the table that it becomes: a row a kind of fault, with its cases and how many ended as they should.

A test takes the fixture `fault` and says `fault(Row.KILLS, cases=10)` before it can fail; its report carries that to the end of the
session, also from processes that test side by side. There the table is printed, and with `FAULTS_TABLE=path` written between two marks
of that file.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import pytest

FAULTS = "FAULTS"
TABLE = "FAULTS_TABLE"
OPEN, CLOSE = "<!-- table -->", "<!-- /table -->"
PROPERTY = "fault"
FIGURE = "figure"
HEAD = ("fault", "cases", "as they should be", "seconds")


class Row(StrEnum):
    """The kinds of fault, in the order of the table."""

    KILLS = "kill -9 at random moments until done"
    FAILPOINTS = "kill at every named failpoint"
    SIGNALS = "SIGINT, SIGTERM, double"
    DISK_FULL = "disk full at the k-th write"
    SERVER = "MLflow server: refuses, hangs, 500s, dies half-way, comes back, never comes back"
    CHECKPOINTS = "checkpoint: bit flips, truncation, zero length, missing, other version"
    JOURNAL = "journal: truncations of its tail, flips in the middle"
    DRIVERS = "several drivers at once; read-only or missing folder"
    DIVERGENCE = "NaN, infinity, all trials diverge, out of memory"
    STUDY_FILES = "study files: grammar and byte fuzz, alias bombs, nesting, duplicate keys, size, surprises"
    TYPOS = "one-letter typos of keys: the right key suggested"
    HOSTILE = "hostile files: nothing executed, nothing written outside"
    THOUSAND = "1,000-run study with an idle trainer"
    WORKERS = "the same plan with other workers, hash seeds, processes"
    PLANTED = "planted bugs: each caught by a test"


class Fault(Protocol):
    """What the fixture `fault` gives."""

    def __call__(self, row: Row, cases: int = 1, good: int | None = None) -> None:
        """Count cases; `good` of them ended as they should, by default all if the test passes and none if it fails."""


class Figure(Protocol):
    """What the fixture `figure` gives."""

    def __call__(self, text: str) -> None:
        """A measured number with its words, to stand under the table."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    row: Row
    cases: int
    good: int
    seconds: float


def is_whole() -> bool:
    """Whether all of the faults are asked for, or the small part that every test run holds."""
    return bool(os.environ.get(FAULTS))


def scaled(small: int, whole: int) -> int:
    """How many cases: `whole` where `FAULTS` is set."""
    return whole if is_whole() else small


def kills(small: int) -> int:
    """How many kills: `FAULTS` is their number."""
    return int(os.environ.get(FAULTS) or small)


def lines(reports: Iterable[pytest.TestReport]) -> list[Line]:
    """The rows of all tests that counted cases; seconds include what a test needed to begin and to end."""
    by_test: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for report in reports:
        by_test[report.nodeid].append(report)
    cases, good, seconds = (dict.fromkeys(Row, 0.0) for _ in range(3))
    for phases in by_test.values():
        counted = next(([v for name, v in phase.user_properties if name == PROPERTY] for phase in phases if phase.when == "call"), [])
        passed = all(phase.passed for phase in phases)
        for row, n, as_it_should in counted:
            cases[Row(row)] += n
            good[Row(row)] += as_it_should if as_it_should is not None else n * passed
            seconds[Row(row)] += sum(phase.duration for phase in phases) / len(counted)
    return [Line(row, int(cases[row]), int(good[row]), seconds[row]) for row in Row if cases[row]]


def cells(table: Sequence[Line]) -> list[tuple[str, ...]]:
    """The table as text, with its head."""
    return [HEAD, *((str(line.row), f"{line.cases:,}", f"{line.good:,}", f"{line.seconds:,.0f}") for line in table)]


def as_text(table: Sequence[Line]) -> str:
    """The table for a terminal."""
    rows = cells(table)
    first, *others = (max(len(row[i]) for row in rows) for i in range(len(HEAD)))
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)


def as_markdown(table: Sequence[Line], figures: Sequence[str] = ()) -> str:
    """The table for a page, and the figures under it."""
    head, *rows = [f"| {' | '.join(row)} |" for row in cells(table)]
    return "\n".join([head, "| :--- | ---: | ---: | ---: |", *rows, *(f"\n{figure}" for figure in figures)])


def figures_of(reports: Iterable[pytest.TestReport]) -> list[str]:
    """What tests have measured."""
    return [str(value) for report in reports if report.when == "call" for name, value in report.user_properties if name == FIGURE]


def write(table: Sequence[Line], path: Path, figures: Sequence[str] = ()) -> None:
    """Put the table between the marks of a file, or at its end where it has none; all else stays."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    block = f"{OPEN}\n{as_markdown(table, figures)}\n{CLOSE}"
    marked = re.compile(f"{re.escape(OPEN)}.*?{re.escape(CLOSE)}", re.DOTALL)
    after, n = marked.subn(lambda _: block, before, count=1)
    path.write_text(after if n else f"{before}{block}\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table at the end of a session that had faults, and write it where asked."""
    if hasattr(terminalreporter.config, "workerinput"):
        return
    held = [report for group in terminalreporter.stats.values() for report in group if isinstance(report, pytest.TestReport)]
    table, figures = lines(held), figures_of(held)
    if not table:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("\n".join([as_text(table), *figures]))
    if path := os.environ.get(TABLE):
        write(table, Path(path), figures)
