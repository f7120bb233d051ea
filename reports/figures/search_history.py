"""How each search went: the rate of every trial in order, how it ended, and the best so far."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.results import Results
from reports import style
from reports.numbers import listed

TITLE = "How the searches went"
PLACE = 3.8
ABSENT = "No learning rate was searched."
ALT = "a panel for each rung with the learning rate of each trial against its number, and a line at the best so far."
COLUMNS = ["rung", "place", "places", "trial", "lr", "status", "val_loss", "best_so_far", "is_extension"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per trial; `best_so_far`: the rate of the best completed one up to there."""
    trials = results.runs[results.runs["stage"] == "search"]
    if trials.empty:
        return pd.DataFrame(columns=COLUMNS)
    frame = trials[["rung", "trial", "lr", "status", "val_loss"]].merge(style.places(results), on="rung").sort_values(["place", "trial"])
    planned = int(results.study.get("search", {}).get("trials") or frame["trial"].max() + 1)
    frame["is_extension"] = frame["trial"] >= planned
    completed = frame["val_loss"].where(frame["status"] == "completed")
    is_best = completed.notna() & (completed == completed.groupby(frame["rung"]).cummin())
    frame["best_so_far"] = frame["lr"].where(is_best).groupby(frame["rung"]).ffill()
    return frame.reset_index(drop=True)[COLUMNS]


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Panels share both axes."""
    count = frame["rung"].nunique()
    columns = count if count <= 3 else 2 if count == 4 else 3 if count <= 6 else 4
    rows = math.ceil(count / columns)
    figure, axes = style.panels(rows, columns, 2.6 + 3.6 * rows, sharex=True, sharey=True)
    for place, (name, trials, color, _) in enumerate(style.each_rung(frame)):
        _panel(axes.flat[place], trials, color)
        axes.flat[place].set_title(name)
    style.rate_axis(axes[0, 0], "y", frame["lr"], most=5)
    last = int(frame["trial"].max())
    axes[0, 0].set_xticks(range(0, last + 1, max(1, math.ceil(last / 5))))
    axes[0, 0].set_xlim(-0.7, last + 0.7)
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    for ax in axes.flat[max(count - columns, 0) : count]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("trial")
    for ax in axes[:, 0]:
        ax.set_ylabel("learning rate")
    style.legend_below(figure, _handles(frame), columns=4)
    return figure


def _panel(ax: Axes, trials: pd.DataFrame, color: str) -> None:
    further = trials[trials["is_extension"].astype(bool)]
    if len(further):
        ax.axvspan(further["trial"].min() - 0.5, further["trial"].max() + 0.5, color=style.LIGHT, alpha=0.5, linewidth=0)
    ax.step(trials["trial"], trials["best_so_far"], where="post", color=color, linewidth=1)
    completed, pruned = trials[trials["status"] == "completed"], trials[trials["status"] == "pruned"]
    ax.plot(completed["trial"], completed["lr"], linestyle="", marker="o", color=color)
    ax.plot(pruned["trial"], pruned["lr"], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=color)
    broken = trials[trials["status"].isin(["diverged", "failed"])]
    ax.plot(broken["trial"], broken["lr"], linestyle="", marker="x", color="black", markeredgewidth=1.2)


def _handles(frame: pd.DataFrame) -> list[Line2D | Patch]:
    grey, status = style.GREY, set(frame["status"])
    handles: list[Line2D | Patch] = [Line2D([], [], color=grey, marker="o", linestyle="", label="completed")]
    if "pruned" in status:
        handles.append(Line2D([], [], color=grey, marker="o", markerfacecolor="white", linestyle="", label="pruned"))
    if status & {"diverged", "failed"}:
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", markeredgewidth=1.2, label="diverged or failed"))
    handles.append(Line2D([], [], color=grey, linewidth=1, label="best so far"))
    if frame["is_extension"].any():
        handles.append(Patch(color=style.LIGHT, alpha=0.5, linewidth=0, label="past what had been tried"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    extended = list(dict.fromkeys(frame[frame["is_extension"]]["rung"]))
    further = f" The optimum lay past what had been tried at {listed(extended)}: the search went on there (shaded)." if extended else ""
    return f"The rate of each trial in the order in which they were suggested, and the best completed one up to there.{further}"
