"""The chosen learning rate against size, with the interval of each optimum and the highest rate that still trained."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.results import Results
from reports import style
from reports.numbers import power
from reports.summary import default_lr

TITLE = "Best learning rate against size"
PLACE = 4
ABSENT = "No learning rate was searched."
ALT = "chosen learning rate against parameters on log axes, a point for each rung and a line at the default rate."
COLUMNS = ["rung", "n_params", "lr", "lr_status", "fitted_low", "fitted_high", "low", "high", "highest_stable_lr"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per searched rung."""
    frame = results.searches[COLUMNS].dropna(subset=["lr"]).merge(style.places(results), on="rung")
    frame["default_lr"] = default_lr(results)
    return frame.sort_values("place", ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Filled: a resolved minimum; hollow: the best trial of a search that resolved none; arrows point past the range."""
    figure, axes = style.panels(1, 1, 8.5, width_cm=13)
    ax = axes[0, 0]
    size = frame["n_params"]
    style.size_axis(ax, size)
    # Room for the arrows of an optimum at the edge.
    shown = [frame[column] for column in ("default_lr", "fitted_low", "fitted_high", "highest_stable_lr")]
    style.rate_axis(ax, "y", pd.concat([*shown, 1.7 * frame["lr"], frame["lr"] / 1.7]), most=7)
    ax.set_ylabel("learning rate")
    ax.axhline(float(frame["default_lr"].iloc[0]), color=style.DEFAULT_COLOR, linestyle=":", linewidth=1)
    ax.plot(size, frame["highest_stable_lr"], linestyle="", marker="_", markersize=9, markeredgewidth=1.4, color=style.GREY)
    for _, row, color, marker in style.each_rung(frame):
        point = row.iloc[0]
        resolved = point["lr_status"] == "resolved"
        if pd.notna(point["fitted_low"]):
            ax.plot([point["n_params"]] * 2, [point["fitted_low"], point["fitted_high"]], color=color, linewidth=1.2)
        ax.plot(point["n_params"], point["lr"], marker=marker, color=color, markerfacecolor=color if resolved else "white", markersize=6)
        if point["lr_status"] == "edge":
            upward = point["lr"] ** 2 > point["low"] * point["high"]
            arrow = {"arrowstyle": "->", "color": color, "shrinkA": 4}
            ax.annotate(
                "",
                xy=(point["n_params"], point["lr"] * (1.5 if upward else 0.67)),
                xytext=(point["n_params"], point["lr"]),
                arrowprops=arrow,
            )
    style.legend_below(figure, _handles(frame), columns=3)
    return figure


def _handles(frame: pd.DataFrame) -> list[Line2D]:
    handles: list[Line2D] = style.rung_handles(frame)
    if (frame["lr_status"] != "resolved").any():
        handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="", label="not resolved"))
    if frame["highest_stable_lr"].notna().any():
        handles.append(
            Line2D([], [], color=style.GREY, marker="_", markersize=9, linestyle="", markeredgewidth=1.4, label="highest that trained")
        )
    rate = power(float(frame["default_lr"].iloc[0]))
    handles.append(Line2D([], [], color=style.DEFAULT_COLOR, linestyle=":", linewidth=1, label=f"default {rate}"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    bars = " Bars are 95 % intervals of the fitted minimum." if frame["fitted_low"].notna().any() else ""
    hollow = " Hollow points are best trials of searches without a resolved minimum." if (frame["lr_status"] != "resolved").any() else ""
    arrow = " An arrow points past the end of the range searched." if (frame["lr_status"] == "edge").any() else ""
    return f"The learning rate chosen for each size.{bars}{hollow}{arrow}"
