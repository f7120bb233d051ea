"""Test NLL and top-1 against parameters and against training FLOPs, at the chosen and at the default learning rate."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.results import Results
from reports import best_possible, style
from reports.numbers import known, power
from reports.summary import Rung, completed, default_lr, measured

TITLE = "Size"
PLACE = 2
ABSENT = "No rung has a completed run with test metrics."
ALT = "four panels, test NLL above and top-1 below, against parameters left and training FLOPs right, a point for each rung."
METRICS = {"test_nll": "test NLL (nats per text)", "test_top1": "test top-1 (%)"}
AXES = ("n_params", "train_flops")


def prepare(results: Results) -> pd.DataFrame:
    """A row per rung, metric and source of the rate; `low` and `high` bound the 95 % t interval over seeds."""
    rows = [row for rung in measured(results) for metric in METRICS for row in _rows(rung, metric)]
    if not rows:
        return pd.DataFrame(columns=["rung", "place", "places"])
    floor = results.data.get("floor") or {}
    frame = pd.DataFrame(rows).merge(style.places(results), on="rung")
    frame["floor"] = frame["metric"].map({"test_nll": floor.get("nll"), "test_top1": floor.get("top1")}).astype(float)
    frame["default_lr"] = default_lr(results)
    return frame.sort_values(["metric", "lr_source", "place"], ignore_index=True)


def _rows(rung: Rung, metric: str) -> list[dict[str, object]]:
    found = rung.nll if metric == "test_nll" else rung.top1
    flops = completed(rung.own)["train_flops"].mean()
    common = {"rung": rung.name, "family": rung.family, "n_params": rung.n_params, "train_flops": flops, "metric": metric}
    rows: list[dict[str, object]] = []
    if found:
        rows.append(
            common
            | {"lr_source": "tuned", "status": "completed", "mean": found.mean, "low": found.low, "high": found.high, "seeds": found.n}
        )
    if rung.default is not None:
        rows.append(common | {"lr_source": "default", "status": rung.default["status"], "mean": rung.default[metric], "seeds": 1})
    return rows


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """NLL above and top-1 below; parameters left and FLOPs right."""
    figure, axes = style.panels(2, 2, 10.5, sharex="col", sharey="row")
    lines = []
    for row, metric in enumerate(METRICS):
        rows, unit = frame[frame["metric"] == metric], 1 if metric == "test_nll" else 100
        for column, x in enumerate(AXES):
            _panel(axes[row, column], rows, metric, x)
        best = float(rows["floor"].iloc[0]) * unit
        lines.append(best_possible.draw(list(axes[row]), best, tuned_values(rows) * unit, " %" if unit == 100 else ""))
        axes[row, 0].set_ylabel(METRICS[metric])
    style.size_axis(axes[1, 0], frame["n_params"])
    style.log_axis(axes[1, 1], "x", frame["train_flops"], power, most=5)
    axes[1, 1].set_xlabel("training FLOPs of one run")
    style.legend_below(figure, [*_handles(frame), *([best_possible.handle()] if any(lines) else [])])
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, metric: str, x: str) -> None:
    unit = 1 if metric == "test_nll" else 100
    tuned, default = rows[rows["lr_source"] == "tuned"], rows[rows["lr_source"] == "default"]
    # What differs in more than size is not joined.
    for _, ladder in tuned.groupby("family", sort=False, dropna=False):
        ax.plot(ladder[x], ladder["mean"] * unit, color=style.LIGHT, zorder=1)
    low, high = limits(rows, metric)
    inside = default[default["mean"].between(low, high) & (default["status"] == "completed")]
    ax.plot(inside[x], inside["mean"] * unit, color=style.DEFAULT_COLOR, linestyle=":", linewidth=1, zorder=1)
    for _, line, color, marker in style.each_rung(rows):
        for _, point in line[line["lr_source"] == "tuned"].iterrows():
            reach = [[(point["mean"] - point["low"]) * unit], [(point["high"] - point["mean"]) * unit]] if point["seeds"] > 1 else None
            ax.errorbar(point[x], point["mean"] * unit, yerr=reach, color=color, marker=marker, capsize=2, linewidth=1.2)
    ax.plot(
        inside[x],
        inside["mean"] * unit,
        linestyle="",
        marker="o",
        markersize=7,
        markerfacecolor="none",
        markeredgecolor=style.DEFAULT_COLOR,
    )
    edge = high - 0.04 * (high - low) if metric == "test_nll" else low + 0.04 * (high - low)
    for _, point in default.drop(inside.index).iterrows():
        diverged = point["status"] != "completed"
        symbol = "x" if diverged else "^" if metric == "test_nll" else "v"
        ax.plot(point[x], edge * unit, marker=symbol, color=style.DEFAULT_COLOR, zorder=5, markeredgewidth=1.4)
    ax.set_ylim(low * unit, high * unit)


def tuned_values(rows: pd.DataFrame) -> np.ndarray:
    """Means at the chosen rates and the ends of their intervals."""
    return rows[rows["lr_source"] == "tuned"][["mean", "low", "high"]].to_numpy(dtype=float).ravel()


def limits(rows: pd.DataFrame, metric: str) -> tuple[float, float]:
    """The range of the tuned rungs, and of the floor where it is near; twice as much again for the default on its bad side."""
    shown, best = tuned_values(rows), float(rows["floor"].iloc[0])
    if known(best) and best_possible.is_near(best, shown):
        shown = np.append(shown, best)
    low, high = np.nanmin(shown), np.nanmax(shown)
    span = max(high - low, 0.02 * abs(high))
    completed = rows[(rows["lr_source"] == "default") & (rows["status"] == "completed")]["mean"]
    if metric == "test_nll":
        worst = min(completed.max(), high + 2 * span) if len(completed) else high
        return low - 0.08 * span, max(high, worst) + 0.12 * span
    worst = max(completed.min(), low - 2 * span) if len(completed) else low
    return min(low, worst) - 0.12 * span, high + 0.08 * span


def _handles(frame: pd.DataFrame) -> list[Line2D]:
    handles: list[Line2D] = style.rung_handles(frame)
    default = frame[frame["lr_source"] == "default"]
    rate, red = power(float(frame["default_lr"].iloc[0])), style.DEFAULT_COLOR
    beyond = outside(frame)
    if len(beyond) < (default["status"] == "completed").sum():
        handles.append(Line2D([], [], color=red, marker="o", markersize=7, markerfacecolor="none", linestyle=":", label=f"at {rate}"))
    if len(beyond):
        symbol = "^" if (beyond["metric"] == "test_nll").any() else "v"
        handles.append(Line2D([], [], color=red, marker=symbol, linestyle="", label=f"at {rate}, outside of the panel"))
    if (default["status"] != "completed").any():
        handles.append(Line2D([], [], color=red, marker="x", linestyle="", markeredgewidth=1.4, label=f"diverged at {rate}"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    tuned = frame[frame["lr_source"] == "tuned"]
    several = (tuned["seeds"] > 1).any()
    bars = "Bars are 95 % t intervals over seeds." if several else "One seed a rung: no interval."
    default = frame[frame["lr_source"] == "default"]
    rate = power(float(frame["default_lr"].iloc[0]))
    compared = f" Red: one run each at the default rate {rate}." if len(default) else ""
    compared += " Crosses at the edge: such runs that did not complete." if (default["status"] != "completed").any() else ""
    compared += " Triangles at the edge: such runs outside of the panel." if len(outside(frame)) else ""
    floors = frame.dropna(subset=["floor"]).groupby("metric")
    best = best_possible.sentence([best_possible.is_near(rows["floor"].iloc[0], tuned_values(rows)) for _, rows in floors])
    return f"Test NLL and top-1 accuracy against size and against the FLOPs of one training run. {bars}{compared}{best}"


def outside(frame: pd.DataFrame) -> pd.DataFrame:
    """The completed defaults that lie beyond their panel's range."""
    found = []
    for metric in METRICS:
        rows = frame[frame["metric"] == metric]
        default = rows[(rows["lr_source"] == "default") & (rows["status"] == "completed")]
        found.append(default[~default["mean"].between(*limits(rows, metric))] if len(default) else default)
    return pd.concat(found)
