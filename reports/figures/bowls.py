"""Validation loss against learning rate, a panel a rung: the bowl, the chosen rate, and where training breaks."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.learning_rate import collapsed
from harness.results import Results
from reports import style
from reports.numbers import listed, power
from reports.rates import ceiling
from reports.summary import default_lr

TITLE = "Learning-rate searches"
PLACE = 3
ABSENT = "No learning rate was searched."
ALT = "a panel for each rung with validation loss against learning rate, a point for each trial, and a line at the chosen rate."
# How a trial ends that is a cliff rather than a point of a bowl; collapsed ones completed, but forgot what they had learned.
BROKEN = ["diverged", "collapsed", "failed"]
SEARCH = ["rung", "lr", "lr_status", "fitted_low", "fitted_high"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per trial, with its rung's chosen rate and that rate's interval; `status` is collapsed where a completed trial is a cliff."""
    trials = results.runs[results.runs["stage"] == "search"]
    if trials.empty:
        return pd.DataFrame(columns=["rung", "place", "places"])
    searches = results.searches[SEARCH].rename(columns={"lr": "chosen_lr", "lr_status": "chosen_status"})
    frame = trials[["rung", "n_params", "trial", "lr", "status", "val_loss"]].merge(style.places(results), on="rung")
    frame = frame.merge(searches, on="rung", how="left")
    frame["default_lr"] = default_lr(results)
    for _, own in frame.groupby("rung"):
        frame.loc[own.index[collapsed(own, ceiling(results))], "status"] = "collapsed"
    frame["top"] = _top(frame)
    return frame.sort_values(["place", "trial"], ignore_index=True)


def _top(frame: pd.DataFrame) -> float:
    """The loss above which trials are drawn at the upper edge, so that the bottoms of the bowls stay readable."""
    completed = frame[frame["status"] == "completed"].groupby("rung")["val_loss"]
    if not len(completed):
        # Trials that broke before their first evaluation have no loss at all; their crosses still need a panel.
        return float(frame["val_loss"].fillna(1.0).max())
    best = completed.min()
    return float(max((completed.quantile(0.75)).max(), best.max() + 0.5 * (best.max() - best.min())))


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Panels share both axes, so that bowls compare by height and place."""
    count = frame["rung"].nunique()
    columns = count if count <= 3 else 2 if count == 4 else 3 if count <= 6 else 4
    rows = math.ceil(count / columns)
    figure, axes = style.panels(rows, columns, 2.6 + 4.2 * rows, sharex=True, sharey=True)
    top = float(frame["top"].iloc[0])
    bottom = float(frame[frame["status"] == "completed"]["val_loss"].min() if (frame["status"] == "completed").any() else top - 1)
    room = max(top - bottom, 0.01 * abs(top))
    # All rungs have circles here: a rung's own marker may be the triangle or the cross that says how a trial ended.
    for place, (name, trials, color, _) in enumerate(style.each_rung(frame)):
        _panel(axes.flat[place], trials, color, top, top + 0.13 * room)
        axes.flat[place].set_title(name)
    axes[0, 0].set_ylim(bottom - 0.1 * room, top + 0.22 * room)
    style.rate_axis(axes[0, 0], "x", pd.concat([frame["lr"], frame["default_lr"]]), most=4)
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    for ax in axes.flat[max(count - columns, 0) : count]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("learning rate")
    for ax in axes[:, 0]:
        ax.set_ylabel("validation loss\n(nats per token)")
    style.legend_below(figure, _handles(frame), columns=3)
    return figure


def _panel(ax: Axes, trials: pd.DataFrame, color: str, top: float, rug: float) -> None:
    first = trials.iloc[0]
    if pd.notna(first["fitted_low"]):
        ax.axvspan(first["fitted_low"], first["fitted_high"], color=color, alpha=0.15, linewidth=0)
    ax.axvline(first["default_lr"], color=style.DEFAULT_COLOR, linestyle=":", linewidth=1)
    if pd.notna(first["chosen_lr"]):
        ax.axvline(first["chosen_lr"], color=color, linewidth=1.2)
    completed = trials[(trials["status"] == "completed") & trials["val_loss"].notna()].sort_values("lr")
    pruned = trials[(trials["status"] == "pruned") & trials["val_loss"].notna()]
    ax.plot(completed["lr"], completed["val_loss"], color=color, linewidth=0.8, alpha=0.6)
    inside = completed[completed["val_loss"] <= top]
    ax.plot(inside["lr"], inside["val_loss"], linestyle="", marker="o", color=color)
    low = pruned[pruned["val_loss"] <= top]
    ax.plot(low["lr"], low["val_loss"], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=color)
    for rows, fill in ((completed[completed["val_loss"] > top], color), (pruned[pruned["val_loss"] > top], "white")):
        ax.plot(rows["lr"], [rug] * len(rows), linestyle="", marker="^", markerfacecolor=fill, markeredgecolor=color)
    broken = trials[trials["status"].isin(BROKEN)]
    ax.plot(broken["lr"], [rug] * len(broken), linestyle="", marker="x", color="black", markeredgewidth=1.2)


def _handles(frame: pd.DataFrame) -> list[Line2D | Patch]:
    grey = style.GREY
    status = set(frame["status"])
    handles: list[Line2D | Patch] = [Line2D([], [], color=grey, marker="o", linewidth=0.8, label="completed")]
    if ((frame["status"] == "pruned") & (frame["val_loss"] <= frame["top"])).any():
        handles.append(Line2D([], [], color=grey, marker="o", markerfacecolor="white", linestyle="", label="pruned, last value"))
    if broken := [name for name in BROKEN if name in status]:
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", markeredgewidth=1.2, label=" or ".join(broken)))
    above = set(frame[frame["val_loss"] > frame["top"]]["status"])
    for name, fill in (("completed", grey), ("pruned", "white")):
        if name in above:
            handles.append(Line2D([], [], color=grey, marker="^", markerfacecolor=fill, linestyle="", label=f"{name}, above the panel"))
    handles.append(Line2D([], [], color=grey, linewidth=1.2, label="chosen rate"))
    if frame["fitted_low"].notna().any():
        handles.append(Patch(color=grey, alpha=0.25, linewidth=0, label="95 % interval of the optimum"))
    rate = power(float(frame["default_lr"].iloc[0]))
    handles.append(Line2D([], [], color=style.DEFAULT_COLOR, linestyle=":", linewidth=1, label=f"default {rate}"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    chosen = frame.dropna(subset=["chosen_lr"]).drop_duplicates("rung")
    resolved, censored = chosen[chosen["chosen_status"] == "resolved"], chosen[chosen["chosen_status"] != "resolved"]
    note = ""
    if len(resolved):
        note = f" Resolved for {listed(list(resolved['rung']))}: the line is the minimum of a curve fitted to the trials, so it may lie "
        note += "between them, and the band is its 95 % interval."
    if len(censored):
        said = [f"{row['rung']} ({row['chosen_status']})" for _, row in censored.iterrows()]
        note += f" Not resolved for {listed(said)}: the line is the best completed trial."
    ends = [name for name in BROKEN if name in set(frame["status"])]
    broken = f" Crosses at the top are trials that {' or '.join(ends)}." if ends else ""
    high = frame["status"].isin(["completed", "pruned"]) & (frame["val_loss"] > frame["top"])
    above = " Triangles at the top are trials above the panel." if high.any() else ""
    return f"Each point is a trial of the learning-rate search.{broken}{above}{note}"
