"""The fitted surface in size and tokens beside its runs, its irreducible loss beside the known one, and how far it misses each run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.fit import Fit
from harness.results import Results
from reports import best_possible, style
from reports.fits import LOSS, Fits, fits
from reports.numbers import bounded, decimals_of, fixed, known, short

TITLE = "Size and tokens together"
PLACE = 9.1
ABSENT = "No surface in parameters and tokens could be fitted (section 6 says why)."
ALT = (
    "two panels: test loss above the fitted irreducible loss against training tokens, a line for each size, and predicted against observed."
)
COLUMNS = ["kind", "rung", "place", "places", "seed", "n_params", "train_tokens", "loss", "predicted", "excess", "low", "high"]
COLUMNS += ["E", "E_low", "E_high", "floor", "estimator", "status"]
LINE_POINTS = 40


def prepare(results: Results) -> pd.DataFrame:
    """A row per run and per point of a size's line (`kind` run, line), and the held-out size as the smaller ones predict it (held out).

    `predicted` is what the surface says; `excess` is the loss of a run, or the prediction of a line, over the fitted E; `low` and `high`
    bound the prediction of the held-out size, whose `loss` is the mean over its seeds. All nats per token.
    """
    found = fits(results)
    name, fitted = _chosen(found)
    if fitted is None:
        return pd.DataFrame(columns=COLUMNS)
    E = fitted.constants["E"]
    runs = found.runs.assign(kind="run", loss=found.runs[LOSS])
    frame = pd.concat([runs, *(_line(own) for _, own in runs.groupby("rung"))], ignore_index=True)
    frame["predicted"] = fitted.law.loss(frame["n_params"].to_numpy(float), frame["train_tokens"].to_numpy(float))
    frame["excess"] = frame["loss"].fillna(frame["predicted"]) - E.value
    held = _held_out(found)
    frame = pd.concat([frame, held], ignore_index=True) if len(held) else frame
    frame = frame.merge(style.places(results), on="rung").assign(estimator=name, status=fitted.status)
    frame = frame.assign(E=E.value, E_low=E.low, E_high=E.high, floor=found.floor)
    order = {"kind": False, "place": True, "train_tokens": True, "seed": True}
    return frame.reindex(columns=COLUMNS).sort_values(list(order), ascending=list(order.values()), ignore_index=True)


def _chosen(found: Fits) -> tuple[str, Fit | None]:
    """The estimate that is drawn: log-Huber's, unless only the other has converged or has numbers at all."""
    if found.surface is None:
        return "", None
    both = {"log-Huber": found.surface.log_huber, "VPNLS": found.surface.vpnls}
    usable = {name: fitted for name, fitted in both.items() if fitted.is_usable}
    good = {name: fitted for name, fitted in usable.items() if fitted.status == "converged"}
    return next(iter((good or usable).items()), ("", None))


def _line(runs: pd.DataFrame) -> pd.DataFrame:
    tokens = np.geomspace(runs["train_tokens"].min(), runs["train_tokens"].max(), LINE_POINTS)
    return pd.DataFrame({"kind": "line", "rung": runs["rung"].iloc[0], "n_params": runs["n_params"].iloc[0], "train_tokens": tokens})


def _held_out(found: Fits) -> pd.DataFrame:
    held = found.held
    if held is None or held.status == "no law":
        return pd.DataFrame()
    rung = found.runs[found.runs["n_params"] == held.n_params]["rung"].iloc[0]
    own = {"n_params": held.n_params, "loss": held.observed, "predicted": held.predicted, "low": held.low, "high": held.high}
    return pd.DataFrame([{"kind": "held out", "rung": rung, **own}])


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Left the surface along tokens, right each run against it."""
    figure, axes = style.panels(1, 2, 9.5)
    _along_tokens(axes[0, 0], frame)
    _against_runs(axes[0, 1], frame)
    style.legend_below(figure, _handles(frame), columns=4)
    return figure


def _along_tokens(ax: Axes, frame: pd.DataFrame) -> None:
    runs = frame[frame["kind"] == "run"]
    for _, own, color, marker in style.each_rung(frame):
        points, line = (own[own["kind"] == kind] for kind in ("run", "line"))
        ax.plot(line["train_tokens"], line["excess"], color=color, linewidth=1.1)
        ax.plot(points["train_tokens"], points["excess"], linestyle="", marker=marker, color=color, markersize=3.5)
    style.log_axis(ax, "x", runs["train_tokens"], short, most=5)
    bottom, top = _limits(frame)
    near, (E, low, high, floor) = _is_near(frame), _constants(frame)
    if near["E"]:
        ax.axhline(0, color=style.GREY, linewidth=1)
        ax.axhspan(*np.clip([low - E, high - E], bottom, top), color=style.LIGHT, alpha=0.6, linewidth=0, zorder=0)
    if near["floor"]:
        ax.axhline(floor - E, color="black", linestyle="--", linewidth=1)
    ax.set_ylim(bottom, top)
    ax.set_xlabel("training tokens")
    ax.set_ylabel("loss over fitted E (nats per token)")


def _constants(frame: pd.DataFrame) -> tuple[float, float, float, float]:
    E, low, high, floor = (float(frame[name].iloc[0]) for name in ("E", "E_low", "E_high", "floor"))
    return E, low, high, floor


def _is_near(frame: pd.DataFrame) -> dict[str, bool]:
    """Whether the fitted and the known floor lie near enough to the runs to be drawn without squeezing them."""
    shown, (E, _, _, floor) = frame["excess"].dropna(), _constants(frame)
    return {"E": best_possible.is_near(0, shown), "floor": known(floor) and best_possible.is_near(floor - E, shown)}


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    """The range of the runs and lines, with what is near of both floors and of the interval."""
    shown, near, (E, low, _, floor) = frame["excess"].dropna(), _is_near(frame), _constants(frame)
    span = shown.max() - shown.min()
    further = [floor - E] if near["floor"] else []
    if near["E"]:
        # Of a wide interval as much as leaves the runs their room.
        further += [0.0, max(low - E, shown.min() - best_possible.FAR * span)]
    values = [shown.min(), shown.max(), *(value for value in further if known(value))]
    room = 0.05 * (max(values) - min(values))
    return min(values) - room, max(values) + room


def _against_runs(ax: Axes, frame: pd.DataFrame) -> None:
    runs, held = (frame[frame["kind"] == kind] for kind in ("run", "held out"))
    ends = [function(frame[["loss", "predicted"]].stack()) for function in (np.min, np.max)]
    ax.axline((ends[0], ends[0]), (ends[1], ends[1]), color=style.GREY, linewidth=1)
    for _, own, color, marker in style.each_rung(runs):
        ax.plot(own["loss"], own["predicted"], linestyle="", marker=marker, color=color, markersize=3.5)
    for _, one in held.iterrows():
        ax.plot([one["loss"]] * 2, [one["low"], one["high"]], color="black", linewidth=1.2, zorder=5)
        ax.plot(one["loss"], one["predicted"], marker="x", markersize=6, markeredgewidth=1.4, color="black", zorder=6)
    ax.set_xlabel("observed test loss (nats per token)")
    ax.set_ylabel("predicted (nats per token)")
    ax.locator_params(axis="x", nbins=6)


def _handles(frame: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [*style.rung_handles(frame, line=True)]
    near, held = _is_near(frame), frame[frame["kind"] == "held out"]
    if near["E"]:
        handles.append(Line2D([], [], color=style.GREY, linewidth=1, label="fitted E"))
        if known(_constants(frame)[1]):
            handles.append(Patch(color=style.LIGHT, alpha=0.6, linewidth=0, label="its 95 % interval"))
    if near["floor"]:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label="best possible"))
    if len(held):
        handles.append(Line2D([], [], color="black", marker="x", linestyle="-", linewidth=1.2, label="by the smaller sizes alone"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    runs = frame[frame["kind"] == "run"]
    missed = 100 * (runs["predicted"] / runs["loss"] - 1).abs()
    return (
        f"Left: test loss over the fitted E against training tokens; points are runs, lines the surface of section 6 by "
        f"{frame['estimator'].iloc[0]}.{_claim(frame)}{_floor(frame)} Right: what it says of each run against what was observed; half of "
        f"the runs are within {fixed(missed.median(), 2)} % of it, all within {fixed(missed.max(), 2)} %.{_held(frame)}"
    )


def _claim(frame: pd.DataFrame) -> str:
    status = str(frame["status"].iloc[0])
    return "" if status == "converged" else f" This fit is {status}: it carries no claim."


def _floor(frame: pd.DataFrame) -> str:
    """E and its interval against the known floor, and which of them are drawn."""
    (E, low, high, floor), near = _constants(frame), _is_near(frame)
    digits = decimals_of((high - low) / 2, 3)
    band = " (grey line and band)" if near["E"] else " (too far below the runs to be drawn)"
    said = f" E is {bounded(E, low, high, digits)}{band}"
    if not known(floor):
        return f"{said}; the best possible is not known on these texts."
    inside = f", {'inside' if low <= floor <= high else 'outside of'} that interval" if known(low) and known(high) else ""
    dashed = " (dashed)" if near["floor"] else " (too far off to be drawn)"
    return f"{said}; the best possible on these texts is {fixed(floor, digits)}{dashed}{inside}."


def _held(frame: pd.DataFrame) -> str:
    held = frame[frame["kind"] == "held out"]
    if held.empty:
        return ""
    one = held.iloc[0]
    where = "inside" if one["low"] <= one["loss"] <= one["high"] else "outside of"
    return f" Cross: {one['rung']} as the law of the smaller sizes alone predicts it; what was observed lies {where} the 95 % interval."
