"""A record with damage in the middle: set the damaged lines aside, keep the rest, and void the runs that lost a part of their story.

The damaged record itself is kept under another name. A run that is void is trained again by the next start; nothing else is. Every line
carries its number, so that lines that were swapped, doubled or joined from copies of one record find their places again; its checksum tells
which bit is wrong if only one is.
"""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from time import time

from harness import durable
from harness.errors import DamageError
from harness.journal import FORMAT, Event, decode, encode, first, is_torn
from harness.record import ENDED

CHECKSUM = 8
HEX = re.compile(rb"[0-9a-f]{8}")
# Bytes of a line that is searched for its wrong bit; the search takes a second for so many.
LONGEST = 2**19


@dataclass(frozen=True)
class Repair:
    """What was done. `damaged`: line numbers, from 1. `void`: keys of runs to train again. `original`: where the old record is now."""

    damaged: tuple[int, ...]
    void: tuple[str, ...]
    original: Path | None


def repair(path: Path) -> Repair:
    """Repair a record in place; one that is whole, but for a torn last line, is left alone. The study must not be running.

    Raises:
        DamageError: nothing of it can be kept, or a later version wrote it. StorageError: it can't be read or written.
    """
    with durable.explained(path, "read"):
        lines = path.read_bytes().split(b"\n")
    # What comes behind the last end of a line is a torn line, or nothing.
    lines = [line + b"\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
    events = [decode(line) for line in lines]
    if _is_whole(lines, events):
        return Repair((), (), None)
    # A program that turned the ends of lines into those of another system changed every line, and nothing in them.
    events = [event or decode(line.removesuffix(b"\r\n") + b"\n") for line, event in zip(lines, events, strict=True)]
    bent = {n for n, event in enumerate(events, start=1) if event is None}
    events = [event or _unbent(line) for line, event in zip(lines, events, strict=True)]
    kept, lost = _in_order(events)
    damaged = tuple(sorted({*bent, *lost}))
    if not kept or kept[0].get("format", FORMAT) != FORMAT:
        raise DamageError(f"{path}: no line of it can be read by this version of the harness. Nothing was changed; restore it from a copy.")
    void = tuple(sorted(_incomplete(kept)))
    kept += [{"time": round(time(), 3), "event": "run_voided", "key": key, "reason": "its record was damaged"} for key in void]
    original = _keep(path)
    durable.replace(path, b"".join(encode(event | first(n) | {"n": n}) for n, event in enumerate(kept)), "repair")
    return Repair(damaged, void, original)


def _is_whole(lines: Sequence[bytes], events: Sequence[Event | None]) -> bool:
    last = len(lines) - 1
    whole = (event is not None and event["n"] == n for n, event in enumerate(events[:last]))
    return all(whole) and (not lines or is_torn(lines[last]) or (events[last] or {"n": -1})["n"] == last)


def _in_order(events: Sequence[Event | None]) -> tuple[list[Event], tuple[int, ...]]:
    """Events by their own numbers, each once, and the numbers (from 1) of the lines that are left out because they can't be kept."""
    kept: dict[int, Event] = {}
    damaged = []
    for line, event in enumerate(events, start=1):
        # Of two events of one number the first in the file counts; the second has a meaning in another record only.
        if event is None or not isinstance(event["n"], int) or kept.setdefault(event["n"], event) != event:
            damaged.append(line)
    return [kept[n] for n in sorted(kept)], tuple(damaged)


def _unbent(line: bytes) -> Event | None:
    """The event of a line of which one bit is wrong, or None: a checksum is linear, so each bit has a mark of its own on it."""
    stored, payload = line[:CHECKSUM], line[CHECKSUM + 1 : -1]
    summed = zlib.crc32(payload)
    if sum((a ^ b).bit_count() for a, b in zip(b"%08x " % summed, line, strict=False)) == 1:
        return decode(b"%08x %s\n" % (summed, payload))
    if len(payload) > LONGEST or not HEX.fullmatch(stored) or line[CHECKSUM : CHECKSUM + 1] != b" ":
        return None
    mark, marks = int(stored, 16) ^ summed, [_table(1 << bit) for bit in range(8)]
    for place in reversed(range(len(payload))):
        if mark in marks:
            mended = bytearray(payload)
            mended[place] ^= 1 << marks.index(mark)
            return decode(b"%s %s\n" % (stored, mended))
        marks = [_table(one & 0xFF) ^ one >> 8 for one in marks]
    return None


@cache
def _table(byte: int) -> int:
    """What a byte adds to the checksum as the last one; another byte behind it shifts that through the same table."""
    return zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0")


def _keep(path: Path) -> Path:
    """A second name for the damaged record, that of an earlier repair that was cut off if there was one."""
    for number in count(1):
        original = path.with_name(f"{path.stem}.damaged-{number}.jsonl")
        if original.exists() and original.samefile(path):
            return original
        if not original.exists():
            break
    with durable.explained(original):
        try:
            os.link(path, original)
        except OSError:
            # Some file systems have no second names.
            durable.replace(original, path.read_bytes(), "repair")
    durable.sync_folder(path.parent)
    return original


def _incomplete(events: Sequence[Event]) -> Iterator[str]:
    """Runs some of whose numbered events, or whose start, are missing; whether they ended or would go on from a checkpoint."""
    expected: dict[str, int | None] = {}
    # By run, the first of its events that is missing.
    gaps: dict[str, int] = {}
    for event in events:
        key = event.get("key", "")
        if event["event"] == "run_started":
            expected[key] = 0
            gaps.pop(key, None)
        elif event["event"] == "run_resumed":
            known = expected.get(key) or 0
            # What is missing behind the checkpoint comes again.
            if event["events"] <= gaps.get(key, known):
                gaps.pop(key, None)
            else:
                gaps.setdefault(key, known)
            expected[key] = event["events"]
        elif event["event"] == "run_voided":
            expected.pop(key, None)
            gaps.pop(key, None)
        elif "index" in event:
            if expected.get(key) != event["index"]:
                gaps.setdefault(key, expected.get(key) or 0)
            expected[key] = event["index"] + 1
        elif event["event"] == "run_ended" and event["status"] in ENDED and expected.get(key) is None:
            gaps.setdefault(key, 0)
        elif event["event"] == "run_ended" and event["status"] in ENDED and expected[key] != event.get("events", expected[key]):
            gaps.setdefault(key, expected[key] or 0)
    yield from gaps
