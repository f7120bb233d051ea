"""The record of a study after damage: a torn end costs its line, anything else is refused and repaired, and the study ends the same."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness import __main__ as verbs
from harness import results
from harness.errors import DamageError
from harness.failpoints import VARIABLE
from harness.journal import Journal, decode, encode, read
from harness.record import Record
from harness.repair import repair
from harness.tracked import Tracking
from tests import toy
from tests.faults.table import Fault, Row, is_whole, scaled

TAIL, FLIPS = scaled(40, 200), scaled(40, 200)
Lines = list[bytes]


@pytest.fixture(scope="module")
def pristine(finished_study: Path) -> bytes:
    """The record of a study that has ended."""
    return toy.journal(finished_study).read_bytes()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is played by changing files: making them durable would only take the disk's time, hundreds of times."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a damaged copy goes."""
    (tmp_path / "mlruns" / "toy").mkdir(parents=True)
    return toy.journal(tmp_path)


def lines_of(content: bytes) -> Lines:
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def lost(line: bytes) -> bytes:
    """A line that can't be mended."""
    return b"xyz" + line[3:]


def told(record: Record, key: str) -> list[list[dict[str, Any]]]:
    """All that a record knows of a run's course and end, without the numbers of the lines."""
    events = [record.evaluations[key], record.samples[key], [record.ended[key]]]
    return [[{name: value for name, value in event.items() if name != "n"} for event in group] for group in events]


def check_repaired(path: Path, whole: Record, tables: bool = True) -> set[str]:
    """A repaired record can be read, folded, tabled and written on, and no run is half known; those to be trained again."""
    record = Record.of(read(path))
    done = {key for key in whole.ended if record.is_done(key)}
    for key in done:
        assert told(record, key) == told(whole, key)
        assert record.events[key] == whole.events[key]
    if record.plan and tables:
        results.from_record(record)
    projection = Tracking("toy")
    for event in read(path):
        projection.add(event)
    journal = Journal(path)
    assert journal.recovered_bytes == 0 and journal.append("dreamt")["n"] == len(list(read(path))) - 1
    journal.close()
    assert repair(path).original is None
    return whole.ended.keys() - done


def test_every_cut_of_the_end_costs_the_torn_line_alone(pristine: bytes, path: Path, fault: Fault) -> None:
    fault(Row.JOURNAL, cases=TAIL)
    path.write_bytes(pristine)
    events = list(read(path))
    whole = Record.of(events)
    for cut in range(1, TAIL + 1):
        path.write_bytes(pristine[:-cut])
        kept = pristine[:-cut].count(b"\n")
        assert list(read(path)) == events[:kept]
        # A torn line needs no repair.
        assert repair(path).original is None and path.read_bytes() == pristine[:-cut]
        journal = Journal(path)
        assert journal.append("reported", paths=[])["n"] == kept
        journal.close()
        record = Record.of(read(path))
        assert {key: told(record, key) for key in whole.ended} == {key: told(whole, key) for key in whole.ended}


def test_a_flipped_bit_is_refused_by_line_and_repaired(
    pristine: bytes, path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(Row.JOURNAL, cases=FLIPS)
    monkeypatch.chdir(path.parents[2])
    path.write_bytes(pristine)
    events = list(read(path))
    whole, rng, lines = Record.of(events), random.Random(0), lines_of(pristine)
    for case in range(FLIPS):
        # Half of the lines by their length, half by their number: there are many short ones.
        n = rng.choices(range(len(lines) - 1), [len(line) for line in lines[:-1]] if case % 2 else None)[0]
        start, bit = sum(map(len, lines[:n])), rng.randrange(8 * len(lines[n]))
        single = case % 4 < 2
        damaged = flipped(pristine, 8 * start + bit)
        for _ in range(0 if single else rng.randint(1, 5)):
            damaged = flipped(damaged, 8 * start + rng.randrange(8 * len(lines[n])))
        path.write_bytes(damaged)
        if damaged == pristine:
            continue
        assert verbs.main(["status", "toy"]) == 6
        said = capsys.readouterr().err
        assert f"mlruns/toy/journal.jsonl:{n + 1}: this line of the record is damaged" in said
        assert said.endswith("python -m harness repair toy\n") and path.read_bytes() == damaged
        done = repair(path)
        assert n + 1 in done.damaged and done.original is not None and done.original.read_bytes() == damaged
        if damaged.count(b"\n") == len(lines) and single:
            assert path.read_bytes() == pristine and done.void == ()
        # An end of a line that is lost makes one of two.
        hit = {events[m].get("key") for m in (n, n + 1)[: 1 + (damaged.count(b"\n") < len(lines))]}
        assert check_repaired(path, whole, tables=case % 10 == 0) <= hit
        done.original.unlink()


def swap(lines: Lines) -> Lines:
    return [*lines[:7], lines[8], lines[7], *lines[9:]]


LOSSLESS: dict[str, Callable[[Lines], bytes]] = {
    "two lines swapped": lambda lines: b"".join(swap(lines)),
    "all lines shuffled": lambda lines: b"".join(random.Random(0).sample(lines, len(lines))),
    "a line doubled": lambda lines: b"".join([*lines[:5], lines[4], *lines[5:]]),
    "joined with its copy": lambda lines: b"".join(lines) * 2,
    "joined with an older copy": lambda lines: b"".join(lines + lines[:20]),
    "other ends of lines": lambda lines: b"".join(lines).replace(b"\n", b"\r\n"),
    "blank lines": lambda lines: b"\n\n" + b"".join(lines[:9]) + b"\n" + b"".join(lines[9:]),
    "zeros between": lambda lines: b"".join(lines[:9]) + bytes(4096) + b"\n" + b"".join(lines[9:]),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_has_lost_nothing_is_put_together_again(pristine: bytes, path: Path, kind: str, fault: Fault) -> None:
    fault(Row.JOURNAL)
    path.write_bytes(LOSSLESS[kind](lines_of(pristine)))
    with pytest.raises(DamageError, match=r"is damaged .*harness repair toy"):
        Journal(path)
    assert repair(path).void == ()
    assert path.read_bytes() == pristine


@pytest.mark.parametrize("kind", ["plan", "invocation", "selected", "run_started", "run_ended", "lr_chosen", "invocation_ended"])
def test_whatever_kind_of_line_is_lost_the_rest_stands(pristine: bytes, path: Path, kind: str, fault: Fault) -> None:
    fault(Row.JOURNAL)
    path.write_bytes(pristine)
    events = list(read(path))
    whole = Record.of(events)
    for event in [event for event in events if event["event"] == kind][:3]:
        lines = lines_of(pristine)
        lines[event["n"]] = lost(lines[event["n"]])
        path.write_bytes(b"".join(lines))
        done = repair(path)
        assert done.damaged == (event["n"] + 1,)
        again = check_repaired(path, whole)
        assert again == ({event["key"]} if kind in ("run_started", "run_ended") else set())


@pytest.mark.parametrize("start", [0, 5, 4000])
@pytest.mark.parametrize("length", [1, 512, 4096])
def test_zeros_of_a_power_cut(pristine: bytes, path: Path, start: int, length: int, fault: Fault) -> None:
    """At the end they are a torn line; in the middle they are damage."""
    fault(Row.JOURNAL, cases=2)
    path.write_bytes(pristine)
    whole = Record.of(read(path))
    end = len(pristine) - len(lines_of(pristine)[-1])
    path.write_bytes(pristine[: end + start] + bytes(length))
    kept = path.read_bytes().count(b"\n")
    assert len(list(read(path))) == kept
    Journal(path).close()
    assert path.read_bytes() == b"".join(lines_of(pristine)[:kept])
    path.write_bytes(pristine[:start] + bytes(length) + pristine[start + length :])
    with pytest.raises(DamageError):
        Journal(path)
    repair(path)
    check_repaired(path, whole)


def test_two_records_in_one_file_are_not_mixed(pristine: bytes, path: Path, fault: Fault) -> None:
    """Where two lines claim one number the first counts, and no run is made of two."""
    fault(Row.JOURNAL)
    path.write_bytes(pristine)
    whole = Record.of(read(path))
    other = [encode(event | {"time": event["time"] + 1}) for event in read(path)]
    path.write_bytes(b"".join([*lines_of(pristine)[:30], *other]))
    assert repair(path).damaged == tuple(range(31, 61))
    record = Record.of(read(path))
    assert {key for key in whole.ended if record.is_done(key)} == whole.ended.keys()
    path.write_bytes(b"".join([*lines_of(pristine)[:30], *other[40:]]))
    repair(path)
    record = Record.of(read(path))
    gone = [event for event in lines_of(pristine)[30:40] if b'"index"' in event or b'"run_started"' in event or b'"run_ended"' in event]
    assert whole.ended.keys() - {key for key in whole.ended if record.is_done(key)} == {key_of(line) for line in gone}


def key_of(line: bytes) -> str:
    event = decode(line)
    assert event is not None
    return str(event["key"])


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"not a record"], ids=["empty", "zeros", "torn"])
def test_a_record_without_a_whole_line_is_one_that_has_not_begun(path: Path, content: bytes, fault: Fault) -> None:
    fault(Row.JOURNAL)
    path.write_bytes(content)
    assert list(read(path)) == [] and repair(path).original is None
    journal = Journal(path)
    assert journal.append("plan")["n"] == 0
    journal.close()


def test_nothing_that_can_be_kept_is_not_made_an_empty_record(path: Path, fault: Fault) -> None:
    fault(Row.JOURNAL)
    path.write_bytes(b"these are\nsome other\nlines\n")
    with pytest.raises(DamageError, match="no line of it can be read by this version"):
        repair(path)
    assert path.read_bytes() == b"these are\nsome other\nlines\n" and list(path.parent.iterdir()) == [path]


def test_an_unfinished_run_with_a_gap_does_not_go_on_from_its_checkpoint(pristine: bytes, path: Path, fault: Fault) -> None:
    """Its checkpoint would bring back the weights, and not the line that is lost."""
    fault(Row.JOURNAL)
    path.write_bytes(pristine)
    events = list(read(path))
    end = next(event for event in reversed(events) if event["event"] == "run_ended")
    own = [event["n"] for event in events if event.get("key") == end["key"] and "index" in event]
    lines = lines_of(pristine)[: end["n"]]
    lines[own[1]] = lost(lines[own[1]])
    path.write_bytes(b"".join(lines))
    assert repair(path).void == (end["key"],)
    assert end["key"] not in Record.of(read(path)).started


def test_repairs_keep_every_damaged_record(pristine: bytes, path: Path, fault: Fault) -> None:
    fault(Row.JOURNAL)
    path.write_bytes(pristine)
    damaged = []
    for number in (3, 9, 4):
        lines = lines_of(path.read_bytes())
        lines[number] = lost(lines[number])
        damaged.append(b"".join(lines))
        path.write_bytes(damaged[-1])
        repair(path)
    assert [(path.parent / f"journal.damaged-{n}.jsonl").read_bytes() for n in (1, 2, 3)] == damaged
    assert len(list(path.parent.iterdir())) == 4


@pytest.mark.parametrize("place", ["repair.write", "repair.sync", "repair.rename", "repair.renamed"])
def test_a_repair_that_is_killed_can_be_given_again(pristine: bytes, path: Path, place: str, fault: Fault) -> None:
    fault(Row.FAILPOINTS)
    damaged = flipped(pristine, 8 * 5000)
    path.write_bytes(damaged)
    code = "import sys; from pathlib import Path; from harness.repair import repair; repair(Path(sys.argv[1]))"
    environment = os.environ | {VARIABLE: place, "PYTHONPATH": str(toy.ROOT)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False).returncode == -signal.SIGKILL
    repair(path)
    assert repair(path).original is None
    assert sorted(p.name for p in path.parent.iterdir()) == ["journal.damaged-1.jsonl", "journal.jsonl"]
    assert (path.parent / "journal.damaged-1.jsonl").read_bytes() == damaged


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="whole studies: set FAULTS")
@pytest.mark.parametrize("kind", ["cut", "plan", "selected", "evaluation", "run_ended"])
def test_the_study_goes_on_to_equal_results(finished_study: Path, pristine: bytes, tmp_path: Path, kind: str, fault: Fault) -> None:
    """Through the command line: refused with exit 6, repaired by the command it names, run again. Two bits: the line is lost."""
    fault(Row.JOURNAL)
    path = toy.journal(toy.planned(tmp_path / "damaged", finished_study))
    lines = lines_of(pristine)
    place = next((n for n in count() if b'"event":"%s"' % kind.encode() in lines[n]), 0) if kind != "cut" else 0
    if kind == "cut":
        path.write_bytes(pristine[: 2 * len(pristine) // 3])
    else:
        path.write_bytes(flipped(flipped(pristine, start := 8 * sum(map(len, lines[:place])) + 8 * 30), start + 17))
        refused = toy.run(tmp_path / "damaged")
        assert refused.code == 6 and f"journal.jsonl:{place + 1}: " in refused.err and "python -m harness repair toy" in refused.err
        repaired = toy.finish(toy.start(tmp_path / "damaged", "repair", "toy", module="harness"))
        assert repaired.code == 0 and f"damaged lines: {place + 1}." in repaired.out
    ended = toy.run(tmp_path / "damaged")
    assert ended.code == 0, ended.err
    mine, whole = (toy.results(folder) for folder in (tmp_path / "damaged", finished_study))
    assert mine.equals(whole)
