"""How every figure looks: sizes for an A4 text width, one colour and marker a rung for the whole report, readable log axes."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from harness.results import Results
from reports.numbers import power, short
from reports.summary import rungs

WIDTH_CM = 16.0
CM = 1 / 2.54
DPI = 220
GREY = "#6b6b6b"
LIGHT = "#d9d9d9"
DEFAULT_COLOR = "#b3423a"
MARKERS = "osD^vPX<>h"
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.dpi": 100,
    "svg.fonttype": "path",
    "svg.hashsalt": "reports",
}


def styled(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], Figure]:
    """Run a figure's `draw` under the report's settings, leaving the caller's own untouched."""

    @functools.wraps(draw)
    def wrapped(frame: pd.DataFrame) -> Figure:
        with mpl.rc_context(RC):
            return draw(frame)

    return wrapped


def panels(rows: int, columns: int, height_cm: float, *, width_cm: float = WIDTH_CM, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure that no global state holds, and its axes as a (rows, columns) array."""
    figure = Figure(figsize=(width_cm * CM, height_cm * CM), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)  # type: ignore[call-overload]
    return figure, axes


def places(results: Results) -> pd.DataFrame:
    """Each rung's place by size and the number of rungs: with these a frame can be drawn in the report's colours.

    Rungs that were left out take no colour from the others.
    """
    names = [rung.name for rung in rungs(results) if not rung.skipped]
    return pd.DataFrame({"rung": names, "place": range(len(names)), "places": len(names)})


def color(place: int, of: int) -> str:
    """Dark to light by size, cut where a line on white would be too faint."""
    return to_hex(mpl.colormaps["viridis"](0.78 * place / max(of - 1, 1)))


def budget_color(place: int, of: int) -> str:
    """Dark to light by compute, in colours that no rung has."""
    return to_hex(mpl.colormaps["copper"](0.1 + 0.75 * place / max(of - 1, 1)))


def marker(place: int) -> str:
    """A second cue beside colour, for grey prints."""
    return MARKERS[place % len(MARKERS)]


def each_rung(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str, str]]:
    """The frame's rungs by size: name, rows, colour, marker."""
    found = []
    for _, group in frame.groupby("place", sort=True):
        place, places = int(group["place"].iloc[0]), int(group["places"].iloc[0])
        found.append((str(group["rung"].iloc[0]), group, color(place, places), marker(place)))
    return found


def rung_handles(frame: pd.DataFrame, line: bool = False) -> list[Line2D]:
    """Legend entries for the rungs of a frame."""
    return [Line2D([], [], color=c, marker=m, linestyle="-" if line else "", label=name) for name, _, c, m in each_rung(frame)]


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch], columns: int = 4) -> None:
    """A legend under the panels, outside all of them."""
    # Filled row by row for the reader, though the library fills columns.
    rows = math.ceil(len(handles) / columns)
    columns = math.ceil(len(handles) / rows)
    order = [i for c in range(columns) for r in range(rows) if (i := r * columns + c) < len(handles)]
    figure.legend(handles=[handles[i] for i in order], loc="outside lower center", ncols=columns)


def log_axis(axes: Axes, which: str, values: Sequence[float] | pd.Series, text: Callable[[float], str], most: int = 7) -> None:
    """A log axis over `values` with room at both ends and at most `most` labels at 1, 2, 5 or 1, 3 or whole decades."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite) & (finite > 0)]
    assert finite.size, "a log axis needs a positive value"
    spread = math.log10(finite.max() / finite.min())
    room = 10 ** max(0.06 * spread, 0.08)
    low, high = finite.min() / room, finite.max() * room
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """The richest regular set of round numbers between the bounds with at most `most` members."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [((1, 2, 3, 4, 5, 6, 7, 8, 9), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)]
    found: list[float] = []
    for mantissas, every in steps:
        found = [m * 10.0**d for d in decades if d % every == 0 for m in mantissas if low <= m * 10.0**d <= high]
        if len(found) <= most:
            break
    return found


def size_axis(axes: Axes, values: Sequence[float] | pd.Series, most: int = 6) -> None:
    """Parameters on a log x axis; the label says which count they are."""
    log_axis(axes, "x", values, short, most)
    axes.set_xlabel("parameters, embeddings included")


def rate_axis(axes: Axes, which: str, values: Sequence[float] | pd.Series, most: int = 5) -> None:
    """Learning rates on a log axis."""
    log_axis(axes, which, values, power, most)


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]], height_cm: float) -> None:
    """Names at the right of the axes, level with the ends of their lines and pushed apart where they would touch.

    Args:
        labels: (x and y of the end of the line in data units, text, colour).
        height_cm: about how high the axes are drawn.
    """
    low, high = axes.get_ylim()
    gap = 1.3 * RC["font.size"] / 72 / CM / height_cm
    ends = sorted(((y, x, text, tone) for x, y, text, tone in labels), key=lambda end: end[0])
    for (y, x, text, tone), place in zip(ends, spread([(end[0] - low) / (high - low) for end in ends], gap), strict=True):
        line = {"arrowstyle": "-", "color": tone, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2, "relpos": (0.0, 0.5)}
        axes.annotate(
            text, xy=(x, y), xytext=(1.05, place), xycoords="data", textcoords="axes fraction", color=tone,
            va="center", ha="left", arrowprops=line, annotation_clip=False,
        )  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places moved as little as needed to be `gap` apart, within [0, 1] where that is possible."""
    moved = list(places)
    for _ in range(200):
        for i in range(1, len(moved)):
            short_by = gap - (moved[i] - moved[i - 1])
            if short_by > 1e-9:
                moved[i - 1] -= short_by / 2
                moved[i] += short_by / 2
        if moved:
            over, under = max(moved[-1] - 1, 0), max(-moved[0], 0)
            moved[-1] -= over
            moved[0] += under
    # What is still too close after relaxing is pushed up, so that labels may leave the range but never touch.
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    return moved
