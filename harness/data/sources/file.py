"""Texts from a file of one's own: .txt (a line a text), .csv and .tsv with a header, .jsonl, .parquet.

Every row gives the texts of its columns in the order of `data.columns`; rows keep the file's order. A missing value is an empty text.
"""

import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from harness import plugins
from harness.data import Texts
from harness.errors import StudyError
from harness.spec import Data

Rows = dict[str, list[str]]


def load(options: Data) -> Texts:
    """Every text of `data.path`; its revision is a hash of the bytes, so that a changed file is another data set."""
    if not options.path:
        raise StudyError("data.path: source file needs a path. Use --set data.path=FILE.")
    path = Path(options.path).expanduser()
    if not path.is_file():
        raise StudyError(f"data.path: there is no file {path}{' (it is a folder)' if path.is_dir() else ''}. {_neighbours(path)}".rstrip())
    content = path.read_bytes()
    wanted = list(options.text_columns)
    if path.suffix == ".txt":
        texts = _lines(_decode(content, path))
    elif path.suffix in READERS:
        table = READERS[path.suffix](content, path)
        texts = interleave([table[name] for name in pick_columns(wanted, list(table), str(path))])
    else:
        raise StudyError(f"data.path: {path} is not a kind of file that source file reads: .txt, {', '.join(READERS)}.")
    texts = [text.strip() for text in texts]
    if not any(texts):
        raise StudyError(f"data.path: {path} holds no text.")
    return Texts(texts, None, None, f"file {path.name}", "not stated", f"sha256:{hashlib.sha256(content).hexdigest()[:16]}")


def pick_columns(wanted: list[str], present: list[str], where: str) -> list[str]:
    """The columns to read: those asked for, or the only one there is."""
    there = ", ".join(present)
    if not wanted and len(present) != 1:
        raise StudyError(f"data.column: say which column of {where} holds the text. There are: {there}.")
    for name in wanted:
        if name not in present:
            raise StudyError(f"data.column: {where} has no column {name!r}.{plugins.nearest(name, present)} There are: {there}.")
    return wanted or present


def interleave(columns: list[list[str]]) -> list[str]:
    """The texts of several columns in row order."""
    return list(itertools.chain.from_iterable(zip(*columns, strict=True)))


def as_text(value: Any) -> str:
    """A cell as text; nothing where it is missing."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _delimited(separator: str) -> Callable[[bytes, Path], Rows]:
    def read(content: bytes, path: Path) -> Rows:
        text = _decode(content, path)
        if not text.strip():
            raise StudyError(f"data.path: {path} is empty.")
        try:
            frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
        except pd.errors.ParserError as error:
            hint = "Are the quotes closed, and the cells as many as the header's?"
            raise StudyError(f"data.path: {path} can't be read as a table: {error}. {hint}") from error
        return {str(name): frame[name].tolist() for name in frame.columns}

    return read


def _jsonl(content: bytes, path: Path) -> Rows:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(_decode(content, path)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise StudyError(f"{path}:{number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise StudyError(f'{path}:{number}: a line must be an object such as {{"text": ...}}.')
        rows.append(row)
    if not rows:
        raise StudyError(f"data.path: {path} is empty.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [as_text(row.get(name)) for row in rows] for name in names}


def _parquet(content: bytes, path: Path) -> Rows:
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (ValueError, OSError) as error:
        raise StudyError(f"data.path: {path} can't be read as parquet: {error}") from error
    return {str(name): list(map(as_text, frame[name])) for name in frame.columns}


READERS: dict[str, Callable[[bytes, Path], Rows]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StudyError(
            f"{path}:{line}: byte {error.start:,} (0x{content[error.start]:02x}) is not UTF-8. Save the file as UTF-8 and try again."
        ) from error


def _lines(text: str) -> list[str]:
    # str.splitlines would also break at form feeds and other rare separators inside a text.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    found = plugins.nearest(path.name, [p.name for p in path.parent.iterdir() if p.is_file()])
    return found.strip()
