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


def welch(a: Values, b: Values, level: float = 0.95) -> Interval:
    """Welch's t interval of mean(b) - mean(a), of independent values with their own spreads; `n` is the smaller count.

    Without a second value on either side there is no interval. Source: Welch (1947),
    Biometrika 34, with Satterthwaite's degrees of freedom.

    Raises:
        ValueError: as `mean_interval`.
    """
    one, other = mean_interval(a, level), mean_interval(b, level)
    difference, n = other.mean - one.mean, min(one.n, other.n)
    if n == 1:
        return Interval(difference, np.nan, np.nan, n)
    squares = [float(np.var(np.asarray(x, dtype=float), ddof=1)) / len(x) for x in (a, b)]
    total = sum(squares)
    if total == 0:
        return Interval(difference, difference, difference, n)
    freedom = total**2 / sum(square**2 / (len(x) - 1) for square, x in zip(squares, (a, b), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total))
    return Interval(difference, difference - half, difference + half, n)


def difference(a: Interval, b: Interval) -> Interval:
    """The interval of b - a from the intervals of two independent estimates, which need not be symmetric (all of one level).

    The distances from estimate to bound add in squares, each on its own side. Source: Zou and Donner (2008), Statistics in Medicine 27
    (MOVER). NaN where an estimate has no interval.
    """
    low = np.hypot(b.mean - b.low, a.high - a.mean)
    high = np.hypot(b.high - b.mean, a.mean - a.low)
    middle = b.mean - a.mean
    return Interval(middle, float(middle - low), float(middle + high), min(a.n, b.n))
