"""How uncertain, likely, varied, lexical, memorised and long sampled texts are, against temperature."""

import math

import pandas as pd
from matplotlib.figure import Figure

from harness.results import Results
from reports import style
from reports.sampled import uncut
from reports.summary import chosen

TITLE = "Sampled texts against temperature"
PLACE = 7
ABSENT = "No texts were sampled at the end of a run."
ALT = "panels against temperature, such as entropy, distinct word pairs, known words and the memorised share, a line for each rung."
MEASURES = {
    "entropy": ("entropy (nats per token)", 1),
    "self_nll": ("self-NLL (nats per text)", 1),
    "distinct_2": ("distinct word pairs (%)", 100),
    "known_words": ("known words (%)", 100),
    "memorised": ("memorised share (%)", 100),
    "copied": ("copied texts (%)", 100),
    "mean_length": ("mean length (characters)", 1),
}

# In per cent.
LEAST_SHARE = 1.0


def prepare(results: Results) -> pd.DataFrame:
    """Means over seeds, a row per rung, temperature and measure; old records lack some measures."""
    sets = uncut(results.samples[(results.samples["at"] == "end") & results.samples["key"].isin(chosen(results)["key"])])
    long = sets.melt(["rung", "n_params", "temperature", "key"], list(MEASURES), "measure").dropna(subset=["value"])
    long["value"] = pd.to_numeric(long["value"])
    if (long["measure"] == "memorised").any():
        # It covers what is copied whole.
        long = long[long["measure"] != "copied"]
    at = long.groupby(["measure", "rung", "n_params", "temperature"], sort=True)
    frame = at.agg(mean=("value", "mean"), low=("value", "min"), high=("value", "max"), seeds=("key", "nunique")).reset_index()
    return frame.merge(style.places(results), on="rung").sort_values(["measure", "place", "temperature"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """A panel a measure; temperatures stand side by side, because on a scale the low ones would lie on each other."""
    measures = [measure for measure in MEASURES if measure in set(frame["measure"])]
    rows = math.ceil(len(measures) / 2)
    figure, axes = style.panels(rows, 2, 1.5 + 4.5 * rows)
    panels = axes.flat[: len(measures)]
    for unused in axes.flat[len(measures) :]:
        unused.set_axis_off()
    places = {temperature: i for i, temperature in enumerate(sorted(frame["temperature"].unique()))}
    for ax, measure in zip(panels, measures, strict=True):
        label, unit = MEASURES[measure]
        for _, own, color, marker in style.each_rung(frame[frame["measure"] == measure]):
            ax.plot(own["temperature"].map(places), own["mean"] * unit, color=color, marker=marker, markersize=4, clip_on=False)
        ax.set_ylabel(label)
        if unit == 100:
            # Where nothing at all was copied the axis still needs a height.
            ax.set_ylim(0, max(1.08 * ax.dataLim.y1, LEAST_SHARE))
        ax.set_xticks(list(places.values()), [f"{temperature:g}" for temperature in places])
    # The lowest of each column.
    for ax in panels[-2:]:
        ax.set_xlabel("temperature")
    style.legend_below(figure, style.rung_handles(frame, line=True))
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    seeds = int(frame["seeds"].max())
    over = f"Means over {seeds} seeds." if seeds > 1 else "One seed."
    if (frame["measure"] == "memorised").any():
        recited = "A high memorised share (of a text, in its longest substring found in training) would mean that it recites."
    else:
        recited = "A high share of copied texts would mean that it recites."
    return (
        "Texts sampled at the end of training. At low temperatures a model repeats itself (few distinct pairs); at high ones it invents "
        f"words. {recited} Temperatures are evenly spaced, not to scale. {over}"
    )
