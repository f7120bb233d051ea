"""The best possible value in a panel: a line where it lies near the data, else words at the edge towards it.

A line far off would squeeze all rungs into a sliver, and it is their differences that a panel is read for.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from reports import style
from reports.numbers import fixed, known

# As many times the data's own spread may lie between the data and the line.
FAR = 1.5
# The share of a panel's height that a line of words takes.
STRIP = 0.1


def is_near(best: float, values: Sequence[float] | pd.Series | np.ndarray) -> bool:
    """Whether a line at `best` leaves the values enough of the panel."""
    shown = np.asarray(values, dtype=float)
    low, high = np.nanmin(shown), np.nanmax(shown)
    return bool(max(low - best, best - high) <= FAR * (high - low))


def draw(axes: Sequence[Axes], best: float, values: Sequence[float] | pd.Series | np.ndarray, unit: str = "") -> bool:
    """Show `best` in panels that share their y axis; whether as a line, which then is in all of them.

    Args:
        axes: already drawn, so that their limits stand; the words go into the first.
        values: the data that must stay readable, in the unit of the axis.
    """
    if not known(best):
        return False
    if is_near(best, values):
        for ax in axes:
            ax.axhline(best, color=style.GREY, linestyle="--", linewidth=1)
        return True
    below = best < np.nanmin(np.asarray(values, dtype=float))
    low, high = axes[0].get_ylim()
    room = STRIP * (high - low)
    axes[0].set_ylim(*((low - room, high) if below else (low, high + room)))
    # Losses fall and accuracies rise from left to right, so that the left end of the edge is free.
    axes[0].text(
        0.02, 0.02 if below else 0.98, f"best possible {fixed(best, 1)}{unit} {'↓' if below else '↑'}", transform=axes[0].transAxes,
        color=style.GREY, fontsize=style.RC["ytick.labelsize"], ha="left", va="bottom" if below else "top",
    )  # fmt: skip
    return False


def handle() -> Line2D:
    """The legend's entry for the line."""
    return Line2D([], [], color=style.GREY, linestyle="--", linewidth=1, label="best possible")


def sentence(near: Sequence[bool]) -> str:
    """What a caption says of it. `near`: for each panel where it is known, whether it is a line."""
    if not near:
        return ""
    if all(near):
        return " Dashed: the best possible on texts of this distribution."
    words = "given in words where it lies far outside of a panel" if any(near) else "so far outside of the panels that it is given in words"
    return f" The best possible on texts of this distribution is {words}."
