"""Both studies in one picture: their curves over size, the differences at the sizes that both have, and their best rates.

As the figures of a report: `prepare` gives a tidy frame, and `draw` needs nothing else.
"""

import math
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.intervals import Interval
from reports import style
from reports.compare import BITS, NLL, TOP1, Comparison, Metric
from reports.numbers import MINUS, known
from reports.summary import Rung, completed, interval, measured

NAME = "studies"
ALT = "test results of both studies against parameters, the differences with their intervals, and the best learning rate of each size."
# Dark and light, round and square, full and broken: told apart without colour as well.
LOOKS: dict[str, tuple[str, str, Literal["-", "--", ""]]] = {"A": ("#17426b", "o", "-"), "B": ("#d08a1d", "s", "--")}
DIFFERENCE, RATE = "difference", "lr"
COLUMNS = ["panel", "study", "name", "rung", "n_params", "mean", "low", "high", "label"]
# Of the width of the axis: the points of one size stand side by side.
BESIDE = 0.012
# Characters of a study's name in the legend.
LONGEST = 30


def prepare(found: Comparison) -> pd.DataFrame:
    """A row per panel, study and rung; differences are of study `B - A`. `label`: the words at the panel's axis."""
    shown = [metric for metric in found.metrics if metric is not BITS or found.relation == "texts"]
    rows = [row for metric in shown for row in _curve(found, metric)]
    rows += [row for metric in shown[:1] for row in _differences(found, metric)]
    frame = pd.DataFrame([*rows, *_rates(found)], columns=COLUMNS)
    return frame.assign(name=frame["study"].map({"A": found.a.study.get("study"), "B": found.b.study.get("study")}))


def _curve(found: Comparison, metric: Metric) -> list[dict[str, object]]:
    rows = []
    for study, results in (("A", found.a), ("B", found.b)):
        for rung in measured(results):
            own = rung.nll if metric is NLL else rung.top1 if metric is TOP1 else _interval(rung, metric)
            if own is not None:
                rows.append(_row(metric.column, study, rung, own, metric.factor, _words(metric)))
    return rows


def _words(metric: Metric) -> str:
    """At an axis: test NLL (nats per text)."""
    title = metric.title[:1].lower() + metric.title[1:]
    return title if title.endswith(metric.unit) else f"{title} ({metric.unit})"


def _interval(rung: Rung, metric: Metric) -> Interval | None:
    return interval(completed(rung.own), metric.column)


def _differences(found: Comparison, metric: Metric) -> list[dict[str, object]]:
    label = f"B {MINUS} A, {_words(metric)}"
    pairs = [(pair, pair.metrics[metric.column].change) for pair in found.pairs]
    return [_row(DIFFERENCE, "B - A", pair.a, change, metric.factor, label) for pair, change in pairs if change]


def _rates(found: Comparison) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for study, results in (("A", found.a), ("B", found.b)):
        searched = results.searches.dropna(subset=["lr"])
        for _, one in searched.iterrows():
            ends = {"mean": one["lr"], "low": one["fitted_low"], "high": one["fitted_high"]}
            where = {"panel": RATE, "study": study, "rung": one["rung"], "n_params": one["n_params"], "label": "best learning rate"}
            rows.append(where | ends)
    return rows


def _row(panel: str, study: str, rung: Rung, own: Interval, factor: float, label: str) -> dict[str, object]:
    values = {"mean": own.mean * factor, "low": own.low * factor, "high": own.high * factor}
    return {"panel": panel, "study": study, "rung": rung.name, "n_params": rung.n_params, "label": label} | values


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each quantity, at most two side by side."""
    panels = list(dict.fromkeys(frame["panel"]))
    # What is told apart belongs beside the curve that it is of.
    panels.sort(key=lambda panel: 0 if panel == frame["panel"].iloc[0] else 1 if panel == DIFFERENCE else 2)
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure, axes = style.panels(rows, columns, 6.2 * rows + 0.8)
    for ax, panel in zip(axes.ravel(), panels, strict=False):
        _panel(ax, frame[frame["panel"] == panel], frame["n_params"])
    for ax in axes.ravel()[len(panels) :]:
        ax.set_visible(False)
    style.legend_below(figure, [_handle(study, own["name"].iloc[0]) for study in LOOKS if len(own := frame[frame["study"] == study])])
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, sizes: pd.Series) -> None:
    panel, spread = str(rows["panel"].iloc[0]), float(sizes.max() / sizes.min())
    for study, own in rows.groupby("study", sort=True):
        color, marker, line = LOOKS.get(str(study), ("black", "D", ""))
        side = {"A": -1, "B": 1}.get(str(study), 0)
        own = own.sort_values("n_params")
        x = own["n_params"] * max(spread, 1.5) ** (side * BESIDE)
        ax.plot(x, own["mean"], color=color, marker=marker, linestyle=line, linewidth=1.1)
        ax.vlines(x, own["low"], own["high"], color=color, linewidth=1.2)
        if panel == RATE:
            hollow = own["low"].isna()
            ax.plot(x[hollow], own["mean"][hollow], color=color, marker=marker, markerfacecolor="white", linestyle="")
    style.size_axis(ax, sizes, most=5)
    if panel == RATE:
        style.rate_axis(ax, "y", pd.concat([rows["mean"], rows["low"], rows["high"]]))
    if panel == DIFFERENCE:
        ax.axhline(0, color=style.GREY, linewidth=0.9, linestyle=":")
    ax.set_ylabel(str(rows["label"].iloc[0]))


def _handle(study: str, name: str) -> Line2D:
    color, marker, line = LOOKS[study]
    shown = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return Line2D([], [], color=color, marker=marker, linestyle=line, linewidth=1.1, label=f"{study}: {shown}")


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    panels = set(frame["panel"])
    said = ["A and B against size."]
    if panels - {DIFFERENCE, RATE} and frame["low"].notna().any():
        said.append("Bars are 95 % t intervals over seeds.")
    if DIFFERENCE in panels:
        told = frame[frame["panel"] == DIFFERENCE]
        how = "an interval that leaves out the dotted line tells the two apart" if any(map(known, told["low"])) else "on single seeds"
        said.append(f"The differences are of B minus A: {how}.")
    if RATE in panels:
        said.append("Best learning rates have the 95 % interval of the fitted minimum; hollow ones are of searches that resolved none.")
    return " ".join(said)
