"""The bowls of both parametrizations side by side, a curve a width: whether the best learning rate stays where it is as models grow."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.learning_rate import collapsed
from harness.results import Results
from reports import style
from reports.numbers import listed, power
from reports.rates import ceiling
from reports.summary import default_lr

TITLE = "Both parametrizations"
PLACE = 3.7
ABSENT = "All rungs have one parametrization."
ALT = (
    "two panels, standard left and muP right, with validation loss against learning rate, a curve for each width and its best rate marked."
)
PANELS = {"standard": "standard", "mup": "muP"}
IN_WORDS = {"standard": "In the standard one", "mup": "In muP"}
SEARCH = ["rung", "parametrization", "lr", "lr_status", "fitted_low", "fitted_high", "best_val_loss", "fitted_val_loss"]
COLUMNS = [
    "parametrization",
    "rung",
    "d_model",
    "place",
    "places",
    "lr",
    "val_loss",
    "status",
    "best_lr",
    "low",
    "high",
    "bottom",
    "lr_status",
]
# The panels show so much above the highest of the bottoms, as a share of the range of the bottoms; at least so many nats a token.
TALLEST, AT_LEAST = 1.5, 0.25


def prepare(results: Results) -> pd.DataFrame:
    """A row per trial, with its rung's best rate, interval and lowest loss; empty unless both parametrizations were searched.

    `place`: a width's place among all, the same in both parametrizations.
    """
    searches = results.searches[SEARCH]
    if set(searches["parametrization"].dropna()) != set(PANELS):
        return pd.DataFrame(columns=[*COLUMNS, "top", "default_lr"])
    searches = searches.rename(columns={"lr": "best_lr", "fitted_low": "low", "fitted_high": "high"})
    searches["bottom"] = searches["fitted_val_loss"].fillna(searches["best_val_loss"])
    trials = results.runs[results.runs["stage"] == "search"][["rung", "d_model", "n_params", "trial", "lr", "status", "val_loss"]]
    frame = trials.merge(searches, on="rung")
    for _, own in frame.groupby("rung"):
        frame.loc[own.index[collapsed(own, ceiling(results))], "status"] = "collapsed"
    sizes = sorted(set(frame["n_params"]))
    frame = frame.assign(place=frame["n_params"].map(sizes.index), places=len(sizes))
    bottoms = frame["bottom"].dropna()
    room = max(TALLEST * (bottoms.max() - bottoms.min()), AT_LEAST) if len(bottoms) else math.nan
    frame = frame.sort_values(["parametrization", "place", "lr"], ascending=[False, True, True], ignore_index=True)
    return frame[COLUMNS].assign(top=bottoms.max() + room, default_lr=default_lr(results))


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Both panels share both axes and the colours of the widths."""
    figure, axes = style.panels(1, 2, 8.5, sharex=True, sharey=True)
    top = float(frame["top"].iloc[0]) if frame["top"].notna().any() else float(frame["val_loss"].max())
    bottom = float(frame["bottom"].min() if frame["bottom"].notna().any() else top - 1)
    room = max(top - bottom, 0.01 * abs(top))
    for ax, (name, title) in zip(axes[0], PANELS.items(), strict=True):
        for place, rows in frame[frame["parametrization"] == name].groupby("place", sort=True):
            _bowl(ax, rows, style.color(int(str(place)), int(rows["places"].iloc[0])), style.marker(int(str(place))), top)
        ax.set_title(title)
        ax.set_xlabel("learning rate")
    axes[0, 0].set_ylim(bottom - 0.08 * room, top + 0.08 * room)
    style.rate_axis(axes[0, 0], "x", frame["lr"], most=5)
    axes[0, 0].set_ylabel("validation loss (nats per token)")
    style.legend_below(figure, _handles(frame), columns=5)
    return figure


def _bowl(ax: Axes, rows: pd.DataFrame, color: str, marker: str, top: float) -> None:
    """The trials that are points of the bowl, its best rate with its interval, and crosses where training broke."""
    points = rows[(rows["status"] == "completed") & rows["val_loss"].notna()]
    ax.plot(points["lr"], points["val_loss"].where(points["val_loss"] <= top), color=color, linewidth=1)
    inside = points[points["val_loss"] <= top]
    ax.plot(inside["lr"], inside["val_loss"], linestyle="", marker=marker, color=color, markersize=3)
    broken = rows[rows["status"].isin(["diverged", "collapsed", "failed"])]
    ax.plot(broken["lr"], [top] * len(broken), linestyle="", marker="x", color=color, markeredgewidth=1.2)
    one = rows.iloc[0]
    if pd.isna(one["bottom"]):
        return
    ax.axvline(one["best_lr"], color=color, linestyle=":", linewidth=1)
    if pd.notna(one["low"]):
        ax.plot([one["low"], one["high"]], [one["bottom"]] * 2, color=color, linewidth=1.8, solid_capstyle="butt")
    fill = color if one["lr_status"] == "resolved" else "white"
    ax.plot(one["best_lr"], one["bottom"], linestyle="", marker=marker, color=color, markerfacecolor=fill, markersize=7)


def _handles(frame: pd.DataFrame) -> list[Line2D]:
    handles = []
    for place, rows in frame[frame["parametrization"] == "standard"].groupby("place", sort=True):
        i, of = int(str(place)), int(rows["places"].iloc[0])
        handles.append(Line2D([], [], color=style.color(i, of), marker=style.marker(i), linewidth=1, label=str(rows["rung"].iloc[0])))
    handles.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="best rate"))
    if frame["status"].isin(["diverged", "collapsed", "failed"]).any():
        handles.append(Line2D([], [], color=style.GREY, marker="x", linestyle="", markeredgewidth=1.2, label="training broke"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see: how far the best rate moves from the narrowest model to the widest in either parametrization."""
    said = [sentence for name, words in IN_WORDS.items() if (sentence := _moved(frame[frame["parametrization"] == name], words))]
    loose = frame[frame["lr_status"] != "resolved"]["rung"].unique()
    hollow = f" Hollow, the best trial: {listed([str(rung) for rung in loose])}." if len(loose) else ""
    bars = " Bars are 95 % intervals of fitted minima." if frame["low"].notna().any() else ""
    above = int((frame["val_loss"] > frame["top"]).sum())
    left = f" {above} trials lie above the panels." if above else ""
    return f"Trials of all widths; large points are best rates. {' '.join(said)}{bars}{hollow}{left}"


def _moved(rows: pd.DataFrame, words: str) -> str:
    """From where to where the best rate goes, and how many times as wide the models become."""
    own = rows.drop_duplicates("rung").sort_values("place").dropna(subset=["best_lr"])
    if len(own) < 2:
        return ""
    first, last = own.iloc[0], own.iloc[-1]
    low, high = sorted((float(first["best_lr"]), float(last["best_lr"])))
    way = f"{'falls' if last['best_lr'] < first['best_lr'] else 'rises'} by a factor of {high / low:.2g}" if low < high else "stays"
    ends = f"from {power(first['best_lr'])} at {first['rung']} to {power(last['best_lr'])} at {last['rung']}"
    return f"{words} the best rate {way}, {ends}, {last['d_model'] / first['d_model']:.3g} times as wide."
