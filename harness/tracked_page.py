"""What people read first on a study's page in MLflow: facts go in; the question, what was found so far and what is there come out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.journal import Event
from harness.text import escape
from harness.tracked_run import Tracked

HEAD = (
    "| rung | parameters | learning rate | runs | test NLL, nats a text | test top-1 |",
    "|---|--:|---|--:|--:|--:|",
)


def description(
    links: str, study: Mapping[str, Any], plan: Mapping[str, Any], chosen: Mapping[str, Event], selected: Sequence[tuple[Event, Tracked]]
) -> str:
    """The page.

    Args:
        links: Markdown that opens it.
        chosen: the learning rate of each rung that has one.
        selected: the runs of the current plan with what they are in it; under an earlier plan they may have been something else.
    """
    asked = [f"**{name.capitalize()}.** {escape(study.get(name) or '')}" for name in ("question", "hypothesis")]
    rungs = [_rung_line(rung, chosen.get(rung["rung"]), selected) for rung in plan.get("rungs", ())]
    counts = Counter(run.tags["status"] for _, run in selected)
    runs = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none yet"
    # The results first: the page is folded after some lines.
    return "\n".join([links, "", *HEAD, *rungs, "", f"Runs: {runs}.", "", asked[0], "", asked[1]])


def _rung_line(rung: Mapping[str, Any], chosen: Event | None, selected: Sequence[tuple[Event, Tracked]]) -> str:
    rate = f"{chosen['lr']:.2g} ({chosen['lr_status']})" if chosen else "skipped" if rung.get("skipped") else ""
    ladder = [(label, run) for label, run in selected if label["rung"] == rung["rung"] and label["stage"] == "ladder"]
    outcomes = [run.outcome for label, run in ladder if label["lr_source"] == "tuned" or not chosen]
    scored = [o for o in outcomes if o.get("status") == "completed" and o.get("test_nll") is not None]
    means = [sum(o[key] for o in scored) / len(scored) for key in ("test_nll", "test_top1")] if scored else []
    cells = [f"{means[0]:.2f}", f"{means[1]:.3f}"] if means else ["", ""]
    return f"| {escape(rung['rung'])} | {rung['n_params']:,} | {rate} | {len(scored)} | {cells[0]} | {cells[1]} |"
