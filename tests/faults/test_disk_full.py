"""The disk is full at the k-th write of a study and stays so: it ends with a sentence, the record stays whole, and with room it goes on."""

import re
from collections import Counter
from pathlib import Path

import pytest

from harness import failpoints
from harness.errors import StorageError
from harness.failpoints import VARIABLE
from harness.invocation import JOURNAL, Prepared
from harness.journal import read
from harness.record import Record
from tests import inline, toy
from tests.faults.equal import assert_as_untouched, assert_same_record, strays, weights
from tests.faults.table import Fault, Row, is_whole

PARTS = 8


@pytest.fixture(scope="module")
def study() -> Prepared:
    return inline.prepared(search={"trials": 2, "batch": 2}, seeds=1)


@pytest.fixture(scope="module")
def whole(study: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, int]:
    """The untouched study, and how many writes and syncs it makes."""
    folder, reached = tmp_path_factory.mktemp("whole"), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("durable", "journal", "checkpoint"):
            patch.setattr(f"harness.{module}.failpoint", lambda name: reached.update([name]))
        record = inline.run(study, folder)
    return folder, record, sum(n for name, n in reached.items() if name.endswith((".write", ".sync")))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_study_that_found_no_room_goes_on_once_there_is_some(
    study: Prepared, whole: tuple[Path, Record, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, what: str, fault: Fault
) -> None:
    finished, record, writes = whole
    cases = range(part + 1, writes + 1, PARTS) if is_whole() else [part * writes // (2 * PARTS) + 1]
    done = 0
    for k in cases:
        folder = tmp_path / str(k)
        failpoints._reached.clear()
        with monkeypatch.context() as full:
            full.setenv(VARIABLE, f"*.{what}:{k}:full")
            try:
                inline.run(study, folder)
            except StorageError as error:
                assert re.search(r"the disk is full: .* could not be written\. What the record holds is kept; make room", str(error))
                done += 1
            else:
                # There are not so many of this kind.
                break
        before = list(read(folder / JOURNAL))
        assert_same_record(inline.run(study, folder), record)
        assert list(read(folder / JOURNAL))[: len(before)] == before
        assert weights(folder) == weights(finished) and not strays(folder)
    fault(Row.DISK_FULL, done)


def test_the_front_door_ends_with_5_and_says_what_to_do(finished_study: Path, tmp_path: Path, fault: Fault) -> None:
    fault(Row.DISK_FULL)
    folder = toy.planned(tmp_path / "full", finished_study)
    ended = toy.finish(toy.start(folder, "toy.yaml", "--no-track", **{VARIABLE: "weights.write:1:full"}))
    assert (ended.code, "Traceback" in ended.err) == (5, False)
    assert "the disk is full: " in ended.err and "make room and give the same command again" in ended.err
    again = toy.run(folder)
    assert again.code == 0, again.err
    assert_as_untouched(folder, finished_study)
