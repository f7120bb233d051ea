"""What a study comes to, rung by rung, as numbers: the one place that decides which runs stand behind a claim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness import plan as planning
from harness.analysis.intervals import Interval, mean_interval
from harness.results import Results

CHOSEN, GIVEN = ("tuned", "predicted"), ("default",)


@dataclass(frozen=True)
class Rung:
    """One model size. Intervals are over the completed seeds at the chosen rate; None where no seed completed.

    `own`: all of its ladder's runs at that rate. `default` is the run at the untuned rate (None where there is none, `default_is_tuned`
    where the chosen rate is that rate).
    Runs planned, ended and the seconds spent are those of its search and its ladder; ablations are counted apart.
    """

    name: str
    family: str
    parametrization: str
    n_params: int
    lr: float
    lr_status: str
    nll: Interval | None
    top1: Interval | None
    val_nll: Interval | None
    default: Mapping[str, Any] | None
    default_is_tuned: bool
    own: pd.DataFrame
    skipped: str
    planned_s: float
    spent_s: float
    runs_planned: int
    runs_ended: int

    @property
    def seeds(self) -> int:
        """Completed seeds at the chosen rate."""
        return self.nll.n if self.nll else 0

    @property
    def default_nll(self) -> float | None:
        """Test NLL of the completed run at the untuned rate."""
        row = self.default
        return float(row["test_nll"]) if row is not None and row["status"] == "completed" and pd.notna(row["test_nll"]) else None


def rungs(results: Results) -> list[Rung]:
    """All rungs of the study by size, those left out included."""
    names = results.runs.dropna(subset=["rung"]).groupby("rung", sort=True)["n_params"].max()
    planned = {str(r["rung"]): float(r["n_params"]) for r in results.plan.get("rungs", [])}
    sizes = planned | {str(name): float(size) for name, size in names.items()}
    return [_rung(results, name, int(sizes[name])) for name in sorted(sizes, key=lambda name: (sizes[name], name))]


def chosen(results: Results) -> pd.DataFrame:
    """Completed ladder runs at their rung's chosen rate: what every claim about size rests on."""
    return completed(at_chosen_rate(results, results.runs[results.runs["stage"] == "ladder"]))


def at_chosen_rate(results: Results, runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the runs that are at their rung's chosen rate: searched or predicted, or in a study without a search the one it gives."""
    return runs[runs["lr_source"].isin(CHOSEN if searches(results) else GIVEN)]


def completed(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the runs that came to the end of their budget, or stopped by themselves."""
    return runs[runs["status"] == "completed"]


def searches(results: Results) -> bool:
    """Whether the study searches learning rates; else all its runs are at the one it gives."""
    return bool(results.study.get("search", {}).get("trials", 1))


def best(results: Results) -> Rung | None:
    """The rung with the lowest mean validation NLL, as the ablations choose it."""
    measured = [rung for rung in rungs(results) if rung.val_nll]
    return min(measured, key=lambda rung: rung.val_nll.mean if rung.val_nll else float("inf")) if measured else None


def measured(results: Results) -> list[Rung]:
    """The rungs with at least one completed seed, by size."""
    return [rung for rung in rungs(results) if rung.nll]


def ablations(results: Results) -> pd.DataFrame:
    """The runs on fewer texts, whatever became of them."""
    return results.runs[results.runs["stage"] == "ablation"]


def runs_planned(results: Results) -> int:
    """All runs of the study: those of the rungs that are kept, and the ablations."""
    return planning.total_runs(results.plan, {str(row["rung"]): _cells(row) for _, row in results.searches.iterrows()})


def ended(runs: pd.DataFrame) -> int:
    """How many of these runs came to an end of their own."""
    return int((~runs["status"].isin(["skipped", "interrupted"]) & runs["status"].notna()).sum())


def budgets(results: Results) -> pd.DataFrame:
    """Completed runs on fewer training texts, with the runs of the same rung on all of them."""
    fewer = ablations(results)
    fewer = fewer[fewer["status"] == "completed"]
    full = chosen(results)
    return pd.concat([fewer, full[full["rung"].isin(fewer["rung"])]]) if len(fewer) else fewer


def default_lr(results: Results) -> float:
    """The untuned rate that the study compares with."""
    return float(results.study.get("search", {}).get("default_lr", 1e-3))


def floor(results: Results) -> Mapping[str, float] | None:
    """The best possible test metrics, where the distribution of the texts is known."""
    found: Mapping[str, float] | None = results.data.get("floor")
    return found


def interval(runs: pd.DataFrame, column: str) -> Interval | None:
    """The interval of a metric over runs; None where no run has it."""
    values = runs[column].dropna()
    return mean_interval(values.to_numpy(dtype=float)) if len(values) else None


def _cells(row: pd.Series) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _rung(results: Results, name: str, n_params: int) -> Rung:
    runs = results.runs[(results.runs["rung"] == name) & (results.runs["stage"] != "ablation")]
    ladder = runs[runs["stage"] == "ladder"]
    own = at_chosen_rate(results, ladder)
    done, default = completed(own), ladder.drop(own.index)
    plan: Mapping[str, Any] = next((r for r in results.plan.get("rungs", []) if r["rung"] == name), {})
    searched = results.searches[results.searches["rung"] == name]
    lr = float(searched["lr"].iloc[0]) if len(searched) else float(done["lr"].iloc[0]) if len(done) else float("nan")
    status = searched["lr_status"].iloc[0] if len(searched) else done["lr_status"].iloc[0] if len(done) else ""
    left_out = ladder[ladder["status"] == "skipped"]["reason"].dropna()
    return Rung(
        name=name,
        family=str(plan.get("family", "")),
        parametrization="mup" if plan.get("mup_base") else "standard",
        n_params=n_params,
        lr=lr,
        lr_status=str(status) if pd.notna(status) else "",
        nll=interval(done, "test_nll"),
        top1=interval(done, "test_top1"),
        val_nll=interval(done, "val_nll"),
        default=_cells(default.iloc[-1]) if len(default) and searches(results) else None,
        default_is_tuned=searches(results) and not len(default) and lr == default_lr(results),
        own=own,
        skipped=str(plan.get("skipped") or (left_out.iloc[0] if len(left_out) else "")),
        planned_s=float(plan.get("estimated_s") or float("nan")),
        spent_s=float(runs["time_s"].sum()),
        runs_planned=planning.runs_of(plan, _cells(searched.iloc[0]) if len(searched) else None) if plan else 0,
        runs_ended=ended(runs),
    )


def stuck(results: Results) -> pd.DataFrame:
    """Completed runs that never did better than single-character frequencies."""
    bound = results.data.get("unigram_entropy")
    runs = results.runs[(results.runs["status"] == "completed") & (results.runs["stage"] != "search")]
    return runs[runs["val_loss"] >= bound] if bound is not None else runs.iloc[:0]
