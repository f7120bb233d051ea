"""How far equal runs with different seeds lie apart: the unit in which any difference of losses should be read.

A table with a row a run goes in. Three seeds say little of their own spread, so it is pooled over rungs, in proportion to the loss, with
its interval; the rungs stand beside, so that one sees whether it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.analysis.intervals import Values

LEAST_RUNGS = 2
LEAST_SEEDS = 3


@dataclass(frozen=True, eq=False)
class SeedNoise:
    """`relative`: standard deviation of log loss over seeds, pooled, with its chi-square interval; NaN where no rung has two seeds.

    `table`: a row a rung with runs, mean, sd and relative sd. `warning`: too few seeds or rungs to rely on it, else empty.
    """

    relative: float
    low: float
    high: float
    dof: int
    table: pd.DataFrame
    warning: str

    def sigma(self, loss: Values) -> np.ndarray:
        """The standard deviation of each run's loss, in its units: what `sigma` of a fit wants."""
        return self.relative * np.asarray(loss, float)


def seed_noise(runs: pd.DataFrame, by: Sequence[str], loss: str = "test_loss", level: float = 0.95) -> SeedNoise:
    """Pooled spread over seeds.

    Args:
        runs: a row a run; those equal in all columns `by` (such as rung and `budget` of `study_runs`) differ in their seed only.
    """
    logs = runs.assign(log_loss=np.log(runs[loss].to_numpy(float)))
    groups = logs.groupby(list(by), sort=True)
    table = groups.agg(runs=(loss, "size"), mean=(loss, "mean"), sd=(loss, "std"), relative=("log_loss", "std")).reset_index()
    repeated = table[table["runs"] > 1]
    dof = int((repeated["runs"] - 1).sum())
    enough = int((table["runs"] >= LEAST_SEEDS).sum())
    warning = "" if enough >= LEAST_RUNGS else f"{enough} rungs have {LEAST_SEEDS} seeds or more; seed noise needs {LEAST_RUNGS} such rungs"
    if not dof:
        nan = float("nan")
        return SeedNoise(nan, nan, nan, 0, table, warning)
    total = float(((repeated["runs"] - 1) * repeated["relative"] ** 2).sum())
    low, high = (float(np.sqrt(total / stats.chi2.ppf(p, dof))) for p in ((1 + level) / 2, (1 - level) / 2))
    return SeedNoise(float(np.sqrt(total / dof)), low, high, dof, table, warning)
