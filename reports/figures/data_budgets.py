"""Test NLL and top-1 of one rung against the number of different training texts."""

import pandas as pd
from matplotlib.figure import Figure

from harness.results import Results
from reports import best_possible, style
from reports.numbers import count, short
from reports.summary import budgets

TITLE = "Data"
PLACE = 5
ABSENT = "No run on fewer training texts completed."
ALT = "two panels against the number of training texts, test NLL left and top-1 right, a point for each seed."
METRICS = {"test_nll": "test NLL (nats per text)", "test_top1": "test top-1 (%)"}


def prepare(results: Results) -> pd.DataFrame:
    """A row per run and metric: the runs on fewer texts, and the same rung on all."""
    runs = budgets(results)
    if runs.empty:
        return pd.DataFrame(columns=["rung", "place", "places"])
    frame = runs.melt(["rung", "n_params", "seed", "train_texts", "epochs", "key"], list(METRICS), "metric").dropna(subset=["value"])
    frame = frame.merge(style.places(results), on="rung")
    floor = results.data.get("floor") or {}
    frame["floor"] = frame["metric"].map({"test_nll": floor.get("nll"), "test_top1": floor.get("top1")}).astype(float)
    return frame.sort_values(["metric", "place", "train_texts", "seed"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Seeds as points, means as a line."""
    figure, axes = style.panels(1, 2, 7)
    lines = []
    for ax, (metric, label) in zip(axes.flat, METRICS.items(), strict=True):
        rows, unit = frame[frame["metric"] == metric], 100 if metric == "test_top1" else 1
        for _, runs, color, marker in style.each_rung(rows):
            mean = runs.groupby("train_texts")["value"].mean() * unit
            ax.plot(mean.index, mean, color=color)
            ax.plot(
                runs["train_texts"], runs["value"] * unit, linestyle="", marker=marker, color=color, markerfacecolor="white", markersize=4
            )
        best = float(rows["floor"].iloc[0]) * unit
        lines.append(best_possible.draw([ax], best, rows["value"] * unit, " %" if unit == 100 else ""))
        style.log_axis(ax, "x", rows["train_texts"], short, most=5)
        ax.set_xlabel("different training texts")
        ax.set_ylabel(label)
    handles = style.rung_handles(frame, line=True)
    if any(lines):
        handles.append(best_possible.handle())
    style.legend_below(figure, handles)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    low, high = frame["train_texts"].min(), frame["train_texts"].max()
    names = ", ".join(dict.fromkeys(frame["rung"]))
    known = frame.dropna(subset=["floor"]).groupby("metric")
    best = best_possible.sentence([best_possible.is_near(rows["floor"].iloc[0], rows["value"]) for _, rows in known])
    return (
        f"{names} trained on {count(low)} to {count(high)} texts, at the rate of the run on all of them. Points are seeds, lines their "
        f"means.{best}"
    )
