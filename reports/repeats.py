"""What the analysis makes of repeated data: the worth of a token that was seen before.

Results go in; the law of repetition comes out where some runs repeat their texts and others allow the one-epoch law that it rests on. Else
there is a reason, and what to add.
"""

from dataclasses import dataclass

import pandas as pd

from harness.analysis import study_runs
from harness.analysis.fit import Fit
from harness.analysis.repetition import ONE_EPOCH, RepetitionFit, fit_repetition
from harness.analysis.surface import fit_one
from harness.results import Results
from reports.numbers import plural

LOSS = "test_loss"
STAGES = (*study_runs.STAGES, "ablation")
DRAWS = 100


@dataclass(frozen=True, eq=False)
class Repeats:
    """`runs`: all that enter, those on fewer texts too; `repeating` of them saw texts again, up to `most` epochs.

    `base`: the surface of the runs without repeats, `fitted` what rests on it; None with the reason in `why`, and the runs to `add`.
    """

    runs: pd.DataFrame
    repeating: int
    most: float
    base: Fit | None
    fitted: RepetitionFit | None
    why: str
    add: str


def repeats(results: Results) -> Repeats | None:
    """The law of repeated data; None where no run repeats."""
    runs = study_runs.select(results.runs, LOSS, STAGES).runs.dropna(subset=["train_tokens", "unique_tokens"])
    epochs = runs["train_tokens"] / runs["unique_tokens"]
    again = int((epochs > ONE_EPOCH).sum())
    if not again:
        return None
    once = runs[(epochs <= ONE_EPOCH) & runs["stage"].isin(study_runs.STAGES)]
    base, why = _base(once)
    if base is None or why:
        add = "token budgets below one epoch, three or more at three sizes or more"
        return Repeats(runs, again, float(epochs.max()), base, None, why, add)
    # Those without repeats are in the base law: there a large model's parameters all count.
    found = fit_repetition(runs[epochs > ONE_EPOCH], base.law, LOSS, DRAWS, laws=base.laws)
    add = "" if found.status == "converged" else "runs at further numbers of epochs, at sizes on both sides of the one that the texts suit"
    return Repeats(runs, again, float(epochs.max()), base, found, "" if found.status == "converged" else found.reason, add)


def _base(once: pd.DataFrame) -> tuple[Fit | None, str]:
    """The surface of the runs that saw each text at most once, and why it can't be relied on."""
    if once.empty:
        return None, "it rests on a law of runs without repeats, and there are none"
    fitted = fit_one(once, "log-Huber", n_draws=DRAWS)
    if fitted.status == "converged":
        return fitted, ""
    return None, f"it rests on a law of runs without repeats, and the {plural(len(once), 'such run')} allow none ({fitted.reason})"
