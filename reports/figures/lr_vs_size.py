"""The chosen learning rate against size, with the interval of each optimum and the highest rate that still trained."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.results import Results
from reports import numbers, style
from reports.numbers import power
from reports.rates import one_ladder, rates, which_ladder
from reports.summary import default_lr

TITLE = "Best learning rate against size"
PLACE = 4
ABSENT = "No learning rate was searched."
ALT = "chosen learning rate against parameters on log axes, a point for each rung and a line at the default rate."
COLUMNS = ["rung", "n_params", "lr", "lr_status", "fitted_low", "fitted_high", "low", "high", "highest_stable_lr", "parametrization"]
LAW_COLUMNS = ["law_lr", "law_low", "law_high", "p", "p_low", "p_high", "held_out_lr", "held_out_low", "held_out_high", "held_out_cost"]
LAW_POINTS = 40


def prepare(results: Results) -> pd.DataFrame:
    """A row per searched rung; then, where there is a law, rows without a rung that draw it and its band over the sizes."""
    frame = results.searches[COLUMNS].dropna(subset=["lr"]).merge(style.places(results), on="rung").sort_values("place")
    if frame.empty:
        return frame.assign(default_lr=numbers.NAN)
    law, ladder = rates(results).law, one_ladder(results.searches)
    rows = frame.assign(**dict.fromkeys(LAW_COLUMNS, numbers.NAN))
    if law.status == "fitted":
        ends = frame["n_params"].min(), frame["n_params"].max()
        points = [(float(n), law.predict(float(n))) for n in np.geomspace(*ends, LAW_POINTS)]
        drawn = pd.DataFrame([{"n_params": n, "law_lr": one.lr, "law_low": one.low, "law_high": one.high} for n, one in points])
        held = law.held_out
        if held is not None:
            own = {"held_out_lr": held.predicted.lr, "held_out_low": held.predicted.low, "held_out_high": held.predicted.high}
            for name, value in {**own, "held_out_cost": held.cost}.items():
                rows.loc[(rows["n_params"] == held.n_params) & rows["rung"].isin(ladder["rung"]), name] = value
        rows = pd.concat([rows, drawn.assign(p=law.p, p_low=law.p_low, p_high=law.p_high)], ignore_index=True)
    rows["default_lr"] = default_lr(results)
    return rows.reset_index(drop=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Filled: a resolved minimum; hollow: the best trial of a search that resolved none; arrows point past the range."""
    figure, axes = style.panels(1, 1, 9.5)
    ax = axes[0, 0]
    law, frame = frame[frame["rung"].isna()], frame[frame["rung"].notna()]
    size = frame["n_params"]
    style.size_axis(ax, size)
    # Room for the arrows of an optimum at the edge.
    shown = [frame[column] for column in ("default_lr", "fitted_low", "fitted_high", "highest_stable_lr", "held_out_low", "held_out_high")]
    style.rate_axis(ax, "y", pd.concat([*shown, 1.7 * frame["lr"], frame["lr"] / 1.7]), most=7)
    ax.set_ylabel("learning rate")
    ax.axhline(float(frame["default_lr"].iloc[0]), color=style.DEFAULT_COLOR, linestyle=":", linewidth=1)
    ax.plot(size, frame["highest_stable_lr"], linestyle="", marker="_", markersize=9, markeredgewidth=1.4, color=style.GREY)
    if len(law):
        ax.plot(law["n_params"], law["law_lr"], color=style.GREY, linewidth=1)
        ax.fill_between(law["n_params"], law["law_low"], law["law_high"], color=style.LIGHT, alpha=0.5, linewidth=0)
    held = frame.dropna(subset=["held_out_lr"])
    # Beside the rung's own point, not on it.
    beside = held["n_params"] * (size.max() / size.min()) ** 0.02
    ax.vlines(beside, held["held_out_low"], held["held_out_high"], color="black", linewidth=1)
    ax.plot(beside, held["held_out_lr"], linestyle="", marker="x", color="black", markersize=5)
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
    style.legend_below(figure, _handles(frame, law), columns=4)
    return figure


def _handles(frame: pd.DataFrame, law: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [*style.rung_handles(frame)]
    if (frame["lr_status"] != "resolved").any():
        handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="", label="not resolved"))
    if frame["highest_stable_lr"].notna().any():
        handles.append(
            Line2D([], [], color=style.GREY, marker="_", markersize=9, linestyle="", markeredgewidth=1.4, label="highest that trained")
        )
    if len(law):
        handles.append(Line2D([], [], color=style.GREY, linewidth=1, label="law"))
        handles.append(Patch(color=style.LIGHT, alpha=0.5, linewidth=0, label="its 95 % band"))
    if frame["held_out_lr"].notna().any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="by the smaller rungs"))
    rate = power(float(frame["default_lr"].iloc[0]))
    handles.append(Line2D([], [], color=style.DEFAULT_COLOR, linestyle=":", linewidth=1, label=f"default {rate}"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    law, frame = frame[frame["rung"].isna()], frame[frame["rung"].notna()]
    bars = " Bars are 95 % intervals of the fitted minimum." if frame["fitted_low"].notna().any() else ""
    hollow = " Hollow points are best trials of searches without a resolved minimum." if (frame["lr_status"] != "resolved").any() else ""
    arrow = " An arrow points to where the optimum lies beyond what was tried." if (frame["lr_status"] == "edge").any() else ""
    line = ""
    if len(law):
        p, low, high = (numbers.fixed(float(law[name].iloc[0]), 2) for name in ("p", "p_low", "p_high"))
        of = f" The law through the resolved rungs{which_ladder(frame)}"
        line = f"{of} is N^-p with p = {p} [{low}, {high}], by a bootstrap from the trials on.{_held(frame)}"
    return f"The learning rate chosen for each size.{bars}{hollow}{arrow}{line}"


def _held(frame: pd.DataFrame) -> str:
    """The check on the largest rung, in words."""
    held = frame.dropna(subset=["held_out_lr"])
    if held.empty:
        return ""
    row = held.iloc[0]
    cost = f", which would cost {numbers.fixed(row['held_out_cost'], 3)} nats per token" if pd.notna(row["held_out_cost"]) else ""
    return f" Cross: what the smaller rungs alone predict for {row['rung']}, {power(row['held_out_lr'])}{cost}."
