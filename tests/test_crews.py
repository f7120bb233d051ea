"""Who trains with whom, and from where; whole studies in crews, killed and gone on with."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import crew as crew_module
from harness.calibration import crew_of
from harness.crew_sizes import as_they_were, best_size, measure_crews, with_crews
from harness.crews import Saved, crews, going_on
from harness.invocation import JOURNAL
from harness.journal import read
from harness.pricing import Cost
from harness.record import Record
from harness.tries import Tries
from harness.workers import Message
from tests import inline, tiny
from tests.fakes import make_plan, make_study
from tests.faults.equal import assert_same_record

SPECS = tuple(tiny.spec(seed=seed) for seed in range(5))
KEYS = [spec.key for spec in SPECS]


def names(formed: list[tuple[Any, ...]]) -> list[list[int]]:
    return [[spec.seed for spec in members] for members in formed]


def test_who_is_with_whom_does_not_depend_on_what_is_done() -> None:
    assert names(crews(SPECS, KEYS, lambda spec: 2)) == [[0, 1], [2, 3], [4]]
    assert names(crews(SPECS, KEYS, lambda spec: 4)) == [[0, 1, 2], [3, 4]]
    assert names(crews(SPECS, KEYS[1:3], lambda spec: 2)) == [[1], [2]]
    assert names(crews(SPECS, KEYS[2:], lambda spec: 4)) == [[2], [3, 4]]
    assert names(crews(SPECS, KEYS, lambda spec: 1)) == [[seed] for seed in range(5)]


def test_runs_that_can_not_be_together_are_not_and_keep_their_order() -> None:
    mixed = [replace(spec, train_texts=50) if spec.seed in (1, 3) else spec for spec in SPECS]
    assert names(crews(mixed, [spec.key for spec in mixed], lambda spec: 9)) == [[0, 2, 4], [1, 3]]
    learned = [replace(spec, padding="learn") for spec in SPECS]
    assert names(crews(learned, [spec.key for spec in learned], lambda spec: 9)) == [[seed] for seed in range(5)]


def at(*steps: int, over: bool = False) -> list[Saved]:
    return [Saved(step, 10 * step, over) for step in steps]


def places(*saved: list[Saved]) -> list[dict[int, int]]:
    parts = going_on(SPECS[: len(saved)], dict(zip(KEYS, saved, strict=False)))
    return [{KEYS.index(key): one.step if one else 0 for key, one in part.items()} for part in parts]


def test_a_crew_goes_on_from_the_last_step_that_all_of_it_have() -> None:
    assert places(at(20, 10), at(20, 10)) == [{0: 20, 1: 20}]
    # Cut off while it was saved, for the first time or a later one.
    assert places(at(20, 10), at(10, 5), at(20, 10)) == [{0: 10, 1: 10, 2: 10}]
    assert places(at(10), at(), at()) == [{0: 0, 1: 0, 2: 0}]
    assert places(at(), at()) == [{0: 0, 1: 0}]
    # One that only has to be scored holds nobody up.
    assert places(at(20, 10), at(19, 10, over=True), at(20, 10)) == [{0: 20, 1: 19, 2: 20}]
    assert places(at(7, over=True)) == [{0: 7}]
    assert places(at(7)) == [{0: 7}]


def test_members_that_have_no_step_in_common_go_on_apart_and_lose_nothing() -> None:
    assert places(at(20, 15), at(10, 5), at(20, 16)) == [{0: 20, 2: 20}, {1: 10}]
    assert places(at(20, 15), at(), at()) == [{0: 20}, {1: 0, 2: 0}]


def test_a_crew_that_fails_is_tried_again_then_alone_and_halved_for_want_of_memory() -> None:
    tries = Tries(set(), {})
    assert names(tries.crew_failed(SPECS, "", 5)) == [[0, 1, 2, 3, 4]]
    assert names(tries.crew_failed(SPECS, "", 5)) == [[0], [1], [2], [3], [4]]
    assert tries.crew_of(SPECS[0], 5) == 5
    # Cut by the new size before it begins.
    assert names(tries.crew_failed(SPECS, "memory", 5)) == [[0, 1, 2, 3, 4]]
    assert tries.crew_of(SPECS[0], 5) == 2
    # Two that were left of a larger crew and don't fit either: a half of its size would be the same two.
    few = Tries(set(), {})
    few.crew_failed(SPECS[:2], "memory", 5)
    assert few.crew_of(SPECS[0], 5) == 1
    started = [{"n": 0, "time": 0.0, "event": "run_started", "key": "k", "spec": SPECS[0].to_dict(), "crew_parts": 2}]
    assert Tries.after(Record.of(started), retry=False).crew_of(SPECS[0], 5) == 2
    # It goes on from its checkpoint in a smaller crew: neither the size nor the company is that of its start.
    resumed = [
        {**started[0], "crew_parts": 1, "crew": list("abcdefgh")},
        {**started[0], "n": 1, "event": "run_resumed", "step": 5, "events": 0, "crew_parts": 4, "crew": ["k", "b"]},
    ]
    record = Record.of(resumed)
    assert Tries.after(record, retry=False).crew_of(SPECS[0], 8) == 2 and crew_of(record, "k") == 2
    del resumed[1]["crew"]
    assert crew_of(Record.of(resumed), "k") == 1
    # A batch that goes through in parts does so by itself.
    tries.failed(SPECS[0], "memory")
    assert tries.crew_of(SPECS[0], 5) == 1


STUDY: dict[str, Any] = {
    "search": {"batch": 4, "trials": 8, "pruner": "median", "extend": 0},
    "seeds": 3,
    "train": {"evaluations": 3, "patience": 1},
}


@pytest.fixture(scope="module")
def in_a_crew(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The study in crews of 4, never stopped."""
    folder = tmp_path_factory.mktemp("crew")
    return inline.run(inline.prepared(crew=4, **STUDY), folder), folder


def test_a_study_in_crews_has_the_results_of_one_without(in_a_crew: tuple[Record, Path], tmp_path: Path) -> None:
    record, folder = in_a_crew
    lone = inline.run(inline.prepared(crew=1, **STUDY), tmp_path)
    assert list(record.selected) == list(lone.selected)
    for key in lone.selected:
        ours, theirs = record.ended[key], lone.ended[key]
        exact = ("status", "steps", "best_step", "train_tokens", "unique_tokens", "train_flops", "events")
        assert {name: ours[name] for name in exact} == {name: theirs[name] for name in exact}
        for name in ("val_nll", "val_top1") if lone.selected[key]["stage"] == "search" else ("val_nll", "val_top1", "test_nll"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), (key, name)
        assert [s["texts"] for s in record.samples[key]] == [s["texts"] for s in lone.samples[key]]
    assert {"pruned", "completed"} <= record.status_counts().keys()
    assert record.chosen["tiny"]["lr"] == lone.chosen["tiny"]["lr"]
    # Each run names those that it began with; a study without crews says nothing of them.
    with_whom = Counter(len(event.get("crew", ())) for event in record.started.values())
    assert with_whom == {4: len(record.started)} and not any("crew" in event for event in lone.started.values())
    assert all(key in event["crew"] for key, event in record.started.items())
    assert not list(folder.rglob("step-*")) and not list(folder.rglob("*.part"))


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("place", range(8))
def test_a_crew_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    in_a_crew: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """At eight places all over the saving of checkpoints, most of them in the middle of that of a crew."""
    study, reached = inline.prepared(crew=4, **STUDY), 0

    def die(name: str) -> None:
        nonlocal reached
        reached += name == "checkpoint.rename"
        if reached == 2 + 5 * place:
            raise Killed

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr("harness.checkpoint.failpoint", die)
        inline.run(study, tmp_path)
    assert_same_record(inline.run(study, tmp_path), in_a_crew[0])
    kept = {path.parent.name: path.read_bytes() for path in in_a_crew[1].rglob("best.safetensors")}
    assert {path.parent.name: path.read_bytes() for path in tmp_path.rglob("best.safetensors")} == kept


def test_a_crew_too_large_for_the_memory_is_halved_and_a_later_start_knows(
    in_a_crew: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, watch = crew_module.Crew.__init__, inline.Watch()

    def too_large(self: crew_module.Crew, specs: Any, *given: Any) -> None:
        if len(specs) > 2:
            raise torch.OutOfMemoryError("out of memory")
        begin(self, specs, *given)

    monkeypatch.setattr(crew_module.Crew, "__init__", too_large)
    record = inline.run(inline.prepared(crew=4, **STUDY), tmp_path, watch)
    assert record.status_counts() == in_a_crew[0].status_counts()
    assert {len(event["crew"]) for event in record.started.values()} == {2} and {e["crew_parts"] for e in record.started.values()} == {2}
    assert len([text for text in watch.said if "at most 2 of them together" in text]) == 1
    failed = [event for event in read(tmp_path / JOURNAL) if event.get("status") == "failed"]
    assert len(failed) == 4 and not any(event["final"] for event in failed)


def test_the_size_is_the_studys_or_the_smallest_that_costs_nearly_the_least() -> None:
    assert best_size({1: 1.0, 2: 0.52, 4: 0.3, 8: 0.29, 16: 0.31}) == 4
    assert best_size({1: 1.0, 2: 1.1}) == 1
    probes, costs = {"tiny": SPECS[0], "other": replace(SPECS[0], padding="learn")}, {"tiny": Cost(1.0, 1.0), "other": Cost(1.0, 1.0)}
    asked: Any = None
    given = with_crews(make_study(crew=3), probes, costs, "cpu", asked)
    assert {rung: cost.crew for rung, cost in given.items()} == {"tiny": 3, "other": 1}
    assert {cost.crew for cost in with_crews(make_study(), probes, costs, "cpu", asked).values()} == {1}


class Answering:
    """A pool that answers as a worker of another device would."""

    def __init__(self, size: int = 1, error: str = "") -> None:
        self.size, self.error = size, error
        self.told: list[Any] = []

    def submit(self, task: Any) -> None:
        self.told.append(task)

    def poll(self, timeout: float) -> list[Message]:
        if self.error:
            return [Message("error", self.told[-1], fields={"reason": self.error})]
        sizes = [(1, 1.0), (2, 0.6), (4, 0.31), (6, 0.3)]
        return [Message("result", self.told[-1], fields={"step_s": [pair for pair in sizes if pair[0] <= len(self.told[-1].specs)]})]


def test_crews_are_measured_where_a_device_may_be_left_idle() -> None:
    """The pool answers as a worker of another device would; the sizes are what a search and its seeds can fill."""
    study = make_study(search={"trials": 6, "batch": 6})
    found = measure_crews([replace(SPECS[0], trial=k) for k in range(6)], tiny.corpus(), "cpu")
    assert [size for size, _ in found["step_s"]] == [1, 2, 4, 6] and all(seconds > 0 for _, seconds in found["step_s"])
    pool = Answering()
    # What runs took so far, in whatever company, is no measure of one by itself.
    cost = with_crews(study, {"tiny": SPECS[0]}, {"tiny": Cost(0.1, 1.0)}, "cuda", pool)["tiny"]
    assert (cost.crew, cost.step_s, len(pool.told[0].specs)) == (4, 0.31, 6)
    assert [cost.of_crew(n).step_s for n in (1, 2, 3, 4, 6)] == pytest.approx([1.0, 0.6, 0.6, 0.31, 0.6])
    # Nine are three crews of three, five are three and two.
    assert cost.of_crew(9).step_s == cost.of_crew(5).step_s == pytest.approx(0.6)
    # Runs by themselves that have ended know more than a few steps do.
    ended = with_crews(study, {"tiny": SPECS[0]}, {"tiny": Cost(1.5, 1.0, margin=1.0, runs=9)}, "cuda", pool)["tiny"]
    assert (ended.step_s, ended.of_crew(1).step_s, ended.margin) == (pytest.approx(1.5 * 0.31), pytest.approx(1.5), 1.0)
    given = with_crews(make_study(crew=2, search={"batch": 6}), {"tiny": SPECS[0]}, {"tiny": Cost(1.0, 1.0)}, "cuda", pool)["tiny"]
    assert (given.crew, given.step_s, len(pool.told[2].specs)) == (2, 0.6, 2)


def test_no_crew_leaves_a_device_without_work() -> None:
    study, pool = make_study(search={"trials": 4, "batch": 4}, seeds=3), Answering(size=4)
    with_crews(study, {"tiny": SPECS[0], "other": SPECS[1]}, {"tiny": Cost(1.0, 1.0), "other": Cost(1.0, 1.0)}, "cuda", pool)
    assert [len(task.specs) for task in pool.told] == [2, 2]
    in_turn = make_study(search={"trials": 4, "batch": 4, "transfer": "predict", "transfer_from": 2}, seeds=3)
    with_crews(in_turn, {"tiny": SPECS[0], "other": SPECS[1]}, {"tiny": Cost(1.0, 1.0), "other": Cost(1.0, 1.0)}, "cuda", pool)
    assert len(pool.told) == 2
    three = Answering(size=3)
    with_crews(study, {"tiny": SPECS[0], "other": SPECS[1]}, {"tiny": Cost(1.0, 1.0), "other": Cost(1.0, 1.0)}, "cuda", three)
    assert [len(task.specs) for task in three.told] == [2, 2]
    assert with_crews(study, {"tiny": SPECS[0]}, {"tiny": Cost(1.0, 1.0)}, "cuda", pool)["tiny"].crew == 1 and len(pool.told) == 2


@pytest.mark.parametrize("crew", ["auto", 3])
def test_crews_that_cannot_be_measured_are_said_and_their_runs_train_one_by_one(crew: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = Answering(error="RuntimeError: the worker was killed")
    cost = with_crews(make_study(crew=crew), {"tiny": SPECS[0]}, {"tiny": Cost(1.0, 1.0)}, "cuda", pool)["tiny"]
    assert (cost.crew, cost.step_s) == (1, 1.0) and "worker was killed" in caplog.text


def test_trials_that_differ_in_what_a_crew_shares_are_priced_by_themselves() -> None:
    space = {"train.batch_size": {"choices": [8, 16]}}
    study = make_study(search={"trials": 6, "batch": 6, "pruner": "none", "space": space, "extend": 0}, seeds=2)
    pool = Answering()
    assert with_crews(study, {"tiny": SPECS[0]}, {"tiny": Cost(1.0, 1.0)}, "cuda", pool)["tiny"].crew == 2
    rungs = [rung.rung for rung in make_plan(study).rungs]
    in_pairs = make_plan(study, costs={rung: Cost(0.6, 0.001, crew=2, crew_step_s=((1, 1.0), (2, 0.6))) for rung in rungs})
    alone = make_plan(study, costs={rung: Cost(1.0, 0.001) for rung in rungs})
    for pairs, one in zip(in_pairs.rungs, alone.rungs, strict=True):
        # Two seeds, at the smallest batch of a quarter of the study's own, and the default rate: only these have company.
        assert one.estimated_s - pairs.estimated_s == pytest.approx(1.1 * (2 * 4 + 1) * one.steps * 0.4)


def test_a_plan_prices_runs_by_the_company_that_they_can_have() -> None:
    """Eight trials at a time fill a crew of eight; three seeds and the default never do."""
    study = make_study(search={"trials": 8, "batch": 8, "pruner": "median"}, seeds=3)
    pairs = ((1, 1.0), (2, 0.6), (4, 0.4), (8, 0.1))
    rungs = [rung.rung for rung in make_plan(study).rungs]
    by_company, by_eights = (
        make_plan(study, costs={rung: Cost(0.1, 0.001, crew=8, crew_step_s=steps) for rung in rungs}) for steps in (pairs, ((8, 0.1),))
    )
    for fair, cheap in zip(by_company.rungs, by_eights.rungs, strict=True):
        assert fair.estimated_s - cheap.estimated_s == pytest.approx(1.1 * 4 * fair.steps * (0.4 - 0.1))
        # What a kept run takes beside its steps is the same in either.
        assert fair.run_s is not None and cheap.run_s is not None
        assert fair.run_s - fair.steps * fair.priced_step_s == pytest.approx(cheap.run_s - cheap.steps * cheap.priced_step_s)


def test_crews_that_have_ended_price_the_next_ones() -> None:
    probed = Cost(0.2, 1.0, process_bytes=5, crew=4, crew_step_s=((1, 0.5), (4, 0.2)), text_step_s=0.01)
    assert as_they_were(probed, None) == probed
    found = as_they_were(probed, Cost(0.3, 2.0, margin=1.0, runs=9))
    assert (found.crew, found.step_s, found.text_s, found.runs, found.process_bytes, found.text_step_s) == (4, 0.3, 2.0, 9, 5, 0.01)
    assert found.of_crew(3).step_s == pytest.approx(0.75)
    # Trials write no texts.
    of_trials = as_they_were(replace(probed, margin=1.1, sample_end_s=3.0, sample_best_s=0.5), Cost(0.3, 2.0, margin=1.0, runs=9))
    assert (of_trials.sample_end_s, of_trials.sample_best_s) == (pytest.approx(3.3), pytest.approx(0.55))


def test_a_crew_needs_the_memory_and_the_disk_of_all_its_members() -> None:
    study = make_study()
    one = make_plan(study)
    four = make_plan(study, costs={rung.rung: Cost(rung.step_s, 0.001, crew=4) for rung in one.rungs})
    assert [rung.crew for rung in four.rungs] == [4, 4, 4]
    assert all(more.memory_bytes > less.memory_bytes for more, less in zip(four.rungs, one.rungs, strict=True))
    assert four.disk_bytes > one.disk_bytes
