"""The record in memory and the tables made of it: which facts stand, and that the flat result is what other tools rely on."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.held_out import Lock, held_out_rung
from harness.journal import Event, Journal, read
from harness.plan import Plan
from harness.record import Record
from harness.results import FURTHER_COLUMNS, PUBLIC_COLUMNS, Results, frame, from_events, from_record, write_csv
from harness.runspec import RunSpec
from harness.stages import Group, Stages
from tests.fakes import SIZE, make_plan, make_study

STUDY = make_study(train={"epochs": 40, "min_steps": 60})
PLAN = make_plan(STUDY, within_s=240)
# Word for word what the documentation promises to other people's tools.
PROMISED = """key stage rung family arch n_params non_embedding_params train_texts seed lr
    lr_source lr_status status reason epochs train_tokens train_flops val_loss val_nll val_top1
    test_loss test_nll test_nll_se test_top1 test_bits_per_char nll_padded top1_padded pearson_nll_top1 time_s"""


def trial_spec() -> RunSpec:
    group = next(Stages(STUDY, PLAN, SIZE).rung(PLAN.kept[0]))
    assert isinstance(group, Group)
    return group.specs[1]


TRIAL = trial_spec()
LADDER = replace(TRIAL, stage="ladder", seed=0, trial=None, search="", lr=1.1e-3, lr_source="tuned", lr_status="resolved")
SECOND = replace(LADDER, seed=1)
DEFAULT = replace(LADDER, lr=1e-3, lr_source="default", lr_status="")


class Writer:
    """Events as the driver writes them, through a journal on disk."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path / "journal.jsonl")
        self.note("invocation", id="i1", command="c", host="h", pid=1, started="2026-01-01T00:00:00", git={}, versions={})
        self.plan()

    def note(self, kind: str, **fields: Any) -> Event:
        return self.journal.append(kind, **fields)

    def plan(self, plan: Plan = PLAN) -> None:
        self.note(
            "plan", study=STUDY.model_dump(mode="json"), plan=plan.to_dict() | {"created": "now"}, data={"source": "wire", "floor": None}
        )

    def select(self, spec: RunSpec) -> None:
        labels = {name: getattr(spec, name) for name in ("stage", "rung", "family", "lr_source", "lr_status")}
        self.note("selected", key=spec.key, name=spec.name, spec=spec.to_dict(), **labels)

    def start(self, spec: RunSpec) -> None:
        self.note("run_started", key=spec.key, name=spec.name, spec=spec.to_dict(), invocation="i1")

    def evaluate(self, spec: RunSpec, nlls: Iterable[float]) -> None:
        for i, nll in enumerate(nlls, start=1):
            values = {"val_loss": nll / 48, "val_nll": nll, "val_nll_se": 0.5, "val_top1": 0.5 - nll / 400, "val_bits_per_char": nll / 33}
            self.note(
                "evaluation", key=spec.key, step=i * 3, tokens=i * 4500, epoch=i / 33, flops=1e9 * i, train_loss=2.0, best=i == 1, **values
            )

    def sample(self, spec: RunSpec, **cut: Any) -> None:
        measures = {
            "distinct_1": 0.9,
            "distinct_2": None,
            "distinct_3": None,
            "known_words": 0.5,
            "copied": 0.0,
            "mean_length": 3.5,
            "ended": 1.0,
        }
        self.note("samples", key=spec.key, at="end", step=6, tokens=9000, temperature=0.8, **cut, texts=["a, b", 'c "d"'], **measures)

    def end(self, spec: RunSpec, status: str = "completed", **fields: Any) -> None:
        ran = {"steps": 62, "epochs": 0.62, "train_tokens": 93_744, "unique_tokens": 93_744, "train_flops": 1.25e10, "best_step": 6}
        ran |= {"tokens_per_second": 31_234.5, "time_s": 3.0625}
        scores = {
            "val_loss": 2.0,
            "val_nll": 96.1,
            "val_top1": 0.4,
            "test_loss": 2.01,
            "test_nll": 96.7,
            "test_nll_se": 0.3,
            "test_top1": 0.39,
        }
        self.note("run_ended", key=spec.key, **{"status": status, "reason": ""} | ran | scores | {"test_bits_per_char": 2.9} | fields)

    def train(self, spec: RunSpec, status: str = "completed", **fields: Any) -> None:
        self.select(spec)
        self.start(spec)
        self.evaluate(spec, (120.0, 99.0, 96.1))
        self.end(spec, status, **fields)

    def record(self) -> Record:
        return Record.of(read(self.journal.path))

    def results(self) -> Results:
        return from_events(read(self.journal.path))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.journal.close()


def row(results: Results, spec: RunSpec) -> Any:
    found = results.runs[results.runs["key"] == spec.key]
    assert len(found) == 1
    return found.iloc[0]


def test_the_fold_is_the_same_live_and_from_disk(writer: Writer) -> None:
    live = writer.record()
    told = [writer.note("lr_chosen", rung="20k", lr=1e-3, fitted_lr=math.nan)]
    writer.train(LADDER)
    for event in [*told, *list(read(writer.journal.path))[3:]]:
        live.add(event)
    assert live == writer.record()


@pytest.mark.parametrize(
    ("status", "done"), [("completed", True), ("pruned", True), ("diverged", True), ("failed", False), ("interrupted", False)]
)
def test_which_endings_stand(writer: Writer, status: str, done: bool) -> None:
    writer.train(LADDER, status, reason="why")
    record = writer.record()
    assert record.is_done(LADDER.key) is done
    assert not record.is_done(SECOND.key)
    assert record.status_counts() == {status: 1}
    assert row(writer.results(), LADDER)[["status", "reason"]].tolist() == [status, "why"]


def test_a_run_that_was_started_again_counts_as_its_last_try(writer: Writer) -> None:
    writer.train(LADDER, "failed", reason="out of memory", tries=1)
    writer.sample(LADDER)
    writer.start(LADDER)
    record = writer.record()
    assert not record.is_done(LADDER.key) and record.history(LADDER.key) == () and not record.samples[LADDER.key]
    assert row(writer.results(), LADDER)["status"] == "interrupted" and record.status_counts() == {}
    writer.evaluate(LADDER, (98.0, 97.0))
    writer.end(LADDER)
    results = writer.results()
    assert writer.record().history(LADDER.key) == ((3, 98 / 48), (6, 97 / 48))
    assert row(results, LADDER)["status"] == "completed" and len(results.evaluations) == 2 and results.samples.empty


def test_a_run_that_is_selected_twice_counts_once_and_keeps_its_first_labels(writer: Writer) -> None:
    writer.train(LADDER)
    writer.select(replace(LADDER, stage="ablation", lr_source="default"))
    results = writer.results()
    assert row(results, LADDER)["stage"] == "ladder" and row(results, LADDER)["lr_source"] == "tuned"
    assert results.runs["key"].dropna().is_unique


def test_losses_that_were_not_finite_are_no_history(writer: Writer) -> None:
    writer.start(TRIAL)
    writer.evaluate(TRIAL, (120.0, math.nan, 110.0))
    assert writer.record().history(TRIAL.key) == ((3, 2.5), (9, 110 / 48))


def test_a_new_plan_keeps_what_was_trained_and_forgets_what_was_chosen(writer: Writer) -> None:
    writer.train(LADDER)
    writer.train(TRIAL)
    writer.note("lr_chosen", rung="20k", lr=1e-3)
    writer.plan(make_plan(STUDY))
    record = writer.record()
    assert record.is_done(LADDER.key) and not record.selected and not record.chosen and record.plan["cut"] == 0
    writer.select(LADDER)
    results = writer.results()
    assert results.runs["key"].tolist() == [LADDER.key] and results.runs["status"].tolist() == ["completed"]
    assert len(results.evaluations) == 3


def test_where_a_rungs_rate_changes_within_a_plan_what_rested_on_it_is_chosen_anew(writer: Writer) -> None:
    other = replace(LADDER, rung="87k", lr=2e-3)
    ablation = replace(other, stage="ablation", train_texts=100)
    writer.train(TRIAL)
    writer.note("lr_chosen", rung="20k", lr=1.1e-3)
    writer.note("lr_chosen", rung="87k", lr=2e-3)
    for spec in (LADDER, DEFAULT, other, ablation):
        writer.train(spec)
    before = writer.record()
    writer.note("lr_chosen", rung="20k", lr=1.1e-3, reason="told in other words")
    assert writer.record().selected == before.selected
    writer.note("lr_chosen", rung="20k", lr=1.3e-3)
    after = writer.record()
    assert set(after.selected) == {TRIAL.key, other.key} and after.is_done(DEFAULT.key)
    writer.select(DEFAULT)
    assert set(writer.record().selected) == {TRIAL.key, other.key, DEFAULT.key}


def test_columns_are_exactly_those_promised_and_in_their_order(writer: Writer, tmp_path: Path) -> None:
    assert PROMISED.split() == PUBLIC_COLUMNS
    for fill in (lambda: None, lambda: writer.train(LADDER)):
        fill()
        runs = writer.results().runs
        assert list(runs.columns) == [*PUBLIC_COLUMNS, *FURTHER_COLUMNS]
        write_csv(runs, tmp_path / "results.csv")
        header = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
        assert header[: len(PROMISED.split())] == PROMISED.split()


def test_rungs_left_out_have_rows_with_their_size(writer: Writer) -> None:
    left = [rung for rung in PLAN.rungs if rung.skipped]
    assert left
    writer.train(LADDER)
    runs = writer.results().runs
    assert runs["status"].tolist() == ["completed", *["skipped"] * len(left)]
    for (_, skipped), rung in zip(runs[runs["status"] == "skipped"].iterrows(), left, strict=True):
        assert (skipped["rung"], skipped["n_params"], skipped["d_ff"]) == (rung.rung, rung.n_params, rung.shape["d_ff"])
        assert skipped["reason"] == rung.skipped and pd.isna(skipped["key"]) and pd.isna(skipped["val_nll"]) and pd.isna(skipped["lr"])


def test_a_run_without_an_end_is_interrupted_and_one_without_a_start_is_not_run(writer: Writer) -> None:
    writer.select(LADDER)
    writer.start(LADDER)
    writer.evaluate(LADDER, (120.0,))
    writer.select(SECOND)
    results = writer.results()
    assert row(results, LADDER)["status"] == "interrupted" and pd.isna(row(results, LADDER)["steps"])
    assert pd.isna(row(results, SECOND)["status"]) and row(results, SECOND)["reason"] == "not run yet"
    assert results.evaluations["key"].tolist() == [LADDER.key]


def test_what_does_not_apply_to_a_run_is_empty(writer: Writer) -> None:
    writer.train(TRIAL, "pruned", **dict.fromkeys(["test_loss", "test_nll", "test_nll_se", "test_top1", "test_bits_per_char"]))
    writer.train(LADDER)
    writer.train(DEFAULT, "diverged", val_loss=None, val_nll=None, val_top1=None, best_step=None)
    results = writer.results()
    trial, ladder, default = (row(results, spec) for spec in (TRIAL, LADDER, DEFAULT))
    assert trial[["lr_source", "lr_status", "test_nll", "nll_padded"]].isna().all() and trial["trial"] == 1
    assert pd.isna(ladder["trial"]) and ladder["lr_status"] == "resolved" and pd.isna(ladder["nll_padded"])
    assert pd.isna(default["lr_status"]) and default["lr_source"] == "default" and pd.isna(default["val_nll"])


def test_values_of_a_row(writer: Writer) -> None:
    writer.train(LADDER)
    found, rung = row(writer.results(), LADDER), PLAN.kept[0]
    assert (found["n_params"], found["non_embedding_params"], found["d_ff"]) == (
        rung.n_params,
        rung.non_embedding_params,
        rung.shape["d_ff"],
    )
    assert found["steps"] == 62 and found["name"] == LADDER.name and found["arch"] == "decoder" and found["seed"] == 0
    assert found["tokens_per_param"] == pytest.approx(93_744 / rung.n_params)
    # Accuracy is a falling line in nll in `evaluate`.
    assert found["pearson_nll_top1"] == pytest.approx(-1)


def test_what_captures_took_is_a_column(writer: Writer) -> None:
    writer.train(LADDER, seconds={"training": [2.5, 2.5], "capturing": [0.5, 0.25]})
    writer.train(SECOND, seconds={"training": [3.0, 3.0]})
    results = writer.results()
    assert row(results, LADDER)["capturing_s"] == 0.5 and np.isnan(row(results, SECOND)["capturing_s"])


def test_tables_beside_the_runs(writer: Writer) -> None:
    writer.train(LADDER)
    writer.sample(LADDER)
    choice = {"family": "assignment", "n_params": 20_000, "lr": 1.1e-3, "lr_status": "resolved", "reason": "r", "trials": 6, "bowl": None}
    writer.note("lr_chosen", rung="20k", **choice)
    writer.note("invocation_ended", id="i1", seconds=12.5, exit_code=0, completed=1)
    results = writer.results()
    assert results.searches["rung"].tolist() == ["20k"] and results.searches["lr"].tolist() == [1.1e-3]
    # A record from before a measure existed has nothing for it.
    assert results.samples.loc[0, ["entropy", "memorised", "self_nll"]].isna().all()
    assert results.samples.loc[0, "texts"] == ["a, b", 'c "d"'] and results.samples.loc[0, "n_params"] == PLAN.kept[0].n_params
    assert results.invocations[["id", "seconds", "exit_code", "completed"]].iloc[0].tolist() == ["i1", 12.5, 0, 1]
    assert results.evaluations["best"].tolist() == [True, False, False] and results.evaluations["best"].dtype == bool
    assert results.evaluations["step"].tolist() == [3, 6, 9] and results.evaluations["rung"].unique().tolist() == ["20k"]


def test_what_was_cut_off_when_texts_were_drawn_is_a_column(writer: Writer) -> None:
    writer.train(LADDER)
    for cut in ({}, {"top_k": 5}, {"top_p": 0.9}):
        writer.sample(LADDER, **cut)
    cuts = writer.results().samples[["top_k", "top_p"]]
    np.testing.assert_array_equal(cuts.to_numpy(float), [[np.nan, np.nan], [5, np.nan], [np.nan, 0.9]])


def test_an_invocation_that_was_killed_has_no_end(writer: Writer) -> None:
    results = writer.results()
    assert results.invocations["id"].tolist() == ["i1"] and results.invocations["seconds"].isna().all()


def test_an_empty_record_has_empty_tables(tmp_path: Path) -> None:
    results = from_record(Record.of([]))
    assert results.runs.empty and results.evaluations.empty and results.searches.empty and results.invocations.empty
    write_csv(results.runs, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines() == [",".join([*PUBLIC_COLUMNS, *FURTHER_COLUMNS])]


def test_the_flat_result_reads_back_with_whole_numbers_whole_and_no_digit_lost(writer: Writer, tmp_path: Path) -> None:
    writer.train(TRIAL, "pruned", reason='pruned, at "step 31"\nand so on')
    writer.train(LADDER, test_nll=96.70000000000002, time_s=0.1 + 0.2)
    writer.train(DEFAULT, "diverged", best_step=None, val_nll=None, reason="surrogate \ud800, line \u2028 separator")
    runs = writer.results().runs
    path = tmp_path / "results.csv"
    write_csv(runs, path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["key"] for r in rows][:3] == [TRIAL.key, LADDER.key, DEFAULT.key]
    assert [(r["seed"], r["steps"], r["train_tokens"], r["n_params"], r["trial"]) for r in rows[:2]] == [
        (str(TRIAL.seed), "62", "93744", str(PLAN.kept[0].n_params), "1"),
        ("0", "62", "93744", str(PLAN.kept[0].n_params), ""),
    ]
    assert (rows[1]["test_nll"], rows[1]["time_s"], rows[1]["lr"]) == ("96.70000000000002", "0.30000000000000004", "0.0011")
    assert rows[2]["best_step"] == "" and rows[2]["val_nll"] == "" and rows[0]["reason"] == 'pruned, at "step 31"\nand so on'
    assert rows[-1]["status"] == "skipped" and rows[-1]["seed"] == ""
    back = pd.read_csv(path, dtype={"key": str})
    for column in back.columns:
        if back[column].dtype != object and pd.api.types.is_numeric_dtype(back[column]):
            assert np.array_equal(back[column].to_numpy(float), pd.to_numeric(runs[column]).to_numpy(float), equal_nan=True), column
    assert not path.with_suffix(".csv.part").exists()


def test_a_number_that_should_be_whole_and_is_not_is_refused(writer: Writer, tmp_path: Path) -> None:
    writer.train(LADDER, train_tokens=10.5)
    with pytest.raises(TypeError):
        write_csv(writer.results().runs, tmp_path / "results.csv")


def test_frames_hold_numbers_as_numbers_and_texts_as_they_are() -> None:
    table = frame(
        [{"rung": "1", "lr": 1, "best": True, "texts": ["a"]}, {"lr": None, "best": None, "extra": 3}], ["rung", "lr", "best", "texts"]
    )
    assert list(table.columns) == ["rung", "lr", "best", "texts"]
    assert table["lr"].dtype == float and math.isnan(table["lr"][1]) and table["best"].tolist() == [True, False]
    assert table["rung"].tolist() == ["1", None] and table["texts"].tolist() == [["a"], None]


def test_events_that_are_not_known_are_passed_over(writer: Writer) -> None:
    before = writer.record()
    writer.note("from_a_later_version", key="x", what=json.loads("[1]"))
    after = writer.record()
    assert replace(after, last_time=before.last_time) == before


def name_held_out(writer: Writer, rung: str) -> None:
    """The study's file as it stands after somebody has named another rung."""
    writer.note("study", study=STUDY.model_dump(mode="json") | {"analysis": {"held_out": rung}})


def test_the_held_out_rung_is_the_one_that_stood_in_the_plan_when_its_first_run_began(writer: Writer) -> None:
    largest = PLAN.kept[-1].rung
    writer.train(TRIAL)
    assert writer.record().lock() == Lock(largest) and writer.record().lock().held
    measured = replace(LADDER, rung=largest)
    writer.train(measured)
    assert writer.results().lock == Lock(largest, largest)
    name_held_out(writer, LADDER.rung)
    assert writer.record().lock().held
    writer.train(SECOND)
    assert writer.record().lock() == Lock(LADDER.rung, LADDER.rung)
    name_held_out(writer, "none")
    assert writer.record().lock() == Lock("") and held_out_rung(writer.record().study, writer.record().plan) == ""


def test_a_held_out_rung_that_is_changed_after_its_training_is_known_as_such(writer: Writer) -> None:
    writer.train(LADDER)
    name_held_out(writer, LADDER.rung)
    lock = writer.record().lock()
    assert lock == Lock(LADDER.rung, PLAN.kept[-1].rung) and not lock.held
    # Also where the study is planned anew: what stood there when the run began is history.
    writer.plan()
    name_held_out(writer, LADDER.rung)
    writer.train(SECOND)
    assert not writer.record().lock().held


def test_a_ladder_that_grows_has_its_new_largest_rung_held_out_before_it_is_trained(writer: Writer) -> None:
    writer.plan(replace(PLAN, rungs=PLAN.kept[:1]))
    writer.train(LADDER)
    assert writer.record().lock() == Lock(LADDER.rung, LADDER.rung)
    writer.plan()
    assert writer.record().lock() == Lock(PLAN.kept[-1].rung) and writer.record().lock().held


def test_to_take_the_largest_rung_away_makes_no_prediction_of_a_smaller_one(writer: Writer) -> None:
    assert len(PLAN.kept) > 1
    writer.train(LADDER)
    writer.plan(replace(PLAN, rungs=PLAN.kept[:1]))
    assert writer.record().lock() == Lock(LADDER.rung, PLAN.kept[-1].rung) and not writer.record().lock().held
