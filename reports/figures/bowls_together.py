"""The bowls of all rungs on one panel: loss over each rung's best against learning rate, with the intervals of the optima below."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.learning_rate import Optimum
from harness.results import Results
from reports import style
from reports.numbers import listed, power
from reports.rates import rates
from reports.summary import default_lr

TITLE = "The bowls of all rungs"
PLACE = 3.5
ABSENT = "No learning rate was searched."
ALT = "loss over the best of its rung against learning rate, a curve and points for each rung, intervals of the optima as bars below."
COLUMNS = ["kind", "rung", "place", "places", "lr", "excess", "optimum", "low", "high", "cliff_lr", "default_lr"]
CURVE_POINTS = 60
# The panel shows this many times what separates the trials near the best; what lies above is counted in words.
TALLEST = 0.6


def prepare(results: Results) -> pd.DataFrame:
    """Rows of kind trial (completed), curve (fitted, in its window) and rung (its rate, interval, cliff); excess in nats a token."""
    if results.searches.empty:
        return pd.DataFrame(columns=COLUMNS)
    places = style.places(results).set_index("rung")
    recorded = results.searches.set_index("rung")
    rows: list[dict[str, object]] = []
    for rung, found in rates(results).optima.items():
        search = recorded.loc[rung]
        own = {"optimum": search["lr"], "low": search["fitted_low"], "high": search["fitted_high"], "cliff_lr": search["cliff_lr"]}
        place = {name: places.loc[rung, name] for name in ("place", "places")}
        rows += [{"rung": rung, **place, **row} for row in (*_rows(found), {"kind": "rung", **own})]
    frame = pd.DataFrame(rows).assign(default_lr=default_lr(results)) if rows else pd.DataFrame()
    return frame.reindex(columns=COLUMNS).sort_values(["place", "kind", "lr"], ignore_index=True)


def _rows(found: Optimum) -> list[dict[str, object]]:
    bottom = found.fitted_val_loss if np.isfinite(found.fitted_val_loss) else found.best_val_loss
    rows: list[dict[str, object]] = [
        {"kind": "trial", "lr": float(np.exp(x)), "excess": float(loss) - bottom} for x, loss in found.points.T
    ]
    if found.bowl is not None:
        grid = np.geomspace(found.window_low, found.window_high, CURVE_POINTS)
        rows += [{"kind": "curve", "lr": float(lr), "excess": found.bowl.at(np.log(lr)) - bottom} for lr in grid]
    return rows


def _tallest(frame: pd.DataFrame) -> float:
    """The excess at the top of the panel."""
    excess = frame.loc[frame["kind"] == "trial", "excess"].dropna().to_numpy(float)
    return float(np.clip(np.quantile(excess, 0.8), 0.05, TALLEST)) if excess.size else 1.0


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Curves hold over the window of their fit only; a strip below the zero line has a bar a rung."""
    figure, axes = style.panels(1, 1, 10.5)
    ax, top = axes[0, 0], _tallest(frame)
    count = frame["rung"].nunique()
    strip = 0.05 * top * (count + 1)
    style.rate_axis(ax, "x", pd.concat([frame[name] for name in ("lr", "low", "high", "default_lr")]), most=7)
    ax.set_ylim(-strip, top)
    cliff = frame["cliff_lr"].min()
    if pd.notna(cliff):
        ax.axvspan(cliff, ax.get_xlim()[1], color=style.LIGHT, alpha=0.5, linewidth=0)
    ax.axvline(float(frame["default_lr"].iloc[0]), color=style.DEFAULT_COLOR, linestyle=":", linewidth=1)
    ax.axhline(0, color=style.GREY, linewidth=0.6)
    for number, (_, rows, color, marker) in enumerate(style.each_rung(frame), 1):
        _rung(ax, rows, color, marker, top, -strip * number / (count + 1))
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= top]
    ax.set_yticks([float(tick) for tick in ticks])
    ax.set_xlabel("learning rate")
    ax.set_ylabel("validation loss over the rung's best\n(nats per token)")
    style.legend_below(figure, _handles(frame), columns=4)
    return figure


def _rung(ax: Axes, rows: pd.DataFrame, color: str, marker: str, top: float, level: float) -> None:
    trials, curve, own = (rows[rows["kind"] == kind] for kind in ("trial", "curve", "rung"))
    shown = trials[trials["excess"] <= top]
    ax.plot(shown["lr"], shown["excess"], linestyle="", marker=marker, color=color, markersize=3.5)
    ax.plot(curve["lr"], curve["excess"], color=color, linewidth=1.2)
    one = own.iloc[0]
    if pd.notna(one["low"]):
        ax.plot([one["low"], one["high"]], [level, level], color=color, linewidth=1.6, solid_capstyle="butt")
    fill = color if pd.notna(one["low"]) else "white"
    ax.plot(one["optimum"], level, linestyle="", marker=marker, color=color, markerfacecolor=fill, markersize=4)


def _handles(frame: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [*style.rung_handles(frame, line=True)]
    if frame["cliff_lr"].notna().any():
        handles.append(Patch(color=style.LIGHT, alpha=0.5, linewidth=0, label="a rung diverged or collapsed"))
    rate = power(float(frame["default_lr"].iloc[0]))
    handles.append(Line2D([], [], color=style.DEFAULT_COLOR, linestyle=":", linewidth=1, label=f"default {rate}"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    own = frame[frame["kind"] == "rung"]
    loose = list(own[own["low"].isna()]["rung"])
    hollow = f" Hollow, the best trial: no interval at {listed(loose)}." if loose else ""
    cliffs = own.dropna(subset=["cliff_lr"])
    region = ""
    if len(cliffs):
        first = cliffs.sort_values("cliff_lr").iloc[0]
        region = f" Shaded: from {power(first['cliff_lr'])}, where {first['rung']} is the first whose training breaks."
    above = int((frame.loc[frame["kind"] == "trial", "excess"] > _tallest(frame)).sum())
    left = f" {above} completed trials lie above the panel." if above else ""
    bars = "Bars below are 95 % intervals of the optima, smallest rung on top."
    return f"Completed trials and the curves fitted near their best, all bowls set on one level. {bars}{hollow}{region}{left}"
