"""A record with damage in the middle: set the damaged lines aside, keep the rest, and void the runs that lost a part of their story.

The damaged record itself is kept under another name. A run that is void is trained again by the next start; nothing else is.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time

from harness import durable
from harness.journal import Event, decode, encode
from harness.record import ENDED


@dataclass(frozen=True)
class Repair:
    """What was done. `damaged`: line numbers, from 1. `void`: keys of runs to train again. `original`: where the old record is now."""

    damaged: tuple[int, ...]
    void: tuple[str, ...]
    original: Path | None


def repair(path: Path) -> Repair:
    """Repair a record in place; one that is whole is left alone. The study must not be running."""
    lines = path.read_bytes().splitlines(keepends=True)
    events = [decode(line) if line.endswith(b"\n") else None for line in lines]
    damaged = tuple(n for n, event in enumerate(events, start=1) if event is None)
    whole = [event for event in events if event is not None]
    if not damaged and all(event["n"] == n for n, event in enumerate(whole)):
        return Repair((), (), None)
    void = tuple(sorted(_incomplete(whole)))
    whole += [{"n": 0, "time": round(time(), 3), "event": "run_voided", "key": key, "reason": "its record was damaged"} for key in void]
    original = path.with_name(f"{path.stem}.damaged-{int(time())}.jsonl")
    os.link(path, original)
    durable.replace(path, b"".join(encode(event | {"n": n}) for n, event in enumerate(whole)), "repair")
    return Repair(damaged, void, original)


def _incomplete(events: list[Event]) -> Iterator[str]:
    """Runs that ended, but some of whose numbered events, or whose start, are missing."""
    expected: dict[str, int | None] = {}
    gaps: set[str] = set()
    ended: set[str] = set()
    for event in events:
        key = event.get("key", "")
        if event["event"] == "run_started":
            expected[key] = 0
            gaps.discard(key)
            ended.discard(key)
        elif event["event"] == "run_resumed":
            if (expected.get(key) or 0) < event["events"]:
                gaps.add(key)
            expected[key] = event["events"]
            ended.discard(key)
        elif "index" in event:
            if expected.get(key) != event["index"]:
                gaps.add(key)
            expected[key] = event["index"] + 1
        elif event["event"] == "run_ended" and event["status"] in ENDED:
            ended.add(key)
            if key not in expected or expected[key] != event.get("events", expected[key]):
                gaps.add(key)
    yield from gaps & ended
