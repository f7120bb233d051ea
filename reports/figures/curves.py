"""Validation NLL and top-1 while training, all rungs at their chosen rates."""

import pandas as pd
from matplotlib.figure import Figure

from harness.results import Results
from reports import best_possible, style
from reports.numbers import plural, short
from reports.summary import chosen

TITLE = "Learning curves"
PLACE = 1
ABSENT = "No run at a chosen learning rate has been evaluated."
ALT = "two panels against training tokens, validation NLL above and top-1 below, a line for each rung."
METRICS = {"val_nll": "validation NLL (nats per text)", "val_top1": "validation top-1 (%)"}
SHOWN = ["mean", "low", "high"]
PANEL_CM = 4.8


def prepare(results: Results) -> pd.DataFrame:
    """Mean and range over seeds at each evaluation that all completed seeds of a rung reached."""
    evaluations = results.evaluations[results.evaluations["key"].isin(chosen(results)["key"])]
    long = evaluations.melt(["rung", "n_params", "key", "step", "tokens"], list(METRICS), "metric").dropna(subset=["value"])
    at = long.groupby(["rung", "n_params", "metric", "step"], sort=True)
    frame = at.agg(tokens=("tokens", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max"), seeds=("key", "nunique"))
    frame = frame.reset_index()
    all_seeds = frame.groupby(["rung", "metric"])["seeds"].transform("max")
    frame = frame[frame["seeds"] == all_seeds].merge(style.places(results), on="rung")
    floor = results.data.get("floor") or {}
    # The floor is known for the test texts; the validation texts are drawn from the same distribution.
    frame["floor"] = frame["metric"].map({"val_nll": floor.get("nll"), "val_top1": floor.get("top1")}).astype(float)
    return frame.sort_values(["metric", "place", "step"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """NLL above, top-1 below, tokens on a log axis, names at the ends of the lines."""
    figure, axes = style.panels(2, 1, 2 * PANEL_CM + 1, sharex=True)
    for row, (metric, label) in enumerate(METRICS.items()):
        ax, rows = axes[row, 0], frame[frame["metric"] == metric]
        unit = 100 if metric == "val_top1" else 1
        ends = []
        for name, line, color, marker in style.each_rung(rows):
            ax.plot(line["tokens"], line["mean"] * unit, color=color, marker=marker, markersize=3)
            ax.fill_between(line["tokens"], line["low"] * unit, line["high"] * unit, color=color, alpha=0.2, linewidth=0)
            ends.append((float(line["tokens"].iloc[-1]), float(line["mean"].iloc[-1] * unit), name, color))
        best = float(rows["floor"].iloc[0]) * unit
        if best_possible.draw([ax], best, rows[SHOWN].to_numpy() * unit, " %" if unit == 100 else ""):
            ends.append((float(rows["tokens"].max()), best, "best possible", style.GREY))
        ax.set_ylabel(label)
        style.end_labels(ax, ends, PANEL_CM - 1)
    style.log_axis(axes[1, 0], "x", frame["tokens"], short)
    axes[1, 0].set_xlabel("training tokens")
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    seeds = sorted(set(frame["seeds"]))
    over = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    band = "Lines are single runs." if seeds == [1] else f"Lines are means over {over}; bands reach from the lowest seed to the highest."
    known = frame.dropna(subset=["floor"]).groupby("metric")
    best = best_possible.sentence([best_possible.is_near(rows["floor"].iloc[0], rows[SHOWN].to_numpy()) for _, rows in known])
    return f"Validation NLL and top-1 accuracy over training, each rung at its chosen learning rate. {band}{best}"
