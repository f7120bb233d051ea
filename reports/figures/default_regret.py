"""What the default rate costs at each size: as trained with it, and as read off the rung's bowl."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.results import Results
from reports import style
from reports.numbers import listed, power
from reports.summary import completed, default_lr, interval, rungs

TITLE = "What the default rate costs"
PLACE = 4.5
ABSENT = "No rung was trained both at its own rate and at the default."
ALT = "validation loss at the default rate over that at the chosen one against parameters, a point for each rung."
COLUMNS = ["rung", "n_params", "place", "places", "cost", "reach", "seeds", "by_bowl", "broken", "default_lr"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per rung; costs in nats a token. `reach`: how far one run at the chosen rate may lie from their mean (95 %)."""
    bowls = results.searches.set_index("rung")["default_regret"] if len(results.searches) else pd.Series(dtype=float)
    rows = []
    for rung in rungs(results):
        tuned = interval(completed(rung.own), "val_loss")
        if rung.default is None or tuned is None:
            continue
        ended = rung.default["status"] == "completed" and pd.notna(rung.default["val_loss"])
        row = {"rung": rung.name, "n_params": rung.n_params, "seeds": tuned.n, "by_bowl": bowls.get(rung.name), "broken": not ended}
        row |= {"cost": float(rung.default["val_loss"]) - tuned.mean if ended else None}
        rows.append(row | {"reach": tuned.half_width * (tuned.n + 1) ** 0.5})
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    frame = pd.DataFrame(rows).merge(style.places(results), on="rung").assign(default_lr=default_lr(results))
    numeric = ["cost", "reach", "by_bowl"]
    frame[numeric] = frame[numeric].astype(float)
    return frame.sort_values("place", ignore_index=True)[COLUMNS]


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Filled: the run at the default against the seeds at the chosen rate; hollow: the same by the search's bowl; a cross: it broke."""
    figure, axes = style.panels(1, 1, 8.5, width_cm=13)
    ax = axes[0, 0]
    style.size_axis(ax, frame["n_params"])
    ax.axhline(0, color=style.GREY, linewidth=0.6)
    known = pd.concat([frame["cost"] + frame["reach"].fillna(0), frame["cost"] - frame["reach"].fillna(0), frame["by_bowl"]]).dropna()
    low, high = (min(float(known.min()), 0.0), max(float(known.max()), 0.0)) if len(known) else (0.0, 1.0)
    room = max(high - low, 1e-3)
    ax.set_ylim(low - 0.08 * room, high + 0.18 * room)
    for _, rows, color, marker in style.each_rung(frame):
        row = rows.iloc[0]
        if row["broken"]:
            ax.plot(row["n_params"], high + 0.1 * room, linestyle="", marker="x", color="black", markeredgewidth=1.2)
        elif pd.notna(row["reach"]):
            ax.errorbar(row["n_params"], row["cost"], yerr=row["reach"], color=color, marker=marker, linewidth=1.2)
        else:
            ax.plot(row["n_params"], row["cost"], linestyle="", marker=marker, color=color)
        ax.plot(row["n_params"], row["by_bowl"], linestyle="", marker=marker, color=color, markerfacecolor="white", markersize=6, zorder=1)
    ax.set_ylabel(f"loss at {power(float(frame['default_lr'].iloc[0]))} over that\nat the chosen rate (nats per token)")
    style.legend_below(figure, _handles(frame), columns=3)
    return figure


def _handles(frame: pd.DataFrame) -> list[Line2D]:
    handles: list[Line2D] = style.rung_handles(frame)
    if frame["by_bowl"].notna().any():
        handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="", label="by the search's bowl"))
    if frame["broken"].any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", markeredgewidth=1.2, label="diverged or failed"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    broken = list(frame[frame["broken"]]["rung"])
    cross = f" At {listed(broken)} training broke at the default (cross)." if broken else ""
    bars = " Bars are what one run may differ by for its seed alone (95 %)." if frame["reach"].notna().any() else ""
    hollow = " Hollow: the same read off the curve or the trials of the search." if frame["by_bowl"].notna().any() else ""
    return f"Best validation loss of one run at the default rate, over the mean of the seeds at the chosen rate.{bars}{hollow}{cross}"
