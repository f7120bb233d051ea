"""Whether a study that was broken has ended as one that was never touched: the same results to the byte, told once, nothing left behind."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from harness.record import Record
from harness.results import Results, from_record
from reports import document
from tests import toy

STRAY = ("*.part", "step-*", "lease.json")
# What two equal runs may differ in, in the record.
CLOCKS = frozenset({"n", "time", "time_s", "seconds", "tokens_per_second", "invocation", "index", "reason"})


def assert_as_untouched(folder: Path, finished: Path) -> None:
    """A toy study in `folder` against that in `finished`."""
    study, other = (one / "mlruns" / "toy" for one in (folder, finished))
    assert_same_record(Record.of(toy.events(folder)), Record.of(toy.events(finished)))
    assert weights(study) == weights(other)
    final = Counter(e["key"] for e in toy.events(folder, "run_ended") if e["status"] not in ("interrupted", "failed"))
    assert set(final.values()) == {1} and len(final) == toy.N_RUNS
    assert toy.results(folder).to_csv() == toy.results(finished).to_csv()
    assert report(folder) == report(finished)
    assert not strays(study)


def assert_same_record(record: Record, whole: Record) -> None:
    """The same runs with the same scores, texts and outcomes, and the same choices."""
    assert set(record.selected) == set(whole.selected) and record.chosen.keys() == whole.chosen.keys()
    for rung in whole.chosen:
        assert told(record.chosen[rung]) == told(whole.chosen[rung])
    for key in whole.selected:
        assert [told(e) for e in record.evaluations[key]] == [told(e) for e in whole.evaluations[key]], key
        assert [told(e) for e in record.samples[key]] == [told(e) for e in whole.samples[key]], key
        assert told(record.ended[key]) == told(whole.ended[key]), key


def told(event: dict[str, Any]) -> dict[str, Any]:
    """An event without when and where it was written."""
    return {name: value for name, value in event.items() if name not in CLOCKS}


def weights(study: Path) -> dict[str, bytes]:
    """The best weights of every run, by its key."""
    return {path.parent.name: path.read_bytes() for path in (study / "checkpoints").glob("*/best.safetensors")}


def strays(study: Path) -> list[Path]:
    """What only a study that is running may have."""
    return [path for pattern in STRAY for path in study.rglob(pattern)]


def report(folder: Path) -> dict[str, bytes]:
    """The report without times, by file."""
    results: Results = from_record(Record.of(toy.events(folder)))
    # Not in the study's own folder: other tests may be at the untouched one at the same time.
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary)
        document.write(results, there, ("md",), times=False)
        return {str(path.relative_to(there)): path.read_bytes() for path in sorted(there.rglob("*")) if path.is_file()}


def repeated_steps(record_events: list[dict[str, Any]]) -> int:
    """The most steps that any run did again when it went on: from its checkpoint, or its start, to the last step that the record had."""
    last: dict[str, int] = {}
    most = 0
    for event in record_events:
        if event["event"] == "points":
            last[event["key"]] = event["step"][-1]
        elif event["event"] in ("run_started", "run_resumed"):
            most = max(most, last.get(event["key"], 0) - event.get("step", 0))
            last[event["key"]] = event.get("step", 0)
    return most
