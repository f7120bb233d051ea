"""The record of a study: append-only, one checksummed line an event.

A line is eight hex digits of CRC-32, a space, and a JSON object with at least `n` (line number from 0), `time` (Unix seconds) and
`event` (its kind); the first has `format` too. A last line that a crash cut short is dropped on opening; damage anywhere else is refused by
number.
"""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any, BinaryIO

from harness.durable import explained, make_folder, sync_folder
from harness.errors import DamageError, LockedError, StorageError
from harness.failpoints import failpoint

Event = dict[str, Any]
# What this version writes; it reads no later one. New kinds of events and new fields of old ones don't change it: readers pass over them.
FORMAT = 1
# Kinds after which the record must survive a power cut; the others may be lost with the run that they belong to.
DURABLE = frozenset({"plan", "invocation", "run_started", "run_resumed", "run_ended", "lr_chosen", "invocation_ended"})


class Journal:
    """Appends events to a record; the only writer of it. Opening recovers a torn last line.

    Args:
        guard: called before every write; it raises where this process may not write any more.
    """

    def __init__(self, path: Path, guard: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._guard, self._is_whole = guard, True
        with explained(path):
            make_folder(path.parent)
            self._n, self.recovered_bytes = _drop_torn_tail(path)
            # Unbuffered: a line that `append` returned from is in the kernel, so that killing this process can't lose it.
            self._file: BinaryIO = open(path, "ab", buffering=0)  # noqa: SIM115
            self._end = os.fstat(self._file.fileno()).st_size
        sync_folder(path.parent)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it as it will be read back.

        Raises:
            StorageError: it can't be written; the lines before it stay whole. LockedError: another process has written to the record.
        """
        assert not {"n", "time", "format"} & fields.keys()
        self._check()
        record: Event = {"n": self._n, "time": round(time(), 3), "event": event} | first(self._n) | plain(fields)
        line = encode(record)
        with explained(self.path):
            failpoint("journal.write")
            self._write(line)
            # The line is in the file, durable or not: if what follows fails, another under the same number would be damage.
            self._is_whole = False
            failpoint("journal.written")
            if event in DURABLE:
                failpoint("journal.sync")
                os.fsync(self._file.fileno())
                failpoint("journal.synced")
            self._is_whole = True
        self._n += 1
        self._end += len(line)
        return record

    def _check(self) -> None:
        """Whether the record is still this process's to write, and what it wrote is there."""
        self._guard()
        if not self._is_whole:
            raise StorageError(f"{self.path} could not be written before, so nothing more is. Give the same command again to go on.")
        status = os.fstat(self._file.fileno())
        if not status.st_nlink:
            way_out = "Nothing more is written; put it back from a copy, or give the same command again to start anew."
            raise StorageError(f"{self.path} was removed while the study ran. {way_out}")
        if status.st_size != self._end:
            raise LockedError(f"another process has written to {self.path}: this one stops. Watch it: {_command('status', self.path)}")

    def _write(self, line: bytes) -> None:
        # A disk that fills up takes a part of a line; what follows it must not make that part damage in the middle.
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._is_whole = False
            self._file.truncate(self._end)
            self._is_whole = True
            raise

    def close(self) -> None:
        """Make everything durable, unless that has failed before, and let go of the file."""
        try:
            if self._is_whole:
                with explained(self.path):
                    os.fsync(self._file.fileno())
        finally:
            self._file.close()


def read(path: Path) -> Iterator[Event]:
    """All events of a record, in order; a torn last line is left out."""
    for event, _ in read_from(path, 0, 0):
        yield event


def read_from(path: Path, offset: int, line: int) -> Iterator[tuple[Event, int]]:
    """The events from a byte offset on (where line number `line` starts), each with the offset behind it.

    A last line that is cut short, or that a power cut left with zeros inside, ends them.

    Raises:
        DamageError: a whole line that fails its checksum, or is out of order; a record of a later version.
    """
    if not path.exists():
        return
    with explained(path, "read"), open(path, "rb") as file:
        file.seek(offset)
        for raw in file:
            event = decode(raw)
            if event is None and not file.peek(1) and is_torn(raw):
                return
            if event is None or event["n"] != line:
                raise DamageError(
                    f"{path}:{line + 1}: this line of the record is damaged (checksum or number is wrong). "
                    f"Nothing was changed; restore the file from a copy, or keep what is whole: {_command('repair', path)}"
                )
            if not line and event.get("format", FORMAT) != FORMAT:
                later = f"this record has format {event['format']}, and this version of the harness reads {FORMAT}"
                raise DamageError(f"{path}:{line + 1}: {later}. Nothing was changed; go on with the version that wrote it.")
            offset += len(raw)
            line += 1
            yield event, offset


def first(n: int) -> Event:
    """What the first line has beside its event: by which rules this record is written."""
    return {} if n else {"format": FORMAT}


def encode(event: Event) -> bytes:
    """One event as a line with its checksum."""
    payload = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode(raw: bytes) -> Event | None:
    """The event of a line, or None when the line isn't what was written."""
    checksum, _, payload = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(payload):
        return None
    try:
        event = json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and {"n", "time", "event"} <= event.keys() else None


def is_torn(last: bytes) -> bool:
    """Whether a crash may have left this last line: it has no end, or zeros where a power cut kept the length but not the content."""
    return not last.endswith(b"\n") or b"\0" in last


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


def _command(verb: str, path: Path) -> str:
    return f"python -m harness {verb} {path.parent.name}"
