"""How varied, how lexical, how copied and how long sampled texts are, against temperature."""

import pandas as pd
from matplotlib.figure import Figure

from harness.results import Results
from reports import style
from reports.summary import chosen

TITLE = "Sampled texts against temperature"
PLACE = 7
ABSENT = "No texts were sampled at the end of a run."
ALT = "four panels against temperature, distinct word pairs, known words, copied texts and mean length, a line for each rung."
MEASURES = {
    "distinct_2": ("distinct word pairs (%)", 100),
    "known_words": ("known words (%)", 100),
    "copied": ("copied texts (%)", 100),
    "mean_length": ("mean length (characters)", 1),
}

# In per cent.
LEAST_SHARE = 1.0


def prepare(results: Results) -> pd.DataFrame:
    """Means over seeds, a row per rung, temperature and measure."""
    sets = results.samples[(results.samples["at"] == "end") & results.samples["key"].isin(chosen(results)["key"])]
    long = sets.melt(["rung", "n_params", "temperature", "key"], list(MEASURES), "measure").dropna(subset=["value"])
    long["value"] = pd.to_numeric(long["value"])
    at = long.groupby(["measure", "rung", "n_params", "temperature"], sort=True)
    frame = at.agg(mean=("value", "mean"), low=("value", "min"), high=("value", "max"), seeds=("key", "nunique")).reset_index()
    return frame.merge(style.places(results), on="rung").sort_values(["measure", "place", "temperature"], ignore_index=True)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Four panels; temperatures stand side by side, because on a scale the low ones would lie on each other."""
    figure, axes = style.panels(2, 2, 10.5, sharex=True)
    places = {temperature: i for i, temperature in enumerate(sorted(frame["temperature"].unique()))}
    for ax, (measure, (label, unit)) in zip(axes.flat, MEASURES.items(), strict=True):
        for _, rows, color, marker in style.each_rung(frame[frame["measure"] == measure]):
            ax.plot(rows["temperature"].map(places), rows["mean"] * unit, color=color, marker=marker, markersize=4, clip_on=False)
        ax.set_ylabel(label)
        if unit == 100:
            # Where nothing at all was copied the axis still needs a height.
            ax.set_ylim(0, max(1.08 * ax.dataLim.y1, LEAST_SHARE))
        ax.set_xticks(list(places.values()), [f"{temperature:g}" for temperature in places])
    for ax in axes[1]:
        ax.set_xlabel("temperature")
    style.legend_below(figure, style.rung_handles(frame, line=True))
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    seeds = int(frame["seeds"].max())
    over = f"Means over {seeds} seeds." if seeds > 1 else "One seed."
    return (
        "Texts sampled at the end of training: how many of their word pairs differ, how many of their words and of the whole texts "
        "training holds, and their length. At low temperatures a model repeats itself (few distinct pairs); at high ones it invents "
        f"words. A high share of copied texts would mean that it recites. Temperatures are evenly spaced, not to scale. {over}"
    )
