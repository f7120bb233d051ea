"""What goes with what, as tables: the loss with the amount of data, and the measures of sampled texts with the loss."""

from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.correlation import correlate, fisher_interval, partial
from harness.results import Results
from reports import numbers
from reports.numbers import NLL_DECIMALS, NOTHING, PERCENT_DECIMALS, count, fixed, known, listed, plus_minus, short, times_hundred
from reports.sampled import uncut
from reports.summary import at_chosen_rate, chosen, completed, interval
from reports.summary import budgets as on_fewer_texts

MEASURES = {
    "distinct_1": "different words",
    "distinct_2": "different word pairs",
    "known_words": "known words",
    "memorised": "memorised share",
    "copied": "texts copied whole",
    "mean_length": "length",
    "entropy": "entropy",
    "self_nll": "self-NLL",
}
# Where the logits are taken as they are; the nearest temperature sampled stands for it.
TEMPERATURE = 1.0
LEAST_RUNS = 5


def data_table(results: Results) -> pd.DataFrame:
    """The same model on fewer texts: a row a budget, smallest first."""
    runs = on_fewer_texts(results)
    groups = [(name, n, own) for (_, name, n), own in runs.groupby(["n_params", "rung", "train_texts"], sort=True)]
    return _budget_rows([(str(name), {"Texts": count(float(str(n)))}, own) for name, n, own in groups])


def grid_runs(results: Results) -> pd.DataFrame:
    """Completed runs of all sizes on all token budgets; empty unless the study asks for a grid."""
    runs = completed(at_chosen_rate(results, results.runs[results.runs["stage"].isin(["ladder", "budget"])]))
    return runs if (runs["stage"] == "budget").any() else runs.iloc[:0]


def grid_table(results: Results) -> pd.DataFrame:
    """All sizes on all token budgets, a row each; empty unless the study asks for a grid."""
    runs = grid_runs(results)
    asked = runs["steps"].fillna(0)
    groups = [(name, own) for (_, name, _), own in runs.groupby(["n_params", "rung", asked], sort=True)]
    return _budget_rows([(str(name), {"Tokens": short(own["train_tokens"].mean())}, own) for name, own in groups])


def _budget_rows(groups: list[tuple[str, dict[str, str], pd.DataFrame]]) -> pd.DataFrame:
    nll, top1 = ([interval(own, column) for _, _, own in groups] for column in ("test_nll", "test_top1"))
    nll_digits = numbers.column_decimals([n for n in nll if n], NLL_DECIMALS)
    top1_digits = numbers.column_decimals([times_hundred(t) for t in top1 if t], PERCENT_DECIMALS)
    return pd.DataFrame(
        [
            {"Rung": name, **budget, "Runs": str(len(own)), "Epochs": fixed(own["epochs"].mean(), 2)}
            | {"Tokens per parameter": fixed(own["tokens_per_param"].mean(), 1), "Test NLL": plus_minus(n, nll_digits)}
            | {"Top-1, %": plus_minus(times_hundred(t) if t else None, top1_digits)}
            for (name, budget, own), n, t in zip(groups, nll, top1, strict=True)
        ]
    )


def sample_values(results: Results) -> pd.DataFrame:
    """A row a run at the chosen rate with its test NLL and the measures of its texts at the temperature nearest to 1."""
    runs = chosen(results)[["key", "rung", "n_params", "test_nll"]].dropna()
    sets = uncut(results.samples[(results.samples["at"] == "end") & results.samples["key"].isin(runs["key"])])
    if sets.empty:
        return pd.DataFrame()
    nearest = min(sets["temperature"].unique(), key=lambda t: (abs(t - TEMPERATURE), t))
    return runs.merge(sets[sets["temperature"] == nearest][["key", "temperature", *MEASURES]], on="key")


def sample_correlations(results: Results) -> pd.DataFrame:
    """Each measure against test NLL across runs: n, r, rho, and r with log N held fixed with its Fisher interval; full precision."""
    values, rows = sample_values(results), []
    for measure in MEASURES if len(values) else ():
        pairs = values.dropna(subset=[measure])
        measured = pairs[measure].astype(float)
        if len(pairs) < LEAST_RUNS:
            continue
        found, given = correlate(pairs["test_nll"], measured), partial(pairs["test_nll"], measured, np.log(pairs["n_params"]))
        low, high = fisher_interval(given, found.n, controlled=1)
        row: dict[str, Any] = {"measure": measure, "n": found.n, "r": found.r, "low": found.low, "high": found.high, "rho": found.rho}
        rows.append(row | {"partial": given, "partial_low": low, "partial_high": high})
    return pd.DataFrame(rows)


def sample_table(found: pd.DataFrame) -> pd.DataFrame:
    """The same in words."""
    return pd.DataFrame(
        [
            {
                "Measure": MEASURES[row["measure"]],
                "n": str(row["n"]),
                "r": _bounded(row["r"], row["low"], row["high"]),
                "Spearman's rho": fixed(row["rho"], 2),
                "r, size held fixed": _bounded(row["partial"], row["partial_low"], row["partial_high"]),
            }
            for _, row in found.iterrows()
        ]
    )


def _bounded(value: float, low: float, high: float) -> str:
    if not known(value):
        return f"{NOTHING} (constant)"
    return fixed(value, 2) + (f" [{fixed(low, 2)}, {fixed(high, 2)}]" if known(low) else "")


def followers(found: pd.DataFrame) -> str:
    """Which measures follow NLL once size is removed, in a sentence."""
    clear = found[(found["partial_low"] > 0) | (found["partial_high"] < 0)]
    names = [MEASURES[measure] for measure in clear["measure"]]
    if not names:
        return f"Once size is removed none of the {len(found)} measures can be said to follow NLL."
    return f"Once size is removed, of the {len(found)} measures {listed(names)} still {'follows' if len(names) == 1 else 'follow'} NLL."
