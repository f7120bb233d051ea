"""Which runs of a study may enter a fit, and what each is counted as.

The table of a study's runs goes in; those that ended, at the rate chosen for them, in one family, come out with every counting rule as a
column, beside a table of all others with the reason why they are not in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.levels import levels

# A trial shares its seed with the others and was picked or passed over by its loss; an ablation differs in more than size and budget.
STAGES = ("ladder", "budget")
COUNTS = ("n_params", "non_embedding_params", "non_embedding_head_params")
COMPUTE = ("train_flops", "six_nd")


@dataclass(frozen=True, eq=False)
class Selected:
    """`runs`: those in, with columns non_embedding_head_params, six_nd and budget added. `excluded`: key, name, rung, reason of the rest.

    `budget` is the mean of train_tokens over the runs that differ in their seed only, since seeds shuffle to slightly different tokens.

    Trials are in neither: they are no measurements of a rung.
    """

    runs: pd.DataFrame
    excluded: pd.DataFrame
    family: str


def select(runs: pd.DataFrame, loss: str = "test_loss", stages: Sequence[str] = STAGES) -> Selected:
    """Runs that may enter a fit, of these stages.

    Args:
        runs: columns key, name, rung, stage, family, status, reason, lr_source, n_params, non_embedding_params, head_params, train_tokens
            and the loss, as in `harness.results`; with schedule, steps and planned_steps, a run that left its schedule early is not in.
            In a study without a search the default rate is the one chosen.
    """
    those = runs[runs["stage"] != "search"]
    families = those[those["status"] == "completed"]["family"].dropna()
    family = str(families.mode().iloc[0]) if len(families) else ""
    searched = bool((those["lr_source"].notna() & (those["lr_source"] != "default")).any())
    reasons = pd.Series([_reason(run, family, loss, searched, stages) for _, run in those.iterrows()], index=those.index, dtype=object)
    kept = those[reasons == ""]
    head = kept["non_embedding_params"] + kept["head_params"].fillna(0)
    counted = kept.assign(non_embedding_head_params=head, six_nd=6.0 * kept["n_params"] * kept["train_tokens"])
    excluded = those[reasons != ""][["key", "name", "rung"]].assign(reason=reasons[reasons != ""])
    return Selected(counted.assign(budget=_budgets(counted)), excluded, family)


def _budgets(runs: pd.DataFrame) -> pd.Series:
    budget = runs["train_tokens"].astype(float)
    for _, tokens in budget.groupby(runs["rung"]):
        budget.loc[tokens.index] = tokens.groupby(levels(tokens.to_numpy())).transform("mean")
    return budget


def _reason(run: pd.Series, family: str, loss: str, searched: bool, stages: Sequence[str]) -> str:
    """Why a run is not in a fit, or nothing."""
    if run["status"] != "completed":
        told = run["reason"] if isinstance(run["reason"], str) and run["reason"] else ""
        return ": ".join(part for part in (str(run["status"] or "not run"), told) if part)
    if run["stage"] not in stages:
        return f"stage {run['stage']}: differs in more than size and budget"
    if str(run.get("schedule", "constant")) != "constant" and run["steps"] < run["planned_steps"]:
        return f"stopped at step {run['steps']:,.0f} of {run['planned_steps']:,.0f} of a {run['schedule']} schedule: it was never finished"
    if searched and run["lr_source"] == "default":
        return "at the default learning rate, not the one chosen for its size"
    if run["family"] != family:
        return f"family {run['family']}; the fit is of {family}"
    if not (np.isfinite(run[loss]) and run[loss] > 0):
        return f"{loss} is {run[loss]}"
    return ""


def rungs_of(runs: pd.DataFrame, loss: str = "test_loss") -> pd.DataFrame:
    """A row a rung and budget: mean loss over seeds, their standard deviation and number; what a figure of a law shows."""
    means = {name: (name, "mean") for name in (*COUNTS, "train_tokens", *COMPUTE)}
    found = runs.groupby(["rung", "budget"], sort=False).agg(**means, loss=(loss, "mean"), sd=(loss, "std"), runs=(loss, "size"))
    return found.reset_index().sort_values(["n_params", "budget"], ignore_index=True)
