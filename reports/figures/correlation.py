"""Validation NLL against validation top-1: along each run, and across the finished runs."""

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.correlation import correlate, pearson
from harness.results import Results
from reports import numbers, style
from reports.summary import chosen

TITLE = "NLL against top-1"
PLACE = 6
ABSENT = "No completed run has both validation NLL and top-1."
ALT = "two panels of points, validation top-1 against NLL, all evaluations left and finished runs right."
COLUMNS = ["rung", "key", "seed", "step", "val_nll", "val_top1"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per evaluation (`kind` within) and per finished run (`kind` across), at the chosen rates."""
    runs = chosen(results)
    within = results.evaluations[results.evaluations["key"].isin(runs["key"])][COLUMNS].assign(kind="within")
    across = runs.rename(columns={"best_step": "step"})[COLUMNS].assign(kind="across")
    frame = pd.concat([within, across], ignore_index=True).dropna(subset=["val_nll", "val_top1"])
    return frame.merge(style.places(results), on="rung").sort_values(["kind", "place", "seed", "step"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Left every evaluation of every run, right one point a run."""
    figure, axes = style.panels(1, 2, 8)
    titles = {"within": "while training: every evaluation", "across": f"finished runs: {_across(frame)}"}
    for ax, kind in zip(axes.flat, titles, strict=True):
        for _, rows, color, marker in style.each_rung(frame[frame["kind"] == kind]):
            size = 3 if kind == "within" else 5
            ax.plot(rows["val_nll"], rows["val_top1"] * 100, linestyle="", marker=marker, color=color, markersize=size, alpha=0.75)
        ax.set_title(titles[kind])
        ax.set_xlabel("validation NLL (nats per text)")
        ax.set_ylabel("validation top-1 (%)")
        ax.xaxis.get_major_locator().set_params(nbins=6)
    handles = style.rung_handles(frame)
    within = frame[frame["kind"] == "within"]
    for handle, (_, rows, _, _) in zip(handles, style.each_rung(within), strict=False):
        handle.set_label(f"{handle.get_label()}  r = {numbers.correlation(_mean_r(rows))}")
    style.legend_below(figure, handles, columns=3)
    return figure


def _mean_r(rows: pd.DataFrame) -> float:
    return float(pd.Series([pearson(run["val_nll"], run["val_top1"]) for _, run in rows.groupby("key")]).mean())


def _across(frame: pd.DataFrame) -> str:
    rows = frame[frame["kind"] == "across"]
    found = correlate(rows["val_nll"], rows["val_top1"])
    return f"r = {numbers.correlation(found.r)} (n = {found.n})" if numbers.known(found.r) else f"n = {found.n}"


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    return (
        "Validation top-1 accuracy against NLL. In the legend: r within a run, the mean over seeds. Across finished runs both follow size, "
        "so a strong r there is expected and says little by itself; the table of correlations has r with size held fixed."
    )
