"""Texts from a file of one's own: .txt (a line a text), .csv and .tsv with a header, .jsonl, .parquet.

Every row gives the texts of its columns in the order of `data.columns`; rows keep the file's order. A missing value is an empty text.
"""

import hashlib
import io
import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness import plugins
from harness.data import Texts
from harness.errors import StudyError
from harness.spec import Data

Rows = dict[str, list[str]]
# All of it is held in memory, and a compressed file can hold far more than it is long.
MAX_BYTES = 4 * 10**9
MAX_CHARACTERS = 2 * 10**9
ROWS_A_BATCH = 256


def load(options: Data) -> Texts:
    """Every text of `data.path`; its revision is a hash of the bytes, so that a changed file is another data set."""
    if not options.path:
        raise StudyError("data.path: source file needs a path. Use --set data.path=FILE.")
    content, path = _read(options.path)
    wanted = list(options.text_columns)
    if path.suffix == ".txt":
        texts = _lines(_decode(content, path))
    else:
        table = READERS[path.suffix](content, path)
        texts = interleave([table[name] for name in pick_columns(wanted, list(table), str(path))])
    texts = [text.strip() for text in texts]
    if not any(texts):
        raise StudyError(f"data.path: {path} holds no text.")
    return Texts(texts, None, None, f"file {path.name}", "not stated", f"sha256:{hashlib.sha256(content).hexdigest()[:16]}")


def _read(given: str) -> tuple[bytes, Path]:
    """The bytes of a file of a kind and a size that can be read."""
    try:
        path = Path(given).expanduser()
        if not path.is_file():
            raise StudyError(
                f"data.path: there is no file {path}{' (it is a folder)' if path.is_dir() else ''}. {_neighbours(path)}".rstrip()
            )
        if path.suffix not in (".txt", *READERS):
            raise StudyError(f"data.path: {path} is not a kind of file that source file reads: .txt, {', '.join(READERS)}.")
        if path.stat().st_size > MAX_BYTES:
            raise StudyError(f"data.path: {path} is larger than {MAX_BYTES:,} bytes. Give a part of it.")
        return path.read_bytes(), path
    except (OSError, ValueError, RuntimeError) as error:
        raise StudyError(f"data.path: {given} can't be read: {getattr(error, 'strerror', None) or error}.") from error


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
            with warnings.catch_warnings():
                # Cells without a column would be dropped with no more than a warning.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
        except (ValueError, pd.errors.ParserWarning) as error:
            hint = "Are the quotes closed, and the cells as many as the header's?"
            raise StudyError(f"data.path: {path} can't be read as a table: {_first_line(error)}. {hint}") from error
        return {str(name): frame[name].tolist() for name in frame.columns}

    return read


def _jsonl(content: bytes, path: Path) -> Rows:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(_decode(content, path)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise StudyError(f"{path}:{number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise StudyError(f'{path}:{number}: a line must be an object such as {{"text": ...}}.')
        rows.append(row)
    if not rows:
        raise StudyError(f"data.path: {path} is empty.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [as_text(row.get(name)) for row in rows] for name in names}


def _parquet(content: bytes, path: Path) -> Rows:
    held = 0
    table: dict[str, list[str]] = {}
    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:
            table = {str(name): [] for name in file.schema_arrow.names}
            for batch in file.iter_batches(ROWS_A_BATCH):
                for name, column in zip(table, batch.columns, strict=True):
                    texts = list(map(as_text, column.to_pylist()))
                    held += sum(map(len, texts))
                    table[name] += texts
                if held > MAX_CHARACTERS:
                    raise StudyError(f"data.path: {path} holds more than {MAX_CHARACTERS:,} characters. Give a part of it.")
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StudyError(f"data.path: {path} can't be read as parquet: {_first_line(error)}") from error
    return {name: texts for name, texts in table.items() if not name.startswith("__index_level_")}


READERS: dict[str, Callable[[bytes, Path], Rows]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


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
