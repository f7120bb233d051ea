"""What is checked before the first step, and what a start says has changed since the last."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness import memory, preflight
from harness.errors import PreflightError
from harness.plan import Plan
from harness.record import Record
from tests.fakes import make_plan, make_study

MUCH = 10**15


def plan() -> Plan:
    return replace(make_plan(make_study()), workers=2)


def check(free_disk: int = MUCH, free_memory: int | None = MUCH, done: float = 0.0) -> None:
    preflight.check(plan(), done, free_disk, free_memory, Path("mlruns"))


def test_a_plan_that_fits_goes_through_and_no_word_of_memory_is_no_reason_to_refuse() -> None:
    check()
    check(free_memory=None)


def test_a_disk_that_is_too_small_by_a_byte_is_refused_and_what_is_done_needs_no_room() -> None:
    needed = plan().disk_bytes
    check(free_disk=needed)
    with pytest.raises(PreflightError, match=r"disk: the plan needs about .* under mlruns/, .* are free\. Make room"):
        check(free_disk=needed - 1)
    check(free_disk=needed // 2 + 1, done=0.5)


def test_memory_for_all_workers_at_the_largest_rung_or_a_number_of_workers_that_fits() -> None:
    each = max(rung.memory_bytes for rung in plan().kept)
    check(free_memory=2 * each)
    with pytest.raises(PreflightError, match=r"memory: the rung 87k-assignment needs .* in each of 2 workers.*--workers 1 --replan fits"):
        check(free_memory=2 * each - 1)
    with pytest.raises(PreflightError, match=r"leave 87k-assignment out, or lower train\.batch_size"):
        check(free_memory=each - 1)


def test_this_machine_says_how_much_memory_there_is_and_how_much_this_process_has_held() -> None:
    free = memory.available_bytes()
    assert free is None or free > 0
    before = memory.peak_bytes()
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert memory.peak_bytes() >= before and memory.peak_bytes() > len(held)


def recorded() -> Record:
    record = Record()
    record.study, record.data = make_study().model_dump(mode="json"), {"fingerprint": "feedbeef"}
    return record


def test_changes_say_which_of_them_mean_other_runs() -> None:
    assert preflight.changes(recorded(), make_study(), "feedbeef") == []
    # A record of before there were cuts.
    old = recorded()
    del old.study["samples"]["top_k"], old.study["samples"]["top_p"]
    assert preflight.changes(old, make_study(), "feedbeef") == []
    assert preflight.changes(old, make_study(samples={"top_k": [5]}), "feedbeef") == ["samples.top_k: [] -> [5]"]
    changed = preflight.changes(recorded(), make_study(question="why?", seeds=3), "deadbeef")
    assert changed == ["question: q -> why? (same runs)", "seeds: 2 -> 3", "the texts: feedbeef -> deadbeef (other runs)"]


def test_other_code_is_told_by_what_has_changed() -> None:
    record = Record()
    facts = {"versions": {"torch": "2.13.0", "python": "3.11.7"}, "git": {"commit": "a" * 40}}
    assert preflight.other_code(record, facts) == []
    record.invocations["1"] = facts
    assert preflight.other_code(record, facts) == []
    now = {"versions": {"torch": "2.11.0", "python": "3.11.7"}, "git": {}}
    assert preflight.other_code(record, now) == [f"commit: {'a' * 12} -> none", "torch: 2.13.0 -> 2.11.0"]
