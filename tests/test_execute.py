"""A study from start to end in real processes: run once, resumed, interrupted, with workers that die and runs that fail."""

import math
import os
import shutil
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from harness import invocation
from harness.execute import Executor
from harness.failpoints import VARIABLE
from harness.journal import Event, Journal, read
from harness.plan import Machine, make
from harness.pricing import Cost
from harness.record import Record
from harness.spec import Study
from harness.stages import Lane, RateChoice, Stages
from harness.tries import TRIES
from harness.workers import Pool
from tests import toy


def test_a_study_runs_to_its_end(finished_study: Path) -> None:
    frame = pd.read_csv(finished_study / "mlruns/toy/results.csv")
    assert Counter(frame["stage"]) == {"search": 8, "ladder": 6, "ablation": 2}
    assert set(frame["status"]) == {"completed"}
    kept = frame[frame["stage"] != "search"]
    assert kept["test_nll"].notna().all() and frame[frame["stage"] == "search"]["test_nll"].isna().all()
    weights = {path.parent.name for path in (finished_study / "mlruns/toy/checkpoints").glob("*/best.safetensors")}
    assert weights == set(kept["key"])
    assert (finished_study / "mlruns/toy/report/report.md").exists()


def test_the_ladder_trains_at_the_searched_rate_and_ablates_the_best_rung(finished_study: Path) -> None:
    frame = pd.read_csv(finished_study / "mlruns/toy/results.csv")
    chosen = {event["rung"]: event["lr"] for event in toy.events(finished_study, "lr_chosen")}
    tuned = frame[(frame["stage"] == "ladder") & (frame["lr_source"] == "tuned")]
    assert {rung: set(rows["lr"]) for rung, rows in tuned.groupby("rung")} == {rung: {lr} for rung, lr in chosen.items()}
    best = tuned.groupby("rung")["val_nll"].mean().idxmin()
    ablated = frame[frame["stage"] == "ablation"]
    assert (set(ablated["rung"]), set(ablated["train_texts"]), set(ablated["seed"])) == ({best}, {100}, {0, 1})


def test_the_record_tells_each_run_once_and_in_order(finished_study: Path) -> None:
    kinds = [event["event"] for event in toy.events(finished_study)]
    assert kinds[:2] == ["invocation", "plan"] and kinds[-2:] == ["invocation_ended", "reported"]
    assert Counter(kinds)["selected"] == Counter(kinds)["run_started"] == Counter(kinds)["run_ended"] == toy.N_RUNS
    order: dict[str, list[str]] = {}
    for event in toy.events(finished_study, "selected", "run_started", "evaluation", "run_ended"):
        order.setdefault(event["key"], []).append(event["event"])
    assert all(told == ["selected", "run_started", *["evaluation"] * 4, "run_ended"] for told in order.values())


def test_a_second_start_trains_nothing(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "copy"))
    before, record = toy.results(folder), toy.journal(folder).read_bytes()
    again = toy.run(folder)
    assert again.code == 0
    assert f"resumed: {toy.N_RUNS} of {toy.N_RUNS} done" in again.out
    assert toy.journal(folder).read_bytes().startswith(record)
    added = toy.events(folder)[len(toy.events(finished_study)) :]
    assert [event["event"] for event in added] == ["invocation", "invocation_ended", "reported"]
    assert added[1]["completed"] == 0
    pd.testing.assert_frame_equal(toy.results(folder), before, check_exact=True)


def test_interrupted_on_one_worker_and_finished_it_equals_the_uninterrupted_on_two(finished_study: Path, tmp_path: Path) -> None:
    folder = toy.planned(tmp_path / "one", finished_study, workers=1)
    process = toy.start(folder, "toy.yaml", "--no-track")
    toy.wait_for(folder, lambda events: sum(e["event"] == "run_ended" for e in events) >= 5)
    # As a terminal does it: to the driver and to its workers.
    os.killpg(process.pid, signal.SIGINT)
    stopped = toy.finish(process)
    assert (stopped.code, stopped.err) == (130, "")
    assert "stopped; what has ended is kept. go on: python -m harness.run toy.yaml --no-track" in stopped.out
    done = [e for e in toy.events(folder, "run_ended") if e["status"] == "completed"]
    assert 5 <= len(done) < toy.N_RUNS
    last = toy.events(folder)[-1]
    assert (last["event"], last["exit_code"], last["completed"]) == ("invocation_ended", 130, len(done))
    assert not (folder / "mlruns/toy/report").exists() and (folder / "mlruns/toy/results.csv").exists()

    first_lines = len(toy.events(folder))
    finished = toy.run(folder)
    assert finished.code == 0 and f"resumed: {len(done)} of {toy.N_RUNS} done" in finished.out
    again = {e["key"] for e in toy.events(folder)[first_lines:] if e["event"] in ("run_started", "run_resumed")}
    assert not again & {e["key"] for e in done} and len(again) == toy.N_RUNS - len(done)
    pd.testing.assert_frame_equal(toy.results(folder), toy.results(finished_study), check_exact=True)


def test_runs_that_always_fail_are_told_with_a_reason_and_retried_when_asked(finished_study: Path, tmp_path: Path) -> None:
    folder = toy.planned(tmp_path / "failing", finished_study)
    # Every worker dies when it is about to write weights, which trials don't.
    failed = toy.finish(toy.start(folder, "toy.yaml", "--no-track", **{VARIABLE: "weights.write:1"}))
    assert failed.code == 3
    frame = toy.results(folder)
    assert Counter(frame["status"]) == {"completed": 8, "failed": 6}
    failed_rows = frame[frame["status"] == "failed"]
    assert set(failed_rows["stage"]) == {"ladder"} and set(failed_rows["reason"]) == {"its process was ended by signal 9"}
    assert f"warning: {failed_rows['name'].iloc[0]} failed: its process was ended by signal 9" in failed.err
    tries = [e for e in toy.events(folder, "run_ended") if e["key"] == failed_rows.index[0]]
    assert [(e["status"], e["final"]) for e in tries] == [("failed", n + 1 == TRIES) for n in range(TRIES)]
    assert "retry    python -m harness.run toy.yaml --no-track --retry failed" in failed.out
    # The reason gone, they are still not tried behind anybody's back.
    assert toy.run(folder, "--quiet").code == 3
    retried = toy.run(folder, "--retry", "failed")
    assert retried.code == 0, retried.err
    pd.testing.assert_frame_equal(toy.results(folder), toy.results(finished_study), check_exact=True)


def test_a_changed_study_is_planned_anew_and_all_of_it_may_diverge(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "wild"))
    wild = {"search.lr": "{low: 1e3, high: 1e4}", "search.trials": "2", "search.default_lr": "1e3"}
    wild |= {"seeds": "1", "report.formats": "[md,pdf]"}
    ended = toy.run(folder, *(word for key, value in wild.items() for word in ("--set", f"{key}={value}")))
    assert (ended.code, ended.err) == (0, "")
    assert "changed since the last start: search.lr.high: 0.3 -> 10000.0" in ended.out
    assert "no ablations: no ladder run completed" in ended.out
    assert len(toy.events(folder, "plan")) == 2
    # The runs of the old plan are still in the record, and no part of the new results.
    frame = toy.results(folder)
    assert set(frame["status"]) == {"diverged"} and frame["reason"].str.contains("not finite").all()
    assert [e["lr_status"] for e in toy.events(folder, "lr_chosen")][2:] == ["unresolved"] * 2
    assert "diverged" in (folder / "mlruns/toy/report/report.md").read_text(encoding="utf-8")


class Watching:
    """Looks on, and ends the process of a worker that has come to its first evaluation, as often as told."""

    def __init__(self, kills: int = 0) -> None:
        self.kills = kills
        self.pool: Pool | None = None

    def event(self, event: Event) -> None:
        if event["event"] == "evaluation" and self.kills and self.pool is not None:
            self.kills -= 1
            busy = next(worker for worker in self.pool._workers if worker.task is not None)
            busy.process.kill()

    def progress(self, key: str, fields: Mapping[str, Any]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def one_run(folder: Path, watch: Watching) -> Record:
    """Carry out a study of a single run, long enough to be met on its way, in this process."""
    text: dict[str, Any] = {
        "study": "one",
        "question": "q",
        "data": {"texts": 200, "eval_texts": 16},
        "search": None,
        "seeds": 1,
        "within": None,
    }
    text |= {"model": {"rungs": [{"name": "tiny", "n_layer": 1, "d_model": 8, "n_head": 2, "d_ff": 16}]}}
    text |= {"samples": {"texts": 0, "at_best": 0}}
    text |= {"train": {"epochs": None, "max_steps": 160, "evaluations": 10, "patience": None}}
    prepared = invocation.prepare(Study.model_validate(text))
    machine = Machine("cpu", 1, 1, "float32")
    plan = make(prepared.study, prepared.rungs, prepared.size, {"tiny": Cost(1e-3, 1e-4)}, machine, None)
    journal = Journal(folder / "journal.jsonl")
    record = Record.of(read(journal.path))
    with invocation.make_pool(prepared, None, machine, folder) as pool:
        watch.pool = pool
        Executor(journal, record, pool, watch, folder / "checkpoints", "test", None).run(Stages(prepared.study, plan, prepared.size))
    journal.close()
    return record


def replayed(fields: Mapping[str, Any]) -> Lane:
    """A rung's choice, come to without a run."""
    yield RateChoice("20k", {"rung": "20k", "lr": 1e-3, "lr_status": "edge", **fields})


def choices_after(folder: Path, **fields: Any) -> list[Event]:
    """The choices in the record once a start has come to one with these fields."""
    journal = Journal(folder / "journal.jsonl")
    record = Record.of(read(journal.path))
    executor = Executor(journal, record, cast(Pool, SimpleNamespace(busy=0)), Watching(), folder, "test", None)
    executor._walk([replayed(fields)])
    journal.close()
    return [event for event in told(folder) if event["event"] == "lr_chosen"]


def test_a_choice_is_written_again_only_if_something_in_it_has_changed(tmp_path: Path) -> None:
    first = {"trials": 12, "fitted_lr": math.nan, "regret": 0.1 + 0.2, "values": {"train.betas": (0.9, 0.95)}}
    assert len(choices_after(tmp_path, **first)) == 1
    assert len(choices_after(tmp_path, **first)) == 1
    # The rate is the same; what is known of it is not.
    later = choices_after(tmp_path, **first | {"trials": 14, "lr_status": "resolved"})
    assert [(event["lr"], event["trials"], event["lr_status"]) for event in later] == [(1e-3, 12, "edge"), (1e-3, 14, "resolved")]
    assert len(choices_after(tmp_path, **first | {"trials": 14, "lr_status": "resolved"})) == 2


def test_a_run_whose_process_is_killed_is_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    whole, cut = one_run(tmp_path / "whole", Watching()), one_run(tmp_path / "cut", Watching(kills=1))
    (key,) = cut.selected
    ends = [e for e in told(tmp_path / "cut") if e["event"] == "run_ended"]
    assert [e["status"] for e in ends] == ["failed", "completed"]
    assert "signal 9" in ends[0]["reason"]
    # The first try's evaluations are void, and the second has the same numbers as a run that was left in peace.
    assert cut.history(key) == whole.history(key) and len(cut.history(key)) == 10


@pytest.mark.slow
def test_a_run_whose_process_is_killed_every_time_fails(tmp_path: Path) -> None:
    record = one_run(tmp_path, Watching(kills=9))
    assert record.status_counts() == {"failed": 1}
    assert len([e for e in told(tmp_path) if e["event"] == "run_started"]) == TRIES


def told(folder: Path) -> list[Event]:
    return list(read(folder / "journal.jsonl"))
