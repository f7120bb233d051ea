"""From the record to tidy tables: what the analysis and the reports read, and `results.csv`.

A row of `runs` is a run. Cells are empty (NaN, None) where they don't apply. The schema is checked whenever a table is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import durable
from harness.analysis.correlation import pearson
from harness.calibration import planned_s
from harness.columns import FURTHER, PUBLIC
from harness.held_out import Lock
from harness.journal import Event
from harness.record import Record


def _columns(names: str) -> list[str]:
    return names.split()


PUBLIC_COLUMNS, FURTHER_COLUMNS = list(PUBLIC), list(FURTHER)
TEXT_COLUMNS = frozenset(_columns("key stage rung family arch lr_source lr_status status reason name schedule parametrization"))

EVALUATION_COLUMNS = _columns(
    "key stage rung family n_params lr lr_source seed train_texts trial step tokens epoch flops train_loss val_loss val_nll val_top1 "
    "val_bits_per_char nll_padded top1_padded best"
)
SAMPLE_COLUMNS = _columns(
    "key stage rung n_params seed lr_source train_texts at step tokens temperature top_k top_p texts distinct_1 distinct_2 distinct_3 "
    "known_words copied mean_length ended entropy memorised self_nll"
)
SEARCH_COLUMNS = _columns(
    "rung family n_params lr lr_status reason trials completed pruned diverged failed best_lr best_val_loss fitted_lr fitted_low "
    "fitted_high fitted_val_loss low high default_lr highest_stable_lr lr_source collapsed extended extension_trials cliff_lr regret "
    "default_regret noise seed_noise values importances parametrization"
)

INVOCATION_COLUMNS = _columns("id started seconds exit_code command host completed")
OBJECT_COLUMNS = TEXT_COLUMNS | frozenset(_columns("at texts id started command host values importances"))
FLAG_COLUMNS = frozenset({"best"})
WHOLE_COLUMNS = _columns(
    "n_params non_embedding_params train_texts seed train_tokens trial embedding_params head_params n_layer d_model n_head d_head d_ff "
    "batch_size steps best_step unique_tokens planned_steps"
)

STAGES = ("search", "ladder", "budget", "ablation")
STATUSES = ("completed", "pruned", "diverged", "failed", "interrupted", "skipped")


@dataclass(frozen=True, eq=False)
class Results:
    """All that is known of a study, as plain values and tables.

    `study`: the validated study file. `plan`: the recorded plan (rungs, budgets, estimates, machine). `data`: counts, fingerprint,
    licence, and the floor of the test set where the distribution is known. `invocations`: a row per start of the study.
    `evaluations`: a row per evaluation of any run. `samples`: a row per set of sampled texts (`texts` is a list; `at` is `best` or
    `end`). `searches`: a row per rung whose learning rate was searched. `lock`: the held-out rung, and when it was named.
    """

    study: Mapping[str, Any]
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    samples: pd.DataFrame
    searches: pd.DataFrame
    invocations: pd.DataFrame
    lock: Lock = field(default_factory=Lock)


def from_events(events: Iterable[Event]) -> Results:
    """Tables of the study's current plan, from its record."""
    return from_record(Record.of(events))


def from_record(record: Record) -> Results:
    """Tables of the study's current plan: its runs by rung and stage, then the rungs that were left out."""
    record = replace(record, selected=dict(sorted(record.selected.items(), key=lambda item: _place(record, item[1]))))
    runs = [_run_row(record, key) for key in record.selected]
    skipped = [_skipped_row(rung) for rung in record.plan.get("rungs", []) if rung["skipped"]]
    return Results(
        study=record.study,
        plan=record.plan,
        data=record.data,
        runs=frame([*runs, *skipped], [*PUBLIC_COLUMNS, *FURTHER_COLUMNS]),
        evaluations=frame(_evaluation_rows(record), EVALUATION_COLUMNS),
        samples=frame(_sample_rows(record), SAMPLE_COLUMNS),
        searches=frame(_search_rows(record), SEARCH_COLUMNS),
        invocations=frame(list(record.invocations.values()), INVOCATION_COLUMNS),
        lock=record.lock(),
    )


def _place(record: Record, selected: Event) -> tuple[Any, ...]:
    """Where a run stands in every table, whoever ended first: by rung, stage, budget and seed."""
    rungs, spec = [rung["rung"] for rung in record.plan.get("rungs", [])], selected["spec"]
    rung = rungs.index(selected["rung"]) if selected["rung"] in rungs else len(rungs)
    stage = STAGES.index(selected["stage"]) if selected["stage"] in STAGES else len(STAGES)
    trial = -1 if spec.get("trial") is None else spec["trial"]
    return rung, stage, trial, selected["lr_source"] == "default", -spec["steps"], spec["train_texts"], spec["seed"], selected["key"]


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table of exactly these columns: text and lists as objects, truth values as such, all else as numbers."""
    table = pd.DataFrame([{column: row.get(column) for column in columns} for row in rows], columns=list(columns), dtype=object)
    for column in columns:
        if column in FLAG_COLUMNS:
            table[column] = table[column].astype(bool)
        elif column not in OBJECT_COLUMNS:
            table[column] = pd.to_numeric(table[column])
    return table


def write_csv(runs: pd.DataFrame, path: Path) -> None:
    """Write the flat result, at full precision, replacing the file in one step. Whole numbers are written as such."""
    whole = {c: pd.to_numeric(runs[c]).astype("Int64") for c in WHOLE_COLUMNS}
    text = runs.assign(**whole).to_csv(index=False, lineterminator="\n")
    durable.replace(path, text.encode("utf-8", "backslashreplace"), "results")


def parametrization(of: Mapping[str, Any]) -> str:
    """The parametrization of a recorded run or of a rung of a recorded plan."""
    return "mup" if of.get("mup_base") else "standard"


def _labels(record: Record, key: str) -> dict[str, Any]:
    """What a run is called in this study, and its spec."""
    selected = record.selected[key]
    labels = {name: selected[name] or None for name in ("key", "name", "stage", "rung", "family", "lr_source", "lr_status")}
    rung: Mapping[str, Any] = next((r for r in record.plan["rungs"] if r["rung"] == selected["rung"]), {})
    counts = {name: rung.get(name) for name in ("n_params", "non_embedding_params", "embedding_params", "head_params")}
    spec = selected["spec"]
    return {
        **spec["shape"],
        **{k: v for k, v in spec.items() if k != "shape"},
        **counts,
        **labels,
        "parametrization": parametrization(spec),
    }


def _run_row(record: Record, key: str) -> dict[str, Any]:
    row = _labels(record, key)
    row |= {"planned_steps": row["steps"], "steps": None}
    ended = record.ended.get(key)
    if ended is None:
        if key not in record.started:
            return row | {"status": None, "reason": "not run yet"}
        return row | {"status": "interrupted", "reason": "was running when the study was stopped"}
    row |= {k: v for k, v in ended.items() if k not in ("event", "n", "time", "key")}
    evaluations = record.evaluations[key]
    nll, top1 = (np.array([e[name] for e in evaluations if e["val_nll"] is not None], dtype=float) for name in ("val_nll", "val_top1"))
    tokens_per_param = row["train_tokens"] / row["n_params"] if row.get("train_tokens") else None
    capturing_s = (row.get("seconds") or {}).get("capturing", [None])[0]
    row |= {"planned_s": planned_s(record, key), "capturing_s": capturing_s}
    return row | {"pearson_nll_top1": pearson(nll, top1), "tokens_per_param": tokens_per_param}


def _skipped_row(rung: Mapping[str, Any]) -> dict[str, Any]:
    names = ("rung", "family", "arch", "n_params", "non_embedding_params", "embedding_params", "head_params")
    outcome = {"stage": "ladder", "status": "skipped", "reason": rung["skipped"], "parametrization": parametrization(rung)}
    return {**rung["shape"], **{name: rung[name] for name in names}, **outcome}


def _evaluation_rows(record: Record) -> list[dict[str, Any]]:
    rows = []
    for key in record.selected:
        labels = _labels(record, key)
        for event in record.evaluations[key]:
            padded = {"nll_padded": event.get("val_nll_padded"), "top1_padded": event.get("val_top1_padded")}
            rows.append(labels | event | padded)
    return rows


def _search_rows(record: Record) -> list[dict[str, Any]]:
    """What was found for each rung that was searched, in the plan's order."""
    rungs = [rung for rung in record.plan.get("rungs", []) if rung["rung"] in record.chosen]
    return [{**record.chosen[rung["rung"]], "parametrization": parametrization(rung)} for rung in rungs]


def _sample_rows(record: Record) -> list[dict[str, Any]]:
    return [_labels(record, key) | event for key in record.selected for event in record.samples[key]]
