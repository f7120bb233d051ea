"""The error that a learning rate which isn't quite the best brings to a rung's loss, as fits carry it.

Optima of the searches and a table with a row a run go in; the table with a column more comes out, and from it the error that all runs of
a rung share. A fit shakes the losses by it, so that intervals hold what the searches left open.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from harness.analysis.bootstrap import Shared
from harness.analysis.learning_rate import Optimum

COLUMN = "rate_error"
# The cost of a rate grows with the square of its distance d from the best. Were d normal and an interval's ends at 1.96 of its standard
# deviations, the root of the mean square of the cost is this share of the cost at an end: sqrt(E[d^4]) = sqrt(3) sd^2.
AT_END = np.sqrt(3) / 1.96**2

SharedOf = Callable[[pd.DataFrame], Shared]


def rate_error(best: Optimum) -> float:
    """Root of the mean square of what a rung's rate costs over the best one, in nats a token; 0 where its search gave no interval.

    Where an interval reaches past the last rate that trained, what that end costs is not known, and the other end stands for both.
    """
    costs = np.array([best.cost_at(lr) for lr in (best.fitted_low, best.fitted_high)])
    known = costs[np.isfinite(costs)]
    return float(known.mean() * AT_END) if known.size else 0.0


def with_rate_error(runs: pd.DataFrame, optima: Mapping[str, Optimum]) -> pd.DataFrame:
    """The runs with the error of their rung's rate as column `rate_error`; 0 for rungs without an optimum."""
    errors = {rung: rate_error(best) for rung, best in optima.items()}
    return runs.assign(**{COLUMN: runs["rung"].map(errors).fillna(0.0).astype(float)})


def shared_by_rung(runs: pd.DataFrame) -> Shared:
    """The error that runs of one rung share, for a fit of these runs (columns rung and rate_error)."""
    return Shared(runs["rung"].to_numpy(), runs[COLUMN].to_numpy(float))
