"""Each thing is told once: in the record of a study, however often it is started."""

from collections import Counter
from pathlib import Path

import pytest

from harness.checkpoint import load_checkpoint
from harness.invocation import CHECKPOINTS, JOURNAL
from harness.journal import read
from tests import inline
from tests.faults.equal import assert_same_record


def test_a_study_that_has_ended_adds_no_line_when_it_is_started_again(tmp_path: Path) -> None:
    study = inline.prepared()
    inline.run(study, tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    inline.run(study, tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_every_event_of_a_run_has_a_number_of_its_own_and_every_step_one_point(tmp_path: Path) -> None:
    inline.run(inline.prepared(), tmp_path)
    events = list(read(tmp_path / JOURNAL))
    numbers = Counter((event["key"], event["index"]) for event in events if "index" in event)
    steps = Counter((event["key"], step) for event in events if event["event"] == "points" for step in event["step"])
    assert len(numbers) > 20 and set(numbers.values()) == {1}
    assert len(steps) > 20 and set(steps.values()) == {1}


def test_a_checkpoint_that_the_record_is_behind_is_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its run had told before it never came to the record, and would be missing there."""
    study, saves = inline.prepared(search=None, seeds=1), Counter[str]()

    def cut(place: str) -> None:
        saves.update([place])
        if saves["checkpoint.prune"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("harness.checkpoint.failpoint", cut)
        inline.run(study, tmp_path / "cut")
    left, _ = load_checkpoint(next((tmp_path / "cut" / CHECKPOINTS).iterdir()))
    assert left is not None and left.facts["events"] > 0
    assert_same_record(inline.run(study, tmp_path / "cut"), inline.run(study, tmp_path / "whole"))
