"""Tokens needed to reach a loss against batch size, where a study searches both the batch size and its learning rate."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.critical_batch import CriticalBatch
from harness.results import Results
from reports import style
from reports.batch_sizes import laws, reached, sentence
from reports.numbers import short

TITLE = "The critical batch size"
PLACE = 4.7
ABSENT = "The study does not search batch sizes at a constant schedule."
ALT = "tokens needed to reach a validation loss against tokens a batch, a line for each of three losses, a panel for each rung."
CURVE_POINTS = 60
# Dark: the hardest loss.
SHADES = ("#9db7d5", "#5583b5", "#1f4e79")
MARKERS = "osD"


def prepare(results: Results) -> pd.DataFrame:
    """A row per rung, loss and batch size: the fewest tokens of any trial."""
    return reached(results)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Points are measured, lines the law; a dotted line marks the critical batch of the hardest loss."""
    rungs = [rung for rung, *_ in style.each_rung(frame)]
    columns = min(2, len(rungs))
    rows = -(-len(rungs) // columns)
    figure, axes = style.panels(rows, columns, 1.5 + (6.5 if rows < 3 else 5) * rows)
    for ax, rung in zip(axes.flat, rungs, strict=False):
        own = frame[frame["rung"] == rung]
        style.log_axis(ax, "x", own["batch"], short, most=5)
        style.log_axis(ax, "y", own["tokens"], short, most=6)
        for number, (_, law) in enumerate(laws(own)):
            _law(ax, own[own["loss"] == law.loss], law, number)
        ax.set_title(rung)
        ax.set_xlabel("tokens a batch")
        ax.set_ylabel("tokens to reach the loss")
    for ax in list(axes.flat)[len(rungs) :]:
        ax.set_visible(False)
    names = ("easiest loss", "middle", "hardest loss")
    handles = [Line2D([], [], color=c, marker=m, label=n) for c, m, n in zip(SHADES, MARKERS, names, strict=True)]
    style.legend_below(figure, [*handles, Line2D([], [], color=style.GREY, linestyle=":", label="critical batch, hardest loss")])
    return figure


def _law(ax: Axes, rows: pd.DataFrame, law: CriticalBatch, number: int) -> None:
    color = SHADES[number]
    ax.plot(rows["batch"], rows["tokens"], linestyle="", marker=MARKERS[number], color=color)
    if law.status != "resolved":
        return
    grid = np.geomspace(rows["batch"].min(), rows["batch"].max(), CURVE_POINTS)
    ax.plot(grid, law.tokens + law.steps * grid, color=color)
    low, high = ax.get_xlim()
    if number == len(SHADES) - 1 and low < law.batch < high:
        ax.axvline(law.batch, color=style.GREY, linestyle=":", linewidth=1)


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    return (
        "Fewest training tokens of any trial of a batch size, each at its best learning rate; lines are E = Emin + Smin B (McCandlish et "
        f"al. 2018). {sentence(frame)}"
    )
