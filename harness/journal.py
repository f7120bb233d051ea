"""The record of a study: append-only, one checksummed line an event.

A line is eight hex digits of CRC-32, a space, and a JSON object with at least `n` (line number from 0), `time` (Unix seconds) and
`event` (its kind). A last line that a crash cut short is dropped on opening; damage anywhere else is refused by number.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any, BinaryIO

from harness.durable import sync_folder
from harness.errors import DamageError
from harness.failpoints import failpoint

Event = dict[str, Any]
# Kinds after which the record must survive a power cut; the others may be lost with the run that they belong to.
DURABLE = frozenset({"plan", "invocation", "run_started", "run_resumed", "run_ended", "lr_chosen", "invocation_ended"})


class Journal:
    """Appends events to a record; the only writer of it. Opening recovers a torn last line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._n, self.recovered_bytes = _drop_torn_tail(path)
        # Unbuffered: a line that `append` returned from is in the kernel, so that killing this process can't lose it.
        self._file: BinaryIO = open(path, "ab", buffering=0)  # noqa: SIM115
        sync_folder(path.parent)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it as it will be read back."""
        assert not {"n", "time"} & fields.keys()
        record: Event = {"n": self._n, "time": round(time(), 3), "event": event} | plain(fields)
        failpoint("journal.write")
        self._write(encode(record))
        failpoint("journal.written")
        if event in DURABLE:
            failpoint("journal.sync")
            os.fsync(self._file.fileno())
            failpoint("journal.synced")
        self._n += 1
        return record

    def _write(self, line: bytes) -> None:
        # A disk that fills up takes a part of a line; what follows it must not make that part damage in the middle.
        start = os.fstat(self._file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(start)
            raise

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        os.fsync(self._file.fileno())
        self._file.close()


def read(path: Path) -> Iterator[Event]:
    """All events of a record, in order; a torn last line is left out."""
    for event, _ in read_from(path, 0, 0):
        yield event


def read_from(path: Path, offset: int, line: int) -> Iterator[tuple[Event, int]]:
    """The events from a byte offset on (where line number `line` starts), each with the offset behind it.

    A last line that is cut short, or that a power cut left with another content, ends them.

    Raises:
        DamageError: a whole line that fails its checksum, or is out of order.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(offset)
        for raw in file:
            event = decode(raw)
            if event is None and not file.peek(1):
                return
            if event is None or event.get("n") != line:
                raise DamageError(
                    f"{path}:{line + 1}: this line of the record is damaged (checksum or number is wrong). "
                    "Nothing was changed; restore the file from a copy, or keep what is whole: "
                    f"python -m harness repair {path.parent.name}"
                )
            offset += len(raw)
            line += 1
            yield event, offset


def encode(event: Event) -> bytes:
    """One event as a line with its checksum."""
    payload = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode(raw: bytes) -> Event | None:
    """The event of a line, or None when the line isn't what was written."""
    checksum, _, payload = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(payload):
        return None
    event = json.loads(payload.decode("utf-8", "surrogatepass"))
    return event if isinstance(event, dict) else None


def plain(value: Any) -> Any:
    """The JSON form of a value: tuples become lists, numbers that aren't finite become null (their story is told in `reason`)."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drop_torn_tail(path: Path) -> tuple[int, int]:
    """Cut an unfinished last line off, once all before it has been found whole; the number of lines kept and of bytes dropped."""
    if not path.exists():
        return 0, 0
    lines = keep = 0
    for _, keep in read_from(path, 0, 0):  # noqa: B007
        lines += 1
    dropped = path.stat().st_size - keep
    if dropped:
        with open(path, "r+b") as file:
            file.truncate(keep)
            os.fsync(file.fileno())
    return lines, dropped
