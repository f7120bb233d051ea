"""The specification curve: the exponent of the loss under every defensible choice, in order of its value, with the choices below."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.results import Results
from reports import style
from reports.fits import fits
from reports.numbers import fixed

TITLE = "What moves the exponent"
PLACE = 9
ABSENT = "No law of the loss could be fitted (section 6 says why)."
ALT = "the exponent with its interval for each combination of choices above, sorted, and a row of marks for each choice below."
GROUPS = {
    "irreducible": ("Irreducible loss E", {"free": "E free", "floor": "E at best possible", "0": "E = 0"}),
    "x": (
        "Parameters",
        {"n_params": "all parameters", "non_embedding_head_params": "without embedding", "non_embedding_params": "blocks only"},
    ),
    "exclusion": (
        "Sizes and runs",
        {"none": "all sizes", "smallest size": "without the smallest", "largest size": "without the largest"}
        | {"stuck runs": "without stuck runs", "with diverged runs": "with diverged runs"},
    ),
    "estimator": ("Estimator", {"log-Huber": "log-Huber", "VPNLS": "VPNLS"}),
}
COLUMNS = [*GROUPS, "exponent", "low", "high", "status"]


def prepare(results: Results) -> pd.DataFrame:
    """A row per fit that has a number, lowest exponent first, its choices in words."""
    cells = fits(results).cells
    if cells.empty:
        return pd.DataFrame(columns=COLUMNS)
    words = {choice: cells[choice].map(names) for choice, (_, names) in GROUPS.items()}
    frame = cells.assign(**words, exponent=cells["value"])[COLUMNS].dropna(subset=["exponent"])
    return frame.sort_values(["exponent", *GROUPS], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Exponents above, a row of marks for each choice below."""
    rows = [(choice, word) for choice, (_, names) in GROUPS.items() for word in names.values() if (frame[choice] == word).any()]
    figure, axes = style.panels(2, 1, 5.5 + 0.42 * len(rows), sharex=True, height_ratios=[5, 0.42 * len(rows)])
    _exponents(axes[0, 0], frame)
    _choices(axes[1, 0], frame, rows)
    handles = [Line2D([], [], color="black", marker="o", linestyle="", label="converged")]
    if (frame["status"] != "converged").any():
        handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="", label="not to be relied on"))
    style.legend_below(figure, handles)
    return figure


def _exponents(ax: Axes, frame: pd.DataFrame) -> None:
    for good, color, face in ((True, "black", "black"), (False, style.GREY, "white")):
        rows = frame[(frame["status"] == "converged") == good]
        ax.vlines(rows.index, rows["low"], rows["high"], color=color, linewidth=1, alpha=0.55)
        ax.plot(rows.index, rows["exponent"], linestyle="", marker="o", markersize=3.5, color=color, markerfacecolor=face)
    # A fit that is not to be relied on may have any interval: it must not squeeze the others.
    shown = frame[frame["status"] == "converged"]
    shown = frame if shown.empty else shown
    low, high = np.nanmin(shown[["exponent", "low"]]), np.nanmax(shown[["exponent", "high"]])
    room = 0.08 * (high - low) or 0.01
    ax.set_ylim(min(low - room, 0), high + room)
    ax.set_xlim(-0.8, len(frame) - 0.2)
    ax.set_ylabel("exponent of size")


def _choices(ax: Axes, frame: pd.DataFrame, rows: list[tuple[str, str]]) -> None:
    for place, (choice, word) in enumerate(rows):
        chosen = frame.index[frame[choice] == word]
        ax.plot(chosen, np.full(len(chosen), -place), linestyle="", marker="s", markersize=2.6, color="black")
    for place in (i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]):
        ax.axhline(0.5 - place, color=style.GREY, linewidth=0.6)
    ax.set_yticks([-i for i in range(len(rows))], [word for _, word in rows])
    ax.set_ylim(-len(rows) + 0.4, 0.6)
    ax.tick_params(axis="both", length=0)
    ax.set_xticks([])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_visible(False)


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    good = frame[frame["status"] == "converged"]
    reach = f"from {fixed(good['exponent'].min(), 3)} to {fixed(good['exponent'].max(), 3)}" if len(good) else "to no value"
    words = {choice: title.lower() if title[0] != "I" else "the irreducible loss" for choice, (title, _) in GROUPS.items()}
    moves = {choice: float(np.ptp(good.groupby(choice)["exponent"].mean())) for choice in GROUPS} if len(good) else {}
    most = max(moves, key=lambda choice: moves[choice]) if moves else ""
    mover = f" What moves it most is the choice of {words[most]}: by {fixed(moves[most], 3)} on average." if most else ""
    return (
        f"Each column is one fit of the law of test loss in size, {len(frame)} in all; marks below say under which choices. Of those that "
        f"converged the exponent goes {reach}; bars are 95 % intervals over bootstraps of runs.{mover} A single exponent from this study "
        "should be quoted with its column."
    )
