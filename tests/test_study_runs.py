"""Which runs of a study enter a fit: on the record of a study that was run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.analysis.study_runs import COMPUTE, COUNTS, rungs_of, select
from harness.journal import read
from harness.results import Results, from_events


@pytest.fixture(scope="module")
def results(finished_study: Path) -> Results:
    return from_events(read(next(finished_study.rglob("journal.jsonl"))))


def test_every_run_that_is_no_trial_is_in_or_has_a_reason(results: Results) -> None:
    found = select(results.runs)
    those = results.runs[results.runs["stage"] != "search"]
    assert len(found.runs) + len(found.excluded) == len(those) and len(found.runs) > 0
    assert set(found.runs["stage"]) <= {"ladder", "budget"} and not set(found.runs["lr_source"]) & {"default"}
    assert (found.runs["status"] == "completed").all() and found.excluded["reason"].str.len().min() > 5
    at_default = those[(those["lr_source"] == "default") & (those["status"] == "completed")]["key"]
    assert len(at_default) and set(at_default) <= set(found.excluded["key"])


def test_without_a_search_the_default_rate_is_the_chosen_one(results: Results) -> None:
    default = results.runs[results.runs["lr_source"] == "default"]
    assert len(select(default).runs) == (default["status"] == "completed").sum() > 0


def test_counting_rules_and_compute_are_columns(results: Results) -> None:
    runs = select(results.runs).runs
    groups = runs["non_embedding_params"] + runs["embedding_params"] + runs["head_params"]
    assert groups.tolist() == runs["n_params"].tolist()
    assert (runs["non_embedding_head_params"] == runs["n_params"] - runs["embedding_params"]).all()
    assert (runs["six_nd"] == 6 * runs["n_params"] * runs["train_tokens"]).all()
    assert set(COUNTS) | set(COMPUTE) <= set(runs.columns)


def test_runs_that_did_not_end_well_or_are_of_another_family_have_their_reason(results: Results) -> None:
    runs = results.runs.copy()
    ladder = list(runs.index[(runs["stage"] == "ladder") & (runs["lr_source"] != "default")])
    runs.loc[ladder[0], ["status", "reason"]] = ["diverged", "loss was not finite at step 7"]
    runs.loc[ladder[1], "test_loss"] = np.nan
    runs.loc[ladder[2], "family"] = "other"
    reasons = select(runs).excluded["reason"]
    assert reasons[ladder[0]] == "diverged: loss was not finite at step 7"
    assert reasons[ladder[1]] == "test_loss is nan"
    assert reasons[ladder[2]].startswith("family other; the fit is of ")


def test_a_run_that_left_a_falling_schedule_early_is_not_read_in_the_middle_of_it(results: Results) -> None:
    runs = results.runs.copy()
    ladder = list(runs.index[(runs["stage"] == "ladder") & (runs["lr_source"] != "default")])
    assert (runs.loc[ladder, "schedule"] == "constant").all() and (runs.loc[ladder, "steps"] == runs.loc[ladder, "planned_steps"]).all()
    runs.loc[ladder[0], "steps"] = 7.0
    assert ladder[0] in select(runs).runs.index
    found = select(runs.assign(schedule="cosine"))
    assert found.excluded["reason"][ladder[0]] == "stopped at step 7 of 16 of a cosine schedule: it was never finished"
    assert ladder[1] in found.runs.index


def test_rungs_are_means_over_seeds_whose_tokens_differ_a_little() -> None:
    tokens = [1000.0, 1010, 1005, 2000, 2010, 4000]
    losses = [3.0, 3.2, 3.1, 2.5, 2.7, 2.0]
    rows = [
        {
            "key": str(i),
            "name": str(i),
            "rung": "a",
            "stage": "budget",
            "family": "f",
            "status": "completed",
            "reason": None,
            "lr_source": "tuned",
        }
        | {"n_params": 100, "non_embedding_params": 60, "head_params": 30, "train_tokens": d, "train_flops": 700 * d, "test_loss": loss}
        for i, (d, loss) in enumerate(zip(tokens, losses, strict=True))
    ]
    runs = select(pd.DataFrame(rows)).runs
    assert runs["budget"].tolist() == [1005.0] * 3 + [2005.0] * 2 + [4000.0]
    table = rungs_of(runs)
    assert table[["runs", "loss", "n_params", "non_embedding_head_params"]].to_numpy().tolist() == [
        [3, pytest.approx(3.1), 100, 90],
        [2, pytest.approx(2.6), 100, 90],
        [1, 2.0, 100, 90],
    ]
    assert table.loc[0, "sd"] == pytest.approx(0.1) and np.isnan(table.loc[2, "sd"])


def test_rungs_of_a_study_that_was_run_hold_all_its_runs(results: Results) -> None:
    runs = select(results.runs).runs
    table = rungs_of(runs)
    assert table["runs"].sum() == len(runs) and len(table) == runs["rung"].nunique()


def test_a_study_of_which_nothing_ended_has_no_runs() -> None:
    text = {"key": "k", "name": "n", "rung": "r", "stage": "ladder", "family": "f", "reason": "not run yet", "lr_source": "tuned"}
    numbers = {"n_params": 1.0, "non_embedding_params": 1.0, "head_params": 0.0, "train_tokens": 1.0, "test_loss": np.nan}
    found = select(pd.DataFrame([text | numbers | {"status": None}]))
    assert found.runs.empty and found.excluded["reason"].tolist() == ["not run: not run yet"]
