"""The report's tables as text, ready to print: columns headed in words, digits decided by intervals."""

from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.correlation import Correlation, correlate, fisher_interval, partial, within
from harness.results import Results
from reports import numbers
from reports.numbers import NLL_DECIMALS, NOTHING, PERCENT_DECIMALS, count, duration, fixed, plus_minus, power, short, times_hundred
from reports.summary import Rung, ablations, chosen, default_lr, ended, interval, rungs, searches

# The assignment's own results, padding counted, one seed each, at rate 1e-3 (the last is 166.65 in its
# table and 116.65 in its text).
PUBLISHED = {
    "87k-assignment": (98.32, 0.804, -0.981),
    "557k-assignment": (90.95, 0.820, -0.976),
    "5M-assignment": (89.47, 0.822, -0.879),
    "10M-assignment": (166.65, 0.671, -0.917),
}


def rung_table(results: Results, times: bool = True) -> pd.DataFrame:
    """A row per rung: size, chosen rate and its status, test metrics with 95 % intervals over seeds, the default rate, time."""
    ladder, rate, searched = rungs(results), power(default_lr(results)), searches(results)
    nll = numbers.column_decimals([r.nll for r in ladder if r.nll], NLL_DECIMALS)
    share = numbers.column_decimals([times_hundred(r.top1) for r in ladder if r.top1], PERCENT_DECIMALS)
    rows = []
    for rung in ladder:
        default_nll, default_top1 = _default_cells(rung, nll, share)
        row = {
            "Rung": rung.name,
            "Parameters": count(rung.n_params),
            "Best rate" if searched else "Rate": f"{power(rung.lr)} {rung.lr_status}".strip() if numbers.known(rung.lr) else NOTHING,
            "Test NLL": plus_minus(rung.nll, nll),
            "Top-1, %": plus_minus(times_hundred(rung.top1) if rung.top1 else None, share),
        }
        if searched:
            row |= {f"NLL at {rate}": default_nll, f"Top-1 at {rate}, %": default_top1}
        row["Outcome"] = outcome(rung)
        if times:
            row |= {
                "Time": duration(rung.spent_s) if rung.spent_s else NOTHING,
                "Planned": NOTHING if rung.skipped else duration(rung.planned_s),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _default_cells(rung: Rung, nll: int, share: int) -> tuple[str, str]:
    if rung.default_is_tuned:
        return "(chosen)", "(chosen)"
    if rung.default is None:
        return NOTHING, NOTHING
    if rung.default["status"] != "completed":
        return str(rung.default["status"]), NOTHING
    return fixed(rung.default["test_nll"], nll), fixed(rung.default["test_top1"] * 100, share)


def outcome(rung: Rung) -> str:
    """How the rung's runs at the chosen rate ended: 3 seeds; 2 seeds, 1 diverged; skipped."""
    if rung.skipped:
        return "skipped"
    ended = rung.own["status"].value_counts().sort_index()
    others = [f"{n} {status}" for status, n in ended.items() if status != "completed"]
    return ", ".join([numbers.plural(int(ended.get("completed", 0)), "seed"), *others])


def plan_table(results: Results, times: bool = True) -> pd.DataFrame:
    """Planned against done, a row per rung: runs, tokens, FLOPs, time."""
    planned = {str(r["rung"]): r for r in results.plan.get("rungs", [])}
    rows = []
    for rung in rungs(results):
        plan, done = planned.get(rung.name, {}), chosen(results)
        done = done[done["rung"] == rung.name]
        nan = float("nan")
        row = {
            "Rung": rung.name,
            "Runs ended": NOTHING if rung.skipped else f"{rung.runs_ended} of {rung.runs_planned}",
            "Tokens planned": short(plan.get("train_tokens") or nan),
            "Tokens trained": short(done["train_tokens"].mean()),
            "Epochs": fixed(done["epochs"].mean(), 2),
            "Tokens per parameter": fixed(done["tokens_per_param"].mean(), 1),
            "FLOPs a run": power(plan.get("train_flops") or nan),
        }
        if times:
            row |= {"Time planned": duration(rung.planned_s), "Time taken": duration(rung.spent_s) if rung.spent_s else NOTHING}
        rows.append(row)
    rows += _fewer_texts(results, times)
    return pd.DataFrame(rows)


def _fewer_texts(results: Results, times: bool) -> list[dict[str, str]]:
    """The rows of the ablations, one a budget; which rung they take is known only once they are chosen."""
    runs, planned = ablations(results), int(results.plan.get("ablation_runs") or 0)
    if runs.empty and planned:
        return [_fewer_row("best rung, fewer texts", runs, planned, times)]
    budgets = [(own["rung"].iloc[0], own["train_texts"].iloc[0], own) for _, own in runs.groupby(["rung", "train_texts"], sort=True)]
    return [_fewer_row(f"{rung}, {count(texts)} texts", own, len(own), times) for rung, texts, own in budgets]


def _fewer_row(name: str, runs: pd.DataFrame, planned: int, times: bool) -> dict[str, str]:
    done, spent = runs[runs["status"] == "completed"], float(runs["time_s"].sum())
    row = {
        "Rung": name,
        "Runs ended": f"{ended(runs)} of {planned}",
        "Tokens planned": NOTHING,
        "Tokens trained": short(done["train_tokens"].mean()),
        "Epochs": fixed(done["epochs"].mean(), 2),
        "Tokens per parameter": fixed(done["tokens_per_param"].mean(), 1),
        "FLOPs a run": power(done["train_flops"].mean()),
    }
    return row | ({"Time planned": NOTHING, "Time taken": duration(spent) if spent else NOTHING} if times else {})


def shape_table(results: Results) -> pd.DataFrame:
    """Shapes and parameters by group, a row per rung."""
    names = {"n_layer": "Layers", "d_model": "Width", "n_head": "Heads", "d_head": "Head width", "d_ff": "MLP width"}
    groups = {
        "n_params": "Parameters",
        "non_embedding_params": "Non-embedding",
        "embedding_params": "Embedding",
        "head_params": "Output",
    }
    rows = []
    for plan in results.plan.get("rungs", []):
        shape = {label: count(plan["shape"].get(key, float("nan"))) for key, label in names.items()}
        rows.append({"Rung": plan["rung"]} | shape | {label: count(plan.get(key, float("nan"))) for key, label in groups.items()})
    frame = pd.DataFrame(rows)
    empty = [column for column in frame.columns if (frame[column] == NOTHING).all()]
    return frame.drop(columns=empty)


def within_table(results: Results) -> pd.DataFrame:
    """r between validation NLL and top-1 over the evaluations of each run, a row per rung."""
    runs = chosen(results)
    rows = []
    for rung in rungs(results):
        keys = runs[runs["rung"] == rung.name]["key"]
        evaluations = results.evaluations[results.evaluations["key"].isin(keys)].dropna(subset=["val_nll", "val_top1"])
        found = within(evaluations, "val_nll", "val_top1", "key")
        if found.n:
            values = {"Mean r": found.mean, "Lowest": found.low, "Highest": found.high}
            cells = {name: numbers.fixed(value, 3) for name, value in values.items()}
            spread = {"SD over seeds": fixed(found.spread, 3)}
            rows.append(
                {"Rung": rung.name, "Runs": str(found.n), "Evaluations a run": count(len(evaluations) / len(keys))} | cells | spread
            )
    return pd.DataFrame(rows)


def across_table(results: Results) -> pd.DataFrame:
    """r between final validation NLL and top-1 across runs, with size held fixed beside it."""
    ladder = results.runs[(results.runs["stage"] == "ladder") & (results.runs["status"] == "completed")]
    groups = {"at the chosen rates": chosen(results), f"with those at {power(default_lr(results))}": ladder}
    rows: list[dict[str, Any]] = []
    for name, runs in groups.items():
        known = runs.dropna(subset=["val_nll", "val_top1"])
        if len(known) < 3 or (rows and len(known) == rows[-1]["n"]):
            continue
        found = correlate(known["val_nll"], known["val_top1"])
        rows.append(_across_row(name, found, partial(known["val_nll"], known["val_top1"], np.log(known["n_params"]))))
    return pd.DataFrame(rows)


def _across_row(name: str, found: Correlation, given: float) -> dict[str, object]:
    low, high = fisher_interval(given, found.n, controlled=1)
    return {
        "Finished runs": name,
        "n": found.n,
        "r": _with_bounds(found.r, found.low, found.high),
        "Spearman's rho": fixed(found.rho, 3),
        "r, size held fixed": _with_bounds(given, low, high),
    }


def _with_bounds(value: float, low: float, high: float) -> str:
    bounds = f" [{fixed(low, 3)}, {fixed(high, 3)}]" if numbers.known(low) else ""
    return fixed(value, 3) + bounds


def published_table(results: Results) -> pd.DataFrame:
    """Beside the assignment's published results, by its convention (padding counted); empty unless a run has those metrics."""
    done = chosen(results)
    known = [(rung, done[done["rung"] == rung.name]) for rung in rungs(results) if rung.name in PUBLISHED]
    ours = [(rung, runs, interval(runs, "nll_padded"), interval(runs, "top1_padded")) for rung, runs in known]
    nll = numbers.column_decimals([n for _, _, n, _ in ours if n], NLL_DECIMALS)
    share = numbers.column_decimals([times_hundred(t) for _, _, _, t in ours if t], PERCENT_DECIMALS)
    rows = []
    for rung, runs, own_nll, own_top1 in ours:
        if own_nll is None or own_top1 is None:
            continue
        their_nll, their_top1, their_r = PUBLISHED[rung.name]
        row = {
            "Rung": rung.name,
            "NLL published": fixed(their_nll, 2),
            f"NLL at {power(default_lr(results))}": _padded_default(rung, nll),
            "NLL tuned": plus_minus(own_nll, nll),
            "Top-1 published, %": fixed(their_top1 * 100, 1),
            "Top-1 tuned, %": plus_minus(times_hundred(own_top1), share),
            "r published": fixed(their_r, 3),
            "r tuned": fixed(runs["pearson_nll_top1"].mean(), 3),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _padded_default(rung: Rung, decimals: int) -> str:
    if rung.default_is_tuned:
        return "(chosen)"
    if rung.default is None:
        return NOTHING
    status = rung.default["status"]
    return fixed(rung.default["nll_padded"], decimals) if status == "completed" else str(status)


def ended_table(results: Results) -> pd.DataFrame:
    """Ladder and ablation runs that did not complete, each with its reason."""
    runs = results.runs[(results.runs["stage"] != "search") & (results.runs["status"] != "completed")]
    rows = [
        {
            "Run": run_name(run),
            "Stage": run["stage"],
            "Outcome": _ending(run),
            "Reason": run["reason"] if pd.notna(run["reason"]) else NOTHING,
        }
        for _, run in runs.iterrows()
    ]
    return pd.DataFrame(rows)


def run_name(run: pd.Series) -> str:
    """230k, seed 0, rate 1e-3 (default)"""
    if run["status"] == "skipped":
        return f"{run['rung']}, all runs"
    texts = f", {count(run['train_texts'])} texts" if run["stage"] == "ablation" else ""
    texts += f", {short(run['train_tokens'])} tokens" if run["stage"] == "budget" and numbers.known(run["train_tokens"]) else ""
    default = " (default)" if run["lr_source"] == "default" else ""
    return f"{run['rung']}{texts}, seed {count(run['seed'])}, rate {power(run['lr'])}{default}"


def trial_table(results: Results) -> pd.DataFrame:
    """How the trials of each search ended."""
    rows = []
    for _, search in results.searches.sort_values("n_params").iterrows():
        counts = {word.capitalize(): count(search[word]) for word in ("trials", "completed", "pruned", "diverged", "failed")}
        highest = {"Highest rate that trained": power(search["highest_stable_lr"]), "Regret": fixed(search["regret"], 3)}
        rows.append({"Rung": search["rung"]} | counts | highest | {"Verdict on the optimum": str(search["lr_status"])})
    return pd.DataFrame(rows)


def key_table(results: Results) -> pd.DataFrame:
    """The identity of each ladder and ablation run."""
    runs = results.runs[(results.runs["stage"] != "search") & (results.runs["status"] != "skipped")]
    rows = [{"Run": run_name(run), "Stage": run["stage"], "Outcome": _ending(run), "Key": str(run["key"])} for _, run in runs.iterrows()]
    return pd.DataFrame(rows)


def invocation_table(results: Results) -> pd.DataFrame:
    """A row per start of the study."""
    rows = [
        {
            "Started": str(row["started"])[:19].replace("T", " "),
            "Time": duration(row["seconds"]),
            "Exit code": count(row["exit_code"]),
            "Runs ended": count(row["completed"]),
            "Machine": str(row["host"]),
        }
        for _, row in results.invocations.iterrows()
    ]
    return pd.DataFrame(rows)


def _ending(run: pd.Series) -> str:
    return str(run["status"]) if pd.notna(run["status"]) else "not run"
