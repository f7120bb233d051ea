"""What sampled texts are like, as tables: by size and how they were drawn, and as the best size learned."""

from collections.abc import Iterator

import pandas as pd

from harness.results import Results
from harness.strategies import CUTS, cut_in_words
from reports.numbers import fixed, known, listed, short
from reports.summary import Rung, best, chosen, rungs

# Heading, factor and decimals of each measure; one that no record holds (they came one after another) makes no column.
COLUMNS = {
    "entropy": ("Entropy", 1, 2),
    "self_nll": ("Self-NLL", 1, 1),
    "distinct_1": ("Different words, %", 100, 0),
    "distinct_2": ("Different pairs, %", 100, 0),
    "known_words": ("Known words, %", 100, 1),
    "memorised": ("Memorised, %", 100, 1),
    "copied": ("Copied whole, %", 100, 1),
    "mean_length": ("Length", 1, 1),
}
# How the effect of temperature is told: name, factor, decimals and unit.
TOLD = {
    "entropy": ("entropy", 1, 2, " nats per token"),
    "distinct_2": ("different word pairs", 100, 0, " %"),
    "known_words": ("known words", 100, 0, " %"),
    "memorised": ("the memorised share", 100, 0, " %"),
}


def sets(results: Results) -> pd.DataFrame:
    """All sets of texts of runs at a chosen rate."""
    return results.samples[results.samples["key"].isin(chosen(results)["key"])]


def uncut(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of texts that were drawn from all of the softmax at a temperature."""
    return rows[rows.reindex(columns=list(CUTS)).isna().all(axis=1)]


def drawn_by(row: pd.Series) -> str:
    """How a set was drawn: its cut, else its temperature."""
    return cut_in_words({name: row.get(name) for name in CUTS}) or f"{row['temperature']:g}"


def measures(results: Results) -> pd.DataFrame:
    """Each measure at the end of training, a row per rung and strategy: means over runs at full precision, and how many runs.

    Temperatures come first. Columns of cuts are there where a study has such sets.
    """
    ends = sets(results)
    ends = ends[ends["at"] == "end"]
    if ends.empty:
        return pd.DataFrame()
    # A column that an old record doesn't hold is of None, not of numbers.
    numeric = ends.assign(**{name: pd.to_numeric(ends[name]) for name in (*COLUMNS, *CUTS)})
    by = numeric.groupby(["n_params", "rung", "temperature", *(name for name in CUTS if numeric[name].notna().any())], dropna=False)
    found = pd.concat([by["key"].nunique().rename("runs"), by[list(COLUMNS)].mean()], axis=1).reset_index()
    return _in_order(found, "n_params", "rung")


def course(results: Results) -> tuple[Rung | None, pd.DataFrame]:
    """The best rung, and the sets that its run of the lowest seed wrote whenever validation NLL had a new low, with that NLL."""
    top = best(results)
    own = sets(results)
    own = own[(own["rung"] == top.name) & (own["at"] == "best")] if top else own.iloc[:0]
    if own.empty:
        return top, own
    own = own[own["seed"] == own["seed"].min()].sort_values("step")
    return top, own.merge(results.evaluations[["key", "step", "val_nll"]], on=["key", "step"], how="left")


def measures_table(found: pd.DataFrame) -> pd.DataFrame:
    """`measures` in words."""
    return pd.DataFrame([{"Rung": row["rung"], "T": drawn_by(row)} | dict(_cells(found, row)) for _, row in found.iterrows()])


def course_table(own: pd.DataFrame) -> pd.DataFrame:
    """The sets of `course`, or some of them, in words."""
    return pd.DataFrame(
        [{"Tokens": short(row["tokens"]), "Validation NLL": fixed(row["val_nll"], 1)} | dict(_cells(own, row)) for _, row in own.iterrows()]
    )


def _cells(found: pd.DataFrame, row: pd.Series) -> Iterator[tuple[str, str]]:
    for name, (heading, factor, decimals) in COLUMNS.items():
        if found[name].notna().any():
            value = row[name]
            yield heading, fixed(float(value) * factor if known(value) else float("nan"), decimals)


def effect(found: pd.DataFrame) -> str:
    """What temperature did, in a sentence: from the lowest to the highest that was sampled, means over sizes."""
    found = uncut(found)
    if found.empty or found["temperature"].nunique() < 2:
        return ""
    by = found.groupby("temperature", sort=True)[list(TOLD)].mean()
    low, high = by.iloc[0], by.iloc[-1]
    parts = [
        f"{words} from {fixed(low[name] * factor, decimals)} to {fixed(high[name] * factor, decimals)}{unit}"
        for name, (words, factor, decimals, unit) in TOLD.items()
        if known(low[name]) and known(high[name])
    ]
    return f"Here, between T = {by.index[0]:g} and T = {by.index[-1]:g}, as means over sizes: {listed(parts)}." if parts else ""


def calibration(results: Results, found: pd.DataFrame) -> str:
    """The best rung's NLL of its own texts at temperature 1 beside that of real ones, in a sentence."""
    top, found = best(results), uncut(found)
    own = found[(found["rung"] == top.name) & (found["temperature"] == 1)] if top and len(found) else found
    if top is None or top.nll is None or own.empty or not known(own["self_nll"].iloc[0]):
        return ""
    written, real = fixed(own["self_nll"].iloc[0], 1), fixed(top.nll.mean, 1)
    return f"At T = 1 the texts of {top.name} have a self-NLL of {written}; the NLL of the test texts is {real}."


def ends_of(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each rung that wrote texts, by size, with the sets of its lowest seed, temperatures first."""
    ends = sets(results)
    ends = ends[ends["at"] == "end"]
    for rung in rungs(results):
        own = ends[ends["rung"] == rung.name]
        if len(own):
            yield rung.name, _in_order(own[own["seed"] == own["seed"].min()])


def _in_order(rows: pd.DataFrame, *first: str) -> pd.DataFrame:
    """By temperature, then by k, then by mass; `first`: columns that come before."""
    cuts = [name for name in reversed(CUTS) if name in rows]
    return rows.sort_values([*first, *cuts, "temperature"], na_position="first", ignore_index=True)


def spread_out(own: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, evenly spaced, the first and the last among them."""
    last = len(own) - 1
    rows: list[int] = sorted({round(i * last / (most - 1)) for i in range(most)}) if last >= 0 else []
    return own.iloc[rows]
