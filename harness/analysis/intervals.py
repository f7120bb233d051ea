"""Confidence intervals of a mean over few values, such as the test NLL of a rung over its seeds.

Values go in, an interval comes out. One value has a mean and no interval: its bounds are NaN, never zero width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

Values = Sequence[float] | np.ndarray | pd.Series


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence bounds; `low` and `high` are NaN when one value says nothing about the spread."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width: the number after a plus-minus sign."""
        return (self.high - self.low) / 2


def mean_interval(values: Values, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values.

    Raises:
        ValueError: no values, or one that is not finite. Leaving a value out is the caller's decision, to be reported.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("mean_interval: no values; a mean needs at least one")
    if not np.isfinite(x).all():
        raise ValueError(f"mean_interval: {np.sum(~np.isfinite(x))} of {x.size} values are not finite; exclude them by name first")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)
