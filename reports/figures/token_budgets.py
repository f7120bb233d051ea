"""Test NLL and top-1 against training tokens, a line a size, where a study crosses sizes with budgets."""

import pandas as pd
from matplotlib.figure import Figure

from harness.results import Results
from reports import best_possible, style
from reports.numbers import short
from reports.together import grid_runs

TITLE = "Token budgets"
PLACE = 5.5
ABSENT = "The study asks for no grid of budgets."
ALT = "two panels against training tokens, test NLL left and top-1 right, a line for each rung through the means of its budgets."
METRICS = {"test_nll": "test NLL (nats per text)", "test_top1": "test top-1 (%)"}


def prepare(results: Results) -> pd.DataFrame:
    """A row per run and metric; `mean` is over the seeds of its rung and budget."""
    runs = grid_runs(results)
    if runs.empty:
        return pd.DataFrame(columns=["rung", "place", "places"])
    frame = runs.melt(["rung", "n_params", "seed", "steps", "train_tokens", "key"], list(METRICS), "metric").dropna(subset=["value"])
    frame["mean"] = frame.groupby(["metric", "rung", "steps"])["value"].transform("mean")
    floor = results.data.get("floor") or {}
    frame["floor"] = frame["metric"].map({"test_nll": floor.get("nll"), "test_top1": floor.get("top1")}).astype(float)
    return frame.merge(style.places(results), on="rung").sort_values(["metric", "place", "train_tokens", "seed"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Seeds as points, means as a line."""
    figure, axes = style.panels(1, 2, 8)
    lines = []
    for ax, (metric, label) in zip(axes.flat, METRICS.items(), strict=True):
        rows, unit = frame[frame["metric"] == metric], 100 if metric == "test_top1" else 1
        for _, runs, color, marker in style.each_rung(rows):
            means = runs.groupby("steps").agg(x=("train_tokens", "mean"), y=("mean", "first")).sort_values("x")
            ax.plot(means["x"], means["y"] * unit, color=color)
            ax.plot(runs["train_tokens"], runs["value"] * unit, linestyle="", marker=marker, color=color, markersize=3)
        best = float(rows["floor"].iloc[0]) * unit
        lines.append(best_possible.draw([ax], best, rows["value"] * unit, " %" if unit == 100 else ""))
        style.log_axis(ax, "x", rows["train_tokens"], short, most=5)
        ax.set_xlabel("training tokens")
        ax.set_ylabel(label)
    style.legend_below(figure, [*style.rung_handles(frame, line=True), *([best_possible.handle()] if any(lines) else [])])
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    known = frame.dropna(subset=["floor"]).groupby("metric")
    best = best_possible.sentence([best_possible.is_near(rows["floor"].iloc[0], rows["value"]) for _, rows in known])
    low, high = frame["train_tokens"].min(), frame["train_tokens"].max()
    return (
        f"Every size on {short(low)} to {short(high)} tokens, each run at the end of a schedule of its own. Points are seeds, lines their "
        f"means. Where the lines of two sizes meet, more parameters stop paying at that budget.{best}"
    )
