"""How each run's training went (converged, still improving, overfitting, diverged, stuck), by rung, from its curve alone."""

import functools

import numpy as np
import pandas as pd

from harness.analysis.diagnosis import diagnose_runs
from harness.results import Results
from reports.numbers import NOTHING, count, fixed, listed, short
from reports.summary import at_chosen_rate, rungs

CHOSEN_STAGES = ("ladder", "budget", "ablation")


@functools.lru_cache(maxsize=2)
def training(results: Results) -> pd.DataFrame:
    """A row a run beside the searches: key, rung, stage, status, lr_source, train_texts, train_tokens, and the fields of `Diagnosis`."""
    runs = results.runs[results.runs["stage"].isin(CHOSEN_STAGES)]
    curves = results.evaluations[results.evaluations["key"].isin(runs["key"])].dropna(subset=["step"])
    unigram = float(results.data.get("unigram_entropy") or np.nan)
    found = diagnose_runs(curves, runs, unigram)
    labels = runs[["key", "name", "rung", "n_params", "stage", "lr_source", "train_texts", "train_tokens"]].drop_duplicates("key")
    return labels.merge(found, on="key")


def training_table(results: Results) -> pd.DataFrame:
    """A row for each rung at its chosen rate, at the default rate, and on less data: verdicts, gaps, and where overfitting began."""
    found, rows = training(results), []
    for rung in rungs(results):
        own = found[found["rung"] == rung.name]
        ladder = own[own["stage"] == "ladder"]
        chosen = at_chosen_rate(results, ladder)
        rows += _row(rung.name, chosen)
        rows += _row(f"{rung.name}, default rate", ladder.drop(chosen.index))
        for texts, runs in own[own["stage"] == "ablation"].groupby("train_texts", sort=True):
            rows += _row(f"{rung.name}, {count(float(str(texts)))} texts", runs)
        budgets = own[own["stage"] == "budget"]
        for _, runs in budgets.groupby(np.round(np.log10(budgets["train_tokens"].to_numpy(float)), 1), sort=True):
            rows += _row(f"{rung.name}, {short(runs['train_tokens'].mean())} tokens", runs)
    return pd.DataFrame(rows)


def _row(name: str, runs: pd.DataFrame) -> list[dict[str, str]]:
    if runs.empty:
        return []
    gap, best = runs["gap"].dropna(), runs["gap_at_best"].dropna()
    begun = runs[runs["verdict"] == "overfitting"]["step"]
    onset = NOTHING if begun.empty else count(begun.iloc[0]) if begun.nunique() == 1 else f"{count(begun.min())} to {count(begun.max())}"
    return [
        {
            "Runs": name,
            "Training": verdicts(runs),
            "Best at step": count(runs["best_step"].mean()),
            "Overfitting from step": onset,
            "Gap at best": fixed(best.mean(), 3),
            "Gap at end": fixed(gap.mean(), 3),
            "Promised": fixed(runs["per_doubling"].dropna().mean(), 3),
        }
    ]


def verdicts(runs: pd.DataFrame) -> str:
    """2 converged and 1 diverged at step 240"""
    counted = runs["verdict"].value_counts().sort_index()
    words = []
    for verdict, n in counted.items():
        steps = runs[(runs["verdict"] == verdict) & (runs["verdict"] == "diverged")]["step"].dropna()
        at = f" at step {listed([count(step) for step in sorted(set(steps))[:3]])}" if len(steps) else ""
        words.append(f"{n} {verdict}{at}")
    return listed(words)
