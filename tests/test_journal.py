"""The record on disk: what is appended comes back, a torn tail is recovered, and damage is named and never made worse."""

import errno
import json
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import failpoints
from harness.errors import DamageError, LockedError, StorageError
from harness.journal import FORMAT, Journal, encode, read, read_from
from harness.record import Record

VALUES: list[Any] = [
    "",
    "line\nbreaks\r\n and \r",
    "separators \u2028 \u2029 \x85 \x1c",
    "lone surrogates \ud800 \udfff and a pair in halves \ud83d\ude00 and whole \U0001f600",
    "controls \x00\x07\x1b\x7f\ufeff\uffff",
    '"quotes" \\ back / \' ` {"n": 0}',
    0,
    -(2**70),
    0.1 + 0.2,
    5e-324,
    -0.0,
    1.7976931348623157e308,
    True,
    None,
    [],
    {},
    {"deep": [{"er": [1, [2.5, None, "x"]]}]},
]


def written(path: Path, count: int = 12) -> list[dict[str, Any]]:
    """A record of a few events of different lengths."""
    journal = Journal(path)
    events = [journal.append("points", key="k" * i, text=f"{i} \u2028\n", values=[i / 7] * (i % 4)) for i in range(count)]
    journal.close()
    return events


def exact(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_come_back_as_they_were(tmp_path: Path, value: Any) -> None:
    journal = Journal(tmp_path / "j")
    told = [journal.append("points", value=value, inside=[value, {"a": value}]) for _ in range(2)]
    journal.close()
    assert (tmp_path / "j").read_bytes().count(b"\n") == 2
    back = list(read(tmp_path / "j"))
    assert exact(back) == exact(told)
    assert exact(back[0]["value"]) == exact(value) and exact(back[1]["inside"]) == exact([value, {"a": value}])
    assert [event["n"] for event in back] == [0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null_and_tuples_lists(tmp_path: Path, value: float) -> None:
    journal = Journal(tmp_path / "j")
    told = journal.append("evaluation", val_nll=value, series=(1.5, value), deep={"er": [{"x": (value,)}]})
    journal.close()
    (back,) = read(tmp_path / "j")
    assert back == told
    assert (back["val_nll"], back["series"], back["deep"]) == (None, [1.5, None], {"er": [{"x": [None]}]})


def test_every_cut_of_the_end_recovers_whole_lines_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    events = written(path)
    whole = path.read_bytes()
    for cut in range(1, 201):
        path.write_bytes(whole[:-cut])
        kept = whole[:-cut].count(b"\n")
        assert list(read(path)) == events[:kept]
        journal = Journal(path)
        assert journal.recovered_bytes == len(whole) - cut - len(b"".join(whole.splitlines(keepends=True)[:kept]))
        new = journal.append("points", after=cut)
        journal.close()
        assert list(read(path)) == [*events[:kept], new]
        assert new["n"] == kept


def test_a_last_line_that_a_power_cut_left_with_zeros_inside_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    events = written(path)
    data = bytearray(path.read_bytes())
    data[-20:-5] = bytes(15)
    path.write_bytes(data)
    assert list(read(path)) == events[:-1]
    journal = Journal(path)
    assert journal.append("points")["n"] == len(events) - 1
    journal.close()


def test_damage_to_the_last_line_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "j"
    events = written(path)
    data = bytearray(path.read_bytes())
    data[-10] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(DamageError, match=rf"j:{len(events)}: "):
        Journal(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("tail", [b"", b'0badc0de {"n":'], ids=["whole", "torn"])
@pytest.mark.parametrize("line", [0, 1, 5, 9])
def test_a_flipped_bit_is_refused_by_its_line_and_nothing_changes_on_disk(tmp_path: Path, line: int, tail: bytes) -> None:
    path = tmp_path / "j"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    start = sum(map(len, lines[:line]))
    for place in (0, 8, 9, len(lines[line]) // 2, len(lines[line]) - 2, len(lines[line]) - 1):
        data = bytearray(b"".join(lines))
        data[start + place] ^= 0x01
        path.write_bytes(bytes(data) + tail)
        with pytest.raises(DamageError, match=rf"j:{line + 1}: .*Nothing was changed"):
            Journal(path)
        with pytest.raises(DamageError, match=rf"j:{line + 1}: "):
            list(read(path))
        assert path.read_bytes() == bytes(data) + tail


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], 5),
        (lambda lines: lines[:3] + lines[4:], 4),
        (lambda lines: lines[:-2] + lines[-1:], 11),
        (lambda lines: [*lines, encode({"n": 12.5, "event": "x"})], 13),
        (lambda lines: [lines[0], b"\n", *lines[1:]], 2),
    ],
    ids=["swapped", "doubled", "missing", "missing before the last", "number", "blank"],
)
def test_lines_out_of_order_are_refused(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int) -> None:
    path = tmp_path / "j"
    written(path)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DamageError, match=rf"j:{line}: "):
        Journal(path)


def test_reading_from_any_offset_is_the_rest_of_reading_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    events = written(path)
    marks = list(read_from(path, 0, 0))
    assert [event for event, _ in marks] == events
    assert marks[-1][1] == path.stat().st_size
    for line, (_, offset) in enumerate(marks, start=1):
        assert [event for event, _ in read_from(path, offset, line)] == events[line:]


def test_a_reader_follows_a_writer_at_any_byte(tmp_path: Path) -> None:
    whole, offset = tmp_path / "j", 0
    seen: list[dict[str, Any]] = []
    events = written(whole)
    data, partial = whole.read_bytes(), tmp_path / "partial"
    for size in range(0, len(data) + 1, 3):
        partial.write_bytes(data[:size])
        for event, behind in list(read_from(partial, offset, len(seen))):
            seen.append(event)
            offset = behind
    partial.write_bytes(data)
    assert [*seen, *(event for event, _ in read_from(partial, offset, len(seen)))] == events


def test_a_missing_and_an_empty_record_have_no_events(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none")) == []
    journal = Journal(tmp_path / "new" / "j")
    assert list(read(journal.path)) == []
    assert journal.append("plan")["n"] == 0
    journal.close()


def test_a_full_disk_leaves_whole_lines_and_the_record_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    events = written(path)
    journal = Journal(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"a limit on the size of files is reached: .*j could not be written"):
            journal.append("points", text="x" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(read(path)) == events
    assert path.read_bytes().endswith(b"\n")
    new = journal.append("points", text="there is room again")
    journal.close()
    assert list(read(path)) == [*events, new]
    assert new["n"] == len(events)


@pytest.mark.parametrize(
    "place, goes_on", [("journal.write", True), ("journal.written", False), ("journal.sync", False), ("journal.synced", False)]
)
def test_a_disk_that_fills_up_at_any_moment_leaves_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, goes_on: bool
) -> None:
    """Behind a line that may not be durable nothing is written by this process: its number is taken."""
    journal = Journal(tmp_path / "j")
    journal.append("plan")
    with monkeypatch.context() as full:
        full.setenv(failpoints.VARIABLE, f"{place}:1:full")
        with pytest.raises(StorageError, match=r"the disk is full: .*j could not be written"):
            journal.append("run_ended", key="a")
    if goes_on:
        journal.append("run_ended", key="b")
    else:
        with pytest.raises(StorageError, match="could not be written before"):
            journal.append("run_ended", key="b")
    journal.close()
    assert [event.get("key") for event in read(tmp_path / "j")] == [None, "b" if goes_on else "a"]
    again = Journal(tmp_path / "j")
    assert again.append("points")["n"] == 2
    again.close()


def test_an_fsync_that_failed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    calls = []

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="the disk reports an error"):
        journal.append("plan")
    with pytest.raises(StorageError, match="could not be written before"):
        journal.append("plan")
    journal.close()
    assert len(calls) == 1


def test_a_record_that_somebody_else_wrote_to_or_removed_is_let_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("plan")
    other = Journal(tmp_path / "j")
    other.append("points")
    other.close()
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(LockedError, match=r"another process has written to .*j: this one stops"):
        journal.append("points")
    assert (tmp_path / "j").read_bytes() == before
    (tmp_path / "j").unlink()
    with pytest.raises(StorageError, match="was removed while the study ran"):
        journal.append("points")
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_the_guard_says_no(tmp_path: Path) -> None:
    def guard() -> None:
        raise LockedError("taken over")

    journal = Journal(tmp_path / "j", guard)
    with pytest.raises(LockedError):
        journal.append("points")
    journal.close()
    assert (tmp_path / "j").read_bytes() == b""


def test_a_record_of_a_later_version_is_refused_as_such_and_what_it_adds_to_this_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    first = journal.append("plan", study={}, plan={}, data={}, colour="new")
    known = [first, journal.append("run_started", key="k")]
    journal.append("dreamt", of="sheep")
    journal.append("dreamt", index=3)
    journal.close()
    assert first["format"] == FORMAT and [event["event"] for event in read(path)][2:] == ["dreamt", "dreamt"]
    assert Record.of(read(path)).started == Record.of(known).started
    path.write_bytes(encode(first | {"format": FORMAT + 1}))
    with pytest.raises(DamageError, match=f"j:1: this record has format {FORMAT + 1}, .* the version that wrote it"):
        Journal(path)


def test_a_folder_in_place_of_the_record_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    for use in (Journal, lambda path: list(read(path))):
        with pytest.raises(StorageError, match=r"a folder is in its place: .*j could not be"):
            use(tmp_path / "j")


def test_reopening_goes_on_with_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for start in range(3):
        journal = Journal(path)
        journal.append("invocation", id=str(start))
        journal.close()
    assert [(event["n"], event["id"]) for event in read(path)] == [(0, "0"), (1, "1"), (2, "2")]
