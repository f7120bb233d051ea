"""What a study was estimated at and what it took: results in, sentences out. Left out of reports that must not differ between machines."""

from collections.abc import Mapping
from typing import Any

from harness.results import Results
from reports import numbers
from reports.numbers import duration, plural


def sentences(results: Results) -> str:
    """Planned against taken, as a whole and at equal work."""
    plan, took = results.plan, results.invocations["seconds"].sum()
    estimate = duration(plan.get("estimated_s") or numbers.NAN)
    starts = plural(len(results.invocations), "start")
    return (
        f" It was estimated at {estimate}{_trust(plan)} and took {duration(took)} in {starts}.{capturing(results)}{at_equal_work(results)}"
    )


def capturing(results: Results) -> str:
    """What runs on a GPU spent on capturing their steps and their decoding; empty where that is nothing."""
    seconds = float(results.runs["capturing_s"].sum())
    return f" Of its runs' time {duration(seconds)} went into capturing kernels as graphs." if round(seconds) else ""


def _trust(plan: Mapping[str, Any]) -> str:
    """How far the machine's earlier runs had been from their planned times."""
    runs = int(plan.get("calibrated_runs") or 0)
    if not runs:
        return " by a few steps of every size"
    spread = plan.get("spread")
    known = "" if spread is None else f" ± {100 * spread:.0f} %" if spread < 1 else f", within a factor of {1 + spread:.1f},"
    return f"{known} by {plural(runs, 'run')} that had ended on this machine"


def at_equal_work(results: Results) -> str:
    """What the plan would have priced the work at that was really done: pruned trials and early stops are no error of its prices."""
    runs = results.runs[results.runs["planned_s"].notna() & results.runs["time_s"].notna()]
    planned, took = float(runs["planned_s"].sum()), float(runs["time_s"].sum())
    if not planned or not took:
        return ""
    ratios = (runs["time_s"] / runs["planned_s"])[runs["planned_s"] > 0]
    low, high = ratios.quantile(0.25), ratios.quantile(0.75)
    middle = f"; a run took {ratios.median():.2f} times its price, half of them {low:.2f} to {high:.2f}" if len(ratios) > 3 else ""
    return f" What its runs did was priced at {duration(planned)} and took {duration(took)}, counted on one worker{middle}."
