"""Does a report still say what its record says? All is computed again from the record and compared byte by byte.

A study's results and the files that lie there go in; what differs comes out, with the file and, for text, the line.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.results import Results, write_csv
from reports import compare_document, document

TEXT = (".md", ".html", ".csv", ".json", ".svg")
SHOWN = 60


@dataclass(frozen=True)
class Verified:
    """The files that were compared, and a sentence for each that differs, is missing, or is not made from this record."""

    compared: int
    mismatches: tuple[str, ...]


def verify(results: Results, folder: Path, formats: Sequence[str], times: bool = True) -> Verified:
    """Compare `folder/results.csv` and `folder/report/` with what the record gives.

    Args:
        folder: the study's own. Nothing in it is written.
        times: as the report was written.
    """

    def write(fresh: Path) -> None:
        write_csv(results.runs, fresh / "results.csv")
        document.write(results, fresh / "report", formats, times)

    return _verified(folder, write, ("results.csv", "report/**/*"))


def verify_comparison(a: Results, b: Results, folder: Path) -> Verified:
    """Compare what lies in a comparison's own folder with what the two records give."""
    return _verified(folder, lambda fresh: compare_document.write(a, b, fresh), ("**/*",))


def _verified(folder: Path, write: Callable[[Path], object], patterns: Sequence[str]) -> Verified:
    with TemporaryDirectory() as name:
        fresh = Path(name)
        write(fresh)
        there, made = _files(folder, patterns), _files(fresh, patterns)
        found = [_compared(path, folder / path, fresh / path) for path in sorted(there | made)]
    return Verified(len(made), tuple(sentence for sentence in found if sentence))


def _files(folder: Path, patterns: Sequence[str]) -> set[Path]:
    return {path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def _compared(name: Path, there: Path, made: Path) -> str:
    if not there.exists():
        return f"{name} is missing"
    if not made.exists():
        return f"{name} is not made from this record"
    old, new = there.read_bytes(), made.read_bytes()
    if old == new:
        return ""
    if name.suffix not in TEXT:
        at = next((i for i, (a, b) in enumerate(zip_longest(old, new)) if a != b), 0)
        return f"{name}: byte {at:,} differs"
    lines = zip_longest(*(data.decode("utf-8", "replace").split("\n") for data in (old, new)))
    at, (is_, should) = next((i, pair) for i, pair in enumerate(lines, 1) if pair[0] != pair[1])
    return f"{name}, line {at}: there is {_short(is_, should)}, the record gives {_short(should, is_)}"


def _short(line: str | None, other: str | None) -> str:
    """The part of a line in which it differs from another."""
    if line is None:
        return "no such line"
    same = next((i for i, (a, b) in enumerate(zip_longest(line, other or "")) if a != b), 0)
    start = max(same - SHOWN // 3, 0)
    return json.dumps(("…" if start else "") + line[start : start + SHOWN], ensure_ascii=False)
