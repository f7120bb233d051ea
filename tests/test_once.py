"""Each thing is told once: in the record of a study, however often it is started."""

from collections import Counter
from pathlib import Path

from harness.invocation import JOURNAL
from harness.journal import read
from tests import inline


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
